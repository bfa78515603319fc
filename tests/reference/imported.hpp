// What the codes of a matrix that an importer read mean: values of codes from their format's definition, tables handed in. Every
// operation rounds once to float, whatever the compiler would like to fuse.
#pragma once
#include <cstdint>
#include <limits>
#include <vector>

#include <smalti/io/quantized.hpp>

#include "float_format.hpp"

namespace reference {

inline float rounded(double x) {
  const volatile float r = static_cast<float>(x);
  return r;
}

struct tables {
  std::vector<float> nf4, fp4;  // bitsandbytes'
};

inline double imported_code(smalti::io::code_kind kind, unsigned code, const tables& t) {
  using smalti::io::code_kind;
  switch (kind) {
    case code_kind::integer: return code;
    case code_kind::nf4: return t.nf4.at(code);
    case code_kind::fp4: return t.fp4.at(code);
    case code_kind::e2m1: return float_format{2, 1, 1, top::finite}.value(code);
    case code_kind::e2m3: return float_format{2, 3, 1, top::finite}.value(code);
    case code_kind::e3m2: return float_format{3, 2, 3, top::finite}.value(code);
    case code_kind::e4m3: return float_format{4, 3, 7, top::one_nan}.value(code);
    case code_kind::e5m2: return float_format{5, 2, 15, top::infinities}.value(code);
  }
  return std::numeric_limits<double>::quiet_NaN();
}

//! value = (decode(code) - zero) * scale + minimum
inline float imported_value(const smalti::io::quantized& q, std::int64_t i, std::int64_t j, unsigned code, const tables& t) {
  const auto g = static_cast<std::size_t>(q.group(i, j));
  const int zero = q.zero == smalti::io::zero_kind::none       ? 0
                   : q.zero == smalti::io::zero_kind::constant ? q.zero_point
                                                               : q.zero_points.at(g);
  const double difference =
      q.zero == smalti::io::zero_kind::none ? imported_code(q.kind, code, t) : rounded(imported_code(q.kind, code, t) - zero);
  const float x = rounded(difference * q.scale.at(g));
  return q.minimum.empty() ? x : rounded(static_cast<double>(x) + q.minimum.at(g));
}

}  // namespace reference
