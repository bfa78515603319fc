// Verb conformance, the values inside map: arithmetic, comparison, bits, lookup, functions.
#include "conformance.hpp"

using namespace conformance;

namespace {

// F over float inputs, result float
template <class F> struct mapped {
  static constexpr int R = 16, C = 32;
  struct arguments {
    view<const float> a, b;
    view<float> to;
    const float* table;
    int n;
  } x;
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.to.rows, R), ceil_div(x.to.cols, C), 1}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    tile<Block, float, R, C> a, b, out;
    block.load(a, x.a, block.x(), block.y());
    block.load(b, x.b, block.x(), block.y());
    block.map([table = x.table, n = x.n, i = block.x(), j = block.y(), source = x.a](auto p, auto q, auto r, auto c) {
      return F{}(p, q, r + i * R, c + j * C, table, n, source);
    }, out, a, b, row_index{}, column_index{});
    block.store(x.to, block.x(), block.y(), out);
  }
};

double bits(double a) {
  float f = float(a);
  std::uint32_t u;
  std::memcpy(&u, &f, 4);
  u = (u & 0x7fff0000) | 0x00010000;
  std::memcpy(&f, &u, 4);
  return f;
}
double at(const float* table, int i, int n) { return i >= 0 && i < n ? table[i] : 0; }

#define SMALTI_WORD(name, expression, expected)                                                                       \
  struct name {                                                                                                       \
    template <class P, class Q, class R, class C, class V>                                                            \
    SMALTI_HD auto operator()([[maybe_unused]] P a, [[maybe_unused]] Q b, [[maybe_unused]] R r, [[maybe_unused]] C c, \
                              [[maybe_unused]] const float* table, [[maybe_unused]] int n, [[maybe_unused]] V view) const { return expression; }       \
    static double want([[maybe_unused]] double a, [[maybe_unused]] double b, [[maybe_unused]] int r, [[maybe_unused]] int c,                       \
                       [[maybe_unused]] const float* table, [[maybe_unused]] int n) { return expected; }              \
  };
SMALTI_WORD(word_add, a + b * 2.0f - 1.0f, float(float(a + b * 2) - 1))
SMALTI_WORD(word_negate, -a * 1.5f, -a * 1.5)
SMALTI_WORD(word_divide, a / b, float(a / b))
SMALTI_WORD(word_over, over(a, b), a / b)
SMALTI_WORD(word_fma, fma(a, b, 0.25f), a* b + 0.25)
SMALTI_WORD(word_max, max(a, b) + max(a, 0.5f), float(std::max(a, b) + std::max(a, 0.5)))
SMALTI_WORD(word_min, min(a, b) + min(a, 0.5f), float(std::min(a, b) + std::min(a, 0.5)))
SMALTI_WORD(word_abs, abs(a), std::abs(a))
SMALTI_WORD(word_floor, floor(a), std::floor(a))
SMALTI_WORD(word_where, where(a < b && !(b > 3.0f), a, where(a >= 2.0f || a == b, 7.0f, b)), (a < b && !(b > 3) ? a : a >= 2 || a == b ? 7 : b))
SMALTI_WORD(word_index, to_float(r * 64 + c % 5), r * 64 + c % 5)
SMALTI_WORD(word_bits, bits_float((float_bits(a) & 0x7fff0000) | 0x00010000), bits(a))
SMALTI_WORD(word_ints, to_float(((to_int(a) << 3) ^ (r & 5)) >> 1) + to_float(min(r, 7) + max(c, 9) - c / 3), ((int(a) * 8) ^ (r & 5)) / 2 + (((int(a) * 8) ^ (r & 5)) < 0 && ((int(a) * 8) ^ (r & 5)) % 2 ? -1 : 0) + std::min(r, 7) + std::max(c, 9) - c / 3)
SMALTI_WORD(word_lookup, lookup(table, c - 4, n) + lookup(table, r, n) * 10.0f + lookup(table, (r * 7 + c * 3) % 50, n) * 100.0f, at(table, c - 4, n) + at(table, r, n) * 10 + at(table, (r * 7 + c * 3) % 50, n) * 100)
SMALTI_WORD(word_lookup_view, lookup(view, r, c) - lookup(view, r + 1, c + 1) * 0.0f, a)
SMALTI_WORD(word_exp2, exp2(a), std::exp2(a))
SMALTI_WORD(word_exp2_rough, exp2_rough(a), std::exp2(a))
SMALTI_WORD(word_log2, log2(abs(a) + 1.0f), std::log2(std::abs(a) + 1))
SMALTI_WORD(word_sqrt, sqrt(abs(a)), std::sqrt(std::abs(a)))
SMALTI_WORD(word_rsqrt, rsqrt(abs(a) + 0.5f), 1 / std::sqrt(std::abs(a) + 0.5))
SMALTI_WORD(word_tanh, tanh(a), std::tanh(a))
SMALTI_WORD(word_erf, erf(a), std::erf(a))
SMALTI_WORD(word_sin, sin(a), std::sin(a))
SMALTI_WORD(word_cos, cos(a), std::cos(a))

// relative: of the device against the host; own: of the host against the double function (absolute below 1)
template <class Word> void word(record& r, const char* name, double own, double relative) {
  const int rows = 48, cols = 64, n = 40;
  test::array<float> a(rows * cols), b(rows * cols), to(rows * cols), table(n);
  std::mt19937 generator(seed);
  for (float& v : a) v = float(int(generator() % 1025) - 512) / 128;          // multiples of 2^-7 in [-4, 4]
  for (float& v : b) v = float(int(generator() % 64) + 1) / 16;
  for (float& v : table) v = float(int(generator() % 9));
  run(mapped<Word>{{{a.data(), rows, cols, cols}, {b.data(), rows, cols, cols}, {to.data(), rows, cols, cols}, table.data(), n}});
  for (int i = 0; i < rows; ++i)
    for (int j = 0; j < cols; ++j) {
      const double want = Word::want(a[i * cols + j], b[i * cols + j], i, j, table.data(), n);
      CAPTURE(name, i, j, a[i * cols + j], b[i * cols + j], want, to[i * cols + j]);
      if (!(std::abs(to[i * cols + j] - want) <= own * std::max(1.0, std::abs(want)))) REQUIRE(to[i * cols + j] == want);
    }
  r.keep(name, to, relative);
}

}  // namespace

TEST_CASE("values inside map", "[tile][conformance]") {
  static record r("verb_values.bin");   // sections run one by one, and all go into one file
  SECTION("values that promise bits") {
    word<word_add>(r, "add", 0, 0);
    word<word_negate>(r, "negate", 0, 0);
    word<word_divide>(r, "divide", 0, 0);
    word<word_fma>(r, "fma", 0x1p-24, 0);
    word<word_max>(r, "max", 0, 0);
    word<word_min>(r, "min", 0, 0);
    word<word_abs>(r, "abs", 0, 0);
    word<word_floor>(r, "floor", 0, 0);
    word<word_where>(r, "where", 0, 0);
    word<word_index>(r, "index", 0, 0);
    word<word_bits>(r, "bits", 0, 0);
    word<word_ints>(r, "ints", 0, 0);
    word<word_lookup>(r, "lookup", 0, 0);
    word<word_lookup_view>(r, "lookup in a view", 0, 0);
  }
  SECTION("values with an error") {
    word<word_over>(r, "over", 0x1p-22, 0x1p-20);
    word<word_exp2>(r, "exp2", 0x1p-21, 0x1p-20);
    word<word_exp2_rough>(r, "exp2_rough", 0x1p-18, 0x1p-18);
    word<word_log2>(r, "log2", 0x1p-21, 0x1p-20);
    word<word_sqrt>(r, "sqrt", 0x1p-23, 0x1p-20);
    word<word_rsqrt>(r, "rsqrt", 0x1p-22, 0x1p-20);
    word<word_tanh>(r, "tanh", 0x1p-21, 0x1p-10);
    word<word_erf>(r, "erf", 0x1p-21, 0x1p-18);
    word<word_sin>(r, "sin", 0x1p-21, 0x1p-18);
    word<word_cos>(r, "cos", 0x1p-21, 0x1p-18);
  }
}
