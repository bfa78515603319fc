// HiP attention: search, then attention over the blocks that were found, in one call. docs/ops/attention/hip.md.
#pragma once
#include <smalti/ops/attention/searched.hpp>
#include <smalti/ops/attention/select_hip.hpp>

namespace smalti::inline SMALTI_CODE::attention {

//! Causal attention of each tile of Queries rows to the blocks of BlockKeys keys that hip_select finds for it, the first
//! `sink` keys, and the last `window` before it with its own. Sequences of up to (groups + 1) blocks: exact.
//!
//! @tparam Queries  rows that share a list: 64 in prefill, 1 in decode
//! @note  cost, in prefill: for each tile 2 groups log2(keys / (groups BlockKeys)) representatives keys searched, groups
//!        blocks attended, whatever the length
//! Everything else as attention::flash and attention::hip_select. Source: Lee et al. 2024, arXiv:2406.09827.
template <class T, int D, int BlockKeys = 64, int Queries = 64, class Kv = dense_kv<T>, class Options = options>
struct hip : searched<hip<T, D, BlockKeys, Queries, Kv, Options>> {
  using search = hip_select<T, D, Kv, Options::value_dim == 0 ? D : Options::value_dim>;
  using attend = flash<T, D, Kv, policy::causal, with_padded_lists<Options, BlockKeys, Queries>>;
  struct args {
    head_rows<const T> q = {};
    Kv kv = {};
    head_rows<typename attend::out> o = {};
    head_rows<float> lse = {};
    float scale = 0;
    int groups = 32;                  //!< blocks that are found: 2048 keys by default
    int sink = 0, window = 0;         //!< keys that are always attended; sink a multiple of BlockKeys
    bool share_heads = true;
    int query_stride = 0, representatives = 2;
  };

private:
  template <class System> friend struct searched;
  static status check_own(const args&) { return {}; }
  static tree_shape shape_of(const args& x) { return {Queries, BlockKeys, x.groups, x.sink, x.window, true}; }
  static typename search::args search_of(const args& x, int* lists) {
    typename search::args s{.q = x.q, .kv = x.kv, .shape = shape_of(x), .share_heads = x.share_heads, .query_stride = x.query_stride, .representatives = x.representatives};
    const int width = s.shape.width();
    s.blocks = {lists, static_cast<int>(search::lists(s)), width, width};
    return s;
  }
  static typename attend::args attention_of(const args& x, const int* lists) {
    typename attend::args a{.q = x.q, .kv = x.kv, .o = x.o, .lse = x.lse, .scale = x.scale};
    const auto s = search_of(x, nullptr);
    a.blocks = {{lists, s.blocks.rows, s.blocks.cols, s.blocks.stride}, x.q.heads / search::heads_per_list(s), ceil_div(x.q.rows, Queries), true};
    return a;
  }
};

}  // namespace smalti::inline SMALTI_CODE::attention
