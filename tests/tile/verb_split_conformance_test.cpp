// Verb conformance, split: an operand of floats as two of tf32, on either side of a product with the unit matrix, which
// gives the parts back to the bit; and a left operand that is loaded transposed. part_columns and join_columns: columns in two and
// in one again. unpack_rows and unpack_columns: rows of codes with scales as operands, through the same product.
#include "conformance.hpp"
#include <smalti/policy/codecs/integer.hpp>

using namespace conformance;

namespace {

// high = x I, low = x I, and the same of x on the right; `turned`: the left one is loaded from x'
template <bool Turned> struct parts {
  static constexpr int N = 32;
  struct arguments {
    view<const float> x, unit;
    view<float, 1> high, low, right_high, right_low;
  } x;
  static constexpr grid blocks(const arguments&) { return {}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    left<Block, float, N, N> whole;
    left<Block, tf32, N, N> high, low, one;
    right<Block, float, N, N> whole_right;
    right<Block, tf32, N, N> high_right, low_right, one_right;
    tile<Block, float, N, N> acc;
    if constexpr (Turned) block.load(whole, transposed(x.x), 0, 0);
    else block.load(whole, x.x, 0, 0);
    block.load(whole_right, x.x, 0, 0);
    block.load(one, x.unit, 0, 0);
    block.load(one_right, x.unit, 0, 0);
    block.split(high, low, whole);
    block.split(high_right, low_right, whole_right);
    block.multiply(acc, high, one_right);
    block.store(x.high, 0, 0, acc);
    block.multiply(acc, low, one_right);
    block.store(x.low, 0, 0, acc);
    block.multiply(acc, one, high_right);
    block.store(x.right_high, 0, 0, acc);
    block.multiply(acc, one, low_right);
    block.store(x.right_low, 0, 0, acc);
  }
};

template <bool Turned> void two_parts() {
  record r(Turned ? "verb_split_turned.bin" : "verb_split.bin");
  constexpr int n = 28;                                      // ragged
  std::mt19937 generator(seed);
  std::uniform_real_distribution<float> some(-4, 4);
  test::array<float> x(n * 32), unit(n * 32), high(n * n), low(n * n), right_high(n * n), right_low(n * n);
  for (float& v : x) v = std::ldexp(some(generator), int(generator() % 40) - 20);
  for (int i = 0; i < n * 32; ++i) unit[i] = i / 32 == i % 32 ? 1.0f : 0.0f;
  run(parts<Turned>{{{x.data(), n, n, 32}, {unit.data(), n, n, 32}, {high.data(), n, n, n}, {low.data(), n, n, n}, {right_high.data(), n, n, n}, {right_low.data(), n, n, n}}});
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < n; ++j) {
      CAPTURE(seed, i, j);
      const auto check = [](float value, float h, float l) {
        REQUIRE(h == to_float(narrow<tf32>(value)));
        REQUIRE(l == to_float(narrow<tf32>(value - h)));
      };
      check(Turned ? x[j * 32 + i] : x[i * 32 + j], high[i * n + j], low[i * n + j]);
      check(x[i * 32 + j], right_high[i * n + j], right_low[i * n + j]);
    }
  r.keep("high", high), r.keep("low", low), r.keep("right high", right_high), r.keep("right low", right_low);
}

// rows = I X and X I with X of rows of codes on either side, turned = I X': the numbers of the codes, by a gather in reverse order and
// from where they lie. Groups of 2 rows and of Share numbers have a scale and a minimum.
template <class T, int Bits, int Share, bool Affine> struct rows_of_codes {
  static constexpr int N = 32, D = 64, W = D * Bits / 32, G = 2;
  using codec = policy::offset_int<Bits, Affine ? 0 : 1 << (Bits - 1)>;
  struct arguments {
    view<const std::uint32_t, 1> words;
    view<const fp16, 1> scales;
    view<const T> unit;
    view<float, 1> rows, back, turned;
  } x;
  static constexpr grid blocks(const arguments&) { return {}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    stored_rows<Block, std::uint32_t, N, W> in_order, reversed;
    stored_rows<Block, fp16, N / G, D / Share> scales, minima, scales_back, minima_back;
    column<Block, int, N> order;
    column<Block, int, N / G> groups;
    block.map([](auto r) { return N - 1 - r; }, order, row_index{});
    block.map([](auto r) { return N / G - 1 - r; }, groups, row_index{});
    block.load(in_order, x.words, 0, 0);
    block.load_rows(reversed, x.words, order, 0);
    block.load(scales, x.scales, 0, 0);
    block.load(minima, x.scales, 0, 1);
    block.load_rows(scales_back, x.scales, groups, 0);
    block.load_rows(minima_back, x.scales, groups, 1);
    right<Block, T, N, D> right_rows;
    right<Block, T, D, N> columns;
    left<Block, T, N, D> left_rows;
    left<Block, T, N, N> unit;
    left<Block, T, D, D> large_unit;
    right<Block, T, D, D> right_unit;
    tile<Block, float, N, D> out;
    tile<Block, float, D, N> out_turned;
    block.load(unit, x.unit, 0, 0);
    block.load(large_unit, x.unit, 0, 0);
    block.load(right_unit, x.unit, 0, 0);
    const auto unpack = [](auto& b, auto& rows, auto& columns_of, auto& other, const auto& w, const auto& back, const auto& s, const auto& m, const auto& sb, const auto& mb) {
      if constexpr (Affine) {
        b.unpack_rows(rows, codec{}, w, s, m);
        b.unpack_columns(columns_of, codec{}, w, s, m);
        b.unpack_rows(other, codec{}, back, sb, mb);
      } else {
        b.unpack_rows(rows, codec{}, w, s, unit_factor{});
        b.unpack_columns(columns_of, codec{}, w, s, unit_factor{});
        b.unpack_rows(other, codec{}, back, sb, unit_factor{});
      }
    };
    unpack(block, right_rows, columns, left_rows, in_order, reversed, scales, minima, scales_back, minima_back);
    block.multiply(out, unit, right_rows);
    block.store(x.rows, 0, 0, out);
    block.multiply(out, left_rows, right_unit);
    block.store(x.back, 0, 0, out);
    block.multiply(out_turned, large_unit, columns);
    block.store(x.turned, 0, 0, out_turned);
  }
};

template <class T, int Bits, int Share, bool Affine> void codes_in_rows(record& r, const std::string& name) {
  using agent = rows_of_codes<T, Bits, Share, Affine>;
  constexpr int n = agent::N, d = agent::D, w = agent::W, parts = d / Share;
  std::mt19937 generator(seed);
  test::array<std::uint32_t> words(n * w);
  test::array<fp16> scales(n / 2 * 2 * parts);
  test::array<T> unit(d * d);
  test::array<float> rows(n * d), back(n * d), turned(n * d);
  for (auto& word : words) word = std::uint32_t(generator());
  for (fp16& s : scales) s = narrow<fp16>(float(int(generator() % 1000) - 300) / 700.0f);
  for (int i = 0; i < d * d; ++i) unit[i] = narrow<T>(i / d == i % d ? 1.0f : 0.0f);
  run(agent{{{words.data(), n, w, w}, {scales.data(), n / 2, 2 * parts, 2 * parts}, {unit.data(), d, d, d}, {rows.data(), n, d, d}, {back.data(), n, d, d}, {turned.data(), d, n, n}}});
  for (int i = 0; i < n; ++i)
    for (int c = 0; c < d; ++c) {
      // Pair c / 2 of a row lies at position (c / 2) / w of word (c / 2) % w, its second number sixteen bits further.
      const unsigned code = words[i * w + c / 2 % w] >> (c / 2 / w * Bits + 16 * (c % 2)) & ((1u << Bits) - 1);
      const float scale = to_float(scales[i / 2 * 2 * parts + c / Share]), minimum = to_float(scales[i / 2 * 2 * parts + parts + c / Share]);
      const double exact = Affine ? double(code) * scale + minimum : (double(code) - (1 << (Bits - 1))) * scale;
      const double want = to_float(narrow<T>(float(exact))), unit_of = std::ldexp(std::abs(exact), std::is_same_v<T, bf16> ? -7 : -10) + 1e-7;   // a double rounding may differ from two
      CAPTURE(name, i, c, code, scale, minimum);
      REQUIRE(std::abs(rows[i * d + c] - want) <= unit_of);
      REQUIRE(std::abs(rows[i * d + c] - exact) <= unit_of / 2 * 1.001);
      REQUIRE(turned[c * n + i] == rows[i * d + c]);
      REQUIRE(back[(n - 1 - i) * d + c] == rows[i * d + c]);
    }
  r.keep(name, rows);
}

// x and y = the columns of a left operand in two; rows = I joined and joined I: the operand again, on either side.
template <class T, class Way> struct columns_in_two {
  static constexpr int N = 32, D = 64;
  struct arguments {
    view<const T> from, unit;
    view<float> first, second, rows, turned;
  } x;
  static constexpr grid blocks(const arguments&) { return {}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    left<Block, T, N, D> keys, joined;
    tile<Block, float, N, D / 2> one, two;
    block.load(keys, x.from, 0, 0);
    block.part_columns(one, two, keys, Way{});
    block.store(x.first, 0, 0, one);
    block.store(x.second, 0, 0, two);
    block.join_columns(joined, one, two, Way{});
    right<Block, T, D, D> unit;
    block.load(unit, x.unit, 0, 0);
    tile<Block, float, N, D> rows;
    block.multiply(rows, joined, unit);
    block.store(x.rows, 0, 0, rows);
    right<Block, T, D, N> columns;
    block.join_columns(columns, one, two, Way{});
    left<Block, T, D, D> left_unit;
    block.load(left_unit, x.unit, 0, 0);
    tile<Block, float, D, N> turned;
    block.multiply(turned, left_unit, columns);
    block.store(x.turned, 0, 0, turned);
  }
};
template <class T, class Way> void part_and_join(record& r, const std::string& name) {
  using agent = columns_in_two<T, Way>;
  constexpr int n = agent::N, d = agent::D, there = n - 5;        // rows past the end are zero
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  test::array<T> from(there * d), unit(d * d);
  test::array<float> x(n * d / 2), y(n * d / 2), rows(n * d), turned(n * d);
  for (T& v : from) v = narrow<T>(normal(generator));
  for (int i = 0; i < d * d; ++i) unit[i] = narrow<T>(i / d == i % d ? 1.0f : 0.0f);
  run(agent{{{from.data(), there, d, d}, {unit.data(), d, d, d}, {x.data(), n, d / 2, d / 2}, {y.data(), n, d / 2, d / 2}, {rows.data(), n, d, d}, {turned.data(), d, n, n}}});
  for (int i = 0; i < n; ++i)
    for (int c = 0; c < d; ++c) {
      constexpr bool pairs = std::is_same_v<Way, column_pairs>;
      const float want = i < there ? to_float(from[i * d + c]) : 0.0f, part = pairs ? (c % 2 ? y : x)[i * d / 2 + c / 2] : (c < d / 2 ? x : y)[i * d / 2 + c % (d / 2)];
      CAPTURE(name, i, c);
      REQUIRE(part == want);
      REQUIRE(rows[i * d + c] == want);
      REQUIRE(turned[c * n + i] == want);
    }
  r.keep(name, rows);
}

}  // namespace

TEST_CASE("columns of an operand are parted and joined", "[tile][conformance]") {
  record r("verb_columns.bin");
  part_and_join<bf16, column_halves>(r, "bf16, halves");
  part_and_join<bf16, column_pairs>(r, "bf16, pairs");
  part_and_join<fp16, column_halves>(r, "fp16, halves");
  part_and_join<fp16, column_pairs>(r, "fp16, pairs");
}

TEST_CASE("rows of codes become operands", "[tile][conformance]") {
  record r("verb_rows.bin");
  codes_in_rows<bf16, 8, 64, false>(r, "bf16 of 8 bits");
  codes_in_rows<bf16, 4, 32, true>(r, "bf16 of 4 bits, affine");
  codes_in_rows<bf16, 4, 16, false>(r, "bf16 of 4 bits, small groups");
  codes_in_rows<bf16, 2, 1, true>(r, "bf16 of 2 bits, affine, a scale for each");
  codes_in_rows<fp16, 8, 32, true>(r, "fp16 of 8 bits, affine");
}

TEST_CASE("split gives two parts of tf32", "[tile][conformance]") {
  two_parts<false>();
  two_parts<true>();
}
