// Strided blocks: the canonical form has the bytes of the nesting it was made of, in their order, and pack and unpack are inverses.
#include <catch2/catch.hpp>

#include <algorithm>
#include <array>
#include <cstring>
#include <random>
#include <vector>

#include <smalti/comm/strided.hpp>

#include "support/arrays.hpp"
#include "support/contexts.hpp"

using namespace smalti;
using comm::strided;
using comm::strided_block;

namespace {

constexpr unsigned seed = 20261121;

// A nesting as it was said: offsets of bytes, one by one, in order.
struct nested {
  std::vector<std::int64_t> at;
  strided_block form;
  static nested dense(std::int64_t n, std::int64_t offset) {
    nested x{{}, strided_block::dense(n, offset)};
    for (std::int64_t i = 0; i < n; ++i) x.at.push_back(offset + i);
    return x;
  }
  nested repeated(std::int64_t n, std::int64_t step, std::int64_t offset) const {
    nested x{{}, form.repeated(n, step, offset)};
    for (std::int64_t i = 0; i < n; ++i)
      for (const std::int64_t b : at) x.at.push_back(offset + i * step + b);
    return x;
  }
};

std::vector<std::int64_t> bytes_of(const strided_block& b) {
  std::vector<std::int64_t> at;
  b.each([&](std::int64_t offset) {
    for (std::int64_t i = 0; i < b.count[0]; ++i) at.push_back(offset + i);
  });
  return at;
}

}  // namespace

TEST_CASE("the canonical form keeps every byte of a nesting, and their order", "[comm][strided]") {
  std::mt19937 generator(seed);
  const auto pick = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(generator); };
  int fitted = 0;
  for (int round = 0; round < 4000; ++round) {
    nested x = nested::dense(pick(0, 6), pick(0, 9));
    for (int depth = pick(0, 5); depth > 0; --depth) {
      // Often steps that join, and single repetitions with an offset.
      const std::int64_t span = std::max<std::int64_t>(std::int64_t(x.at.size()), 1);
      const std::int64_t step = pick(0, 2) == 0 ? span : pick(0, 3) == 0 ? -pick(1, 40) : pick(1, 60);
      x = x.repeated(pick(0, 9) == 0 ? 0 : pick(1, 3), step, pick(0, 20));
    }
    if (!x.form.check()) continue;
    ++fitted;
    CAPTURE(seed, round, x.form.dims);
    REQUIRE(x.form.bytes() == std::int64_t(x.at.size()));
    REQUIRE(bytes_of(x.form) == x.at);
    // Nothing joins any more.
    for (int i = 1; i < x.form.dims; ++i) REQUIRE(x.form.count[i] > 1);
    if (x.form.dims > 1) REQUIRE(x.form.stride[1] != x.form.count[0]);
    // What may be unpacked has no byte twice.
    if (x.form.check_unpack()) {
      auto sorted = x.at;
      std::sort(sorted.begin(), sorted.end());
      REQUIRE(std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end());
    }
  }
  CHECK(fitted > 3000);
}

TEST_CASE("one form for equal types, and no offset of a single repetition is lost", "[comm][strided]") {
  // A matrix of 8 x 100 bytes, columns 20 to 60: rows of words, rows of bytes, a box.
  const auto a = strided_block::dense(4).repeated(10, 4).repeated(8, 100, 20), b = strided_block::dense(40, 20).repeated(8, 100);
  const std::int64_t extent[] = {8, 100}, first[] = {0, 20}, size[] = {8, 40};
  CHECK(a == b);
  CHECK(a == strided_block::box(extent, first, size, 1));
  CHECK(strided_block::dense(10).repeated(3, 10).repeated(5, 30) == strided_block::dense(150));
  CHECK(strided_block::dense(1).repeated(4, 7).repeated(3, 28) == strided_block::dense(1).repeated(12, 7));
  // The face of a cube of thickness 1, not at its beginning.
  const std::int64_t cube[] = {6, 5, 4}, face[] = {3, 0, 0}, one[] = {1, 5, 4};
  CHECK(strided_block::box(cube, face, one, 8) == strided_block::dense(160, 480));
  CHECK(strided_block::dense(4).repeated(1, 1000, 12).start == 12);
  CHECK(strided_block::dense(4).repeated(0, 10) == strided_block::dense(0));
  CHECK_FALSE(strided_block::dense(1).repeated(2, 3).repeated(2, 7).repeated(2, 17).repeated(2, 40).check());
  CHECK(strided_block::dense(4).repeated(2, 3).check());
  CHECK_FALSE(strided_block::dense(4).repeated(2, 3).check_unpack());
}

TEST_CASE("unpack undoes pack, and nothing between the pieces is touched", "[comm][strided]") {
  std::mt19937 generator(seed);
  test::for_each_context(seed, [&](const auto& context) {
    for (const int unit : {1, 4, 8})
      for (const auto& [n0, n1, s1, n2, s2, n3, s3] : std::vector<std::array<int, 7>>{{1, 1, 0, 1, 0, 1, 0}, {3, 70, 5, 1, 0, 1, 0}, {20, 5, 33, 3, 200, 1, 0}, {2, 3, 4, 4, 15, 5, 70}, {300, 17, 301, 2, 6000, 1, 0}, {1, 1000, 2, 1, 0, 1, 0}}) {
        const strided_block b = strided_block::dense(n0 * unit, 3 * unit).repeated(n1, s1 * unit).repeated(n2, s2 * unit).repeated(n3, s3 * unit);
        CAPTURE(seed, unit, n0, n1, n2, n3);
        const std::vector<std::int64_t> at = bytes_of(b);
        const std::size_t extent = std::size_t(*std::max_element(at.begin(), at.end()) + 9);
        test::array<std::byte> memory(extent), packed(at.size()), back(extent);
        for (auto& x : memory) x = std::byte(generator() & 255);
        for (auto& x : back) x = std::byte(0x11);
        const strided::args there{b, memory.data(), packed.data()}, home{b, back.data(), packed.data()};
        REQUIRE(strided::pack(context, there));
        test::wait(context);
        for (std::size_t i = 0; i < at.size(); ++i) REQUIRE(packed[i] == memory[std::size_t(at[i])]);
        REQUIRE(strided::unpack(context, home));
        test::wait(context);
        std::vector<char> touched(extent);
        for (const std::int64_t i : at) touched[std::size_t(i)] = 1;
        for (std::size_t i = 0; i < extent; ++i) REQUIRE(back[i] == (touched[i] ? memory[i] : std::byte(0x11)));
        REQUIRE((memory.guarded() && packed.guarded() && back.guarded()));
      }
    std::byte some[64] = {};
    CHECK(strided::pack(context, {strided_block::dense(4).repeated(2, 8), nullptr, some}).code == errc::null_pointer);
    CHECK(strided::pack(context, {strided_block::dense(4).repeated(2, 8), some, nullptr}).code == errc::null_pointer);
    CHECK(strided::pack(context, {strided_block::dense(4).repeated(2, 8), some, some + 11}).code == errc::aliased);
    CHECK(strided::check_pack(context, {strided_block::dense(4).repeated(2, 3), some, some + 32}));
    CHECK(strided::unpack(context, {strided_block::dense(4).repeated(2, 3), some, some + 32}).code == errc::aliased);
    CHECK(strided::pack(context, {strided_block::dense(0), nullptr, nullptr}));
  });
}
