// gemm::dense with small tiles, exactly: types, layouts, batches, epilogues, split K, gated pairs; what its check
// refuses; and the weight-only agent.
#include <smalti/block/gemm/linear.hpp>
#include <smalti/ops/gemm.hpp>
#include <smalti/policy/codec.hpp>

#include "battery.hpp"
#include "support/guarded.hpp"

using namespace smalti;
using namespace battery;

namespace {

// Tiles of C are 16 x 32 or, with B on the left, 32 x 16: several of them in each direction.
template <bool Left> struct tiny {
  constexpr gemm::gemm_tuning operator()(target, gemm::gemm_regime) const {
    return Left ? gemm::gemm_tuning{.m = 16, .n = 32, .k = 64, .b_left = true} : gemm::gemm_tuning{.m = 16, .n = 32, .k = 64};
  }
};

template <gemm::b_order Order, bool Split, bool Any = true> struct form : gemm::options {
  static constexpr auto b = Order;
  static constexpr bool any_width = Any, split_k = Split;
};
using n_by_k = form<gemm::b_order::n_by_k, false>;
using k_by_n = form<gemm::b_order::k_by_n, false>;
using split_n_by_k = form<gemm::b_order::n_by_k, true>;

template <class A, class C, class Options> struct problem {
  static constexpr bool by_rows = Options::b == gemm::b_order::n_by_k;
  int m, n, k, batch, pairs;
  matrix<A> a, b;
  matrix<C> c;
  std::vector<double> sum;
  problem(int m, int n, int k, int batch, int pairs = 1)
      : m(m),
        n(n),
        k(k),
        batch(batch),
        pairs(pairs),
        a(batch, m, k, k + 5, 21),
        b(batch, by_rows ? n * pairs : k, by_rows ? k : n * pairs, (by_rows ? k : n * pairs) + 3, 22),
        c(batch, m, n, n + 9),
        sum(std::size_t(batch) * m * n * pairs) {
    for (int s = 0; s < batch; ++s)
      for (int i = 0; i < m; ++i)
        for (int j = 0; j < n * pairs; ++j) {
          double total = 0;
          for (int p = 0; p < k; ++p) total += a.get(s, i, p) * (by_rows ? b.get(s, j, p) : b.get(s, p, j));
          sum[(std::size_t(s) * m + i) * n * pairs + j] = total;
        }
  }
  double at(int s, int i, int j) const { return sum[(std::size_t(s) * m + i) * n * pairs + j]; }
  template <class Op> typename Op::args args() {
    return {.a = a.read(), .b = b.read(), .c = c.write(), .batch = {batch, a.distance(), b.distance(), c.distance()}};
  }

  //! On both contexts, with B on either side and no byte of workspace to spare: every element is what is expected.
  template <class Op, bool Left, class Args, class Expected> void run(const Args& x, Expected expected, const char* what) {
    for (const host_context& base : contexts()) {
      const auto context = with_tuning<tiny<Left>>(base);
      memory<std::byte> work(Op::workspace_bytes(context, x), 1 << 17);
      c.at.poison();
      poison_stack();
      const status st = Op::run(context, x, {work.data(), work.bytes()});
      expect(st.code == errc::ok, st.what);
      expect(work.intact(), "the workspace is as large as it says");
      expect(c.intact() && a.intact() && b.intact(), "a product stays inside its result");
      for (int s = 0; s < batch; ++s)
        for (int i = 0; i < m; ++i)
          for (int j = 0; j < n; ++j) expect(c.get(s, i, j) == expected(s, i, j), what);
    }
  }
};

template <class A, class C, class Options, bool Left> void plain(int m, int n, int k, int batch, const char* what) {
  using op = gemm::dense<A, A, C, policy::chain<>, Options>;
  problem<A, C, Options> p(m, n, k, batch);
  p.template run<op, Left>(
      p.template args<op>(), [&](int s, int i, int j) { return value(element<C>(p.at(s, i, j))); }, what);
}
void types() {
  plain<bf16, float, n_by_k, false>(37, 75, 151, 2, "bf16, B as N x K");
  plain<bf16, float, n_by_k, true>(37, 75, 151, 2, "bf16, B as N x K on the left");
  plain<bf16, float, k_by_n, false>(21, 45, 131, 2, "bf16, B as K x N");
  plain<fp16, float, n_by_k, false>(21, 45, 77, 1, "fp16");
  plain<float, float, n_by_k, false>(21, 45, 77, 1, "float");
  plain<std::int8_t, int, n_by_k, true>(21, 45, 151, 2, "int8");
}

// Where the matrices end, memory ends.
void edges() {
  constexpr int m = 21, n = 45, k = 75;
  guarded<bf16> a(m * k), b(n * k);
  guarded<float> c(m * n);
  for (int i = 0; i < m * k; ++i) a[i] = element<bf16>(i % 5);
  for (int i = 0; i < n * k; ++i) b[i] = element<bf16>(i % 3);
  using op = gemm::dense<bf16, bf16, float, policy::chain<>, n_by_k>;
  const auto context = with_tuning<tiny<false>>(host_context{1});
  for (const int depth : {64, k}) {  // used where it lies, and copied
    const op::args x{.a = {a.data() + k - depth, m, depth, k}, .b = {b.data() + k - depth, n, depth, k}, .c = {c.data(), m, n, n}};
    memory<std::byte> work(op::workspace_bytes(context, x));
    expect(op::run(context, x, {work.data(), work.bytes()}).code == errc::ok, "a product at the end of memory");
    double want = 0;
    for (int p = k - depth; p < k; ++p) want += value(a[(m - 1) * k + p]) * value(b[(n - 1) * k + p]);
    expect(c[m * n - 1] == want, "a product at the end of memory");
  }
}

template <bool Left> void bias_and_rows() {
  using steps = policy::chain<policy::row_scale<float>, policy::bias<bf16>, policy::residual<float>>;
  using op = gemm::dense<bf16, bf16, float, steps, n_by_k>;
  problem<bf16, float, n_by_k> p(37, 75, 70, 2);
  const matrix<float> scale(1, 1, 37, 40, 31), stream(1, 37, 75, 80, 33);
  const matrix<bf16> bias(1, 1, 75, 80, 32);
  auto x = p.template args<op>();
  x.epilogue = {{scale.at.data(), 37}, {{bias.at.data(), 75}, {{stream.read()}, {}}}};
  p.template run<op, Left>(
      x, [&](int s, int i, int j) { return p.at(s, i, j) * scale.get(0, 0, i) + bias.get(0, 0, j) + stream.get(0, i, j); },
      "an epilogue of rows and columns");
}
void epilogues() {
  bias_and_rows<false>();
  bias_and_rows<true>();
}

template <bool Left, bool Split> void gated_pairs(int splits) {
  using options = form<gemm::b_order::n_by_k, Split>;
  using op = gemm::dense<bf16, bf16, float, policy::chain<policy::gated<policy::relu>>, options>;
  problem<bf16, float, options> p(21, 45, 300, 2, 2);
  auto x = p.template args<op>();
  x.splits = splits;
  p.template run<op, Left>(
      x, [&](int s, int i, int j) { return std::max(p.at(s, i, j), 0.0) * p.at(s, i, j + 45); }, "a gated product");
}
void gated() {
  gated_pairs<false, false>(1);
  gated_pairs<true, false>(1);
  gated_pairs<true, true>(2);
}

void split_k() {
  using op = gemm::dense<bf16, bf16, float, policy::chain<>, split_n_by_k>;
  for (const int splits : {1, 3, 4}) {  // 5 steps of k: 3 splits take 2, 2 and 1; 4 take 2, 2, 1 and none
    problem<bf16, float, split_n_by_k> p(37, 75, 300, 2);
    auto x = p.args<op>();
    x.splits = splits;
    p.run<op, false>(
        x, [&](int s, int i, int j) { return p.at(s, i, j); }, "split K");
  }
  // Sums that depend on their order: the same bits whoever arrives last.
  problem<bf16, float, split_n_by_k> p(16, 32, 64 * 7, 1);
  std::minstd_rand generator(7);
  for (int i = 0; i < 16; ++i)
    for (int k = 0; k < p.k; ++k) p.a(0, i, k) = narrow<bf16>(std::ldexp(float(generator() % 1000) - 500.0f, int(generator() % 40) - 20));
  std::vector<float> first;
  for (std::uint64_t shuffle = 0; shuffle < 12; ++shuffle) {
    const auto context = with_tuning<tiny<false>>(host_context{1, shuffle});
    auto x = p.args<op>();
    x.splits = 7;
    memory<std::byte> work(op::workspace_bytes(context, x));
    expect(op::run(context, x, {work.data(), work.bytes()}).code == errc::ok, "split K");
    const std::vector<float> bits(p.c.at.data(), p.c.at.data() + 16 * p.c.stride);
    if (first.empty()) first = bits;
    expect(std::memcmp(first.data(), bits.data(), bits.size() * sizeof(float)) == 0, "split K has the same bits in every order of blocks");
  }
}

// A as K x M, reductions, groups of rows of tiles, and blocks that make several tiles.
struct turned : form<gemm::b_order::k_by_n, false> {
  static constexpr auto a = gemm::a_order::k_by_m;
  static constexpr bool persistent = true;
  using reductions = policy::chain<policy::column_sum, policy::row_absmax>;
};
struct grouped {
  constexpr gemm::gemm_tuning operator()(target, gemm::gemm_regime) const { return {.m = 16, .n = 32, .k = 64, .group = 2}; }
};
void orders() {
  using op = gemm::dense<bf16, bf16, float, policy::chain<policy::bias<bf16>>, turned>;
  constexpr int m = 37, n = 75, k = 150, count = 2;
  matrix<bf16> a(count, k, m, m + 3, 21), b(count, k, n, n + 2, 22);
  const matrix<bf16> bias(1, 1, n, n + 1, 32);
  matrix<float> c(count, m, n, n + 9);
  for (const host_context& base : contexts()) {
    const auto context = with_tuning<grouped>(base);
    memory<float> sums(count * n), largest(count * m);
    const op::args x{.a = a.read(), .b = b.read(), .c = c.write(), .batch = {count, a.distance(), b.distance(), c.distance()}, .epilogue = {{bias.at.data(), n}, {}},
                     .reduce = {{sums.data(), n, n}, {{largest.data(), m, m}, {}}}};
    memory<std::byte> work(op::workspace_bytes(context, x), 1 << 17);
    c.at.poison();
    poison_stack();
    expect(op::run(context, x, {work.data(), work.bytes()}).code == errc::ok, "A as K x M");
    expect(work.intact() && c.intact() && sums.intact() && largest.intact(), "a product with reductions stays inside its results");
    for (int s = 0; s < count; ++s) {
      std::vector<double> down(n), across(m);
      for (int i = 0; i < m; ++i)
        for (int j = 0; j < n; ++j) {
          double total = bias.get(0, 0, j);
          for (int p = 0; p < k; ++p) total += a.get(s, p, i) * b.get(s, p, j);
          expect(c.get(s, i, j) == total, "A as K x M, tiles in groups");
          down[std::size_t(j)] += total, across[std::size_t(i)] = std::max(across[std::size_t(i)], std::abs(total));
        }
      for (int j = 0; j < n; ++j) expect(sums[std::size_t(s * n + j)] == down[std::size_t(j)], "sums of columns");
      for (int i = 0; i < m; ++i) expect(largest[std::size_t(s * m + i)] == across[std::size_t(i)], "the largest magnitude of a row");
    }
  }
}

struct in_two_parts : form<gemm::b_order::n_by_k, false> { static constexpr auto f32 = gemm::float_product::tf32x3; };
void two_parts() {
  using op = gemm::dense<float, float, float, policy::chain<>, in_two_parts>;
  constexpr int m = 16, n = 32, k = 16;
  memory<float> a(m * k), b(n * k), c(m * n);
  for (int i = 0; i < m * k; ++i) a[std::size_t(i)] = 1 + float(i) / 65536;      // tf32 has 11 bits
  for (int i = 0; i < n * k; ++i) b[std::size_t(i)] = 1 - float(i) / 65536;
  const auto context = with_tuning<tiny<false>>(host_context{1});
  const op::args x{.a = {a.data(), m, k, k}, .b = {b.data(), n, k, k}, .c = {c.data(), m, n, n}};
  memory<std::byte> work(op::workspace_bytes(context, x));
  expect(op::run(context, x, {work.data(), work.bytes()}).code == errc::ok, "tf32x3");
  for (int i = 0; i < m; ++i)
    for (int j = 0; j < n; ++j) {
      double total = 0;
      for (int p = 0; p < k; ++p) total += double(a[std::size_t(i * k + p)]) * b[std::size_t(j * k + p)];
      expect(std::abs(c[std::size_t(i * n + j)] - total) < 1e-4, "tf32x3 keeps the low parts");
    }
}

// ---- refusals

using steps = policy::chain<policy::bias<bf16>>;
using aligned = gemm::dense<bf16, bf16, float, steps, form<gemm::b_order::n_by_k, false, false>>;
using narrow_rows = gemm::dense<bf16, bf16, float, steps, n_by_k>;
using pairs = gemm::dense<bf16, bf16, float, policy::chain<policy::gated<policy::relu>>, form<gemm::b_order::n_by_k, false, false>>;
using splits = gemm::dense<bf16, bf16, float, steps, form<gemm::b_order::n_by_k, true, false>>;

struct fixture {
  static constexpr int m = 24, n = 40, k = 64;
  memory<bf16> a{m * k + 8}, b{2 * n * k + 8}, bias{n};
  memory<float> c{2 * m * n};
  template <class Op> typename Op::args good() {
    typename Op::args x{.a = {a.data(), m, k, k}, .b = {b.data(), n, k, k}, .c = {c.data(), m, n, n}};
    if constexpr (!Op::pairs) x.epilogue.first = {bias.data(), n};
    return x;
  }
  template <class Op = aligned, class Change> void refused(errc code, const char* what, Change change) {
    auto x = good<Op>();
    change(x);
    expect(Op::check(host_context{1}, x).code == code, what);
  }
};

void refusals() {
  fixture f;
  expect(aligned::check(host_context{1}, f.good<aligned>()).code == errc::ok, "good arguments are accepted");
  f.refused(errc::bad_shape, "negative rows", [](auto& x) { x.a.rows = x.c.rows = -1; });
  f.refused(errc::null_pointer, "null", [](auto& x) { x.b.data = nullptr; });
  f.refused(errc::null_pointer, "a null bias", [](auto& x) { x.epilogue.first.data = nullptr; });
  f.refused(errc::bad_shape, "a narrow stride", [](auto& x) { x.a.stride = 56; });
  f.refused<narrow_rows>(errc::misaligned, "an odd address",
                         [](auto& x) { x.a.data = reinterpret_cast<const bf16*>(reinterpret_cast<const char*>(x.a.data) + 1); });
  f.refused(errc::misaligned, "an unaligned base", [](auto& x) { ++x.a.data; });
  f.refused(errc::misaligned, "an unaligned stride", [](auto& x) { x.a.stride = 65; });
  f.refused(errc::misaligned, "an unaligned width", [](auto& x) { x.a.cols = x.b.cols = 60; });
  f.refused(errc::misaligned, "an unaligned distance", [](auto& x) { x.batch = {2, 12, 0, 24 * 40}; });
  f.refused(errc::bad_value, "a negative distance", [](auto& x) { x.batch = {2, 0, -16, 24 * 40}; });
  f.refused(errc::bad_value, "a negative count", [](auto& x) { x.batch.count = -1; });
  f.refused(errc::bad_shape, "other rows", [](auto& x) { x.a.rows = 25; });
  f.refused(errc::bad_shape, "another depth", [](auto& x) { x.a.cols = 56; });
  f.refused(errc::bad_shape, "another width", [](auto& x) { x.b.rows = 39; });
  f.refused<pairs>(errc::bad_shape, "half a pair", [](auto&) {});
  f.refused(errc::aliased, "matrices of c that overlap", [](auto& x) { x.batch = {2, 0, 0, 24 * 40 - 4}; });
  f.refused(errc::aliased, "c over a", [](auto& x) { x.a.data = reinterpret_cast<const bf16*>(x.c.data + 4); });
  f.refused(errc::aliased, "c over b", [](auto& x) { x.b.data = reinterpret_cast<const bf16*>(x.c.data + (24 * 40 - 4)); });
  f.refused(errc::aliased, "the second matrix of c over a", [](auto& x) {
    x.batch = {2, 0, 0, 24 * 40};
    x.a.data = reinterpret_cast<const bf16*>(x.c.data + 24 * 40 + 4);
  });
  f.refused(errc::ok, "a behind c", [](auto& x) { x.a.data = reinterpret_cast<const bf16*>(x.c.data + 24 * 40); });
  f.refused(errc::bad_value, "splits without the option", [](auto& x) { x.splits = 2; });
  f.refused<splits>(errc::bad_value, "no splits", [](auto& x) { x.splits = 0; });
  f.refused<splits>(errc::bad_value, "too many splits", [](auto& x) { x.splits = 257; });
  auto x = f.good<splits>();
  x.splits = 2;
  const auto context = with_tuning<tiny<false>>(host_context{1});
  memory<std::byte> work(splits::workspace_bytes(context, x));
  expect(splits::run(context, x, {work.data(), work.bytes() - 1}).code == errc::workspace_too_small, "a small workspace");
}

// ---- packed weights: four bits, groups of 128

template <class Problem> struct linear_kernel {
  using arguments = typename Problem::arguments;
  template <target> using agent = gemm::linear_agent<gemm::linear_tuning{.m = 16, .n = 32}, Problem>;
};
void packed_weights() {
  constexpr int m = 19, n = 45, k = 3 * 128, strips = 2;
  using layout = policy::weight_layout<4, policy::machine_family::host, 64, 32>;      // two operands share a group
  const matrix<bf16> x(1, m, k, k, 41);
  matrix<float> scales(1, 3, 48, 48, 42), y(1, m, n, n + 3);
  std::vector<int> code(std::size_t(n) * k);
  std::minstd_rand generator(43);
  for (int& c : code) c = int(generator() >> 8) % 16;
  memory<std::uint32_t> words(std::size_t(layout::size(n, k, 0)));
  std::memset(words.data(), 0, words.bytes());
  for (int j = 0; j < n; ++j)
    for (int c = 0; c < k; ++c) {
      const auto at = layout::place(c, 0);
      words[std::size_t(layout::index(j, at.word, layout::words_of(k, 0)))] |= std::uint32_t(code[std::size_t(j) * k + c]) << at.bit;
    }
  using source = gemm::packed_weights<policy::int4_symmetric<128>, layout, policy::scale_in::accumulator>;
  using problem = gemm::linear_problem<bf16, bf16, source, gemm::activation_factors<>, float, policy::chain<>, gemm::one_matrix, false, step_of<bf16>, 1>;
  constexpr int high = layout::words_of(k, 0);
  source weights{};
  weights.planes.a = {words.data(), strips, high, 32, high * 32, 32};
  weights.scales.scale = {scales.at.data(), 3, 48, 48};
  problem::arguments arguments{};
  arguments.x = {x.at.data(), m, k, k};
  arguments.weights = weights;
  arguments.y = {y.at.data(), m, n, n + 3};
  for (const host_context& context : contexts()) {
    y.at.poison();
    poison_stack();
    expect(launch<linear_kernel<problem>>(context, arguments).code == errc::ok, "packed weights");
    expect(y.intact(), "packed weights stay inside");
    for (int i = 0; i < m; ++i)
      for (int j = 0; j < n; ++j) {
        double want = 0;
        for (int c = 0; c < k; ++c) want += x.get(0, i, c) * (code[std::size_t(j) * k + c] - 8) * scales.get(0, c / 128, j);
        expect(y.get(0, i, j) == want, "packed weights");
      }
  }
}

}  // namespace

namespace battery {
std::vector<check> gemm_checks() {
  return {{"gemm types and layouts", types},   {"gemm epilogues", epilogues}, {"gemm gated pairs", gated},
          {"gemm split K", split_k},           {"gemm refusals", refusals},   {"gemm packed weights", packed_weights},
          {"gemm at the end of memory", edges}, {"gemm orders and reductions", orders}, {"gemm in two parts", two_parts}};
}
}  // namespace battery
