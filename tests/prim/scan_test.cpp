#include "../support/arrays.hpp"
#include "../support/contexts.hpp"

#include <limits>
#include <random>
#include <string>
#include <vector>

#include <smalti/prim/scan.hpp>

using namespace smalti;
using prim::scan_kind;

namespace {

constexpr unsigned seed = 20261121;

template <class Op, class Context> void run(const Context& context, const typename Op::args& x) {
  test::scratch memory(Op::workspace_bytes(context, x));
  const status st = Op::run(context, x, memory.get());
  CAPTURE(st.what, st.got, st.need);
  REQUIRE(st.code == errc::ok);
  test::wait(base_of(context));
  REQUIRE(memory.guarded());
}

template <class T> void fill(test::array<T>& a, std::mt19937& g, bool extreme) {
  std::normal_distribution<float> normal;
  for (T& x : a) {
    if constexpr (std::is_same_v<T, float>) x = normal(g);
    else x = extreme ? T((std::uint64_t(g()) << 32) | g()) : T(int(g() % 2001) - 1000);
  }
}

// Serial sums: wrapping 64-bit for integers (the low bits of which are any narrower sum), double for floats with the
// sum of absolute values, from which the error model takes its scale.
template <class T> void verify(const T* in, const T* out, std::int64_t n, scan_kind kind) {
  std::uint64_t integer = 0;
  long double sum = 0, sizes = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const bool first = kind == scan_kind::exclusive;
    const auto good = [&] {
      if constexpr (std::is_same_v<T, float>) {
        // Inside a chunk of 4096 elements at most 4096 additions, then one for each chunk, each off by at most 2^-24 of
        // the sum of absolute values so far.
        return std::abs(double(out[i] - sum)) <= double((4098 + i / 4096) * sizes) * 0x1p-24;
      } else {
        return out[i] == T(integer);
      }
    };
    if (first && !good()) { CAPTURE(i, n); REQUIRE(good()); }
    if constexpr (std::is_same_v<T, float>) sum += in[i], sizes += std::abs(in[i]);
    else integer += std::uint64_t(std::int64_t(in[i]));
    if (!first && !good()) { CAPTURE(i, n); REQUIRE(good()); }
  }
}

template <class T, scan_kind Kind> void whole() {
  using op = prim::scan<T, Kind>;
  std::mt19937 g(seed);
  for (const std::int64_t n : {0, 1, 2, 4095, 4096, 4097, 8192, 100003})
    for (const bool extreme : {false, true}) {
      CAPTURE(seed, n, extreme, int(Kind));
      test::array<T> in(std::size_t(n), 1), out(std::size_t(n), 1), first(static_cast<std::size_t>(n));
      fill(in, g, extreme);
      bool have_first = false;
      test::for_each_context(seed, [&](const auto& context) {
        std::memset(out.data(), 0x5A, std::size_t(n) * sizeof(T));
        typename op::args x;
        x.in = in.data(), x.out = out.data(), x.count = n;
        run<op>(context, x);
        verify(in.data(), out.data(), n, Kind);
        REQUIRE(out.guarded());
        REQUIRE(in.guarded());
        // The same bits from one thread, two and a shuffled order.
        if (have_first) REQUIRE(std::memcmp(first.data(), out.data(), std::size_t(n) * sizeof(T)) == 0);
        std::memcpy(first.data(), out.data(), std::size_t(n) * sizeof(T));
        have_first = true;
        // In place.
        std::memcpy(out.data(), in.data(), std::size_t(n) * sizeof(T));
        x.in = out.data();
        run<op>(context, x);
        REQUIRE(std::memcmp(first.data(), out.data(), std::size_t(n) * sizeof(T)) == 0);
      });
    }
}

template <class T, scan_kind Kind, class Offset> void segmented() {
  using op = prim::scan<T, Kind, segments<Offset>>;
  std::mt19937 g(seed);
  const int lengths[] = {0, 1, 0, 5000, 33, 0, 4096, 20000, 0};
  test::array<Offset> offsets(10);
  offsets[0] = 0;
  for (int i = 0; i < 9; ++i) offsets[i + 1] = offsets[i] + lengths[i];
  const std::int64_t n = std::int64_t(offsets[9]) + 7;                 // seven elements belong to no segment
  test::array<T> in(std::size_t(n), 1), out(std::size_t(n), 1);
  fill(in, g, true);
  test::for_each_context(seed, [&](const auto& context) {
    std::memset(out.data(), 0x5A, std::size_t(n) * sizeof(T));
    typename op::args x;
    x.in = in.data(), x.out = out.data(), x.count = n, x.parts = {offsets.data(), 9};
    run<op>(context, x);
    for (int i = 0; i < 9; ++i) {
      verify(in.data() + offsets[i], out.data() + offsets[i], lengths[i], Kind);
#if !defined(__CUDACC__)
      // A segment's bits are those of the same run alone.
      std::vector<T> alone(std::size_t(lengths[i]) + 1);
      const typename prim::scan<T, Kind>::args y{.in = in.data() + offsets[i], .out = alone.data(), .count = lengths[i]};
      run<prim::scan<T, Kind>>(context, y);
      REQUIRE(std::memcmp(alone.data(), out.data() + offsets[i], std::size_t(lengths[i]) * sizeof(T)) == 0);
#endif
    }
    for (std::int64_t i = offsets[9]; i < n; ++i) {
      T untouched;
      std::memset(&untouched, 0x5A, sizeof untouched);
      REQUIRE(std::memcmp(&untouched, out.data() + i, sizeof(T)) == 0);
    }
    REQUIRE(out.guarded());
  });
}

}  // namespace

TEMPLATE_TEST_CASE("scan of one run", "[prim][scan]", std::int32_t, std::int64_t, float) {
  whole<TestType, scan_kind::inclusive>();
  whole<TestType, scan_kind::exclusive>();
}

TEMPLATE_TEST_CASE("scan of segments", "[prim][scan]", std::int32_t, std::int64_t, float) {
  segmented<TestType, scan_kind::inclusive, std::int32_t>();
  segmented<TestType, scan_kind::exclusive, std::int64_t>();
}

TEST_CASE("an infinity or a NaN stays in the sums behind it", "[prim][scan]") {
  using op = prim::scan<float>;
  test::array<float> in(9000), out(9000);
  for (float& x : in) x = 1;
  in[4500] = std::numeric_limits<float>::infinity();
  in[8500] = std::numeric_limits<float>::quiet_NaN();
  test::for_each_context(seed, [&](const auto& context) {
    op::args x;
    x.in = in.data(), x.out = out.data(), x.count = 9000;
    run<op>(context, x);
    REQUIRE(out[4499] == 4500);
    REQUIRE(out[4500] == in[4500]);
    REQUIRE(out[8499] == in[4500]);
    REQUIRE(std::isnan(out[8500]));
    REQUIRE(std::isnan(out[8999]));
  });
}

TEST_CASE("scan refuses what it cannot do", "[prim][scan]") {
  using op = prim::scan<float>;
  const auto context = test::any_context();
  test::array<float> in(100), out(100);
  op::args good;
  good.in = in.data(), good.out = out.data(), good.count = 100;
  REQUIRE(op::check(context, good).code == errc::ok);
  const auto refused = [&](auto spoil, errc code, const char* what) {
    op::args x = good;
    spoil(x);
    const status st = op::check(context, x);
    CHECK(st.code == code);
    CHECK(std::string(st.what) == what);
  };
  refused([](op::args& x) { x.count = -1; }, errc::bad_shape, "count must not be negative");
  refused([](op::args& x) { x.in = nullptr; }, errc::null_pointer, "in is null: it needs count elements");
  refused([](op::args& x) { x.out = nullptr; }, errc::null_pointer, "out is null: it needs count elements");
  refused([](op::args& x) { x.in = reinterpret_cast<const float*>(reinterpret_cast<const char*>(x.in) + 1); }, errc::misaligned, "in must begin on a multiple of the element's size");
  refused([](op::args& x) { x.out = reinterpret_cast<float*>(reinterpret_cast<char*>(x.out) + 2); }, errc::misaligned, "out must begin on a multiple of the element's size");
  refused([](op::args& x) { x.out = const_cast<float*>(x.in) + 1; }, errc::aliased, "out must be in itself or overlap nothing");
#if !defined(__CUDACC__)
  using parts = prim::scan<float, scan_kind::inclusive, segments<std::int32_t>>;
  std::vector<std::int32_t> offsets{0, 60, 50, 100};
  parts::args y;
  y.in = in.data(), y.out = out.data(), y.count = 100, y.parts = {offsets.data(), 3};
  CHECK(parts::check(context, y).code == errc::bad_value);
  offsets = {0, 50, 60, 101};
  CHECK(parts::check(context, y).code == errc::bad_shape);
  offsets = {2, 50, 60, 100};
  CHECK(parts::check(context, y).code == errc::bad_value);
  y.parts.offsets = nullptr;
  CHECK(parts::check(context, y).code == errc::null_pointer);
  y.parts.count = -2;
  CHECK(parts::check(context, y).code == errc::bad_shape);
  y.parts = {reinterpret_cast<std::int32_t*>(out.data()), 3};
  CHECK(parts::check(context, y).code == errc::aliased);

  [[maybe_unused]] const host_context two{2};
  test::array<float> a(10000), b(10000);
  good.in = a.data(), good.out = b.data(), good.count = 10000;
  CHECK(op::workspace_bytes(host_context{1}, good) == 0);
#if defined(_OPENMP)
  const std::size_t need = op::workspace_bytes(two, good);
  REQUIRE(need == 3 * sizeof(float));
  CHECK(op::run(two, good).code == errc::workspace_too_small);
  CHECK(op::run(two, good, {in.data(), need - 1}).code == errc::workspace_too_small);
  CHECK(op::run(two, good, {b.data(), need}).code == errc::aliased);
#endif
#endif
}
