// The element types of GGUF files: how many values a block holds and how many bytes it takes.
// Source: ggml 0.25.3, ggml.h and ggml-common.h; tests/golden/manifest.json has the sizes of those that were run.
#pragma once
#include <cstdint>
#include <iterator>
#include <smalti/core/version.hpp>

namespace smalti::inline SMALTI_DATA::io {

//! Types by their number in a file. Numbers that are left out were removed from the format, and are refused.
enum class ggml_type : std::uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q8_1 = 9,
  q2_k = 10,
  q3_k = 11,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  q8_k = 15,
  iq2_xxs = 16,
  iq2_xs = 17,
  iq3_xxs = 18,
  iq1_s = 19,
  iq4_nl = 20,
  iq3_s = 21,
  iq2_s = 22,
  iq4_xs = 23,
  i8 = 24,
  i16 = 25,
  i32 = 26,
  i64 = 27,
  f64 = 28,
  iq1_m = 29,
  bf16 = 30,
  tq1_0 = 34,
  tq2_0 = 35,
  mxfp4 = 39,
  nvfp4 = 40,
  q1_0 = 41,
  q2_0 = 42
};

struct ggml_facts {
  const char* name;  //!< as ggml spells it
  int block;         //!< values in a block, along the fastest dimension; 0: no such type
  int block_bytes;
};

inline constexpr ggml_facts ggml_types[] = {
    {"F32", 1, 4},        {"F16", 1, 2},      {"Q4_0", 32, 18},   {"Q4_1", 32, 20},    {"", 0, 0},           {"", 0, 0},
    {"Q5_0", 32, 22},     {"Q5_1", 32, 24},   {"Q8_0", 32, 34},   {"Q8_1", 32, 36},    {"Q2_K", 256, 84},    {"Q3_K", 256, 110},
    {"Q4_K", 256, 144},   {"Q5_K", 256, 176}, {"Q6_K", 256, 210}, {"Q8_K", 256, 292},  {"IQ2_XXS", 256, 66}, {"IQ2_XS", 256, 74},
    {"IQ3_XXS", 256, 98}, {"IQ1_S", 256, 50}, {"IQ4_NL", 32, 18}, {"IQ3_S", 256, 110}, {"IQ2_S", 256, 82},   {"IQ4_XS", 256, 136},
    {"I8", 1, 1},         {"I16", 1, 2},      {"I32", 1, 4},      {"I64", 1, 8},       {"F64", 1, 8},        {"IQ1_M", 256, 56},
    {"BF16", 1, 2},       {"", 0, 0},         {"", 0, 0},         {"", 0, 0},          {"TQ1_0", 256, 54},   {"TQ2_0", 256, 66},
    {"", 0, 0},           {"", 0, 0},         {"", 0, 0},         {"MXFP4", 32, 17},   {"NVFP4", 64, 36},    {"Q1_0", 128, 18},
    {"Q2_0", 64, 18}};

//! Facts of a type, or of none: block is then 0. Any number of a file may be asked about.
constexpr ggml_facts facts(ggml_type type) {
  return std::uint32_t(type) < std::size(ggml_types) ? ggml_types[std::uint32_t(type)] : ggml_facts{"", 0, 0};
}

}  // namespace smalti::inline SMALTI_DATA::io
