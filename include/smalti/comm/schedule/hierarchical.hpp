// Schedules made of schedules: P = G M ranks in M groups of G neighbours (nodes, say); rank = group * G + place. An inner
// schedule runs in each group, an outer one among the ranks of equal place, one of each group: all G at once, each on its own
// share, so that what crosses between groups is 1/G of what a flat ring sends there.
//
//     all_reduce       inner reduce_scatter, outer all_reduce on the share, inner all_gather
//     reduce_scatter   inner, then outer            all_gather   outer, then inner
//     all_to_all       inner (blocks go to the place they are for), then outer (to the group)
//
// Parts are owned in flat rank order, whatever the nesting: a share is then every G-th part, sent as one message. Only for
// all_reduce, where nobody owns parts, are shares contiguous.
//
// compose nests: compose(direct, compose(direct, ring)) has three levels (die pair, node, cluster: the levels of "Scaling Large
// Language Model Training on Frontier with Low-Bandwidth Partitioning"). nvrar is direct and recursive doubling: the
// schedule of that all-reduce for decoding, not its one-sided transport.
#pragma once
#include <smalti/comm/schedule/direct.hpp>
#include <smalti/comm/schedule/doubling.hpp>

namespace smalti::inline SMALTI_CODE::comm {

namespace detail {

// How a schedule of few ranks becomes part of one of many: its rank i is rank_base + i rank_step; its chunk c becomes the
// chunks base + c part_step + k fan_step for k < fan; its slots are renamed.
struct embedding {
  action_list* out;
  int rank_base, rank_step;
  int base, part_step, fan, fan_step;
  int input, output, scratch;          // names of its slots; its scratch slots begin at `scratch`
  bool partial_input = false;          // its input is sums already
  bool result_input = false;           // its input is finished items already
  bool keeps_sum = false;              // its finish is left out: the sum stays in its first scratch slot
  bool input_is_output = false;        // a copy from its input to its output has nothing to do
  std::uint32_t rolling = 0;           // bit i: slot i of the whole is a rolling one

  constexpr int slot(int s) const { return s == input_slot ? input : s == output_slot ? output : s - first_scratch + scratch; }
  constexpr bool rolls(int s) const { return s >= first_scratch && (s >= first_scratch + 32 || rolling >> (s - first_scratch) & 1); }
  // The chunks as one range, where that is what they are.
  constexpr bool contiguous(int count) const { return fan_step == 1 ? count == 1 || part_step == fan : fan == 1 && (count == 1 || part_step == 1); }

  static void through(void* self, const action& a) { static_cast<embedding*>(self)->emit(a); }
  void emit(action a) {
    if (keeps_sum && a.does == verb::finish) return;
    if (input_is_output && a.does == verb::copy && a.slot == output_slot && a.with == input_slot) return;
    if (a.what == content::input && (a.does == verb::send || receives(a.does))) {
      if (partial_input) a.what = content::partial;
      if (result_input) a.what = content::result;
    }
    if (a.peer >= 0) a.peer = rank_base + a.peer * rank_step;
    const bool pair = a.does == verb::recv_combine || a.does == verb::combine || a.does == verb::finish || a.does == verb::copy;
    a.slot = std::uint16_t(slot(a.slot));
    if (pair) a.with = std::uint16_t(slot(a.with));
    const chunk_range local = a.chunks;
    const int from = a.from;
    const bool single = rolls(a.slot) || (pair && rolls(a.with));
    if (!single && contiguous(local.count)) {
      a.chunks = {base + local.first * part_step, local.count * fan};
      a.from = base + from * part_step;
      return out->add(a);
    }
    const bool message = a.does == verb::send || receives(a.does);
    const int width = !single && fan_step == 1 ? fan : 1;
    for (int c = 0; c < local.count; ++c)
      for (int k = 0; k < fan; k += width) {
        action b = a;
        b.chunks = {base + (local.first + c) * part_step + k * fan_step, width};
        b.from = base + (from + c) * part_step + k * fan_step;
        b.joined = a.joined || (message && (c > 0 || k > 0));
        out->add(b);
      }
  }
};

}  // namespace detail

//! @tparam Inner  runs in each group: reduce_scatter, all_gather or all_to_all
//! @tparam Outer  runs across groups, on 1/G of the vector: the kind of the whole; another compose makes a third level
//! Order: of Outer's trees over Inner's; fixed_tree where both are the same for every item. The bits then depend on P and
//! on G, not on the length, the bucket or the transport.
template <schedule Inner, schedule Outer> struct compose : schedule_base {
  Inner inner, last;   //!< last: the all_gather that ends an all_reduce
  Outer outer;

  //! @param inner  made for the G ranks of a group: of kind reduce_scatter for an all_reduce, else of the kind of the whole
  //! @param outer  made for the M groups
  //! @param last   for an all_reduce: the group's all_gather
  constexpr compose(Inner inner, Outer outer, Inner last)
      : schedule_base{outer.kind, inner.ranks * outer.ranks,
                      outer.kind == collective::all_reduce ? inner.ranks : inner.ranks * outer.ranks,
                      outer.kind == collective::all_reduce ? outer.parts * outer.pieces : 1, 0},
        inner(inner), last(last), outer(outer) {}
  constexpr compose(Inner inner, Outer outer) : compose(inner, outer, inner) {}

  constexpr int steps() const { return inner.steps() + outer.steps() + (kind == collective::all_reduce ? last.steps() : 0); }
  void step(int rank, int step, action_list& out) const {
    const int a = kind == collective::all_gather ? outer.steps() : inner.steps();
    const int b = a + (kind == collective::all_gather ? inner.steps() : outer.steps());
    const bool in_group = (step < a) != (kind == collective::all_gather) && step < b;
    if (step >= b) embed(last, last_map(rank, out), place(rank), step - b);
    else if (in_group) embed(inner, inner_map(rank, out), place(rank), step < a ? step : step - a);
    else embed(outer, outer_map(rank, out), group(rank), step < a ? step : step - a);
  }
  constexpr int scratch_slots() const { return inner.scratch_slots() + outer.scratch_slots() + (kind == collective::all_to_all ? 1 : 0); }
  constexpr scratch_room scratch(int rank, int slot) const {
    const int i = slot - first_scratch;
    if (i < inner.scratch_slots()) return widened(inner.scratch(place(rank), slot), inner_shape());
    if (i < inner.scratch_slots() + outer.scratch_slots())
      return widened(outer.scratch(group(rank), slot - inner.scratch_slots()), outer_shape(place(rank)));
    return {{0, chunks()}};
  }
  constexpr schedule_promise promise() const {
    const schedule_promise i = inner.promise(), o = outer.promise();
    const bool fixed = i.order != combine_order::by_chunk && o.order != combine_order::by_chunk;
    // One level of one rank leaves the other's trees as they are.
    const combine_order order = !reduces(kind) ? combine_order::none : !fixed ? combine_order::by_chunk
        : inner.ranks == 1 ? o.order : outer.ranks == 1 ? i.order : combine_order::fixed_tree;
    return {order, i.in_place && o.in_place, kind == collective::all_to_all ? false : i.ragged && o.ragged, i.one_owner && o.one_owner};
  }
  constexpr status check() const {
    if (status s = check_base(); !s) return s;
    if (status s = inner.check(); !s) return s;
    if (status s = outer.check(); !s) return s;
    if (status s = last.check(); !s) return s;
    const bool all = kind == collective::all_reduce;
    if (!all && kind != collective::reduce_scatter && kind != collective::all_gather && kind != collective::all_to_all)
      return {errc::bad_value, "compose: kind must be all_reduce, reduce_scatter, all_gather or all_to_all"};
    if (inner.kind != (all ? collective::reduce_scatter : kind)) return {errc::bad_value, "compose: inner must be a reduce_scatter for an all_reduce, else of the kind of the whole"};
    if (all && last.kind != collective::all_gather) return {errc::bad_value, "compose: last must be an all_gather"};
    if (inner.ranks != last.ranks) return {errc::bad_shape, "compose: inner and last must have the same ranks", last.ranks, inner.ranks};
    if (inner.parts != inner.ranks || inner.pieces != 1 || last.parts != last.ranks || last.pieces != 1)
      return {errc::bad_shape, "compose: inner must have one part a rank, in one piece", inner.parts * inner.pieces, inner.ranks};
    if (!all && (outer.parts != outer.ranks || outer.pieces != 1)) return {errc::bad_shape, "compose: outer must have one part a rank, in one piece", outer.parts * outer.pieces, outer.ranks};
    if (scratch_slots() > 32) return {errc::bad_shape, "compose: too many scratch slots: take rank_fold instead of rank_tree", scratch_slots(), 32};
    return {};
  }

  constexpr int place(int rank) const { return rank % inner.ranks; }
  constexpr int group(int rank) const { return rank / inner.ranks; }

 private:
  struct shape { int base, part_step, fan, fan_step; };
  constexpr shape inner_shape() const {
    return kind == collective::all_reduce ? shape{0, pieces, pieces, 1} : shape{0, 1, outer.ranks, inner.ranks};
  }
  constexpr shape outer_shape(int place) const {
    return kind == collective::all_reduce ? shape{place * pieces, 1, 1, 1}
         : kind == collective::all_to_all ? shape{0, inner.ranks, inner.ranks, 1} : shape{place, inner.ranks, 1, 1};
  }
  // The room of an embedded scratch slot. A window of chunks that lie apart becomes a rolling one with a place for each.
  constexpr scratch_room widened(scratch_room room, shape s) const {
    const int n = room.chunks.count;
    if (n == 0) return {};
    const bool dense = s.fan_step == 1 ? n == 1 || s.part_step == s.fan : s.fan == 1 && (n == 1 || s.part_step == 1);
    if (!room.rolling && dense) return {{s.base + room.chunks.first * s.part_step, n * s.fan}};
    if (!room.rolling && n == 1) return {{0, s.fan}, true, s.fan_step};                    // parts p, p + G, p + 2G, ...
    if (room.rolling && room.stride == 1 && s.fan_step == 1 && s.part_step == s.fan && s.base % (n * s.fan) == 0) return {{0, n * s.fan}, true};
    if (room.rolling && s.fan == 1) return {{0, n}, true, room.stride * s.part_step};
    return {{0, chunks()}, true};
  }
  constexpr std::uint32_t rolling(int rank) const {
    std::uint32_t bits = 0;
    for (int i = 0; i < scratch_slots() && i < 32; ++i) bits |= std::uint32_t(scratch(rank, first_scratch + i).rolling) << i;
    return bits;
  }
  constexpr detail::embedding mapped(action_list& out, shape s, int rank_base, int rank_step, int rank) const {
    detail::embedding e{};
    e.out = &out;
    e.rank_base = rank_base, e.rank_step = rank_step;
    e.base = s.base, e.part_step = s.part_step, e.fan = s.fan, e.fan_step = s.fan_step;
    e.input = input_slot, e.output = output_slot, e.scratch = first_scratch;
    e.rolling = rolling(rank);
    return e;
  }
  constexpr detail::embedding inner_map(int rank, action_list& out) const {
    detail::embedding e = mapped(out, inner_shape(), group(rank) * inner.ranks, 1, rank);
    e.keeps_sum = reduces(kind);
    if (kind == collective::all_gather) e.input = output_slot, e.input_is_output = true;
    if (kind == collective::all_to_all) e.output = first_scratch + inner.scratch_slots() + outer.scratch_slots();
    return e;
  }
  constexpr detail::embedding outer_map(int rank, action_list& out) const {
    detail::embedding e = mapped(out, outer_shape(place(rank)), place(rank), inner.ranks, rank);
    e.scratch = first_scratch + inner.scratch_slots();
    if (reduces(kind)) e.input = first_scratch, e.partial_input = true;
    if (kind == collective::all_to_all) e.input = first_scratch + inner.scratch_slots() + outer.scratch_slots();
    return e;
  }
  constexpr detail::embedding last_map(int rank, action_list& out) const {
    detail::embedding e = mapped(out, inner_shape(), group(rank) * inner.ranks, 1, rank);
    e.input = output_slot, e.input_is_output = true, e.result_input = true;
    return e;
  }
  template <class Part> static void embed(const Part& part, detail::embedding map, int rank, int step) {
    action_list list(&map, &detail::embedding::through);
    part.step(rank, step, list);
  }
};

//! NVRAR: direct reduce-scatter in the node, recursive doubling across nodes on the shares, direct all-gather in the node.
//!     2 (alpha_in + (G-1)/G S beta_in) + log2(M) (alpha_out + S/G beta_out)
//! For 100 KB to a few MB over nodes, where a ring's 2(P-1) latencies count most. @pre ranks == groups * group
constexpr auto nvrar(int group, int groups) {
  return compose(direct(group, collective::reduce_scatter), recursive_doubling(groups), direct(group, collective::all_gather));
}

//! Two levels, each direct: all_reduce, reduce_scatter, all_gather or the 2-D all_to_all.
constexpr auto two_level(int group, int groups, collective kind = collective::all_reduce) {
  const bool all = kind == collective::all_reduce;
  return compose(direct(group, all ? collective::reduce_scatter : kind), direct(groups, kind), direct(group, all ? collective::all_gather : kind));
}

//! Three levels, each direct: `pair` ranks share the fastest link, `pairs` of them a node, `nodes` the cluster.
constexpr auto three_level(int pair, int pairs, int nodes, collective kind = collective::all_reduce) {
  const bool all = kind == collective::all_reduce;
  return compose(direct(pair, all ? collective::reduce_scatter : kind), two_level(pairs, nodes, kind), direct(pair, all ? collective::all_gather : kind));
}

}  // namespace smalti::inline SMALTI_CODE::comm
