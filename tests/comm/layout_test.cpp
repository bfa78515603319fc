// Layouts are bijections with the inverses they say, and a reshard between any two moves every byte once to where it belongs.
#include <catch2/catch.hpp>

#include <cstring>
#include <random>
#include <vector>

#include <smalti/comm/in_process.hpp>
#include <smalti/comm/reshard.hpp>
#include <smalti/comm/together.hpp>

#include "support/arrays.hpp"

using namespace smalti;
using namespace smalti::comm;

namespace {

constexpr unsigned seed = 20261121;

std::vector<token_layout> layouts(int p) { return {contiguous(p), zigzag(p), striped(p), striped(p, 3), striped(p, 16)}; }

// A byte that says which token, column and byte of a block of a sequence it is.
std::byte mark(int s, std::int64_t token, std::int64_t column, std::int64_t b) { return std::byte((s * 59 + token * 31 + column * 7 + b * 3 + 1) & 255); }

struct one_rank {
  test::array<std::byte> memory;
  // Every element of a rank's rows by a sharding: f(sequence, token, column, bytes of the block).
  template <class F> static void each(const sharding& l, const std::vector<int>& lengths, std::int64_t columns, std::int64_t block, int rank, std::byte* at, F f) {
    for (int s = 0; s < int(lengths.size()); ++s)
      for (std::int64_t i = 0; i < l.rows_of(lengths[s], rank); ++i)
        for (std::int64_t c = 0; c < l.columns_of(columns, rank); ++c, at += block) f(s, l.token(lengths[s], rank, i), l.first_column(columns, rank) + c, at);
  }
};

void moves(int p, const sharding& from, const sharding& to, const std::vector<int>& lengths, std::int64_t columns, std::int64_t block) {
  in_process net(p, {seed, 300});
  std::vector<in_process::endpoint> ends;
  for (int r = 0; r < p; ++r) ends.push_back(net.rank(r));
  std::vector<reshard<in_process::endpoint>> runs;
  std::vector<test::array<std::byte>> in, out;
  std::vector<test::scratch> memories;
  const auto size = [&](const sharding& l, int r) {
    std::int64_t n = 0;
    for (const int tokens : lengths) n += l.rows_of(tokens, r);
    return std::size_t(n * l.columns_of(columns, r) * block);
  };
  std::size_t total_in = 0, total_out = 0;
  for (int r = 0; r < p; ++r) {
    in.emplace_back(size(from, r)), out.emplace_back(size(to, r));
    total_in += in.back().size(), total_out += out.back().size();
    one_rank::each(from, lengths, columns, block, r, in.back().data(), [&](int s, std::int64_t t, std::int64_t c, std::byte* at) {
      for (std::int64_t b = 0; b < block; ++b) at[b] = mark(s, t, c, b);
    });
  }
  if (!to.by_columns) REQUIRE(total_in == total_out);     // bytes are conserved
  for (int r = 0; r < p; ++r) {
    const reshard_args x{from, to, lengths.data(), int(lengths.size()), columns, block, in[r].data(), out[r].data()};
    reshard<in_process::endpoint> begun(ends[r]);
    memories.emplace_back(begun.workspace_bytes(x));
    const status st = begun.start(x, memories.back().get());
    CAPTURE(st.what, st.got, st.need);
    REQUIRE(st);
    runs.push_back(std::move(begun));
  }
  REQUIRE(run_together(net, runs));
  for (int r = 0; r < p; ++r) {
    CAPTURE(r, runs[r].failure().what);
    REQUIRE(runs[r].failure());
    REQUIRE((memories[r].guarded() && in[r].guarded() && out[r].guarded()));
    bool right = true;
    one_rank::each(to, lengths, columns, block, r, out[r].data(), [&](int s, std::int64_t t, std::int64_t c, std::byte* at) {
      for (std::int64_t b = 0; b < block; ++b) right = right && at[b] == mark(s, t, c, b);
    });
    REQUIRE(right);
  }
}

}  // namespace

TEST_CASE("layouts deal out every token once, in ascending order, and know where it went", "[comm][layout]") {
  for (int p = 1; p <= 17; ++p)
    for (const token_layout& l : layouts(p))
      for (const std::int64_t n : {0, 1, 2, 5, p - 1, p, p + 1, 2 * p - 1, 2 * p, 2 * p + 1, 97, 256}) {
        CAPTURE(p, int(l.how), l.width, n);
        REQUIRE(l.check());
        std::vector<int> seen(std::size_t(n), -1);
        std::int64_t least = n, most = 0;
        for (int r = 0; r < p; ++r) {
          const std::int64_t mine = l.share(n, r);
          least = std::min(least, mine), most = std::max(most, mine);
          for (std::int64_t i = 0; i < mine; ++i) {
            const std::int64_t t = l.token(n, r, i);
            REQUIRE((t >= 0 && t < n));
            REQUIRE(seen[std::size_t(t)] == -1);
            seen[std::size_t(t)] = r;
            REQUIRE(l.owner(n, t) == r);
            REQUIRE(l.index(n, t) == i);
            if (i > 0) REQUIRE(l.token(n, r, i - 1) < t);
          }
        }
        for (const int r : seen) REQUIRE(r >= 0);
        REQUIRE(most - least <= (l.how == deal::zigzag ? 2 : l.width));
      }
  CHECK_FALSE(token_layout{deal::contiguous, 0}.check());
  CHECK_FALSE(token_layout{deal::striped, 2, 0}.check());
}

TEST_CASE("zigzag is what it says", "[comm][layout]") {
  const auto l = zigzag(4);     // 16 tokens: chunks of 2
  const std::int64_t want[4][4] = {{0, 1, 14, 15}, {2, 3, 12, 13}, {4, 5, 10, 11}, {6, 7, 8, 9}};
  for (int r = 0; r < 4; ++r)
    for (int i = 0; i < 4; ++i) CHECK(l.token(16, r, i) == want[r][i]);
  CHECK(striped(4).token(16, 1, 2) == 9);
  CHECK(striped(2, 4).token(16, 1, 5) == 13);
}

TEST_CASE("a reshard between any two layouts puts every byte where it belongs", "[comm][layout][reshard]") {
  const std::vector<int> lengths{37, 0, 5, 64};
  for (const int p : {1, 2, 3, 4, 8})
    for (const token_layout& a : layouts(p)) {
      for (const token_layout& b : layouts(p)) {
        CAPTURE(p, int(a.how), a.width, int(b.how), b.width);
        moves(p, by_rows(a), by_rows(b), lengths, 1, 5);
      }
      CAPTURE(p, int(a.how));
      for (const std::int64_t columns : {1, 2, 3, 8}) moves(p, by_rows(a), by_columns(p), lengths, columns, 4);
      for (const std::int64_t columns : {8, 9, 16}) moves(p, by_columns(p), by_rows(a), lengths, columns, 4);
    }
}

TEST_CASE("what a reshard refuses", "[comm][layout][reshard]") {
  in_process net(2);
  auto end = net.rank(0);
  const reshard<in_process::endpoint> r(end);
  std::vector<std::byte> in(64), out(64);
  const int n = 8, negative = -1;
  const reshard_args good{by_rows(contiguous(2)), by_rows(zigzag(2)), &n, 1, 2, 4, in.data(), out.data()};
  const auto code = [&](auto change) {
    auto x = good;
    change(x);
    const status st = r.check(x);
    CHECK((r.workspace_bytes(x) > 0) == bool(st));
    return st.code;
  };
  CHECK(code([](auto&) {}) == errc::ok);
  CHECK(code([](auto& x) { x.from.rows.ranks = 3; }) == errc::bad_shape);
  CHECK(code([](auto& x) { x.to.rows.width = 0; }) == errc::bad_value);
  CHECK(code([](auto& x) { x.block = 0; }) == errc::bad_value);
  CHECK(code([](auto& x) { x.lengths = nullptr; }) == errc::null_pointer);
  CHECK(code([&](auto& x) { x.lengths = &negative; }) == errc::bad_shape);
  CHECK(code([](auto& x) { x.input = nullptr; }) == errc::null_pointer);
  CHECK(code([](auto& x) { x.output = nullptr; }) == errc::null_pointer);
  CHECK(code([&](auto& x) { x.output = in.data() + 8; }) == errc::aliased);
  CHECK(code([](auto& x) { x.from = x.to = by_columns(2); }) == errc::bad_value);
  CHECK(code([](auto& x) { x.from = by_columns(2), x.columns = 1; }) == errc::bad_shape);
}
