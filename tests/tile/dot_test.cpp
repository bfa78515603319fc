// The host machine's inner products, every way that this build contains: the one dot() chooses and those it falls
// back to or chooses on other processors. The text is compiled once for each SMALTI_DOT_LEVEL.
#include <smalti/tile/host/dot.hpp>

#include <catch2/catch.hpp>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <thread>
#include <type_traits>
#include <vector>

#include "../reference/product.hpp"
#include "../support/guarded.hpp"

namespace {

namespace host = smalti::host;
using smalti::bf16;
using smalti::to_float;

#if defined(SMALTI_TEST_DOT_LEVEL)
static_assert(SMALTI_DOT_LEVEL <= SMALTI_TEST_DOT_LEVEL, "this build was to test another set of instructions");
#endif

bool processor_can() {
#if SMALTI_DOT_LEVEL >= 3
  return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
#elif SMALTI_DOT_LEVEL == 2
  return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
#elif SMALTI_DOT_LEVEL == 1
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return true;
#endif
}
#define NEEDS_PROCESSOR() \
  if (!processor_can()) { WARN("skipped: this processor lacks the instructions of this build"); return; } \
  static_assert(true)

enum class order { fused, unfused, odd_first, blocks_of_32 };

template <class Acc, class T> struct way {
  const char* name;
  void (*run)(Acc*, std::int64_t, const T*, std::int64_t, const T*, std::int64_t, int, int, int);
  order sums = order::fused;
  bool keeps_subnormals = true;
};
using float_way = way<float, float>;
using bf16_way = way<float, bf16>;
using int8_way = way<std::int32_t, std::int8_t>;

namespace detail = host::detail;
using detail::bytes;
using detail::word;
using vector = detail::dot_vector;

template <class Steps, class Acc, class T>
void through(Acc* acc, std::int64_t acc_stride, const T* left, std::int64_t left_stride, const T* right, std::int64_t right_width,
             int rows, int cols, int k) {
  detail::dot_panel<Steps>(bytes(acc), acc_stride * word, bytes(left), left_stride * std::int64_t(sizeof(T)), bytes(right), right_width,
                           rows, cols, k / int(word / sizeof(T)));
}

// int8; columns beside each other, or in strips of 64 with a gap.
template <class Steps, bool Strips>
void quads_through(std::int32_t* acc, std::int64_t acc_stride, const std::int8_t* left, std::int64_t left_stride, const std::int8_t* right,
                   std::int64_t right_width, int rows, int cols, int k) {
  if constexpr (Strips) {
    const std::int64_t pitch = k * 64 + 64;
    std::vector<std::int8_t> strips(std::size_t((cols + 63) / 64 * pitch));
    for (int p = 0; p < k; p += 4)
      for (int n = 0; n < cols; ++n)
        std::memcpy(&strips[std::size_t(n / 64 * pitch + p * 64 + n % 64 * 4)], right + p * right_width + n * 4, 4);
    detail::dot_quads<Steps>(bytes(acc), acc_stride * word, bytes(left), left_stride, bytes(strips.data()), 64, rows, cols, k / 4, nullptr, pitch);
  } else {
    detail::dot_quads<Steps>(bytes(acc), acc_stride * word, bytes(left), left_stride, bytes(right), right_width, rows, cols, k / 4);
  }
}

std::vector<float_way> float_ways() {
  return {{"dot", [](auto... x) { host::dot(x...); }, SMALTI_DOT_LEVEL == 0 ? order::unfused : order::fused}};
}
std::vector<bf16_way> bf16_ways() {
  std::vector<bf16_way> ways;
  const auto widened = [](float* acc, std::int64_t acc_stride, const bf16* left, std::int64_t left_stride, const bf16* right,
                          std::int64_t right_width, int rows, int cols, int k) {
    detail::dot_widened<vector>(bytes(acc), acc_stride * word, bytes(left), left_stride * 2, bytes(right), right_width, rows, cols, k / 2);
  };
  bf16_way chosen{"dot", [](auto... x) { host::dot(x...); }};
  ways.push_back({"widened", widened});
#if SMALTI_DOT_LEVEL >= 3
  ways.push_back({"pairs", through<detail::pair_steps, float, bf16>, order::odd_first, false});
  if (detail::pair_instruction_is_faster()) chosen.sums = order::odd_first, chosen.keeps_subnormals = false;
#endif
#if SMALTI_DOT_LEVEL >= 4
  if (detail::amx_is_usable()) chosen.sums = order::blocks_of_32, chosen.keeps_subnormals = false;
#endif
  ways.push_back(chosen);
  return ways;
}
std::vector<int8_way> int8_ways() {
  std::vector<int8_way> ways{
      {"dot", [](std::int32_t* a, std::int64_t b, const std::int8_t* c, std::int64_t d, const std::int8_t* e, std::int64_t f, int g,
                 int h, int i) { host::dot(a, b, c, d, e, f, g, h, i); }},
      {"split bytes", quads_through<detail::split_quad_steps<vector>, false>},
      {"split bytes in strips", quads_through<detail::split_quad_steps<vector>, true>}};
#if SMALTI_DOT_LEVEL >= 3
  ways.push_back({"quads", quads_through<detail::quad_steps, false>});
  ways.push_back({"quads in strips", quads_through<detail::quad_steps, true>});
#endif
  return ways;
}

float value(float x) { return x; }
float value(bf16 x) { return to_float(x); }
int value(std::int8_t x) { return x; }

// One product: the left rows and the right panel end at a page that may not be read, guard bands around acc.
template <class Acc, class T> struct problem {
  static constexpr int per_word = 4 / int(sizeof(T)), band = 24;
  int rows, cols, k;
  std::int64_t left_stride, right_width, first_col, acc_stride;
  guarded<T> left, right;
  std::vector<Acc> store;
  std::vector<Acc> before;

  problem(int r, int c, int depth, int left_gap, int right_gap, int acc_gap)
      : rows(r), cols(c), k(depth), left_stride(depth + left_gap), right_width(c + right_gap), first_col(right_gap),
        acc_stride(c + acc_gap), left(r > 0 ? std::size_t((r - 1) * left_stride + depth) : 0),
        right(std::size_t(depth * right_width)), store(std::size_t((r + 2) * acc_stride + 2 * band + 16)) {}

  Acc* acc() {   // 64-byte aligned, with a row and a band before it
    auto at = reinterpret_cast<std::uintptr_t>(store.data() + band + acc_stride);
    return reinterpret_cast<Acc*>((at + 63) / 64 * 64);
  }
  const T* panel() const { return right.data() + first_col * per_word; }
  T& right_at(int p, int n) { return right[std::size_t((p / per_word * right_width + first_col + n) * per_word + p % per_word)]; }
  auto left_row(int r) const { return [this, r](int p) { return value(left[std::size_t(r * left_stride + p)]); }; }
  auto right_col(int n) { return [this, n](int p) { return value(right_at(p, n)); }; }

  template <class F, class G> void fill(F element, G start) {
    const std::size_t lefts = rows > 0 ? std::size_t((rows - 1) * left_stride + k) : 0;
    for (std::size_t i = 0; i < lefts; ++i) left[i] = element();
    for (std::size_t i = 0; i < std::size_t(k * right_width); ++i) right[i] = element();
    for (auto& x : store) x = start();
    before = store;
  }
  Acc started(int r, int n) { return before[std::size_t(acc() - store.data()) + std::size_t(r * acc_stride + n)]; }
  Acc result(int r, int n) { return acc()[r * acc_stride + n]; }
  void reset() { store = before; }
  template <class Way> void run(const Way& way) {
    way.run(acc(), acc_stride, left.data(), left_stride, panel(), right_width, rows, cols, k);
  }
  bool bands_intact() {
    const std::ptrdiff_t first = acc() - store.data();
    for (std::ptrdiff_t i = 0; i < std::ptrdiff_t(store.size()); ++i) {
      const std::ptrdiff_t at = i - first;
      const bool inside = at >= 0 && at < rows * acc_stride && at % acc_stride < cols;
      if (!inside && std::memcmp(&store[std::size_t(i)], &before[std::size_t(i)], sizeof(Acc)) != 0) return false;
    }
    return true;
  }
};

struct shape { int rows, cols, k; };
// All rows with few shapes of the rest, all of the rest with few rows.
std::vector<shape> shapes(std::initializer_list<int> depths) {
  std::vector<shape> all;
  for (int rows = 0; rows <= 37; ++rows)
    for (int cols : {16, 96})
      for (int k : {36, 68}) all.push_back({rows, cols, k});
  for (int rows : {1, 2, 7, 18, 33, 65})
    for (int cols : {16, 32, 48, 64, 80, 112, 128, 144})
      for (int k : depths) all.push_back({rows, cols, k});
  all.push_back({192, 64, 256});
  all.push_back({120, 128, 520});
  all.push_back({391, 80, 148});                       // more rows than are widened at a time, and more steps
  return all;
}

unsigned seed_of(shape s) { return 1234567u + unsigned(s.rows * 100003 + s.cols * 1009 + s.k); }

template <class T> T narrowed(float x) {
  if constexpr (std::is_same_v<T, float>) return x;
  else return smalti::narrow<T>(x);
}

// An f32 sum of k products in any order, one rounding each (two for f32 products that are not fused), is within
// gamma(k + 1) = (k + 1) u / (1 - (k + 1) u) of the sum of absolute values, u = 2^-24: Higham, Accuracy and Stability,
// section 3.1. One more u covers the fused case's product.
double bound(int k, double size) { return (k + 2) * std::ldexp(1.0, -24) * 1.001 * size; }

template <class T> void against_double(const std::vector<way<float, T>>& ways, std::initializer_list<int> depths) {
  for (const shape s : shapes(depths)) {
    const unsigned seed = seed_of(s);
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    const int gap = int(random() % 3);
    problem<float, T> x(s.rows, s.cols, s.k, gap * 3, gap * 16, gap == 1 ? 0 : 16);
    x.fill([&] { return narrowed<T>(normal(random)); }, [&] { return normal(random); });
    for (const auto& way : ways) {
      x.reset();
      x.run(way);
      CAPTURE(way.name, s.rows, s.cols, s.k, gap, seed);
      REQUIRE(x.bands_intact());
      double worst = 0;
      int at_row = 0, at_col = 0;
      for (int r = 0; r < s.rows; ++r)
        for (int n = 0; n < s.cols; ++n) {
          const reference::product exact(x.started(r, n), s.k, x.left_row(r), x.right_col(n));
          const double share = std::fabs(x.result(r, n) - exact.sum) / bound(s.k, exact.size);
          if (!(share <= worst)) worst = share, at_row = r, at_col = n;
        }
      CAPTURE(at_row, at_col);
      REQUIRE(worst <= 1.0);
    }
  }
}

template <class T> void to_the_bit(const std::vector<way<float, T>>& ways, int rows, int cols, int k) {
  const unsigned seed = seed_of({rows, cols, k});
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  problem<float, T> x(rows, cols, k, 2, 16, 16);
  x.fill([&] { return narrowed<T>(normal(random)); }, [&] { return normal(random); });
  for (const auto& way : ways) {
    if (way.sums == order::unfused) continue;
    x.reset();
    x.run(way);
    CAPTURE(way.name, rows, cols, k, seed);
    int wrong = 0;
    for (int r = 0; r < rows; ++r)
      for (int n = 0; n < cols; ++n) {
        const auto sum = way.sums == order::fused       ? reference::in_order<decltype(x.left_row(0)), decltype(x.right_col(0))>
                         : way.sums == order::odd_first ? reference::odd_first<decltype(x.left_row(0)), decltype(x.right_col(0))>
                                                        : reference::in_blocks_of_32<decltype(x.left_row(0)), decltype(x.right_col(0))>;
        wrong += x.result(r, n) != sum(x.started(r, n), k, x.left_row(r), x.right_col(n));
      }
    REQUIRE(wrong == 0);
  }
}

template <class Acc, class T, class F> void rows_are_alone(const std::vector<way<Acc, T>>& ways, F element) {
  const int cols = 144, k = 324;
  for (int rows : {2, 5, 17, 18, 40}) {
    problem<Acc, T> x(rows, cols, k, 0, 0, 0);
    x.fill(element, [] { return Acc(3); });
    for (const auto& way : ways) {
      x.reset();
      x.run(way);
      std::vector<Acc> together(x.acc(), x.acc() + rows * cols);
      x.reset();
      for (int r = 0; r < rows; ++r)
        way.run(x.acc() + r * cols, cols, x.left.data() + r * x.left_stride, x.left_stride, x.panel(), x.right_width, 1, cols, k);
      CAPTURE(way.name, rows);
      REQUIRE(std::memcmp(together.data(), x.acc(), together.size() * sizeof(Acc)) == 0);
      x.reset();   // nor does a column's
      for (int n = 0; n < cols; n += 48)
        way.run(x.acc() + n, cols, x.left.data(), x.left_stride, x.panel() + n * x.per_word, x.right_width, rows, 48, k);
      REQUIRE(std::memcmp(together.data(), x.acc(), together.size() * sizeof(Acc)) == 0);
    }
  }
}

template <class Acc, class T> void nothing_to_do(const std::vector<way<Acc, T>>& ways) {
  for (const shape s : {shape{0, 32, 64}, shape{3, 0, 64}, shape{3, 32, 0}}) {
    problem<Acc, T> x(s.rows, s.cols, s.k, 0, 0, 16);
    x.fill([] { return T{}; }, [] { return Acc(5); });
    for (const auto& way : ways) {
      x.run(way);
      CAPTURE(way.name, s.rows, s.cols, s.k);
      REQUIRE(x.store == x.before);
    }
  }
}

}  // namespace

TEST_CASE("f32 and bf16 products are within the error of their sums", "[tile][dot]") {
  NEEDS_PROCESSOR();
  against_double<float>(float_ways(), {1, 2, 3, 7, 34, 100, 129, 257});
  against_double<bf16>(bf16_ways(), {2, 4, 6, 30, 32, 34, 64, 100, 256, 258, 520});
}

TEST_CASE("sums are rounded in the order that is documented", "[tile][dot]") {
  NEEDS_PROCESSOR();
  for (int rows : {1, 5, 16, 33, 65})
    for (int k : {2, 32, 34, 126, 128, 130, 256, 390}) {
      to_the_bit<float>(float_ways(), rows, 80, k + 1);
      to_the_bit<bf16>(bf16_ways(), rows, 80, k);
    }
}

TEST_CASE("int8 products are exact modulo 2^32", "[tile][dot]") {
  NEEDS_PROCESSOR();
  auto all = shapes({4, 8, 60, 64, 68, 100, 256, 516, 1028});
  all.push_back({200, 80, 516});                       // more rows than are prepared at a time
  for (const shape s : all) {
    const unsigned seed = seed_of(s);
    std::mt19937 random(seed);
    const int gap = int(random() % 3), kind = int(random() % 3);
    problem<std::int32_t, std::int8_t> x(s.rows, s.cols, s.k, gap * 3, gap * 16, gap == 1 ? 0 : 16);
    x.fill([&] { return std::int8_t(kind == 0 ? -128 : kind == 1 ? (random() % 2 ? 127 : -128) : int(random() % 256) - 128); },
           [&] { return std::int32_t(kind == 0 ? 0x7fffffff : int(random())); });
    std::vector<std::int32_t> sums(std::size_t(s.cols), 0);
    for (int n = 0; n < s.cols; ++n) sums[std::size_t(n)] = reference::integer_product(0, s.k, [](int) { return 1; }, x.right_col(n));
    const auto check = [&](const char* name) {
      CAPTURE(name, s.rows, s.cols, s.k, gap, kind, seed);
      REQUIRE(x.bands_intact());
      int wrong = 0;
      for (int r = 0; r < s.rows; ++r)
        for (int n = 0; n < s.cols; ++n)
          wrong += x.result(r, n) != reference::integer_product(x.started(r, n), s.k, x.left_row(r), x.right_col(n));
      REQUIRE(wrong == 0);
    };
    for (const auto& way : int8_ways()) {
      x.reset();
      x.run(way);
      check(way.name);
    }
    x.reset();
    host::dot(x.acc(), x.acc_stride, x.left.data(), x.left_stride, x.panel(), x.right_width, s.rows, s.cols, s.k, sums.data());
    check("dot with sums of the columns");
#if SMALTI_DOT_LEVEL >= 3
    x.reset();
    detail::dot_quads<detail::quad_steps>(bytes(x.acc()), x.acc_stride * word, bytes(x.left.data()), x.left_stride, bytes(x.panel()),
                                          x.right_width, s.rows, s.cols, s.k / 4, sums.data());
    check("quads with sums of the columns");
#endif
  }
}

TEST_CASE("a row's bits depend neither on the other rows nor on the other columns", "[tile][dot]") {
  NEEDS_PROCESSOR();
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  rows_are_alone<float, float>(float_ways(), [&] { return normal(random); });
  rows_are_alone<float, bf16>(bf16_ways(), [&] { return smalti::narrow<bf16>(normal(random)); });
  rows_are_alone<std::int32_t, std::int8_t>(int8_ways(), [&] { return std::int8_t(random()); });
}

TEST_CASE("no rows, no columns, no depth: nothing is touched", "[tile][dot]") {
  NEEDS_PROCESSOR();
  nothing_to_do<float, float>(float_ways());
  nothing_to_do<float, bf16>(bf16_ways());
  nothing_to_do<std::int32_t, std::int8_t>(int8_ways());
}

namespace {

template <class T> void special_values(const std::vector<way<float, T>>& ways) {
  const float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const int rows = 35, cols = 48, k = 70;
  for (int p : {0, 1, 33, 69})
    for (const auto& way : ways) {
      problem<float, T> x(rows, cols, k, 0, 0, 0);
      x.fill([] { return narrowed<T>(1.0f); }, [] { return 0.0f; });
      const auto left = [&](int r) -> T& { return x.left[std::size_t(r * x.left_stride + p)]; };
      left(0) = narrowed<T>(infinity);
      left(1) = narrowed<T>(nan);
      left(2) = narrowed<T>(-infinity);
      left(34) = narrowed<T>(0.0f);
      x.right_at(p, 17) = narrowed<T>(0.0f);
      x.right_at(p, 20) = narrowed<T>(infinity);
      x.acc()[5 * cols + 3] = infinity;
      x.acc()[6 * cols + 3] = nan;
      x.run(way);
      CAPTURE(way.name, p);
      for (int n = 0; n < cols; ++n) {
        CAPTURE(n);
        REQUIRE((n == 17 ? std::isnan(x.result(0, n)) : x.result(0, n) == infinity));
        REQUIRE(std::isnan(x.result(1, n)));
        REQUIRE((n == 17 ? std::isnan(x.result(2, n)) : x.result(2, n) == -infinity));
        REQUIRE((n == 20 ? std::isnan(x.result(34, n)) : x.result(34, n) == 69.0f));
        REQUIRE((n == 20 ? x.result(3, n) == infinity : x.result(3, n) == (n == 17 ? 69.0f : 70.0f)));
      }
      REQUIRE(x.result(5, 3) == infinity);
      REQUIRE(std::isnan(x.result(6, 3)));
    }
  for (const auto& way : ways) {   // past the largest float
    problem<float, T> x(20, 32, 4, 0, 0, 0);
    x.fill([] { return narrowed<T>(std::ldexp(1.0f, 126)); }, [] { return 0.0f; });
    x.run(way);
    CAPTURE(way.name);
    REQUIRE(x.result(0, 0) == infinity);
    REQUIRE(x.result(19, 31) == infinity);
  }
}

template <class T> void subnormal_values(const std::vector<way<float, T>>& ways) {
  const float tiny = std::ldexp(1.0f, -133);   // the least bf16
  for (const auto& way : ways) {
    problem<float, T> x(20, 32, 2, 0, 0, 0);
    x.fill([] { return T{}; }, [] { return 0.0f; });
    x.left[0] = narrowed<T>(tiny);                             // row 0: a subnormal operand
    x.left[2] = narrowed<T>(std::ldexp(1.0f, -80));            // row 1: a subnormal result
    for (int n = 0; n < 32; ++n) x.right_at(0, n) = narrowed<T>(std::ldexp(1.0f, n < 16 ? 100 : -60));
    x.run(way);
    CAPTURE(way.name);
    REQUIRE(x.result(0, 0) == (way.keeps_subnormals ? std::ldexp(1.0f, -33) : 0.0f));
    REQUIRE(x.result(1, 0) == std::ldexp(1.0f, 20));
    REQUIRE(x.result(1, 16) == (way.keeps_subnormals ? std::ldexp(1.0f, -140) : 0.0f));
  }
}

}  // namespace

TEST_CASE("infinities, NaN and subnormals", "[tile][dot]") {
  NEEDS_PROCESSOR();
  special_values<float>(float_ways());
  special_values<bf16>(bf16_ways());
  subnormal_values<float>(float_ways());
  subnormal_values<bf16>(bf16_ways());
}

TEST_CASE("threads may call at the same time, also ones that start later", "[tile][dot]") {
  NEEDS_PROCESSOR();
  std::mt19937 random(11);
  problem<std::int32_t, std::int8_t> x(70, 64, 256, 0, 0, 0);
  x.fill([&] { return std::int8_t(random()); }, [] { return 0; });
  std::vector<std::vector<std::int32_t>> results(4, std::vector<std::int32_t>(70 * 64));
  std::vector<std::thread> threads;
  for (auto& out : results)
    threads.emplace_back([&] {
      for (int i = 0; i < 50; ++i) host::dot(out.data(), 64, x.left.data(), 256, x.panel(), x.right_width, 70, 64, 256);
    });
  for (auto& t : threads) t.join();
  int wrong = 0;
  for (int r = 0; r < 70; ++r)
    for (int n = 0; n < 64; ++n)
      for (const auto& out : results)
        wrong += out[std::size_t(r * 64 + n)] != 50 * reference::integer_product(0, 256, x.left_row(r), x.right_col(n));
  REQUIRE(wrong == 0);
}

TEST_CASE("left rows far apart, in parts of k for 64 columns, have the bits of rows side by side", "[tile][dot]") {
  std::mt19937 generator(20260912);
  CAPTURE(20260912);
  for (const int rows : {32, 64, 48})
    for (const int cols : {48, 64, 112, 128, 16})
      for (const int k : {600, 320, 258}) {
        constexpr int apart = 640, wide = 128;      // rows 1,280 bytes from each other
        std::vector<bf16> left(std::size_t(rows) * apart), near(std::size_t(rows) * k), right(std::size_t(wide) * k);
        for (auto* v : {&left, &right})
          for (bf16& x : *v) x = smalti::narrow<bf16>(float(int(generator() % 2001) - 1000) / 512);
        for (int r = 0; r < rows; ++r) std::copy_n(left.begin() + std::size_t(r) * apart, k, near.begin() + std::size_t(r) * k);
        std::vector<float> far_sums(std::size_t(rows) * wide, 3.0f), near_sums(far_sums);
        // strips of 32 columns, k / 2 pairs of 32 each
        host::dot_strips<false>(far_sums.data(), wide, left.data(), apart, right.data(), std::int64_t(k) * 32, rows, cols, k);
        for (int n = 0; n < cols; n += 32) host::dot(near_sums.data() + n, wide, near.data(), k, right.data() + std::size_t(n / 32) * k * 32, 32, rows, std::min(32, cols - n), k);
        CAPTURE(rows, cols, k);
        REQUIRE(std::memcmp(far_sums.data(), near_sums.data(), far_sums.size() * sizeof(float)) == 0);
        host::dot_strips<true>(far_sums.data(), wide, left.data(), apart, right.data(), std::int64_t(k) * 32, rows, cols, k);
        for (int r = 0; r < rows; ++r) std::fill_n(near_sums.begin() + std::size_t(r) * wide, cols, 0.0f);
        for (int n = 0; n < cols; n += 32) host::dot(near_sums.data() + n, wide, near.data(), k, right.data() + std::size_t(n / 32) * k * 32, 32, rows, std::min(32, cols - n), k);
        REQUIRE(std::memcmp(far_sums.data(), near_sums.data(), far_sums.size() * sizeof(float)) == 0);
      }
}

#if SMALTI_DOT_LEVEL >= 4
TEST_CASE("a tile configuration left behind by others does no harm", "[tile][dot]") {
  if (!detail::amx_is_usable()) { WARN("skipped: no AMX here"); return; }
  problem<float, bf16> x(33, 48, 66, 0, 0, 0);
  x.fill([] { return smalti::narrow<bf16>(1.0f); }, [] { return 0.0f; });
  detail::amx_configure(3, 0, 5);
  x.run(bf16_ways().back());
  REQUIRE(x.result(0, 0) == 66.0f);
  REQUIRE(x.result(32, 47) == 66.0f);
}
#endif
