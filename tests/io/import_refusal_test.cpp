// What importers refuse: sizes that do not fit each other, codes and indices without meaning, scales that are no numbers. Each case
// takes a sound layer and spoils one thing; a layer that is refused leaves an empty matrix behind.
#include <catch2/catch.hpp>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include <smalti/io/bitsandbytes.hpp>
#include <smalti/io/block_scaled.hpp>
#include <smalti/io/compressed_tensors.hpp>
#include <smalti/io/ggml_blocks.hpp>
#include <smalti/io/gptq.hpp>
#include <smalti/io/plain.hpp>
#include <smalti/io/safetensors.hpp>

#include "../support/golden.hpp"
#include "build.hpp"
#include "walk_import.hpp"

using namespace smalti;
using namespace smalti::io;
using namespace std::string_literals;

namespace {

// A tensor with memory of its own.
struct owned : tensor {
  std::string content;
  owned(const std::string& name_of, dtype type_of, std::vector<std::int64_t> shape_of, std::string bytes_of)
      : tensor{name_of, type_of, std::move(shape_of), {}}, content(std::move(bytes_of)) {
    data = test::as_bytes(content);
  }
  owned(const owned&) = delete;
};

std::string zeros(std::size_t n) { return std::string(n, '\0'); }
template <class T> std::string repeated(T x, std::size_t n) {
  std::string s;
  for (std::size_t i = 0; i < n; ++i) s += test::le(x);
  return s;
}
template <class T> void set(owned& o, std::size_t i, T x) { std::memcpy(o.content.data() + i * sizeof x, &x, sizeof x); }
const std::uint16_t half = 0x3800, half_nan = 0x7E00, half_infinity = 0x7C00;

template <class Layer> void refused(const Layer& layer, file_rule rule, const char* key, const char* words, std::uint64_t offset = 0) {
  quantized q;
  q.n = 7;
  q.scale.resize(3);
  char line[description_size];
  const file_status s = import_layer(layer, q);
  CAPTURE(describe(s, line));
  CHECK(io::name(s.rule) == std::string(io::name(rule)));
  CHECK(std::string(s.key) == key);
  CHECK(std::string(s.why.what).find(words) != std::string::npos);
  CHECK(s.offset == offset);
  CHECK(q.n == 0);
  CHECK(q.scale.empty());
}
template <class Layer> quantized accepted(const Layer& layer) {
  quantized q;
  char line[description_size];
  const file_status s = import_layer(layer, q);
  INFO(describe(s, line));
  REQUIRE(s);
  std::uint64_t sum = 0;
  test::check_quantized(q, layer.nan != nan_rule::keep, sum);
  return q;
}

}  // namespace

TEST_CASE("GPTQ layers that are refused", "[io]") {
  // K = 64, N = 32, two groups of 32, 4 bits
  owned qweight("w", dtype::i32, {8, 32}, zeros(1024)), qzeros("z", dtype::i32, {2, 4}, zeros(32)),
      scales("s", dtype::f16, {2, 32}, repeated(half, 64));
  std::string index;
  for (std::int32_t j = 0; j < 64; ++j) index += test::le(j % 2);
  owned g_idx("g", dtype::i32, {64}, index);
  const gptq_layer good{&qweight, &qzeros, &scales, &g_idx, 4, 32, 2};
  const quantized q = accepted(good);
  CHECK(q.column_group.size() == 64);
  gptq_layer bad = good;

  for (const tensor* gptq_layer::*part : {&gptq_layer::qweight, &gptq_layer::qzeros, &gptq_layer::scales}) {
    bad = good;
    bad.*part = nullptr;
    refused(bad, file_rule::missing_tensor, "", "there is no");
  }
  bad = good;
  bad.bits = 5;
  refused(bad, file_rule::unsupported, "w", "2, 3, 4 or 8 bits");
  bad.bits = 4, bad.planar = true;
  refused(bad, file_rule::unsupported, "w", "2, 3, 4 or 8 bits");
  bad = good;
  bad.version = 3;
  refused(bad, file_rule::unsupported, "w", "version 1 or 2");
  bad = good;
  bad.group = 0;
  refused(bad, file_rule::bad_field, "w", "group size must be positive");
  bad.group = 64;
  refused(bad, file_rule::bad_shape, "s", "scales must be groups x output features");
  bad = good;
  bad.bits = 3;  // 8 rows of words hold no whole number of 3-bit codes
  refused(bad, file_rule::bad_shape, "w", "whole number of codes");
  bad.bits = 8;  // then K is 32
  refused(bad, file_rule::bad_shape, "s", "scales must be groups x output features");

  const owned wide("w", dtype::i32, {8, 33}, zeros(8 * 33 * 4)), flat("w", dtype::i32, {256}, zeros(1024)),
      floats("w", dtype::f32, {8, 32}, zeros(1024)), none("w", dtype::i32, {0, 32}, "");
  bad = good;
  bad.qweight = &wide;
  refused(bad, file_rule::bad_shape, "w", "fill whole words");
  bad.qweight = &flat;
  refused(bad, file_rule::bad_shape, "w", "must be a matrix");
  bad.qweight = &floats;
  refused(bad, file_rule::bad_value_type, "w", "must be I32");
  bad.qweight = &none;
  refused(bad, file_rule::bad_shape, "w", "at least one row");
  tensor lie = qweight;  // no reader makes such a tensor; an importer must not read past it either
  lie.shape = {8, 1 << 20};
  bad.qweight = &lie;
  refused(bad, file_rule::size_mismatch, "w", "bytes are not those of its shape");
  lie.shape = {std::int64_t(1) << 62, 32};
  refused(bad, file_rule::size_mismatch, "w", "bytes are not those of its shape");

  const owned few_zeros("z", dtype::i32, {1, 4}, zeros(16)), narrow_zeros("z", dtype::i32, {2, 3}, zeros(24));
  bad = good;
  bad.qzeros = &few_zeros;
  refused(bad, file_rule::bad_shape, "z", "groups x words");
  bad.qzeros = &narrow_zeros;
  refused(bad, file_rule::bad_shape, "z", "groups x words");

  const owned short_index("g", dtype::i32, {63}, index.substr(4)), wide_index("g", dtype::i64, {32}, index);
  bad = good;
  bad.g_idx = &short_index;
  refused(bad, file_rule::bad_shape, "g", "one entry per input feature");
  bad.g_idx = &wide_index;
  refused(bad, file_rule::bad_value_type, "g", "must be I32");
  set(g_idx, 5, std::int32_t(2));
  refused(good, file_rule::bad_code, "g", "a group that there is", 20);
  set(g_idx, 5, std::int32_t(-1));
  refused(good, file_rule::bad_code, "g", "a group that there is", 20);
  set(g_idx, 5, std::int32_t(0));  // then group 0 has 33 columns
  refused(good, file_rule::bad_code, "g", "as many columns");
  set(g_idx, 5, std::int32_t(1));

  for (const std::uint16_t odd : {half_nan, half_infinity}) {
    set(scales, 33, odd);
    refused(good, file_rule::bad_code, "s", "NaN or infinite", 66);
    bad = good;
    bad.nan = nan_rule::keep;
    CHECK(!std::isfinite(accepted(bad).scale[3]));  // [N, G]: group 1 of feature 1
  }
}

TEST_CASE("GPTQ zeros of version 1 wrap, of version 2 are as they are", "[io]") {
  for (const int bits : {2, 3, 4, 8}) {
    const std::int64_t words = 32 * bits / 32;
    const owned qweight("w", dtype::i32, {bits, 32}, zeros(std::size_t(bits) * 128)),
        ones("z", dtype::i32, {1, words}, std::string(std::size_t(words) * 4, '\xFF')),
        none("z", dtype::i32, {1, words}, zeros(std::size_t(words) * 4)), scales("s", dtype::f16, {1, 32}, repeated(half, 32));
    gptq_layer layer{&qweight, &ones, &scales, nullptr, bits, -1, 1};
    for (const std::uint8_t z : accepted(layer).zero_points) CHECK(z == 0);
    layer.version = 2;
    for (const std::uint8_t z : accepted(layer).zero_points) CHECK(z == (1 << bits) - 1);
    layer.qzeros = &none;
    for (const std::uint8_t z : accepted(layer).zero_points) CHECK(z == 0);
    layer.version = 1;
    for (const std::uint8_t z : accepted(layer).zero_points) CHECK(z == 1);
  }
}

TEST_CASE("AWQ layers that are refused, and the order of its nibbles", "[io]") {
  owned qweight("w", dtype::i32, {64, 1}, zeros(256)), scales("s", dtype::f16, {2, 8}, repeated(half, 16));
  const owned qzeros("z", dtype::i32, {2, 1}, zeros(8)), short_zeros("z", dtype::i32, {2, 2}, zeros(16));
  const awq_layer good{&qweight, &qzeros, &scales, 32};
  for (int nibble = 0; nibble < 8; ++nibble) {  // column 8 c + order[nibble], as the specification has it
    const std::int64_t order[] = {0, 2, 4, 6, 1, 3, 5, 7};
    set(qweight, 3, 15u << (4 * nibble));
    const quantized q = accepted(good);
    std::vector<std::uint8_t> codes(8 * 64);
    q.codes(0, 8, codes.data());
    for (std::int64_t i = 0; i < 8; ++i) CHECK(codes[std::size_t(i * 64 + 3)] == (i == order[nibble] ? 15 : 0));
  }
  awq_layer bad = good;
  bad.qzeros = &short_zeros;
  refused(bad, file_rule::bad_shape, "z", "groups x words");
  bad = good;
  bad.group = 128;
  refused(bad, file_rule::bad_shape, "s", "groups x output features");
  bad.group = -2;
  refused(bad, file_rule::bad_field, "w", "positive");
  set(scales, 1, half_nan);
  refused(good, file_rule::bad_code, "s", "NaN", 2);
}

TEST_CASE("packed integers that are refused", "[io]") {
  const owned packed_words("w", dtype::i32, {3, 6}, zeros(72)), scale("s", dtype::f32, {3, 2}, repeated(0.5f, 6)),
      zero("z", dtype::i32, {1, 2}, zeros(8)), tall_zero("z", dtype::i32, {2, 2}, zeros(16));
  owned shape("h", dtype::i64, {2}, test::le<std::int64_t>(3) + test::le<std::int64_t>(45));
  const pack_quantized_layer good{&packed_words, &scale, &shape, &zero, nullptr, 4, 32};
  CHECK(accepted(good).groups_k() == 2);  // the second group has 13 columns
  pack_quantized_layer bad = good;
  bad.zero_point = &tall_zero;
  refused(bad, file_rule::bad_shape, "z", "words of output features x groups");
  bad = good;
  for (const int bits : {0, 9, -1}) {
    bad.bits = bits;
    refused(bad, file_rule::unsupported, "w", "1 to 8 bits");
  }
  bad.bits = 3;
  refused(bad, file_rule::bad_shape, "w", "words of input features");
  bad = good;
  bad.group = 16;
  refused(bad, file_rule::size_mismatch, "s", "one scale per group");
  bad.group = 0;
  refused(bad, file_rule::size_mismatch, "s", "one scale per group");
  for (const std::int64_t k : {std::int64_t(49), std::int64_t(0), std::int64_t(-1), std::int64_t(1) << 62, INT64_MAX}) {
    set(shape, 1, k);
    quantized q;
    CHECK(import_layer(good, q).rule == file_rule::bad_shape);
  }
  bad = good;
  bad.shape = nullptr;
  refused(bad, file_rule::missing_tensor, "", "weight_shape");
}

TEST_CASE("bitsandbytes layers that are refused", "[io]") {
  owned weight("w", dtype::u8, {72, 1}, zeros(72)), absmax("a", dtype::u8, {3}, zeros(3)), supers("n", dtype::f32, {2}, repeated(0.5f, 2)),
      map("m", dtype::f32, {256}, repeated(0.25f, 256));
  bitsandbytes_layer good{&weight, &absmax, &supers, &map};
  good.n = 3, good.k = 48, good.nested_block = 2;
  CHECK(accepted(good).flat);
  CHECK(accepted(good).scale[2] == 0.125f);
  bitsandbytes_layer bad = good;
  bad.k = 50;
  refused(bad, file_rule::size_mismatch, "w", "n * k codes");
  bad = good;
  bad.block = 32;
  refused(bad, file_rule::size_mismatch, "a", "one entry per block");
  bad.block = 0;
  refused(bad, file_rule::bad_field, "w", "positive");
  bad = good;
  bad.nested_block = 3;
  refused(bad, file_rule::size_mismatch, "n", "block of blocks");
  bad = good;
  bad.block = INT64_MAX, bad.nested_block = INT64_MAX;
  refused(bad, file_rule::size_mismatch, "a", "one entry per block");
  bad = good;
  bad.nested_map = nullptr;
  refused(bad, file_rule::missing_tensor, "", "nested_quant_map");
  bad = good;
  bad.nested_absmax = bad.nested_map = nullptr;
  refused(bad, file_rule::bad_value_type, "a", "must be F32");
  bad = good;
  bad.nested_map = &supers;
  refused(bad, file_rule::size_mismatch, "n", "256 entries");
  bad = good;
  bad.kind = code_kind::e2m1;
  refused(bad, file_rule::unsupported, "w", "nf4 or fp4");
  bad = good;
  bad.nested_offset = std::numeric_limits<float>::infinity();
  refused(bad, file_rule::bad_code, "a", "NaN or infinite");
  for (const std::int64_t n : {std::int64_t(0), std::int64_t(-3), INT64_MAX}) {
    bad = good;
    bad.n = n;
    quantized q;
    CHECK(import_layer(bad, q).rule == file_rule::bad_shape);
  }
  set(map, 7, std::numeric_limits<float>::quiet_NaN());
  refused(good, file_rule::bad_code, "m", "NaN or infinite", 28);
}

TEST_CASE("a quant_state is read, or refused", "[io]") {
  const auto read = [](const std::string& json, bitsandbytes_layer& layer) {
    const owned state("q", dtype::u8, {std::int64_t(json.size())}, json);
    return read_quant_state(state, layer);
  };
  bitsandbytes_layer layer;
  REQUIRE(read(
      R"({"quant_type": "fp4", "blocksize": 128, "dtype": "bfloat16", "shape": [3, 48], "nested_blocksize": 512, "nested_dtype": "float32", "nested_offset": -0.25, "other": null})",
      layer));
  CHECK(layer.kind == code_kind::fp4);
  CHECK(layer.block == 128);
  CHECK(layer.n == 3);
  CHECK(layer.k == 48);
  CHECK(layer.nested_block == 512);
  CHECK(layer.nested_offset == -0.25f);
  for (const auto& [json, rule] : std::vector<std::pair<std::string, file_rule>>{
           {R"({"quant_type":"nf4","blocksize":64,"shape":[3]})", file_rule::bad_shape},
           {R"({"quant_type":"nf4","blocksize":64,"shape":[3,4,5]})", file_rule::bad_shape},
           {R"({"quant_type":"nf4","blocksize":64,"shape":[3,-4]})", file_rule::bad_shape},
           {R"({"quant_type":"nf4","blocksize":64,"shape":[3,4.5]})", file_rule::bad_shape},
           {R"({"quant_type":"nf4","blocksize":64,"shape":3})", file_rule::bad_field},
           {R"({"quant_type":"nf4","blocksize":0,"shape":[3,4]})", file_rule::bad_field},
           {R"({"quant_type":"nf4","blocksize":"64","shape":[3,4]})", file_rule::bad_field},
           {R"({"quant_type":"int8","blocksize":64,"shape":[3,4]})", file_rule::unsupported},
           {R"({"quant_type":4,"blocksize":64,"shape":[3,4]})", file_rule::bad_field},
           {R"({"quant_type":"nf4","shape":[3,4]})", file_rule::bad_field},
           {R"({"quant_type":"nf4","blocksize":64})", file_rule::bad_field},
           {R"({"quant_type":"nf4","quant_type":"fp4","blocksize":64,"shape":[3,4]})", file_rule::duplicate_key},
           {R"({"quant_type":"nf4","blocksize":64,"shape":[3,4],"x":{}})", file_rule::bad_field},
           {R"([])", file_rule::bad_field},
           {R"("nf4")", file_rule::bad_field},
           {R"(7)", file_rule::bad_field},
           {R"({"quant_type":"nf4","blocksize":64,"shape":[3,4]} x)", file_rule::bad_json},
           {"", file_rule::bad_json}}) {
    bitsandbytes_layer untouched;
    untouched.k = 99;
    const auto s = read(json, untouched);
    CAPTURE(json);
    CHECK(io::name(s.rule) == std::string(io::name(rule)));
    CHECK(untouched.k == 99);
  }
}

TEST_CASE("block-scaled layers that are refused", "[io]") {
  owned weight("w", dtype::u8, {3, 16}, zeros(48)), scale("s", dtype::f8_e4m3, {3, 2}, repeated(std::uint8_t(0x31), 6)),
      all("t", dtype::f32, {1}, repeated(0.5f, 1));
  const auto good = nvfp4(&weight, &scale, &all, tensor_scale_use::multiplies);
  CHECK(accepted(good).scale[0] == accepted(nvfp4(&weight, &scale, nullptr, tensor_scale_use::multiplies)).scale[0] / 2);
  CHECK(accepted(nvfp4(&weight, &scale, &all, tensor_scale_use::divides)).scale[0] == 4 * accepted(good).scale[0]);
  refused(nvfp4(nullptr, &scale, &all, tensor_scale_use::multiplies), file_rule::missing_tensor, "", "no weight");
  refused(nvfp4(&weight, nullptr, &all, tensor_scale_use::multiplies), file_rule::missing_tensor, "", "no scale");
  refused(nvfp4(&weight, &all, &all, tensor_scale_use::multiplies), file_rule::bad_value_type, "t", "of the type the format asks for");
  refused(mx(&weight, &scale, code_kind::e2m1), file_rule::bad_value_type, "s", "of the type the format asks for");
  const owned two("t", dtype::f32, {2}, repeated(0.5f, 2)), floats("w", dtype::f8_e4m3, {3, 16}, zeros(48)),
      vector("w", dtype::u8, {48}, zeros(48)), few("s", dtype::f8_e4m3, {3, 1}, repeated(std::uint8_t(0x31), 3));
  refused(nvfp4(&weight, &scale, &two, tensor_scale_use::multiplies), file_rule::size_mismatch, "t", "one F32");
  refused(nvfp4(&floats, &scale, &all, tensor_scale_use::multiplies), file_rule::bad_value_type, "w", "not that of the format");
  refused(nvfp4(&vector, &scale, &all, tensor_scale_use::multiplies), file_rule::bad_shape, "w", "must be a matrix");
  refused(nvfp4(&weight, &few, &all, tensor_scale_use::multiplies), file_rule::size_mismatch, "s", "one scale per block");
  for (const float odd : {0.0f, std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    set(all, 0, odd);
    refused(good, file_rule::bad_code, "t", "finite and not 0");
  }
  set(all, 0, 0.5f);
  set(scale, 4, std::uint8_t(0x7F));
  refused(good, file_rule::bad_code, "s", "NaN or infinite", 4);

  const owned mx_scale("s", dtype::f8_e8m0, {3, 1}, "\x7F\x7F\xFF");
  auto m = mx(&weight, &mx_scale, code_kind::e2m1);
  refused(m, file_rule::bad_code, "s", "NaN or infinite", 2);
  m.nan = nan_rule::zero_blocks;
  refused(m, file_rule::bad_code, "s", "NaN or infinite", 2);
  m.nan = nan_rule::keep;
  CHECK(std::isnan(accepted(m).scale[2]));
  m.tensor_scale = &all;
  refused(m, file_rule::unsupported, "t", "only E4M3 scales");

  owned bytes_of("w", dtype::f8_e4m3, {2, 3}, zeros(6)), one("s", dtype::f32, {2, 1}, repeated(1.0f, 2));
  auto f = fp8(&bytes_of, &one, 1, 0);
  set(bytes_of, 4, std::uint8_t(0xFF));
  refused(f, file_rule::bad_code, "w", "nan_rule::zero_blocks", 4);
  f.nan = nan_rule::zero_blocks;
  refused(f, file_rule::bad_code, "w", "nan_rule::zero_blocks", 4);  // its scale is not 0
  set(one, 1, -0.0f);
  std::uint8_t codes[6];
  accepted(f).codes(0, 2, codes);
  CHECK(codes[4] == 0);
  f.group_n = -1;
  refused(f, file_rule::bad_field, "w", "must not be negative");
  f = fp8(&bytes_of, &one, 1, 0, code_kind::integer);
  refused(f, file_rule::bad_value_type, "w", "not that of the format");

  owned fives("w", dtype::f8_e5m2, {2, 3}, zeros(6));
  set(one, 1, 1.0f);
  for (const int code : {0x7C, 0x7D, 0xFC, 0xFF}) {  // infinities and NaN
    set(fives, 2, std::uint8_t(code));
    refused(fp8(&fives, &one, 1, 0, code_kind::e5m2), file_rule::bad_code, "w", "NaN or infinite", 2);
  }
  set(fives, 2, std::uint8_t(0x7B));
  accepted(fp8(&fives, &one, 1, 0, code_kind::e5m2));

  const owned sixes("w", dtype::u8, {1, 32}, zeros(31) + "\x40"), one_scale("s", dtype::u8, {1, 1}, "\x7F");
  refused(mx(&sixes, &one_scale, code_kind::e2m3), file_rule::bad_code, "w", "larger than any code", 31);
  const owned odd_six("w", dtype::u8, {1, 25}, zeros(25));
  refused(mx(&odd_six, &one_scale, code_kind::e2m3), file_rule::bad_value_type, "w", "six-bit");
  const owned nibbles("w", dtype::f4, {2, 3}, zeros(3)), two_scales("s", dtype::u8, {2, 1}, "\x7F\x7F");
  refused(mx(&nibbles, &two_scales, code_kind::e2m1), file_rule::bad_shape, "w", "fill whole bytes");
}

TEST_CASE("GGUF tensors that are refused, experts in one matrix", "[io]") {
  std::string block = test::le(half) + std::string(16, '\x9C');
  const std::string six = block + block + block + block + block + block;
  quantized q;
  gguf_tensor t{"w", ggml_type::q4_0, 3, {32, 2, 3, 1}, test::as_bytes(six)};
  REQUIRE(import_tensor(t, q));
  CHECK(q.n == 6);
  CHECK(q.k == 32);
  std::uint8_t codes[32];
  q.codes(5, 1, codes);
  CHECK(codes[0] == 0xC);
  CHECK(codes[16] == 9);
  const auto no = [&](const gguf_tensor& bad, file_rule rule) {
    const auto s = import_tensor(bad, q);
    CHECK(io::name(s.rule) == std::string(io::name(rule)));
    CHECK(std::string(s.key) == "w");
    CHECK(q.n == 0);
  };
  for (const ggml_type type : {ggml_type::f32, ggml_type::q2_k, ggml_type::q3_k, ggml_type::iq4_nl, ggml_type::tq1_0, ggml_type::q8_1,
                               ggml_type::q8_k, ggml_type(4), ggml_type(99)}) {
    gguf_tensor bad = t;
    bad.type = type;
    no(bad, file_rule::unsupported);
  }
  gguf_tensor bad = t;
  bad.extent[1] = 0;
  no(bad, file_rule::bad_shape);
  bad = t;
  bad.extent[0] = 0;
  no(bad, file_rule::bad_shape);
  bad = t;
  bad.extent[0] = 33;
  no(bad, file_rule::size_mismatch);
  bad = t;
  bad.extent[2] = INT64_MAX;
  no(bad, file_rule::size_mismatch);
  bad = t;
  bad.data = bad.data.first(107);
  no(bad, file_rule::size_mismatch);
  const std::string odd = block + block + test::le(half_infinity) + std::string(16, 'x') + block + block + block;
  bad = t;
  bad.data = test::as_bytes(odd);
  const auto s = import_tensor(bad, q);
  CHECK(s.rule == file_rule::bad_code);
  CHECK(s.offset == 36);
  REQUIRE(import_tensor(bad, q, nan_rule::keep));
  CHECK(std::isinf(q.scale[2]));
}

TEST_CASE("plain tensors of every type", "[io]") {
  const auto one = [](dtype type, const std::string& content) {
    const owned o("p", type, {1, 2}, content);
    plain p;
    REQUIRE(import_plain(o, p));
    CHECK(p.n == 1);
    CHECK(p.k == 2);
    float v[2];
    p.values(0, 1, v);
    CHECK(p.value(1) == v[1]);
    return v[1];
  };
  CHECK(one(dtype::boolean, std::string("\0\1", 2)) == 1);
  CHECK(one(dtype::u8, "\0\xFE"s) == 254);
  CHECK(one(dtype::i8, "\0\xFE"s) == -2);
  CHECK(one(dtype::f8_e5m2, "\0\x3E"s) == 1.5f);
  CHECK(one(dtype::f8_e4m3, "\0\x3C"s) == 1.5f);
  CHECK(one(dtype::f8_e8m0, "\0\x80"s) == 2);
  CHECK(one(dtype::f8_e4m3fnuz, "\0\x44"s) == 1.5f);
  CHECK(one(dtype::f8_e5m2fnuz, "\0\x42"s) == 1.5f);
  CHECK(one(dtype::i16, repeated(std::int16_t(-300), 2)) == -300);
  CHECK(one(dtype::u16, repeated(std::uint16_t(65000), 2)) == 65000);
  CHECK(one(dtype::f16, repeated(std::uint16_t(0x3E00), 2)) == 1.5f);
  CHECK(one(dtype::bf16, repeated(std::uint16_t(0x3FC0), 2)) == 1.5f);
  CHECK(one(dtype::i32, repeated(std::int32_t(-70000), 2)) == -70000);
  CHECK(one(dtype::u32, repeated(0x80000000u, 2)) == 0x1p31f);
  CHECK(one(dtype::f32, repeated(1.5f, 2)) == 1.5f);
  CHECK(one(dtype::f64, repeated(1 + 0x1p-25, 2)) == 1);
  CHECK(one(dtype::i64, repeated(std::int64_t(-5), 2)) == -5);
  CHECK(one(dtype::u64, repeated(std::uint64_t(1) << 63, 2)) == 0x1p63f);
  plain p;
  const owned four("p", dtype::f4, {2}, "x"), complex("p", dtype::c64, {1}, "12345678"), scalar("p", dtype::f32, {}, test::le(2.5f)),
      cube("p", dtype::u8, {2, 3, 4}, zeros(24));
  CHECK(import_plain(four, p).rule == file_rule::unsupported);
  CHECK(import_plain(complex, p).rule == file_rule::unsupported);
  REQUIRE(import_plain(scalar, p));
  CHECK(p.value(0) == 2.5f);
  REQUIRE(import_plain(cube, p));
  CHECK(p.n == 6);
  CHECK(p.k == 4);
  tensor lie = cube;
  lie.shape = {2, 3, 5};
  CHECK(import_plain(lie, p).rule == file_rule::size_mismatch);
  const std::string eight = repeated(1.5f, 2);
  REQUIRE(import_plain(gguf_tensor{"g", ggml_type::f32, 1, {2, 1, 1, 1}, test::as_bytes(eight)}, p));
  CHECK(p.value(1) == 1.5f);
  CHECK(import_plain(gguf_tensor{"g", ggml_type::q4_0, 1, {32, 1, 1, 1}, test::as_bytes(eight)}, p).rule == file_rule::unsupported);
  CHECK(import_plain(gguf_tensor{"g", ggml_type::f64, 1, {2, 1, 1, 1}, test::as_bytes(eight)}, p).rule == file_rule::size_mismatch);
}

TEST_CASE("layers are found by the names of their checkpoints", "[io]") {
  const std::string state = R"({"quant_type":"nf4","blocksize":64,"shape":[1,2]})";
  std::string header = "{", data;
  for (const auto& [name, content] : std::vector<std::pair<std::string, std::string>>{{"l.qweight", "a"},
                                                                                      {"l.qzeros", "b"},
                                                                                      {"l.scales", "c"},
                                                                                      {"l.g_idx", "d"},
                                                                                      {"l.weight_packed", "e"},
                                                                                      {"l.weight_scale", "f"},
                                                                                      {"l.weight_shape", "g"},
                                                                                      {"l.weight_zero_point", "h"},
                                                                                      {"l.weight_g_idx", "i"},
                                                                                      {"l.weight", "j"},
                                                                                      {"l.weight.absmax", "k"},
                                                                                      {"l.weight.nested_absmax", "m"},
                                                                                      {"l.weight.nested_quant_map", "n"},
                                                                                      {"l.weight.quant_state.bitsandbytes__nf4", state}}) {
    header += (data.empty() ? "\"" : ",\"") + name + "\":{\"dtype\":\"U8\",\"shape\":[" + std::to_string(content.size()) +
              "],\"data_offsets\":[" + std::to_string(data.size()) + "," + std::to_string(data.size() + content.size()) + "]}";
    data += content;
  }
  const std::string file = test::safetensors_file(header + "}", data);
  safetensors f;
  REQUIRE(f.read(test::as_bytes(file)));
  std::string all;
  const auto take = [&](const tensor* t) { all += t == nullptr ? std::string("?") : std::string(io::detail::text(t->data)); };
  const gptq_layer g = find_gptq(f, "l");
  const awq_layer a = find_awq(f, "l");
  const pack_quantized_layer p = find_pack_quantized(f, "l");
  bitsandbytes_layer b;
  REQUIRE(find_bitsandbytes(f, "l", b));
  for (const tensor* t : {g.qweight, g.qzeros, g.scales, g.g_idx, a.qweight, a.qzeros, a.scales, p.packed, p.scale, p.shape, p.zero_point,
                          p.g_idx, b.weight, b.absmax, b.nested_absmax, b.nested_map})
    take(t);
  CHECK(all == "abcdabcefghijkmn");
  CHECK(b.k == 2);
  CHECK(find_gptq(f, "x").qweight == nullptr);
  CHECK(find_bitsandbytes(f, "x", b).rule == file_rule::missing_tensor);
}
