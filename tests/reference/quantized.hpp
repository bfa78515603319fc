// What quantized weights stand for, written down once more: values of codes, groups, scales of one and two levels, in double.
#pragma once
#include <cmath>
#include <cstdint>
#include <vector>
#include "reference/float_format.hpp"

namespace reference {

enum class code_kind { offset_integer, nf4, fp4, floating };

struct element {
  code_kind kind;
  int bits, offset = 0;              // of an integer
  float_format format = {};          // of a float
  double value(unsigned code) const {
    static const double nf4[16] = {-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
                                   0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0};
    static const double twelfths[8] = {0, 0.0625, 8, 12, 4, 6, 2, 3};
    switch (kind) {
      case code_kind::offset_integer: return double(int(code)) - offset;
      case code_kind::nf4: return nf4[code & 15];
      case code_kind::fp4: return (code & 8 ? -1 : 1) * twelfths[code & 7] / 12;
      case code_kind::floating: return format.value(code);
    }
    return 0;
  }
};
constexpr float_format e2m1_format{2, 1, 1, top::finite}, e2m3_format{2, 3, 1, top::finite}, e3m2_format{3, 2, 3, top::finite}, e4m3_format{4, 3, 7, top::one_nan},
    e5m2_format{5, 2, 15, top::infinities};

// N x K codes; group (j, g) of output block j and group g is entry j * groups + g of every array.
struct quantized_weight {
  element e;
  int n, k, group_k, group_n;        // 0: all of them
  std::vector<std::uint8_t> codes;
  std::vector<double> scale, zero, minimum;      // whole scales, after both levels; empty: 1, 0, 0
  std::vector<int> order;            // act-order: place p is column order[p]; empty: p

  int groups() const { return group_k == 0 ? 1 : (k + group_k - 1) / group_k; }
  int outputs() const { return group_n == 0 ? 1 : (n + group_n - 1) / group_n; }
  // of column c: its place among the groups
  std::vector<int> places() const {
    std::vector<int> at(static_cast<std::size_t>(k));
    for (int p = 0; p < k; ++p) at[static_cast<std::size_t>(order.empty() ? p : order[static_cast<std::size_t>(p)])] = p;
    return at;
  }
  std::size_t entry(int j, int place) const { return static_cast<std::size_t>(group_n == 0 ? 0 : j / group_n) * groups() + (group_k == 0 ? 0 : place / group_k); }

  struct parts { double value, size; };          // the weight, and what its terms amount to before they cancel
  parts at(int j, int c, int place) const {
    const std::size_t g = entry(j, place);
    const double v = e.value(codes[static_cast<std::size_t>(j) * k + c]), s = scale.empty() ? 1 : scale[g], z = zero.empty() ? 0 : zero[g], m = minimum.empty() ? 0 : minimum[g];
    return {(v - z) * s + m, std::fabs(v * s) + std::fabs(z * s) + std::fabs(m)};
  }
};

}  // namespace reference
