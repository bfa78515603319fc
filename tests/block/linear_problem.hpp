// A linear layer with packed weights for the tests of its agent: codes, scales, zeros and minima drawn at random, packed with
// the layout's own `place`, and the weights they stand for as doubles.
#pragma once
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>
#include <smalti/block/gemm/linear.hpp>
#include <smalti/policy/codec.hpp>
#include <smalti/tile/launch.hpp>
#include "support/arrays.hpp"
#include "support/contexts.hpp"

namespace test {

using namespace smalti;

#if defined(__CUDACC__)
constexpr policy::machine_family family = policy::machine_family::gpu;
#else
constexpr policy::machine_family family = policy::machine_family::host;
#endif
// Sixteen-bit operands; quads of bytes for 8-bit ones, which on a GPU lie in rows.
template <int Bits, int Depth> using words_layout = policy::weight_layout<Bits, family, Depth>;
template <int Bits, int Depth>
using bytes_layout = policy::weight_layout<Bits, policy::machine_family::host, Depth, family == policy::machine_family::host ? 64 : 1>;

inline int padded(int n, std::size_t size) { return round_up(n, int(16 / size)); }

// One number of a scale, however it is stored.
template <class E> double stored_value(std::uint8_t bits_or_code) {
  if constexpr (std::is_same_v<E, e8m0>) return std::ldexp(1.0, int(bits_or_code) - 127);
  else return double(E(bits_or_code));
}

template <class Format, class Layout> struct packed_problem {
  using codec = typename Format::codec;
  using scales_type = typename Format::scales;
  using arrays_type = gemm::scale_arrays<scales_type>;
  using stored = typename arrays_type::stored;
  using outer_element = typename arrays_type::outer_element;
  int n, k, experts, groups, across;
  std::vector<double> weights;               // experts x n x k, after scales
  std::vector<double> values;                // before them, less the zero point
  array<std::uint32_t> words[3];
  array<stored> scale, minimum;
  array<std::uint8_t> zero;
  array<outer_element> outer, outer_minimum;
  array<float> tensor;

  array<std::uint32_t> part_words(int p) const { return array<std::uint32_t>(p < Layout::parts ? std::size_t(experts) * Layout::size(n, k, p) : 0); }
  static int wide(int across, std::size_t size) { return padded(across, size); }
  packed_problem(int n, int k, std::mt19937& generator, int experts = 1)
      : n(n), k(k), experts(experts), groups(scales_type::rows(k)), across(scales_type::cols(n)), words{part_words(0), part_words(1), part_words(2)},
        scale(std::size_t(experts) * groups * wide(across, sizeof(stored))), minimum(scale.size()), zero(std::size_t(experts) * groups * wide(across, 1)),
        outer(std::size_t(experts) * scales_type::outer_rows(k) * wide(across, sizeof(outer_element))), outer_minimum(outer.size()), tensor(experts) {
    std::uniform_real_distribution<float> level(0.5f, 1.5f);
    const auto draw = [&](auto& a) {
      using T = std::remove_reference_t<decltype(a[0])>;
      for (std::size_t i = 0; i < a.size(); ++i) {
        if constexpr (std::is_same_v<scales_type, void>) continue;
        else if constexpr (std::is_same_v<T, std::uint8_t> || std::is_same_v<T, std::int8_t>)
          a[i] = std::is_same_v<typename scales_type::element, e8m0> ? T(120 + generator() % 10) : T(generator() % 64);
        else if constexpr (std::is_same_v<T, float>) a[i] = 0.01f * level(generator);
        else a[i] = narrow<T>((std::is_same_v<T, fp8_e4m3> ? 16.0f : 0.01f) * level(generator));
      }
    };
    draw(scale);
    draw(minimum);
    draw(outer);
    draw(outer_minimum);
    draw(tensor);
    constexpr int zeros = codec::bits < 8 ? 1 << codec::bits : 256;
    for (auto& z : zero) z = std::uint8_t(generator() % zeros);
    for (auto& part : words)
      for (auto& w : part) w = 0;
    weights.resize(std::size_t(experts) * n * k);
    values.resize(weights.size());
    for (int e = 0; e < experts; ++e)
      for (int j = 0; j < Layout::padded_n(n); ++j)
        for (int c = 0; c < Layout::padded_k(k); ++c) {
          const bool inside = j < n && c < k;
          unsigned code = inside ? generator() % (1u << codec::bits) : policy::padding_code<codec>;
          if (!std::isfinite(codec::value(code))) code = policy::padding_code<codec>;
          for (int p = 0; p < Layout::parts; ++p) {
            const auto at = Layout::place(c, p);
            if (at.word >= Layout::words_of(k, p)) continue;           // past the last code: not stored
            const unsigned part = code >> Layout::shift(p) & ((1u << Layout::width(p)) - 1);
            words[p][std::size_t(e) * Layout::size(n, k, p) + Layout::index(j, at.word, Layout::words_of(k, p))] |= part << at.bit;
          }
          if (inside) {
            values[(std::size_t(e) * n + j) * k + c] = codec::value(code) - zero_at(e, j, c);
            weights[(std::size_t(e) * n + j) * k + c] = (codec::value(code) - zero_at(e, j, c)) * scale_at(e, j, c) + minimum_at(e, j, c);
          }
        }
  }
  template <class A> double number(const A& a, int e, int row, int rows, int column) const {
    using T = std::remove_cvref_t<decltype(a[0])>;
    const T x = a[(std::size_t(e) * rows + row) * wide(across, sizeof(T)) + column];
    if constexpr (std::is_integral_v<T>) return stored_value<std::conditional_t<std::is_same_v<typename scales_type::element, e8m0>, e8m0, T>>(std::uint8_t(x));
    else return value(x);
  }
  double scale_at(int e, int j, int c) const {
    const int g = scales_type::row_of(c), o = scales_type::col_of(j);
    double s = number(scale, e, g, groups, o);
    if constexpr (arrays_type::has_super) s *= number(outer, e, g / arrays_type::outer_group, scales_type::outer_rows(k), o);
    if constexpr (std::is_same_v<typename scales_type::second, policy::tensor_multiplier>) s *= tensor[e];
    if constexpr (std::is_same_v<typename scales_type::second, policy::tensor_divisor>) s /= tensor[e];
    return s;
  }
  double minimum_at(int e, int j, int c) const {
    if constexpr (arrays_type::has_minimum) {
      const int g = scales_type::row_of(c), o = scales_type::col_of(j);
      double s = number(minimum, e, g, groups, o);
      if constexpr (arrays_type::has_super)
        s *= number(outer_minimum, e, g / arrays_type::outer_group, scales_type::outer_rows(k), o) * arrays_type::second::sign;
      return s;
    } else return 0;
  }
  double zero_at(int e, int j, int c) const {
    if constexpr (arrays_type::has_zero)
      return zero[(std::size_t(e) * groups + scales_type::row_of(c)) * wide(across, 1) + scales_type::col_of(j)];
    else return 0;
  }

  template <class Source> Source source() {
    Source s{};
    fill_words<0>(s.planes);
    s.scales.scale = {scale.data(), groups, wide(across, sizeof(stored)), wide(across, sizeof(stored))};
    if constexpr (arrays_type::has_minimum) s.scales.minimum = {minimum.data(), groups, wide(across, sizeof(stored)), wide(across, sizeof(stored))};
    if constexpr (arrays_type::has_zero) s.scales.zero = {zero.data(), groups, wide(across, 1), wide(across, 1)};
    const int outer_rows = scales_type::outer_rows(k), outer_wide = wide(across, sizeof(outer_element));
    if constexpr (arrays_type::has_super) s.scales.outer = {outer.data(), outer_rows, outer_wide, outer_wide};
    if constexpr (arrays_type::has_super && arrays_type::has_minimum) s.scales.outer_minimum = {outer_minimum.data(), outer_rows, outer_wide, outer_wide};
    if constexpr (arrays_type::has_number) s.scales.tensor = tensor.data();
    return s;
  }
  template <int Part, class Stacks> void fill_words(Stacks& s) {
    if constexpr (Part < Layout::parts) {
      auto& to = const_cast<stack<const std::uint32_t>&>(gemm::part_of<Part>(s));
      const int high = Layout::words_of(k, Part), wide = Layout::columns;
      if constexpr (Layout::columns > 1) to = {words[Part].data(), ceil_div(n, wide), high, wide, static_cast<long long>(high) * wide, wide};
      else to = {words[Part].data(), 1, n, high, static_cast<long long>(n) * high, high};
      fill_words<Part + 1>(s);
    }
  }
  bool guarded() const { return words[0].guarded() && words[1].guarded() && words[2].guarded() && scale.guarded(); }
};

}  // namespace test
