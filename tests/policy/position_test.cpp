#include <catch2/catch.hpp>
#include <algorithm>
#include <cmath>
#include <random>
#include <vector>
#include <smalti/policy/position.hpp>
#if !defined(__CUDACC__)
#include <smalti/tile/host/math.hpp>
#endif
#include "../reference/position.hpp"

using namespace smalti;
using namespace smalti::policy;

namespace {

const double two_pi = 2 * std::acos(-1.0);

// What the header states: 2^-22.5 turns = 1.06e-6 rad of the angle, and 1.2e-7 of its sine and cosine.
constexpr double angle_error = 1.2e-6;
// From tables: one rounding to f32 of a value up to 1.
constexpr double table_error = 1.0 / (1 << 25) + 1e-9;

std::vector<double> random_vector(int n, std::mt19937& random) {
  std::uniform_real_distribution<double> u(-1, 1);
  std::vector<double> x(n);
  for (double& v : x) v = double(float(u(random)));
  return x;
}

double norm(const std::vector<double>& x) { return std::sqrt(oracle::dot(x, x)); }

template <class Scaling> std::vector<long double> frequencies_of(const rotary<Scaling>& r) {
  std::vector<long double> f;
  for (int i = 0; i < r.pairs(); ++i) f.push_back((long double)(r.scaling.inverse_frequency(i, r.dims, r.base)));
  return f;
}

// One head rotated through the in-register form.
template <class Layout>
std::vector<double> rotated(const Layout& layout, const rotary<>& r, std::vector<double> x, int position) {
  for (int i = 0; i < r.pairs(); ++i) {
    const auto turn = rotation_at(position, frequency_of(r.turns_per_token(i)));
    const float a = float(x[layout.first(i)]), b = float(x[layout.second(i)]);
    x[layout.first(i)] = double(rotate_first(a, b, turn));
    x[layout.second(i)] = double(rotate_second(a, b, turn));
  }
  return x;
}

const std::vector<int> positions{0, 1, 2, 7, 4095, 4096, 4097, 8191, 65537, 131071, 524287, 1048575, 1048576, 10000019, 16777215};

}  // namespace

TEST_CASE("the angle at a position is right at every position in reach", "[policy][position]") {
  const double base = GENERATE(10000.0, 500000.0, 1e6, 2.0);
  const rotary<> r{128, base};
  double worst_turns = 0, worst = 0;
  const auto compare = [&](int position, int pair) {
    const double step = r.turns_per_token(pair);
    const auto f = frequency_of(step);
    const long double exact = (long double)step * position;
    const double off = double(exact - turns(position, f));
    worst_turns = std::max(worst_turns, std::abs(off - std::round(off)));
    REQUIRE(std::abs(turns(position, f)) <= 0.5f);
    const auto got = rotation_at(position, f);
    const double angle = two_pi * double(exact - std::round(exact));
    worst = std::max({worst, std::abs(double(got.cos) - std::cos(angle)), std::abs(double(got.sin) - std::sin(angle))});
  };
  for (int pair = 0; pair < r.pairs(); ++pair)
    for (const int position : positions) compare(position, pair), compare(-position, pair);
  const unsigned seed = 31;
  CAPTURE(seed, base);
  std::mt19937 random(seed);
  for (int n = 0; n < 200000; ++n) compare(int(random() % (2 * position_reach - 1)) - position_reach + 1, int(random() % 64));
  CAPTURE(worst_turns, worst);
  CHECK(worst_turns <= std::exp2(-22.5));
  CHECK(worst <= angle_error);
}

TEST_CASE("sine and cosine of every f32 turn", "[policy][position]") {
  double worst = 0;
  for (int n = -(1 << 20); n <= 1 << 20; ++n) {          // a grid, with its quarter turns, and their neighbours
    const float grid = float(n) / (1 << 21);
    for (const float t : {grid, std::nextafter(grid, 0.0f)}) {
      const auto r = rotation_by(t);
      worst = std::max({worst, std::abs(r.cos - std::cos(two_pi * t)), std::abs(r.sin - std::sin(two_pi * t))});
    }
  }
  CAPTURE(worst);
  CHECK(worst <= 1.2e-7);
  CHECK((rotation_by(0.0f).cos == 1 && rotation_by(0.0f).sin == 0));
  CHECK((rotation_by(0.25f).cos == 0 && rotation_by(0.25f).sin == 1 && rotation_by(-0.25f).sin == -1));
  CHECK((rotation_by(0.5f).cos == -1 && rotation_by(-0.5f).cos == -1));
}

TEST_CASE("a frequency is split without loss", "[policy][position]") {
  const unsigned seed = 32;
  CAPTURE(seed);
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> u(-30, 2);
  for (int n = 0; n < 10000; ++n) {
    const double step = std::exp2(u(random));
    const auto f = frequency_of(step);
    REQUIRE(f.fine * 4096 == std::round(f.fine * 4096));
    REQUIRE(f.coarse * 4096 == std::round(f.coarse * 4096));
    REQUIRE(std::abs(f.fine_rest) <= 1.0 / 8192);
    REQUIRE(std::abs(f.coarse_rest) <= 1.0 / 8192);
    const double fine = step - (double(f.fine) + f.fine_rest), coarse = 4096 * step - (double(f.coarse) + f.coarse_rest);
    REQUIRE(std::abs(fine - std::round(fine)) <= std::exp2(-38));      // a rest up to 2^-13, rounded to 24 bits
    REQUIRE(std::abs(coarse - std::round(coarse)) <= std::exp2(-38));
  }
}

TEST_CASE("tables hold the exact values, rounded once", "[policy][position]") {
  const rotary<> r{64, 10000};
  const int first = GENERATE(0, 5000, 1048000, -700, 16777000);
  constexpr int count = 200;
  std::vector<float> cos(count * r.pairs()), sin(cos.size());
  fill_rotations(r, rotary_use::encode, first, count, cos.data(), sin.data());
  for (int n = 0; n < count; ++n)
    for (int i = 0; i < r.pairs(); ++i) {
      const long double angle = oracle::rope_inverse_frequency(i, 64, 10000) * (first + n);
      CAPTURE(first, n, i);
      REQUIRE(std::abs(cos[n * r.pairs() + i] - double(std::cos(angle))) <= table_error);
      REQUIRE(std::abs(sin[n * r.pairs() + i] - double(std::sin(angle))) <= table_error);
    }
}

TEST_CASE("kernel frequencies lie in planes in the order of the members", "[policy][position]") {
  const rotary<> r{32, 500000};
  std::vector<float> planes(4 * r.pairs());
  fill_frequencies(r, planes.data());
  for (int i = 0; i < r.pairs(); ++i) {
    const auto f = frequency_of(r.turns_per_token(i));
    CHECK((planes[i] == f.coarse && planes[16 + i] == f.coarse_rest && planes[32 + i] == f.fine && planes[48 + i] == f.fine_rest));
  }
}

TEMPLATE_TEST_CASE("a head is rotated as the definition says", "[policy][position]", half_split, interleaved) {
  constexpr bool is_interleaved = std::is_same_v<TestType, interleaved>;
  const int dims = GENERATE(2, 4, 64, 128);
  const rotary<> r{dims, 10000};
  const TestType layout{dims};
  const unsigned seed = 33;
  CAPTURE(seed, dims);
  std::mt19937 random(seed);
  for (const int position : positions) {
    const auto x = random_vector(dims, random);
    const auto want = oracle::rope(x, frequencies_of(r), position, is_interleaved);
    const auto got = rotated(layout, r, x, position);
    // The rotation's error times at most two elements of size 1, and two products and one sum in f32.
    for (int c = 0; c < dims; ++c) REQUIRE(std::abs(got[c] - want[c]) <= 2 * angle_error + 3 * std::exp2(-24));

    // The plain loop, on a head whose last two columns are not rotated.
    std::vector<float> cos(r.pairs()), sin(r.pairs()), head(x.begin(), x.end());
    head.push_back(3.5f), head.push_back(-2.25f);
    fill_rotations(r, rotary_use::encode, position, 1, cos.data(), sin.data());
    rotate_head(layout, cos.data(), sin.data(), head.data());
    for (int c = 0; c < dims; ++c) REQUIRE(std::abs(head[c] - want[c]) <= 2 * table_error + 3 * std::exp2(-24));
    CHECK((head[dims] == 3.5f && head[dims + 1] == -2.25f));

    // The same for bf16: one rounding more, relative 2^-9 of values up to sqrt(2).
    std::vector<bf16> small;
    for (double v : x) small.push_back(narrow<bf16>(float(v)));
    std::vector<double> exact;
    for (bf16 v : small) exact.push_back(double(to_float(v)));
    const auto want16 = oracle::rope(exact, frequencies_of(r), position, is_interleaved);
    rotate_head(layout, cos.data(), sin.data(), small.data());
    for (int c = 0; c < dims; ++c) REQUIRE(std::abs(to_float(small[c]) - want16[c]) <= std::abs(want16[c]) / 256 + 1e-6);
  }
}

TEMPLATE_TEST_CASE("columns know their pair, partner and side", "[policy][position]", half_split, interleaved) {
  const int dims = GENERATE(2, 8, 128);
  const TestType layout{dims};
  std::vector<int> seen(dims);
  for (int i = 0; i < dims / 2; ++i) {
    const int a = layout.first(i), b = layout.second(i);
    REQUIRE((a >= 0 && a < dims && b >= 0 && b < dims));
    ++seen[a], ++seen[b];
    CHECK((layout.pair(a) == i && layout.pair(b) == i));
    CHECK((layout.partner(a) == b && layout.partner(b) == a));
    CHECK((!layout.is_second(a) && layout.is_second(b)));
  }
  CHECK(std::count(seen.begin(), seen.end(), 1) == dims);
}

TEMPLATE_TEST_CASE("the form for columns equals the form for pairs", "[policy][position]", half_split, interleaved) {
  const rotary<> r{16, 10000};
  const TestType layout{16};
  std::mt19937 random(34);
  const auto x = random_vector(16, random);
  for (int c = 0; c < 16; ++c) {
    const auto turn = rotation_at(777, frequency_of(r.turns_per_token(layout.pair(c))));
    const float got = rotate_column(float(x[c]), float(x[layout.partner(c)]), turn, layout.is_second(c));
    const float a = float(x[layout.first(layout.pair(c))]), b = float(x[layout.second(layout.pair(c))]);
    const float want = layout.is_second(c) ? rotate_second(a, b, turn) : rotate_first(a, b, turn);
    CHECK(std::abs(got - want) <= std::exp2(-23));       // contraction may round one product or the other
  }
}

TEST_CASE("the layouts are one rotation up to a permutation of columns", "[policy][position]") {
  const int dims = 64;
  const rotary<> r{dims, 10000};
  const half_split half{dims};
  const interleaved inter{dims};
  const unsigned seed = 35;
  CAPTURE(seed);
  std::mt19937 random(seed);
  for (const int position : positions) {
    const auto x = random_vector(dims, random);
    std::vector<double> permuted(dims);
    for (int i = 0; i < dims / 2; ++i) permuted[half.first(i)] = x[inter.first(i)], permuted[half.second(i)] = x[inter.second(i)];
    const auto a = rotated(inter, r, x, position), b = rotated(half, r, permuted, position);
    for (int i = 0; i < dims / 2; ++i) {
      // The same operations on the same numbers; only the compiler's choice of fused multiply-adds may differ.
      REQUIRE(std::abs(b[half.first(i)] - a[inter.first(i)]) <= 3 * std::exp2(-24));
      REQUIRE(std::abs(b[half.second(i)] - a[inter.second(i)]) <= 3 * std::exp2(-24));
    }
  }
}

// <R(a) q, R(b) k> depends on a - b only. Each rotated vector is off by at most angle_error times its norm, times
// sqrt(2) for cos and sin together, plus 3 roundings of 2^-24; two sides of the comparison, two vectors each.
TEMPLATE_TEST_CASE("phase law", "[policy][position]", half_split, interleaved) {
  const int dims = 128;
  const double base = GENERATE(10000.0, 500000.0);
  const rotary<> r{dims, base};
  const TestType layout{dims};
  const unsigned seed = 36;
  CAPTURE(seed, base);
  std::mt19937 random(seed);
  for (const int distance : {0, 1, -1, 17, 4096, -100000, 1000000}) {
    const auto q = random_vector(dims, random), k = random_vector(dims, random);
    const double bound = 4 * (std::sqrt(2.0) * angle_error + 3 * std::exp2(-24)) * norm(q) * norm(k);
    const auto pad = std::max(0, -distance);
    const double first = oracle::dot(rotated(layout, r, q, pad + distance), rotated(layout, r, k, pad));
    for (const int shift : {1, 1000, 65536, 1048576, 15000000}) {
      const double other = oracle::dot(rotated(layout, r, q, pad + shift + distance), rotated(layout, r, k, pad + shift));
      CAPTURE(distance, shift);
      REQUIRE(std::abs(other - first) <= bound);
      // Block-relative: the query carries the whole difference.
      REQUIRE(std::abs(oracle::dot(rotated(layout, r, q, distance), k) - other) <= bound);
    }
  }
}

TEST_CASE("rotations add up, undo each other and keep norms", "[policy][position]") {
  const rotary<> r{64, 10000};
  const unsigned seed = 37;
  CAPTURE(seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 2000; ++round) {
    const int a = int(random() % 2000000) - 1000000, b = int(random() % 2000000) - 1000000, pair = int(random() % 32);
    const auto f = frequency_of(r.turns_per_token(pair));
    const auto both = composed(rotation_at(a, f), rotation_at(b, f)), once = rotation_at(a + b, f);
    // Three rotations' errors (twice through products up to 1) and the rounding of two products and a sum.
    REQUIRE(std::abs(both.cos - once.cos) <= 5 * angle_error);
    REQUIRE(std::abs(both.sin - once.sin) <= 5 * angle_error);
    const auto none = composed(rotation_at(a, f), inverse(rotation_at(a, f)));
    REQUIRE(std::abs(none.cos - 1) <= 4 * std::exp2(-22));     // the length of (cos, sin), whatever the angle's error
    REQUIRE(std::abs(none.sin) <= 2 * std::exp2(-24));
    const auto back = rotation_at(-a, f);
    REQUIRE(std::abs(back.cos - rotation_at(a, f).cos) <= 2 * angle_error);
    REQUIRE(std::abs(back.sin + rotation_at(a, f).sin) <= 2 * angle_error);
  }
}

TEST_CASE("linear scaling is a slower clock", "[policy][position][scaling]") {
  const rotary<linear_scaling> slow{64, 10000, {4}};
  const rotary<> plain{64, 10000};
  for (int i = 0; i < 32; ++i) CHECK(slow.turns_per_token(i) * 4 == Approx(plain.turns_per_token(i)).epsilon(1e-14));
}

TEST_CASE("ntk scaling leaves the fastest pair and slows the slowest by the factor", "[policy][position][scaling]") {
  const rotary<ntk_scaling> r{64, 10000, {8}};
  const rotary<> plain{64, 10000};
  CHECK(r.turns_per_token(0) == Approx(plain.turns_per_token(0)).epsilon(1e-14));
  CHECK(r.turns_per_token(31) * 8 == Approx(plain.turns_per_token(31)).epsilon(1e-12));
  for (int i = 1; i < 31; ++i) {
    CHECK(r.turns_per_token(i) < plain.turns_per_token(i));
    CHECK(r.turns_per_token(i) > plain.turns_per_token(i) / 8);
  }
}

TEST_CASE("llama 3 scaling by wave length", "[policy][position][scaling]") {
  const rotary<llama3_scaling> r{128, 500000, {}};
  int kept = 0, divided = 0, mixed = 0;
  for (int i = 0; i < 64; ++i) {
    // The published rule, in wave lengths (tokens a turn): context 8192, factor 8, low 1, high 4.
    const double f = std::pow(500000.0, -2.0 * i / 128), wave = two_pi / f;
    double want = f;
    if (wave > 8192.0 / 1) want = f / 8, ++divided;
    else if (wave < 8192.0 / 4) ++kept;
    else {
      const double smooth = (8192.0 / wave - 1) / (4 - 1);
      want = (1 - smooth) * f / 8 + smooth * f, ++mixed;
    }
    CHECK(r.scaling.inverse_frequency(i, 128, 500000) == Approx(want).epsilon(1e-13));
  }
  CHECK((kept > 0 && divided > 0 && mixed > 0));
}

TEST_CASE("yarn ramps between the pairs that turn fast and slow times", "[policy][position][scaling]") {
  // dims 128, base 10000, context 4096: the pair that turns n times is 128 ln(4096 / (2 pi n)) / (2 ln 10000).
  const yarn_scaling s{4, 32, 1, 4096};
  const double first = std::floor(128 * std::log(4096 / (two_pi * 32)) / (2 * std::log(10000.0)));
  const double last = std::ceil(128 * std::log(4096 / (two_pi * 1)) / (2 * std::log(10000.0)));
  CHECK(first == 20);
  CHECK(last == 46);
  for (int i = 0; i < 64; ++i) {
    const double f = double(oracle::rope_inverse_frequency(i, 128, 10000));
    const double ramp = std::min(1.0, std::max(0.0, (i - first) / (last - first)));
    CHECK(s.inverse_frequency(i, 128, 10000) == Approx(f * (1 - ramp) + f / 4 * ramp).epsilon(1e-13));
  }
  CHECK(s.attention_scale() == Approx(0.1 * std::log(4.0) + 1).epsilon(1e-15));
  CHECK(yarn_scaling{}.attention_scale() == 1);
  CHECK(yarn_scaling{4, 32, 1, 4096, 1.25}.attention_scale() == 1.25);
}

TEST_CASE("the attention scale is applied when a key is encoded, not again", "[policy][position][scaling]") {
  const rotary<yarn_scaling> r{64, 10000, {16, 32, 1, 4096}};
  const double scale = r.scaling.attention_scale();
  std::vector<float> c(32), s(32), c2(32), s2(32);
  fill_rotations(r, rotary_use::encode, 123, 1, c.data(), s.data());
  fill_rotations(r, rotary_use::again, 77, 1, c2.data(), s2.data());
  std::mt19937 random(38);
  const auto x = random_vector(64, random);
  std::vector<float> k(x.begin(), x.end());
  rotate_head(half_split{64}, c.data(), s.data(), k.data());
  rotate_head(half_split{64}, c2.data(), s2.data(), k.data());
  auto want = oracle::rope(x, frequencies_of(r), 200, false);
  for (int i = 0; i < 64; ++i) CHECK(std::abs(k[i] - scale * want[i]) <= 6 * std::exp2(-23));
  const auto in_registers = rotation_at(123, frequency_of(r.turns_per_token(5)), float(scale));
  CHECK(std::abs(in_registers.cos - c[5]) <= 2 * angle_error);
  CHECK(std::abs(in_registers.sin - s[5]) <= 2 * angle_error);
}

TEST_CASE("descriptions are checked", "[policy][position]") {
  CHECK(bool(rotary<>{}.check()));
  CHECK(rotary<>{0}.check() == status{errc::bad_shape, "", 0, 2});
  CHECK(rotary<>{63}.check() == status{errc::bad_shape, "", 63, 64});
  CHECK(rotary<>{64, 1}.check().code == errc::bad_value);
  CHECK(rotary<>{64, std::nan("")}.check().code == errc::bad_value);
  CHECK(rotary<linear_scaling>{64, 1e4, {0.5}}.check().code == errc::bad_value);
  CHECK(rotary<ntk_scaling>{64, 1e4, {std::nan("")}}.check().code == errc::bad_value);
  CHECK(bool(rotary<llama3_scaling>{}.check()));
  CHECK(rotary<llama3_scaling>{64, 1e4, {8, 4, 4}}.check().code == errc::bad_value);
  CHECK(rotary<llama3_scaling>{64, 1e4, {8, 1, 4, 0}}.check().code == errc::bad_value);
  CHECK(rotary<llama3_scaling>{64, 1e4, {0, 1, 4}}.check().code == errc::bad_value);
  CHECK(bool(rotary<yarn_scaling>{64, 1e4, {4}}.check()));
  CHECK(rotary<yarn_scaling>{64, 1e4, {0}}.check().code == errc::bad_value);
  CHECK(rotary<yarn_scaling>{64, 1e4, {4, 1, 32}}.check().code == errc::bad_value);
  CHECK(rotary<yarn_scaling>{64, 1e4, {4, 32, 1, -1}}.check().code == errc::bad_value);
  CHECK(rotary<yarn_scaling>{64, 1e4, {4, 32, 1, 4096, -1}}.check().code == errc::bad_value);
}

// For every position policy: the stored phase plus the correction is the key's phase, and equal relative phases give
// equal scores; here on all small caches with any set of survivors.
TEMPLATE_TEST_CASE("a key in memory plus its correction is the key of the score", "[policy][position][phase]",
                   keep_original, compact, rotate_on_read, no_position) {
  static_assert(explain_position_policy<TestType>());
  constexpr TestType p{};
  for (unsigned kept = 0; kept < 256; ++kept) {
    int rank = 0;
    std::vector<int> phases;
    for (int position = 0; position < 8; ++position) {
      if (!(kept >> position & 1)) continue;
      const int phase = p.key_phase(position, rank);
      REQUIRE(p.stored_phase(position, rank) + key_correction(p, position, rank) == phase);
      if (TestType::storage == key_storage::plain) REQUIRE(p.stored_phase(position, rank) == 0);
      phases.push_back(phase);
      ++rank;
    }
    const int query = p.query_phase(8, rank);
    for (int i = 0; i < rank; ++i) {
      if constexpr (std::is_same_v<TestType, keep_original>) {
        int position = -1;
        for (int n = -1; n < i;) n += kept >> ++position & 1;
        REQUIRE(query - phases[i] == 8 - position);
      } else if constexpr (std::is_same_v<TestType, no_position>) {
        REQUIRE(query - phases[i] == 0);
      } else {
        REQUIRE(query - phases[i] == rank - i);          // as if nothing had been evicted and there were rank tokens
      }
    }
  }
}

TEST_CASE("grouped_positions: distances in groups, and beyond the window those after it", "[policy][position][phase]") {
  static_assert(explain_position_policy<grouped_positions>());
  for (const int group : {1, 4})
    for (const int window : {0, 8}) {
      const grouped_positions p{group, window - window / group};
      for (int query = window; query < 60; ++query)
        for (int key = 0; key + window <= query; ++key) {
          const int distance = p.query_phase(query, -1) - p.key_phase(key, -1);
          REQUIRE(std::abs(distance * group - (query - key) - window * (group - 1)) < group + window % group * group);
          REQUIRE(distance >= window);                       // nearer ones are those of the window
          REQUIRE((p.stored_phase(key, -1) == 0 && key_correction(p, key, -1) == key / group));
        }
    }
}

TEST_CASE("block_relative gives one segment to readers at any place", "[policy][position][phase]") {
  static_assert(explain_position_policy<block_relative>());
  for (int origin = 0; origin < 50; origin += 7)
    for (int j = 0; j < 10; ++j)
      for (int position = origin; position < origin + 30; ++position) {
        const block_relative p{origin};
        CHECK(p.query_phase(position, -1) - p.key_phase(-1, j) == position - (origin + j));
        CHECK(key_correction(p, -1, j) == 0);
      }
}

TEST_CASE("alibi slopes and biases", "[policy][position][alibi]") {
  for (int heads : {1, 2, 4, 8, 16, 32, 64, 128})
    for (int h = 0; h < heads; ++h) CHECK(alibi_slope(h, heads) == Approx(std::pow(2.0, -8.0 * (h + 1) / heads)).epsilon(1e-7));
  // 12 heads: the 8 slopes of 8 heads, then the first, third, fifth and seventh of 16.
  for (int h = 0; h < 8; ++h) CHECK(alibi_slope(h, 12) == alibi_slope(h, 8));
  for (int h = 8; h < 12; ++h) CHECK(alibi_slope(h, 12) == Approx(alibi_slope(2 * (h - 8), 16)).epsilon(1e-7));
  const alibi bias{0.25f};
  CHECK(bias(1.0f, 10, 6) == 0.0f);
  CHECK(bias(1.0f, 6, 10) == 0.0f);
  CHECK(bias(1.0f, 6, 6) == 1.0f);
  for (int shift : {1, 1000, 1 << 20}) CHECK(bias(1.0f, 10 + shift, 6 + shift) == bias(1.0f, 10, 6));
}

#if !defined(__CUDACC__)
// The same templates over the host machine's packs: positions and columns as packs of ints.
TEST_CASE("positions work on packs of values", "[policy][position]") {
  using host::consecutive;
  using host::floats;
  using host::ints;
  const rotary<> r{32, 10000};
  const half_split half{32};
  const interleaved inter{32};
  const auto pack = [](auto f) {
    floats x = 0.0f;
    for (int i = 0; i < host::lane_count; ++i) x.set(i, float(f(i)));
    return x;
  };
  const auto member = [&](float frequency<float>::* which) { return pack([&](int i) { return frequency_of(r.turns_per_token(i)).*which; }); };
  const frequency<floats> f{member(&frequency<float>::coarse), member(&frequency<float>::coarse_rest), member(&frequency<float>::fine),
                            member(&frequency<float>::fine_rest)};
  for (const int position : positions) {
    const rotation<floats> at = rotation_at(ints(position), f);
    const rotation<floats> by_index = rotation_at(host::uniform(position), f);
    const floats x = pack([](int i) { return i - 5; }), y = pack([](int i) { return 3 - i; });
    const floats first = rotate_first(x, y, at), second = rotate_second(x, y, at), column = rotate_column(x, y, at, half.is_second(consecutive{16}));
    for (int i = 0; i < host::lane_count; ++i) {
      const auto want = rotation_at(position, frequency_of(r.turns_per_token(i)));
      REQUIRE(std::abs(at.cos[i] - want.cos) <= angle_error);
      REQUIRE(std::abs(at.sin[i] - want.sin) <= angle_error);
      REQUIRE((at.cos[i] == by_index.cos[i] && at.sin[i] == by_index.sin[i]));
      REQUIRE(std::abs(first[i] - rotate_first(x[i], y[i], want)) <= 40 * angle_error);
      REQUIRE(std::abs(second[i] - rotate_second(x[i], y[i], want)) <= 40 * angle_error);
      REQUIRE(std::abs(column[i] - rotate_second(y[i], x[i], want)) <= 40 * angle_error);
    }
  }
  for (int start : {0, 16}) {
    const consecutive columns{start};
    for (int i = 0; i < host::lane_count; ++i) {
      const int c = start + i;
      CHECK((ints(half.pair(columns))[i] == half.pair(c) && ints(half.partner(columns))[i] == half.partner(c)));
      CHECK((ints(inter.pair(columns))[i] == inter.pair(c) && ints(inter.partner(columns))[i] == inter.partner(c)));
      CHECK(host::where(inter.is_second(columns), ints(1), ints(0))[i] == inter.is_second(c));
    }
    const floats biased = alibi{0.5f}(floats(1.0f), host::uniform(20), columns);
    for (int i = 0; i < host::lane_count; ++i) CHECK(biased[i] == alibi{0.5f}(1.0f, 20, start + i));
    CHECK(ints(key_correction(compact{}, ints(30), columns))[3] == key_correction(compact{}, 30, start + 3));
    CHECK(ints(key_correction(rotate_on_read{}, columns, columns))[3] == start + 3);
    CHECK(ints(no_position{}.key_phase(columns, columns))[3] == 0);
    static_assert(rotate_on_read::steady);       // from key to key one token
    CHECK(key_correction(rotate_on_read{}, start + 1, start + 1) == key_correction(rotate_on_read{}, start, start) + 1);
  }
}
#endif
