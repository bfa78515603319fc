#include "../reference/order.hpp"
#include "../support/arrays.hpp"
#include "../support/contexts.hpp"

#include <limits>
#include <random>
#include <vector>

#include <smalti/prim/select_k.hpp>

using namespace smalti;
using prim::arrangement;
using prim::order;

namespace {

constexpr unsigned seed = 20261121;

template <class T> T from_bits(std::uint32_t bits) {
  T x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
template <class T> T make(double x) {
  if constexpr (std::is_integral_v<T>) return T(x);
  else if constexpr (std::is_same_v<T, float>) return float(x);
  else return narrow<T>(float(x));
}

// What rows look like: each is a trap for one way of selecting.
enum class kind { normal, few_values, all_equal, rising, falling, special, mostly_infinite, all_nan, any_bits, clustered };
constexpr kind kinds[] = {kind::normal, kind::few_values, kind::all_equal, kind::rising, kind::falling,
                          kind::special, kind::mostly_infinite, kind::all_nan, kind::any_bits, kind::clustered};

template <class T> void fill(T* row, std::int64_t n, kind what, std::mt19937& g) {
  std::normal_distribution<double> normal(0, 1000);
  for (std::int64_t i = 0; i < n; ++i) {
    switch (what) {
      case kind::normal: row[i] = make<T>(normal(g)); break;
      case kind::few_values: row[i] = make<T>(double(g() % 3) - 1); break;
      case kind::all_equal: row[i] = make<T>(7); break;
      case kind::rising: row[i] = make<T>(double(i) / 8 - 2000); break;
      case kind::falling: row[i] = make<T>(2000 - double(i) / 8); break;
      // One value in 256 stands out, and they lie together: a sample of the row finds none or all.
      case kind::clustered: row[i] = make<T>(i % 65536 < 256 ? 100 + double(g() % 64) : double(g() % 64)); break;
      case kind::any_bits: row[i] = from_bits<T>(g()); break;
      default:
        if constexpr (std::is_integral_v<T>) {
          const T extremes[] = {std::numeric_limits<T>::min(), std::numeric_limits<T>::max(), 0, -1, 1, std::numeric_limits<T>::min() + 1};
          row[i] = extremes[g() % 6];
        } else {
          const auto bits = [](std::uint32_t f) { return sizeof(T) == 4 ? from_bits<T>(f) : narrow<T>(bits_float(f)); };
          const T specials[] = {bits(0x7f800000), bits(0xff800000), bits(0x00000000), bits(0x80000000), bits(0x7fc00000),
                                bits(0xffc00000), make<T>(1), make<T>(-1), from_bits<T>(1), from_bits<T>(sizeof(T) == 4 ? 0x80000001u : 0x8001u),
                                from_bits<T>(sizeof(T) == 4 ? 0xffffffffu : 0xffffu)};
          const unsigned draw = g();
          row[i] = what == kind::special ? specials[draw % 11]
                   : what == kind::all_nan ? specials[draw % 2 ? 4 : 10]
                   : draw % 1000 != 0 ? specials[1] : specials[draw / 1000 % 11];
        }
    }
  }
}

template <class Op, class Context> void run(const Context& context, const typename Op::args& x) {
  test::scratch memory(Op::workspace_bytes(context, x));
  const status st = Op::run(context, x, memory.get());
  CAPTURE(st.what, st.got, st.need);
  REQUIRE(st.code == errc::ok);
  test::wait(base_of(context));
  REQUIRE(memory.guarded());
}

// Both outputs of `rows` rows, wider than k, and what they must be.
template <class T> struct outcome {
  int rows, k, stride;
  test::array<T> values;
  test::array<std::int32_t> indices;
  outcome(int r, int kk) : rows(r), k(kk), stride(kk + 3), values(std::size_t(r) * (kk + 3), 1), indices(std::size_t(r) * (kk + 3), 1) {}
  void poison() {
    std::memset(values.data(), 0x5A, values.size() * sizeof(T));
    std::memset(indices.data(), 0x5A, indices.size() * 4);
  }
  view<T, 1> value_view() { return {values.data(), rows, k, stride}; }
  view<std::int32_t, 1> index_view() { return {indices.data(), rows, k, stride}; }

  void verify(int r, const T* row, const std::vector<std::int32_t>& ordered, bool by_index, T fill_value, bool has_values, bool has_indices) {
    const std::vector<std::int32_t> want = oracle::select(ordered, k, by_index);
    for (int j = 0; j < stride; ++j) {
      const T v = values[std::size_t(r) * stride + j];
      const std::int32_t i = indices[std::size_t(r) * stride + j];
      const bool inside = j < k;
      const bool value_good = inside && has_values ? oracle::same_bits(v, want[j] < 0 ? fill_value : row[want[j]]) : oracle::same_bits(v, from_bits<T>(0x5A5A5A5A));
      const bool index_good = inside && has_indices ? i == want[j] : i == 0x5A5A5A5A;
      if (!value_good || !index_good) {
        CAPTURE(r, j, i, inside ? want[j] : 0);
        REQUIRE(value_good);
        REQUIRE(index_good);
      }
    }
  }
  bool guarded() const { return values.guarded() && indices.guarded(); }
};

template <class T, order Order> void dense(int rows, int n, std::initializer_list<int> ks, kind what) {
  using op = prim::select_k<T, Order>;
  std::mt19937 g(seed + unsigned(what));
  const int stride = n + 5;
  test::array<T> in(std::size_t(rows) * stride, 1);
  std::vector<std::vector<std::int32_t>> ordered;
  for (int r = 0; r < rows; ++r) {
    T* row = in.data() + std::size_t(r) * stride;
    fill(row, n, what, g);
    ordered.push_back(oracle::order_of(row, n, Order == order::largest));
  }
  const T fill_value = make<T>(-77);
  for (const int k : ks) {
    outcome<T> out(rows, k);
    for (const arrangement arranged : {arrangement::best_first, arrangement::by_index}) {
      CAPTURE(seed, rows, n, k, int(what), int(arranged), Order == order::largest);
      test::for_each_context(seed, [&](const auto& context) {
        out.poison();
        typename op::args x;
        x.rows = {in.data(), rows, n, stride};
        x.k = k;
        x.values = out.value_view();
        x.indices = out.index_view();
        x.arranged = arranged;
        x.fill = fill_value;
        run<op>(context, x);
        for (int r = 0; r < rows; ++r)
          out.verify(r, in.data() + std::size_t(r) * stride, ordered[std::size_t(r)], arranged == arrangement::by_index, fill_value, true, true);
        REQUIRE(out.guarded());
      });
    }
  }
  REQUIRE(in.guarded());
}

template <class T> void both(int rows, int n, std::initializer_list<int> ks, kind what) {
  dense<T, order::largest>(rows, n, ks, what);
  dense<T, order::smallest>(rows, n, ks, what);
}

}  // namespace

TEMPLATE_TEST_CASE("select_k agrees with a stable sort", "[prim][select_k]", float, bf16, fp16, std::int32_t) {
  for (const kind what : kinds)
    for (const int n : {1, 2, 16, 31, 257, 1000}) both<TestType>(2, n, {0, 1, 7, n / 2, n - 1, n, n + 40}, what);
}

TEMPLATE_TEST_CASE("select_k of long rows", "[prim][select_k]", float, bf16, fp16, std::int32_t) {
  for (const kind what : kinds) {
    both<TestType>(2, 2047, {64, 2000}, what);
    both<TestType>(2, 2049, {1, 1025}, what);
    both<TestType>(2, 9001, {8, 300, 4096}, what);
    both<TestType>(2, 66000, {1, 100, 2048}, what);
  }
}

TEMPLATE_TEST_CASE("select_k of empty input writes only the fill", "[prim][select_k]", float, std::int32_t) {
  both<TestType>(3, 0, {0, 5}, kind::normal);
  both<TestType>(0, 5, {0, 5}, kind::normal);
}

TEST_CASE("select_k of a very long row", "[prim][select_k]") {
  for (const kind what : {kind::normal, kind::few_values, kind::clustered, kind::mostly_infinite})
    dense<float, order::largest>(1, 300007, {4096}, what);
  dense<bf16, order::smallest>(1, 1000001, {10}, kind::any_bits);
}

// Offsets of both widths, with empty rows first, in the middle and last, and rows shorter than k.
TEMPLATE_TEST_CASE("select_k of ragged rows", "[prim][select_k]", std::int32_t, std::int64_t) {
  using rows_type = prim::ragged<float, TestType>;
  using op = prim::select_k<float, order::largest, rows_type>;
  std::mt19937 g(seed);
  for (const kind what : kinds) {
    CAPTURE(seed, int(what));
    test::array<TestType> offsets(10);
    const int lengths[] = {0, 5, 0, 0, 3000, 33, 1, 40000, 0};
    offsets[0] = 0;
    for (int i = 0; i < 9; ++i) offsets[i + 1] = offsets[i] + lengths[i];
    const std::int64_t extent = offsets[9];
    test::array<float> in(std::size_t(extent), 3);
    fill(in.data(), extent, what, g);
    std::vector<std::vector<std::int32_t>> ordered;
    for (int r = 0; r < 9; ++r) ordered.push_back(oracle::order_of(in.data() + offsets[r], lengths[r], true));
    for (const int k : {1, 4, 33, 2500}) {
      outcome<float> out(9, k);
      test::for_each_context(seed, [&](const auto& context) {
        for (const arrangement arranged : {arrangement::best_first, arrangement::by_index}) {
          out.poison();
          typename op::args x;
          x.rows = {in.data(), extent, {offsets.data(), 9}};
          x.k = k;
          x.values = out.value_view();
          x.indices = out.index_view();
          x.arranged = arranged;
          run<op>(context, x);
          for (int r = 0; r < 9; ++r)
            out.verify(r, in.data() + offsets[r], ordered[std::size_t(r)], arranged == arrangement::by_index, -std::numeric_limits<float>::infinity(), true, true);
          REQUIRE(out.guarded());
        }
      });
    }
  }
}

TEST_CASE("select_k writes what is wanted and nothing else", "[prim][select_k]") {
  using op = prim::select_k<float, order::smallest>;
  std::mt19937 g(seed);
  test::array<float> in = test::random_array<float>(2 * 700, g);
  outcome<float> out(2, 9);
  test::for_each_context(seed, [&](const auto& context) {
    for (const bool has_values : {true, false}) {
      out.poison();
      op::args x;
      x.rows = {in.data(), 2, 700, 700};
      x.k = 9;
      if (has_values) x.values = out.value_view();
      else x.indices = out.index_view();
      run<op>(context, x);
      for (int r = 0; r < 2; ++r) out.verify(r, in.data() + 700 * r, oracle::order_of(in.data() + 700 * r, 700, false), false, 0, has_values, !has_values);
    }
  });
}

TEST_CASE("the default fill is the worst there is", "[prim][select_k]") {
  REQUIRE(prim::select_k<float>::args{}.fill == -std::numeric_limits<float>::infinity());
  REQUIRE(prim::select_k<float, order::smallest>::args{}.fill == std::numeric_limits<float>::infinity());
  REQUIRE(prim::select_k<bf16>::args{}.fill.bits == 0xff80);
  REQUIRE(prim::select_k<bf16, order::smallest>::args{}.fill.bits == 0x7f80);
  REQUIRE(prim::select_k<fp16>::args{}.fill.bits == 0xfc00);
  REQUIRE(prim::select_k<fp16, order::smallest>::args{}.fill.bits == 0x7c00);
  REQUIRE(prim::select_k<std::int32_t>::args{}.fill == std::numeric_limits<std::int32_t>::min());
  REQUIRE(prim::select_k<std::int32_t, order::smallest>::args{}.fill == std::numeric_limits<std::int32_t>::max());
}

// All 2^16 patterns of the 16-bit types, in pairs with their neighbours in the oracle's order.
TEMPLATE_TEST_CASE("ranks order all half patterns", "[prim][order]", bf16, fp16) {
  std::vector<TestType> all(65536);
  for (int i = 0; i < 65536; ++i) all[i].bits = std::uint16_t(i);
  for (const bool largest : {true, false}) {
    const std::vector<std::int32_t> places = oracle::order_of(all.data(), 65536, largest);
    bool good = true;
    for (int i = 1; i < 65536; ++i) {
      const TestType a = all[places[i - 1]], b = all[places[i]];
      const auto ra = largest ? prim::rank<order::largest>(a) : prim::rank<order::smallest>(a);
      const auto rb = largest ? prim::rank<order::largest>(b) : prim::rank<order::smallest>(b);
      const long double x = oracle::worth(a), y = oracle::worth(b);
      const bool same = x == y || (std::isnan(x) && std::isnan(y));
      good = good && (same ? ra == rb : ra > rb) && ra <= prim::last_rank<TestType>;
    }
    REQUIRE(good);
  }
}

TEST_CASE("select_k repeats to the bit", "[prim][select_k]") {
  using op = prim::select_k<bf16>;
  std::mt19937 g(seed);
  test::array<bf16> in(4 * 30000);
  fill(in.data(), 4 * 30000, kind::normal, g);
  outcome<bf16> first(4, 500), again(4, 500);
  test::for_each_context(seed, [&](const auto& context) {
    first.poison(), again.poison();
    op::args x;
    x.rows = {in.data(), 4, 30000, 30000};
    x.k = 500;
    x.values = first.value_view(), x.indices = first.index_view();
    run<op>(context, x);
    x.values = again.value_view(), x.indices = again.index_view();
    for (int repeat = 0; repeat < 20; ++repeat) {
      run<op>(context, x);
      REQUIRE(std::memcmp(first.values.data(), again.values.data(), first.values.size() * sizeof(bf16)) == 0);
      REQUIRE(std::memcmp(first.indices.data(), again.indices.data(), first.indices.size() * 4) == 0);
    }
  });
}

TEST_CASE("select_k by index takes any k, and a k of its own for each row", "[prim][select_k]") {
  using op = prim::select_k<float>;
  std::mt19937 g(seed);
  for (const int n : {300, 20000})
    for (const kind what : {kind::normal, kind::few_values, kind::special}) {
      const int rows = 6, k = n - 7;
      const test::array<std::int32_t> own = test::array_of<std::int32_t>({-3, 0, 1, n / 3, k, n + 5});
      test::array<float> in(std::size_t(rows) * n, 1);
      std::vector<std::vector<std::int32_t>> ordered;
      for (int r = 0; r < rows; ++r) {
        fill(in.data() + std::size_t(r) * n, n, what, g);
        ordered.push_back(oracle::order_of(in.data() + std::size_t(r) * n, n, true));
      }
      for (const bool each : {false, true}) {
        outcome<float> out(rows, k);
        CAPTURE(seed, n, int(what), each);
        test::for_each_context(seed, [&](const auto& context) {
          out.poison();
          op::args x;
          x.rows = {in.data(), rows, n, n};
          x.k = k, x.values = out.value_view(), x.indices = out.index_view(), x.arranged = arrangement::by_index, x.fill = -77;
          if (each) x.row_k = own.data();
          run<op>(context, x);
          for (int r = 0; r < rows; ++r) {
            std::vector<std::int32_t> want = oracle::select(ordered[std::size_t(r)], each ? std::clamp(own[std::size_t(r)], 0, k) : k, true);
            want.resize(std::size_t(k), -1);
            for (int j = 0; j < k; ++j)
              if (out.indices[std::size_t(r) * out.stride + j] != want[std::size_t(j)]) FAIL("row " << r << " place " << j);
            for (int j = 0; j < k; ++j)
              if (!oracle::same_bits(out.values[std::size_t(r) * out.stride + j], want[std::size_t(j)] < 0 ? -77.0f : in[std::size_t(r) * n + want[std::size_t(j)]])) FAIL("row " << r << " value " << j);
          }
          REQUIRE(out.guarded());
        });
      }
    }
}

TEST_CASE("select_k refuses what it cannot do", "[prim][select_k]") {
  using op = prim::select_k<float>;
  const auto context = test::any_context();
  test::array<float> in(4 * 100), values(4 * 10);
  test::array<std::int32_t> indices(4 * 10);
  op::args good;
  good.rows = {in.data(), 4, 100, 100};
  good.k = 10;
  good.values = {values.data(), 4, 10, 10};
  good.indices = {indices.data(), 4, 10, 10};
  REQUIRE(op::check(context, good).code == errc::ok);

  struct refusal { const char* what; errc code; void (*spoil)(op::args&); };
  static float* row_memory = in.data();
  static float* odd = reinterpret_cast<float*>(reinterpret_cast<char*>(values.data()) + 2);
  const refusal refusals[] = {
    {"k must not be negative", errc::bad_value, [](op::args& x) { x.k = -1; }},
    {"k must be at most 4096: sort the rows instead, or take arrangement::by_index", errc::bad_value, [](op::args& x) { x.k = 4097; }},
    {"arranged must be arrangement::best_first or arrangement::by_index", errc::bad_value, [](op::args& x) { x.arranged = arrangement(9); }},
    {"rows has elements but no memory: its pointer is null", errc::null_pointer, [](op::args& x) { x.rows.data = nullptr; }},
    {"rows must not have a negative extent", errc::bad_shape, [](op::args& x) { x.rows.cols = -5; }},
    {"rows must not have a negative extent", errc::bad_shape, [](op::args& x) { x.rows.rows = -1; }},
    {"rows must not overlap: the stride is less than the number of columns", errc::bad_shape, [](op::args& x) { x.rows.stride = 99; }},
    {"rows must begin on a multiple of the element's size", errc::misaligned, [](op::args& x) { x.rows.data = odd; }},
    {"values and indices are both null: one of them must have memory for rows x k elements", errc::null_pointer, [](op::args& x) { x.values.data = nullptr, x.indices.data = nullptr; }},
    {"values must have as many rows as rows", errc::bad_shape, [](op::args& x) { x.values.rows = 3; }},
    {"values must have k columns", errc::bad_shape, [](op::args& x) { x.values.cols = 9; }},
    {"the rows of values must not overlap: the stride is less than k", errc::bad_shape, [](op::args& x) { x.values.stride = 9; }},
    {"values must begin on a multiple of the element's size", errc::misaligned, [](op::args& x) { x.values.data = odd; }},
    {"indices must have as many rows as rows", errc::bad_shape, [](op::args& x) { x.indices.rows = 5; }},
    {"indices must have k columns", errc::bad_shape, [](op::args& x) { x.indices.cols = 11; }},
    {"the rows of indices must not overlap: the stride is less than k", errc::bad_shape, [](op::args& x) { x.indices.stride = 1; }},
    {"indices must begin on a multiple of 4 bytes", errc::misaligned, [](op::args& x) { x.indices.data = reinterpret_cast<std::int32_t*>(odd); }},
    {"values must not overlap rows: give them memory of their own", errc::aliased, [](op::args& x) { x.values.data = row_memory + 399; }},
    {"indices must not overlap rows: give them memory of their own", errc::aliased, [](op::args& x) { x.indices.data = reinterpret_cast<std::int32_t*>(row_memory); }},
    {"values and indices must not overlap", errc::aliased, [](op::args& x) { x.indices.data = reinterpret_cast<std::int32_t*>(x.values.data + 39); }},
  };
  for (const refusal& r : refusals) {
    op::args x = good;
    r.spoil(x);
    const status st = op::check(context, x);
    CHECK(std::string(st.what) == r.what);
    CHECK(st.code == r.code);
    CHECK(op::run(context, x).code != errc::ok);
  }
}

#if !defined(__CUDACC__)
TEST_CASE("select_k refuses offsets and workspaces it cannot use", "[prim][select_k]") {
  using op = prim::select_k<float, order::largest, prim::ragged<float, std::int64_t>>;
  const host_context context{2};
  std::vector<float> in(100), values(30);
  std::vector<std::int64_t> offsets{0, 10, 10, 100};
  op::args good;
  good.rows = {in.data(), 100, {offsets.data(), 3}};
  good.k = 10;
  good.values = {values.data(), 3, 10, 10};
  REQUIRE(op::check(context, good).code == errc::ok);
  const auto code_with = [&](std::vector<std::int64_t> o, std::int64_t extent) {
    op::args x = good;
    x.rows = {in.data(), extent, {o.data(), 3}};
    return op::check(context, x).code;
  };
  CHECK(code_with({0, 10, 9, 100}, 100) == errc::bad_value);
  CHECK(code_with({1, 10, 10, 100}, 100) == errc::bad_value);
  CHECK(code_with({0, 10, 10, 101}, 100) == errc::bad_shape);
  CHECK(code_with({0, 10, 10, 100}, -1) == errc::bad_shape);
  CHECK(code_with({0, 0, 0, 1ll << 31}, 1ll << 40) == errc::out_of_reach);
  op::args x = good;
  x.rows.rows.offsets = nullptr;
  CHECK(op::check(context, x).code == errc::null_pointer);
  x = good, x.rows.rows.count = -1;
  CHECK(op::check(context, x).code == errc::bad_shape);
  x = good, x.rows.data = nullptr;
  CHECK(op::check(context, x).code == errc::null_pointer);
  CHECK(op::check(host_context{-1}, good).code == errc::bad_value);

  const std::size_t need = op::workspace_bytes(context, good);
  REQUIRE(need > 0);
  CHECK(need == op::workspace_bytes(context, good));
#if defined(_OPENMP)
  CHECK(op::workspace_bytes(host_context{1}, good) * 2 == need);
#endif
  test::array<unsigned char> memory(need + 256);
  CHECK(op::run(context, good).code == errc::workspace_too_small);
  CHECK(op::run(context, good, {memory.data(), need - 1}).code == errc::workspace_too_small);
  CHECK(op::run(context, good, {memory.data() + 1, need}).code == errc::misaligned);
  CHECK(op::run(context, good, {memory.data(), need}).code == errc::ok);
  x = good, x.values.data = reinterpret_cast<float*>(memory.data() + need - 4);
  CHECK(op::run(context, x, {memory.data(), need}).code == errc::aliased);
}

// High elements exactly where the row is sampled: the sample promises far more of them than there are, so that too few
// reach its threshold and the row is selected from again.
TEST_CASE("select_k of a row that deceives the sample", "[prim][select_k]") {
  using op = prim::select_k<float>;
  constexpr int n = 66000, k = 2048, size = 512, stride = n / size;
  std::mt19937 g(seed);
  test::array<float> in(n);
  fill(in.data(), n, kind::normal, g);
  for (int i = 0; i < size; ++i) in[std::size_t(i) * stride + (std::uint64_t(std::uint32_t(i) * 2654435761u) * stride >> 32)] = 1e6f;
  std::vector<std::uint32_t> sample(prim::detail::greatest_sample);
  const std::uint32_t threshold = prim::detail::likely_threshold<float, order::largest>(in.data(), n, k, sample.data());
  REQUIRE(threshold == prim::rank<order::largest>(1e6f));      // else the sample has moved, and this test with it
  outcome<float> out(1, k);
  test::for_each_context(seed, [&](const auto& context) {
    out.poison();
    op::args x;
    x.rows = {in.data(), 1, n, n}, x.k = k, x.values = out.value_view(), x.indices = out.index_view();
    run<op>(context, x);
    out.verify(0, in.data(), oracle::order_of(in.data(), n, true), false, 0, true, true);
  });
}

// The radix cut is the answer where sampling misleads; it must also be right where it is not needed.
TEST_CASE("both ways of finding the cut agree", "[prim][select_k]") {
  std::mt19937 g(seed);
  for (const kind what : kinds) {
    std::vector<float> row(3000);
    fill(row.data(), 3000, what, g);
    std::vector<std::uint32_t> ranks(3000);
    for (int i = 0; i < 3000; ++i) ranks[i] = prim::rank<order::largest>(row[i]);
    for (const int k : {1, 2, 17, 1500, 2999, 3000}) {
      const auto a = prim::detail::find_cut(ranks.data(), 3000, k);
      const auto b = prim::detail::find_cut_by_radix<float, order::largest>(row.data(), 3000, k);
      const auto taken = [&](const prim::detail::cut& c) {
        std::vector<int> places;
        std::int64_t equal = c.equal;
        for (int i = 0; i < 3000; ++i)
          if (ranks[i] > c.pivot || (ranks[i] == c.pivot && equal-- > 0)) places.push_back(i);
        return places;
      };
      CAPTURE(seed, int(what), k);
      CHECK(taken(a).size() == std::size_t(k));
      CHECK(taken(a) == taken(b));
    }
  }
}
#endif
