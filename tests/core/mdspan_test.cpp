#include <catch2/catch.hpp>
#include <array>
#include <cstddef>
#include <limits>
#include <string>
#include <type_traits>
#include <smalti/core/mdspan.hpp>

using namespace smalti;

// What the library asks of an mdspan, and nothing more: the tests run where no mdspan is installed.
template <class T, int Rank, class Index = long long>
struct span_of {
  using element_type = T;
  using data_handle_type = T*;
  T* data;
  std::array<Index, Rank> extents, strides;
  T* data_handle() const { return data; }
  Index extent(std::size_t axis) const { return extents[axis]; }
  Index stride(std::size_t axis) const { return strides[axis]; }
  static constexpr std::size_t rank() { return Rank; }
  static constexpr bool is_always_strided() { return true; }
};

alignas(64) static float memory[4096];
constexpr long long big = std::numeric_limits<int>::max();

template <class View> static status convert(View& to, float* data, long long rows, long long cols, long long row_stride, long long column_stride) {
  return to_view(span_of<float, 2>{data, {rows, cols}, {row_stride, column_stride}}, to);
}

TEST_CASE("a row-major mdspan becomes a view", "[core][mdspan]") {
  view<float> v;
  REQUIRE(bool(convert(v, memory, 5, 8, 12, 1)));
  CHECK((v.data == memory && v.rows == 5 && v.cols == 8 && v.stride == 12));
  view<const float, 1> c;
  REQUIRE(bool(convert(c, memory + 1, 5, 7, 9, 1)));
  CHECK((c.data == memory + 1 && c.rows == 5 && c.cols == 7 && c.stride == 9));
  REQUIRE(bool(to_view(span_of<float, 2, int>{memory, {2, 4}, {4, 1}}, v)));
  CHECK((v.rows == 2 && v.cols == 4 && v.stride == 4));
}

TEST_CASE("what is no matrix of contiguous rows is refused", "[core][mdspan]") {
  view<float, 1> v{memory, 1, 2, 3};
  CHECK(convert(v, memory, 5, 8, 1, 5) == status{errc::bad_shape, "", 5, 1});              // column-major
  CHECK(convert(v, memory, 5, 8, 16, 2) == status{errc::bad_shape, "", 2, 1});
  CHECK(convert(v, memory, 5, 8, 7, 1) == status{errc::bad_shape, "", 7, 8});              // rows overlap
  CHECK(convert(v, memory, 5, 8, 0, 1) == status{errc::bad_shape, "", 0, 8});
  CHECK(convert(v, memory, 5, 8, -8, 1) == status{errc::bad_shape, "", -8, 8});
  CHECK(convert(v, memory, -5, 8, 8, 1) == status{errc::bad_shape, "", -5, 0});
  CHECK(convert(v, memory, 5, -8, 8, 1) == status{errc::bad_shape, "", -8, 0});
  CHECK(convert(v, nullptr, 5, 8, 8, 1).code == errc::null_pointer);
  CHECK(convert(v, memory, big + 1, 8, 8, 1) == status{errc::out_of_reach, "", big + 1, big});
  CHECK(convert(v, memory, 5, big + 1, big + 1, 1) == status{errc::out_of_reach, "", big + 1, big});
  CHECK(std::string(convert(v, memory, 5, big + 1, big + 1, 1).what).substr(0, 7) == "columns");
  CHECK(convert(v, memory, 5, 8, big + 1, 1) == status{errc::out_of_reach, "", big + 1, big});
  CHECK(convert(v, reinterpret_cast<float*>(reinterpret_cast<char*>(memory) + 2), 5, 8, 8, 1).code == errc::misaligned);
  CHECK((v.data == memory && v.rows == 1 && v.cols == 2 && v.stride == 3));                // untouched by all of them
}

TEST_CASE("a view of 16-byte steps keeps its promise", "[core][mdspan]") {
  view<float> v;
  CHECK(convert(v, memory + 1, 5, 8, 8, 1) == status{errc::misaligned, "", 4, 0});
  CHECK(convert(v, memory, 5, 7, 8, 1) == status{errc::misaligned, "", 7, 8});
  CHECK(convert(v, memory, 5, 8, 9, 1) == status{errc::misaligned, "", 9, 12});
  CHECK(bool(convert(v, memory + 4, 5, 8, 8, 1)));
  CHECK(bool(convert(v, memory, big, 4, 4, 1)));
}

TEST_CASE("the stride of an axis of one element does not matter", "[core][mdspan]") {
  view<float> v;
  REQUIRE(bool(convert(v, memory, 1, 8, 0, 1)));
  CHECK(v.stride == 8);
  REQUIRE(bool(convert(v, memory, 1, 8, -3, 1)));
  view<float, 1> w;
  REQUIRE(bool(convert(w, memory, 3, 1, 2, 77)));
  CHECK(w.stride == 2);
  REQUIRE(bool(convert(v, nullptr, 0, 8, -1, 5)));
  CHECK((v.rows == 0 && v.cols == 8));
  REQUIRE(bool(convert(v, nullptr, 8, 0, -1, 5)));
  CHECK((v.rows == 8 && v.cols == 0));
}

TEST_CASE("an mdspan of rank 3 becomes a stack", "[core][mdspan]") {
  const auto convert3 = [](auto& to, std::array<long long, 3> extents, std::array<long long, 3> strides) {
    return to_stack(span_of<float, 3>{memory, extents, strides}, to);
  };
  stack<float> s;
  REQUIRE(bool(convert3(s, {2, 5, 8}, {48, 8, 1})));
  CHECK((s.data == memory && s.count == 2 && s.rows == 5 && s.cols == 8 && s.distance == 48 && s.stride == 8));
  REQUIRE(bool(convert3(s, {2, 5, 8}, {8, 16, 1})));                    // [token][head][d]: matrices interleaved
  CHECK((s.distance == 8 && s.stride == 16));
  REQUIRE(bool(convert3(s, {2, 1, 8}, {1LL << 40, 8, 1})));             // the distance has 64 bits
  CHECK(s.distance == 1LL << 40);
  CHECK(convert3(s, {2, 5, 8}, {42, 8, 1}) == status{errc::misaligned, "", 42, 44});
  CHECK(convert3(s, {2, 5, 8}, {-48, 8, 1}) == status{errc::bad_shape, "", -48, 0});
  CHECK(convert3(s, {-2, 5, 8}, {48, 8, 1}) == status{errc::bad_shape, "", -2, 0});
  CHECK(convert3(s, {big + 1, 5, 8}, {48, 8, 1}) == status{errc::out_of_reach, "", big + 1, big});
  CHECK(convert3(s, {0, big + 1, 8}, {48, 8, 1}).code == errc::out_of_reach);
  CHECK(convert3(s, {2, 5, 8}, {0, 8, 1}).code == errc::aliased);
  stack<const float> shared;
  REQUIRE(bool(convert3(shared, {2, 5, 8}, {0, 8, 1})));                // one matrix read twice
  REQUIRE(bool(convert3(s, {1, 5, 8}, {-3, 8, 1})));
  CHECK(s.distance == 0);
}

TEST_CASE("a view becomes one that is read, or promises less, and never the other way round", "[core]") {
  static_assert(std::is_convertible_v<view<float>, view<const float>> && std::is_convertible_v<view<float>, view<float, 1>>);
  static_assert(std::is_convertible_v<view<float>, view<const float, 2>> && std::is_convertible_v<view<const float>, view<const float, 1>>);
  static_assert(!std::is_convertible_v<view<const float>, view<float>> && !std::is_convertible_v<view<const float>, view<float, 1>>);
  static_assert(!std::is_convertible_v<view<float, 1>, view<float>> && !std::is_convertible_v<view<float, 2>, view<const float>>);
  static_assert(!std::is_convertible_v<view<float>, view<const int>>);
  static_assert(std::is_aggregate_v<view<float>> && std::is_trivially_copyable_v<view<float>>);   // it crosses a launch
  struct args {
    view<const float> x = {};
    view<const float, 1> y = {};
  };
  const view<float> v{memory, 3, 8, 12};
  args a{.x = v, .y = v};
  CHECK((a.x.data == memory && a.x.rows == 3 && a.x.cols == 8 && a.x.stride == 12));
  CHECK((a.y.data == memory && a.y.rows == 3 && a.y.cols == 8 && a.y.stride == 12));
  a.x = {};
  a.x = v;
  CHECK(a.x.data == memory);
}

#if defined(SMALTI_MDSPAN)
TEST_CASE("a view survives the way through an mdspan", "[core][mdspan]") {
  const view<float> v{memory, 3, 8, 12};
  const auto m = view_as_mdspan(v);
  static_assert(m.rank() == 2);
  for (int i = 0; i < v.rows; ++i)
    for (int j = 0; j < v.cols; ++j) REQUIRE(m.data_handle() + m.mapping()(i, j) == v.data + i * v.stride + j);
  view<float> back;
  REQUIRE(bool(to_view(m, back)));
  CHECK((back.data == v.data && back.rows == 3 && back.cols == 8 && back.stride == 12));
  const stack<float> s{memory, 2, 3, 8, 40, 12};
  stack<float> again;
  REQUIRE(bool(to_stack(view_as_mdspan(s), again)));
  CHECK((again.count == 2 && again.rows == 3 && again.cols == 8 && again.distance == 40 && again.stride == 12));
}
#endif
