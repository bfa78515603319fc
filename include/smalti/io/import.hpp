// What importers share: checks of shapes and types, scales as floats, streams of codes.
#pragma once
#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <type_traits>
#include <utility>
#include <vector>

#include <smalti/core/float.hpp>
#include <smalti/core/packed.hpp>
#include <smalti/core/version.hpp>
#include <smalti/io/bytes.hpp>
#include <smalti/io/file_status.hpp>
#include <smalti/io/quantized.hpp>
#include <smalti/io/tensor.hpp>

namespace smalti::inline SMALTI_DATA::io::detail {

inline const std::uint8_t* octets(bytes b) { return reinterpret_cast<const std::uint8_t*>(b.data()); }

inline file_status refuse_tensor(file_rule rule, const char* what, const tensor& t, std::uint64_t got = 0, std::uint64_t need = 0,
                                 std::uint64_t offset = 0) {
  return refuse(rule, what, offset, t.name, got, need);
}

//! A tensor that must be there, of one of these types. A tensor whose bytes are not those of its shape (no reader makes one) is
//! refused too, so that what follows may trust both.
inline file_status check_tensor(const tensor* t, const char* missing, std::initializer_list<dtype> types, const char* wrong_type) {
  if (t == nullptr) return refuse(file_rule::missing_tensor, missing, 0);
  bool known = false;
  for (const dtype type : types) known = known || t->type == type;
  if (!known) return refuse_tensor(file_rule::bad_value_type, wrong_type, *t);
  std::uint64_t bits = 0;
  if (!elements(t->shape, bits) || !multiply(bits, std::uint64_t(facts(t->type).bits)) || bits % 8 != 0 || bits / 8 != t->data.size())
    return refuse_tensor(file_rule::size_mismatch, "a tensor's bytes are not those of its shape", *t, t->data.size(), bits / 8);
  return {};
}

//! That a tensor is rows x cols. `what` says what it must be.
inline file_status check_matrix(const tensor& t, const char* what, std::int64_t rows, std::int64_t cols) {
  if (t.shape.size() != 2) return refuse_tensor(file_rule::bad_shape, what, t, t.shape.size(), 2);
  if (t.shape[0] != rows) return refuse_tensor(file_rule::bad_shape, what, t, std::uint64_t(t.shape[0]), std::uint64_t(rows));
  if (t.shape[1] != cols) return refuse_tensor(file_rule::bad_shape, what, t, std::uint64_t(t.shape[1]), std::uint64_t(cols));
  return {};
}

//! n and k of a weight, of which there is at least one value.
inline file_status check_extents(const tensor& t, std::int64_t n, std::int64_t k) {
  if (n < 1 || k < 1)
    return refuse_tensor(file_rule::bad_shape, "a weight needs at least one row and one column", t,
                         std::uint64_t(n < 1   ? 0
                                       : k < 0 ? 0
                                               : k),
                         1);
  std::uint64_t count = std::uint64_t(n);
  if (!multiply(count, std::uint64_t(k)) || count > std::uint64_t(INT64_MAX) / 64)
    return refuse_tensor(file_rule::bad_shape, "a weight has too many elements", t);
  return {};
}

constexpr bool finite(float x) { return (float_bits(x) & 0x7f800000u) != 0x7f800000u; }

//! Element i of a tensor of floats; exact. A tensor of bytes is read as `octet` says.
inline float float_at(const tensor& t, std::uint64_t i, scale_form octet = scale_form::single) {
  switch (t.type) {
    case dtype::f32: return load<float>(t.data, 4 * i);
    case dtype::f16: return to_float(fp16{load<std::uint16_t>(t.data, 2 * i)});
    case dtype::bf16: return to_float(smalti::bf16{load<std::uint16_t>(t.data, 2 * i)});
    case dtype::f8_e8m0: return to_float(e8m0{load<std::uint8_t>(t.data, i)});
    case dtype::f8_e4m3: return to_float(fp8_e4m3{load<std::uint8_t>(t.data, i)});
    case dtype::f8_e5m2: return to_float(fp8_e5m2{load<std::uint8_t>(t.data, i)});
    default:
      return octet == scale_form::e8m0 ? to_float(e8m0{load<std::uint8_t>(t.data, i)}) : to_float(fp8_e4m3{load<std::uint8_t>(t.data, i)});
  }
}

//! All scales of a tensor. @post to.scale has one per element, none of them NaN or infinite unless the rule keeps those
inline file_status take_scales(const tensor& t, nan_rule rule, std::vector<float>& scale, scale_form octet = scale_form::single) {
  std::uint64_t count = 0;
  static_cast<void>(elements(t.shape, count));
  scale.resize(count);
  for (std::uint64_t i = 0; i < count; ++i) {
    scale[i] = float_at(t, i, octet);
    if (rule != nan_rule::keep && !finite(scale[i]))
      return refuse_tensor(file_rule::bad_code, "a scale is NaN or infinite: nan_rule::keep lets it pass", t, 0, 0,
                           i * std::uint64_t(facts(t.type).bits) / 8);
  }
  return {};
}

//! `count` codes of b bits from a stream that begins with the lowest bit of its first byte.
template <int Bits> void take_stream(const std::uint8_t* stream, std::int64_t count, std::uint8_t* out) {
  if constexpr (Bits == 8) {
    std::copy(stream, stream + count, out);
  } else {
    for (std::int64_t j = 0; j < count; ++j) out[j] = std::uint8_t(get_code<Bits>(stream, j));
  }
}

//! f(std::integral_constant<int, bits>) for 1 <= bits <= 8.
template <class F> void with_bits(int bits, F f) {
  switch (bits) {
    case 1: return f(std::integral_constant<int, 1>{});
    case 2: return f(std::integral_constant<int, 2>{});
    case 3: return f(std::integral_constant<int, 3>{});
    case 4: return f(std::integral_constant<int, 4>{});
    case 5: return f(std::integral_constant<int, 5>{});
    case 6: return f(std::integral_constant<int, 6>{});
    case 7: return f(std::integral_constant<int, 7>{});
    default: return f(std::integral_constant<int, 8>{});
  }
}

//! Every row is a stream of its own, from.stride bytes from the next. from.format is the width of a stored code, of which the
//! low bits are the code.
inline void unpack_rows(const quantized& q, std::int64_t first, std::int64_t count, std::uint8_t* out) {
  with_bits(int(q.from.format), [&](auto bits) {
    for (std::int64_t i = 0; i < count; ++i) take_stream<bits.value>(octets(q.from.data) + (first + i) * q.from.stride, q.k, out + i * q.k);
  });
}

//! Checks act-order's group indices and keeps them unless they are j / group. Every group must have as many columns as without
//! act-order, or the columns could not be put in an order in which groups are contiguous.
inline file_status take_column_groups(const tensor* g_idx, quantized& to) {
  if (g_idx == nullptr) return {};
  if (auto s = check_tensor(g_idx, "", {dtype::i32}, "g_idx must be I32"); !s) return s;
  if (g_idx->shape.size() != 1 || g_idx->shape[0] != to.k)
    return refuse_tensor(file_rule::bad_shape, "g_idx must have one entry per input feature", *g_idx,
                         g_idx->shape.empty() ? 0 : std::uint64_t(g_idx->shape[0]), std::uint64_t(to.k));
  const std::int64_t groups = to.groups_k();
  std::vector<std::int64_t> members(std::size_t(groups), 0);
  std::vector<std::int32_t> column(std::size_t(to.k), 0);
  bool trivial = true;
  for (std::int64_t j = 0; j < to.k; ++j) {
    const auto g = load<std::int32_t>(g_idx->data, std::uint64_t(4 * j));
    if (g < 0 || g >= groups)
      return refuse_tensor(file_rule::bad_code, "g_idx must name a group that there is", *g_idx, std::uint64_t(g < 0 ? 0 : g),
                           std::uint64_t(groups), std::uint64_t(4 * j));
    column[std::size_t(j)] = g;
    ++members[std::size_t(g)];
    trivial = trivial && g == j / to.group_k;
  }
  for (std::int64_t g = 0; g < groups; ++g) {
    const std::int64_t need = g + 1 < groups ? to.group_k : to.k - (groups - 1) * to.group_k;
    if (members[std::size_t(g)] != need)
      return refuse_tensor(file_rule::bad_code, "g_idx must give every group as many columns as the group size", *g_idx,
                           std::uint64_t(members[std::size_t(g)]), std::uint64_t(need));
  }
  if (!trivial) to.column_group = std::move(column);
  return {};
}

}  // namespace smalti::inline SMALTI_DATA::io::detail
