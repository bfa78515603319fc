// Linear layers with quantized weights for the tests of the operations: a random weight in neutral form, packed by the library's
// packer, and the double answer from tests/reference.
#pragma once
#include <catch2/catch.hpp>
#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <tuple>
#include <vector>
#include <smalti/ops/gemm/pack.hpp>
#include <smalti/ops/gemm/quantized.hpp>
#include <smalti/policy/codec.hpp>
#include "reference/quantized.hpp"
#include "support/arrays.hpp"
#include "support/contexts.hpp"
#include "support/tolerance.hpp"

namespace test {

using namespace smalti;

template <class Codec> constexpr bool is_offset_int = false;
template <int Bits, int Offset> constexpr bool is_offset_int<policy::offset_int<Bits, Offset>> = true;
template <class Codec> reference::element element_of() {
  using reference::code_kind;
  if constexpr (is_offset_int<Codec>) return {code_kind::offset_integer, Codec::bits, Codec::offset};
  else if constexpr (std::is_same_v<Codec, policy::nf4>) return {code_kind::nf4, 4};
  else if constexpr (std::is_same_v<Codec, policy::fp4>) return {code_kind::fp4, 4};
  else if constexpr (std::is_same_v<Codec, policy::e2m1>) return {code_kind::floating, 4, 0, reference::e2m1_format};
  else if constexpr (std::is_same_v<Codec, policy::e2m3>) return {code_kind::floating, 6, 0, reference::e2m3_format};
  else if constexpr (std::is_same_v<Codec, policy::e3m2>) return {code_kind::floating, 6, 0, reference::e3m2_format};
  else if constexpr (std::is_same_v<Codec, policy::e4m3> || std::is_same_v<Codec, policy::e4m3_finite>) return {code_kind::floating, 8, 0, reference::e4m3_format};
  else return {code_kind::floating, 8, 0, reference::e5m2_format};
}

struct drawing {
  bool ordered = false;         // act-order
  float smallest = 0.005f, largest = 0.02f;     // of scales
};

// A weight in neutral form, as importers leave it, and its double meaning.
template <class Format> struct neutral {
  using codec = typename Format::codec;
  using scales = typename Format::scales;
  using arrays = gemm::scale_arrays<scales>;
  reference::quantized_weight meaning;
  std::vector<float> scale, minimum, outer, outer_minimum;
  std::vector<std::uint8_t> zero, scale_code, minimum_code;
  float mean = 0;

  neutral(int n, int k, std::mt19937& generator, drawing how = {}) : meaning{element_of<codec>(), n, k, scales::group_k, scales::group_n, {}, {}, {}, {}, {}} {
    meaning.codes.resize(std::size_t(n) * k);
    for (auto& c : meaning.codes) do c = std::uint8_t(generator() % (1u << codec::bits)); while (!std::isfinite(meaning.e.value(c)));
    const std::size_t all = std::size_t(meaning.outputs()) * meaning.groups();
    const auto level = [&] { return how.smallest * std::pow(how.largest / how.smallest, float(generator() % 1024) / 1024); };
    const auto exact = [](float x) { return std::is_same_v<typename scales::element, fp16> ? to_float(narrow<fp16>(x)) : std::is_same_v<typename scales::element, bf16> ? to_float(narrow<bf16>(x)) : x; };
    for (std::size_t i = 0; i < all; ++i) {
      double s;
      if constexpr (arrays::has_super) {
        constexpr int span = arrays::outer_group;
        if (i % meaning.groups() % span == 0) outer.push_back(to_float(narrow<fp16>(level() / 32))), outer_minimum.push_back(to_float(narrow<fp16>(level() / 32)));
        scale_code.push_back(std::uint8_t(generator() % 64)), minimum_code.push_back(std::uint8_t(generator() % 64));
        const double stored = std::is_same_v<typename scales::element, std::int8_t> ? double(std::int8_t(scale_code.back() = std::uint8_t(generator()))) : scale_code.back();
        s = stored * outer.back();
        if constexpr (arrays::has_minimum) meaning.minimum.push_back(arrays::second::sign * double(minimum_code.back()) * outer_minimum.back());
      } else if constexpr (arrays::double_quantized) {
        if (i % arrays::second::block == 0) outer.push_back(level());
        mean = 0.01f;
        scale_code.push_back(std::uint8_t(generator() % 256));
        s = double(policy::dynamic_map::value(scale_code.back())) * outer.back() + mean;      // its table is tested against the producer's elsewhere
      } else if constexpr (std::is_same_v<typename scales::element, e8m0>) {
        scale_code.push_back(std::uint8_t(127 + std::lround(std::log2(level()))));
        s = std::ldexp(1.0, int(scale_code.back()) - 127);
      } else if constexpr (std::is_same_v<typename scales::element, fp8_e4m3>) {
        scale_code.push_back(std::uint8_t(1 + generator() % 126));
        if (outer.empty()) outer.push_back(std::is_same_v<typename scales::second, policy::tensor_divisor> ? 700.0f : 1.0f / 700);
        s = std::is_same_v<typename scales::second, policy::tensor_divisor> ? reference::e4m3_format.value(scale_code.back()) / outer[0] : reference::e4m3_format.value(scale_code.back()) * outer[0];
      } else {
        scale.push_back(exact(level()));
        s = scale.back();
        if constexpr (arrays::has_minimum) minimum.push_back(exact(-8 * level())), meaning.minimum.push_back(minimum.back());
        if constexpr (arrays::has_zero) zero.push_back(std::uint8_t(generator() % (1u << codec::bits))), meaning.zero.push_back(zero.back());
      }
      meaning.scale.push_back(s);
    }
    if (how.ordered) {
      meaning.order.resize(k);
      std::iota(meaning.order.begin(), meaning.order.end(), 0);
      std::shuffle(meaning.order.begin(), meaning.order.end(), generator);
    }
  }
  gemm::weight_source source() const {
    const auto data = [](const auto& v) { return v.empty() ? nullptr : v.data(); };
    return {.codes = meaning.codes.data(), .stride = meaning.k, .n = meaning.n, .k = meaning.k, .order = data(meaning.order), .scale = data(scale), .zero = data(zero), .minimum = data(minimum),
            .scale_code = data(scale_code), .minimum_code = data(minimum_code), .outer = data(outer), .outer_minimum = data(outer_minimum), .mean = mean};
  }
};

// Packed for the machine of this file, one expert or several.
template <class Format, class Operand> struct packed_stack {
  using weight = gemm::packed_weight<Format, Operand>;
  array<std::byte> memory;
  weight w;
  explicit packed_stack(const std::vector<neutral<Format>>& all)
      : memory(weight::bytes(all[0].meaning.n, all[0].meaning.k, int(all.size()), !all[0].meaning.order.empty())),
        w(weight::over(memory.data(), all[0].meaning.n, all[0].meaning.k, int(all.size()), !all[0].meaning.order.empty())) {
    std::vector<std::byte> room(gemm::packing_bytes<weight>(all[0].meaning.k));
    for (std::size_t e = 0; e < all.size(); ++e) {
      const status st = gemm::pack(w, all[e].source(), int(e), room.empty() ? nullptr : room.data());
      CAPTURE(st.what, st.got, st.need);
      REQUIRE(st.code == errc::ok);
    }
    REQUIRE(memory.guarded());
  }
};

// Rows with NaN behind the last column, as a padded batch may have.
template <class X> struct rows_of {
  int m, k, stride;
  array<X> data;
  std::vector<double> real;
  rows_of(int m, int k, std::mt19937& generator, bool any_width) : m(m), k(k), stride(any_width ? k + 3 : round_up(k, int(16 / sizeof(X))) + int(16 / sizeof(X))), data(random_array<X>(std::size_t(m) * stride, generator)), real(std::size_t(m) * k) {
    for (int i = 0; i < m; ++i) {
      const float outlier = i % 7 == 3 ? 200.0f : 1.0f;        // rows with a few large values, and one of equals
      for (int c = 0; c < stride; ++c) {
        X& x = data[std::size_t(i) * stride + c];
        if (c >= k) x = narrow<X>(std::numeric_limits<float>::quiet_NaN());
        else if (i % 11 == 5) x = narrow<X>(0.75f);
        else if (c % 97 == 13) x = narrow<X>(to_float(x) * outlier);
        if (c < k) real[std::size_t(i) * k + c] = value(x);
      }
    }
  }
};

struct answer { double value, size; };
using weight_column = std::vector<reference::quantized_weight::parts>;      // the weights of one output, by columns of x
inline weight_column column_of(const reference::quantized_weight& w, int j, const std::vector<int>& places) {
  weight_column out(std::size_t(w.k));
  for (int c = 0; c < w.k; ++c) out[c] = w.at(j, c, places[c]);
  return out;
}
inline answer multiply(const std::vector<double>& x, int i, const weight_column& w, int first = 0, int last = -1) {
  const int k = int(w.size());
  answer a{0, 0};
  for (int c = first; c < (last < 0 ? k : last); ++c) {
    const double v = x[std::size_t(i) * k + c];
    a.value += v * w[c].value, a.size += std::abs(v) * w[c].size;
  }
  return a;
}

// Relative error that each weight has in the operand: tables are rounded; scales in the operand cost a rounding (two on a GPU).
template <class Format, class Operand> double weight_error(policy::scale_in in) {
  const double unit = std::ldexp(1.0, -digits<Operand>);
  const bool table = std::is_same_v<typename Format::codec, policy::nf4> || std::is_same_v<typename Format::codec, policy::fp4>;
  return (table ? unit : 0) + (in == policy::scale_in::operand ? 2.5 * unit : 0);
}

template <class Op, class Context> void run_linear(const Context& context, const typename Op::args& x) {
  scratch memory(Op::workspace_bytes(context, x));
  const status st = Op::run(context, x, memory.get());
  CAPTURE(st.what, st.got, st.need);
  REQUIRE(st.code == errc::ok);
  wait(base_of(context));
  REQUIRE(memory.guarded());
}

// One small tile for every number of rows: one kernel a format to compile. Tests of shapes take the operation's own tiles.
struct one_tile {
  SMALTI_HD constexpr gemm::linear_tuning operator()(target t, gemm::gemm_regime) const { return {.m = 16, .n = 64, .k = t == target::host ? 256 : 64}; }
};
struct own_tiles {};
template <class Tiles, class Context> auto tuned_context(const Context& context) {
  if constexpr (std::is_same_v<Tiles, own_tiles>) return context;
  else return with_tuning<Tiles>(context);
}

struct unaligned : gemm::linear_options { static constexpr bool any_width = true; };
struct unaligned_operand : unaligned { static constexpr auto scale = policy::scale_in::operand; };
struct unaligned_split : unaligned { static constexpr bool split_k = true; };

constexpr unsigned quantized_seed = 20261122;

// One layer, y within its bound and nothing beside it touched. f: of the epilogue, with its slope. Rows from first to m.
template <class Op, class Format, class X, class Y, class Expected>
void verify_linear(const array<Y>& y, int m, int n, int ldy, const std::vector<double>& x, const neutral<Format>& w, double a_weight, Expected f, double slope, double function, int first = 0) {
  const auto places = w.meaning.places();
  for (int j = 0; j < n; ++j) {
    const weight_column weights = column_of(w.meaning, j, places);
    for (int i = first; i < m; ++i) {
      const answer sum = multiply(x, i, weights);
      const double want = f(sum.value, i, j), got = value(y[std::size_t(i) * ldy + j]);
      const double bound = slope * ((w.meaning.k + 12) * 0x1p-24 + a_weight) * sum.size + function * (std::abs(want) + sum.size * 0x1p-4) + store_error<Y>(want) + 1e-30;
      if (!(std::abs(got - want) <= bound)) {
        CAPTURE(i, j, want, got, bound);
        REQUIRE(std::abs(got - want) <= bound);
      }
    }
  }
  for (int i = first; i < m; ++i)
    for (int j = n; j < ldy; ++j) {
      unsigned char bytes[sizeof(Y)];
      std::memcpy(bytes, &y[std::size_t(i) * ldy + j], sizeof(Y));
      for (unsigned char b : bytes) REQUIRE(b == 0xA5);
    }
  REQUIRE(y.guarded());
}

// Groups along k: a matrix for each segment of columns; the bits are the same for every context. ends: where segments end that hold padding.
// a_weight: relative error of a weight in the operand.
template <class Op, class Format, class Args>
void depth_case(Args a, const std::vector<double>& x, const neutral<Format>& w, double a_weight, std::vector<int> bounds, std::vector<int> ends, int m, int n, int k) {
  const int count = int(bounds.size()) - 1;
  CAPTURE(quantized_seed, m, n, k, bounds, ends);
  array<std::int32_t> offsets(bounds.size()), end(std::size_t(count) + 1);
  for (int e = 0; e <= count; ++e) offsets[e] = bounds[e];
  for (int e = 0; e < count; ++e) end[e] = ends.empty() ? bounds[e + 1] : ends[e];
  array<float> y(std::size_t(count) * m * n);
  std::vector<float> first;
  for_each_context(quantized_seed, [&](const auto& plain) {
    const auto context = with_tuning<one_tile>(plain);
    std::memset(y.data(), 0xA5, y.size() * sizeof(float));
    a.y = {y.data(), count, m, n, std::int64_t(m) * n, n};
    a.rows = {offsets.data(), count};
    a.end = ends.empty() ? nullptr : end.data();
    run_linear<Op>(context, a);
    const auto places = w.meaning.places();
    for (int j = 0; j < n; ++j) {
      const weight_column weights = column_of(w.meaning, j, places);
      for (int e = 0; e < count; ++e)
        for (int i = 0; i < m; ++i) {
          const answer sum = multiply(x, i, weights, bounds[e], end[e]);
          const double got = y[(std::size_t(e) * m + i) * n + j], bound = ((k + 24) * 0x1p-24 + a_weight) * sum.size;
          if (!(std::abs(got - sum.value) <= bound)) {
            CAPTURE(e, i, j, sum.value, got, bound);
            REQUIRE(std::abs(got - sum.value) <= bound);
          }
        }
    }
    REQUIRE(y.guarded());
    if (first.empty()) first.assign(y.begin(), y.end());
    REQUIRE(std::memcmp(first.data(), y.data(), first.size() * sizeof(float)) == 0);
  });
}
template <class Format> void depth_of_weights(std::vector<int> bounds, std::vector<int> ends, int m, int n) {
  using op = gemm::grouped_depth_weight_only<Format, policy::chain<>, bf16, float, unaligned>;
  const int k = bounds.back();
  std::mt19937 generator(quantized_seed);
  std::vector<neutral<Format>> w;
  w.emplace_back(n, k, generator);
  packed_stack<Format, bf16> p(w);
  const rows_of<bf16> x(m, k, generator, true);
  typename op::args a{};
  a.x = {x.data.data(), m, k, x.stride};
  a.w = p.w;
  depth_case<op>(a, x.real, w[0], weight_error<Format, bf16>(policy::scale_in::accumulator), bounds, ends, m, n, k);
}

template <class Format, class Options = unaligned, class X = bf16, class Y = float, class Tiles = one_tile> void weight_only_case(int m, int n, int k, drawing how = {}, int splits = 1) {
  using op = gemm::weight_only<Format, policy::chain<>, X, Y, Options>;
  std::mt19937 generator(quantized_seed);
  CAPTURE(quantized_seed, m, n, k, splits);
  std::vector<neutral<Format>> w;
  w.emplace_back(n, k, generator, how);
  packed_stack<Format, X> p(w);
  const rows_of<X> x(m, k, generator, Options::any_width);
  const int ldy = Options::any_width ? n + 5 : n + int(16 / sizeof(Y));
  array<Y> y(std::size_t(m) * ldy, Options::any_width);
  std::vector<Y> first;
  for_each_context(quantized_seed, [&](const auto& plain) {
    const auto context = tuned_context<Tiles>(plain);
    std::memset(y.data(), 0xA5, y.size() * sizeof(Y));
    typename op::args a{};
    a.x = {x.data.data(), m, k, x.stride};
    a.w = p.w;
    a.y = {y.data(), m, n, ldy};
    a.splits = splits;
    run_linear<op>(context, a);
    verify_linear<op, Format, X>(y, m, n, ldy, x.real, w[0], weight_error<Format, X>(Options::scale), [](double v, int, int) { return v; }, 1, 0);
    // the same bits with any number of threads, in any order of blocks
    if (first.empty()) first.assign(y.begin(), y.end());
    REQUIRE(std::memcmp(first.data(), y.data(), first.size() * sizeof(Y)) == 0);
  });
}

// Checks and runs an operation on workspace full of NaN, behind which nothing may be written.
template <class Op, class Context> void run_op(const Context& context, const typename Op::args& a) {
  array<std::byte> memory(Op::workspace_bytes(context, a));
  std::memset(memory.data(), 0xFF, memory.size());
  status st = Op::check(context, a);
  CAPTURE(st.what, st.got, st.need);
  REQUIRE(st.code == errc::ok);
  st = Op::run(context, a, {memory.data(), memory.size()});
  REQUIRE(st.code == errc::ok);
  wait(context);
  REQUIRE(memory.guarded());
}

}  // namespace test
