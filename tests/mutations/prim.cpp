// The primitives' host twins against plain definitions.
#include <algorithm>
#include <numeric>

#include <smalti/prim/permute.hpp>
#include <smalti/prim/sample.hpp>
#include <smalti/prim/scan.hpp>
#include <smalti/prim/select_k.hpp>
#include <smalti/prim/sort.hpp>

#include "battery.hpp"
#include "reference/order.hpp"

using namespace smalti;
using namespace battery;

namespace {

template <class Op> void run(const host_context& context, const typename Op::args& x) {
  memory<std::byte> work(Op::workspace_bytes(context, x));
  poison_stack();
  const status st = Op::run(context, x, {work.data(), work.bytes()});
  expect(st.code == errc::ok, st.what);
  expect(work.intact(), "a primitive stays inside its workspace");
}

template <class T, prim::order Order> void selects(int rows, int n, int k, const std::vector<T>& data, const char* what) {
  using op = prim::select_k<T, Order>;
  matrix<T> values(1, rows, k, k + 3);
  matrix<std::int32_t> indices(1, rows, k, k + 1);
  for (const host_context& context : contexts()) {
    values.at.poison(), indices.at.poison();
    run<op>(context, {.rows = {data.data(), rows, n, n}, .k = k, .values = values.write(), .indices = indices.write(), .fill = T{}});
    expect(values.intact() && indices.intact(), "select_k stays inside");
    for (int r = 0; r < rows; ++r) {
      const T* row = data.data() + std::size_t(r) * n;
      const auto want = oracle::select(oracle::order_of(row, n, Order == prim::order::largest), k, false);
      for (int j = 0; j < k; ++j) {
        expect(indices(0, r, j) == want[j], what);
        expect(oracle::same_bits(values(0, r, j), want[j] < 0 ? T{} : row[want[j]]), what);
      }
    }
  }
}
void selection() {
  std::minstd_rand generator(81);
  std::vector<float> small(9 * 77);
  for (float& v : small) v = float(int(generator() >> 8) % 40 - 20);  // many ties
  for (int r = 0; r < 9; ++r) {                                       // in whole vectors and in the rest
    float* row = small.data() + r * 77;
    row[3] = row[70] = std::nanf(""), row[76] = -0.0f, row[75] = 0.0f, row[74] = -0.0f, row[73] = -INFINITY, row[72] = -std::nanf("");
  }
  for (const int k : {1, 7, 40, 77, 90}) {
    selects<float, prim::order::largest>(9, 77, k, small, "the largest, with ties");
    selects<float, prim::order::smallest>(9, 77, k, small, "the smallest, with ties");
  }
  std::vector<bf16> tiny(3 * 13);
  for (bf16& v : tiny) v = narrow<bf16>(float(int(generator() >> 8) % 5 - 2));
  tiny[1] = narrow<bf16>(-0.0f), tiny[30] = bf16{0x7fc1}, tiny[31] = bf16{0xffff};
  selects<bf16, prim::order::largest>(3, 13, 12, tiny, "bf16");
  std::vector<std::int32_t> ties(20003, 5);  // too many to gather
  for (int i = 0; i < 100; ++i) ties[i * 199] = i % 50;
  selects<std::int32_t, prim::order::largest>(1, 20003, 88, ties, "heavy ties");
  selects<std::int32_t, prim::order::largest>(1, 20003, 3000, ties, "heavy ties");
  std::vector<std::int32_t> levels(20000);  // of each value exactly 5000: the cut falls between two
  for (int i = 0; i < 20000; ++i) levels[i] = i % 4 << 8;
  selects<std::int32_t, prim::order::largest>(1, 20000, 4096, levels, "levels");
  selects<std::int32_t, prim::order::smallest>(1, 20000, 4096, levels, "levels");
  std::vector<std::int32_t> level(20000, 7);
  for (int i = 0; i < 12000; ++i) level[i] = 9;
  for (int i = 0; i < 3000; ++i) level[i * 3] = 1 << 20;
  selects<std::int32_t, prim::order::largest>(1, 20000, 3000, level, "exactly as many as are wanted");
  // High elements exactly where the row is sampled: too few reach the threshold that the sample promises.
  constexpr int n = 66000, size = 512, stride = n / size;
  std::vector<float> deceiving(n);
  for (float& v : deceiving) v = float(generator() % 100000);
  for (int i = 0; i < size; ++i) deceiving[std::size_t(i) * stride + (std::uint64_t(std::uint32_t(i) * 2654435761u) * stride >> 32)] = 1e6f;
  selects<float, prim::order::largest>(1, n, 2048, deceiving, "a row that deceives the sample");
}

template <class T, prim::scan_kind Kind> void scans(int n) {
  std::vector<T> in(n);
  std::minstd_rand generator(91);
  for (T& v : in) v = T(int(generator() >> 8) % 9 - 3);
  for (const int threads : {1, 2}) {
    memory<T> out(n);
    run<prim::scan<T, Kind>>(host_context{threads, 5}, {.in = in.data(), .out = out.data(), .count = n});
    T sum = 0;
    for (int i = 0; i < n; ++i) {
      if (Kind == prim::scan_kind::inclusive) sum += in[i];
      expect(out[i] == sum, "scan");
      if (Kind == prim::scan_kind::exclusive) sum += in[i];
    }
    expect(out.intact(), "scan stays inside");
  }
}
void sums() {
  scans<std::int32_t, prim::scan_kind::inclusive>(17);
  scans<std::int32_t, prim::scan_kind::exclusive>(20000);
  scans<float, prim::scan_kind::inclusive>(20000);
}

template <class Key, prim::direction Direction> void sorts(const std::vector<Key>& keys) {
  const auto n = std::int64_t(keys.size());
  const auto places = oracle::order_of(keys.data(), n, Direction == prim::direction::descending);
  for (const host_context& context : contexts()) {
    memory<Key> out(keys.size());
    memory<std::int32_t> permutation(keys.size());
    run<prim::sort_by_key<Key, Direction>>(context,
                                           {.keys = keys.data(), .keys_out = out.data(), .values_out = permutation.data(), .count = n});
    for (std::int64_t i = 0; i < n; ++i) {
      expect(permutation[i] == places[i], "a stable sort");
      expect(oracle::same_bits(out[i], keys[places[i]]), "sorted keys");
    }
    expect(out.intact() && permutation.intact(), "sort stays inside");
  }
}
void sorting() {
  std::minstd_rand generator(95);
  std::vector<std::uint32_t> whole(3000), few(40000);
  for (auto& k : whole) k = generator() * 2654435761u;
  for (auto& k : few) k = generator() % 300;
  sorts<std::uint32_t, prim::direction::ascending>(whole);
  sorts<std::uint32_t, prim::direction::descending>(few);
  std::vector<float> numbers(500);
  for (int i = 0; i < 500; ++i)
    numbers[i] = i % 7 == 0 ? (i % 2 ? -0.0f : 0.0f) : i % 31 == 0 ? std::nanf("") : float(int(generator() >> 8) % 20 - 10);
  sorts<float, prim::direction::ascending>(numbers);
}

template <prim::movement Movement> void moves() {
  constexpr int rows = 37, cols = 11;
  constexpr bool gather = Movement == prim::movement::gather;
  const matrix<float> from(1, rows, cols, cols + 2, 99);
  std::vector<std::int32_t> index(rows);
  for (int i = 0; i < rows; ++i) index[i] = i % 5 == 4 ? -1 : i * 10 % rows;
  for (const host_context& context : contexts()) {
    matrix<float> to(1, rows, cols, cols + 4);
    run<prim::permute<float, Movement>>(context, {.from = from.read(), .to = to.write(), .index = index.data()});
    std::vector<int> source(rows, -1);
    for (int i = 0; i < rows; ++i)
      if (index[i] >= 0) source[gather ? i : index[i]] = gather ? index[i] : i;
    for (int r = 0; r < rows; ++r) {
      unsigned char bytes[4];
      for (int c = 0; c < cols; ++c) {
        std::memcpy(bytes, &to(0, r, c), 4);
        expect(source[r] < 0 ? bytes[0] == 0xFF && bytes[3] == 0xFF : to(0, r, c) == from(0, source[r], c), "permute");
      }
    }
    expect(to.intact(), "permute stays inside");
  }
}
void moving() {
  moves<prim::movement::gather>();
  moves<prim::movement::scatter>();
  // many pieces in many orders: every one exactly once
  for (std::uint64_t shuffle = 1; shuffle < 20; ++shuffle) {
    std::vector<int> visits(24, 0);
    prim::detail::for_pieces(host_context{1, shuffle}, 24, [&](std::int64_t piece, int) { ++visits[piece]; });
    for (const int v : visits) expect(v == 1, "every piece once");
  }
}

// How often each token comes in 400 draws.
template <prim::draw How> std::vector<int> drawn(const std::vector<float>& logits, prim::sampling s) {
  constexpr int draws = 400;
  const int n = int(logits.size());
  memory<float> copies(std::size_t(draws) * n);
  std::vector<prim::sampling> rows(draws, s);
  memory<std::int32_t> tokens(draws);
  for (int i = 0; i < draws; ++i) {
    rows[i].position = unsigned(i);
    for (int j = 0; j < n; ++j) copies[std::size_t(i) * n + j] = logits[j];
  }
  run<prim::sample<float, How>>(host_context{2, 5}, {.logits = {copies.data(), draws, n, n}, .rows = rows.data(), .seed = 3, .tokens = tokens.data()});
  expect(tokens.intact(), "sample stays inside");
  std::vector<int> seen(n);
  for (int i = 0; i < draws; ++i) {
    expect(tokens[i] >= 0 && tokens[i] < n, "a token of the vocabulary");
    ++seen[tokens[i]];
  }
  return seen;
}
void tokens() {
  using prim::draw;
  expect(drawn<draw::cumulative>({1, 4, 4}, {.temperature = 0})[1] == 400, "the first of the greatest");
  expect(drawn<draw::cumulative>({0, 1}, {.temperature = 0.2f})[0] < 20, "temperature");
  const std::vector<int> equals = drawn<draw::gumbel>(std::vector<float>(8, 1.0f), {});
  for (int seen : equals) expect(seen > 15, "each of eight equal tokens has noise of its own");
  const std::vector<int> best = drawn<draw::cumulative>({3, 2, 3, 1}, {.top_k = 2});
  expect(best[0] + best[2] == 400 && best[0] > 100 && best[2] > 100, "top_k");
  const std::vector<int> half = drawn<draw::cumulative>(std::vector<float>(10, 0.0f), {.top_p = 0.45f});
  for (int j = 0; j < 10; ++j) expect(j < 5 ? half[j] > 20 : half[j] == 0, "top_p");
  expect(drawn<draw::cumulative>({0, -2}, {.min_p = 0.2f})[1] == 0, "min_p");
}
void refusals() {
  memory<float> rows(64), values(64);
  memory<std::int32_t> indices(64);
  using op = prim::select_k<float>;
  op::args x{.rows = {rows.data(), 8, 8, 8}, .k = 4, .values = {values.data(), 8, 4, 4}, .indices = {indices.data(), 8, 4, 4}};
  expect(op::check(host_context{1}, x).code == errc::ok, "good arguments are accepted");
  x.values.data = rows.data() + 4;
  expect(op::check(host_context{1}, x).code == errc::aliased, "values over rows");
  x.values.data = values.data();
  x.k = x.values.cols = x.values.stride = x.indices.cols = x.indices.stride = prim::greatest_k + 1;
  expect(op::check(host_context{1}, x).code == errc::bad_value, "too large a k");
}

}  // namespace

namespace battery {
std::vector<check> prim_checks() {
  return {{"select_k", selection}, {"scan", sums}, {"sort_by_key", sorting}, {"permute", moving}, {"sample", tokens}, {"refusals of primitives", refusals}};
}
}  // namespace battery
