// Packs what io's importers read from checkpoints. A format is a type and a file is data: here they are compared, and a matrix
// that the format would change in its last bit is refused. docs/ops/gemm/quantized.md says which format goes with which file.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>
#include <smalti/core/status.hpp>
#include <smalti/io/quantized.hpp>
#include <smalti/ops/gemm/linear_check.hpp>
#include <smalti/ops/gemm/pack.hpp>
#include <smalti/policy/codec.hpp>

namespace smalti::inline SMALTI_CODE::gemm {

namespace detail {

template <class Codec> consteval io::code_kind kind_of() {
  using io::code_kind;
  if constexpr (std::is_same_v<Codec, policy::nf4>) return code_kind::nf4;
  else if constexpr (std::is_same_v<Codec, policy::fp4>) return code_kind::fp4;
  else if constexpr (requires { typename Codec::storage; }) {
    using storage = typename Codec::storage;
    if (std::is_same_v<storage, e2m1>) return code_kind::e2m1;
    if (std::is_same_v<storage, e2m3>) return code_kind::e2m3;
    if (std::is_same_v<storage, e3m2>) return code_kind::e3m2;
    return std::is_same_v<storage, fp8_e4m3> ? code_kind::e4m3 : code_kind::e5m2;
  } else return code_kind::integer;
}

// An imported matrix in the arrays that pack() reads, its groups those of the format.
template <class Format> struct imported_arrays {
  using codec = typename Format::codec;
  using scales = typename Format::scales;
  using second = typename scales::second;
  using arrays = scale_arrays<scales>;
  using element = typename scales::element;
  static constexpr io::code_kind kind = kind_of<codec>();
  static constexpr int offset = [] {
    if constexpr (kind == io::code_kind::integer) return codec::offset;
    else return 0;
  }();
  // Two levels, and bytes that are no integers: taken as the file has them.
  static constexpr bool super = arrays::has_super, mapped = arrays::double_quantized, number = arrays::has_number;
  static constexpr bool powers = std::is_same_v<element, e8m0>;
  static constexpr bool stored = super || mapped || number || powers;

  std::vector<std::uint8_t> codes, zero, scale_code, minimum_code;
  std::vector<float> scale, minimum, outer, outer_minimum;
  std::vector<std::int32_t> order;
  float mean = 0;

  static status refuse(const char* what, std::int64_t got = 0, std::int64_t need = 0) { return {errc::bad_value, what, got, need}; }

  // What does not depend on the numbers.
  static status check(const io::quantized& q) {
    if (q.n < 1 || q.k < 1 || q.n > std::numeric_limits<int>::max() || q.k > std::numeric_limits<int>::max())
      return {errc::bad_shape, "import: n and k must be at least 1 and below 2^31", q.n < 1 || q.n > q.k ? q.n : q.k, std::numeric_limits<int>::max()};
    if (q.group_n < 1 || q.group_k < 1 || std::int64_t(q.scale.size()) != q.groups())
      return {errc::bad_shape, "import: there must be one scale for each group", std::int64_t(q.scale.size()), q.group_n < 1 || q.group_k < 1 ? 0 : q.groups()};
    if (q.kind != kind) return refuse("import: the codes are of another kind than the format's (got, need: io::code_kind)", int(q.kind), int(kind));
    if (q.bits != codec::bits) return refuse("import: the codes have another number of bits than the format's", q.bits, codec::bits);
    if (scales::zero == policy::zero_point::floating ? q.minimum.size() != q.scale.size() : !q.minimum.empty())
      return refuse(scales::zero == policy::zero_point::floating ? "import: the format has minima and the weight has none: take one without"
                                                                 : "import: the weight has minima: take a format with zero_point::floating, as q4_1, q5_1, q4_k and q5_k have it");
    if (q.zero == io::zero_kind::per_group && q.zero_points.size() != q.scale.size())
      return {errc::bad_shape, "import: there must be one zero point for each group", std::int64_t(q.zero_points.size()), std::int64_t(q.scale.size())};

    // Each group of the format must lie within one of the matrix.
    const bool rows_apart = !q.flat || q.k % q.group_k == 0;
    const std::int64_t groups_k = rows_apart ? q.pieces(q.k, q.group_k) : 0;
    if (rows_apart ? groups_k != 1 && (scales::group_k == 0 || q.group_k % (scales::group_k == 0 ? 1 : scales::group_k) != 0)
                   : scales::group_k == 0 || q.k % (scales::group_k == 0 ? 1 : scales::group_k) != 0 || q.group_k % (scales::group_k == 0 ? 1 : scales::group_k) != 0)
      return refuse(rows_apart ? "import: the format's group along k must divide that of the weight"
                               : "import: blocks cross rows: the format's group must divide both the block and k (their greatest common divisor does)",
                    scales::group_k, q.group_k);
    if (q.group_n < q.n && (scales::group_n == 0 || q.group_n % (scales::group_n == 0 ? 1 : scales::group_n) != 0))
      return refuse("import: the format's group along n must divide that of the weight", scales::group_n, q.group_n);
    if constexpr (super || mapped) {      // their second level counts groups
      if (q.group_k != scales::group_k) return refuse("import: a format with two levels of scales has the weight's own group", scales::group_k, q.group_k);
    }
    if constexpr (stored) {
      using form = io::scale_form;
      const form f = q.stored.form;
      const bool fits = powers ? f == form::e8m0 : number ? f == form::e4m3 || f == form::ue4m3_ggml : mapped ? f == form::mapped8 : f == (std::is_same_v<element, std::int8_t> ? form::s8 : form::u6);
      if (!fits || q.stored.code.size() != q.scale.size())
        return refuse("import: the weight's scales are stored in another form than the format's: take the one of its producer, or one with float scales (got: io::scale_form)", int(f));
      if (number && q.stored.divides != std::is_same_v<second, policy::tensor_divisor> && !q.stored.super.empty())
        return refuse("import: the tensor's scale divides in one of the weight and the format and multiplies in the other: nvfp4_divisor, nvfp4_multiplier");
      if (number && q.stored.super.size() > 1) return refuse("import: the format has one scale for the tensor", std::int64_t(q.stored.super.size()), 1);
      std::int64_t span = 0;
      if constexpr (super) span = second::groups;
      if constexpr (mapped) span = second::block;
      if (span != 0 && (q.stored.span != span || std::int64_t(q.stored.super.size()) != q.pieces(q.groups(), span)))
        return refuse("import: another number of groups shares a scale of the second level than in the format", q.stored.span, span);
      if (super && q.groups_k() % (span == 0 ? 1 : span) != 0) return refuse("import: rows must hold whole super blocks", q.groups_k(), span);
    }
    return {};
  }

  status take(const io::quantized& q) {
    if (const status bad = check(q); !bad) return bad;
    const auto& s = q.stored;
    if constexpr (mapped) {
      mean = s.offset;
      for (unsigned c = 0; c < 256; ++c)
        if (s.map.size() != 256 || s.map[c] != policy::dynamic_map::value(c)) return refuse("import: the second level's table is not bitsandbytes' dynamic map", c);
    }
    if constexpr (number) outer = {s.super.empty() ? 1.0f : s.super[0]};
    else if constexpr (super || mapped) outer = s.super;
    if constexpr (super && arrays::has_minimum) outer_minimum = s.super_minimum;
    if constexpr (super && arrays::has_minimum)
      if (outer_minimum.size() != outer.size() || s.minimum_code.size() != q.scale.size()) return refuse("import: the weight's minima are not stored in two levels");

    const int rows = scales::rows(int(q.k)), cols = scales::cols(int(q.n));
    for (std::int64_t j = 0; j < cols; ++j)
      for (std::int64_t g = 0; g < rows; ++g) {
        const std::int64_t row = j * scales::group_n, place = g * scales::group_k;
        const auto at = std::size_t(q.flat ? (row * q.k + place) / q.group_k : row / q.group_n * q.groups_k() + place / q.group_k);
        const float exact = q.scale[at];
        if constexpr (stored) {
          scale_code.push_back(s.form == io::scale_form::ue4m3_ggml ? std::uint8_t((s.code[at] & 0x7f) == 0x7f ? 0 : s.code[at] & 0x7f) : s.code[at]);
          if (decoded(scale_code.back(), at) != exact) return refuse("import: a stored scale does not give the group's scale in this format: take one with float scales (got: group)", std::int64_t(at));
        } else {
          scale.push_back(exact);
          if (to_float(narrow<element>(exact)) != exact) return refuse("import: a scale is not exact in the format's type: take the same format with float scales (got: group)", std::int64_t(at));
        }
        if constexpr (scales::zero == policy::zero_point::floating) {
          if constexpr (super) {
            minimum_code.push_back(s.minimum_code[at]);
            if (policy::effective_minimum<second>(float(minimum_code.back()), outer_minimum[at / std::size_t(second::groups)]) != q.minimum[at])
              return refuse("import: a stored minimum does not give the group's in this format (got: group)", std::int64_t(at));
          } else {
            minimum.push_back(q.minimum[at]);
            if (to_float(narrow<element>(minimum.back())) != minimum.back()) return refuse("import: a minimum is not exact in the format's type: take the same format with float scales (got: group)", std::int64_t(at));
          }
        }
        const int z = (q.zero == io::zero_kind::per_group ? int(q.zero_points[at]) : q.zero == io::zero_kind::constant ? q.zero_point : 0) - offset;
        if constexpr (scales::zero == policy::zero_point::integer) {
          if (z < 0 || z > 255) return refuse("import: a zero point lies outside what the format stores", z + offset, offset);
          zero.push_back(std::uint8_t(z));
        } else if (z != 0) {
          return refuse("import: a group's zero point is not the format's offset: take a format with zero_point::integer, as int4_affine has it", z + offset, offset);
        }
      }
    codes.resize(std::size_t(q.n) * std::size_t(q.k));
    q.codes(0, q.n, codes.data());
    order = q.column_order();
    return {};
  }
  // The rows of another matrix, below these.
  status append(const imported_arrays& more) {
    if (more.order != order) return refuse("import: matrices that are packed below one another have one order of columns");
    if (mapped) return refuse("import: double quantization counts the groups of one matrix: pack each as a weight of its own");
    if (number && more.outer != outer) return refuse("import: matrices that are packed below one another have one scale of the tensor");
    const auto below = [](auto& to, const auto& from) { to.insert(to.end(), from.begin(), from.end()); };
    below(codes, more.codes), below(zero, more.zero), below(scale_code, more.scale_code), below(minimum_code, more.minimum_code);
    below(scale, more.scale), below(minimum, more.minimum);
    if (super) below(outer, more.outer), below(outer_minimum, more.outer_minimum);
    return {};
  }
  weight_source source(const io::quantized& q) const {
    const auto data = [](const auto& v) { return v.empty() ? nullptr : v.data(); };
    return {.codes = data(codes), .stride = q.k, .n = int(q.n), .k = int(q.k), .order = data(order), .scale = data(scale), .zero = data(zero), .minimum = data(minimum),
            .scale_code = data(scale_code), .minimum_code = data(minimum_code), .outer = data(outer), .outer_minimum = data(outer_minimum), .mean = mean};
  }

private:
  float decoded(std::uint8_t code, std::size_t at) const {
    if constexpr (powers) return to_float(e8m0{code});
    else if constexpr (number) return policy::effective_scale<scales>(to_float(fp8_e4m3{code}), outer[0]);
    else if constexpr (mapped) return policy::double_quantized_scale(code, outer[at / std::size_t(second::block)], mean);
    else if constexpr (super) return policy::effective_scale<scales>(float(element(code)), outer[at / std::size_t(second::groups)]);
    else return 0;
  }
};

}  // namespace detail

//! May this matrix be packed in this format with every weight keeping its value? `got` and `need` say where it differs.
template <class Format> status check_import(const io::quantized& q) {
  detail::imported_arrays<Format> arrays;
  return arrays.take(q);
}

//! Packs an imported matrix as expert `expert` of a packed weight.
//!
//! @pre   as pack(); the matrix's file is still mapped. `ordered` of the packed weight where the matrix has act-order:
//!            weight::bytes(n, k, 1, !q.column_group.empty())
//! @post  the weight's values are the matrix's, (code - zero) * scale + minimum, to the bit: the format's groups may be finer than the
//!        matrix's, never coarser; scales must be exact in the format's type; integer zero points must be stored or be the codec's offset
//! @note  errors: bad_value and bad_shape with what differs; those of pack()
//! @note  cost: one pass of the importer over the codes and one of pack(); takes a byte a code and the scales once more while it works
template <class Weight> status pack_imported(const Weight& w, const io::quantized& q, int expert = 0) {
  detail::imported_arrays<typename Weight::format> arrays;
  if (const status bad = arrays.take(q); !bad) return bad;
  std::vector<std::uint8_t> memory(packing_bytes<Weight>(int(q.k)));
  return pack(w, arrays.source(q), expert, memory.empty() ? nullptr : memory.data());
}

//! The same for `count` matrices of one k, the rows of each below those of the one before it: q, k and v of a layer as one product. A
//! pointer to each.
//! @note  errors: also bad_shape and bad_value where they cannot lie under one set of scales: another k, another order of columns, another scale of
//!        the tensor, double quantization
template <class Weight> status pack_imported(const Weight& w, const io::quantized* const* parts, int count, int expert = 0) {
  if (parts == nullptr || count < 1) return {errc::null_pointer, "import: parts needs at least one matrix", count, 1};
  io::quantized shape;
  shape.n = 0, shape.k = parts[0]->k;
  detail::imported_arrays<typename Weight::format> arrays;
  for (int i = 0; i < count; ++i) {
    if (parts[i]->k != shape.k) return {errc::bad_shape, "import: matrices that are packed below one another have one k", parts[i]->k, shape.k};
    detail::imported_arrays<typename Weight::format> more;
    if (const status bad = i == 0 ? arrays.take(*parts[i]) : more.take(*parts[i]); !bad) return bad;
    if (i > 0)
      if (const status bad = arrays.append(more); !bad) return bad;
    shape.n += parts[i]->n;
  }
  std::vector<std::uint8_t> memory(packing_bytes<Weight>(int(shape.k)));
  return pack(w, arrays.source(shape), expert, memory.empty() ? nullptr : memory.data());
}

//! Rows [first, first + count) of an imported matrix as floats, k to a row and in the file's order of columns: (code - zero) * scale + minimum, one
//! rounding an operation, as the producer's own dequantization has them. Copies codes out of the file; no format needs to be named.
//! @pre  0 <= first, first + count <= q.n; out holds count * q.k floats
inline void imported_values(const io::quantized& q, std::int64_t first, std::int64_t count, float* out) {
  const auto value = [kind = q.kind](unsigned code) -> float {
    const auto byte = std::uint8_t(code);
    switch (kind) {
      case io::code_kind::nf4: return policy::nf4::value(code);
      case io::code_kind::fp4: return policy::fp4::value(code);
      case io::code_kind::e2m1: return to_float(e2m1{byte});
      case io::code_kind::e2m3: return to_float(e2m3{byte});
      case io::code_kind::e3m2: return to_float(e3m2{byte});
      case io::code_kind::e4m3: return to_float(fp8_e4m3{byte});
      case io::code_kind::e5m2: return to_float(fp8_e5m2{byte});
      default: return float(code);
    }
  };
  float values[256];
  for (unsigned c = 0; c < 256; ++c) values[c] = c >> q.bits == 0 ? value(c) : 0;
  std::vector<std::uint8_t> codes(std::size_t(count * q.k));
  q.codes(first, count, codes.data());
  for (std::int64_t i = 0, at = 0; i < count; ++i)
    for (std::int64_t j = 0; j < q.k; ++j, ++at) {
      const auto g = std::size_t(q.group(first + i, j));
      float x = values[codes[std::size_t(at)]];
      if (q.zero != io::zero_kind::none) x -= float(q.zero == io::zero_kind::constant ? q.zero_point : int(q.zero_points[g]));
      if (q.minimum.empty()) {
        out[at] = x * q.scale[g];
      } else {
        const volatile float scaled = x * q.scale[g];      // not one step with the sum
        out[at] = scaled + q.minimum[g];
      }
    }
}

namespace detail {
// Formats whose scales a block-scaled product takes as they are.
template <class Format> constexpr bool takes_block_scales = std::is_same_v<typename Format::scales::element, e8m0> || std::is_same_v<typename Format::scales::element, fp8_e4m3>;
template <class Format> constexpr auto matrix_kind_of() {
  using s = typename Format::scales;
  using code = typename Format::codec::storage;
  if constexpr (takes_block_scales<Format>) return std::type_identity<block_scaled_weight<std::conditional_t<std::is_same_v<code, e2m1>, e2m1x2, code>, typename s::element, s::group_k, typename s::second>>{};
  else return std::type_identity<matrix_weight<code, s>>{};
}
}  // namespace detail

//! Weights as gemm::quantized multiplies them where they are not packed: FP8 matrices as the checkpoint has them, scales as K / GroupK x N / GroupN
//! beside them (matrix_weight); MXFP8, MXFP4 and NVFP4 with scales N x K / group (block_scaled_weight).
template <class Format> using imported_matrix = typename decltype(detail::matrix_kind_of<Format>())::type;

namespace detail {
template <class Format> imported_matrix<Format> matrix_over(void* memory, int n, int k, std::size_t& used) {
  using code = std::remove_const_t<typename decltype(imported_matrix<Format>::matrix)::element>;
  carver c{static_cast<std::byte*>(memory)};
  imported_matrix<Format> w;
  if constexpr (takes_block_scales<Format>) {
    using scale = std::remove_const_t<typename decltype(w.scales)::element>;
    static_assert((std::is_same_v<code, e2m1x2> || std::is_same_v<code, fp8_e4m3> || std::is_same_v<code, fp8_e5m2>) && Format::scales::group_n == 1, "smalti: block-scaled products take codes of e2m1, fp8_e4m3 or fp8_e5m2: pack_imported for others");
    const int columns = ceil_div(k, codes_in<code>), wide = round_up(columns, step_of<code>), groups = round_up(Format::scales::rows(k), step_of<scale>);
    w.matrix = {c.take<code>(std::size_t(n) * std::size_t(wide)), n, columns, wide};
    w.scales = {c.take<scale>(std::size_t(n) * std::size_t(groups)), n, groups, groups};
    if constexpr (!std::is_same_v<typename Format::scales::second, policy::one_level>) w.tensor = c.take<float>(1);
  } else {
    static_assert(sizeof(code) == 1 && std::is_same_v<typename Format::scales::element, float> && Format::scales::zero == policy::zero_point::none,
                  "smalti: matrices of a checkpoint are multiplied as they lie where they are fp8 under float scales, or block-scaled: pack_imported for others");
    const int wide = round_up(k, step_of<code>), rows = Format::scales::rows(k), cols = Format::scales::cols(n), stride = round_up(cols, step_of<float>);
    w.matrix = {c.take<code>(std::size_t(n) * std::size_t(wide)), n, k, wide};
    w.scales.scale = {c.take<float>(std::size_t(rows) * std::size_t(stride)), rows, cols, stride};
  }
  used = c.used;
  return w;
}
}  // namespace detail

//! Bytes of memory for copy_imported, on a boundary of 256.
template <class Format> std::size_t matrix_bytes(int n, int k) {
  std::size_t used = 0;
  static_cast<void>(detail::matrix_over<Format>(nullptr, n, k, used));
  return used;
}

//! Copies an imported matrix and its scales into memory of matrix_bytes<Format>(n, k) bytes, and makes the view that gemm::quantized takes.
//! @note  errors and values: as pack_imported; `to` is as it was after a refusal
template <class Format> status copy_imported(imported_matrix<Format>& to, void* memory, const io::quantized& q) {
  detail::imported_arrays<Format> arrays;
  if (const status bad = arrays.take(q); !bad) return bad;
  if (memory == nullptr) return {errc::null_pointer, "import: memory is null: it needs matrix_bytes(n, k)"};
  if (!arrays.order.empty()) return {errc::bad_value, "import: a matrix that is not packed has no order of columns"};
  const int n = int(q.n), k = int(q.k);
  std::size_t used = 0;
  const imported_matrix<Format> w = detail::matrix_over<Format>(memory, n, k, used);
  std::memset(memory, 0, used);
  auto* const codes = reinterpret_cast<std::uint8_t*>(const_cast<std::remove_const_t<typename decltype(w.matrix)::element>*>(w.matrix.data));
  for (int j = 0; j < n; ++j) {
    const std::uint8_t* const from = arrays.codes.data() + std::size_t(j) * std::size_t(k);
    std::uint8_t* const at = codes + std::size_t(j) * std::size_t(w.matrix.stride);
    if constexpr (codes_in<std::remove_const_t<typename decltype(w.matrix)::element>> == 1) std::memcpy(at, from, std::size_t(k));
    else
      for (int c = 0; c < k; ++c) at[c / 2] = std::uint8_t(at[c / 2] | from[c] << (c % 2 * 4));
  }
  if constexpr (detail::takes_block_scales<Format>) {
    auto* const scales = reinterpret_cast<std::uint8_t*>(const_cast<std::remove_const_t<typename decltype(w.scales)::element>*>(w.scales.data));
    const int groups = Format::scales::rows(k);
    for (int j = 0; j < n; ++j) std::memcpy(scales + std::size_t(j) * std::size_t(w.scales.stride), arrays.scale_code.data() + std::size_t(j) * std::size_t(groups), std::size_t(groups));
    if constexpr (arrays.number) *const_cast<float*>(w.tensor) = arrays.outer[0];
  } else {
    float* const scales = const_cast<float*>(w.scales.scale.data);
    const int rows = w.scales.scale.rows, cols = w.scales.scale.cols;
    for (int j = 0; j < cols; ++j)
      for (int g = 0; g < rows; ++g) scales[std::size_t(g) * std::size_t(w.scales.scale.stride) + std::size_t(j)] = arrays.scale[std::size_t(j) * std::size_t(rows) + std::size_t(g)];
  }
  to = w;
  return {};
}

}  // namespace smalti::inline SMALTI_CODE::gemm
