// Codecs on the wire: one trip against its error model, whole collectives against theirs, and the promises about bits.
#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include <smalti/comm/schedule/direct.hpp>
#include <smalti/comm/schedule/doubling.hpp>
#include <smalti/comm/schedule/ring.hpp>
#include <smalti/comm/wire/block.hpp>
#include <smalti/comm/wire/cast.hpp>
#include <smalti/comm/wire/feedback.hpp>

#include "group.hpp"

using namespace smalti;
using namespace smalti::comm;

namespace {

constexpr unsigned seed = 20261121;

// How far one trip may be off, for a number in a block from low to high. `rounds`: 1 to the nearest, 2 either way.
template <class W> struct model;
template <class T> struct model<cast_wire<T>> {
  static double off(double x, double, double) {
    const double past = std::abs(x) - max_finite<T>;       // fp8 saturates
    return past > 0 ? past : std::max(std::ldexp(std::abs(x), -digits<T>), double(min_positive<T>) / 2);
  }
};
template <int G> struct model<minmax8_wire<G>> {
  static double off(double, double low, double high) { return (high - low) / 510 + std::max(std::abs(low), std::abs(high)) * 0x1p-22; }
};
template <int G> struct model<int8_wire<G>> {
  static double off(double, double low, double high) { return std::max(-low, high) / 254 * (1 + 0x1p-20); }
};
template <int G> struct model<int4_wire<G>> {
  static double off(double, double low, double high) { return std::max(-low, high) / 14 * (1 + 0x1p-20); }
};
template <int G> struct model<fp8_wire<G>> {
  static double off(double x, double low, double high) { return std::abs(x) / 16 * (1 + 0x1p-20) + std::max(-low, high) / 448 * 0x1p-10; }
};
template <> struct model<row_fp8_wire<>> : model<fp8_wire<>> {};

template <class W> int block_of(const W& w, int n) { return W::group == 0 ? w.width - w.tail : W::group == 1 ? n : W::group; }

// Encodes and decodes n items; checks bytes, guards and the error of every element.
template <class W, class X> void trip(const W& wire, std::vector<float> values, int width, int tail) {
  const int n = int(values.size()) / width;
  test::array<X> in(values.size()), out(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    if constexpr (std::is_same_v<X, float>) in[i] = values[i];
    else in[i] = narrow<X>(values[i]), values[i] = to_float(in[i]);
  }
  test::array<std::byte> message(std::size_t(wire.bytes(content::input, n)));
  wire.encode(content::input, 0, in.data(), n, message.data());
  wire.decode(content::input, 0, message.data(), n, out.data());
  REQUIRE(message.guarded());
  REQUIRE(out.guarded());
  const bool by_item = W::group == 0 || tail > 0;
  const int run = by_item ? width - tail : int(values.size());
  for (int first = 0; first < int(values.size()); first += by_item ? width : run) {
    for (int i = 0; i < run; ++i) {
      const int block = block_of(wire, run), b = i / block * block, last = std::min(run, b + block);
      double low = values[first + b], high = low;
      for (int j = b; j < last; ++j) low = std::min(low, double(values[first + j])), high = std::max(high, double(values[first + j]));
      const double x = values[first + i], y = test::value(out[first + i]);
      double allowed = model<W>::off(x, low, high);
      if constexpr (!std::is_same_v<X, float>) allowed += std::ldexp(std::abs(x) + allowed, -digits<X>) + min_positive<X>;
      if (!(std::abs(x - y) <= allowed)) {
        CAPTURE(first, i, x, y, allowed, low, high);
        REQUIRE(std::abs(x - y) <= allowed);
      }
    }
    for (int i = 0; by_item && i < tail; ++i) REQUIRE(test::value(out[first + run + i]) == values[first + run + i]);
  }
}

template <class W> void trips(W wire) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0, 1);
  for (const int n : {0, 1, 2, 31, 64, 65, 256, 257, 1000}) {
    std::vector<float> random, large, zeros(std::size_t(n), 0.0f), equal(std::size_t(n), -3.25f), positive, tiny;
    for (int i = 0; i < n; ++i) random.push_back(normal(generator)), large.push_back(normal(generator) * 40 + 200), positive.push_back(std::exp(normal(generator) * 2)), tiny.push_back(normal(generator) * 1e-4f);
    CAPTURE(seed, n);
    W flat = wire;
    for (const auto& v : {random, large, zeros, equal, positive, tiny}) {
      if (W::group == 0) flat.width = std::max(n, 1);
      trip<W, float>(flat, v, flat.width, 0);
      if constexpr (W::elementwise || W::group == 0) trip<W, bf16>(flat, v, flat.width, 0);
    }
  }
  for (const int width : {3, 9, 65, 513})
    for (const int tail : {0, 1}) {
      std::vector<float> v;
      for (int i = 0; i < 7 * width; ++i) v.push_back(normal(generator) * float(1 + i / width * 10));
      CAPTURE(seed, width, tail);
      W rows = wire;
      rows.width = width, rows.tail = tail;
      trip<W, float>(rows, v, width, tail);
    }
  // A block that is not finite decodes to no number; others are not touched.
  std::vector<float> v(600, 1.0f), back(600);
  v[300] = NAN, v[550] = INFINITY;
  W flat = wire;
  std::vector<std::byte> message(std::size_t(flat.bytes(content::input, 600)));
  if (W::group != 0) {
    flat.encode(content::input, 0, v.data(), 600, message.data());
    flat.decode(content::input, 0, message.data(), 600, back.data());
    CHECK(std::isnan(back[300]));
    if (!W::elementwise) CHECK(std::isnan(back[550]));
    CHECK(std::abs(back[0] - 1.0f) < 0.1f);
  }
}

}  // namespace

TEST_CASE("one trip over each wire is as exact as it says", "[comm][wire]") {
  trips(cast_wire<bf16>{});
  trips(cast_wire<fp16>{});
  trips(cast_wire<fp8_e4m3>{});
  trips(minmax8_wire<>{});
  trips(int8_wire<>{});
  trips(int4_wire<>{});
  trips(fp8_wire<>{});
  trips(row_fp8_wire<>{});
}

namespace {

// To the nearest, and none of which the wires know a faster way.
struct by_itself {
  policy::to_nearest at(long long) const { return {policy::tie::even}; }
};
// The same bytes, and what each code says.
template <class Fast, class Plain, class X> void packs_are_plain(const std::vector<X>& x) {
  const int n = int(x.size());
  Fast fast;
  Plain plain;
  if (Fast::group == 0) fast.width = plain.width = std::max(n, 1);
  const int items = Fast::group == 0 ? (n > 0) : n, block = Fast::group == 0 ? n : Fast::group;
  REQUIRE(fast.bytes(content::input, items) == plain.bytes(content::input, items));
  test::array<std::byte> a(std::size_t(fast.bytes(content::input, items))), b(a.size());
  fast.encode(content::input, 0, x.data(), items, a.data());
  plain.encode(content::input, 0, x.data(), items, b.data());
  REQUIRE(a.guarded());
  REQUIRE((n == 0 || std::memcmp(a.data(), b.data(), a.size()) == 0));
  test::array<float> y(x.size());
  fast.decode(content::input, 0, a.data(), items, y.data());
  REQUIRE(y.guarded());
  using format = decltype(fast.format);
  const std::byte* at = a.data();
  for (int first = 0; first < n; first += block) {
    const int count = std::min(block, n - first);
    for (int i = 0; i < count; ++i) {
      const float want = format::value(at, comm::detail::get_code<Fast::bits>(at + format::head, i)), got = y[std::size_t(first + i)];
      // A sum with a product may be rounded once or twice.
      const bool same = float_bits(want) == float_bits(got) || (std::isnan(want) && std::isnan(got)) || (format::head == 8 && std::abs(want - got) <= (std::abs(want) + std::abs(format::value(at, 0))) * 0x1p-22f);
      if (!same) {
        CAPTURE(first, i, want, got);
        REQUIRE(same);
      }
    }
    at += format::head + comm::detail::code_bytes<Fast::bits>(count);
  }
}
template <class Fast, class Plain> void packs_are_plain() {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0, 1);
  for (const int n : {0, 1, 2, 15, 16, 17, 33, 128, 300, 1031})
    for (const float size : {1.0f, 3e-39f, 1e-37f, 2e38f, 0.0f}) {      // subnormal scales, too, and the range that no float holds
      CAPTURE(seed, n, size);
      std::vector<float> x;
      for (int i = 0; i < n; ++i) x.push_back(std::clamp(normal(generator), -1.6f, 1.6f) * size);
      packs_are_plain<Fast, Plain>(x);
      std::vector<bf16> narrow_x;
      for (const float v : x) narrow_x.push_back(narrow<bf16>(v));
      packs_are_plain<Fast, Plain>(narrow_x);
      if (n > 2) x[std::size_t(n / 2)] = size > 1 ? HUGE_VALF : std::nanf(""), packs_are_plain<Fast, Plain>(x);
    }
  // Every tie between two codes, on both sides.
  std::vector<float> ties;
  for (int i = -254; i <= 254; ++i) ties.push_back(float(i) * 0.5f);
  packs_are_plain<Fast, Plain>(ties);
}

}  // namespace

TEST_CASE("blocks by packs of the host machine have the bytes of the plain form", "[comm][wire]") {
  using int8 = policy::offset_int<8>;
  using int4 = policy::offset_int<4>;
  packs_are_plain<int8_wire<>, block_wire<symmetric_block<int8, by_itself>, 128>>();
  packs_are_plain<int4_wire<>, block_wire<symmetric_block<int4, by_itself>, 32>>();
  packs_are_plain<fp8_wire<>, block_wire<symmetric_block<policy::e4m3, by_itself>, 128>>();
  packs_are_plain<row_fp8_wire<>, block_wire<symmetric_block<policy::e4m3, by_itself>, 0>>();
  packs_are_plain<minmax8_wire<>, block_wire<minmax_block<8, by_itself>, 256>>();
}

namespace {

template <class C, class W> std::vector<float> all_reduce(const schedule_view& s, std::int64_t n, W wire, auto value, int unit = 1, int rank = 0) {
  arguments<C> x{};
  x.unit = unit;
  test::group<C, W> g(s, n, x, {seed, 50}, false, 0, wire);
  for (int r = 0; r < s.ranks; ++r)
    for (std::int64_t i = 0; i < n; ++i) g.in(r)[i] = typename C::element(value(r, i));
  const status st = g.run();
  INFO(st.what);
  REQUIRE(st);
  REQUIRE(g.intact());
  for (int r = 1; r < s.ranks; ++r) REQUIRE(std::memcmp(g.out(0), g.out(r), std::size_t(n) * sizeof(typename C::element)) == 0);
  std::vector<float> out;
  for (std::int64_t i = 0; i < n; ++i) out.push_back(float(test::value(g.out(rank)[i])));
  return out;
}

// Numbers in (-1, 1) that depend on rank and place alone.
float draw(int r, std::int64_t i) {
  const policy::random_stream s{seed, std::uint64_t(r)};
  return s.uniform(std::uint64_t(i)) * 2 - 1;
}

}  // namespace

TEST_CASE("an all-reduce over a wire is off by its trips, and all ranks agree", "[comm][wire]") {
  // Each input makes a trip of error e(1), sums of k inputs in a ring one of e(k), the result one of e(P); inputs lie in (-1, 1), so
  // magnitudes and ranges of a sum of k are at most k and 2 k.
  const auto check = [](auto wire, double step) {     // step: error of one trip of numbers of magnitude 1
    for (const int p : {1, 2, 3, 5, 8}) {
      const direct a(p);
      const ring b(p);
      const halving_doubling c(p);
      for (const schedule_view& s : {schedule_view(a), schedule_view(b), schedule_view(c)}) {
        const bool at_once = s.promise().order == combine_order::rank_fold;
        const std::int64_t n = 300;
        const auto out = all_reduce<sum<float>>(s, n, wire, draw);
        double allowed = at_once ? p * step : p * (p + 1) / 2.0 * step * 1.01;    // trips of sums add what they sum's trips added
        allowed += p * step * 1.05 + p * p * 0x1p-23;
        for (std::int64_t i = 0; i < n; ++i) {
          double right = 0;
          for (int r = 0; r < p; ++r) right += draw(r, i);
          if (!(std::abs(out[std::size_t(i)] - right) <= allowed)) {
            CAPTURE(p, s.steps(), i, out[std::size_t(i)], right, allowed);
            REQUIRE(std::abs(out[std::size_t(i)] - right) <= allowed);
          }
        }
      }
    }
  };
  check(cast_wire<bf16>{}, 0x1p-8);
  check(cast_wire<fp8_e4m3>{}, 0x1p-4);
  check(minmax8_wire<>{}, 1 / 255.0 + 1e-6);
  check(int4_wire<>{}, 1 / 14.0 + 1e-6);
}

TEST_CASE("rounding does not bias a sum, over many hops either", "[comm][wire]") {
  constexpr int p = 16;
  constexpr std::int64_t n = 4000;
  const ring s(p);
  const auto mean = [&](auto wire) {
    const auto out = all_reduce<sum<float>>(schedule_view(s), n, wire, draw);
    double sum = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      double right = 0;
      for (int r = 0; r < p; ++r) right += draw(r, i);
      sum += out[std::size_t(i)] - right;
    }
    return sum / n;
  };
  // A truncating 8-bit codec is off by half a step of each hop, about -0.3 here. To the nearest: the mean of n errors below one
  // step of the largest sum (2 * 16 / 255), 5 standard deviations of it.
  const double allowed = 5 * (32.0 / 255) / std::sqrt(12.0 * double(n)) * p;
  CHECK(std::abs(mean(minmax8_wire<>{})) < allowed);
  CHECK(std::abs(mean(cast_wire<bf16>{})) < allowed);
  using either = policy::stochastic;
  CHECK(std::abs(mean(minmax8_wire<256, either>{{either{{seed, 1}}}})) < 2 * allowed);
}

TEST_CASE("stochastic rounding: the expected value is the number, and the same stream the same bits", "[comm][wire]") {
  using wire = int4_wire<32, policy::stochastic>;
  std::vector<float> x(32), y(32);
  for (int i = 0; i < 32; ++i) x[std::size_t(i)] = float(i) / 31 * 1.9f - 0.95f;
  x[0] = 1;      // the reach
  std::vector<double> sum(32);
  constexpr int times = 4000;
  for (int t = 0; t < times; ++t) {
    const wire w{{policy::stochastic{{seed, std::uint64_t(t)}}}};
    std::byte message[64], again[64];
    w.encode(content::input, 96, x.data(), 32, message);
    w.encode(content::input, 96, x.data(), 32, again);
    REQUIRE(std::memcmp(message, again, std::size_t(w.bytes(content::input, 32))) == 0);
    w.decode(content::input, 96, message, 32, y.data());
    for (int i = 0; i < 32; ++i) {
      REQUIRE(std::abs(y[i] - x[i]) <= 1 / 7.0 + 1e-6);
      sum[i] += y[i] - x[i];
    }
  }
  for (int i = 0; i < 32; ++i) CHECK(std::abs(sum[i] / times) < 5 * (1 / 7.0) / 2 / std::sqrt(double(times)));
}

TEST_CASE("error feedback: what one message lost the next one carries", "[comm][wire]") {
  constexpr int p = 3;
  constexpr std::int64_t n = 100;
  const auto check = [&](auto wire, const schedule_view& s, double one_trip) {
    using W = decltype(wire);
    std::vector<std::vector<float>> inputs(p, std::vector<float>(n)), results(p, std::vector<float>(n));
    std::vector<double> total(n);
    constexpr int times = 40;
    double plain_off = 0, fed_off = 0;
    const auto plain = all_reduce<sum<float>>(s, n, wire, draw);
    for (int t = 0; t < times; ++t) {
      test::group<sum<float>, feedback_wire<W>> g(s, n, {}, {seed, 50});
      g.executions.clear();
      for (int r = 0; r < p; ++r) g.executions.emplace_back(g.ends[r], feedback_wire<W>{wire, inputs[r].data(), results[r].data()});
      for (int r = 0; r < p; ++r)
        for (std::int64_t i = 0; i < n; ++i) g.in(r)[i] = draw(r, i);
      REQUIRE(g.run());
      for (std::int64_t i = 0; i < n; ++i) total[std::size_t(i)] += g.out(0)[i];
    }
    for (std::int64_t i = 0; i < n; ++i) {
      double right = 0;
      for (int r = 0; r < p; ++r) right += draw(r, i);
      plain_off = std::max(plain_off, std::abs(plain[std::size_t(i)] - right));
      fed_off = std::max(fed_off, std::abs(total[std::size_t(i)] / times - right));
    }
    CAPTURE(plain_off, fed_off);
    // Over all messages one trip of each input and of the result is missing: residuals up to a step make reaches a little larger.
    CHECK(fed_off <= (p + p) * one_trip * 1.5 / times);
    CHECK(fed_off < plain_off / 5);
  };
  const direct s(p);
  check(int4_wire<>{}, schedule_view(s), 1 / 14.0);
  check(minmax8_wire<64>{}, schedule_view(s), 1 / 255.0);
  check(cast_wire<fp8_e4m3>{}, schedule_view(s), 0x1p-4);
  // The executor refuses what the wire refuses.
  in_process net(1);
  auto end = net.rank(0);
  execution<lse_merge<policy::lse_e>, in_process::endpoint, feedback_wire<row_fp8_wire<>>> e(end, {row_fp8_wire<>{{}, 4001, 1}, nullptr, nullptr});
  std::vector<float> x(4001);
  CHECK(e.check(direct(1), {.input = x.data(), .output = x.data(), .items = 1, .combine = {4001}}).code == errc::out_of_reach);
  execution<sum<float>, in_process::endpoint, cast_wire<bf16>> wrong(end, {.width = 2});
  CHECK(wrong.check(direct(1), {.input = x.data(), .output = x.data(), .items = 1}).code == errc::bad_shape);
}

TEST_CASE("bits do not depend on buckets where that is promised", "[comm][wire]") {
  constexpr int p = 4;
  constexpr std::int64_t n = 1024;
  const direct s(p);
  const auto check = [&](auto wire, std::int64_t cut, int unit) {
    const auto whole = all_reduce<sum<float>>(schedule_view(s), n, wire, draw, unit);
    const auto front = all_reduce<sum<float>>(schedule_view(s), cut, wire, draw, unit);
    const auto back = all_reduce<sum<float>>(schedule_view(s), n - cut, wire, [&](int r, std::int64_t i) { return draw(r, i + cut); }, unit);
    return std::memcmp(whole.data(), front.data(), std::size_t(cut) * 4) == 0 && std::memcmp(whole.data() + cut, back.data(), std::size_t(n - cut) * 4) == 0;
  };
  CHECK(check(cast_wire<bf16>{}, 333, 1));
  CHECK(check(cast_wire<fp8_e4m3>{}, 1, 1));
  CHECK(check(int8_wire<64>{}, 320, 64));
  CHECK(check(minmax8_wire<32>{}, 96, 32));
  CHECK_FALSE(check(int8_wire<64>{}, 333, 1));     // blocks elsewhere: other bits, and nothing else was promised
}

TEST_CASE("partial results of attention: values are rounded, log-sum-exps are not", "[comm][wire]") {
  constexpr int p = 3, d = 16;
  const direct s(p);
  using merge = lse_merge<policy::lse_e>;
  arguments<merge> x{};
  x.combine = merge::of(d);
  test::group<merge, row_fp8_wire<>> g(schedule_view(s), 11, x, {seed, 50}, false, 0, row_fp8_wire<>{{}, d + 1, 1});
  for (int r = 0; r < p; ++r)
    for (int i = 0; i < 11 * (d + 1); ++i) g.in(r)[i] = i % (d + 1) == d ? draw(r, i) * 30 : draw(r, i);
  REQUIRE(g.run());
  for (int i = 0; i < 11; ++i) {
    double top = -1e30, sum = 0;
    for (int r = 0; r < p; ++r) top = std::max(top, double(g.in(r)[i * (d + 1) + d]));
    for (int r = 0; r < p; ++r) sum += std::exp(g.in(r)[i * (d + 1) + d] - top);
    CHECK(std::abs(g.out(0)[i * (d + 1) + d] - (top + std::log(sum))) < 1e-5);
    for (int c = 0; c < d; ++c) {
      double right = 0;
      for (int r = 0; r < p; ++r) right += std::exp(g.in(r)[i * (d + 1) + d] - top) / sum * g.in(r)[i * (d + 1) + c];
      CHECK(std::abs(g.out(0)[i * (d + 1) + c] - right) < 2 * 0x1p-4 + 1e-3);    // two trips of numbers up to 1
    }
  }
}
