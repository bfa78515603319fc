// Weights from codes and scales, to the bit, as each format's own package gives them back.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>
#include <smalti/policy/codec.hpp>
#include "policy/producers.hpp"

using namespace smalti;
using namespace producers;
namespace pol = smalti::policy;

namespace {

int compared = 0;

// weight_at(i, j) for every weight of the case's `dequant`.
template <class Weight> void compare(const golden::test_case& c, Weight weight_at) {
  const golden::tensor t = c["dequant"];
  const auto expected = t.as<float>();
  const int k = int(t.shape.back()), n = int(t.size() / (k ? k : 1));
  CAPTURE(c.id, n, k);
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < k; ++j) {
      const float e = expected[std::size_t(i) * k + j], got = weight_at(i, j);
      if (!(got == e || (std::isnan(got) && std::isnan(e)))) {
        CAPTURE(i, j);
        REQUIRE(got == e);
      }
    }
  REQUIRE(n * k > 0);
  ++compared;
}

template <class Format> void gguf(const std::string& name, int block, int size, int groups) {
  using s = typename Format::scales;
  for (const auto& c : golden::cases("gguf.safetensors")) {
    if (c.format != "gguf:" + name || !c.has("dequant")) continue;
    const bytes data = raw(c, "packed");
    const int k = int(c["dequant"].shape.back()), count = int(data.size()) / size;
    std::vector<gguf_block> blocks;
    for (int b = 0; b < count; ++b) blocks.push_back(read_gguf(name, data.data() + b * size));
    const auto given = c["dequant"].as<float>();
    compare(c, [&](int i, int j) {
      const long long at = (long long)i * k + j;
      const gguf_block& b = blocks[at / block];
      if (name == "mxfp4" && b.first[0] == 255) return given[at];
      const int g = int(at % block) / (block / groups);
      float scale = b.first[g], zero = b.second.empty() ? 0.0f : b.second[g];
      if (name == "mxfp4") scale = pol::scale_value<e8m0>(int(scale));
      scale = pol::effective_scale<s>(scale, b.d);
      if constexpr (s::zero == pol::zero_point::floating && requires { s::second::sign; }) zero = pol::effective_minimum<typename s::second>(zero, b.dmin);
      return pol::weight<Format>(b.codes[at % block], scale, zero);
    });
  }
}

// An element and a power of two for each 32, NVFP4's two levels, floats for blocks of FP8.
template <class Format, class Codes> void microscaling(const golden::test_case& c, const Codes& codes, const bytes& scales) {
  const int k = int(c["dequant"].shape.back());
  compare(c, [&](int i, int j) {
    const long long at = (long long)i * k + j;
    return pol::weight<Format>(codes[at], pol::scale_value<e8m0>(int(scales[at / 32])));
  });
}
template <class Format> void nvfp4(const golden::test_case& c, const bytes& codes, const bytes& scales, float tensor) {
  const int k = int(c["dequant"].shape.back());
  compare(c, [&](int i, int j) {
    const long long at = (long long)i * k + j;
    return pol::weight<Format>(codes[at], pol::effective_scale<typename Format::scales>(to_float(fp8_e4m3{scales[at / 16]}), tensor));
  });
}
template <class Format> void blocks_of_fp8(const golden::test_case& c, const bytes& codes, const std::vector<float>& scales, int rows, int cols) {
  const int k = int(c["dequant"].shape.back()), across = cols == 0 ? 1 : (k + cols - 1) / cols;
  compare(c, [&](int i, int j) {
    const int g = (rows == 0 ? 0 : i / rows) * across + (cols == 0 ? 0 : j / cols);
    return pol::weight<Format>(codes[std::size_t(i) * k + j], scales[g]);
  });
}

template <int Bits> void gptq(const golden::test_case& c) {
  using format = pol::int_affine<Bits, 128, pol::zero_point::integer>;
  const int k = c.params.at("k"), n = c.params.at("n");
  const bool planar = c.format == "gptq_p";
  const auto q = words(c, "qweight"), z = words(c, "qzeros_v2");
  const auto g = c["g_idx"].as<std::int32_t>();
  const auto s = floats(c, "scales");
  const int z_words = int(c["qzeros_v2"].shape.back());
  compare(c, [&](int i, int j) {
    const unsigned code = gptq_code(q.data(), j, Bits, i, n, planar), zero = gptq_code(z.data() + std::size_t(g[j]) * z_words, i, Bits, 0, 1, planar);
    return pol::weight<format>(code, s[std::size_t(g[j]) * n + i], float(zero));
  });
  if (c.has("qzeros_v1")) {     // the older files: one less, within the field
    const auto v1 = words(c, "qzeros_v1");
    for (int g0 = 0; g0 < int(c["qzeros_v1"].shape[0]); ++g0)
      for (int i = 0; i < n; ++i)
        REQUIRE(((gptq_code(v1.data() + std::size_t(g0) * z_words, i, Bits, 0, 1, planar) + 1) & ((1u << Bits) - 1)) == gptq_code(z.data() + std::size_t(g0) * z_words, i, Bits, 0, 1, planar));
  }
  (void)k;
}

template <int Bits> void packed_integers(const golden::test_case& c) {
  using symmetric = pol::int_affine<Bits, 32, pol::zero_point::none, float>;
  using asymmetric = pol::int_affine<Bits, 32, pol::zero_point::integer, float>;
  const int n = c.params.at("shape")[0], k = c.params.at("shape")[1];
  const auto q = words(c, "weight_packed");
  const auto s = floats(c, "weight_scale");
  const int groups = int(c["weight_scale"].shape.back()), group = k / groups, row = int(c["weight_packed"].shape.back());
  (void)n;
  if (c.has("weight_zero_point")) {
    const auto z = words(c, "weight_zero_point");
    compare(c, [&](int i, int j) {
      return pol::weight<asymmetric>(bits_at(q.data() + std::size_t(i) * row, j, Bits), s[i * groups + j / group], float(bits_at(z.data() + j / group, i, Bits, groups)));
    });
  } else {
    compare(c, [&](int i, int j) { return pol::weight<symmetric>(bits_at(q.data() + std::size_t(i) * row, j, Bits), s[i * groups + j / group]); });
  }
}

// 1 to 8 as a type
template <class Work> void with_bits(int bits, Work work) {
  switch (bits) {
    case 2: return work(std::integral_constant<int, 2>{});
    case 3: return work(std::integral_constant<int, 3>{});
    case 4: return work(std::integral_constant<int, 4>{});
    case 5: return work(std::integral_constant<int, 5>{});
    case 6: return work(std::integral_constant<int, 6>{});
    case 7: return work(std::integral_constant<int, 7>{});
    case 8: return work(std::integral_constant<int, 8>{});
  }
  FAIL("unexpected number of bits");
}

}  // namespace

TEST_CASE("GGUF blocks", "[policy][formats][golden]") {
  compared = 0;
  gguf<pol::q4_0>("q4_0", 32, 18, 1);
  gguf<pol::q4_1>("q4_1", 32, 20, 1);
  gguf<pol::q5_0>("q5_0", 32, 22, 1);
  gguf<pol::q5_1>("q5_1", 32, 24, 1);
  gguf<pol::q8_0>("q8_0", 32, 34, 1);
  gguf<pol::q4_k>("q4_k", 256, 144, 8);
  gguf<pol::q5_k>("q5_k", 256, 176, 8);
  gguf<pol::q6_k>("q6_k", 256, 210, 16);
  REQUIRE(compared == 29);
  gguf<pol::mxfp4>("mxfp4", 32, 17, 1);   // all 256 scales but 255: ggml takes it for 2^128, OCP and we for NaN
  REQUIRE(compared == 34);
}

TEST_CASE("bitsandbytes NF4 and FP4, double quantization", "[policy][formats][golden]") {
  compared = 0;
  for (const auto& c : golden::cases("bitsandbytes.safetensors")) {
    if ((c.format != "bnb:nf4" && c.format != "bnb:fp4") || !c.has("dequant")) continue;
    const bytes codes = nibbles(raw(c, "packed"), true);
    const int k = int(c["dequant"].shape.back()), block = c.params.at("blocksize");
    std::vector<float> absmax;
    if (c.has("nested_absmax")) {
      const auto outer = floats(c, "nested_absmax"), offset = floats(c, "nested_offset"), map = floats(c, "nested_map");
      const bytes stored = raw(c, "absmax");
      for (unsigned i = 0; i < 256; ++i) REQUIRE(pol::dynamic_map::value(i) == map[i]);
      for (std::size_t i = 0; i < stored.size(); ++i) absmax.push_back(pol::double_quantized_scale(stored[i], outer[i / 256], offset[0]));
      REQUIRE(absmax == floats(c, "absmax_dequant"));
    } else {
      absmax = floats(c, "absmax");
    }
    const std::string type = c.params.contains("dtype") ? std::string(c.params.at("dtype")) : "float32";
    compare(c, [&](int i, int j) {
      const long long at = (long long)i * k + j;
      const float w = c.format == "bnb:nf4" ? pol::weight<pol::bnb_nf4<>>(codes[at], absmax[at / block]) : pol::weight<pol::bnb_fp4<>>(codes[at], absmax[at / block]);
      return type == "bfloat16" ? to_float(narrow<bf16>(w)) : type == "float16" ? to_float(narrow<fp16>(w)) : w;
    });
  }
  REQUIRE(compared == 32);
}

TEST_CASE("GPTQ and AWQ integers", "[policy][formats][golden]") {
  compared = 0;
  for (const auto& c : golden::cases("gptq.safetensors"))
    if (c.has("dequant")) with_bits(c.params.at("bits"), [&](auto bits) { gptq<bits.value>(c); });
  REQUIRE(compared > 15);
  compared = 0;
  for (const auto& c : golden::cases("awq.safetensors")) {
    if (!c.has("dequant")) continue;
    using format = pol::int4_affine<128>;
    const int k = c.params.at("k"), n = c.params.at("n"), given = c.params.at("group"), group = given == -1 ? k : given;
    const auto q = words(c, "qweight"), z = words(c, "qzeros");
    const auto s = floats(c, "scales");
    compare(c, [&](int i, int j) {
      return pol::weight<format>(awq_code(q.data() + std::size_t(j) * (n / 8), i), s[std::size_t(j / group) * n + i], float(awq_code(z.data() + std::size_t(j / group) * (n / 8), i)));
    });
  }
  REQUIRE(compared == 4);
}

TEST_CASE("compressed-tensors", "[policy][formats][golden]") {
  compared = 0;
  int cases = 0;
  for (const auto& c : golden::cases("compressed_tensors.safetensors")) {
    if (!c.has("dequant")) continue;
    ++cases;
    if (c.format == "ct:pack-quantized") with_bits(c.params.at("num_bits"), [&](auto bits) { packed_integers<bits.value>(c); });
    else if (c.format == "ct:nvfp4") nvfp4<pol::nvfp4_divisor>(c, nibbles(raw(c, "weight_packed")), raw(c, "weight_scale"), floats(c, "weight_global_scale")[0]);
    else if (c.format == "ct:mxfp4") microscaling<pol::mxfp4>(c, nibbles(raw(c, "weight_packed")), raw(c, "weight_scale"));
    else if (c.format == "ct:mxfp8") microscaling<pol::mxfp8_e4m3>(c, raw(c, "weight"), raw(c, "weight_scale"));
    else if (c.format == "ct:mxfp6") {
      const bytes b = raw(c, "weight_packed");
      bytes codes;
      for (std::size_t i = 0; i < b.size(); i += 3)
        for (int j = 0; j < 4; ++j) codes.push_back(std::uint8_t((b[i] | b[i + 1] << 8 | b[i + 2] << 16) >> 6 * j & 63));
      microscaling<pol::mxfp6_e2m3>(c, codes, raw(c, "weight_scale"));
    } else if (c.format == "ct:fp8-block") blocks_of_fp8<pol::fp8_block>(c, raw(c, "weight"), floats(c, "weight_scale"), 128, 128);
    else if (c.format == "ct:fp8") blocks_of_fp8<pol::fp8_channel>(c, raw(c, "weight"), floats(c, "weight_scale"), floats(c, "weight_scale").size() == 1 ? 0 : 1, 0);
    else --cases;
  }
  REQUIRE(compared == cases);
  REQUIRE(cases == 31);
}

TEST_CASE("torchao", "[policy][formats][golden]") {
  compared = 0;
  int cases = 0;
  for (const auto& c : golden::cases("torchao.safetensors")) {
    if (!c.has("dequant")) continue;
    ++cases;
    if (c.format == "torchao:mxfp4") microscaling<pol::mxfp4>(c, nibbles(raw(c, "packed")), raw(c, "scale"));
    else if (c.format == "torchao:mxfp6_e2m3") microscaling<pol::mxfp6_e2m3>(c, raw(c, "packed"), raw(c, "scale"));
    else if (c.format == "torchao:mxfp6_e3m2") microscaling<pol::mxfp6_e3m2>(c, raw(c, "packed"), raw(c, "scale"));
    else if (c.format == "torchao:mxfp8_e4m3") microscaling<pol::mxfp8_e4m3>(c, raw(c, "packed"), raw(c, "scale"));
    else if (c.format == "torchao:mxfp8_e5m2") microscaling<pol::mxfp8_e5m2>(c, raw(c, "packed"), raw(c, "scale"));
    else if (c.format == "torchao:nvfp4") nvfp4<pol::nvfp4_multiplier>(c, nibbles(raw(c, "packed")), raw(c, "scale"), c.has("per_tensor_scale") ? floats(c, "per_tensor_scale")[0] : 1.0f);
    else if (c.format == "fp8:1x128") blocks_of_fp8<pol::fp8_row_block>(c, raw(c, "packed"), floats(c, "scale"), 1, 128);
    else if (c.format == "fp8:128x128") blocks_of_fp8<pol::fp8_block>(c, raw(c, "packed"), floats(c, "scale"), 128, 128);
    else if (c.format == "tinygemm-numerics") {
      using format = pol::format<pol::offset_int<4>, pol::scales<bf16, 32, 1, pol::zero_point::floating>>;
      const auto q = c["codes"].as<std::int32_t>();
      const auto s = floats(c, "scale"), z = floats(c, "zero");
      const int group = c.params.at("group");
      compare(c, [&](int i, int j) { return pol::weight<format>(unsigned(q[i * 256 + j]), s[(i * 256 + j) / group], z[(i * 256 + j) / group]); });
    } else --cases;
  }
  REQUIRE(compared == cases);
  REQUIRE(cases == 57);
}

TEST_CASE("ModelOpt and DeepGEMM", "[policy][formats][golden]") {
  compared = 0;
  for (const auto& c : golden::cases("modelopt.safetensors")) {
    if (c.format == "modelopt:nvfp4") nvfp4<pol::nvfp4_multiplier>(c, nibbles(raw(c, "packed")), raw(c, "scale"), floats(c, "scale_2")[0]);
    else if (c.format == "modelopt:mxfp4") microscaling<pol::mxfp4>(c, nibbles(raw(c, "packed")), raw(c, "scale"));
    else if (c.format == "modelopt:mxfp8") microscaling<pol::mxfp8_e4m3>(c, raw(c, "packed"), raw(c, "scale"));
    else if (c.format == "modelopt:fp8") blocks_of_fp8<pol::fp8_tensor>(c, raw(c, "packed"), floats(c, "scale"), 0, 0);
    else if (c.format == "modelopt:fp8-block") blocks_of_fp8<pol::fp8_block>(c, raw(c, "packed"), floats(c, "scale"), 128, 128);
    else if (c.format == "modelopt:fp8-1x128") blocks_of_fp8<pol::fp8_row_block>(c, raw(c, "packed"), floats(c, "scale"), 1, 128);
    else if (c.format == "modelopt:int4") {   // the scale divides: as a stored float its reciprocal would not be the same bits
      const bytes codes = nibbles(raw(c, "packed"), true);
      const auto s = floats(c, "scale");
      const int k = int(c["dequant"].shape.back());
      compare(c, [&](int i, int j) { return pol::offset_int<4>::value(codes[std::size_t(i) * k + j]) / s[(i * k + j) / 64]; });
    }
  }
  REQUIRE(compared == 14);
  compared = 0;
  for (const auto& c : golden::cases("deepgemm.safetensors")) {
    if (!c.has("dequant")) continue;
    if (c.format == "deepgemm:fp8:1x128") blocks_of_fp8<pol::fp8_row_block>(c, raw(c, "packed"), floats(c, "scale"), 1, 128);
    else if (c.format == "deepgemm:fp8:128x128") blocks_of_fp8<pol::fp8_block>(c, raw(c, "packed"), floats(c, "scale"), 128, 128);
    else blocks_of_fp8<pol::format<pol::e2m1, pol::scales<float, 32>>>(c, nibbles(raw(c, "packed")), floats(c, "scale"), 1, 32);
  }
  REQUIRE(compared == 16);
}
