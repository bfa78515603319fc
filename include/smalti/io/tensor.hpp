// A tensor of a file: a name, an element type, a shape and the bytes where they lie.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <smalti/core/version.hpp>
#include <smalti/io/bytes.hpp>

namespace smalti::inline SMALTI_DATA::io {

//! Element types of safetensors 0.8, in its order.
enum class dtype : std::uint8_t {
  boolean,
  f4,
  f6_e2m3,
  f6_e3m2,
  u8,
  i8,
  f8_e5m2,
  f8_e4m3,
  f8_e8m0,
  f8_e4m3fnuz,
  f8_e5m2fnuz,
  i16,
  u16,
  f16,
  bf16,
  i32,
  u32,
  f32,
  c64,
  f64,
  i64,
  u64
};

struct dtype_facts {
  std::string_view name;  //!< as the file spells it
  int bits;
};

inline constexpr dtype_facts dtypes[] = {
    {"BOOL", 8},    {"F4", 4},          {"F6_E2M3", 6},     {"F6_E3M2", 6}, {"U8", 8},   {"I8", 8},   {"F8_E5M2", 8}, {"F8_E4M3", 8},
    {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16}, {"F16", 16}, {"BF16", 16},   {"I32", 32},
    {"U32", 32},    {"F32", 32},        {"C64", 64},        {"F64", 64},    {"I64", 64}, {"U64", 64}};

constexpr const dtype_facts& facts(dtype type) { return dtypes[std::size_t(type)]; }

//! The type with this name; false where there is none.
constexpr bool find_dtype(std::string_view name, dtype& type) {
  for (std::size_t i = 0; i < std::size(dtypes); ++i)
    if (dtypes[i].name == name) {
      type = dtype(i);
      return true;
    }
  return false;
}

//! Rows are contiguous, the last extent is the fastest. The bytes belong to the file and need not be aligned for their type.
struct tensor {
  std::string name;
  dtype type = dtype::u8;
  std::vector<std::int64_t> shape;
  bytes data;
};

}  // namespace smalti::inline SMALTI_DATA::io
