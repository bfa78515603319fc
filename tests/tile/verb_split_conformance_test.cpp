// Verb conformance, split: an operand of floats as two of tf32, on either side of a product with the unit matrix, which
// gives the parts back to the bit; and a left operand that is loaded transposed.
#include "conformance.hpp"

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

}  // namespace

TEST_CASE("split gives two parts of tf32", "[tile][conformance]") {
  two_parts<false>();
  two_parts<true>();
}
