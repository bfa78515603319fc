// Binary trees: log2(P) latencies. A tree of one sort suits short messages and broadcasts; two trees, each on half of the
// vector, so arranged that a rank is a leaf in one of them, keep both directions of every link busy with long ones.
//
// Tree of ranks 0 .. P-1, root 0: the parent of r flips the lowest set bit of r and sets the one above it, where that is a
// rank, and only flips it otherwise; so children lie on either side of their parent, and sums keep the order of the ranks.
// Source: Sanders, Speck and Traff 2009, "Two-tree algorithms for full bandwidth broadcast, reduction and scan".
#pragma once
#include <bit>
#include <smalti/comm/schedule.hpp>

namespace smalti::inline SMALTI_CODE::comm {

namespace detail {

struct tree_node {
  int parent = -1, children[2] = {-1, -1};
};

constexpr int tree_parent(int r, int ranks) {
  if (r == 0) return -1;
  const int bit = r & -r, up = (r ^ bit) | bit << 1;
  return up >= ranks ? r ^ bit : up;
}
constexpr tree_node tree_at(int r, int ranks) {
  tree_node n{tree_parent(r, ranks)};
  if (r == 0) {
    if (ranks > 1) n.children[1] = int(std::bit_floor(unsigned(ranks - 1)));
    return n;
  }
  int low = (r & -r) >> 1;
  if (low == 0) return n;
  n.children[0] = r - low;
  while (low > 0 && r + low >= ranks) low >>= 1;
  if (low > 0) n.children[1] = r + low;
  return n;
}
constexpr int tree_depth(int r, int ranks) {
  int depth = 0;
  for (; r != 0; r = tree_parent(r, ranks)) ++depth;
  return depth;
}
constexpr int log2_up(int n) { return std::bit_width(unsigned(n - 1)); }

// Where a rank stands in one tree: the tree's node is (rank - shift) mod P, or that from behind.
struct tree_place {
  int ranks, shift;
  bool mirrored;
  constexpr int node(int rank) const {
    const int n = around(rank - shift, ranks);
    return mirrored ? ranks - 1 - n : n;
  }
  constexpr int rank(int node) const { return node < 0 ? -1 : around((mirrored ? ranks - 1 - node : node) + shift, ranks); }
  constexpr tree_node at(int r) const {
    tree_node n = tree_at(node(r), ranks);
    n.parent = rank(n.parent);
    for (int& c : n.children) c = rank(c);
    return n;
  }
  constexpr int depth(int r) const { return tree_depth(node(r), ranks); }
};

// One tree's share of a step, on its pieces [first, first + pieces). The height is counted from the deepest leaf: a rank at
// height h sends piece p up in step p + h and takes it from its children in the step before; the root has height H and
// sends results down from step p + H on.
struct tree_walk {
  tree_place tree;
  int first, pieces, slot;
  bool up, down;

  constexpr int height() const { return log2_up(tree.ranks); }
  constexpr int steps() const {
    const int h = height();
    return h == 0 ? 1 : pieces - 1 + (up ? h : 0) + (down ? h : 0);
  }
  constexpr bool has(int piece) const { return piece >= 0 && piece < pieces; }

  void send(int rank, int step, action_list& out) const {
    const tree_node n = tree.at(rank);
    const int depth = tree.depth(rank), h = height() - depth;
    if (up && n.parent >= 0 && has(step - h)) {
      const bool leaf = n.children[0] < 0 && n.children[1] < 0;
      out.send(n.parent, leaf ? input_slot : slot, {first + step - h}, leaf ? content::input : content::partial);
    }
    const int piece = step - (up ? height() : 0) - depth;
    if (down && has(piece))
      for (const int c : n.children)
        if (c >= 0) out.send(c, output_slot, {first + piece}, up ? content::result : content::input);
  }
  void recv(int rank, int step, action_list& out) const {
    const tree_node n = tree.at(rank);
    const int depth = tree.depth(rank), h = height() - depth;
    if (up && h > 0 && has(step - h + 1)) {
      const chunk_range chunk{first + step - h + 1};
      int with = input_slot;
      for (const int c : n.children)
        if (c >= 0) {
          const tree_node child = tree.at(c);
          const bool leaf = child.children[0] < 0 && child.children[1] < 0;
          out.recv_combine(c, slot, with, chunk, leaf ? content::input : content::partial, c < rank ? side::incoming_first : side::here_first);
          with = slot;
        }
      if (depth == 0) out.finish(output_slot, slot, chunk);
    }
    const int piece = step - (up ? height() : 0) - depth + 1;
    if (down && depth > 0 && has(piece)) out.recv(n.parent, output_slot, {first + piece}, up ? content::result : content::input);
  }
};

}  // namespace detail

//! One binary tree: all_reduce (up and down), reduce (up), broadcast (down).
//! Cost: pieces - 1 + log2(P) steps each way; an inner rank takes two messages a step, so long vectors go at half bandwidth.
//! Order: fixed_tree, the same for every item; of a root 0 it keeps the order of the ranks.
struct binary_tree : schedule_base {
  explicit constexpr binary_tree(int ranks, collective kind = collective::all_reduce, int pieces = 1, int root = 0)
      : schedule_base{kind, ranks, 1, pieces, root} {}

  constexpr int steps() const { return walk().steps(); }
  void step(int rank, int step, action_list& out) const {
    const chunk_range all{0, pieces};
    if (ranks == 1 && reduces(kind)) {
      out.copy(first_scratch, input_slot, all);
      out.finish(output_slot, first_scratch, all);
    }
    if (kind == collective::broadcast && step == 0 && rank == root) out.copy(output_slot, input_slot, all);
    if (ranks == 1) return;
    walk().send(rank, step, out);
    walk().recv(rank, step, out);
  }
  constexpr int scratch_slots() const { return reduces(kind) ? 1 : 0; }
  constexpr scratch_room scratch(int, int) const { return ranks == 1 ? scratch_room{{0, pieces}} : scratch_room{{0, 2}, true}; }
  constexpr schedule_promise promise() const {
    return {reduces(kind) ? combine_order::fixed_tree : combine_order::none};
  }
  constexpr status check() const {
    if (kind != collective::all_reduce && kind != collective::reduce && kind != collective::broadcast)
      return {errc::bad_value, "binary_tree: kind must be all_reduce, reduce or broadcast"};
    return check_base();
  }

 private:
  constexpr detail::tree_walk walk() const {
    return {{ranks, root, false}, 0, pieces, first_scratch, kind != collective::broadcast, kind != collective::reduce};
  }
};

//! Two binary trees, each for half of the vector: full bandwidth at log2(P) latencies. With an even P no rank is an inner node
//! of both; with an odd P one is.
//! Cost: pieces - 1 + 2 log2(P) steps of N / (2 pieces).
//! Order: by_chunk; the two halves have different trees.
struct double_binary_tree : schedule_base {
  explicit constexpr double_binary_tree(int ranks, collective kind = collective::all_reduce, int pieces = 1)
      : schedule_base{kind, ranks, 2, pieces, 0} {}

  constexpr int steps() const { return walk(0).steps(); }
  void step(int rank, int step, action_list& out) const {
    if (ranks == 1) {
      out.copy(first_scratch, input_slot, {0, chunks()});
      out.finish(output_slot, first_scratch, {0, chunks()});
      return;
    }
    for (int k = 0; k < 2; ++k) walk(k).send(rank, step, out);
    for (int k = 0; k < 2; ++k) walk(k).recv(rank, step, out);
  }
  constexpr int scratch_slots() const { return 2; }
  constexpr scratch_room scratch(int, int slot) const {
    return ranks == 1 ? scratch_room{{0, slot == first_scratch ? chunks() : 0}} : scratch_room{{0, 2}, true};
  }
  constexpr schedule_promise promise() const { return {combine_order::by_chunk}; }
  constexpr status check() const {
    if (kind != collective::all_reduce) return {errc::bad_value, "double_binary_tree: kind must be all_reduce: its two trees have different roots"};
    return check_base();
  }

 private:
  constexpr detail::tree_walk walk(int k) const {
    const detail::tree_place place = k == 0 ? detail::tree_place{ranks, 0, false} : ranks % 2 == 0 ? detail::tree_place{ranks, 0, true} : detail::tree_place{ranks, 1, false};
    return {place, k * pieces, pieces, first_scratch + k, true, true};
  }
};

}  // namespace smalti::inline SMALTI_CODE::comm
