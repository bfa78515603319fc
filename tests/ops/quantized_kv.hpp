// A paged cache of integers for tests: a poisoned pool that cache::append fills, and what lies in it by the definition of the layout.
#pragma once
#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>
#include <smalti/ops/attention/quantized.hpp>
#include <smalti/ops/cache.hpp>
#include "ops/attention_problem.hpp"
#include "reference/kv_codes.hpp"

namespace test {

template <class Storage, smalti::policy::kv_part Part, int D> oracle::kv_codes codes_of() {
  using rows = typename Storage::template rows_of<Part, D>;
  return {Storage::bits, D, Storage::affine, rows::tokens, rows::channels};
}
template <class Scale> float scale_value(Scale s) { return float(value(s)); }

//! Sequences of tokens in shuffled pages; free slots and pages hold ones (NaN scales), unused table entries point far away.
template <class Storage, class Layout, int D> struct quantized_cache {
  using append = smalti::cache::append<smalti::bf16, Storage, Layout, D>;
  static constexpr auto key = smalti::policy::kv_part::key, val = smalti::policy::kv_part::value;
  std::vector<int> lengths;
  smalti::cache::pool_shape shape;
  int tables, width;
  array<std::byte> memory;
  array<int> table, length;
  smalti::cache::page_pool pool{};
  std::vector<std::vector<float>> keys, values;          // of each sequence: [token][head][d], what was given to append

  quantized_cache(const std::vector<int>& n, int page, int heads, bool per_head, std::mt19937& g)
      : lengths(n), shape{shape_of(n, page, heads, per_head)}, tables(per_head ? heads : 1), width((*std::max_element(n.begin(), n.end()) + page - 1) / page + 3),
        memory(smalti::cache::pool_bytes<Storage, Layout>(shape)), table(n.size() * std::size_t(tables * width)), length(n.size() * std::size_t(tables)) {
    std::memset(memory.data(), 0xff, memory.size());
    REQUIRE((smalti::cache::make_pool<Storage, Layout>(shape, {memory.data(), memory.size()}, pool).code == smalti::errc::ok));
    std::vector<int> free(std::size_t(shape.pages));
    std::iota(free.begin(), free.end(), 0);
    std::shuffle(free.begin(), free.end(), g);
    for (int& entry : table) entry = 1 << 28;
    for (std::size_t s = 0; s < n.size(); ++s)
      for (int h = 0; h < tables; ++h) {
        length[s + std::size_t(h) * n.size()] = n[s];
        for (int p = 0; p < (n[s] + page - 1) / page; ++p) table[(s * tables + h) * width + p] = free.back(), free.pop_back();
      }
    std::normal_distribution<float> normal(0, 1);
    for (int tokens : n)
      for (auto* all : {&keys, &values}) {
        all->emplace_back(std::size_t(tokens) * heads * D);
        for (std::size_t i = 0; i < all->back().size(); ++i) all->back()[i] = smalti::to_float(smalti::narrow<smalti::bf16>(normal(g) + (i % D == 3 ? 4.0f : 0.0f)));   // an outlier channel
      }
  }
  int slot(int s, int h, int j) const { return table[(std::size_t(s) * tables + (tables > 1 ? h : 0)) * width + j / shape.page] * shape.page + j % shape.page; }

  //! Appends tokens [first, last) of a sequence, `skip` of them nowhere.
  template <class Context> smalti::status store(const Context& context, int s, int first, int last) {
    const int n = last - first, row = shape.kv_heads * D;
    array<smalti::bf16> k(std::size_t(n) * row), v(k.size());
    array<int> slots(std::size_t(tables) * n);
    for (int i = 0; i < n * row; ++i) k[i] = smalti::narrow<smalti::bf16>(keys[s][std::size_t(first) * row + i]), v[i] = smalti::narrow<smalti::bf16>(values[s][std::size_t(first) * row + i]);
    for (int h = 0; h < tables; ++h)
      for (int i = 0; i < n; ++i) slots[h * n + i] = slot(s, h, first + i);
    const smalti::status st = append::run(context, {.pool = pool, .k = {k.data(), n, row, row}, .v = {v.data(), n, row, row}, .slots = slots.data(), .slot_head_stride = tables > 1 ? n : 0});
    wait(context);
    return st;
  }
  smalti::pages where() const { return {table.data(), static_cast<long long>(width) * tables, tables > 1 ? width : 0, length.data(), tables > 1 ? static_cast<long long>(lengths.size()) : 0, shape.page}; }
  auto source(int most) const { return smalti::cache::source_of<Storage, Layout, D>(pool, 0, where(), int(lengths.size()), most); }

  //! What lies in the pool: codes, scales, minima.
  template <smalti::policy::kv_part Part> const std::uint32_t* row(int s, int h, int j) const {
    const int at = slot(s, h, j), heads = shape.heads_in_page();
    const auto words = smalti::cache::pool_codes<Storage, Part, D>(pool, 0);
    return reinterpret_cast<const std::uint32_t*>(words.data) + std::size_t(place(at / shape.page, at % shape.page, shape.per_head ? 0 : h, heads, shape.page)) * words.cols;
  }
  template <smalti::policy::kv_part Part> const typename Storage::scale* scales(int s, int h, int j) const {
    const auto what = codes_of<Storage, Part, D>();
    const int at = slot(s, h, j), heads = shape.heads_in_page();
    const auto rows = smalti::cache::pool_scales<Storage, Part, D>(pool, 0);
    return rows.data + std::size_t(place(at / shape.page, at % shape.page / what.tokens, shape.per_head ? 0 : h, heads, shape.page / what.tokens)) * rows.cols;
  }
  template <smalti::policy::kv_part Part> float stored(int s, int h, int j, int c) const {
    const auto what = codes_of<Storage, Part, D>();
    const auto* of = scales<Part>(s, h, j);
    return what.number(what.code(row<Part>(s, h, j), c), scale_value(of[c / what.channels]), what.affine ? scale_value(of[what.scales() + c / what.channels]) : 0.0f);
  }
  //! As attention multiplies it.
  key_value operand_keys() const {
    return [this](int s, int h, int j, int c) { return double(smalti::to_float(smalti::narrow<smalti::bf16>(stored<key>(s, h, j, c)))); };
  }
  key_value operand_values() const {
    return [this](int s, int h, int j, int c) { return double(smalti::to_float(smalti::narrow<smalti::bf16>(stored<val>(s, h, j, c)))); };
  }

private:
  static smalti::cache::pool_shape shape_of(const std::vector<int>& n, int page, int heads, bool per_head) {
    int used = 0;
    for (int tokens : n) used += (tokens + page - 1) / page * (per_head ? heads : 1);
    return {.pages = used + 2, .page = page, .kv_heads = heads, .key_dim = D, .value_dim = D, .per_head = per_head};
  }
  // By the definition of nhd and hnd.
  static int place(int page, int slot, int head, int heads, int slots) {
    return std::is_same_v<Layout, smalti::policy::nhd> ? (page * slots + slot) * heads + head : (page * heads + head) * slots + slot;
  }
};

}  // namespace test
