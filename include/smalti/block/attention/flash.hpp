// The attention agent: forward, softmax over tiles of keys in base 2 (FlashAttention-2, arXiv:2307.08691), with split keys
// (FlashDecoding) and rows of several query heads in one tile (packed GQA). One block makes `m` query rows of one head,
// or of the group of heads that share a key head. Where keys live, what a query sees and how weights are made are policies.
#pragma once
#include <type_traits>
#include <smalti/block/attention/kv.hpp>
#include <smalti/block/attention/loaded_tiles.hpp>
#include <smalti/block/attention/rows.hpp>
#include <smalti/block/attention/score.hpp>
#include <smalti/block/attention/state.hpp>
#include <smalti/block/attention/tile_shape.hpp>
#include <smalti/core/float.hpp>
#include <smalti/policy/bind.hpp>
#include <smalti/policy/blocks.hpp>
#include <smalti/policy/chunks.hpp>
#include <smalti/policy/gate.hpp>
#include <smalti/policy/lse.hpp>
#include <smalti/policy/mask.hpp>
#include <smalti/policy/normalizer.hpp>
#include <smalti/policy/work_list.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/mutant.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::attention {

//! What the agent computes, as types. T: element of queries and of both products; D, ValueDim: elements of a key and of a
//! value; Lse: policy::lse_e<float> or lse_2<float>, the base of what is stored; Grouped: the rows of a block are those
//! of all heads of a group; Split: keys are split over blocks, and the last of them merges; Ragged: sequences have lengths
//! of their own.
template <class T, int D, int ValueDim, class Kv, class Out, class Mask, class Score, class Normalizer, class Lse, bool Grouped, bool Split,
          class Blocks = policy::all_blocks, bool Ragged = true, class Gate = policy::no_gate, class Work = policy::whole_grid>
struct flash_problem {
  using element = T;
  using gate = Gate;
  using work = Work;
  using source = Kv;
  using lse = Lse;
  using normalizer = Normalizer;
  using iterator = Blocks;
  static constexpr int d = D, value_dim = ValueDim;
  static constexpr bool grouped = Grouped, split = Split, ragged = Ragged;

  struct arguments {
    head_rows<const T> q;
    head_rows<Out> o;
    head_rows<float> lse;          //!< one column; null data: not wanted
    int heads_per_kv;              //!< query heads that share a key head
    int group;                     //!< of them, those whose rows share a block: heads_per_kv or 1, and 1 unless grouped
    float scale;                   //!< of the products, in natural units; positive where it is folded into the exponent
    Kv kv;
    Mask mask;
    Score score;
    Normalizer normalizer;
    int splits, split_tiles;       //!< split: parts of the keys, and tiles of each; the last has the rest too
    float* partial;                //!< split: the sums of every split of every tile
    view<float> stats;             //!< split: their largest exponents and sums of weights, two rows each
    int* arrived;                  //!< split: one counter for each block of rows, zero at launch
    Blocks blocks;
    typename Gate::template operand<head_rows> gate = {};
    Work work = {};                //!< listed: the parts of the keys, instead of splits
  };
};

template <attention_tuning Tuning, class Problem>
struct flash_agent {
  using arguments = typename Problem::arguments;
  using element = typename Problem::element;
  using normalizer = typename Problem::normalizer;
  using iterator = typename Problem::iterator;
  static constexpr int d = Problem::d, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  static constexpr bool grouped = Problem::grouped, split = Problem::split, keys_left = Tuning.keys_left, ragged = Problem::ragged, listed = iterator::listed, balanced = Problem::work::listed;
  static_assert(!balanced || (split && !listed), "smalti: a list of work is one of parts of all keys: options::split_kv and policy::all_blocks");
  static SMALTI_HD constexpr int iterator_height() {
    if constexpr (listed) return iterator::height;
    else return 0;
  }
  static constexpr int m = fitted<iterator>(Tuning, grouped).m, n = fitted<iterator>(Tuning, grouped).n, strips = fitted<iterator>(Tuning, grouped).strips;
  static_assert(!listed || grouped || iterator_height() % (m * strips) == 0, "smalti: the rows of a block must divide the height of block_lists: choose a smaller m in the tuning");
  static_assert(!keys_left || grouped, "smalti: keys on the left gather their query rows: only kernels of few rows do");
  static_assert(!keys_left || strips == 1, "smalti: keys on the left are for few rows: one strip");
  static constexpr int together = Tuning.joined && !keys_left ? Tuning.n / n : 1;   // blocks of a list under one step of softmax
  static constexpr int query_columns = round_up(m, 16);                    // of Q' where keys are on the left
  using key_chunks = policy::chunks<d, Tuning.chunk>;
  static constexpr int value_width = Tuning.value == 0 || Problem::value_dim <= Tuning.value ? Problem::value_dim : Tuning.value;
  static constexpr int value_parts = ceil_div(Problem::value_dim, value_width);
  using value_chunks = policy::chunks<value_width, Tuning.chunk>;
  arguments x;

  static SMALTI_HD constexpr int rows_of_block(const arguments& x) {
    if constexpr (listed && grouped) return iterator::height * x.group;
    else return m * strips;
  }
  static SMALTI_HD constexpr int tiles(const arguments& x) { return ceil_div(x.q.rows * (grouped ? x.group : 1), rows_of_block(x)); }
  static SMALTI_HD constexpr int heads(const arguments& x) { return grouped ? x.q.heads / x.group : x.q.heads; }
  static constexpr grid blocks(const arguments& x) {
    if constexpr (balanced) return {tiles(x) * value_parts, heads(x), x.work.workers};
    else return {tiles(x) * value_parts, heads(x), x.q.sequences * (split ? x.splits : 1)};
  }

  template <class Block> using state = attention_state<Block, m, value_chunks, normalizer::shifts>;

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    if constexpr (balanced) {
      // Not a loop of block.steps: there is nothing to pipeline from item to item, and on sm_90 the tile compiler makes two copies of such a body, which spill.
      const int last = x.work.begins[block.z() + 1];
      for (int w = x.work.begins[block.z()]; w < last; ++w) one_part(block, w);
    } else {
      one_part(block, block.z());
    }
  }

private:
  // Part `w` of the work: of a list, or of all sequences times all splits.
  template <class Block> SMALTI_HD void one_part(Block& block, int w) const {
    // ---- which rows, which keys
    const int i = value_parts > 1 ? block.x() % tiles(x) : block.x(), part = value_parts > 1 ? block.x() / tiles(x) : 0;
    const int sequence = sequence_of(w);
    const int head = grouped ? block.y() * x.group : block.y();   // the first, of a group
    const int kv_head = mutant(defect::key_of_wrong_head) ? head % x.heads_per_kv : head / x.heads_per_kv;
    const auto kv = x.kv.template at<ragged>(sequence, kv_head);
    const int length = kv.length(), queries = ragged ? x.q.length(sequence) : x.q.rows, all_rows = grouped ? queries * x.group : queries;
    const int first = i * rows_of_block(x), rows = listed && first + rows_of_block(x) < all_rows ? first + rows_of_block(x) : all_rows;
    if constexpr (ragged || grouped) {
      if (first >= rows) return;                    // this sequence has no such rows; a gather must have some
    }
    const policy::place here{sequence, head, queries, length};
    using mask_here = decltype(policy::bound(x.mask, here));
    using score_here = decltype(policy::bound(x.score, here));
    const head_scores<score_here, mask_here> plain{policy::bound(x.score, here), policy::bound(x.mask, here), x.scale * (mutant(defect::key_scale_forgotten) ? 1.0f : kv.k_scale), length};
    const row_scores<decltype(plain)> scores{plain, x.group};

    const float v_scale = mutant(defect::value_scale_forgotten) ? 1.0f : kv.v_scale;
    if constexpr (strips > 1 || together > 1) {
      several_strips(block, w, kv, scores, v_scale, sequence, head, part, i, first, rows);
    } else {
      // ---- the keys
      queries_of<Block> queries;
      state<Block> sums;
      begin(block, queries, sums, sequence, head, i, first, rows);
      if constexpr (listed) {
        const auto list = list_of(sequence, head, first, length);
        const tile_range places = places_of(w, list.count());
        for (int t : block.steps(places.begin, places.end)) step<true>(block, queries, kv, scores, sums, part, first, tile_of(list, t), tile_of(list, t + 1 < places.end ? t + 1 : t));
      } else {
        const tile_range keys = keys_of(w, plain.mask, first, rows, length);
        for (int j : block.steps(keys.begin, keys.whole_begin)) step<true>(block, queries, kv, scores, sums, part, first, j, j + 1);
        for (int j : block.steps(keys.whole_begin, keys.whole_end)) step<false>(block, queries, kv, scores, sums, part, first, j, j + 1);
        for (int j : block.steps(keys.whole_end, keys.end)) step<true>(block, queries, kv, scores, sums, part, first, j, j + 1);
      }
      // ---- their sums
      if constexpr (split) {
        sums.store(block, x.partial, x.stats, place_of(block, w, sequence, part, i));
        if (!last_to_arrive(block, w, sequence, part, i)) return;
        merge(block, w, sums, sequence, part, i, 0);
      }
      finish(block, sums, v_scale, sequence, head, part, i, first, rows);
    }
  }

  // ---- which part of a sequence's keys: of splits of one length, or from a list
  SMALTI_HD int sequence_of(int w) const {
    if constexpr (balanced) return x.work.items[w].sequence;
    else return split ? w / x.splits : w;
  }
  SMALTI_HD int part_of_keys(int w) const {
    if constexpr (balanced) return x.work.items[w].part;
    else return w % x.splits;
  }
  SMALTI_HD int parts_of_keys([[maybe_unused]] int w) const {
    if constexpr (balanced) return x.work.items[w].parts;
    else return x.splits;
  }

  // ---- tiles of keys of some rows: [begin, end), of which [whole_begin, whole_end) need no mask
  struct tile_range {
    int begin, whole_begin, whole_end, end;
    SMALTI_HD constexpr bool holds(int j) const { return begin <= j && j < end; }
    SMALTI_HD constexpr bool is_whole(int j) const { return whole_begin <= j && j < whole_end; }
  };
  static SMALTI_HD constexpr int between(int low, int v, int high) { return v < low ? low : v < high ? v : high; }
  static constexpr tile_range hull(const tile_range& a, const tile_range& b) {
    if (a.begin >= a.end) return b;
    if (b.begin >= b.end) return a;
    return {a.begin < b.begin ? a.begin : b.begin, 0, 0, a.end > b.end ? a.end : b.end};
  }
  //! The queries that the rows of a tile belong to.
  SMALTI_HD policy::span queries_at(int first, int rows) const {
    const int last = first + m < rows ? first + m : rows;
    return grouped ? policy::span{first / x.group, ceil_div(last, x.group)} : policy::span{first, last};
  }
  // One expression: a value returned from two places would live in memory.
  template <class Mask> SMALTI_HD tile_range keys_of([[maybe_unused]] int w, const Mask& mask, int first, int rows, int length) const {
    const policy::span q = queries_at(first, rows);
    const policy::span keys = mask.keys(q, length), whole = mask.whole(q, length);
    int begin = keys.first / n, end = mutant(defect::last_keys_dropped) ? keys.last / n : ceil_div(keys.last, n);
    if constexpr (balanced) {
      const int start = x.work.items[w].begin, stop = x.work.items[w].end, last = x.work.items[w].part + 1 == x.work.items[w].parts;
      end = last ? end : between(begin, stop, end);
      begin = between(begin, start, end);
    } else if constexpr (split && !listed) {
      const int number = w % x.splits, start = number * x.split_tiles;
      end = number + 1 < x.splits ? between(begin, start + x.split_tiles, end) : end;
      begin = between(begin, start, end);
    }
    const int from = ceil_div(whole.first, n), whole_begin = from <= begin ? begin : between(begin, from, end);   // from 0: no first loop
    return {begin, whole_begin, between(whole_begin, mutant(defect::partial_tile_taken_as_whole) ? ceil_div(whole.last, n) : whole.last / n, end), end};
  }

  // ---- lists of blocks, in places of one tile each
  static SMALTI_HD constexpr int tiles_of_block() {
    if constexpr (listed) return iterator::width / n;
    else return 1;
  }
  SMALTI_HD auto list_of(int sequence, int head, int first, int length) const {
    return policy::for_lengths(x.blocks, ragged ? x.q.length(sequence) : x.q.rows, length).at(sequence, head / (x.q.heads / x.blocks.heads), first / (grouped ? x.group : 1) / iterator::height);
  }
  template <class List> static SMALTI_HD int tile_of(const List& list, int t) { return list.block(t / tiles_of_block()) * tiles_of_block() + t % tiles_of_block(); }
  SMALTI_HD tile_range places_of([[maybe_unused]] int w, int blocks_in_list) const {
    const int end = blocks_in_list * tiles_of_block();
    if constexpr (split) {
      const int number = w % x.splits, from = between(0, number * x.split_tiles, end);
      return {from, 0, 0, number + 1 < x.splits ? between(from, from + x.split_tiles, end) : end};
    } else {
      return {0, 0, 0, end};
    }
  }

  // ---- strips: tiles of query rows and what becomes of them
  // At most 8 rows read each key and value once: numbers are used where they lie (codes are decoded into panels).
  static constexpr bool few = keys_left && m <= 8 && std::is_same_v<element, bf16>, streamed_keys = few && !requires { typename Problem::source::storage; };
  static constexpr bool streamed_values = [] {
    if constexpr (requires { Problem::source::plain_values; }) return few && Problem::source::plain_values;
    else return streamed_keys;
  }();
  template <class Block, bool Streamed> struct operands {
    template <int W> using keys = left<Block, element, n, W>;
    template <int W> using values = right<Block, element, n, W>;
  };
  template <class Block> struct operands<Block, true> {
    template <int W> using keys = streamed_left<Block, element, n, W>;
    template <int W> using values = streamed_right<Block, element, n, W>;
  };
  template <class Block> struct shapes {
    template <int W> using query_rows = left<Block, element, m, W>;
    template <int W> using query_columns = right<Block, element, W, flash_agent::query_columns>;
  };
  template <class Block> using query_rows_of = pieces<key_chunks, shapes<Block>::template query_rows>;
  template <class Block> using query_columns_of = pieces<key_chunks, shapes<Block>::template query_columns>;

  template <class Block> using queries_of = std::conditional_t<keys_left, query_columns_of<Block>, query_rows_of<Block>>;
  template <class Block> struct strip {
    queries_of<Block> queries;
    state<Block> sums;
    tile_range keys{};
  };

  template <class Block> SMALTI_HD void begin(Block& block, queries_of<Block>& queries, state<Block>& sums, int sequence, int head, int i, int first, int rows) const {
    sums.clear(block);
    if constexpr (keys_left) load_columns<0>(block, queries, sequence, head, first, rows);
    else load_rows<0>(block, queries, sequence, head, i, first, rows);
  }
  // Tiles of keys and values for all strips: what a source does to load them (gather, decode, turn) is done once.
  template <class Block, int Count> using loaded = loaded_tiles<Block, element, n, key_chunks, value_chunks, Count>;
  template <bool Clamped, int I, class Block, class P, class Head> SMALTI_HD void load_keys(Block& block, P& p, const Head& kv, int g, int j) const {
    if constexpr (I < key_chunks::count) {
      kv.template load_key<Clamped, d>(block, p.here.of[g], key_chunks::first(I) / key_chunks::width(I), j);
      load_keys<Clamped, I + 1>(block, p.next, kv, g, j);
    }
  }
  template <bool Clamped, int I, class Block, class P, class Head> SMALTI_HD void load_values(Block& block, P& p, const Head& kv, int part, int g, int j) const {
    if constexpr (I < value_chunks::count) {
      kv.template load_value<Clamped, Problem::value_dim>(block, p.here.of[g], value_column<I>(part), j);
      load_values<Clamped, I + 1>(block, p.next, kv, part, g, j);
    }
  }
  template <bool Clamped, class Block, class Tiles, class Head> SMALTI_HD void load_tile(Block& block, Tiles& tiles, const Head& kv, int part, int g, int j) const {
    load_keys<Clamped, 0>(block, tiles.keys, kv, g, j);
    load_values<Clamped, 0>(block, tiles.values, kv, part, g, j);
  }
  template <class Block, class Head, class Scores>
  SMALTI_HD void visit(Block& block, strip<Block>* all, int used, const Head& kv, const Scores& scores, int part, int first, int rows, int j) const {
    bool wanted = false;
    for (int r = 0; r < used; ++r) wanted = wanted || all[r].keys.holds(j);
    if (!wanted) return;
    const int length = kv.length();
    loaded<Block, 1> tiles;
    if (j * n + n <= length) load_tile<false>(block, tiles, kv, part, 0, j);
    else load_tile<true>(block, tiles, kv, part, 0, j);
    for (int r = 0; r < used; ++r)
      if (all[r].keys.holds(j)) {
        if (all[r].keys.is_whole(j)) step<false>(block, all[r].queries, tiles, scores, all[r].sums, part, first + r * m, j, j);
        else cut_step(block, all[r].queries, tiles, length, scores, all[r].sums, part, first + r * m, rows, j);
      }
  }
  // The next tiles of a list: as many as one step takes if every strip sees all of their keys, else one. Which place is behind them.
  template <class Block, class Head, class Scores, class List>
  SMALTI_HD int visit_joined(Block& block, strip<Block>* all, int used, const Head& kv, const Scores& scores, int part, int first, int rows, const List& list, int t, int end) const {
    bool whole = t + together <= end;
    for (int g = 0; whole && g < together; ++g)
      for (int r = 0; r < used; ++r) whole = whole && all[r].keys.is_whole(tile_of(list, t + g));
    if (!whole) {
      visit(block, all, used, kv, scores, part, first, rows, tile_of(list, t));
      return t + 1;
    }
    loaded<Block, together> tiles;
    for (int g = 0; g < together; ++g) load_tile<false>(block, tiles, kv, part, g, tile_of(list, t + g));
    for (int r = 0; r < used; ++r) step<false>(block, all[r].queries, tiles, scores, all[r].sums, part, first + r * m, 0, 0);
    return t + together;
  }
  // The host: each tile of keys for all strips before the next.
  template <class Block, class Head, class Scores>
  SMALTI_HD void several_strips(Block& block, int w, const Head& kv, const Scores& scores, float v_scale, int sequence, int head, int part, int i, int first, int rows) const {
    strip<Block> all[strips];
    const int used = ceil_div(rows - first, m) < strips ? ceil_div(rows - first, m) : strips;
    tile_range keys{};
    for (int r = 0; r < used; ++r) {
      all[r].keys = keys_of(w, scores.scores.mask, first + r * m, rows, kv.length());
      begin(block, all[r].queries, all[r].sums, sequence, head, i * strips + r, first + r * m, rows);
      keys = hull(keys, all[r].keys);
    }
    if constexpr (listed) {
      const auto list = list_of(sequence, head, first, kv.length());
      const tile_range places = places_of(w, list.count());
      if constexpr (together > 1 && Block::joins && Scores::folds && normalizer::shifts) {
        int t = places.begin;
        while (t < places.end) t = visit_joined(block, all, used, kv, scores, part, first, rows, list, t, places.end);
      } else {
        for (int t : block.steps(places.begin, places.end)) visit(block, all, used, kv, scores, part, first, rows, tile_of(list, t));
      }
    } else {
      for (int j : block.steps(keys.begin, keys.end)) visit(block, all, used, kv, scores, part, first, rows, j);
    }
    if constexpr (split) {
      for (int r = 0; r < used; ++r) all[r].sums.store(block, x.partial, x.stats, place_of(block, w, sequence, part, i) + r);
      if (!last_to_arrive(block, w, sequence, part, i)) return;
    }
    for (int r = 0; r < used; ++r) {
      if constexpr (split) merge(block, w, all[r].sums, sequence, part, i, r);
      finish(block, all[r].sums, v_scale, sequence, head, part, i * strips + r, first + r * m, rows);
    }
  }

  // ---- scores of rows: a row of the tile is a query, or a query of one of the group's heads
  template <class Scores> struct row_scores {
    Scores scores;
    int group;
    static constexpr bool folds = Scores::folds;
    SMALTI_HD constexpr float units() const { return scores.units(); }
    template <class R> SMALTI_HD constexpr auto query(R r) const {
      if constexpr (grouped) return r / group;
      else return r;
    }
    template <bool Masked, class V, class R, class K> SMALTI_HD auto operator()(V v, R r, K k) const { return scores.template operator()<Masked>(v, query(r), k); }
    template <class V, class R, class K> SMALTI_HD auto logit(V v, R r, K k) const { return scores.logit(v, query(r), k); }
    template <class R, class K> SMALTI_HD auto visible(R r, K k) const { return scores.mask.visible(query(r), k) && k < scores.keys; }
  };

  // ---- queries
  template <int Step = 0, class T> SMALTI_HD auto group_of(const head_rows<T>& of, int sequence, int head) const {
    return row_group<T, Step == 0 ? step_of<T> : Step>::of(of, sequence, head, x.group);
  }
  // Rows of the gather; past the end the last one stands in.
  template <class Block, class Group, class Rows> SMALTI_HD void group_rows(Block& block, Rows& out, const Group& from, int first, int rows) const {
    block.map([=, group = x.group](auto r) {
      const auto row = min(first + r, rows - 1);
      return from.row(row / group, row % group);
    }, out, row_index{});
  }
  template <int I, class Block, class P> SMALTI_HD void load_rows(Block& block, P& p, int sequence, int head, int i, int first, int rows) const {
    if constexpr (I < key_chunks::count) {
      constexpr int c = key_chunks::first(I) / key_chunks::width(I);
      if constexpr (grouped) {
        const auto from = group_of(x.q, sequence, head);
        column<Block, int, m> at;
        group_rows(block, at, from, first, rows);
        block.load_rows(p.here, from.all, at, c);
      } else {
        attention::load_rows<ragged>(block, p.here, x.q, sequence, head, i, c);
      }
      load_rows<I + 1>(block, p.next, sequence, head, i, first, rows);
    }
  }
  template <int I, class Block, class P> SMALTI_HD void load_columns(Block& block, P& p, int sequence, int head, int first, int rows) const {
    if constexpr (I < key_chunks::count) {
      const auto from = group_of(x.q, sequence, head);
      column<Block, int, query_columns> at;
      group_rows(block, at, from, first, rows);
      block.load_rows(p.here, transposed(from.all), at, key_chunks::first(I) / key_chunks::width(I));
      load_columns<I + 1>(block, p.next, sequence, head, first, rows);
    }
  }

  // A tile of keys that the mask may cut: some masks know that it does not, or that nothing of it is seen. Of several strips
  // only: in the loop of a GPU the branch costs stores and loads of what the loop carries.
  template <class Block, class Queries, class Head, class Scores>
  SMALTI_HD void cut_step(Block& block, const Queries& queries, const Head& kv, [[maybe_unused]] int length, const Scores& scores, state<Block>& state, int part, int first, int rows, int j) const {
    if constexpr (policy::has_classify<decltype(scores.scores.mask)>) {
      const policy::tile_class what = scores.scores.mask.classify(queries_at(first, rows), {j * n, j * n + n < length ? j * n + n : length});
      if (what == policy::tile_class::full && j * n + n <= length) step<false>(block, queries, kv, scores, state, part, first, j, j);
      else if (what != policy::tile_class::skip) step<true>(block, queries, kv, scores, state, part, first, j, j);
    } else {
      step<true>(block, queries, kv, scores, state, part, first, j, j);
    }
  }

  // What a product of base 2 is multiplied with to be a score; scores that do not fold their scale are that already.
  template <class Scores> SMALTI_HD static float natural_units(const Scores& scores) {
    if constexpr (Scores::folds) return scores.units() * 0.6931471805599453f;
    else return 1;
  }

  // ---- one tile of keys: S = Q K', P = 2^(S - largest), O = O alpha + P V. next: the tile that probably follows. kv: where the
  // keys are, or loaded_tiles of them; of several, which need no mask and no place, j is nothing
  template <bool Masked, class Block, class Queries, class Head, class Scores>
  SMALTI_HD void step(Block& block, const Queries& queries, const Head& kv, const Scores& scores, state<Block>& state, int part, int first, int j, int next) const {
    constexpr int tiles = count_of_tiles<Head>(), keys = tiles > 1 ? n * tiles : n;
    tile<Block, float, m, keys> s;
    if constexpr (keys_left) {
      tile<Block, float, n, query_columns> turned;
      keys_times<Masked, 0>(block, turned, queries, kv, j, next);
      block.turn(s, turned);
    } else if constexpr (tiles > 0) {
      kv.times_keys(block, s, queries);
    } else {
      times_keys<Masked, 0>(block, s, queries, kv, j);
    }
    const int first_row = mutant(defect::mask_row_in_tile) ? 0 : first;
    left<Block, element, m, keys> p;
    if constexpr (normalizer::shifts) {
      if constexpr (tiles <= 1) logits<score_axes::queries_by_keys, Masked>(block, s, scores, first_row, j * n);
      column<Block, float, m> peak, sum;
      const float units = scores.units();
      block.row_max(peak, s);
      block.map([=](auto old, auto top) { return max(old, top * units); }, peak, state.largest, peak);
      block.map_left_sum([=](auto z, auto top) { return exp2_rough(z * units - top); }, p, sum, s, peak);
      state.raise(block, peak);
      block.map([](auto total, auto more) { return total + more; }, state.sum, state.sum, sum);
    } else {
      const auto weights = x.normalizer;
      const float natural = natural_units(scores);
      block.map_left([=](auto v, auto r, auto c) {
        const auto w = weights.weight(scores.logit(v, first_row + r, j * n + c) * natural);
        if constexpr (Masked) return where(scores.visible(first_row + r, j * n + c), w, 0.0f);
        else return w;
      }, p, s, row_index{}, column_index{});
    }
    if constexpr (tiles > 0) kv.add_values(block, state.o, p);
    else times_values<Masked, 0>(block, state.o, p, kv, part, j, next);
  }
  template <bool Masked, int I, class Block, class S, class Queries, class Head>
  SMALTI_HD void times_keys(Block& block, S& s, const Queries& queries, const Head& kv, int j) const {
    if constexpr (I < key_chunks::count) {
      constexpr int w = key_chunks::width(I);
      right<Block, element, w, n> k;
      kv.template load_key<Masked, d>(block, k, key_chunks::first(I) / w, j);
      if constexpr (I == 0) block.multiply(s, queries.here, k);
      else block.product(s, queries.here, k);
      times_keys<Masked, I + 1>(block, s, queries.next, kv, j);
    }
  }
  template <bool Masked, int I, class Block, class S, class Queries, class Head>
  SMALTI_HD void keys_times(Block& block, S& s, const Queries& queries, const Head& kv, int j, [[maybe_unused]] int next) const {
    if constexpr (I < key_chunks::count) {
      constexpr int w = key_chunks::width(I);
      typename operands<Block, streamed_keys>::template keys<w> k;
      kv.template load_key_rows<Masked, d>(block, k, key_chunks::first(I) / w, j);
      if constexpr (streamed_keys && Block::announces && requires { kv.template announce_key_rows<d>(block, k, 0, next); }) kv.template announce_key_rows<d>(block, k, key_chunks::first(I) / w, next);
      if constexpr (I == 0) block.multiply(s, k, queries.here);
      else block.product(s, k, queries.here);
      keys_times<Masked, I + 1>(block, s, queries.next, kv, j, next);
    }
  }
  template <bool Masked, int I, class Block, class O, class P, class Head>
  SMALTI_HD void times_values(Block& block, O& o, const P& p, const Head& kv, int part, int j, [[maybe_unused]] int next) const {
    if constexpr (I < value_chunks::count) {
      constexpr int w = value_chunks::width(I);
      typename operands<Block, streamed_values>::template values<w> v;
      kv.template load_value<Masked, Problem::value_dim>(block, v, value_column<I>(part), j);
      if constexpr (streamed_values && Block::announces && requires { kv.template announce_value<Problem::value_dim>(block, v, 0, next); }) kv.template announce_value<Problem::value_dim>(block, v, value_column<I>(part), next);
      block.product(o.here, p, v);
      times_values<Masked, I + 1>(block, o.next, p, kv, part, j, next);
    }
  }
  // Which tile of its width chunk I of this block's part of the values is.
  template <int I> static SMALTI_HD constexpr int value_column(int part) { return (part * value_width + value_chunks::first(I)) / value_chunks::width(I); }

  // ---- split keys: every block leaves its sums in memory; the last one to arrive merges them in the order of the keys, so
  // that the bits do not depend on who was last
  template <class Block> SMALTI_HD int block_of_rows(Block& block, int sequence, int part, int i) const {
    return ((sequence * heads(x) + block.y()) * value_parts + part) * tiles(x) + i;
  }
  template <class Block> SMALTI_HD long long place_of(Block& block, int w, int sequence, int part, int i) const {
    return (first_place(block, w, sequence, part, i) + part_of_keys(w)) * strips;
  }
  // Where the parts of these rows begin.
  template <class Block> SMALTI_HD long long first_place(Block& block, [[maybe_unused]] int w, int sequence, int part, int i) const {
    if constexpr (balanced) {
      const long long before = x.work.items[w].place, parts = x.work.items[w].parts, rows_of_sequence = static_cast<long long>(heads(x)) * value_parts * tiles(x);
      return before * rows_of_sequence + (static_cast<long long>(block.y() * value_parts + part) * tiles(x) + i) * parts;
    } else {
      return static_cast<long long>(block_of_rows(block, sequence, part, i)) * x.splits;
    }
  }
  template <class Block> SMALTI_HD bool last_to_arrive(Block& block, int w, int sequence, int part, int i) const {
    return block.arrive(x.arrived + block_of_rows(block, sequence, part, i)) == (mutant(defect::first_split_merges) ? 0 : parts_of_keys(w) - 1);
  }
  template <class Block> SMALTI_HD void merge(Block& block, int w, state<Block>& s, int sequence, int part, int i, int r) const {
    const long long place = first_place(block, w, sequence, part, i);
    s.clear(block);
    for (int k : block.steps(0, parts_of_keys(w))) s.merge(block, x.partial, x.stats, (place + k) * strips + r);
  }

  // ---- results
  template <class R> static SMALTI_HD constexpr auto query_of(R r, int first, [[maybe_unused]] int group) {
    if constexpr (grouped) return (first + r) / group;
    else return first + r;
  }
  template <class R> static SMALTI_HD constexpr auto head_of(R r, int head, [[maybe_unused]] int first, [[maybe_unused]] int group) {
    if constexpr (grouped) return head + (first + r) % group;
    else return r * 0 + head;
  }
  // Rows of the scatter; none past the end.
  template <class Block, class Group, class Rows> SMALTI_HD void result_rows(Block& block, Rows& out, const Group& to, int first, int rows) const {
    block.map([=, group = x.group](auto r) { return where(first + r < rows, to.row((first + r) / group, (first + r) % group), -1); }, out, row_index{});
  }
  template <class Block> SMALTI_HD void finish(Block& block, state<Block>& s, float v_scale, int sequence, int head, int part, int i, int first, int rows) const {
    if constexpr (grouped) {
      const auto to = group_of(x.o, sequence, head);
      column<Block, int, m> at;
      result_rows(block, at, to, first, rows);
      finish_values<0>(block, s, s.o, to.all, at, v_scale, sequence, head, part, i, first, rows);
    } else {
      finish_values<0>(block, s, s.o, x.o, sequence, v_scale, sequence, head, part, i, first, rows);
    }
    if constexpr (normalizer::shifts) {
      if (part != 0 || x.lse.data == nullptr) return;
      column<Block, float, m> l;
      block.map([=, normalizer = x.normalizer, group = x.group](auto largest, auto sum, auto r) {
        const auto bits = normalizer.lse(largest, mutant(defect::lse_without_sum) ? sum * 0.0f + 1.0f : sum, head_of(r, head, first, group));
        if constexpr (std::is_same_v<typename Problem::lse, policy::lse_e<float>>) return policy::to_lse_e(bits).value;
        else return bits.value;
      }, l, s.largest, s.sum, row_index{});
      if constexpr (grouped) {
        const auto to = group_of<1>(x.lse, sequence, head);
        column<Block, int, m> at;
        result_rows(block, at, to, first, rows);
        block.store_rows(to.all, at, 0, l);
      } else {
        block.store(x.lse.template at<1>(sequence, head), i, 0, l);
      }
    }
  }
  // `at`: the rows of a group in `to`, else the sequence.
  template <int I, class Block, class P, class To, class At>
  SMALTI_HD void finish_values(Block& block, state<Block>& s, P& p, const To& to, const At& at, float v_scale, [[maybe_unused]] int sequence, int head, int part, int i, int first, [[maybe_unused]] int rows) const {
    if constexpr (I < value_chunks::count) {
      const int c = value_column<I>(part), column = c * value_chunks::width(I);
      if constexpr (normalizer::shifts)
        block.map([=, normalizer = x.normalizer, group = x.group](auto o, auto largest, auto sum, auto r, auto e) {
          return normalizer.value(o * v_scale, largest, sum, query_of(r, first, group), head_of(r, head, first, group), column + e);
        }, p.here, p.here, s.largest, s.sum, row_index{}, column_index{});
      else block.map([=](auto o) { return o * v_scale; }, p.here, p.here);
      if constexpr (Problem::gate::gates) {
        tile<Block, float, m, value_chunks::width(I)> g;
        if constexpr (grouped) {
          const auto from = group_of(x.gate, sequence, head);
          smalti::column<Block, int, m> rows_of_gate;
          group_rows(block, rows_of_gate, from, first, rows);
          block.load_rows(g, from.all, rows_of_gate, c);
        } else {
          attention::load_rows<ragged>(block, g, x.gate, sequence, head, i, c);
        }
        block.map([](auto o, auto by) { return typename Problem::gate{}(o, by); }, p.here, p.here, g);
      }
      if constexpr (grouped) block.store_rows(to, at, c, p.here);
      else if constexpr (ragged) block.store(to.at(at, head), i, c, p.here);
      else block.store(to.all(), at, head, i, c, p.here);
      finish_values<I + 1>(block, s, p.next, to, at, v_scale, sequence, head, part, i, first, rows);
    }
  }
};

}  // namespace smalti::inline SMALTI_CODE::attention
