// gemm::grouped and gemm::grouped_depth: rows in groups with a weight each, against naive sums in double.
#include <catch2/catch.hpp>
#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>
#include <smalti/ops/gemm/grouped.hpp>
#include "support/arrays.hpp"
#include "support/contexts.hpp"
#include "support/tolerance.hpp"
#if !defined(__CUDACC__)
#  include <sys/mman.h>
#endif

using namespace smalti;
using namespace test;

namespace {

constexpr unsigned seed = 20260901;

// Tiles small enough that every case has several of each kind, in both orientations.
struct small_tiles {
  SMALTI_HD constexpr gemm::gemm_tuning operator()(target, gemm::gemm_regime r) const {
    if (r == gemm::gemm_regime::decode) return {.m = 16, .n = 32, .k = 64, .b_left = true};
    if (r == gemm::gemm_regime::few) return {.m = 32, .n = 16, .k = 64, .b_left = true};
    return {.m = 32, .n = 32, .k = 64};
  }
};

// Groups of rows over a matrix of tokens: bounds with padding between, and maps to and from it.
struct layout {
  std::vector<int> lengths;
  int rows = 0, limit = 0;
  array<std::int32_t> offsets, end;
  array<int> source, target;
  layout(std::vector<int> l, int padding, int tokens, std::mt19937& generator)
      : lengths(std::move(l)), offsets(lengths.size() + 1), end(std::max<std::size_t>(1, lengths.size())), source(size(padding)), target(size(padding)) {
    offsets[0] = 0;
    for (std::size_t e = 0; e < lengths.size(); ++e) end[e] = offsets[e] + lengths[e], offsets[e + 1] = end[e] + padding;
    limit = offsets[lengths.size()];
    for (int r = 0; r < int(source.size()); ++r) source[r] = tokens > 0 ? int(generator() % tokens) : 0, target[r] = r % 6 == 4 ? -1 : limit - r;
    for (std::size_t e = 0; e < lengths.size(); ++e)      // what stands in padding is no row at all
      for (int r = end[e]; r < offsets[e + 1]; ++r) source[r] = target[r] = 0x7ffffff0;
  }
  std::size_t size(int padding) const { return std::size_t(std::max(1, std::accumulate(lengths.begin(), lengths.end(), 0) + int(lengths.size()) * padding)); }
};

template <bool Gathers, bool Scatters, bool Adds, bool Named, gemm::b_order B = gemm::b_order::n_by_k, bool Split = false> struct form : gemm::grouped_options {
  static constexpr bool gathers = Gathers, scatters = Scatters, adds = Adds, named = Named, split_k = Split;
  static constexpr gemm::b_order b = B;
};

template <class T> T nan_of() {
  if constexpr (std::is_same_v<T, float>) return std::nanf("");
  else return narrow<T>(std::nanf(""));
}
double silu(double x) { return x / (1 + std::exp(-x)); }

template <class A, class C, class Options, class Epilogue = policy::chain<>> void rows_case(std::vector<int> lengths, int n, int k, int padding = 0, int splits = 1) {
  using op = gemm::grouped<A, A, C, Epilogue, Options>;
  std::mt19937 generator(seed);
  CAPTURE(seed, lengths, n, k, padding, splits, Options::gathers, Options::scatters, Options::adds, Options::named);
  const int groups = int(lengths.size()), tokens = std::max(1, std::accumulate(lengths.begin(), lengths.end(), 0) / 2 + 1);
  layout l(lengths, padding, tokens, generator);
  const int high = Options::gathers ? tokens : l.limit, results = Options::scatters ? l.limit + 1 : l.limit, matrices = groups + 1;
  constexpr bool by_rows = Options::b == gemm::b_order::n_by_k;
  array<A> a = random_array<A>(std::size_t(std::max(1, high)) * k, generator);
  array<A> b = random_array<A>(std::size_t(matrices) * n * k, generator, 0.25f), up = random_array<A>(std::size_t(matrices) * n * k, generator, 0.25f);
  if (!Options::gathers)      // padding is read by nobody
    for (int e = 0; e < groups; ++e)
      for (int r = l.end[e]; r < l.offsets[e + 1]; ++r)
        for (int c = 0; c < k; ++c) a[std::size_t(r) * k + c] = nan_of<A>();
  array<int> weight(std::max(1, groups));
  for (int g = 0; g < groups; ++g) weight[g] = g % 3 == 1 ? -1 : (g * 2 + 1) % matrices;
  const array<C> before = random_array<C>(std::size_t(std::max(1, results)) * n, generator);
  array<C> c(before.size());
  for_each_context(seed, [&](const auto& plain_context) {
    const auto context = with_tuning<small_tiles>(plain_context);
    std::memcpy(c.data(), before.data(), before.size() * sizeof(C));
    typename op::args x{};
    x.a = {a.data(), high, k, k};
    x.b = {b.data(), matrices, by_rows ? n : k, by_rows ? k : n, static_cast<long long>(n) * k, by_rows ? k : n};
    if constexpr (op::pairs) x.up = {up.data(), matrices, x.b.rows, x.b.cols, x.b.distance, x.b.stride};
    x.c = {c.data(), results, n, n};
    x.rows = {l.offsets.data(), groups};
    if (padding > 0) x.end = l.end.data();
    if constexpr (Options::named) x.weight = weight.data();
    if constexpr (Options::gathers) x.source = {l.source.data(), l.limit, 1, 1};
    if constexpr (Options::scatters) x.target = {l.target.data(), l.limit, 1, 1};
    x.splits = splits;
    array<std::byte> memory(op::workspace_bytes(context, x));
    const status st = op::run(context, x, {memory.data(), memory.size()});
    CAPTURE(st.what, st.got, st.need);
    REQUIRE(st.code == errc::ok);
    wait(plain_context);
    REQUIRE(c.guarded());
    REQUIRE(memory.guarded());
    std::vector<bool> written(std::size_t(std::max(1, results)));
    for (int g = 0; g < groups; ++g) {
      const int e = Options::named ? weight[g] : g;
      for (int r = l.offsets[g]; r < l.end[g] && e >= 0; ++r) {
        const int from = Options::gathers ? l.source[r] : r, to = Options::scatters ? l.target[r] : r;
        if (to < 0) continue;
        written[to] = true;
        for (int j = 0; j < n; ++j) {
          double sum = 0, size = 0, other = 0, other_size = 0;
          for (int p = 0; p < k; ++p) {
            const std::size_t at = std::size_t(e) * n * k + (by_rows ? std::size_t(j) * k + p : std::size_t(p) * n + j);
            const double t = value(a[std::size_t(from) * k + p]) * value(b[at]), u = value(a[std::size_t(from) * k + p]) * value(up[at]);
            sum += t, size += std::abs(t), other += u, other_size += std::abs(u);
          }
          // gated: both sums' errors, each times the size of the other factor (silu's slope is below 1.1)
          const double rounding = (k + 2) * 0x1p-24 + 2 * operand_error<A>();
          double want = op::pairs ? silu(sum) * other : sum;
          double bound = op::pairs ? rounding * (1.1 * size * std::abs(other) + other_size * std::abs(silu(sum))) * 1.01 + 0x1p-19 * std::abs(want) : rounding * size;
          if (Options::adds) want += value(before[std::size_t(to) * n + j]), bound += std::abs(want) * 0x1p-24;
          bound += store_error<C>(want) + 1e-30;
          const double got = value(c[std::size_t(to) * n + j]);
          if (!(std::abs(got - want) <= bound)) {
            CAPTURE(g, e, r, j, want, got, bound);
            REQUIRE(std::abs(got - want) <= bound);
          }
        }
      }
    }
    for (int r = 0; r < results; ++r)
      if (!written[r]) REQUIRE(std::memcmp(&c[std::size_t(r) * n], &before[std::size_t(r) * n], std::size_t(n) * sizeof(C)) == 0);
  });
}

}  // namespace

TEST_CASE("grouped: rows of many weights", "[ops][gemm][grouped]") {
  rows_case<bf16, float, form<false, false, false, false>>({5, 0, 33, 1, 0, 90}, 72, 200);
  rows_case<bf16, float, form<false, false, false, false>>({300, 0, 65}, 40, 136, 3);
  rows_case<bf16, bf16, form<true, true, false, false>>({5, 0, 40, 1, 0, 100}, 72, 200);
  rows_case<bf16, bf16, form<true, true, false, false>>({2, 1, 1, 0, 3}, 72, 200, 2);
  rows_case<bf16, float, form<true, true, false, false>>({170, 200}, 40, 136, 2);
  rows_case<bf16, float, form<false, false, false, false>>({0, 0}, 40, 64);
  rows_case<bf16, float, form<false, false, false, false>>({}, 40, 64);
}
TEST_CASE("grouped: names, sums, gates, K x N, splits, floats", "[ops][gemm][grouped]") {
  rows_case<bf16, float, form<false, true, true, true>>({5, 7, 33, 1, 0, 12}, 72, 136);
  rows_case<bf16, bf16, form<true, false, false, false>, policy::chain<policy::gated<policy::silu>>>({5, 0, 33, 1}, 72, 136, 1);
  rows_case<float, float, form<false, false, true, true, gemm::b_order::k_by_n, true>>({5, 0, 70, 1, 20}, 72, 200, 0, 2);
  rows_case<float, float, form<false, false, true, true, gemm::b_order::k_by_n, true>>({40, 0, 100, 60, 20}, 72, 200, 0, 3);
}

namespace {

struct gathered_depth : gemm::depth_options { static constexpr bool gathers = true, adds = true; };

template <class A, class C, class Options> void depth_case(std::vector<int> lengths, int m, int n, int padding) {
  using op = gemm::grouped_depth<A, A, C, policy::chain<>, Options>;
  std::mt19937 generator(seed);
  CAPTURE(seed, lengths, m, n, padding);
  const int groups = int(lengths.size()), tokens = 20;
  layout l(lengths, padding, tokens, generator);
  const int high = Options::gathers ? tokens : l.limit;
  array<A> a = random_array<A>(std::size_t(std::max(1, l.limit)) * m, generator);
  const array<A> b = random_array<A>(std::size_t(std::max(1, high)) * n, generator, 0.25f);
  for (int e = 0; e < groups; ++e)
    for (int r = l.end[e]; r < l.offsets[e + 1]; ++r)
      for (int c = 0; c < m; ++c) a[std::size_t(r) * m + c] = nan_of<A>();
  const array<C> before = random_array<C>(std::size_t(groups) * m * n, generator);
  array<C> c(before.size());
  for_each_context(seed, [&](const auto& plain_context) {
    const auto context = with_tuning<small_tiles>(plain_context);
    std::memcpy(c.data(), before.data(), before.size() * sizeof(C));
    typename op::args x{};
    x.a = {a.data(), l.limit, m, m};
    x.b = {b.data(), high, n, n};
    x.c = {c.data(), groups, m, n, static_cast<long long>(m) * n, n};
    x.rows = {l.offsets.data(), groups};
    if (padding > 0) x.end = l.end.data();
    if constexpr (Options::gathers) x.source = {l.source.data(), l.limit, 1, 1};
    array<std::byte> memory(op::workspace_bytes(context, x));
    const status st = op::run(context, x, {memory.data(), memory.size()});
    CAPTURE(st.what, st.got, st.need);
    REQUIRE(st.code == errc::ok);
    wait(plain_context);
    REQUIRE(c.guarded());
    REQUIRE(memory.guarded());
    for (int e = 0; e < groups; ++e)
      for (int i = 0; i < m; ++i)
        for (int j = 0; j < n; ++j) {
          double sum = 0, size = 0;
          for (int r = l.offsets[e]; r < l.end[e]; ++r) {
            const double t = value(a[std::size_t(r) * m + i]) * value(b[std::size_t(Options::gathers ? l.source[r] : r) * n + j]);
            sum += t, size += std::abs(t);
          }
          const std::size_t at = (std::size_t(e) * m + i) * n + j;
          const double want = Options::adds ? sum + value(before[at]) : sum;
          const double bound = ((l.end[e] - l.offsets[e] + 2) * 0x1p-24 + 2 * operand_error<A>()) * size + 2 * store_error<C>(want) + 1e-30, got = value(c[at]);
          if (!(std::abs(got - want) <= bound)) {
            CAPTURE(e, i, j, want, got, bound);
            REQUIRE(std::abs(got - want) <= bound);
          }
        }
  });
}

}  // namespace

TEST_CASE("grouped: depth", "[ops][gemm][grouped]") {
  depth_case<bf16, float, gemm::depth_options>({5, 0, 33, 1, 150, 64}, 72, 48, 0);
  depth_case<bf16, float, gemm::depth_options>({5, 0, 33}, 40, 72, 3);
  depth_case<float, float, gathered_depth>({5, 0, 90, 1}, 72, 40, 2);
}

namespace {

// Weights of mixed ranks whose rows lie anywhere in a pool, in shards.
struct pages {
  int width, shards, lines_of_pool, most = 0;
  std::vector<int> ranks;
  array<bf16> pool;
  array<int> first, count, line;
  array<float> scale;
  pages(std::vector<int> r, int width, int shards, std::mt19937& generator)
      : width(width), shards(shards), lines_of_pool(std::accumulate(r.begin(), r.end(), 0) * shards + 7), ranks(std::move(r)),
        pool(random_array<bf16>(std::size_t(lines_of_pool) * width, generator, 0.25f)), first(ranks.size()), count(ranks.size()), line(std::size_t(lines_of_pool)), scale(ranks.size()) {
    std::iota(line.begin(), line.end(), 0);
    std::shuffle(line.begin(), line.end(), generator);
    int used = 0;
    for (std::size_t e = 0; e < ranks.size(); ++e) {
      first[e] = used, count[e] = ranks[e], used += ranks[e], most = std::max(most, ranks[e]);
      scale[e] = 0.5f + float(e);
    }
  }
  double row(int e, int r, int c) const { return value(pool[std::size_t(line[(first[e] + r) * shards + c / width]) * width + c % width]); }
  template <bool Scaled> gemm::paged_rows<bf16, Scaled> view() const {
    return {.pool = {pool.data(), lines_of_pool, width, width}, .first = first.data(), .count = count.data(), .line = line.data(), .scale = scale.data(), .shards = shards, .weights = int(ranks.size()), .most = most,
            .lines = (lines_of_pool - 7)};
  }
};

using shrink = gemm::grouped<bf16, bf16, float, policy::chain<>, form<false, false, false, true>, gemm::paged_rows<bf16>>;
using expand = gemm::grouped<float, bf16, float, policy::chain<>, form<false, false, true, true, gemm::b_order::k_by_n>, gemm::paged_rows<bf16, true>>;
struct page_tiles {
  SMALTI_HD constexpr gemm::gemm_tuning operator()(target, gemm::gemm_regime r) const { return {.m = r == gemm::gemm_regime::decode ? 16 : 32, .n = 16, .k = 32}; }
};
struct wide_page_tiles {
  SMALTI_HD constexpr gemm::gemm_tuning operator()(target, gemm::gemm_regime r) const { return {.m = r == gemm::gemm_regime::decode ? 16 : 32, .n = 64, .k = 16}; }
};

void pages_case(std::vector<int> lengths, int width, int shards) {
  std::mt19937 generator(seed);
  CAPTURE(seed, lengths, width, shards);
  const std::vector<int> ranks{4, 12, 0, 24, 256, 16, 7};
  const pages down(ranks, width, shards, generator), over(ranks, 64, 1, generator);
  const int groups = int(lengths.size()), rows = std::accumulate(lengths.begin(), lengths.end(), 0), k = width * shards, n = 64, high = 256;
  layout l(lengths, 0, rows, generator);
  array<int> adapter(groups);
  for (int g = 0; g < groups; ++g) adapter[g] = g % 8 == 7 ? -1 : int(generator() % ranks.size());
  const array<bf16> x = random_array<bf16>(std::size_t(rows) * k, generator);
  const array<float> before = random_array<float>(std::size_t(rows) * n, generator);
  array<float> v(std::size_t(rows) * high), y(before.size());
  for_each_context(seed, [&](const auto& context) {
    std::memcpy(y.data(), before.data(), before.size() * sizeof(float));
    std::memset(v.data(), 0xFF, v.size() * sizeof(float));      // NaN, wherever nobody writes
    shrink::args s{};
    s.a = {x.data(), rows, k, k};
    s.b = down.view<false>();
    s.c = {v.data(), rows, high, high};
    s.rows = {l.offsets.data(), groups};
    s.weight = adapter.data();
    expand::args e{};
    e.a = {v.data(), rows, high, high};
    e.b = over.view<true>();
    e.c = {y.data(), rows, n, n};
    e.rows = s.rows;
    e.weight = adapter.data();
    const auto narrow_tiles = with_tuning<page_tiles>(context);
    const auto wide_tiles = with_tuning<wide_page_tiles>(context);
    array<std::byte> memory(std::max(shrink::workspace_bytes(narrow_tiles, s), expand::workspace_bytes(wide_tiles, e)));
    status st = shrink::run(narrow_tiles, s, {memory.data(), memory.size()});
    CAPTURE(st.what, st.got, st.need);
    REQUIRE(st.code == errc::ok);
    st = expand::run(wide_tiles, e, {memory.data(), memory.size()});
    CAPTURE(st.what, st.got, st.need);
    REQUIRE(st.code == errc::ok);
    wait(context);
    REQUIRE(v.guarded());
    REQUIRE(y.guarded());
    for (int g = 0; g < groups; ++g)
      for (int r = l.offsets[g]; r < l.end[g]; ++r) {
        if (adapter[g] < 0) {
          REQUIRE(std::memcmp(&y[std::size_t(r) * n], &before[std::size_t(r) * n], n * sizeof(float)) == 0);
          continue;
        }
        const int a = adapter[g], rank = ranks[a];
        std::vector<double> mid(rank), mid_size(rank);
        for (int q = 0; q < rank; ++q)
          for (int p = 0; p < k; ++p) {
            const double t = value(x[std::size_t(r) * k + p]) * down.row(a, q, p);
            mid[q] += t, mid_size[q] += std::abs(t);
          }
        for (int j = 0; j < n; ++j) {
          double sum = 0, size = 0;
          for (int q = 0; q < rank; ++q) sum += mid[q] * over.row(a, q, j), size += mid_size[q] * std::abs(over.row(a, q, j));
          const double want = before[std::size_t(r) * n + j] + over.scale[a] * sum;
          // both sums' roundings; v is float on the host and tf32 on a GPU
          const double bound = over.scale[a] * ((k + rank + 6) * 0x1p-24 + operand_error<float>()) * size + std::abs(want) * 0x1p-23 + 1e-30, got = y[std::size_t(r) * n + j];
          if (!(std::abs(got - want) <= bound)) {
            CAPTURE(g, a, rank, r, j, want, got, bound);
            REQUIRE(std::abs(got - want) <= bound);
          }
        }
      }
  });
}

}  // namespace

TEST_CASE("grouped: weights in pages, of mixed ranks", "[ops][gemm][grouped][lora]") {
  pages_case({1, 1, 0, 1, 1, 2, 1, 1, 1, 1}, 136, 1);
  pages_case({40, 3, 70, 20, 35, 50}, 64, 3);
}

// ---- addresses beyond 32 bits: views of memory that is reserved and hardly touched

#if !defined(__CUDACC__)

namespace {
template <class T> struct reserved {
  std::size_t bytes;
  T* data;
  explicit reserved(std::size_t n)
      : bytes(n * sizeof(T)), data(static_cast<T*>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0))) {}
  ~reserved() { munmap(data, bytes); }
  reserved(const reserved&) = delete;
};
}  // namespace

TEST_CASE("grouped: rows and weights out of 32-bit reach", "[ops][gemm][grouped]") {
  using op = gemm::grouped<bf16, bf16, float, policy::chain<>, form<true, true, false, false>>;
  constexpr int rows = 200000, stride = 12288, n = 16, k = 32;
  constexpr long long distance = 1500000000;      // elements: the third weight begins 6 GB behind the first
  reserved<bf16> a(std::size_t(rows) * stride), b(std::size_t(2) * distance + n * k);
  reserved<float> c(std::size_t(rows) * stride);
  REQUIRE(a.data != MAP_FAILED);
  REQUIRE(b.data != MAP_FAILED);
  REQUIRE(c.data != MAP_FAILED);
  const std::vector<int> source{0, 87383, 199999, 131073}, target{199999, 87383, 3, 131073};
  const std::vector<std::int32_t> offsets{0, 1, 2, 4};
  for (int r : source)
    for (int p = 0; p < k; ++p) a.data[std::size_t(r) * stride + p] = narrow<bf16>(float((r + p) % 7));
  for (int e = 0; e < 3; ++e)
    for (int i = 0; i < n * k; ++i) b.data[std::size_t(e) * distance + i] = narrow<bf16>(float((i + e) % 5) - 2);
  const host_context context{1};
  op::args x{};
  x.a = {a.data, rows, k, stride};
  x.b = {b.data, 3, n, k, distance, k};
  x.c = {c.data, rows, n, stride};
  x.rows = {offsets.data(), 3};
  x.source = {source.data(), 4, 1, 1};
  x.target = {target.data(), 4, 1, 1};
  array<std::byte> memory(op::workspace_bytes(context, x));
  const status st = op::run(context, x, {memory.data(), memory.size()});
  CAPTURE(st.what, st.got, st.need);
  REQUIRE(st.code == errc::ok);
  for (int r = 0; r < 4; ++r)
    for (int j = 0; j < n; ++j) {
      const int e = r == 0 ? 0 : r == 1 ? 1 : 2;
      double sum = 0;
      for (int p = 0; p < k; ++p) sum += double((source[r] + p) % 7) * (double((j * k + p + e) % 5) - 2);
      REQUIRE(c.data[std::size_t(target[r]) * stride + j] == sum);      // small integers: exact
    }
}
#endif

TEST_CASE("grouped: refusals", "[ops][gemm][grouped]") {
  using op = gemm::grouped<bf16, bf16, float, policy::chain<>, form<true, true, false, true>>;
  using depth = gemm::grouped_depth<bf16, bf16, float>;
  std::mt19937 generator(seed);
  const int n = 16, k = 32, tokens = 6, total = 5;
  const array<bf16> a = random_array<bf16>(std::size_t(tokens) * k, generator), b = random_array<bf16>(std::size_t(3) * n * k, generator);
  array<float> c(std::size_t(8) * n);
  array<std::int32_t> offsets(3);
  offsets[0] = 0, offsets[1] = 2, offsets[2] = total;
  array<int> source(total), target(total), weight(2);
  for (int r = 0; r < total; ++r) source[r] = r, target[r] = r;
  weight[0] = 0, weight[1] = 2;
  op::args good{};
  good.a = {a.data(), tokens, k, k}, good.b = {b.data(), 3, n, k, n * k, k}, good.c = {c.data(), 8, n, n}, good.rows = {offsets.data(), 2}, good.weight = weight.data();
  good.source = {source.data(), total, 1, 1}, good.target = {target.data(), total, 1, 1};
  const auto context = any_context();
  REQUIRE(op::check(context, good).code == errc::ok);
  const auto refused = [&](const op::args& x, errc code, const std::string& word) {
    const status st = op::check(context, x);
    CAPTURE(st.what, st.got, st.need, word);
    CHECK(st.code == code);
    CHECK(std::string(st.what).find(word) != std::string::npos);
    array<std::byte> memory(1 << 16);
    CHECK(op::run(context, x, {memory.data(), memory.size()}).code == code);
  };
  auto bad = good;
  bad.a.data = nullptr;
  refused(bad, errc::null_pointer, "a is null");
  bad = good, bad.b.rows = n - 1;
  refused(bad, errc::bad_shape, "b: as N x K");
  bad = good, bad.b.distance = 3;
  refused(bad, errc::misaligned, "distance");
  bad = good, bad.c.data = const_cast<float*>(reinterpret_cast<const float*>(a.data()));
  refused(bad, errc::aliased, "overlap");
  bad = good, bad.weight = nullptr;
  refused(bad, errc::null_pointer, "weight");
  bad = good, bad.splits = 2;
  refused(bad, errc::bad_value, "split_k");
  bad = good, bad.rows.count = -1;
  refused(bad, errc::bad_shape, "count");
  bad = good, bad.target.rows = 4;
  refused(bad, errc::bad_shape, "target");
#if !defined(__CUDACC__)      // what only the host reads
  const auto with = [&](int& number, int wrong, errc code, const std::string& word) {
    const int was = number;
    number = wrong;
    refused(good, code, word);
    number = was;
  };
  with(source[3], tokens, errc::bad_value, "source");
  with(source[3], -1, errc::bad_value, "source");
  with(target[1], 8, errc::bad_value, "target");
  with(weight[1], 3, errc::bad_value, "beyond the weights");
  with(offsets[2], total + 1, errc::bad_shape, "segments");
  with(offsets[1], 6, errc::bad_value, "decrease");
#endif
  array<std::byte> little(16);
  CHECK(op::run(context, good, {little.data(), 16}).code == errc::workspace_too_small);
  depth::args d{};
  d.a = {a.data(), 5, k, k}, d.b = {b.data(), 5, n, n}, d.c = {c.data(), 2, k, n, 0, n}, d.rows = {offsets.data(), 2};
  CHECK(depth::check(context, d).code == errc::aliased);
  d.c.distance = k * n, d.b.rows = 4;
  CHECK(depth::check(context, d).code == errc::bad_shape);
}
