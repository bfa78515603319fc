#include <catch2/catch.hpp>
#include <cstdint>
#include <vector>
#include <smalti/core/segments.hpp>

using namespace smalti;

TEMPLATE_TEST_CASE("segments hold what the offsets say", "[core][segments]", std::int32_t, std::int64_t) {
  const std::vector<TestType> offsets{0, 3, 3, 10};
  const segments<TestType> s{offsets.data(), 3};
  CHECK(bool(check_segments(s, 10)));
  CHECK(s.first(0) == 0);
  CHECK(s.last(0) == 3);
  CHECK(s.length(0) == 3);
  CHECK(s.length(1) == 0);
  CHECK(s.first(2) == 3);
  CHECK(s.length(2) == 7);
  CHECK(s.total() == 10);
  CHECK(segments<TestType>{}.total() == 0);
}

// All offsets of up to three runs with values in [-1, 3] against all limits: accepted exactly when the definition says.
TEMPLATE_TEST_CASE("check_segments accepts exactly the valid offsets", "[core][segments]", std::int32_t, std::int64_t) {
  for (int count = 1; count <= 3; ++count) {
    std::vector<TestType> o(count + 1);
    int combinations = 1;
    for (int i = 0; i <= count; ++i) combinations *= 5;
    for (int code = 0; code < combinations; ++code) {
      for (int i = 0, rest = code; i <= count; ++i, rest /= 5) o[i] = TestType(rest % 5 - 1);
      for (int limit = -1; limit <= 3; ++limit) {
        bool valid = o[0] == 0 && o[count] <= limit;
        for (int i = 0; i < count; ++i) valid = valid && o[i] <= o[i + 1];
        CAPTURE(count, code, limit);
        REQUIRE(bool(check_segments(segments<TestType>{o.data(), count}, limit)) == valid);
      }
    }
  }
}

TEMPLATE_TEST_CASE("check_segments names what is wrong", "[core][segments]", std::int32_t, std::int64_t) {
  const auto check = [](std::vector<TestType> o, std::int64_t limit) {
    return check_segments(segments<TestType>{o.data(), int(o.size()) - 1}, limit);
  };
  CHECK(check_segments(segments<TestType>{nullptr, -1}, 5) == status{errc::bad_shape, "", -1, 0});
  CHECK(bool(check_segments(segments<TestType>{nullptr, 0}, 5)));
  CHECK(check_segments(segments<TestType>{nullptr, 2}, 5) == status{errc::null_pointer, "", 0, 3});
  CHECK(check({1, 2}, 5) == status{errc::bad_value, "", 1, 0});
  CHECK(check({0, 4, 2}, 5) == status{errc::bad_value, "", 2, 4});
  CHECK(check({0, 4, 6}, 5) == status{errc::bad_shape, "", 6, 5});
}

TEST_CASE("64-bit offsets are not cut", "[core][segments]") {
  const std::vector<std::int64_t> o{0, std::int64_t(1) << 32, (std::int64_t(1) << 32) + 5};
  const segments<std::int64_t> s{o.data(), 2};
  CHECK(s.length(0) == std::int64_t(1) << 32);
  CHECK(s.length(1) == 5);
  CHECK(bool(check_segments(s, (std::int64_t(1) << 32) + 5)));
  CHECK(check_segments(s, 5) == status{errc::bad_shape, "", (std::int64_t(1) << 32) + 5, 5});
}
