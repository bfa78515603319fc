// Reductions of a product's result: sums and largest magnitudes of columns and rows, after the epilogue, with every
// schedule that makes the tiles; and products of floats in two parts.
#include "gemm_problem.hpp"
#include <smalti/policy/tf32_parts.hpp>

using namespace smalti;
using namespace test;

namespace {

constexpr unsigned seed = gemm_seed;

struct reducing : gemm::options {
  using reductions = policy::chain<policy::column_sum, policy::row_absmax, policy::row_sum, policy::column_absmax>;
};
struct reducing_split : gemm::options {
  static constexpr bool split_k = true, persistent = true;
  using reductions = policy::chain<policy::column_sum, policy::row_absmax>;
};
struct reducing_gated : gemm::options {
  using reductions = policy::chain<policy::row_absmax>;
};
struct three : gemm::options { static constexpr auto f32 = gemm::float_product::tf32x3; };
struct three_turned : turned_kn { static constexpr auto f32 = gemm::float_product::tf32x3; };

// The result as the oracle has it, and how wrong each element may be.
struct expected { std::vector<double> value, bound; };

// Sums of `count` values, each wrong by at most its bound: (count + 2) 2^-24 of the magnitudes more.
template <class At> void check_sum(float got, int count, At at) {
  double sum = 0, size = 0, bound = 0;
  for (int i = 0; i < count; ++i) {
    const auto [v, e] = at(i);
    sum += v, size += std::abs(v) + e, bound += e;
  }
  bound += (count + 2) * 0x1p-24 * size + 1e-30;
  CAPTURE(sum, got, bound);
  REQUIRE(std::abs(got - sum) <= bound);
}
template <class At> void check_absmax(float got, int count, At at) {
  double largest = 0, bound = 0;
  for (int i = 0; i < count; ++i) {
    const auto [v, e] = at(i);
    largest = std::max(largest, std::abs(v)), bound = std::max(bound, e);
  }
  CAPTURE(largest, got, bound);
  REQUIRE(std::abs(got - largest) <= bound);
}

}  // namespace

TEST_CASE("reductions of the result, after the epilogue", "[ops][gemm]") {
  using steps = policy::chain<policy::bias<bf16>, policy::scale>;
  using op = gemm::dense<bf16, bf16, bf16, steps, reducing>;
  std::mt19937 generator(seed);
  // decode, where the result is made transposed, and prefill; ragged tiles, so that what lies outside them shows: the bias
  // makes it large
  for (auto [m, n, k, batch] : {std::tuple{1, 8, 16, 1}, {13, 200, 64, 3}, {131, 72, 40, 2}, {300, 520, 64, 1}}) {
    CAPTURE(seed, m, n, k, batch);
    problem<bf16, bf16, reducing> p(m, n, k, batch, generator);
    array<bf16> bias(n);
    for (auto& b : bias) b = narrow<bf16>(40.0f);
    array<float> column_sum(std::size_t(batch) * (n + 3)), row_absmax(std::size_t(batch) * m), row_sum(std::size_t(batch) * m), column_absmax(std::size_t(batch) * n);
    for_each_context(seed, [&, m = m, n = n, k = k, batch = batch](const auto& context) {
      std::memset(p.c.data(), 0xA5, p.c.size() * sizeof(bf16));
      std::memset(column_sum.data(), 0xA5, column_sum.size() * sizeof(float));
      auto x = p.args<op>();
      x.epilogue = {{bias.data(), n}, {{-0.5f}, {}}};
      x.reduce = {{column_sum.data(), n, n + 3}, {{row_absmax.data(), m, m}, {{row_sum.data(), m, m}, {{column_absmax.data(), n, n}, {}}}}};
      run<op>(context, x);
      const auto want = [&](int s, int i, int j) { return -0.5 * (p.sum(s, i, j) + 40); };
      p.verify(want, 0.5, 0x1p-22);
      const auto at = [&](int s, int i, int j) { return std::pair{want(s, i, j), 0.5 * (k + 2) * 0x1p-24 * (p.size(s, i, j) + 40) + 0x1p-22 * std::abs(want(s, i, j))}; };
      for (int s = 0; s < batch; ++s) {
        for (int j = 0; j < n; ++j) {
          check_sum(column_sum[std::size_t(s) * (n + 3) + j], m, [&](int i) { return at(s, i, j); });
          check_absmax(column_absmax[std::size_t(s) * n + j], m, [&](int i) { return at(s, i, j); });
        }
        for (int i = 0; i < m; ++i) {
          check_sum(row_sum[std::size_t(s) * m + i], n, [&](int j) { return at(s, i, j); });
          check_absmax(row_absmax[std::size_t(s) * m + i], n, [&](int j) { return at(s, i, j); });
        }
        for (int j = n; j < n + 3; ++j) {
          unsigned char bytes[4];
          std::memcpy(bytes, &column_sum[std::size_t(s) * (n + 3) + j], 4);
          REQUIRE(bytes[0] == 0xA5);
        }
      }
      REQUIRE((column_sum.guarded() && row_absmax.guarded() && row_sum.guarded() && column_absmax.guarded()));
    });
  }
}

TEST_CASE("reductions of a split K, and of a gated epilogue", "[ops][gemm]") {
  std::mt19937 generator(seed);
  {
    using op = gemm::dense<bf16, bf16, float, policy::chain<>, reducing_split>;
    problem<bf16, float, reducing_split> p(70, 136, 2080, 1, generator);
    std::vector<float> sums(136), most(70), first;
    for_each_context(seed, [&](const auto& context) {
      auto x = p.args<op>();
      x.splits = 3;
      x.reduce = {{sums.data(), 136}, {{most.data(), 70}, {}}};
      run<op>(context, x);
      const auto at = [&](int i, int j) { return std::pair{p.sum(0, i, j), (2080 + 2) * 0x1p-24 * p.size(0, i, j)}; };
      for (int j = 0; j < 136; ++j) check_sum(sums[j], 70, [&](int i) { return at(i, j); });
      for (int i = 0; i < 70; ++i) check_absmax(most[i], 136, [&](int j) { return at(i, j); });
      if (first.empty()) first = sums;
      CHECK(first == sums);                                  // threads and order of blocks change no bit
    });
  }
  using op = gemm::dense<bf16, bf16, float, policy::chain<policy::gated<policy::relu>>, reducing_gated>;
  problem<bf16, float, reducing_gated> p(37, 76, 64, 1, generator, 2);
  std::vector<float> most(37);
  for_each_context(seed, [&](const auto& context) {
    auto x = p.args<op>();
    x.reduce = {{most.data(), 37}, {}};
    run<op>(context, x);
    for (int i = 0; i < 37; ++i)
      check_absmax(most[i], 76, [&](int j) {
        const double gate = std::max(0.0, p.sum(0, i, j)), up = p.sum(0, i, j + 76), relative = 66 * 0x1p-24;
        return std::pair{gate * up, (relative * (p.size(0, i, j) * std::abs(up) + p.size(0, i, j + 76) * gate)) * 1.01 + 0x1p-23 * std::abs(gate * up)};
      });
  });
}

TEST_CASE("reductions of nothing are zero, and wrong ones are refused", "[ops][gemm][refusal]") {
  using op = gemm::dense<bf16, bf16, bf16, policy::chain<>, reducing>;
  array<bf16> a(16 * 16), b(24 * 16), c(16 * 24);
  array<float> to(64);
  const auto with = [&](auto change) {
    op::args x{.a = {a.data(), 16, 16, 16}, .b = {b.data(), 24, 16, 16}, .c = {c.data(), 16, 24, 24},
               .reduce = {{to.data(), 24}, {{to.data(), 16}, {{to.data(), 16}, {{to.data(), 24}, {}}}}}};
    change(x);
    return op::check(any_context(), x);
  };
  CHECK(with([](auto&) {}).code == errc::ok);
  CHECK(with([](auto& x) { x.reduce.first.data = nullptr; }).code == errc::null_pointer);
  CHECK(with([](auto& x) { x.reduce.first.n = 23; }) == status{errc::bad_shape, "", 23, 24});
  CHECK(with([](auto& x) { x.reduce.rest.first.n = 15; }) == status{errc::bad_shape, "", 15, 16});
  CHECK(with([&](auto& x) { x.reduce.rest.rest.first.data = reinterpret_cast<float*>(c.data()); }).code == errc::aliased);
  CHECK(with([](auto& x) { x.batch = {2, 0, 0, 16 * 24}; }).code == errc::aliased);        // the numbers of two matrices in one place
  for_each_context(seed, [&](const auto& context) {
    array<float> sums(24);
    op::args x{.a = {nullptr, 0, 16, 16}, .b = {b.data(), 24, 16, 16}, .c = {nullptr, 0, 24, 24}};
    x.reduce.first = {sums.data(), 24}, x.reduce.rest.rest.rest.first = {to.data(), 24};
    run<op>(context, x);
    for (float s : sums) CHECK(s == 0.0f);
  });
}

// high is tf32, the rest is small, and together they miss 2^-22 of the value.
TEST_CASE("a float is two parts of tf32", "[ops][gemm]") {
  std::mt19937 generator(seed);
  std::uniform_int_distribution<std::uint32_t> bits;
  const auto nearest = [](float x) { return to_float(narrow<tf32>(x)); };
  for (int i = 0; i < 200000; ++i) {
    const float x = bits_float(bits(generator));
    if (!(std::abs(x) < 0x1.ffep127f) || std::abs(x) < 0x1p-100f) continue;
    CAPTURE(seed, x);
    float high, low;
#if defined(__CUDACC__)
    high = nearest(x), low = nearest(x - high);                // its maps take tiles: the product below is the test there
#else
    high = policy::tf32_high{}(host::floats(x))[0], low = policy::tf32_low{}(host::floats(x))[0];
#endif
    REQUIRE(high == nearest(x));
    REQUIRE(low == nearest(x - high));
    REQUIRE(std::abs(double(x) - high - low) <= 0x1p-22 * std::abs(double(x)));
  }
}

// |error| <= 3 2^-22 |a||b| (both roundings of low parts and the product of both low parts) + (3 K + 2) 2^-24 |a||b| (three
// times as many additions). The model is the machine's: on a GPU with tf32 tensor cores, on the host the same parts by FMA.
TEMPLATE_TEST_CASE("tf32x3 is nearly as exact as float", "[ops][gemm]", three, three_turned) {
  using op = gemm::dense<float, float, float, policy::chain<>, TestType>;
  std::mt19937 generator(seed);
  for (auto [m, n, k] : {std::tuple{4, 36, 8}, {100, 132, 24}, {132, 260, 20}}) {
    CAPTURE(seed, m, n, k);
    problem<float, float, TestType> p(m, n, k, 1, generator);
    for_each_context(seed, [&, m = m, n = n, k = k](const auto& context) {
      run<op>(context, p.template args<op>());
      double worst = 0;
      for (int i = 0; i < m; ++i)
        for (int j = 0; j < n; ++j) {
          const double relative = std::abs(p.got(0, i, j) - p.sum(0, i, j)) / p.size(0, i, j);
          REQUIRE(relative <= 3 * 0x1p-22 + (3 * k + 2) * 0x1p-24);
          worst = std::max(worst, relative);
        }
      CHECK(worst < 0x1p-18);                                // one tf32 product: about 2^-11
    });
  }
}
