// gemm::quantized, the grouped forms, and what all linear operations refuse.
#include "quantized_problem.hpp"

using namespace smalti;
using namespace test;

namespace {

// Activations as quantize::tokens leaves them: codes, scales groups x M, sums of decoded codes.
template <class Tokens> struct tokens_of {
  using code = typename Tokens::code;
  int m, k, groups, stride;
  array<code> codes;
  array<float> scales, sums;
  std::vector<double> real;
  tokens_of(int m, int k, int sum_group, std::mt19937& generator)
      : m(m), k(k), groups(Tokens::group == 0 ? 1 : ceil_div(k, Tokens::group == 0 ? 1 : Tokens::group)), stride(k + 5), codes(std::size_t(m) * stride), scales(std::size_t(groups) * m),
        sums(std::size_t(sum_group == 0 ? 1 : ceil_div(k, sum_group)) * m), real(std::size_t(m) * k) {
    std::normal_distribution<float> normal;
    for (auto& c : codes) {
      if constexpr (std::is_integral_v<code>) c = code(int(generator() % 255) - 127);
      else c = narrow<code>(normal(generator) * 32);
    }
    for (float& s : scales) s = 0.01f * (1.0f + float(generator() % 256) / 64);
    for (float& s : sums) s = 0;
    for (int i = 0; i < m; ++i) {
      std::vector<double> exact(sums.size() / std::size_t(m));
      for (int c = 0; c < k; ++c) {
        const double v = value(codes[std::size_t(i) * stride + c]) * scales[std::size_t(Tokens::group == 0 ? 0 : c / Tokens::group) * m + i];
        real[std::size_t(i) * k + c] = v, exact[sum_group == 0 ? 0 : c / sum_group] += v;
      }
      for (std::size_t g = 0; g < exact.size(); ++g) sums[g * m + i] = float(exact[g]);
    }
    // behind the last column: nothing that may be read into a sum
    for (int i = 0; i < m; ++i)
      for (int c = k; c < stride; ++c) {
        if constexpr (std::is_integral_v<code>) codes[std::size_t(i) * stride + c] = 127;
        else codes[std::size_t(i) * stride + c] = code{0x7f};
      }
  }
};

template <class Tokens, class Format> void integer_case(int m, int n, int k, int splits = 1) {
  using op = gemm::quantized<Tokens, Format, policy::chain<>, float, unaligned_split>;
  std::mt19937 generator(quantized_seed);
  CAPTURE(quantized_seed, m, n, k, splits);
  std::vector<neutral<Format>> w;
  w.emplace_back(n, k, generator);
  packed_stack<Format, std::int8_t> p(w);
  tokens_of<Tokens> x(m, k, Format::scales::group_k, generator);
  array<float> y(std::size_t(m) * (n + 5));
  std::vector<float> first;
  for_each_context(quantized_seed, [&](const auto& plain) {
    const auto context = with_tuning<one_tile>(plain);
    std::memset(y.data(), 0xA5, y.size() * sizeof(float));
    typename op::args a{};
    a.x = {x.codes.data(), m, k, x.stride};
    a.x_scales = {x.scales.data(), x.groups, m, m};
    if constexpr (!std::is_empty_v<decltype(a.x_sums)>) a.x_sums = {x.sums.data(), int(x.sums.size()) / m, m, m};
    a.w = p.w;
    a.y = {y.data(), m, n, n + 5};
    a.splits = splits;
    run_linear<op>(context, a);
    verify_linear<op, Format, std::int8_t>(y, m, n, n + 5, x.real, w[0], 0, [](double v, int, int) { return v; }, 1, 0);
    if (first.empty()) first.assign(y.begin(), y.end());
    REQUIRE(std::memcmp(first.data(), y.data(), first.size() * sizeof(float)) == 0);
  });
}

template <class Format> void fp8_case(int m, int n, int k) {
  using tokens = policy::fp8_tokens<Format::scales::group_k>;
  using op = gemm::quantized<tokens, Format, policy::chain<>, float, unaligned>;
  using scales = typename Format::scales;
  std::mt19937 generator(quantized_seed);
  CAPTURE(quantized_seed, m, n, k);
  tokens_of<tokens> x(m, k, 0, generator);
  const int ldw = round_up(k, 16) + 16, kk = round_up(k, 16), groups = scales::rows(kk), across = round_up(scales::cols(n), 4);
  auto w = random_array<fp8_e4m3>(std::size_t(n) * ldw, generator, 20);
  for (int j = 0; j < n; ++j)
    for (int c = k; c < ldw; ++c) w[std::size_t(j) * ldw + c] = fp8_e4m3{0x7f};      // NaN behind the last column
  array<float> scale(std::size_t(groups) * across), y(std::size_t(m) * n);
  for (float& s : scale) s = 0.01f * (1.0f + float(generator() % 256) / 64);
  for_each_context(quantized_seed, [&](const auto& plain) {
    const auto context = with_tuning<one_tile>(plain);
    std::memset(y.data(), 0xA5, y.size() * sizeof(float));
    typename op::args a{};
    a.x = {x.codes.data(), m, k, x.stride};
    a.x_scales = {x.scales.data(), x.groups, m, m};
    a.w.matrix = {w.data(), n, k, ldw};
    a.w.scales.scale = {scale.data(), groups, across, across};
    a.y = {y.data(), m, n, n};
    run_linear<op>(context, a);
    for (int i = 0; i < m; ++i)
      for (int j = 0; j < n; ++j) {
        double sum = 0, size = 0;
        for (int c = 0; c < k; ++c) {
          const double t = x.real[std::size_t(i) * k + c] * value(w[std::size_t(j) * ldw + c]) * scale[std::size_t(scales::row_of(c)) * across + scales::col_of(j)];
          sum += t, size += std::abs(t);
        }
#if defined(__CUDACC__)
        const double unit = 0x1p-12;      // products of 8-bit floats are added with 13 bits in the tensor cores of sm_90
#else
        const double unit = (k + 12) * 0x1p-24;
#endif
        if (!(std::abs(sum - y[std::size_t(i) * n + j]) <= unit * size)) {
          CAPTURE(i, j, sum, y[std::size_t(i) * n + j]);
          REQUIRE(std::abs(sum - y[std::size_t(i) * n + j]) <= unit * size);
        }
      }
    REQUIRE(y.guarded());
  });
}

struct maps : unaligned {
  static constexpr bool gathers = true, scatters = true, split_k = true;
};

template <class Format> void grouped_case(std::vector<int> lengths, int n, int k, bool ordered, int splits) {
  std::mt19937 generator(quantized_seed);
  const int experts = int(lengths.size()), total = std::accumulate(lengths.begin(), lengths.end(), 0), tokens = std::max(1, total / 2);
  CAPTURE(quantized_seed, lengths, n, k, ordered, splits);
  std::vector<neutral<Format>> w;
  for (int e = 0; e < experts; ++e) {
    w.emplace_back(n, k, generator, drawing{.ordered = ordered});
    w.back().meaning.order = w[0].meaning.order;
  }
  packed_stack<Format, bf16> p(w);
  const rows_of<bf16> x(tokens, k, generator, true);
  array<std::int32_t> offsets(experts + 1);
  array<int> source(std::max(1, total)), target(std::max(1, total));
  offsets[0] = 0;
  for (int e = 0; e < experts; ++e) offsets[e + 1] = offsets[e] + lengths[e];
  for (int r = 0; r < total; ++r) source[r] = int(generator() % tokens), target[r] = r % 6 == 4 ? -1 : total - r;
  array<float> y(std::size_t(total + 1) * n);
  using op = gemm::grouped_weight_only<Format, policy::chain<policy::row_scale<float>>, bf16, float, maps>;
  array<float> weight_of_row(std::max(1, total));
  for (float& s : weight_of_row) s = float(generator() % 16) / 16;
  for_each_context(quantized_seed, [&](const auto& plain) {
    const auto context = with_tuning<one_tile>(plain);
    std::memset(y.data(), 0xA5, y.size() * sizeof(float));
    typename op::args a{};
    a.x = {x.data.data(), tokens, k, x.stride};
    a.w = p.w;
    a.y = {y.data(), total + 1, n, n};
    a.rows = {offsets.data(), experts};
    a.source = {source.data(), total, 1, 1};
    a.target = {target.data(), total, 1, 1};
    a.splits = splits;
    a.epilogue = {{weight_of_row.data(), total + 1}, {}};
    run_linear<op>(context, a);
    std::vector<bool> written(total + 1);
    for (int e = 0; e < experts; ++e) {
      const auto places = w[e].meaning.places();
      for (int j = 0; j < n; ++j) {
        const weight_column weights = column_of(w[e].meaning, j, places);
        for (int r = offsets[e]; r < offsets[e + 1]; ++r) {
          if (target[r] < 0) continue;
          written[target[r]] = true;
          const answer sum = multiply(x.real, source[r], weights);
          const double want = sum.value * weight_of_row[r], got = y[std::size_t(target[r]) * n + j], bound = (k + 12) * 0x1p-24 * sum.size;
          if (!(std::abs(got - want) <= bound)) {
            CAPTURE(e, r, j, want, got);
            REQUIRE(std::abs(got - want) <= bound);
          }
        }
      }
    }
    for (int r = 0; r <= total; ++r)
      for (int j = 0; j < n && !written[r]; ++j) {
        std::uint32_t bits;
        std::memcpy(&bits, &y[std::size_t(r) * n + j], 4);
        REQUIRE(bits == 0xA5A5A5A5u);
      }
    REQUIRE(y.guarded());
  });
}

}  // namespace

TEST_CASE("quantized: integer activations", "[ops][gemm][quantized]") {
  integer_case<policy::int8_tokens<32>, policy::q4_0>(5, 70, 300);
  integer_case<policy::int8_tokens<32>, policy::q4_0>(40, 70, 300, 3);
  integer_case<policy::int8_tokens<32>, policy::q4_1>(9, 70, 300);
  integer_case<policy::int8_tokens<32>, policy::q4_k>(9, 70, 512);
  integer_case<policy::int8_tokens<0>, policy::int4_affine<128>>(9, 70, 300);
  integer_case<policy::int8_tokens<0>, policy::int_affine<8, 0>>(9, 70, 300, 2);
}

TEST_CASE("quantized: 8-bit floats", "[ops][gemm][quantized]") {
  fp8_case<policy::fp8_block>(9, 270, 512);
  fp8_case<policy::fp8_channel>(9, 70, 304);
}

TEST_CASE("grouped: rows of many weights", "[ops][gemm][quantized][grouped]") {
  grouped_case<policy::int4_affine<64>>({5, 0, 33, 1, 0}, 70, 200, false, 1);
  grouped_case<policy::int4_affine<64>>({5, 0, 33, 1, 0}, 70, 200, true, 2);
  grouped_case<policy::int4_affine<64>>({0, 0}, 70, 200, false, 1);
  grouped_case<policy::int4_affine<64>>({0, 100, 0}, 33, 64, false, 1);
}

// ---- groups along k

namespace {
template <class Tokens, class Format> void depth_of_tokens(std::vector<int> bounds, int m, int n) {
  using op = gemm::grouped_depth_quantized<Tokens, Format, policy::chain<>, float, unaligned>;
  const int k = bounds.back();
  std::mt19937 generator(quantized_seed);
  std::vector<neutral<Format>> w;
  w.emplace_back(n, k, generator);
  packed_stack<Format, std::int8_t> p(w);
  tokens_of<Tokens> x(m, k, Format::scales::group_k, generator);
  typename op::args a{};
  a.x = {x.codes.data(), m, k, x.stride};
  a.x_scales = {x.scales.data(), x.groups, m, m};
  if constexpr (!std::is_empty_v<decltype(a.x_sums)>) a.x_sums = {x.sums.data(), int(x.sums.size()) / m, m, m};
  a.w = p.w;
  depth_case<op>(a, x.real, w[0], 0, bounds, {}, m, n, k);
}
}  // namespace

TEST_CASE("grouped: parts of k", "[ops][gemm][quantized][grouped]") {
  // empty ones, one column, within a group, over several steps; boundaries in the middle of groups and words
  depth_of_weights<policy::int4_affine<64>>({0, 5, 5, 6, 300, 301, 700}, {}, 19, 70);
  depth_of_weights<policy::int4_affine<64>>({0, 64, 64, 320, 700}, {10, 64, 320, 321}, 3, 70);      // the rest is padding
  depth_of_weights<policy::int4_affine<0>>({0, 33, 129, 600}, {}, 5, 33);
  depth_of_tokens<policy::int8_tokens<32>, policy::q4_0>({0, 7, 31, 32, 290, 600}, 19, 70);
  depth_of_tokens<policy::int8_tokens<32>, policy::q4_1>({0, 64, 64, 96, 600}, 3, 70);
  depth_of_tokens<policy::int8_tokens<0>, policy::int_affine<8, 0>>({0, 7, 7, 300}, 5, 33);
}

// ---- refusals

namespace {
struct splits_allowed : gemm::linear_options { static constexpr bool split_k = true; };
struct gathering : gemm::linear_options { static constexpr bool gathers = true, scatters = true; };
using format = policy::int4_affine<64>;
using plain_op = gemm::weight_only<format, policy::chain<policy::bias<bf16>>, bf16, float>;
using token_op = gemm::quantized<policy::int8_tokens<32>, policy::q4_1, policy::chain<>, float>;
using group_op = gemm::grouped_weight_only<format, policy::chain<>, bf16, float, gathering>;

template <class Op> void refused(typename Op::args x, errc code, std::string word, std::int64_t got = -1, std::int64_t need = -1) {
  const auto context = any_context();
  const status st = Op::check(context, x);
  CAPTURE(st.what, st.got, st.need, name(st.code), word);
  CHECK(st.code == code);
  CHECK(std::string(st.what).find(word) != std::string::npos);
  if (got != -1) CHECK(st.got == got);
  if (need != -1) CHECK(st.need == need);
  scratch memory(1 << 20);
  CHECK(Op::run(context, x, memory.get()) == st);
}
}  // namespace

TEST_CASE("linear operations refuse wrong arguments by name", "[ops][gemm][quantized][refusal]") {
  const int m = 24, n = 40, k = 192;
  std::mt19937 generator(quantized_seed);
  std::vector<neutral<format>> w;
  w.emplace_back(n, k, generator);
  packed_stack<format, bf16> p(w);
  array<bf16> x(m * k), bias(n);
  array<float> y(m * n);
  const auto with = [&](auto change) {
    plain_op::args a{};
    a.x = {x.data(), m, k, k};
    a.w = p.w;
    a.y = {y.data(), m, n, n};
    a.epilogue = {{bias.data(), n}, {}};
    change(a);
    return a;
  };
  REQUIRE(plain_op::check(any_context(), with([](auto&) {})).code == errc::ok);
  refused<plain_op>(with([](auto& a) { a.x.data = nullptr; }), errc::null_pointer, "x is null");
  refused<plain_op>(with([](auto& a) { a.y.data = nullptr; }), errc::null_pointer, "y is null");
  refused<plain_op>(with([](auto& a) { a.w.planes.a.data = nullptr; }), errc::null_pointer, "w has no memory");
  refused<plain_op>(with([](auto& a) { a.x.rows = -1; }), errc::bad_shape, "x: extents", -1, 0);
  refused<plain_op>(with([](auto& a) { a.x.cols = 184; }), errc::bad_shape, "as w has (K)", 184, 192);
  refused<plain_op>(with([](auto& a) { a.y.cols = 36; }), errc::bad_shape, "outputs (N)", 40, 36);
  refused<plain_op>(with([](auto& a) { a.y.rows = 23; }), errc::bad_shape, "rows as x", 23, 24);
  refused<plain_op>(with([](auto& a) { a.w.packed_k = 64; }), errc::bad_value, "packed_k", 64, 192);
  refused<plain_op>(with([](auto& a) { ++a.x.data; }), errc::misaligned, "x: the base", 2, 0);
  refused<plain_op>(with([](auto& a) { a.x.stride = 193; }), errc::misaligned, "x: stride", 193, 200);
  refused<plain_op>(with([](auto& a) { ++a.y.data; }), errc::misaligned, "y: the base", 4, 0);
  refused<plain_op>(with([](auto& a) { a.splits = 0; }), errc::bad_value, "splits", 0, 1);
  refused<plain_op>(with([](auto& a) { a.splits = 2; }), errc::bad_value, "split_k", 2, 1);
  refused<plain_op>(with([&](auto& a) { a.x.data = reinterpret_cast<const bf16*>(a.y.data); }), errc::aliased, "overlap x");
  refused<plain_op>(with([](auto& a) { a.epilogue.first.data = nullptr; }), errc::null_pointer, "bias");
  refused<plain_op>(with([](auto& a) { a.epilogue.first.n = 39; }), errc::bad_shape, "bias: n", 39, 40);
  using split_op = gemm::weight_only<format, policy::chain<>, bf16, float, splits_allowed>;
  split_op::args s{};
  s.x = {x.data(), m, k, k}, s.w = p.w, s.y = {y.data(), m, n, n}, s.splits = 300;
  refused<split_op>(s, errc::bad_value, "at most 256", 300, 256);
  s.splits = 2;
  const std::size_t bytes = split_op::workspace_bytes(any_context(), s);
  scratch memory(bytes + 256);
  CHECK(split_op::run(any_context(), s, {}).code == errc::workspace_too_small);
  CHECK(split_op::run(any_context(), s, {memory.get().data, bytes - 1}) == status{errc::workspace_too_small, "", std::int64_t(bytes) - 1, std::int64_t(bytes)});
  for (float v : y) {
    unsigned char first;
    std::memcpy(&first, &v, 1);
    REQUIRE(first == 0xA5);
  }

  SECTION("quantized activations") {
    std::vector<neutral<policy::q4_1>> v;
    v.emplace_back(n, k, generator);
    packed_stack<policy::q4_1, std::int8_t> q(v);
    array<std::int8_t> codes(m * k);
    array<float> scales(6 * m), sums(6 * m);
    const auto token = [&](auto change) {
      token_op::args a{};
      a.x = {codes.data(), m, k, k};
      a.x_scales = {scales.data(), 6, m, m};
      a.x_sums = {sums.data(), 6, m, m};
      a.w = q.w;
      a.y = {y.data(), m, n, n};
      change(a);
      return a;
    };
    REQUIRE(token_op::check(any_context(), token([](auto&) {})).code == errc::ok);
    refused<token_op>(token([](auto& a) { a.x_scales.data = nullptr; }), errc::null_pointer, "x_scales is null");
    refused<token_op>(token([](auto& a) { a.x_scales.rows = 5; }), errc::bad_shape, "x_scales", 5, 6);
    refused<token_op>(token([](auto& a) { a.x_scales.cols = 23; }), errc::bad_shape, "x_scales", 23, 24);
    refused<token_op>(token([](auto& a) { a.x_sums.data = nullptr; }), errc::null_pointer, "x_sums is null");
    const int order[1] = {0};
    refused<token_op>(token([&](auto& a) { a.w.order = order; }), errc::bad_value, "order of columns");
  }
  SECTION("groups of rows") {
    array<std::int32_t> offsets(3);
    array<int> rows(m);
    offsets[0] = 0, offsets[1] = 4, offsets[2] = m;
    std::vector<neutral<format>> two;
    two.emplace_back(n, k, generator), two.emplace_back(n, k, generator);
    packed_stack<format, bf16> q(two);
    const auto group = [&](auto change) {
      group_op::args a{};
      a.x = {x.data(), m, k, k};
      a.w = q.w;
      a.y = {y.data(), m, n, n};
      a.rows = {offsets.data(), 2};
      a.source = {rows.data(), m, 1, 1};
      a.target = {rows.data(), m, 1, 1};
      change(a);
      return a;
    };
    REQUIRE(group_op::check(any_context(), group([](auto&) {})).code == errc::ok);
    refused<group_op>(group([](auto& a) { a.rows.offsets = nullptr; }), errc::null_pointer, "segments.offsets");
    refused<group_op>(group([](auto& a) { a.rows.count = 3; }), errc::bad_shape, "for each segment", 2, 3);
    refused<group_op>(group([](auto& a) { a.rows.count = 0; }), errc::bad_shape, "at least one segment");
    refused<group_op>(group([](auto& a) { a.source.data = nullptr; }), errc::null_pointer, "source is null");
    refused<group_op>(group([](auto& a) { a.target.rows = 3; }), errc::bad_shape, "target", 3, 24);
#if !defined(__CUDACC__)
    offsets[2] = m + 1;
    refused<group_op>(group([](auto&) {}), errc::bad_shape, "end within", m + 1, m);
#endif
  }
  SECTION("groups along k") {
    using depth_op = gemm::grouped_depth_weight_only<format>;
    array<std::int32_t> offsets(3);
    offsets[0] = 0, offsets[1] = 64, offsets[2] = k;
    array<float> z(2 * m * n);
    const auto depth = [&](auto change) {
      depth_op::args a{};
      a.x = {x.data(), m, k, k};
      a.w = p.w;
      a.y = {z.data(), 2, m, n, m * n, n};
      a.rows = {offsets.data(), 2};
      change(a);
      return a;
    };
    REQUIRE(depth_op::check(any_context(), depth([](auto&) {})).code == errc::ok);
    refused<depth_op>(depth([](auto& a) { a.rows.offsets = nullptr; }), errc::null_pointer, "segments.offsets");
    refused<depth_op>(depth([](auto& a) { a.y.count = 1; }), errc::bad_shape, "y needs a matrix", 1, 2);
    refused<depth_op>(depth([](auto& a) { a.y.distance = 4; }), errc::aliased, "y.distance");
    const int order[1] = {0};
    refused<depth_op>(depth([&](auto& a) { a.w.order = order; }), errc::bad_value, "order of columns");
#if !defined(__CUDACC__)
    offsets[2] = k + 1;
    refused<depth_op>(depth([](auto&) {}), errc::bad_shape, "end within", k + 1, k);
    offsets[1] = 65, offsets[2] = k;
    std::vector<neutral<policy::q4_1>> v;
    v.emplace_back(n, k, generator);
    packed_stack<policy::q4_1, std::int8_t> q(v);
    array<std::int8_t> codes(m * k);
    array<float> scales(6 * m);
    using token_depth = gemm::grouped_depth_quantized<policy::int8_tokens<32>, policy::q4_1>;
    token_depth::args t{};
    t.x = {codes.data(), m, k, k}, t.x_scales = {scales.data(), 6, m, m}, t.x_sums = {scales.data(), 6, m, m}, t.w = q.w, t.y = {z.data(), 2, m, n, m * n, n}, t.rows = {offsets.data(), 2};
    refused<token_depth>(t, errc::bad_value, "whole groups", 65, 32);
#endif
  }
  SECTION("packing") {
    auto source = w[0].source();
    const auto pack = [&](auto change) {
      auto s2 = source;
      change(s2);
      return gemm::pack(p.w, s2);
    };
    CHECK(pack([](auto&) {}).code == errc::ok);
    CHECK(pack([](auto& s2) { s2.n = 39; }).code == errc::bad_shape);
    CHECK(pack([](auto& s2) { s2.k = 191; }).code == errc::bad_shape);
    CHECK(pack([](auto& s2) { s2.codes = nullptr; }).code == errc::null_pointer);
    CHECK(pack([](auto& s2) { s2.scale = nullptr; }).code == errc::null_pointer);
    CHECK(pack([](auto& s2) { s2.zero = nullptr; }).code == errc::null_pointer);
    const int order[2] = {1, 0};
    CHECK(pack([&](auto& s2) { s2.order = order; }).code == errc::bad_value);
    std::vector<float> large(w[0].scale.size(), 1e6f);
    CHECK(pack([&](auto& s2) { s2.scale = large.data(); }).code == errc::bad_value);
    std::vector<std::uint8_t> wide(std::size_t(n) * k, 16);
    CHECK(pack([&](auto& s2) { s2.codes = wide.data(); }).code == errc::bad_value);
    CHECK(gemm::pack(p.w, source, 1).code == errc::bad_value);
  }
}
