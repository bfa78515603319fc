// Quantized rows of a file as floats, by the formula of io/quantized.hpp.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <vector>
#include <smalti/io/quantized.hpp>

namespace generate {

inline void dequantize(const smalti::io::quantized& q, std::int64_t first, std::int64_t count, float* out) {
  if (q.kind != smalti::io::code_kind::integer) throw std::runtime_error("only integer codes of GGUF files are built");
  std::vector<std::uint8_t> codes(std::size_t(count * q.k));
  q.codes(first, count, codes.data());
  for (std::int64_t i = 0; i < count; ++i)
    for (std::int64_t j = 0; j < q.k; ++j) {
      const std::size_t g = std::size_t(q.group(first + i, j));
      const int zero = q.zero == smalti::io::zero_kind::per_group ? q.zero_points[g] : q.zero == smalti::io::zero_kind::constant ? q.zero_point : 0;
      const float scaled = float(int(codes[std::size_t(i * q.k + j)]) - zero) * q.scale[g];
      out[i * q.k + j] = q.minimum.empty() ? scaled : scaled + q.minimum[g];
    }
}

}  // namespace generate
