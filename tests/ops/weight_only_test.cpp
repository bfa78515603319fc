// gemm::weight_only against the double oracle: formats, shapes, groups, orders of columns, splits and epilogues.
#include "quantized_problem.hpp"

using namespace smalti;
using namespace test;

namespace {
struct split : gemm::linear_options { static constexpr bool split_k = true; };
struct invariant : gemm::linear_options { static constexpr bool batch_invariant = true; };
struct few_workers : unaligned { static constexpr bool persistent = true; };
struct few_workers_split : unaligned_split { static constexpr bool persistent = true; };
}  // namespace

TEST_CASE("weight_only: ragged shapes", "[ops][gemm][quantized]") {
  using format = policy::int4_affine<128>;
  for (auto [m, n, k] : {std::tuple{0, 9, 40}, {1, 1, 1}, {1, 64, 128}, {2, 65, 129}, {5, 127, 260}, {16, 70, 511}, {17, 33, 384}, {64, 130, 250}, {65, 64, 133}, {130, 72, 300}})
    weight_only_case<format, unaligned, bf16, float, own_tiles>(m, n, k);
}

TEST_CASE("weight_only: groups that fit no tile", "[ops][gemm][quantized]") {
  weight_only_case<policy::int_affine<4, 32>>(3, 70, 200);
  weight_only_case<policy::int_affine<4, 64>>(3, 70, 200);
  weight_only_case<policy::int_affine<4, 0>>(3, 70, 200);
  weight_only_case<policy::int_affine<4, 37>>(3, 70, 200);
  weight_only_case<policy::int4_affine<100>>(20, 70, 350);
  weight_only_case<policy::int_affine<4, 1>>(3, 17, 40);
  weight_only_case<policy::format<policy::offset_int<4, 0>, policy::scales<float, 48, 1, policy::zero_point::floating>>>(3, 70, 200);
}

TEST_CASE("weight_only: act-order", "[ops][gemm][quantized]") {
  weight_only_case<policy::int4_affine<128>>(3, 70, 300, {.ordered = true});
  weight_only_case<policy::int4_affine<128>>(70, 70, 300, {.ordered = true});
  weight_only_case<policy::int_affine<3, 50>>(3, 70, 300, {.ordered = true});
  weight_only_case<policy::int4_affine<32>, unaligned_operand>(3, 70, 100, {.ordered = true});
}

TEST_CASE("weight_only: extreme scales", "[ops][gemm][quantized]") {
  weight_only_case<policy::int_affine<4, 32, policy::zero_point::none, float>>(3, 70, 200, {.smallest = 1e-30f, .largest = 1e3f});
  weight_only_case<policy::int_affine<4, 32>>(3, 70, 200, {.smallest = 6e-8f, .largest = 6e4f});
  weight_only_case<policy::mxfp4>(3, 70, 200, {.smallest = 1e-20f, .largest = 1e10f});
}

TEST_CASE("weight_only: fp16, aligned memory, scales in the operand, narrow results", "[ops][gemm][quantized]") {
  weight_only_case<policy::int4_affine<128>, gemm::linear_options, fp16, fp16>(9, 72, 304);
  weight_only_case<policy::int4_affine<64>, unaligned_operand, fp16>(9, 70, 300);
  weight_only_case<policy::bnb_nf4<64>, unaligned_operand>(9, 70, 256);
  weight_only_case<policy::int4_affine<128>, gemm::linear_options, bf16, bf16>(65, 72, 304);
}

TEST_CASE("weight_only: split K adds its parts in order", "[ops][gemm][quantized][split]") {
  weight_only_case<policy::int4_affine<128>, unaligned_split>(3, 70, 2000, {}, 3);
  weight_only_case<policy::q6_k, unaligned_split>(70, 40, 1024, {}, 2);
  weight_only_case<policy::int_affine<4, 0>, unaligned_split>(3, 20, 700, {}, 9);      // more splits than steps
  weight_only_case<policy::int_affine<4, 37>, unaligned_split>(3, 20, 700, {}, 4);
}

// One block after another makes the tiles of a worker; with one thread a single worker makes them all.
TEST_CASE("weight_only: as many blocks as run at once make all tiles", "[ops][gemm][quantized][persistent]") {
  weight_only_case<policy::int4_affine<128>, few_workers>(37, 200, 300);
  weight_only_case<policy::int4_affine<128>, few_workers_split>(3, 130, 1200, {}, 3);
}

TEST_CASE("weight_only: epilogues and pairs", "[ops][gemm][quantized]") {
  using format = policy::int4_affine<64>;
  std::mt19937 generator(quantized_seed);
  const int m = 18, n = 72, k = 200;
  std::vector<neutral<format>> gate, up;
  gate.emplace_back(n, k, generator);
  up.emplace_back(n, k, generator);
  packed_stack<format, bf16> first(gate), second(up);
  const rows_of<bf16> x(m, k, generator, false);
  const auto bias = random_array<bf16>(n, generator);
  array<float> y(std::size_t(m) * n);
  const auto silu = [](double v) { return v / (1 + std::exp(-v)); };
  for_each_context(quantized_seed, [&](const auto& context) {
    using op = gemm::weight_only<format, policy::chain<policy::bias<bf16>, policy::silu>, bf16, float>;
    std::memset(y.data(), 0xA5, y.size() * sizeof(float));
    op::args a{};
    a.x = {x.data.data(), m, k, x.stride};
    a.w = first.w;
    a.y = {y.data(), m, n, n};
    a.epilogue = {{bias.data(), n}, {}};
    run_linear<op>(context, a);
    verify_linear<op, format, bf16>(y, m, n, n, x.real, gate[0], 0, [&](double v, int, int j) { return silu(v + value(bias[j])); }, 1.1, 0x1p-19);

    using pair = gemm::weight_only<format, policy::chain<policy::gated<policy::silu>>, bf16, float, split>;
    for (const int splits : {1, 2}) {
      std::memset(y.data(), 0xA5, y.size() * sizeof(float));
      pair::args b{};
      b.x = a.x, b.w = first.w, b.up = second.w, b.y = a.y, b.splits = splits;
      run_linear<pair>(context, b);
      const auto places = gate[0].meaning.places();
      for (int j = 0; j < n; ++j) {
        const weight_column of_gate = column_of(gate[0].meaning, j, places), of_up = column_of(up[0].meaning, j, places);
        for (int i = 0; i < m; ++i) {
          const answer g = multiply(x.real, i, of_gate), u = multiply(x.real, i, of_up);
          const double want = silu(g.value) * u.value, unit = (k + 12) * 0x1p-24;
          const double bound = 1.1 * unit * g.size * (std::abs(u.value) + unit * u.size) + (std::abs(silu(g.value)) + 1e-6) * unit * u.size + std::abs(want) * 0x1p-19 + 1e-6;
          CAPTURE(i, j, want, y[std::size_t(i) * n + j]);
          if (!(std::abs(y[std::size_t(i) * n + j] - want) <= bound)) REQUIRE(std::abs(y[std::size_t(i) * n + j] - want) <= bound);
        }
      }
    }
  });
}

// A row that holds a NaN or an infinity has no finite result where it meets a weight that is not zero; the other rows' bits are as without it.
TEST_CASE("weight_only: what is not finite stays in its row", "[ops][gemm][quantized]") {
  const auto with = [&]<class Format>(std::type_identity<Format>) {
    using op = gemm::weight_only<Format, policy::chain<>, bf16, float, unaligned>;
    std::mt19937 generator(quantized_seed);
    CAPTURE(quantized_seed);
    const int m = 19, n = 40, k = 300;
    std::vector<neutral<Format>> w;
    w.emplace_back(n, k, generator, drawing{.ordered = true});
    packed_stack<Format, bf16> p(w);
    rows_of<bf16> x(m, k, generator, true);
    array<float> y(std::size_t(m) * n);
    for_each_context(quantized_seed, [&](const auto& context) {
      typename op::args a{};
      a.x = {x.data.data(), m, k, x.stride};
      a.w = p.w;
      a.y = {y.data(), m, n, n};
      run_linear<op>(context, a);
      const std::vector<float> before(y.begin(), y.end());
      const bf16 was = x.data[std::size_t(5) * x.stride + 131], other = x.data[std::size_t(17) * x.stride + 299];
      x.data[std::size_t(5) * x.stride + 131] = bf16{0x7fc0}, x.data[std::size_t(17) * x.stride + 299] = bf16{0x7f80};
      run_linear<op>(context, a);
      for (int i = 0; i < m; ++i)
        for (int j = 0; j < n; ++j) {
          const std::size_t at = std::size_t(i) * n + j;
          if (i == 5) REQUIRE(std::isnan(y[at]));
          else if (i == 17) REQUIRE(!std::isfinite(y[at]));
          else REQUIRE(std::memcmp(&y[at], &before[at], sizeof(float)) == 0);
        }
      x.data[std::size_t(5) * x.stride + 131] = was, x.data[std::size_t(17) * x.stride + 299] = other;
    });
  };
  with(std::type_identity<policy::int4_affine<64>>{});       // act-order
  with(std::type_identity<policy::int4_affine<48>>{});       // and groups that are filled up with places of no column
}

TEST_CASE("weight_only: batch_invariant rows do not depend on the number of rows", "[ops][gemm][quantized][determinism]") {
  using format = policy::q4_k;
  using op = gemm::weight_only<format, policy::chain<>, bf16, float, invariant>;
  std::mt19937 generator(quantized_seed);
  const int most = 90, n = 72, k = 512;
  std::vector<neutral<format>> w;
  w.emplace_back(n, k, generator);
  packed_stack<format, bf16> p(w);
  const rows_of<bf16> x(most, k, generator, false);
  array<float> y(std::size_t(most) * n);
  for_each_context(quantized_seed, [&](const auto& context) {
    op::args a{};
    a.x = {x.data.data(), most, k, x.stride};
    a.w = p.w;
    a.y = {y.data(), most, n, n};
    run_linear<op>(context, a);
    const std::vector<float> all(y.begin(), y.end());
    for (int m : {1, 2, 7, 16, 17, 64, 65, 89}) {
      CAPTURE(m);
      a.x.rows = a.y.rows = m;
      std::memset(y.data(), 0xA5, y.size() * sizeof(float));
      run_linear<op>(context, a);
      REQUIRE(std::memcmp(all.data(), y.data(), std::size_t(m) * n * sizeof(float)) == 0);
    }
  });
}

TEST_CASE("weight_only: the plan says what will run", "[ops][gemm][quantized]") {
  using format = policy::int4_affine<128>;
  using op = gemm::weight_only<format, policy::chain<>, bf16, bf16, split>;
  op::args a{};
  a.x = {nullptr, 1, 4096, 4096};
  a.y = {nullptr, 1, 4096, 4096};
  a.w = op::weight_type::over(nullptr, 4096, 4096);
  const auto context = any_context();
  const auto plan = op::plan(context, a);
  CHECK(plan.regime == gemm::gemm_regime::single);
  CHECK(plan.operations == 2.0 * 4096 * 4096);
  CHECK(plan.bytes > 4096.0 * 4096 / 2);
  CHECK(plan.blocks == ceil_div(4096, plan.tile.n));
  char text[256];
  const std::string line = gemm::describe(plan, text);
  CHECK(line.find("one row: tiles of 1 x") == 0);
  CHECK(line.find("1 split,") != std::string::npos);
  auto two = a;
  two.x.rows = two.y.rows = 2;
  CHECK(op::plan(context, two).regime == gemm::gemm_regime::decode);
  CHECK(op::plan(context, two).tile.m == 16);
  const int splits = op::suggest_splits(context, a);
  CHECK(splits >= 1);
  a.splits = splits;
  CHECK(op::plan(context, a).cost <= plan.cost);
}
