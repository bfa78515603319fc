// Quest attention: the pages whose keys can score most, then attention over them, in one call. docs/ops/attention/quest.md.
#pragma once
#include <smalti/ops/attention/searched.hpp>
#include <smalti/ops/attention/select_quest.hpp>

namespace smalti::inline SMALTI_CODE::attention {

//! Decode attention of each sequence's query rows to the `k` pages of Page tokens with the greatest bounds. k pages or more
//! in use: all of them, exact. The bounds are those of quest_bounds, kept beside the pages.
//! @tparam Page  tokens of a page, a multiple of 16
//! @note  reads 2 D elements a page and k Page keys and values for each list, instead of all
//! Everything else as attention::flash and attention::quest_select. Source: Tang et al. 2024, arXiv:2406.10774.
template <class T, int D, int Page = 16, class Options = options>
struct quest : searched<quest<T, D, Page, Options>> {
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

private:
  template <class System> friend struct searched;
  static status check_own(const args& x) {
    if (x.q.rows > 1) return {errc::bad_shape, "q: quest decodes one row of each sequence", x.q.rows, 1};
    if (x.k <= 0) return {errc::bad_value, "k must be positive: it counts the pages that are attended", x.k, 1};
    return {};
  }
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
};

}  // namespace smalti::inline SMALTI_CODE::attention
