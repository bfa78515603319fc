// flat.hpp: an aggregate survives the way through its scalar fields, wherever its empty members stand.
#include <catch2/catch.hpp>
#include <utility>
#include <vector>
#include <smalti/core/view.hpp>
#include <smalti/tile/flat.hpp>

using namespace smalti;

namespace {

struct nothing {};
struct pair {
  nothing before;
  int* p;
  short n;
};
struct nested {
  pair inner;
  nothing after;
  float scale;
};
enum class colour : unsigned char { red, green };
struct everything {
  nothing first;
  colour c;
  nested in;
  nothing between;
  bool flag;
  long long distance;
  stack<const double> matrices;
  view<float, 1> loose;
  nothing last;
};
struct only_nothing {
  nothing a, b;
};
struct sixteen {
  int a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p;
};
struct one {
  int only;
};

// As a launch does it: addresses of the scalars there, their values here.
template <class T, class... S, std::size_t... I> T rebuilt(const void* const* at, flat::scalars<S...>, std::index_sequence<I...>) {
  return flat::rebuild<T>(*static_cast<const S*>(at[I])...);
}
template <class T> T back(const T& x) {
  using fields = flat::fields_of<T>;
  std::vector<const void*> at;
  flat::each(x, [&](const auto& scalar) { at.push_back(&scalar); });
  REQUIRE(at.size() == fields::count);
  return rebuilt<T>(at.data(), fields{}, std::make_index_sequence<fields::count>{});
}

}  // namespace

TEST_CASE("an aggregate is rebuilt from its fields", "[tile][flat]") {
  int number = 0;
  const double far = 0;
  float near = 0;
  const everything x{{}, colour::green, {{{}, &number, -3}, {}, 0.5f}, {}, true, 1LL << 40, {&far, 2, 3, 4, 1LL << 33, 5}, {&near, 6, 7, 8},
                     {}};
  CHECK(flat::fields_of<everything>::count == 16);
  const everything y = back(x);
  CHECK(y.c == colour::green);
  CHECK(y.in.inner.p == &number);
  CHECK(y.in.inner.n == -3);
  CHECK(y.in.scale == 0.5f);
  CHECK(y.flag);
  CHECK(y.distance == 1LL << 40);
  CHECK(y.matrices.data == &far);
  CHECK(y.matrices.count == 2);
  CHECK(y.matrices.rows == 3);
  CHECK(y.matrices.cols == 4);
  CHECK(y.matrices.distance == 1LL << 33);
  CHECK(y.matrices.stride == 5);
  CHECK(y.loose.data == &near);
  CHECK(y.loose.rows == 6);
  CHECK(y.loose.cols == 7);
  CHECK(y.loose.stride == 8);
}

TEST_CASE("empty, small and large aggregates flatten", "[tile][flat]") {
  CHECK(std::is_same_v<flat::fields_of<nothing>, flat::scalars<>>);
  CHECK(std::is_same_v<flat::fields_of<only_nothing>, flat::scalars<>>);
  CHECK(std::is_same_v<flat::fields_of<one>, flat::scalars<int>>);
  CHECK(back(one{7}).only == 7);
  static_cast<void>(back(only_nothing{}));
  const sixteen s{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
  const sixteen t = back(s);
  CHECK(t.a == 1);
  CHECK(t.h == 8);
  CHECK(t.p == 16);
  CHECK(std::is_same_v<flat::fields_of<pair>, flat::scalars<int*, short>>);
}
