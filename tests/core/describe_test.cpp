#include <catch2/catch.hpp>
#include <cstring>
#include <limits>
#include <string>
#include <smalti/core/describe.hpp>

using namespace smalti;

static std::string line(const status& s) {
  char text[description_size];
  return describe(s, text);
}

TEST_CASE("describe writes code, sentence and numbers", "[core][describe]") {
  CHECK(line({}) == "ok");
  CHECK(line({errc::bad_shape, "k must be a multiple of 128", 100, 128}) == "bad_shape: k must be a multiple of 128: got 100, need 128");
  CHECK(line({errc::misaligned, "a must be aligned", 8, 0}) == "misaligned: a must be aligned: got 8, need 0");
  CHECK(line({errc::null_pointer, "a is null", 0, 5}) == "null_pointer: a is null: got 0, need 5");
  CHECK(line({errc::capture_refused, "not now"}) == "capture_refused: not now");
  CHECK(line({errc::peer_lost}) == "peer_lost");
  CHECK(line({errc::bad_value, nullptr, 1, 2}) == "bad_value: got 1, need 2");
  CHECK(line({errc::bad_value, "%s %n", -1, std::numeric_limits<std::int64_t>::min()}) ==
        "bad_value: %s %n: got -1, need -9223372036854775808");
}

TEST_CASE("describe never writes past the buffer and always ends the text", "[core][describe]") {
  const status s{errc::bad_shape, "k must be even", 7, 8};
  const std::string whole = line(s);
  for (std::size_t size = 1; size <= whole.size() + 2; ++size) {
    char text[64];
    std::memset(text, 'x', sizeof text);
    CHECK(describe(s, text, size) == text);
    CHECK(std::string(text) == whole.substr(0, size - 1));
    for (std::size_t i = size; i < sizeof text; ++i) REQUIRE(text[i] == 'x');
  }
  char text[1] = {'x'};
  CHECK(describe(s, text, 0) == std::string());
  CHECK(text[0] == 'x');
  CHECK(describe(s, nullptr, 10) == std::string());
}
