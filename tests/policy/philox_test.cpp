// Philox 4x32-10 against the published known answers, on scalars and on the host machine's lanes.
#include <catch2/catch.hpp>
#include <array>
#include <cmath>
#include <cstdint>
#include <smalti/policy/philox.hpp>
#include <smalti/tile/host/values.hpp>

using namespace smalti;

namespace {
// Random123's kat_vectors, the lines of philox4x32 10: counter, key, answer
struct known {
  std::array<std::uint32_t, 4> counter;
  std::array<std::uint32_t, 2> key;
  std::array<std::uint32_t, 4> answer;
};
constexpr known vectors[] = {
    {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
    {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
    {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}, {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
};
}  // namespace

TEST_CASE("philox gives the published answers", "[policy][philox]") {
  for (const known& k : vectors) {
    const std::uint64_t key = k.key[0] | std::uint64_t(k.key[1]) << 32;
    const auto got = policy::philox<std::uint32_t>({{k.counter[0], k.counter[1], k.counter[2], k.counter[3]}}, key);
    for (int i = 0; i < 4; ++i) REQUIRE(got.v[i] == k.answer[i]);
    using host::ints;
    const auto lanes = policy::philox<ints>({{ints(int(k.counter[0])), ints(int(k.counter[1])), ints(int(k.counter[2])), ints(int(k.counter[3]))}}, key);
    for (int i = 0; i < 4; ++i)
      for (int l = 0; l < host::lane_count; ++l) REQUIRE(std::uint32_t(lanes.v[i][l]) == k.answer[i]);
  }
  static_assert(policy::philox<std::uint32_t>({{0, 0, 0, 0}}, 0).v[0] == 0x6627e8d5u);
}

TEST_CASE("lanes and scalars count alike", "[policy][philox]") {
  const policy::random_stream stream{0x0123456789abcdefull, 7};
  const host::ints index = host::ints(host::consecutive{12345678});
  const auto lanes = policy::philox<host::ints>({{index, host::ints(0), host::ints(7), host::ints(0)}}, stream.seed);
  for (int l = 0; l < host::lane_count; ++l) {
    const auto one = stream.block(12345678u + unsigned(l));
    for (int i = 0; i < 4; ++i) REQUIRE(std::uint32_t(lanes.v[i][l]) == one.v[i]);
  }
  REQUIRE(stream.bits(4 * 99 + 2) == stream.block(99).v[2]);
}

TEST_CASE("uniform numbers", "[policy][philox]") {
  const policy::random_stream a{1, 0}, b{1, 1}, c{2, 0};
  double sum = 0, squares = 0;
  int same = 0;
  constexpr int n = 100000;
  for (int i = 0; i < n; ++i) {
    const float u = a.uniform(i);
    REQUIRE((u >= 0.0f && u < 1.0f));
    sum += u, squares += double(u) * u;
    same += a.bits(i) == b.bits(i) || a.bits(i) == c.bits(i);
  }
  REQUIRE(same < 3);
  REQUIRE(std::abs(sum / n - 0.5) < 5 / std::sqrt(12.0 * n));                 // five standard deviations
  REQUIRE(std::abs(squares / n - 1.0 / 3) < 5 * std::sqrt(4.0 / 45 / n));
}
