// A quantized weight matrix as every format's importer leaves it: codes, scales and zeros without the format's packing. A packer
// turns it into the layout a kernel reads and never sees the file.
//
//     value(i, j) = (decode(code(i, j)) - zero(g)) * scale(g) + minimum(g),        g = group(i, j), 0 <= i < n, 0 <= j < k
//
// Computed in f32, one rounding an operation and in this order, that is the producer's own dequantization to the bit (except
// that some producers round it once more, to the 16-bit type of the model). Parts that are missing are 0 and are not added.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include <smalti/core/version.hpp>
#include <smalti/io/bytes.hpp>

namespace smalti::inline SMALTI_DATA::io {

//! What a code stands for.
enum class code_kind : std::uint8_t {
  integer,  //!< the code as a whole number, 0 <= code < 2^bits: signed formats have a zero of 2^(bits - 1)
  nf4,      //!< NormalFloat, bitsandbytes' table
  fp4,      //!< bitsandbytes' table, which is not E2M1
  e2m1,
  e2m3,
  e3m2,
  e4m3,
  e5m2
};

//! Bits of a code; an integer's are the matrix's own.
constexpr int bits_of(code_kind kind, int integer_bits = 0) {
  switch (kind) {
    case code_kind::integer: return integer_bits;
    case code_kind::nf4:
    case code_kind::fp4:
    case code_kind::e2m1: return 4;
    case code_kind::e2m3:
    case code_kind::e3m2: return 6;
    case code_kind::e4m3:
    case code_kind::e5m2: return 8;
  }
  return 0;
}

enum class zero_kind : std::uint8_t {
  none,      //!< the value of the code is what is scaled
  constant,  //!< one whole number for all groups: `zero_point`
  per_group  //!< a whole number for each group: `zero_points`
};

//! What an importer does with codes and scales that are not finite numbers.
enum class nan_rule : std::uint8_t {
  refuse,      //!< and say where the first one is
  keep,        //!< the producer's own NaN and infinities come through
  zero_blocks  //!< codes under a scale of 0 are read as 0, whatever they are; all others as `refuse`. ModelOpt divides an all-zero
               //!< FP8 block by 0: its scale is 0 and its codes are NaN
};

//! How the scale of a group was stored.
enum class scale_form : std::uint8_t {
  single,      //!< as one float: quantized::scale itself
  e8m0,        //!< 2^(code - 127)
  e4m3,        //!< e4m3 code, times super, or divided by it
  ue4m3_ggml,  //!< e4m3 code without a sign; 0x7F is 0 and 0xFF is 480
  u6,          //!< super * code, minimum = -(super_minimum * minimum_code), codes of 6 bits
  s8,          //!< super * code, two's complement
  mapped8      //!< map[code] * super + offset
};

//! The stored scales, for packers that keep two levels. quantized::scale holds the result in any case.
struct stored_scales {
  scale_form form = scale_form::single;
  std::vector<std::uint8_t> code, minimum_code;  //!< one per group
  std::vector<float> super, super_minimum;       //!< one per `span` successive groups; empty: 1
  std::int64_t span = 0;                         //!< 0: one for all groups
  bool divides = false;
  std::vector<float> map;
  float offset = 0;
};

//! The matrix. Codes stay in the file, which must live as long; scales and zeros are copies in float.
struct quantized {
  std::int64_t n = 0, k = 0;  //!< output features, input features
  code_kind kind = code_kind::integer;
  int bits = 0;  //!< of a code

  std::int64_t group_n = 1, group_k = 1;   //!< rows and columns that share a scale; the last ones may be short
  bool flat = false;                       //!< groups are group_k codes of the matrix row after row, and cross rows; group_n is 1
  std::vector<std::int32_t> column_group;  //!< act-order: the group of each column; empty: column / group_k

  std::vector<float> scale;  //!< one per group, row after row of groups()
  zero_kind zero = zero_kind::none;
  int zero_point = 0;
  std::vector<std::uint8_t> zero_points;  //!< one per group, or empty
  std::vector<float> minimum;             //!< one per group, or empty
  stored_scales stored;

  //! Groups side by side in a row of groups; meaningless for flat ones.
  std::int64_t groups_k() const { return pieces(k, group_k); }
  std::int64_t groups() const { return flat ? pieces(n * k, group_k) : pieces(n, group_n) * groups_k(); }
  //! Index of the group of row i, column j, into scale, zero_points and minimum.
  std::int64_t group(std::int64_t i, std::int64_t j) const {
    if (flat) return (i * k + j) / group_k;
    return i / group_n * groups_k() + (column_group.empty() ? j / group_k : column_group[std::size_t(j)]);
  }
  //! Columns in the order in which groups are contiguous: column_order()[p] is the file's column at place p, and in that order
  //! the group of place p is p / group_k. Empty without act-order. An input x must be gathered alike: x'[p] = x[order[p]].
  std::vector<std::int32_t> column_order() const {
    std::vector<std::int32_t> order(column_group.size());
    for (std::size_t j = 0; j < order.size(); ++j) order[j] = std::int32_t(j);
    std::stable_sort(order.begin(), order.end(),
                     [this](std::int32_t a, std::int32_t b) { return column_group[std::size_t(a)] < column_group[std::size_t(b)]; });
    return order;
  }

  //! The codes of rows [first, first + count), one byte each, row after row, in the file's order of columns. GPTQ and AWQ files
  //! keep rows side by side: ask for 16 or more at once. @pre 0 <= first, first + count <= n; out holds count * k bytes
  void codes(std::int64_t first, std::int64_t count, std::uint8_t* out) const { unpack(*this, first, count, out); }

  static constexpr std::int64_t pieces(std::int64_t all, std::int64_t each) { return all / each + (all % each != 0 ? 1 : 0); }

  // For importers: where the codes lie, and what takes them out.
  struct source {
    bytes data;
    std::int64_t stride = 0;   // bytes from row to row, of packed rows or of packed columns
    std::uint32_t format = 0;  // the importer's own
  };
  source from;
  void (*unpack)(const quantized&, std::int64_t first, std::int64_t count, std::uint8_t* out) = [](const quantized&, std::int64_t,
                                                                                                   std::int64_t, std::uint8_t*) {};
};

}  // namespace smalti::inline SMALTI_DATA::io
