// Branches that do not see each other, as column intervals (policy/masks/columns.hpp) and positions: texts with parallel
// paths (Multiverse), and sequences packed as a trie of shared beginnings (ThreadWeaver). Host functions that fill tables.
#pragma once
#include <smalti/core/status.hpp>
#include <smalti/policy/masks/columns.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! Tokens [first, last) of a text are one path of a parallel block. Paths of one block follow each other without a gap; a path
//! may hold blocks of its own, one deeper. Give paths in the order of `first`, an outer path before those inside it.
struct parallel_path {
  int first, last;
  int depth;                 //!< 0: not inside another path
};

//! Column intervals and positions of a text with parallel paths: Multiverse attention (Yang et al. 2025, arXiv:2506.09991).
//! Query i sees key j <= i unless a block has them in different paths. All paths of a block begin at the position after the
//! token before the block; what follows a block goes on one after the furthest of its paths.
//! begin and end: `depths` rows of `stride` entries: interval d of key j is [end of its path of depth d, end of that block).
//! position: one entry a token. Use them as column_interval<depths, causal>; paths of depth >= depths are refused.
//! @note O(tokens * (1 + paths)), on the host
inline status fill_parallel_paths(int tokens, const parallel_path* paths, int count, int depths, int stride, int* begin, int* end, int* position) {
  for (int d = 0; d < depths; ++d)
    for (int j = 0; j < tokens; ++j) begin[d * static_cast<long long>(stride) + j] = end[d * static_cast<long long>(stride) + j] = 0;
  for (int p = 0; p < count; ++p) {
    const parallel_path& x = paths[p];
    if (x.first < 0 || x.last > tokens || x.first >= x.last) return {errc::bad_value, "parallel_path: first < last, both within the text", x.first, x.last};
    if (x.depth < 0 || x.depth >= depths) return {errc::bad_value, "parallel_path.depth must be below the number of intervals", x.depth, depths};
    if (p > 0 && x.first < paths[p - 1].first) return {errc::bad_value, "parallel_path: paths stand in the order of their first token", x.first, paths[p - 1].first};
    if (p > 0 && x.depth > 0) {
      int outer = p - 1;
      while (outer >= 0 && paths[outer].depth >= x.depth) --outer;
      if (outer < 0 || paths[outer].depth != x.depth - 1 || x.last > paths[outer].last) return {errc::bad_value, "parallel_path: a path lies inside one path that is one less deep", x.depth, 0};
    }
    int last = x.last;                                          // of the block: its later paths follow without a gap
    for (int n = p + 1; n < count; ++n)
      if (paths[n].depth == x.depth && paths[n].first == last) last = paths[n].last;
    for (int j = x.first; j < x.last; ++j) {
      begin[x.depth * static_cast<long long>(stride) + j] = x.last;
      end[x.depth * static_cast<long long>(stride) + j] = last;
    }
  }
  // A token goes on after its predecessor, but the first of a later path where its block began, and what follows a block after
  // the furthest token of its paths. Where blocks of several depths end at once, the outermost decides.
  for (int j = 0; j < tokens; ++j) {
    position[j] = j == 0 ? 0 : position[j - 1] + 1;
    int ended = -1;
    for (int p = 0; p < count; ++p)
      if (paths[p].last == j && (ended < 0 || paths[p].depth < paths[ended].depth)) ended = p;
    if (ended < 0) continue;
    int start = paths[ended].first;
    for (int p = ended - 1; p >= 0; --p)
      if (paths[p].depth == paths[ended].depth && paths[p].last == start) start = paths[p].first;
    bool next = false;
    for (int p = ended + 1; p < count; ++p) next = next || (paths[p].first == j && paths[p].depth == paths[ended].depth);
    if (next) {
      position[j] = position[start];
    } else {
      for (int i = start; i < j; ++i) position[j] = position[i] + 1 > position[j] ? position[i] + 1 : position[j];
    }
  }
  return {};
}

//! Tokens [first, last) of a packed sequence continue those of node `parent` (-1: none). Nodes stand in preorder, parents
//! first, without gaps: a subtree is one range of tokens.
struct trie_node {
  int first, last;
  int parent;
};

//! Column intervals and positions of sequences packed as a trie: a token sees its ancestors and what precedes it in its node,
//! and its position is how many that are. Each packed sequence then computes what it would alone, its shared beginning once
//! (ThreadWeaver, Lian et al. 2025, arXiv:2512.07843). Interval of key j: [end of its node's subtree, tokens). Use them as
//! column_interval<1, causal>.
//! @note O(tokens + nodes), on the host
inline status fill_trie(int tokens, const trie_node* nodes, int count, int* begin, int* end, int* position) {
  int covered = 0;
  for (int n = 0; n < count; ++n) {
    const trie_node& x = nodes[n];
    if (x.first != covered || x.last <= x.first || x.last > tokens) return {errc::bad_value, "trie_node: nodes follow each other without gaps within the tokens", x.first, covered};
    if (x.parent >= n) return {errc::bad_value, "trie_node.parent must stand before its children", x.parent, n};
    covered = x.last;
    // Preorder: the parent is the node before, or an ancestor of it.
    int above = n - 1;
    while (above >= 0 && above != x.parent) above = nodes[above].parent;
    if (x.parent >= 0 && above != x.parent) return {errc::bad_value, "trie_node: nodes stand in preorder, so that a subtree is one range", x.parent, n};
    const int start = x.parent < 0 ? 0 : position[nodes[x.parent].last - 1] + 1;
    for (int j = x.first; j < x.last; ++j) {
      position[j] = start + (j - x.first);
      begin[j] = x.last;                       // grows with the subtree
      end[j] = tokens;
    }
    for (int a = x.parent; a >= 0; a = nodes[a].parent)
      for (int j = nodes[a].first; j < nodes[a].last; ++j) begin[j] = x.last;
  }
  if (covered != tokens) return {errc::bad_shape, "trie_node: the nodes must cover all tokens", covered, tokens};
  return {};
}

}  // namespace smalti::inline SMALTI_DATA::policy
