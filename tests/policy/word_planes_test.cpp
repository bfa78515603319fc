// Where packed codes lie. The formula is written out a second time here; every bit of every word is accounted for; and
// packing followed by unpacking is the identity for every width, family and ragged shape.
#include <catch2/catch.hpp>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>
#include <smalti/policy/codec.hpp>
#include <smalti/policy/packing.hpp>
#include <smalti/policy/word_planes.hpp>

using namespace smalti;
using policy::machine_family;

namespace {

constexpr unsigned seed = 41;
constexpr std::uint32_t guard = 0xa5c3960fu;

// The widths of a code's parts, from the highest: b = 8a + 4b + 2c + d.
std::vector<int> widths_of(int bits) {
  std::vector<int> w;
  for (int x : {8, 4, 2, 1})
    if (bits & x) w.push_back(x);
  return w;
}

template <class Layout> void check_places(int run, int words) {
  CAPTURE(Layout::bits, run, words);
  const std::vector<int> widths = widths_of(Layout::bits);
  REQUIRE(Layout::parts == int(widths.size()));
  const int depth = run * words;
  REQUIRE(Layout::depth == depth);
  const int k = 2 * depth * (32 / run / widths.back());
  REQUIRE(Layout::padded_k(1) == k / 2);
  REQUIRE(Layout::padded_k(0) == 0);
  REQUIRE(Layout::padded_k(k / 2 + 1) == k);
  int low = 0;
  for (int p = 0; p < Layout::parts; ++p) {
    const int w = widths[p], positions = 32 / run / w;
    REQUIRE(Layout::width(p) == w);
    REQUIRE(Layout::shift(p) == low);
    low += w;
    REQUIRE(Layout::words_of(k, p) == k * w / 32);
    std::vector<std::uint32_t> used(k * w / 32, 0);
    bool formula = true, inverse = true, apart = true;
    for (int i = 0; i < k; ++i) {
      const policy::code_place at = Layout::place(i, p);
      const int t = i / depth, r = i % depth;
      formula = formula && at.word == t / positions * words + r / run && at.bit == r % run * (32 / run) + w * (t % positions);
      formula = formula && Layout::word_tile(t, p) == at.word / words && Layout::position(t, p) == at.bit % (32 / run) / w;
      inverse = inverse && Layout::code_at(at, p) == i;
      const std::uint32_t field = w == 32 ? ~0u : ((1u << w) - 1) << at.bit;
      apart = apart && (used[at.word] & field) == 0;
      used[at.word] |= field;
    }
    REQUIRE(formula);
    REQUIRE(inverse);
    REQUIRE(apart);
    for (const std::uint32_t u : used) REQUIRE(u == ~0u);
  }
  REQUIRE(low == Layout::bits);
}

template <class Layout, class Codec> void round_trip(int n, int k, bool permuted) {
  CAPTURE(seed, n, k, permuted, Layout::bits, int(Layout::family));
  std::mt19937 generator(seed);
  const int stride = k + 3;
  std::vector<std::uint8_t> codes(std::size_t(n) * stride + 1, 0xff), back(codes.size(), 0xee);
  for (int i = 0; i < n; ++i)
    for (int p = 0; p < k; ++p) codes[std::size_t(i) * stride + p] = std::uint8_t((i * k + p < (1 << Layout::bits) ? unsigned(i * k + p) : generator()) & ((1u << Layout::bits) - 1));
  std::vector<int> order(k);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), generator);
  std::vector<std::vector<std::uint32_t>> words;
  std::vector<std::uint32_t*> parts;
  for (int p = 0; p < Layout::parts; ++p) words.emplace_back(std::size_t(Layout::size(n, k, p)) + 8, guard);
  for (auto& w : words) parts.push_back(w.data() + 4);
  const policy::code_matrix in{codes.data(), n, k, stride, permuted ? order.data() : nullptr};
  REQUIRE(policy::pack_codes<Layout, Codec>(in, parts.data()).code == errc::ok);
  for (const auto& w : words)
    for (int g = 0; g < 4; ++g) REQUIRE((w[g] == guard && w[w.size() - 1 - g] == guard));
  policy::unpack_codes<Layout>(parts.data(), n, k, back.data(), stride, permuted ? order.data() : nullptr);
  bool same = true;
  for (int i = 0; i < n; ++i)
    for (int p = 0; p < k; ++p) same = same && back[std::size_t(i) * stride + p] == codes[std::size_t(i) * stride + p];
  REQUIRE(same);
  bool padded = true;
  for (int i = 0; i < Layout::padded_n(n); ++i)
    for (int p = i < n ? k : 0; p < Layout::padded_k(k); ++p) {
      bool stored = true;
      for (int part = 0; part < Layout::parts; ++part) stored = stored && Layout::place(p, part).word < Layout::words_of(k, part);
      padded = padded && (stored ? policy::packed_code<Layout>(parts.data(), i, p, k) == policy::padding_code<Codec> : p >= k);
    }
  REQUIRE(padded);
}

template <int Bits, int Depth> void all_families() {
  check_places<policy::gpu_layout<Bits, Depth>>(2, Depth / 2);
  check_places<policy::host_layout<Bits, 4 * Depth>>(4, Depth);
  using codec = policy::offset_int<Bits>;
  for (const auto& [n, k] : {std::pair{1, 1}, {3, 67}, {64, 32}, {65, 513}, {2, 1030}, {0, 5}, {5, 0}}) {
    round_trip<policy::gpu_layout<Bits, Depth>, codec>(n, k, false);
    round_trip<policy::gpu_layout<Bits, Depth>, codec>(n, k, true);
    round_trip<policy::host_layout<Bits, 4 * Depth>, codec>(n, k, true);
    round_trip<policy::host_layout<Bits, Depth, 16>, codec>(n, k, false);
  }
}

}  // namespace

TEST_CASE("packed codes: every width in every family", "[policy][packing]") {
  all_families<1, 32>();
  all_families<2, 32>();
  all_families<3, 32>();
  all_families<4, 32>();
  all_families<5, 32>();
  all_families<6, 32>();
  all_families<7, 32>();
  all_families<8, 32>();
  all_families<4, 16>();
  all_families<6, 16>();
}

TEST_CASE("packed codes: panels of the host end with the codes", "[policy][packing]") {
  using four = policy::host_layout<4>;      // word tiles of 256 codes, 32 words
  REQUIRE(four::words_of(512, 0) == 64);
  REQUIRE(four::words_of(513, 0) == 72);
  REQUIRE(four::words_of(576, 0) == 80);    // 64 codes of the first depth-tile: 16 words
  REQUIRE(four::words_of(577, 0) == 88);
  REQUIRE(four::words_of(512 + 127, 0) == 96);
  REQUIRE(four::words_of(512 + 129, 0) == 96);   // the second depth-tile shares the words of the first
  REQUIRE(four::size(65, 576, 0) == 128 * 80);
  REQUIRE(policy::host_layout<8>::words_of(576, 0) == 144);
  REQUIRE(policy::host_layout<6>::words_of(576, 0) == 80);
  REQUIRE(policy::host_layout<6>::words_of(576, 1) == 48);
  REQUIRE(policy::weight_layout<4, policy::machine_family::host, 128, 1>::words_of(576, 0) == 96);      // rows, for a GPU
  REQUIRE(policy::gpu_layout<4>::words_of(65, 0) == 16);
}

TEST_CASE("packed codes: natural order of block-scaled operands", "[policy][packing]") {
  check_places<policy::block_scaled_layout<4>>(8, 1);
  check_places<policy::block_scaled_layout<8>>(4, 1);
  round_trip<policy::block_scaled_layout<4>, policy::e2m1>(5, 75, false);
  round_trip<policy::block_scaled_layout<8>, policy::e5m2>(5, 75, false);
  // two e2m1 in a byte, the first in the low half; bytes in memory order
  std::vector<std::uint8_t> codes(16);
  std::iota(codes.begin(), codes.end(), 0);
  std::uint32_t words[2];
  std::uint32_t* parts[] = {words};
  REQUIRE(policy::pack_codes<policy::block_scaled_layout<4>, policy::e2m1>({codes.data(), 1, 16, 16}, parts).code == errc::ok);
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(words);
  for (int i = 0; i < 8; ++i) REQUIRE(bytes[i] == (2 * i | (2 * i + 1) << 4));
  REQUIRE(policy::pack_codes<policy::block_scaled_layout<8>, policy::e5m2>({codes.data(), 1, 8, 8}, parts).code == errc::ok);
  for (int i = 0; i < 8; ++i) REQUIRE(bytes[i] == i);
}

TEST_CASE("packing in ranges gives the same words", "[policy][packing]") {
  using layout = policy::host_layout<5>;
  using codec = policy::offset_int<5>;
  constexpr int n = 200, k = 300;
  std::mt19937 generator(seed);
  std::vector<std::uint8_t> codes(n * k);
  for (auto& c : codes) c = std::uint8_t(generator() % 32);
  std::vector<std::uint32_t> a[2], b[2];
  for (int p = 0; p < 2; ++p) a[p].resize(layout::size(n, k, p), 1), b[p].resize(a[p].size(), 2);
  std::uint32_t *to_a[] = {a[0].data(), a[1].data()}, *to_b[] = {b[0].data(), b[1].data()};
  const policy::code_matrix in{codes.data(), n, k, k};
  REQUIRE(policy::pack_codes<layout, codec>(in, to_a).code == errc::ok);
  REQUIRE(policy::pack_codes<layout, codec>(in, to_b, {128, 200}).code == errc::ok);
  REQUIRE(policy::pack_codes<layout, codec>(in, to_b, {0, 128}).code == errc::ok);
  REQUIRE(a[0] == b[0]);
  REQUIRE(a[1] == b[1]);
}

TEST_CASE("packing refuses what it cannot hold", "[policy][packing]") {
  using layout = policy::gpu_layout<4>;
  using codec = policy::offset_int<4>;
  std::uint8_t codes[8] = {1, 2, 3, 16, 5, 6, 7, 8};
  std::uint32_t words[16];
  std::uint32_t* parts[] = {words};
  std::uint32_t* nowhere[] = {nullptr};
  auto refused = [&](policy::code_matrix in, policy::column_range range) { return policy::pack_codes<layout, codec>(in, parts, range); };
  REQUIRE(refused({codes, 1, 8, 8}, {0, 1}) == status{errc::bad_value, "", 16, 15});
  REQUIRE(refused({codes, 2, 4, 3}, {0, 2}).code == errc::bad_shape);
  REQUIRE(refused({codes, -1, 4, 4}, {0, 0}).code == errc::bad_shape);
  REQUIRE(refused({nullptr, 1, 4, 4}, {0, 1}).code == errc::null_pointer);
  REQUIRE(refused({codes, 1, 3, 3}, {0, 2}).code == errc::bad_shape);
  const int order[3] = {0, 3, 1};
  REQUIRE(refused({codes, 1, 3, 3, order}, {0, 1}) == status{errc::bad_value, "", 3, 3});
  REQUIRE(policy::pack_codes<layout, codec>({codes, 1, 3, 3}, nowhere).code == errc::null_pointer);
  // a NaN of a codec that promises finite values; kept by the one that does not
  const std::uint8_t nan[4] = {0, 0x7f, 1, 2};
  using bytes = policy::gpu_layout<8>;
  REQUIRE(policy::pack_codes<bytes, policy::e4m3_finite>({nan, 1, 4, 4}, parts) == status{errc::bad_value, "", 0x7f, 255});
  REQUIRE(policy::pack_codes<bytes, policy::e4m3>({nan, 1, 4, 4}, parts).code == errc::ok);
}
