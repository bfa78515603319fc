// Panels that a thread keeps: what is found again must be what would be packed anew.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <memory>
#include <smalti/tile/host/block.hpp>
#include "support/arrays.hpp"

using namespace smalti;

namespace {

constexpr unsigned seed = 5;

// Loads the panel into a block that keeps panels and into one that does not.
template <class Panel, class Matrix> void same(host::block& keeps, const Matrix& m) {
  host::block packs(0, 0, 0);
  const auto kept = std::make_unique<Panel>(), fresh = std::make_unique<Panel>();
  keeps.load(*kept, m, 0, 0);
  packs.load(*fresh, m, 0, 0);
  REQUIRE(kept->kept != nullptr);
  REQUIRE(fresh->kept == nullptr);
  REQUIRE(kept->depth == fresh->depth);
  REQUIRE(kept->live == fresh->live);
  REQUIRE(std::memcmp(kept->data, fresh->data, sizeof(typename Panel::array)) == 0);
}

// What a product of few rows makes of operands that it uses where they lie, against those that are packed.
enum class gather { none, pieces, any };
template <int M, int Depth> void streamed_as_packed(int keys, int columns, int cols_of_q, gather form, std::mt19937& generator) {
  constexpr int n = 64;
  const bool gathered = form != gather::none;
  CAPTURE(M, Depth, keys, columns, cols_of_q, int(form));
  const auto k = test::random_array<bf16>(std::size_t(keys) * (Depth + 8), generator), v = test::random_array<bf16>(std::size_t(keys) * 72, generator), q = test::random_array<bf16>(16 * Depth, generator);
  const view<const bf16, 1> ks{k.data(), keys, columns, Depth + 8}, vs{v.data(), keys, cols_of_q, 72};
  const view<const bf16, 1> qs{q.data(), 16, columns, Depth};
  host::block b(0, 0, 0);
  const auto queries = std::make_unique<host::right_panel<bf16, Depth, 16>>();
  b.load(*queries, transposed(qs), 0, 0);
  host::array_column<int, n> rows;
  for (int r = 0; r < n; ++r)   // pieces of 16 in a row; of any, one is not
    rows.v[r] = form == gather::any ? (r / 16 * 16 * 5 + r % 16 * (r / 16 == 2 ? r % 3 : 1)) % keys : r / 16 * 7 % (keys - 15) + r % 16;
  host::array_column<int, 32> next;
  for (int r = 0; r < 32; ++r) next.v[r] = r * 5 % keys;
  for (int i = 0; i < (gathered ? 1 : (keys + n - 1) / n); ++i) {
    const auto packed_keys = std::make_unique<host::left_panel<bf16, n, Depth>>();
    const auto keys_there = std::make_unique<host::streamed_left_panel<bf16, n, Depth>>();
    const auto packed_values = std::make_unique<host::right_panel<bf16, n, 64>>();
    const auto values_there = std::make_unique<host::streamed_right_panel<bf16, n, 64>>();
    if (gathered) {
      b.load_rows(*packed_keys, ks, rows, 0), b.load_rows(*keys_there, ks, rows, 0);
      b.load_rows(*packed_values, vs, rows, 0), b.load_rows(*values_there, vs, rows, 0);
      b.announce(*keys_there, ks, next, 0), b.announce(*values_there, vs, next, 0);
    } else {
      b.load(*packed_keys, ks, i, 0), b.load(*keys_there, ks, i, 0);
      b.load(*packed_values, vs, i, 0), b.load(*values_there, vs, i, 0);
      if (i % 2) b.announce(*keys_there, ks, i + 3, 0), b.announce(*values_there, vs, 0, 0);
    }
    host::array_tile<float, n, 16> want, got, more;
    b.fill(want, 0.0f), b.fill(got, 7.0f), b.fill(more, 0.0f);
    b.product(want, *packed_keys, *queries);
    b.multiply(got, *keys_there, *queries);
    b.product(more, *keys_there, *queries);
    host::left_panel<bf16, M, n> weights;
    b.map_left([](auto r, auto c) { return to_float(c * 7 % 5 + r) * 0.125f; }, weights, row_index{}, column_index{});
    host::array_tile<float, M, 64> sum, there;
    b.fill(sum, 1.0f), b.fill(there, 1.0f);
    b.product(sum, weights, *packed_values);
    b.product(there, weights, *values_there);
    // Sums of Depth and of n products, in another order: twice (terms + 2) 2^-24 of the sums of magnitudes.
    for (int r = 0; r < n; ++r)
      for (int c = 0; c < 16; ++c) {
        REQUIRE(std::abs(want.v[r][c] - got.v[r][c]) <= 2 * (Depth + 2) * 0x1p-24f * 16 * Depth);
        REQUIRE(got.v[r][c] == more.v[r][c]);
      }
    for (int r = 0; r < M; ++r)
      for (int c = 0; c < cols_of_q; ++c) REQUIRE(std::abs(sum.v[r][c] - there.v[r][c]) <= 2 * (n + 2) * 0x1p-24f * 4 * 4 * n);
  }
}

// Several right operands as one, of small whole numbers: every sum is exact, whatever its order. `rows` of R and `live` of N exist.
template <class T, int R, int K, int N, int Count> void joined_as_apart(int rows, int live, std::mt19937& generator) {
  CAPTURE(R, K, N, Count, rows, live);
  const auto whole = [&](std::size_t n) {
    test::array<T> x(n);
    for (T& v : x) v = narrow<T>(float(int(generator() >> 8) % 9 - 4));
    return x;
  };
  const auto q = whole(R * K), p = whole(R * K * Count), k = whole(Count * N * K);
  const view<const T> qs{q.data(), rows, K, K}, ps{p.data(), rows, K * Count, K * Count};
  host::block b(0, 0, 0);
  host::left_panel<T, R, K> beside;
  host::left_panel<T, R, K * Count> below;
  b.load(beside, qs, 0, 0), b.load(below, ps, 0, 0);
  host::right_panel<T, K, N> right[Count];
  for (int g = 0; g < Count; ++g) b.load(right[g], view<const T, 1>{k.data() + g * N * K, K, g == 1 ? live : N, N}, 0, 0);
  host::array_tile<float, R, N * Count> side, more;
  host::array_tile<float, R, N> sum;
  b.fill(side, 7.0f), b.fill(more, 2.0f), b.fill(sum, 3.0f);
  b.multiply(side, beside, right);
  b.product(more, beside, right);
  b.product(sum, below, right);
  for (int r = 0; r < rows; ++r)
    for (int n = 0; n < N; ++n) {
      float total = 3;
      for (int g = 0; g < Count; ++g) {
        float one = 0;
        for (int i = 0; i < K && !(g == 1 && n >= live); ++i) {
          const float x = to_float(k[(g * K + i) * N + n]);
          one += to_float(q[r * K + i]) * x, total += to_float(p[r * K * Count + g * K + i]) * x;
        }
        CAPTURE(r, n, g);
        REQUIRE(side.v[r][g * N + n] == one);
        REQUIRE(more.v[r][g * N + n] == 2 + one);
      }
      REQUIRE(sum.v[r][n] == total);
    }
}

}  // namespace

TEST_CASE("right operands that lie apart are multiplied as one", "[tile][panels]") {
  std::mt19937 generator(seed);
  CAPTURE(seed);
  joined_as_apart<bf16, 32, 64, 64, 4>(32, 64, generator);
  joined_as_apart<bf16, 32, 64, 32, 3>(19, 20, generator);
  joined_as_apart<bf16, 16, 48, 16, 2>(16, 16, generator);
  joined_as_apart<fp16, 32, 32, 64, 2>(32, 64, generator);
}

TEST_CASE("operands of few rows are used where they lie", "[tile][panels]") {
  std::mt19937 generator(seed);
  CAPTURE(seed);
  for (const gather gathered : {gather::none, gather::pieces, gather::any}) {
    streamed_as_packed<4, 128>(150, 128, 64, gathered, generator);
    streamed_as_packed<8, 128>(129, 120, 48, gathered, generator);
    streamed_as_packed<4, 64>(64, 61, 61, gathered, generator);
    streamed_as_packed<8, 96>(100, 96, 64, gathered, generator);
    streamed_as_packed<8, 160>(70, 160, 64, gathered, generator);
  }
}

TEST_CASE("a store finds as many panels as its memory holds", "[tile][panels]") {
  constexpr int count = 1200;
  using panel = host::right_panel<bf16, 128, 64>;
  std::mt19937 generator(seed);
  const auto memory = test::random_array<bf16>(std::size_t(count) * 64 * 8 + 128, generator);
  const view<const bf16> m{memory.data(), count * 64, 128, 8};                 // rows overlap: little memory, many tiles
  test::array<std::byte> room(std::size_t(count) * sizeof(panel::array) * 5 / 4);
  const auto store = std::make_unique<host::panel_store>(room.data(), room.size());
  host::block b(0, 0, 0, store.get());
  std::vector<const bf16*> first(count);
  int again = 0;
  for (int pass = 0; pass < 2; ++pass)
    for (int i = 0; i < count; ++i) {
      const auto p = std::make_unique<panel>();
      b.load(*p, transposed(m), 0, i);
      REQUIRE(p->kept != nullptr);
      if (pass == 0) first[i] = p->data;
      else again += p->data == first[i];
    }
  REQUIRE(again >= count * 19 / 20);                                           // a few may share a set with too many others
}

TEST_CASE("panels of one matrix that differ in form, shape or element are not taken for each other", "[tile][panels]") {
  std::mt19937 generator(seed);
  CAPTURE(seed);
  const int size = 2048;
  const auto memory = test::random_array<bf16>(std::size_t(size) * size, generator);
  const view<const bf16> m{memory.data(), size, size, size};
  test::array<std::byte> room(std::size_t(4) << 20);
  const auto store = std::make_unique<host::panel_store>(room.data(), room.size());
  host::block keeps(0, 0, 0, store.get());
  for (int again = 0; again < 2; ++again) {
    same<host::right_panel<bf16, 2048, 16>>(keeps, m);
    same<host::right_panel<bf16, 1024, 16>>(keeps, transposed(m));
    same<host::right_panel<bf16, 1024, 32>>(keeps, transposed(m));
    same<host::right_panel<bf16, 1024, 16>>(keeps, m);
    same<host::right_panel<float, 1024, 16>>(keeps, m);
    same<host::right_panel<float, 1024, 16>>(keeps, transposed(m));
  }
}
