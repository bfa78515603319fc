// The words of the host machine one by one, against their meaning written out.
#include <algorithm>
#include <atomic>

#include <smalti/tile/launch.hpp>
#include <smalti/tile/vocabulary.hpp>

#include "battery.hpp"

using namespace smalti;
using namespace battery;
using host::block;

namespace {

block alone() { return block(0, 0, 0); }

// ---- tiles and memory

template <class S, class T> void tiles_and_memory() {
  constexpr int R = 16, C = 32;
  block b = alone();
  const matrix<S> from(1, 37, 45, 48, 5);
  matrix<S> to(1, 37, 45, 48), turned(1, 45, 37, 40);
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 3; ++j) {
      tile<block, T, R, C> t, u;
      std::memset(&t, 0xFF, sizeof t);
      std::memset(&u, 0xFF, sizeof u);
      b.load(t, from.read(), i, j);
      b.load(u, transposed(from.read()), i, j);
      for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) {
          const int row = i * R + r, column = j * C + c;
          expect(t.v[r][c] == T(row < 37 && column < 45 ? from.get(0, row, column) : 0), "load");
          expect(u.v[r][c] == T(column < 37 && row < 45 ? from.get(0, column, row) : 0), "transposed load");
        }
      b.store(to.write(), i, j, t);
      b.store(transposed(turned.write()), i, j, t);
    }
  for (int r = 0; r < 37; ++r)
    for (int c = 0; c < 45; ++c) {
      expect(to.get(0, r, c) == from.get(0, r, c), "store");
      expect(turned.get(0, c, r) == from.get(0, r, c), "transposed store");
    }
  expect(to.intact() && turned.intact(), "stores stay inside");
}
void loads_and_stores() {
  tiles_and_memory<float, float>();
  tiles_and_memory<bf16, float>();
  tiles_and_memory<int, int>();
}

template <class S> void rounding_to() {
  block b = alone();
  memory<float> from(16 * 16);
  memory<S> to(16 * 16);
  std::minstd_rand generator(3);
  for (int i = 0; i < 256; ++i) {
    const int kind = i % 4;
    if (kind == 0) from[i] = std::ldexp(float(i + 256) + 0.5f, i % 8 - 8);         // ties of bf16
    else if (kind == 1) from[i] = std::ldexp(float(2048 + i) + 0.5f, i % 4 - 10);  // of fp16
    else if (kind == 2) from[i] = float(i % 3 == 0 ? 1e30 : 70000.0 * (i - 128));  // above the narrow types
    else from[i] = std::ldexp(float(generator() % 4096) - 2048, -6);
  }
  const std::uint32_t small_nan = 0x7f800001;
  std::memcpy(&from[3], &small_nan, 4);
  tile<block, float, 16, 16> t;
  b.load(t, view<const float, 1>{from.data(), 16, 16, 16}, 0, 0);
  b.store(view<S, 1>{to.data(), 16, 16, 16}, 0, 0, t);
  for (int i = 0; i < 256; ++i) {
    const S want = narrow<S>(from[i]);
    expect(std::isnan(value(want)) ? std::isnan(value(to[i])) : std::memcmp(&to[i], &want, sizeof(S)) == 0,
           "a store rounds to nearest even");
  }
}
void roundings() {
  rounding_to<bf16>();
  rounding_to<fp16>();
  rounding_to<fp8_e4m3>();
  rounding_to<fp8_e5m2>();
}

void rows_and_columns() {
  block b = alone();
  const matrix<float> from(1, 5, 37, 40, 7);
  row<block, float, 32> across;
  column<block, float, 16> down, turned;
  b.load(across, from.read(), 2, 1);
  for (int c = 0; c < 32; ++c) expect(across.v[c] == (32 + c < 37 ? from.get(0, 2, 32 + c) : 0), "load of a row");
  b.load(down, from.read(), 0, 3);
  b.load(turned, transposed(from.read()), 1, 4);
  for (int r = 0; r < 16; ++r) {
    expect(down.v[r] == (r < 5 ? from.get(0, r, 3) : 0), "load of a column");
    expect(turned.v[r] == (16 + r < 37 ? from.get(0, 4, 16 + r) : 0), "load of a column from a row");
  }
  matrix<float> columns(1, 3, 21, 24);
  b.store_column(columns.write(), 2, 1, turned);
  for (int r = 0; r < 5; ++r) expect(columns.get(0, 2, 16 + r) == turned.v[r], "store_column");
  expect(std::isnan(columns.get(0, 0, 16)) && columns.intact(), "store_column stays in its row");
}

// ---- gathers, scatters, counters

void gathers() {
  block b = alone();
  const matrix<bf16> pool(1, 40, 88, 96, 9);
  column<block, int, 16> few;
  column<block, int, 32> many;
  for (int r = 0; r < 32; ++r) many.v[r] = r * 17 % 40;
  for (int r = 0; r < 16; ++r) few.v[r] = (r * 7 + 3) % 40;
  // left: rows few, columns 32 to 63; right: the same columns of rows many, and as rows of the right operand
  left<block, bf16, 16, 32> a;
  right<block, bf16, 32, 32> w, v;
  tile<block, float, 16, 32> acc;
  poison_stack();
  b.load_rows(a, pool.read(), few, 1);
  b.load_rows(w, transposed(pool.read()), many, 1);
  b.fill(acc, 0.0f);
  b.product(acc, a, w);
  for (int r = 0; r < 16; ++r)
    for (int c = 0; c < 32; ++c) {
      double want = 0;
      for (int k = 0; k < 32; ++k) want += pool.get(0, few.v[r], 32 + k) * pool.get(0, many.v[c], 32 + k);
      expect(acc.v[r][c] == want, "load_rows of both operands");
    }
  b.load_rows(v, pool.read(), many, 2);  // columns 64 to 95, of which 24 exist
  b.fill(acc, 0.0f);
  b.product(acc, a, v);
  for (int r = 0; r < 16; ++r)
    for (int c = 0; c < 32; ++c) {
      double want = 0;
      for (int k = 0; k < 32 && c < 24; ++k) want += pool.get(0, few.v[r], 32 + k) * pool.get(0, many.v[k], 64 + c);
      expect(acc.v[r][c] == want, "load_rows of rows of a right operand");
    }
}

void scatters() {
  block b = alone();
  tile<block, float, 16, 32> t;
  b.map([](auto r, auto c) { return to_float(r * 32 + c); }, t, row_index{}, column_index{});
  column<block, int, 16> rows;
  for (int r = 0; r < 16; ++r) rows.v[r] = r % 3 == 0 ? -1 : 20 - r;
  matrix<float> to(1, 21, 37, 40);
  b.store_rows(to.write(), rows, 0, t);
  for (int r = 0; r < 21; ++r) {
    const int source = 20 - r;
    const bool there = source < 16 && source % 3 != 0;
    for (int c = 0; c < 32; ++c) expect(there ? to.get(0, r, c) == source * 32 + c : std::isnan(to.get(0, r, c)), "store_rows");
  }
  expect(to.intact(), "store_rows stays inside");

  tile<block, int, 16, 32> keep, place, index;
  b.map([](auto r, auto c) { return where((r + c) % 3 == 0, 1, 0); }, keep, row_index{}, column_index{});
  b.row_scan(place, keep);
  b.map([](auto r, auto c) { return r * 0 + c; }, index, row_index{}, column_index{});
  matrix<int> survivors(1, 16, 9, 12);
  b.scatter(survivors.write(), 0, place, keep, index);
  for (int r = 0; r < 16; ++r)
    for (int c = 0, n = 0; c < 32; ++c)
      if ((r + c) % 3 == 0 && n < 9) expect(survivors(0, r, n++) == c, "row_scan and scatter");
  expect(survivors.intact(), "scatter stays inside");

  matrix<float> sums(1, 13, 29, 32, 3);
  const double before = sums.get(0, 12, 28);
  b.accumulate(sums.write(), 0, 0, t);
  b.accumulate(sums.write(), 0, 0, t);
  expect(sums.get(0, 12, 28) == before + 2 * (12 * 32 + 28), "accumulate");
  expect(sums.intact(), "accumulate stays inside");

  int counter = 5;
  expect(block::arrive(&counter) == 5 && counter == 6 && block::arrive(&counter) == 6, "arrive");
}

// ---- arithmetic

void maps_and_reductions() {
  block b = alone();
  tile<block, float, 16, 64> t;
  std::memset(&t, 0xFF, sizeof t);
  b.fill(t, 2.5f);
  for (auto& line : t.v)
    for (float v : line) expect(v == 2.5f, "fill");
  column<block, float, 16> factor, high, total;
  row<block, float, 64> shift, tall, sum;
  b.map([](auto r) { return to_float(r * r) - 50.0f; }, factor, row_index{});
  for (int c = 0; c < 64; ++c) shift.v[c] = float(c * 37 % 61);
  b.map([](auto v, auto f, auto s, auto r, auto c) { return v * f + s + to_float(r * 64 + c); }, t, t, factor, shift, row_index{},
        column_index{});
  const auto want = [&](int r, int c) { return 2.5 * (r * r - 50.0) + c * 37 % 61 + r * 64 + c; };
  b.row_max(high, t), b.row_sum(total, t), b.column_max(tall, t), b.column_sum(sum, t);
  for (int r = 0; r < 16; ++r) {
    double most = -1e9, all = 0;
    for (int c = 0; c < 64; ++c) {
      expect(t.v[r][c] == want(r, c), "map");
      most = std::max(most, want(r, c)), all += want(r, c);
    }
    expect(high.v[r] == most && total.v[r] == all, "row_max and row_sum");
  }
  for (int c = 0; c < 64; ++c) {
    double most = -1e9, all = 0;
    for (int r = 0; r < 16; ++r) most = std::max(most, want(r, c)), all += want(r, c);
    expect(tall.v[c] == most && sum.v[c] == all, "column_max and column_sum");
  }
  tile<block, int, 16, 64> ones, running;
  b.fill(ones, 3);
  b.row_scan(running, ones);
  for (int c = 0; c < 64; ++c) expect(running.v[7][c] == 3 * (c + 1), "row_scan");
  int steps = 0;
  for (int i : block::steps(3, 8)) steps += i;
  expect(steps == 3 + 4 + 5 + 6 + 7, "steps");
}

template <class T> void rounded_operand() {
  block b = alone();
  matrix<T> one(1, 32, 32, 32);
  for (int r = 0; r < 32; ++r)
    for (int c = 0; c < 32; ++c) one(0, r, c) = element<T>(r == c);
  tile<block, float, 16, 32> t, acc;
  b.map([](auto r, auto c) { return to_float(r * 32 + c) * 1.0009765f; }, t, row_index{}, column_index{});
  left<block, T, 16, 32> p;
  right<block, T, 32, 32> w;
  b.as_left(p, t);
  b.load(w, one.read(), 0, 0);
  b.fill(acc, 0.0f);
  b.product(acc, p, w);
  b.product(acc, p, w);
  for (int r = 0; r < 16; ++r)
    for (int c = 0; c < 32; ++c) expect(acc.v[r][c] == 2 * value(narrow<T>(t.v[r][c])), "as_left rounds, and products add up");
}
void operands() {
  rounded_operand<bf16>();
  rounded_operand<fp16>();
}

// ---- panels that are kept

// right operand (i, j) of the matrix, or of its transpose, times the unit matrix
template <bool Turned> void panel_is(block& b, const matrix<bf16>& m, int i, int j, const char* what) {
  constexpr int K = 32, N = 32;
  left<block, bf16, K, K> unit;
  right<block, bf16, K, N> w;
  tile<block, float, K, N> acc;
  matrix<bf16> one(1, K, K, K);
  for (int r = 0; r < K; ++r)
    for (int c = 0; c < K; ++c) one(0, r, c) = element<bf16>(r == c);
  if constexpr (Turned) b.load(w, transposed(m.read()), i, j);
  else b.load(w, m.read(), i, j);
  b.load(unit, one.read(), 0, 0);
  b.fill(acc, 0.0f);
  b.product(acc, unit, w);
  for (int k = 0; k < K; ++k)
    for (int n = 0; n < N; ++n) expect(acc.v[k][n] == (Turned ? m.get(0, j * N + n, i * K + k) : m.get(0, i * K + k, j * N + n)), what);
}
// What a block with kept panels does; a failure must not leave the grid as an exception.
struct panel_user {
  const matrix<bf16>* m;
  const matrix<bf16>* other;
  const char** wrong;
  template <class Block> void operator()(Block& b) const {
    try {
      use(b);
    } catch (const failure& f) {
      *wrong = f.what;
    }
  }
  template <class Block> void use(Block& b) const {
    for (int repeat = 0; repeat < 2; ++repeat)
      for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 3; ++j) {
          panel_is<false>(b, *m, i, j, "a kept panel");
          panel_is<true>(b, *m, i, j, "a kept panel of the transposed matrix");
          panel_is<false>(b, *other, i, j, "a kept panel of another matrix");
        }
    right<block, bf16, 32, 32> held;
    b.load(held, m->read(), 2, 1);
    for (int i = 0; i < 3; ++i) panel_is<false>(b, *other, i, 2, "a panel beside one in use");
    left<block, bf16, 32, 32> x;
    tile<block, float, 32, 32> acc;
    b.load(x, other->read(), 0, 0);
    b.fill(acc, 0.0f);
    b.product(acc, x, held);
    for (int r = 0; r < 32; ++r)
      for (int c = 0; c < 32; ++c) {
        double want = 0;
        for (int k = 0; k < 32; ++k) want += other->get(0, r, k) * m->get(0, 64 + k, 32 + c);
        expect(acc.v[r][c] == want, "a panel in use stays as it is");
      }
  }
};
void panels() {
  constexpr std::size_t panel = 32 * 32 * 2;
  const matrix<bf16> m(1, 96, 96, 104, 11), other(1, 96, 96, 104, 12);
  for (const std::size_t room : {panel / 2, panel + panel / 2, 2 * panel + 64, 64 * panel}) {
    memory<std::byte> kept(room);
    const char* wrong = nullptr;
    host::run(host_context{1}, panel_user{&m, &other, &wrong}, grid{}, {kept.data(), room});
    expect(wrong == nullptr, wrong);
    expect(kept.intact(), "panels stay in the store");
  }
}

// ---- grids

struct visits {
  int* count;
  int* order;
  int* arrived;
  int* outside;
  grid size;
  template <class Block> void operator()(Block& b) const {
    const bool there = b.x() >= 0 && b.x() < size.x && b.y() >= 0 && b.y() < size.y && b.z() >= 0 && b.z() < size.z;
    if (!there) {
      Block::arrive(outside);
      return;
    }
    const int n = (b.z() * size.y + b.y()) * size.x + b.x();
    std::atomic_ref<int>(count[n]).fetch_add(1);
    order[n] = std::atomic_ref<int>(*arrived).fetch_add(1);
  }
};
void grids() {
  const grid size{3, 5, 11};
  for (const host_context context : {host_context{1, 0}, host_context{2, 0}, host_context{1, 77}, host_context{2, 78}}) {
    std::vector<int> count(165, 0), order(165, -1);
    int arrived = 0, outside = 0;
    host::run(context, visits{count.data(), order.data(), &arrived, &outside, size}, size);
    expect(outside == 0, "blocks lie in the grid");
    bool in_order = true;
    for (int n = 0; n < 165; ++n) {
      expect(count[n] == 1, "every block runs once");
      in_order = in_order && order[n] == n;
    }
    if (context.threads == 1) expect(in_order == (context.shuffle == 0), "a shuffle shuffles");
  }
  // Small grids and small seeds too: of 20 orders of 7 blocks hardly two are alike.
  std::vector<std::vector<int>> orders;
  for (std::uint64_t shuffle = 1; shuffle <= 20; ++shuffle) {
    std::vector<int> count(7, 0), order(7, -1);
    int arrived = 0, outside = 0;
    host::run(host_context{1, shuffle}, visits{count.data(), order.data(), &arrived, &outside, {7, 1, 1}}, grid{7, 1, 1});
    orders.push_back(order);
  }
  std::sort(orders.begin(), orders.end());
  expect(std::unique(orders.begin(), orders.end()) - orders.begin() >= 15, "seeds make different orders");
}

}  // namespace

namespace battery {
std::vector<check> machine_checks() {
  return {{"loads and stores", loads_and_stores},
          {"roundings", roundings},
          {"rows and columns", rows_and_columns},
          {"gathers", gathers},
          {"scatters", scatters},
          {"maps and reductions", maps_and_reductions},
          {"operands", operands},
          {"panels", panels},
          {"grids", grids}};
}
}  // namespace battery
