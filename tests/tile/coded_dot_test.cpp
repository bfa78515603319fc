// Products with packed codes on the host: integers have the bits of the formula at the head of scaled_dot.hpp, bf16 operands its
// error; a row's bits do not depend on how many rows there are; nothing past the rows and columns that exist is read.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <vector>
#include <smalti/policy/codec.hpp>
#include <smalti/tile/host/block.hpp>
#include "support/guarded.hpp"

using namespace smalti;

#if defined(SMALTI_TEST_DOT_LEVEL)
static_assert(SMALTI_DOT_LEVEL == SMALTI_TEST_DOT_LEVEL);
#endif

namespace {
constexpr unsigned seed = 11;
constexpr int K = 128, N = 64, R = 64;

// Depth-tile Tile of random codes in words, and the values that they stand for, times what makes integers of them. Where the codes
// end within the first depth-tile of a word tile, so do the words.
template <class Codec, int Tile, int units> struct packed_words_of {
  using planes = policy::word_planes<Codec::bits, 4, K / 4>;
  std::vector<std::uint32_t> words[3];
  std::vector<float> value = std::vector<float>(std::size_t(K) * N);
  host::packed_words<N, K / 4> part[planes::parts];

  packed_words_of(std::mt19937& generator, int depth) {
    const int codes = Tile == 0 ? (depth + 31) / 32 * 32 : planes::step;
    for (int p = 0; p < planes::parts; ++p) words[p].assign(std::size_t(Tile == 0 ? planes::used_words(depth, p) : planes::words_of(codes, p)) * N, 0);
    for (int k = 0; k < codes; ++k)
      for (int n = 0; n < N; ++n) {
        const unsigned code = unsigned(generator() % (1u << Codec::bits));
        if (k / K == Tile) value[std::size_t(k % K) * N + n] = Codec::value(code) * float(units);
        for (int p = 0; p < planes::parts; ++p) {
          const auto at = planes::place(k, p);
          words[p][std::size_t(at.word) * N + n] |= (code >> planes::shift(p) & ((1u << planes::width(p)) - 1)) << at.bit;
        }
      }
    for (int p = 0; p < planes::parts; ++p) {
      part[p].data = words[p].data() + std::size_t(planes::word_tile(Tile, p)) * (K / 4) * N, part[p].stride = N;
      if (Tile == 0) part[p].rows = int(words[p].size()) / N;
    }
  }
  template <class Operand> void unpack(Operand& b) const {
    if constexpr (planes::parts == 1) host::block::unpack<Tile>(b, Codec{}, part[0]);
    else if constexpr (planes::parts == 2) host::block::unpack<Tile>(b, Codec{}, part[0], part[1]);
    else host::block::unpack<Tile>(b, Codec{}, part[0], part[1], part[2]);
  }
};

template <int G> struct factors {
  host::factor_array<R, G> left, sums;
  host::array_tile<float, G, N> right, minima;
  explicit factors(std::mt19937& generator) {
    const auto draw = [&] { return std::ldexp(1.0f + float(generator() % 4096) / 4096, -int(generator() % 6)); };
    for (int g = 0; g < G; ++g) {
      for (int r = 0; r < left.padded; ++r) left.v[g][r] = draw(), sums.v[g][r] = draw();
      for (int n = 0; n < N; ++n) right.v[g][n] = draw(), minima.v[g][n] = draw();
    }
  }
};

template <class T, class Codec, int Tile, int G, bool Corrected> void multiplies(int live, int depth) {
  CAPTURE(seed, live, depth, Codec::bits, Tile, G, Corrected);
  std::mt19937 generator(seed + live * 7 + depth);
  constexpr bool integers = std::is_same_v<T, std::int8_t>;
  const packed_words_of<Codec, Tile, integers ? policy::integer_scale<Codec> : 1> codes(generator, depth);
  const auto f = std::make_unique<factors<G>>(generator);
  guarded<T> x(std::size_t(live) * depth);      // rows one after another: a read past the last one is seen
  for (int i = 0; i < live * depth; ++i) {
    if constexpr (integers) x[i] = T(int(generator() % 255) - 127);
    else x[i] = narrow<T>(float(int(generator() % 513) - 256) / 64);
  }
  const auto run = [&](int first, int rows, host::array_tile<float, R, N>& acc) {
    host::block block(0, 0, 0);
    const auto a = std::make_unique<host::left_panel<T, R, K>>();
    typename host::block::coded<T, Codec, K, N, Tile> b;
    block.load(*a, view<const T, 1>{&x[std::size_t(first) * depth], rows, depth, depth}, 0, 0);
    codes.unpack(b);
    if constexpr (Corrected) block.product(acc, *a, b, f->left, f->right, f->sums, f->minima);
    else block.product(acc, *a, b, f->left, f->right);
  };
  const auto acc = std::make_unique<host::array_tile<float, R, N>>(), one = std::make_unique<host::array_tile<float, R, N>>();
  for (auto& row : acc->v)
    for (float& v : row) v = 0.5f;
  std::memcpy(one->v, acc->v, sizeof acc->v);
  run(0, live, *acc);
  run(0, 1, *one);
  REQUIRE(std::memcmp(one->v[0], acc->v[0], sizeof acc->v[0]) == 0);
  constexpr int group = K / G;
  for (int r = 0; r < live; ++r)
    for (int n = 0; n < N; ++n) {
      float want = 0.5f;
      double exact = 0.5, size = 0.5;
      for (int g = 0; g * group < depth; ++g) {
        double sum = 0, magnitude = 0;
        for (int k = g * group; k < std::min(depth, (g + 1) * group); ++k) {
          double v;
          if constexpr (integers) v = x[std::size_t(r) * depth + k];
          else v = to_float(x[std::size_t(r) * depth + k]);
          sum += v * codes.value[std::size_t(k) * N + n], magnitude += std::abs(v * codes.value[std::size_t(k) * N + n]);
        }
        const float scale = f->left.v[g][r] * f->right.v[g][n];
        want = std::fma(float(sum), scale, want);
        exact += sum * double(f->left.v[g][r]) * f->right.v[g][n], size += magnitude * scale;
        if (Corrected) {
          want = std::fma(f->sums.v[g][r], f->minima.v[g][n], want);
          exact += double(f->sums.v[g][r]) * f->minima.v[g][n], size += f->sums.v[g][r] * f->minima.v[g][n];
        }
      }
      const bool good = integers && SMALTI_DOT_LEVEL >= 1 ? acc->v[r][n] == want : std::fabs(acc->v[r][n] - exact) <= (K + 8) * 0x1p-24 * size;
      if (!good) {
        CAPTURE(r, n, exact);
        REQUIRE(acc->v[r][n] == want);
      }
    }
}

template <class T, class Codec, int Tile, int G, bool Corrected> void everywhere() {
  for (const int live : {1, 2, 3, 4, 5, 8, 15, 16, 17, 31, 33, 64}) multiplies<T, Codec, Tile, G, Corrected>(live, K);
  for (const int depth : {4, 36, 100}) {
    multiplies<T, Codec, Tile, G, Corrected>(3, depth);
    multiplies<T, Codec, Tile, G, Corrected>(20, depth);
  }
}
}  // namespace

TEST_CASE("packed codes times 8-bit rows have the bits of the formula", "[tile][host]") {
  everywhere<std::int8_t, policy::offset_int<4>, 0, 4, false>();
  everywhere<std::int8_t, policy::offset_int<4, 0>, 1, 4, true>();
  everywhere<std::int8_t, policy::offset_int<8>, 0, 1, false>();
  everywhere<std::int8_t, policy::offset_int<6>, 1, 8, true>();
  everywhere<std::int8_t, policy::e2m1, 0, 4, false>();
}

TEST_CASE("packed codes times bf16 rows keep the error of the product", "[tile][host]") {
  everywhere<bf16, policy::offset_int<4>, 1, 1, false>();
  everywhere<bf16, policy::offset_int<4, 0>, 0, 4, true>();
  everywhere<bf16, policy::offset_int<5>, 0, 8, false>();
  everywhere<bf16, policy::offset_int<8>, 0, 1, false>();
  everywhere<bf16, policy::e2m1, 1, 4, true>();
}
