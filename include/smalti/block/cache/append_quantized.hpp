// The agents that store new keys and values as integers in groups (policy/kv_integer.hpp): one finds the scales of the groups and
// stores them, the next reads them as they are stored and makes the codes, so that what rounding did to a scale is in its codes.
#pragma once
#include <cstdint>
#include <type_traits>
#include <smalti/core/view.hpp>
#include <smalti/policy/kv_integer.hpp>
#include <smalti/policy/kv_layout.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/mutant.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::cache {

//! Rows of one part, and where they go.
template <class From, class Scale> struct quantized_part {
  stack<const From> fresh;              //!< [kv_head][row][d]; may have no columns
  view<int> codes;                      //!< the pool's rows of words, each one token and head
  view<Scale, 1> scales;                //!< its rows of scales and minima
};
//! How tokens find their rows; as in append_problem.
template <class Layout> struct slot_rows {
  const int* slots;
  long long head_stride;
  int tokens, limit, page, heads_in_page;
  Layout layout;

  //! The row of token r of a head in rows that `Group` tokens share; negative: not stored.
  template <int Group, class R> SMALTI_HD auto row(R token, int head) const {
    const auto slot = lookup(slots + head * head_stride, token, tokens);
    return where(token < tokens && slot >= 0 && slot < limit, layout.row(slot / page, slot % page / Group, heads_in_page == 1 ? 0 : head, heads_in_page, page / Group), -1);
  }
};

//! Which row of what is given each token is; row (number of a token) where `list` is null. Past the end the last token stands in.
struct given_rows {
  const int* list;
  long long head_stride;                //!< from one head's list to the next; 0 = shared
  int tokens;
  template <class Block, class Rows> SMALTI_HD void find(Block& block, Rows& out, int first, int head) const {
    if (list != nullptr) block.map([list = list + head * head_stride, tokens = tokens, first](auto r) { return lookup(list, min(r + first, tokens - 1), tokens); }, out, row_index{});
    else block.map([tokens = tokens, first](auto r) { return min(r + first, tokens - 1); }, out, row_index{});
  }
};

struct quantized_append_tuning {
  int m, c;                             //!< tokens, and channels of a piece where tokens share scales
  int occupancy = 1, cluster = 1;
  constexpr bool operator==(const quantized_append_tuning&) const = default;
};

template <class From, class Storage, int D, int ValueDim, class Layout, bool Balanced> struct quantized_append_problem {
  static constexpr int key_dim = D;
  using storage = Storage;
  using scale = typename Storage::scale;
  template <policy::kv_part Part> using rows_of = typename Storage::template rows_of<Part, Part == policy::kv_part::key ? D : ValueDim == 0 ? D : ValueDim>;
  // A function: tile code takes a variable template for one (nvcc 13.5).
  template <policy::kv_part Part> SMALTI_HD static constexpr bool balances() { return Balanced && Part == policy::kv_part::key; }
  struct arguments {
    quantized_part<From, scale> k, v;
    slot_rows<Layout> where;
    given_rows from;
    const float* balance;               //!< balanced: [kv_head][D], what keys are multiplied by
  };
};

//! Scales of the groups of one part.
template <quantized_append_tuning Tuning, class Problem, policy::kv_part Part>
struct append_scales_agent {
  using arguments = typename Problem::arguments;
  using storage = typename Problem::storage;
  using rows_of = typename Problem::template rows_of<Part>;
  static constexpr bool by_token = rows_of::tokens == 1;
  static constexpr int m = by_token ? Tuning.m : rows_of::tokens, c = by_token ? rows_of::channels : Tuning.c, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  arguments x;

  SMALTI_HD static constexpr const auto& part(const arguments& x) {
    if constexpr (Part == policy::kv_part::key) return x.k;
    else return x.v;
  }
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.where.tokens, m), part(x).fresh.count, ceil_div(part(x).fresh.cols, c)}; }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int i = block.x(), head = block.y(), j = block.z();
    tile<Block, float, m, c> t;
    tile<Block, int, m, c> sizes;
    column<Block, int, m> given;
    x.from.find(block, given, i * m, head);
    block.load_rows(t, part(x).fresh[head], given, j);
    if constexpr (Problem::template balances<Part>())
      block.map([balance = x.balance + (head * Problem::key_dim + j * c), left = Problem::key_dim - j * c](auto v, auto e) { return v * lookup(balance, e, left); }, t, t, column_index{});
    block.map([](auto v) { return float_bits(abs(v)); }, sizes, t);      // ordered as the numbers are, and a NaN lies above everything
    if constexpr (by_token) {
      column<Block, float, m> least, most;
      column<Block, int, m> reach, rows;
      block.row_max(reach, sizes);
      if constexpr (storage::affine) {
        block.row_max(most, t);
        block.map([](auto v) { return -v; }, t, t);
        block.row_max(least, t);
      } else {
        block.fill(most, 0.0f);
        block.fill(least, 0.0f);
      }
      block.map([where = x.where, head, first = i * m](auto r) { return where.template row<1>(r + first, head); }, rows, row_index{});
      block.map([](auto low, auto high, auto top) { return storage::scale_of(-low, high, top); }, most, least, most, reach);
      block.store_rows(part(x).scales, rows, j, most);
      if constexpr (storage::affine) {
        block.map([](auto low) { return -low; }, least, least);
        block.store_rows(part(x).scales, rows, rows_of::scales + j, least);
      }
    } else {
      const int slot = block.number(x.where.slots + head * x.where.head_stride, i * m), page = x.where.page, heads = x.where.heads_in_page;
      if (slot < 0 || slot >= x.where.limit) return;
      const int at = x.where.layout.row(slot / page, slot % page / m, heads == 1 ? 0 : head, heads, page / m);
      row<Block, float, c> least, most;
      row<Block, int, c> reach;
      block.column_max(reach, sizes);
      if constexpr (storage::affine) {
        block.column_max(most, t);
        block.map([](auto v) { return -v; }, t, t);
        block.column_max(least, t);
      } else {
        block.fill(most, 0.0f);
        block.fill(least, 0.0f);
      }
      block.map([](auto low, auto high, auto top) { return storage::scale_of(-low, high, top); }, most, least, most, reach);
      block.store(leading(part(x).scales, 0), at, j, most);
      if constexpr (storage::affine) {
        block.map([](auto low) { return -low; }, least, least);
        block.store(leading(part(x).scales, rows_of::scales), at, j, least);
      }
    }
  }

private:
  // The scales of the rows, or their minima.
  static SMALTI_HD view<typename storage::scale, 1> leading(const view<typename storage::scale, 1>& v, int first) { return {v.data + first, v.rows, rows_of::scales, v.stride}; }
};

//! Codes of both parts: sixteen words of `m` tokens.
template <quantized_append_tuning Tuning, class Problem>
struct append_codes_agent {
  using arguments = typename Problem::arguments;
  using storage = typename Problem::storage;
  static constexpr int m = Tuning.m, c = 16, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  arguments x;

  static constexpr grid blocks(const arguments& x) {
    const int widest = x.k.codes.cols > x.v.codes.cols ? x.k.codes.cols : x.v.codes.cols;
    return {ceil_div(x.where.tokens, m), x.k.fresh.count, ceil_div(widest, c)};
  }

  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int i = block.x(), head = block.y(), j = block.z();
    if (j * c < x.k.codes.cols) put<policy::kv_part::key>(block, x.k, i, head, j);
    if (j * c < x.v.codes.cols) put<policy::kv_part::value>(block, x.v, i, head, j);
  }

private:
  template <policy::kv_part Part, class From, class Scale> struct source {
    view<const From> fresh;
    view<const Scale, 1> scales;
    const float* balance;
    template <class R, class C> SMALTI_HD auto number(R row, C channel) const {
      if constexpr (Problem::template balances<Part>()) return lookup(fresh, row, channel) * lookup(balance, channel, Problem::key_dim);
      else return lookup(fresh, row, channel);
    }
  };
  template <policy::kv_part Part, class Block, class From, class Scale> SMALTI_HD void put(Block& block, const quantized_part<From, Scale>& part, int i, int head, int j) const {
    using rows_of = typename Problem::template rows_of<Part>;
    column<Block, int, m> rows, groups, given;
    x.from.find(block, given, i * m, head);
    block.map([where = x.where, head, first = i * m](auto r) { return where.template row<1>(r + first, head); }, rows, row_index{});
    block.map([where = x.where, head, first = i * m](auto r) { return where.template row<rows_of::tokens>(r + first, head); }, groups, row_index{});
    tile<Block, int, m, c> words;
    const view<const From> fresh = part.fresh[head];
    const view<const Scale, 1> scales{part.scales.data, part.scales.rows, part.scales.cols, part.scales.stride};
    const source<Part, From, Scale> all{fresh, scales, x.balance + (Problem::template balances<Part>() ? head * Problem::key_dim : 0)};
    block.map([=](auto group, auto token, auto w) { return word<rows_of, 0>(all, group, token, w + j * c); }, words, groups, given, column_index{});
    block.store_rows(part.codes, rows, j, words);
  }
  // Word w of a token: the codes of pair P % 2 of position P / 2, and those of the pairs after it.
  template <class Rows, int P, policy::kv_part Part, class From, class Scale, class G, class R, class W>
  static SMALTI_HD auto word(const source<Part, From, Scale>& from, G group, R token, W w) {
    constexpr int position = P / 2, second = P % 2, bit = position * storage::bits + second * 16;
    const auto channel = w * 2 + (position * 2 * Rows::words + second);
    const auto part_of = channel / Rows::channels;
    const auto number = from.number(token + channel * 0, channel), scale = lookup(from.scales, group + channel * 0, part_of);
    const auto minimum = lookup(from.scales, group + channel * 0, part_of + (storage::affine ? Rows::scales : 0));
    const auto code = (storage::encode(number, scale, minimum) & ((1 << storage::bits) - 1)) << bit;
    if constexpr (P + 1 < 32 / storage::bits) return code | word<Rows, P + 1>(from, group, token, w);
    else return code;
  }
};

}  // namespace smalti::inline SMALTI_CODE::cache
