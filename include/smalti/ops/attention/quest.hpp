// Quest attention: the pages whose keys can score most, then attention over them, in one call. docs/ops/attention/quest.md.
#pragma once
#include <smalti/ops/attention.hpp>
#include <smalti/ops/attention/hip.hpp>
#include <smalti/ops/attention/select_quest.hpp>
#include <smalti/policy/padded_lists.hpp>

namespace smalti::inline SMALTI_CODE::attention {

//! Decode attention of each sequence's query rows to the `k` pages of Page tokens with the greatest bounds. k pages or more
//! in use: all of them, exact. The bounds are those of quest_bounds, kept beside the pages.
//! @tparam Page  tokens of a page, a multiple of 16
//! @note  reads 2 D elements a page and k Page keys and values for each list, instead of all
//! Everything else as attention::flash and attention::quest_select. Source: Tang et al. 2024, arXiv:2406.10774.
template <class T, int D, int Page = 16, class Options = options>
struct quest {
  using search = quest_select<T, D, Page>;
  using bounds = quest_bounds<T, D, Page>;
  using attend = flash<T, D, paged_kv<T, Page>, policy::causal, with_padded_lists<Options, Page, 1>>;
  static_assert(Options::value_dim == 0 || Options::value_dim == D, "smalti: quest's values are as wide as its keys");
  struct args {
    head_rows<const T> q = {};             //!< one row of each sequence
    paged_kv<T, Page> kv = {};
    page_bounds<const T> bounds = {};
    int k = 0;                        //!< pages that are attended
    head_rows<typename attend::out> o = {};
    head_rows<float> lse = {};
    float scale = 0;
    bool share_heads = true;
  };
  template <class Context> static status check(const Context& context, const args& x) {
    if (x.q.rows > 1) return {errc::bad_shape, "q: quest decodes one row of each sequence", x.q.rows, 1};
    if (x.k <= 0) return {errc::bad_value, "k must be positive: it counts the pages that are attended", x.k, 1};
    return first_of([&] { return search::check_search(context, search_of(x, nullptr)); }, [&] { return attend::check(context, attention_of(x, nullptr)); });
  }
  template <class Context> static std::size_t workspace_bytes(const Context& context, const args& x) { return lay_out(context, x, nullptr).bytes; }
  //! Starts both on the context; on the host they are done on return.
  template <class Context> static status run(const Context& context, const args& x, workspace memory = {}) {
    if (const status bad = first_of([&] { return check(context, x); }, [&] { return check_workspace(memory, workspace_bytes(context, x)); }); !bad) return bad;
    const plan p = lay_out(context, x, memory.data);
    if (const status bad = search::run(context, search_of(x, p.lists), p.rest); !bad) return bad;
    return attend::run(context, attention_of(x, p.lists), p.rest);
  }

private:
  struct plan {
    int* lists;
    workspace rest;                   // of the search, then of the attention
    std::size_t bytes;
  };
  static typename search::args search_of(const args& x, int* lists) {
    typename search::args s{.q = x.q, .kv = x.kv, .bounds = x.bounds, .k = x.k, .share_heads = x.share_heads};
    s.blocks = {lists, static_cast<int>(search::lists(s)), x.k, x.k};
    return s;
  }
  static typename attend::args attention_of(const args& x, const int* lists) {
    typename attend::args a{.q = x.q, .kv = x.kv, .o = x.o, .lse = x.lse, .scale = x.scale};
    const auto s = search_of(x, nullptr);
    a.blocks = {{lists, s.blocks.rows, s.blocks.cols, s.blocks.stride}, x.q.heads / search::heads_per_list(s), 1, true};
    return a;
  }
  template <class Context> static plan lay_out(const Context& context, const args& x, std::byte* base) {
    plan p{};
    if (x.k <= 0) return p;
    carver carve{base};
    const auto s = search_of(x, nullptr);
    p.lists = carve.take<int>(std::size_t(s.blocks.rows) * s.blocks.cols);
    const std::size_t a = search::workspace_bytes(context, s), b = attend::workspace_bytes(context, attention_of(x, nullptr)), rest = a > b ? a : b;
    p.rest = {carve.take<std::byte>(rest), rest};
    p.bytes = carve.used;
    return p;
  }
};

}  // namespace smalti::inline SMALTI_CODE::attention
