// Defects of policies: policies with a mistake, which the laws of their kind must refuse while the library's own hold.
#include <catch2/catch.hpp>
#include <array>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include <smalti/policy/codec.hpp>
#include <smalti/policy/epilogue.hpp>
#include <smalti/policy/lse.hpp>
#include <smalti/policy/mask.hpp>
#include <smalti/policy/position.hpp>
#include <smalti/tile/host/block.hpp>

#include "reference/gemm.hpp"
#include "reference/lse.hpp"
#include "reference/position.hpp"

using namespace smalti;
namespace policy = smalti::policy;
using host::floats;

namespace {

// ---- masks: visible has its meaning; no query sees a key outside keys, every query sees all of whole, and both are
// as wide as they can be for masks whose rows are intervals

template <class Mask, class Meaning> bool mask_law(const Mask& mask, Meaning meaning) {
  for (int length = 0; length <= 9; ++length)
    for (int first = 0; first <= 7; ++first)
      for (int last = first + 1; last <= 8; ++last) {
        const policy::span keys = mask.keys({first, last}, length), whole = mask.whole({first, last}, length);
        if (keys.first < 0 || keys.last > length || whole.first < 0 || whole.last > length) return false;
        for (int k = 0; k < length; ++k) {
          bool some = false, all = true;
          for (int q = first; q < last; ++q) {
            if (mask.visible(q, k) != meaning(q, k)) return false;
            some = some || meaning(q, k), all = all && meaning(q, k);
          }
          if (some != (k >= keys.first && k < keys.last)) return false;
          if (all != (k >= whole.first && k < whole.last)) return false;
        }
      }
  return true;
}

struct causal_off_by_one : policy::causal {
  template <class Q, class K> constexpr auto visible(Q q, K k) const { return k < q + shift; }
};
struct causal_shifted_back : policy::causal {
  template <class Q, class K> constexpr auto visible(Q q, K k) const { return k <= q - shift; }
};
struct causal_keys_short : policy::causal {
  constexpr policy::span keys(policy::span q, int length) const { return {0, clamp(q.last - 1 + shift, length)}; }
};
struct causal_keys_past_length : policy::causal {
  constexpr policy::span keys(policy::span q, int) const { return {0, q.last + shift}; }
};
struct causal_whole_of_last : policy::causal {
  constexpr policy::span whole(policy::span q, int length) const { return {0, clamp(q.last + shift, length)}; }
};
struct full_without_last : policy::full {
  constexpr policy::span keys(policy::span, int length) const { return {0, length - (length > 0)}; }
};

// ---- epilogues: on packs, element by element against doubles

struct tables {
  static constexpr int rows = 5, cols = 37;
  std::array<float, rows> by_row{};
  std::array<float, cols> by_column{};
  std::array<float, rows*(cols + 3)> stream{};
  tables() {
    for (int i = 0; i < rows; ++i) by_row[i] = float(i * i) - 3.5f;
    for (int j = 0; j < cols; ++j) by_column[j] = 0.25f * float(j * 7 % 23) - 2;
    for (std::size_t i = 0; i < stream.size(); ++i) stream[i] = float(i % 29) - 11;
  }
  policy::residual<float> residual() const { return {{stream.data(), rows, cols, cols + 3}}; }
};
const tables memory;

double input(int r, int c) { return 0.125 * ((r * 37 + c * 11) % 63 - 31); }
template <class Step, class Expected> bool epilogue_law(const Step& step, Expected expected) {
  for (int r = 0; r < tables::rows; ++r)
    for (int c = 0; c < tables::cols; c += host::lane_count) {
      floats x = 0.0f;
      for (int i = 0; i < host::lane_count; ++i) x.set(i, float(input(r, c + i)));
      const floats y = step(x, host::uniform{r}, host::consecutive{c});
      for (int i = 0; i < host::lane_count && c + i < tables::cols; ++i) {
        const double want = expected(input(r, c + i), r, c + i);
        if (!(std::abs(y[i] - want) <= 0x1p-20 * (1 + std::abs(want)))) return false;
      }
    }
  return true;
}
template <class Step> bool gated_law(const Step& step) {
  for (int n = -20; n < 20; ++n) {
    const floats gate = float(n) * 0.25f, up = float(n * n % 7) - 2.0f;
    const double want = oracle::silu(n * 0.25) * (n * n % 7 - 2);
    if (!(std::abs(step(gate, up, host::uniform{0}, host::consecutive{0})[3] - want) <= 0x1p-20 * (1 + std::abs(want)))) return false;
  }
  return true;
}

struct bias_by_row : policy::bias<float> {
  template <class V, class R, class C> V operator()(V x, R row, C) const { return x + lookup(data, row, n); }
};
struct bias_of_next_column : policy::bias<float> {
  template <class V, class R, class C> V operator()(V x, R, C column) const { return x + lookup(data, column + 1, n); }
};
struct bias_subtracted : policy::bias<float> {
  template <class V, class R, class C> V operator()(V x, R, C column) const { return x - lookup(data, column, n); }
};
struct column_scale_added : policy::column_scale<float> {
  template <class V, class R, class C> V operator()(V x, R, C column) const { return x + lookup(data, column, n); }
};
struct residual_of_first_row : policy::residual<float> {
  template <class V, class R, class C> V operator()(V x, R row, C column) const { return x + lookup(source, row * 0, column); }
};
struct residual_replaces : policy::residual<float> {
  template <class V, class R, class C> V operator()(V x, R row, C column) const { return x * 0.0f + lookup(source, row, column); }
};
struct relu_lets_negative_through {
  template <class V, class R, class C> V operator()(V x, R, C) const { return abs(x); }
};
struct silu_with_wrong_sign {
  template <class V, class R, class C> V operator()(V x, R, C) const { return over(x, 1.0f + exp2(x * 1.4426950408889634f)); }
};
struct silu_in_base_two {
  template <class V, class R, class C> V operator()(V x, R, C) const { return over(x, 1.0f + exp2(-x)); }
};
struct gelu_unscaled {
  template <class V, class R, class C> V operator()(V x, R, C) const { return x * 0.5f * (1.0f + erf(x)); }
};
struct gelu_tanh_without_cube {
  template <class V, class R, class C> V operator()(V x, R, C) const { return x * 0.5f * (1.0f + tanh(x * 0.7978845608028654f)); }
};
struct gated_swapped {
  policy::silu activation;
  template <class V, class R, class C> V operator()(V gate, V up, R row, C column) const { return activation(up, row, column) * gate; }
};
struct gated_twice {
  policy::silu activation;
  template <class V, class R, class C> V operator()(V gate, V, R row, C column) const { return activation(gate, row, column) * gate; }
};
// chain<First, Second> in the wrong order
template <class First, class Second> struct chain_backwards {
  First first;
  Second second;
  template <class V, class R, class C> V operator()(V x, R row, C column) const { return first(second(x, row, column), row, column); }
};
struct cast_truncates {
  template <class V, class R, class C> V operator()(V x, R, C) const { return bits_float(float_bits(x) & int(0xffff0000)); }
};
template <class Step> bool cast_law(const Step& step) {
  for (int i = 0; i < 4000; ++i) {
    const float x = std::ldexp(float(i * 37 % 4093) - 2000.0f, -5);
    if (step(floats(x), host::uniform{0}, host::consecutive{0})[0] != to_float(narrow<bf16>(x))) return false;
  }
  return true;
}

// ---- log-sum-exp: a merge of two partials is what the keys of both give

using partial = policy::lse_partial<float, policy::lse_2<float>>;
template <class Merge> bool merge_law(Merge merge) {
  const float none = policy::empty_lse(), nan = std::nanf("");
  for (const float a : {none, -300.0f, -2.5f, 0.0f, 1.0f, 200.0f})
    for (const float b : {none, -300.0f, -1.0f, 0.0f, 3.0f, 199.0f}) {
      const partial left{a == none ? nan : 2.0f, {a}}, right{b == none ? nan : -5.0f, {b}};
      const partial got = merge(left, right);
      const auto want = reference::merged({{2.0, a}, {-5.0, b}}, 2);
      if (std::isinf(want.lse)
              ? got.lse.value != none || got.value != 0
              : !(std::abs(got.lse.value - want.lse) <= 1e-5 * (1 + std::abs(want.lse))) || !(std::abs(got.value - want.value) <= 1e-5))
        return false;
    }
  return true;
}
partial merge_without_rescale(const partial& a, const partial& b) {
  policy::lse_row<policy::lse_2<float>> row = policy::lse_begin(a.lse);
  const auto step = row.absorb(b.lse);
  return {(a.value + b.value * step.take) * row.normalizer(), row.lse()};
}
partial merge_unnormalized(const partial& a, const partial& b) {
  auto all = policy::lse_begin(a);
  all.absorb(b);
  return {all.value, all.row.lse()};
}
partial merge_trusting_empties(const partial& a, const partial& b) {  // 0 * NaN
  policy::lse_row<policy::lse_2<float>> row = policy::lse_begin(a.lse);
  const auto step = row.absorb(b.lse);
  return {(a.value * step.keep + b.value * step.take) * row.normalizer(), row.lse()};
}
partial merge_in_base_e(const partial& a, const partial& b) {
  using other = policy::lse_partial<float, policy::lse_e<float>>;
  const other c = policy::lse_merge(other{a.value, {a.lse.value}}, other{b.value, {b.lse.value}});
  return {c.value, {c.lse.value}};
}
partial merge_of_averages(const partial& a, const partial& b) {
  const partial c = policy::lse_merge(a, b);
  return {(a.value + b.value) / 2, c.lse};
}

// ---- positions: a head rotated pair by pair is the oracle's, and scores depend on distance alone

template <class Layout, class First, class Second>
bool rotation_law(const Layout& layout, bool interleaved, First first, Second second, double turn = 1) {
  constexpr int dims = 16;
  std::vector<long double> frequency(dims / 2);
  std::vector<double> x(dims);
  for (int i = 0; i < dims; ++i) x[i] = i * 5 % 7 - 2.5;
  for (int i = 0; i < dims / 2; ++i) frequency[i] = oracle::rope_inverse_frequency(i, dims, 10000);
  for (const int position : {0, 1, 77, 4096, 100001}) {
    const auto want = oracle::rope(x, frequency, position, interleaved);
    for (int i = 0; i < dims / 2; ++i) {
      const auto r = policy::rotation_at(int(position * turn), policy::frequency_of(double(frequency[i]) / 6.283185307179586477));
      const int a = layout.first(i), b = layout.second(i);
      if (!(std::abs(first(float(x[a]), float(x[b]), r) - want[a]) <= 1e-4)) return false;
      if (!(std::abs(second(float(x[a]), float(x[b]), r) - want[b]) <= 1e-4)) return false;
    }
    for (int c = 0; c < dims; ++c) {  // the columns' side of the layout
      const int pair = layout.pair(c);
      const bool is_second = layout.is_second(c);
      if (c != (is_second ? layout.second(pair) : layout.first(pair))) return false;
      if (layout.partner(c) != (is_second ? layout.first(pair) : layout.second(pair))) return false;
    }
  }
  return true;
}
using turn = policy::rotation<float>;
const auto right_first = [](float x, float y, turn r) { return policy::rotate_first(x, y, r); };
const auto right_second = [](float x, float y, turn r) { return policy::rotate_second(x, y, r); };

struct half_split_of_neighbours : policy::half_split {
  constexpr int second(int pair) const { return pair + 1; }
};
struct half_split_own_partner : policy::half_split {
  template <class C> auto partner(C column) const { return column; }
};
struct interleaved_from_one : policy::interleaved {
  constexpr int first(int pair) const { return 2 * pair + 1; }
  constexpr int second(int pair) const { return 2 * pair + 2; }
};

// stored phase and correction make the phase that the score needs; survivors close ranks
template <class Policy> bool phase_law(const Policy& p, int origin_of_rank) {
  for (int position = 0; position < 50; ++position)
    for (int rank = 0; rank <= position; ++rank) {
      if (p.stored_phase(position, rank) + policy::key_correction(p, position, rank) != p.key_phase(position, rank)) return false;
      if (p.query_phase(position, rank) - p.key_phase(position, rank) != (origin_of_rank < 0 ? 0 : position - origin_of_rank - rank))
        return false;
      if (Policy::storage == policy::key_storage::plain && p.stored_phase(position, rank) != 0) return false;
    }
  return true;
}
struct compact_query_in_text : policy::compact {
  template <class P, class R> constexpr auto query_phase(P position, R) const { return position; }
};
struct rotate_on_read_stored_rotated : policy::rotate_on_read {
  template <class P, class R> constexpr auto stored_phase(P position, R) const { return position; }
};

template <class Bias> bool alibi_law(const Bias& bias) {
  for (int q = 0; q < 9; ++q)
    for (int k = 0; k < 9; ++k)
      if (bias(2.0f, q, k) != 2.0f - 0.5f * float(std::abs(q - k))) return false;
  return true;
}
struct alibi_rewards_distance : policy::alibi {
  template <class V, class Q, class K> auto operator()(V score, Q query, K key) const {
    return score + policy::scalar::to_float(std::abs(query - key)) * slope;
  }
};
struct alibi_one_sided : policy::alibi {
  template <class V, class Q, class K> auto operator()(V score, Q query, K key) const {
    return score - policy::scalar::to_float(query - key) * slope;
  }
};

// ---- codecs: code c stands for c - 8

template <class Codec> bool codec_law(Codec codec) {
  constexpr int N = 16, Words = 8, K = 4 * Words;
  using planes = policy::word_planes<4, 4, Words>;
  static std::array<std::uint32_t, Words * N> codes;
  static std::array<bf16, K * K> unit;
  const auto code_of = [](int k, int n) { return (k % 3 == 0 ? n : (k / 2 + n)) % 16; };
  codes.fill(0);
  for (int k = 0; k < K; ++k)
    for (int n = 0; n < N; ++n) codes[planes::place(k, 0).word * N + n] |= std::uint32_t(code_of(k, n)) << planes::place(k, 0).bit;
  for (int i = 0; i < K * K; ++i) unit[i] = narrow<bf16>(i % (K + 1) == 0 ? 1.0f : 0.0f);
  host::block b(0, 0, 0);
  host::block::left<bf16, K, K> one;
  host::block::right<bf16, K, N> w;
  host::block::words<N, Words> packed;
  host::block::tile<float, K, N> seen;
  b.load(packed, stack<const std::uint32_t>{codes.data(), 1, Words, N, Words * N, N}, 0, 0);
  b.template unpack<0>(w, codec, packed);
  b.load(one, view<const bf16>{unit.data(), K, K, K}, 0, 0);
  b.fill(seen, 0.0f);
  b.product(seen, one, w);
  for (int k = 0; k < K; ++k)
    for (int n = 0; n < N; ++n)
      if (seen.v[k][n] != float(code_of(k, n) - 8)) return false;
  return true;
}
using int4_from_seven = policy::offset_int<4, 7>;

struct trial {
  const char* name;
  bool holds;
};

}  // namespace

TEST_CASE("the laws of policies hold for the library's and for none with a mistake", "[mutations][policy]") {
  const auto causal = [](int q, int k) { return k <= q + 2; };
  const auto all = [](int, int) { return true; };
  const policy::bias<float> bias{memory.by_column.data(), tables::cols};
  const policy::column_scale<float> columns{memory.by_column.data(), tables::cols};
  const policy::row_scale<float> rows{memory.by_row.data(), tables::rows};
  const auto add_column = [](double x, int, int c) { return x + memory.by_column[c]; };
  const auto times_column = [](double x, int, int c) { return x * memory.by_column[c]; };
  const auto times_row = [](double x, int r, int) { return x * memory.by_row[r]; };
  const auto add_stream = [](double x, int r, int c) { return x + memory.stream[r * (tables::cols + 3) + c]; };
  const auto silu = [](double x, int, int) { return oracle::silu(x); };
  const auto gelu = [](double x, int, int) { return oracle::gelu(x); };
  const auto gelu_tanh = [](double x, int, int) { return oracle::gelu_tanh(x); };
  const auto relu = [](double x, int, int) { return std::max(x, 0.0); };
  const auto relu_of_sum = [](double x, int, int c) { return std::max(x + memory.by_column[c], 0.0); };

  const trial own[] = {
      {"causal", mask_law(policy::causal{2}, causal)},
      {"full", mask_law(policy::full{}, all)},
      {"bias", epilogue_law(bias, add_column)},
      {"column_scale", epilogue_law(columns, times_column)},
      {"row_scale", epilogue_law(rows, times_row)},
      {"residual", epilogue_law(memory.residual(), add_stream)},
      {"relu", epilogue_law(policy::relu{}, relu)},
      {"silu", epilogue_law(policy::silu{}, silu)},
      {"gelu", epilogue_law(policy::gelu{}, gelu)},
      {"gelu_tanh", epilogue_law(policy::gelu_tanh{}, gelu_tanh)},
      {"chain", epilogue_law(policy::chain<policy::bias<float>, policy::relu>{bias, {}}, relu_of_sum)},
      {"gated", gated_law(policy::gated<policy::silu>{})},
      {"cast", cast_law(policy::cast<bf16>{})},
      {"lse_merge", merge_law([](const partial& a, const partial& b) { return policy::lse_merge(a, b); })},
      {"half_split", rotation_law(policy::half_split{16}, false, right_first, right_second)},
      {"interleaved", rotation_law(policy::interleaved{16}, true, right_first, right_second)},
      {"keep_original", phase_law(policy::keep_original{}, -1)},
      {"compact", phase_law(policy::compact{}, -1)},
      {"rotate_on_read", phase_law(policy::rotate_on_read{}, -1)},
      {"block_relative", phase_law(policy::block_relative{3}, 3)},
      {"alibi", alibi_law(policy::alibi{0.5f})},
      {"int4_symmetric", codec_law(policy::offset_int<4>{})},
  };
  const trial mutants[] = {
      {"causal_off_by_one", mask_law(causal_off_by_one{{2}}, causal)},
      {"causal_shifted_back", mask_law(causal_shifted_back{{2}}, causal)},
      {"causal_keys_short", mask_law(causal_keys_short{{2}}, causal)},
      {"causal_keys_past_length", mask_law(causal_keys_past_length{{2}}, causal)},
      {"causal_whole_of_last", mask_law(causal_whole_of_last{{2}}, causal)},
      {"full_without_last", mask_law(full_without_last{}, all)},
      {"bias_by_row", epilogue_law(bias_by_row{bias}, add_column)},
      {"bias_of_next_column", epilogue_law(bias_of_next_column{bias}, add_column)},
      {"bias_subtracted", epilogue_law(bias_subtracted{bias}, add_column)},
      {"column_scale_added", epilogue_law(column_scale_added{columns}, times_column)},
      {"row_scale_for_column_scale", epilogue_law(rows, times_column)},
      {"residual_of_first_row", epilogue_law(residual_of_first_row{memory.residual()}, add_stream)},
      {"residual_replaces", epilogue_law(residual_replaces{memory.residual()}, add_stream)},
      {"relu_lets_negative_through", epilogue_law(relu_lets_negative_through{}, relu)},
      {"silu_with_wrong_sign", epilogue_law(silu_with_wrong_sign{}, silu)},
      {"silu_in_base_two", epilogue_law(silu_in_base_two{}, silu)},
      {"gelu_unscaled", epilogue_law(gelu_unscaled{}, gelu)},
      {"gelu_tanh_without_cube", epilogue_law(gelu_tanh_without_cube{}, gelu_tanh)},
      {"gelu_tanh_for_gelu", epilogue_law(policy::gelu_tanh{}, gelu)},
      {"chain_backwards", epilogue_law(chain_backwards<policy::bias<float>, policy::relu>{bias, {}}, relu_of_sum)},
      {"gated_swapped", gated_law(gated_swapped{})},
      {"gated_twice", gated_law(gated_twice{})},
      {"cast_truncates", cast_law(cast_truncates{})},
      {"merge_without_rescale", merge_law(merge_without_rescale)},
      {"merge_unnormalized", merge_law(merge_unnormalized)},
      {"merge_trusting_empties", merge_law(merge_trusting_empties)},
      {"merge_in_base_e", merge_law(merge_in_base_e)},
      {"merge_of_averages", merge_law(merge_of_averages)},
      {"rope_sign_of_first",
       rotation_law(
           policy::half_split{16}, false, [](float x, float y, turn r) { return x * r.cos + y * r.sin; }, right_second)},
      {"rope_sign_of_second",
       rotation_law(policy::half_split{16}, false, right_first, [](float x, float y, turn r) { return y * r.cos - x * r.sin; })},
      {"rope_backwards", rotation_law(policy::half_split{16}, false, right_first, right_second, -1)},
      {"rope_layouts_exchanged", rotation_law(policy::interleaved{16}, false, right_first, right_second)},
      {"half_split_of_neighbours", rotation_law(half_split_of_neighbours{{16}}, false, right_first, right_second)},
      {"half_split_own_partner", rotation_law(half_split_own_partner{{16}}, false, right_first, right_second)},
      {"interleaved_from_one", rotation_law(interleaved_from_one{{14}}, true, right_first, right_second)},
      {"compact_query_in_text", phase_law(compact_query_in_text{}, -1)},
      {"rotate_on_read_stored_rotated", phase_law(rotate_on_read_stored_rotated{}, -1)},
      {"alibi_rewards_distance", alibi_law(alibi_rewards_distance{{0.5f}})},
      {"alibi_one_sided", alibi_law(alibi_one_sided{{0.5f}})},
      {"int4_from_seven", codec_law(int4_from_seven{})},
  };
  for (const trial& t : own) {
    INFO(t.name);
    CHECK(t.holds);
  }
  int caught = 0, total = 0;
  for (const trial& t : mutants) {
    std::printf("%-36s %s\n", t.name, t.holds ? "ESCAPED" : "caught by its law");
    caught += !t.holds, ++total;
    INFO(t.name);
    CHECK_FALSE(t.holds);
  }
  std::printf("%d of %d mutant policies are caught\n", caught, total);
  std::fflush(stdout);
}
