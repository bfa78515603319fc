#include "../support/arrays.hpp"
#include "../support/contexts.hpp"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include <smalti/prim/permute.hpp>

using namespace smalti;
using prim::movement;

namespace {

constexpr unsigned seed = 20261121;

struct three_bytes { unsigned char bytes[3]; };
struct wide { double a, b, c; };

template <class Op, class Context> void run(const Context& context, const typename Op::args& x) {
  CHECK(Op::workspace_bytes(context, x) == 0);
  const status st = Op::run(context, x);
  CAPTURE(st.what, st.got, st.need);
  REQUIRE(st.code == errc::ok);
  test::wait(base_of(context));
}

// Byte by byte, from the definition.
template <class T, movement Movement> void moves() {
  using op = prim::permute<T, Movement>;
  std::mt19937 g(seed);
  for (const auto& [from_rows, to_rows, cols, pad] : {std::tuple{1, 1, 1, 0}, {7, 5, 3, 2}, {64, 64, 16, 0}, {300, 200, 33, 1}, {50, 90, 1000, 24}, {5, 0, 8, 0}, {9, 9, 0, 0}, {0, 6, 4, 0}}) {
    CAPTURE(seed, from_rows, to_rows, cols, pad, int(Movement));
    if (Movement == movement::copy && from_rows != to_rows) continue;
    const int stride = cols + pad, entries = Movement == movement::gather ? to_rows : from_rows, limit = Movement == movement::gather ? from_rows : to_rows;
    test::array<T> from(std::size_t(from_rows) * stride, pad % 3), to(std::size_t(to_rows) * stride, pad % 2);
    for (std::size_t i = 0; i < from.size() * sizeof(T); ++i) reinterpret_cast<unsigned char*>(from.data())[i] = (unsigned char)(g());
    test::array<std::int32_t> index(std::size_t(entries), 1);
    std::vector<std::int32_t> targets(static_cast<std::size_t>(limit));
    for (int i = 0; i < limit; ++i) targets[std::size_t(i)] = i;
    std::shuffle(targets.begin(), targets.end(), g);
    for (int i = 0; i < entries; ++i)                       // a scatter's targets are distinct
      index[std::size_t(i)] = limit == 0 || g() % 5 == 0 ? -1 - std::int32_t(g() % 3) : Movement == movement::gather ? std::int32_t(g() % unsigned(limit)) : i < limit ? targets[std::size_t(i)] : -1;
    std::vector<unsigned char> want(to.size() * sizeof(T), 0x5A);
    for (int i = 0; i < entries; ++i) {
      const int named = Movement == movement::copy ? i : index[std::size_t(i)];
      if (named < 0) continue;
      const std::size_t source = std::size_t(Movement == movement::gather ? named : i) * stride, target = std::size_t(Movement == movement::gather ? i : named) * stride;
      for (std::size_t b = 0; b < cols * sizeof(T); ++b) want[target * sizeof(T) + b] = reinterpret_cast<const unsigned char*>(from.data() + source)[b];
    }
    test::for_each_context(seed, [&, from_rows = from_rows, to_rows = to_rows, cols = cols](const auto& context) {
      std::memset(static_cast<void*>(to.data()), 0x5A, to.size() * sizeof(T));
      typename op::args x;
      x.from = {from.data(), from_rows, cols, stride};
      x.to = {to.data(), to_rows, cols, stride};
      x.index = Movement == movement::copy ? nullptr : index.data();
      run<op>(context, x);
      REQUIRE((want.empty() || std::memcmp(want.data(), to.data(), want.size()) == 0));
      REQUIRE(to.guarded());
      REQUIRE(from.guarded());
    });
  }
}

}  // namespace

TEMPLATE_TEST_CASE("permute moves rows of any element", "[prim][permute]", unsigned char, std::int16_t, float, double, three_bytes, wide) {
  moves<TestType, movement::gather>();
  moves<TestType, movement::scatter>();
  moves<TestType, movement::copy>();
}

TEST_CASE("permute refuses what it cannot do", "[prim][permute]") {
  using op = prim::permute<float>;
  const auto context = test::any_context();
  test::array<float> from(40), to(50);
  test::array<std::int32_t> index(5);
  for (std::int32_t& i : index) i = 3;
  static float* from_memory = from.data();
  op::args good;
  good.from = {from.data(), 4, 10, 10}, good.to = {to.data(), 5, 10, 10}, good.index = index.data();
  REQUIRE(op::check(context, good).code == errc::ok);
  const auto refused = [&](auto spoil, errc code, const char* what) {
    op::args x = good;
    spoil(x);
    const status st = op::check(context, x);
    CHECK(st.code == code);
    CHECK(std::string(st.what) == what);
  };
  refused([](op::args& x) { x.from.data = nullptr; }, errc::null_pointer, "from has elements but no memory: its pointer is null");
  refused([](op::args& x) { x.to.data = nullptr; }, errc::null_pointer, "to has elements but no memory: its pointer is null");
  refused([](op::args& x) { x.from.rows = -1; }, errc::bad_shape, "from must not have a negative extent");
  refused([](op::args& x) { x.to.cols = -1; }, errc::bad_shape, "to must not have a negative extent");
  refused([](op::args& x) { x.from.stride = 9; }, errc::bad_shape, "the rows of from must not overlap: the stride is less than the number of columns");
  refused([](op::args& x) { x.to.stride = 9; }, errc::bad_shape, "the rows of to must not overlap: the stride is less than the number of columns");
  refused([](op::args& x) { x.to.cols = 8; }, errc::bad_shape, "to must have as many columns as from");
  refused([](op::args& x) { x.index = nullptr; }, errc::null_pointer, "index is null: it needs an entry for each row of to");
  refused([](op::args& x) { x.to.data = from_memory + 39; }, errc::aliased, "to must not overlap from");
  refused([](op::args& x) { x.index = reinterpret_cast<std::int32_t*>(x.to.data); }, errc::aliased, "to must not overlap index");
  refused([](op::args& x) { x.to.data = reinterpret_cast<float*>(reinterpret_cast<char*>(x.to.data) + 1); }, errc::misaligned, "to must begin on a multiple of the element's alignment");
  using copies = prim::permute<float, movement::copy>;
  copies::args rows;
  rows.from = good.from, rows.to = {to.data(), 4, 10, 10};
  CHECK(copies::check(context, rows).code == errc::ok);
  rows.to.rows = 5;
  CHECK(std::string(copies::check(context, rows).what) == "a copy needs as many rows of to as of from");
#if !defined(__CUDACC__)
  index[4] = 4;
  CHECK(op::check(context, good).code == errc::bad_value);
  CHECK(op::check(context, good).got == 4);
#endif
}
