// Quantizers against what each producer's own package made of the same numbers: codes and stored scales, to the bit. The
// encoders that search (K-quants) are held to their producer's error instead.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>
#include <smalti/policy/codec.hpp>
#include <smalti/policy/quantizers/bitsandbytes.hpp>
#include <smalti/policy/quantizers/float8.hpp>
#include <smalti/policy/quantizers/gguf.hpp>
#include <smalti/policy/quantizers/integer.hpp>
#include <smalti/policy/quantizers/microscaling.hpp>
#include "policy/producers.hpp"

using namespace smalti;
using namespace producers;
namespace pol = smalti::policy;

namespace {

int compared = 0;

void same_codes(const golden::test_case& c, const bytes& got, const bytes& expected, int k) {
  CAPTURE(c.id, k);
  REQUIRE(got.size() == expected.size());
  int wrong = 0;
  std::size_t first = 0;
  for (std::size_t i = 0; i < got.size(); ++i)
    if (got[i] != expected[i] && wrong++ == 0) first = i;
  const auto input = floats(c, "input");
  const float x = first < input.size() ? input[first] : 0.0f;
  const int g = got.empty() ? 0 : got[first], e = expected.empty() ? 0 : expected[first];
  CAPTURE(wrong, first, x, g, e);
  REQUIRE(wrong == 0);
  ++compared;
}

// Rows of the input through a quantizer of groups; stored(i) compares what block i stores.
template <class Stored, class Quantizer, class Check> bytes rows(const golden::test_case& c, const Quantizer& quantizer, int n, int k, int group, Check check) {
  const auto x = floats(c, "input");
  REQUIRE(x.size() == std::size_t(n) * k);
  const int groups = group == 0 ? 1 : (k + group - 1) / group;
  bytes codes(x.size());
  std::vector<Stored> stored(std::size_t(n) * groups);
  REQUIRE(pol::quantize_rows(quantizer, view<const float, 1>{x.data(), n, k, k}, group, codes.data(), stored.data()).code == errc::ok);
  for (std::size_t i = 0; i < stored.size(); ++i) {
    CAPTURE(c.id, i);
    check(i, stored[i]);
  }
  return codes;
}

template <class Stored, class Quantizer, class Check> void gguf(const std::string& name, int block, int size, Check check) {
  for (const auto& c : golden::cases("gguf.safetensors")) {
    if (c.format != "gguf:" + name || !c.has("input")) continue;
    const bytes data = raw(c, "packed");
    const int k = int(c["input"].shape.back()), n = int(c["input"].size() / k);
    std::vector<gguf_block> blocks;
    bytes expected;
    for (std::size_t b = 0; b < data.size() / size; ++b) {
      blocks.push_back(read_gguf(name, data.data() + b * size));
      expected.insert(expected.end(), blocks.back().codes.begin(), blocks.back().codes.end());
    }
    same_codes(c, rows<Stored>(c, Quantizer{}, n, k, block, [&](std::size_t i, const Stored& s) { check(data.data() + i * size, s); }), expected, k);
  }
}

double relative_error(const std::vector<float>& x, const std::vector<float>& y) {
  double e = 0, s = 0;
  for (std::size_t i = 0; i < x.size(); ++i) e += (double(x[i]) - y[i]) * (double(x[i]) - y[i]), s += double(x[i]) * x[i];
  return std::sqrt(e / s);
}

template <class Codec, pol::mx_rule Rule, pol::tie Ties = pol::tie::even, pol::zero_sign Zeros = pol::zero_sign::kept>
void microscaling(const golden::test_case& c, const bytes& expected, const bytes& scales) {
  const int k = int(c["input"].shape.back()), n = int(c["input"].size() / k);
  const auto quantizer = pol::mx_quantizer<Codec, Rule, Ties, Zeros>{};
  const auto x = floats(c, "input");
  bytes codes(x.size());
  for (std::size_t b = 0; b < x.size() / 32; ++b) {     // block by block: quantize_rows refuses the cases that hold NaN
    const e8m0 s = quantizer(x.data() + 32 * b, 32, codes.data() + 32 * b);
    CAPTURE(c.id, b);
    REQUIRE(int(s.bits) == int(scales[b]));
    if (s.bits == 255)
      for (int i = 0; i < 32; ++i) codes[32 * b + i] = expected[32 * b + i];   // NaN whatever the codes
  }
  (void)n;
  same_codes(c, codes, expected, k);
}

}  // namespace

TEST_CASE("GGUF encoders without a search", "[policy][quantizer][golden]") {
  compared = 0;
  auto half = [](const std::uint8_t* b, fp16 d) { REQUIRE(half_at(b) == d); };
  auto two = [](const std::uint8_t* b, pol::scale_and_minimum s) { REQUIRE((half_at(b) == s.scale && half_at(b + 2) == s.minimum)); };
  gguf<fp16, pol::q4_0_quantizer>("q4_0", 32, 18, half);
  gguf<fp16, pol::q5_0_quantizer>("q5_0", 32, 22, half);
  gguf<pol::scale_and_minimum, pol::q4_1_quantizer>("q4_1", 32, 20, two);
  gguf<pol::scale_and_minimum, pol::q5_1_quantizer>("q5_1", 32, 24, two);
  gguf<fp16, pol::q8_0_quantizer<>>("q8_0", 32, 34, half);
  gguf<e8m0, pol::gguf_mxfp4_quantizer>("mxfp4", 32, 17, [](const std::uint8_t* b, e8m0 s) { REQUIRE(int(b[0]) == int(s.bits)); });
  REQUIRE(compared == 18);
}

TEST_CASE("GGUF encoders that search are as good as their producer's", "[policy][quantizer][golden]") {
  int cases = 0;
  for (const auto& c : golden::cases("gguf.safetensors")) {
    const bool q4 = c.format == "gguf:q4_k", q5 = c.format == "gguf:q5_k", q6 = c.format == "gguf:q6_k";
    if (!(q4 || q5 || q6) || !c.has("input")) continue;
    ++cases;
    const auto x = floats(c, "input"), theirs = floats(c, "dequant");
    std::vector<float> ours(x.size());
    const int n = int(x.size() / 256);
    bytes codes(x.size());
    const view<const float, 1> in{x.data(), n, 256, 256};
    if (q6) {
      std::vector<pol::q6_k_block> s(n);
      REQUIRE(pol::quantize_rows(pol::q6_k_quantizer{}, in, 256, codes.data(), s.data()).code == errc::ok);
      for (std::size_t i = 0; i < x.size(); ++i) ours[i] = pol::weight<pol::q6_k>(codes[i], to_float(s[i / 256].d) * s[i / 256].scale[i % 256 / 16]);
    } else {
      std::vector<pol::super_block<8>> s(n);
      if (q4) REQUIRE(pol::quantize_rows(pol::q4_k_quantizer{}, in, 256, codes.data(), s.data()).code == errc::ok);
      else REQUIRE(pol::quantize_rows(pol::q5_k_quantizer{}, in, 256, codes.data(), s.data()).code == errc::ok);
      for (std::size_t i = 0; i < x.size(); ++i) {
        const auto& b = s[i / 256];
        const int g = int(i % 256 / 32);
        ours[i] = pol::weight<pol::q4_k>(codes[i] & 15, to_float(b.d) * b.scale[g], -to_float(b.dmin) * b.minimum[g]);
        if (q5) ours[i] = pol::weight<pol::q5_k>(codes[i], to_float(b.d) * b.scale[g], -to_float(b.dmin) * b.minimum[g]);
      }
    }
    // rows of very different size are compared one by one; fp16 super scales may under- or overflow for both
    for (int r = 0; r < n; ++r) {
      const std::vector<float> row(x.begin() + 256 * r, x.begin() + 256 * (r + 1)), a(ours.begin() + 256 * r, ours.begin() + 256 * (r + 1)), b(theirs.begin() + 256 * r, theirs.begin() + 256 * (r + 1));
      const double ea = relative_error(row, a), eb = relative_error(row, b);
      CAPTURE(c.id, r, ea, eb);
      // d and dmin are fp16: each puts 2^-11 of its part into every weight, which a block of two values shows
      if (std::isfinite(eb)) CHECK(ea <= 1.05 * eb + 0x1p-10);
    }
  }
  REQUIRE(cases == 6);
}

TEST_CASE("bitsandbytes quantizers", "[policy][quantizer][golden]") {
  compared = 0;
  for (const auto& c : golden::cases("bitsandbytes.safetensors")) {
    if (c.format == "bnb:int8" && c.id.find("outliers") == std::string::npos) {
      const int n = c.params.at("shape")[0], k = c.params.at("shape")[1];
      const auto stored = floats(c, "row_absmax");
      bytes expected = raw(c, "packed");
      for (auto& e : expected) e = std::uint8_t(e + 128);
      const bytes got = rows<float>(c, pol::bitsandbytes_int8_quantizer{}, n, k, 0, [&](std::size_t i, float s) { REQUIRE(s == stored[i]); });
      same_codes(c, got, expected, k);
    }
    if ((c.format != "bnb:nf4" && c.format != "bnb:fp4") || !c.has("input")) continue;
    const int count = int(c["input"].size()), block = c.params.at("blocksize");
    bytes expected = nibbles(raw(c, "packed"), true);
    expected.resize(count);
    std::vector<float> absmax;
    auto keep = [&](std::size_t, float s) { absmax.push_back(s); };
    const bool nf4 = c.format == "bnb:nf4";
    const bytes got = nf4 ? (block == 64 ? rows<float>(c, pol::bitsandbytes_quantizer<pol::nf4, 64>{}, 1, count, block, keep) : rows<float>(c, pol::bitsandbytes_quantizer<pol::nf4, 128>{}, 1, count, block, keep))
                          : (block == 64 ? rows<float>(c, pol::bitsandbytes_quantizer<pol::fp4, 64>{}, 1, count, block, keep) : rows<float>(c, pol::bitsandbytes_quantizer<pol::fp4, 128>{}, 1, count, block, keep));
    if (c.has("nested_absmax")) {
      const auto outer = floats(c, "nested_absmax"), offset = floats(c, "nested_offset");
      bytes stored(absmax.size());
      std::vector<float> outer_of_ours(outer.size());
      pol::double_quantize(absmax.data(), int(absmax.size()), offset[0], stored.data(), outer_of_ours.data());
      REQUIRE(outer_of_ours == outer);
      const bytes theirs = raw(c, "absmax");
      int differ = 0;
      for (std::size_t i = 0; i < stored.size(); ++i)
        if (stored[i] != theirs[i]) {   // their search works in bins of 2^-16: ours must then be the nearer
          const double y = (double(absmax[i]) - offset[0]) / outer[i / 256];
          REQUIRE(std::abs(y - pol::dynamic_map::value(stored[i])) < std::abs(y - pol::dynamic_map::value(theirs[i])));
          REQUIRE(std::abs(int(stored[i]) - int(theirs[i])) <= 4);
          ++differ;
        }
      REQUIRE(differ * 100 <= int(stored.size()));
      REQUIRE(pol::mean_of(absmax.data(), int(absmax.size())) == Approx(offset[0]).epsilon(1e-6));
    } else {
      REQUIRE(absmax == floats(c, "absmax"));
    }
    same_codes(c, got, expected, count);
  }
  REQUIRE(compared == 32);
}

TEST_CASE("integer quantizers", "[policy][quantizer][golden]") {
  compared = 0;
  for (const auto& c : golden::cases("gptq.safetensors")) {
    if (!c.has("input") || c.params.value("act_order", false) || c.id.find(".act") != std::string::npos) continue;
    const int bits = c.params.at("bits"), k = c.params.at("k"), n = c.params.at("n");
    const auto q = words(c, "qweight"), z = words(c, "qzeros_v2");
    const auto g_idx = c["g_idx"].as<std::int32_t>();
    const auto scales = floats(c, "scales");
    int group = 0;
    while (group < k && g_idx[group] == 0) ++group;
    const int groups = g_idx.back() + 1, z_words = int(c["qzeros_v2"].shape.back());
    const bool planar = c.format == "gptq_p", symmetric = c.params.value("sym", false);
    bytes expected;
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < k; ++j) expected.push_back(std::uint8_t(gptq_code(q.data(), j, bits, i, n, planar)));
    auto run = [&](auto quantizer) {
      same_codes(c, rows<pol::scale_and_zero<float>>(c, quantizer, n, k, group, [&](std::size_t i, pol::scale_and_zero<float> s) {
                   const int row = int(i) / groups, g = int(i) % groups;
                   REQUIRE(to_float(narrow<fp16>(s.scale)) == scales[std::size_t(g) * n + row]);
                   REQUIRE(unsigned(s.zero) == gptq_code(z.data() + std::size_t(g) * z_words, row, bits, 0, 1, planar));
                 }), expected, k);
    };
    auto both = [&](auto b) { symmetric ? run(pol::gptq_quantizer<b.value, true>{}) : run(pol::gptq_quantizer<b.value, false>{}); };
    switch (bits) {
      case 2: both(std::integral_constant<int, 2>{}); break;
      case 3: both(std::integral_constant<int, 3>{}); break;
      case 4: both(std::integral_constant<int, 4>{}); break;
      case 5: both(std::integral_constant<int, 5>{}); break;
      case 6: both(std::integral_constant<int, 6>{}); break;
      case 7: both(std::integral_constant<int, 7>{}); break;
      case 8: both(std::integral_constant<int, 8>{}); break;
    }
  }
  REQUIRE(compared > 10);
  compared = 0;
  for (const auto& c : golden::cases("awq.safetensors")) {
    if (!c.has("input")) continue;
    const int k = c.params.at("k"), n = c.params.at("n"), given = c.params.at("group"), group = given == -1 ? k : given, groups = k / group;
    const auto q = words(c, "qweight"), z = words(c, "qzeros");
    const auto scales = floats(c, "scales");
    bytes expected;
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < k; ++j) expected.push_back(std::uint8_t(awq_code(q.data() + std::size_t(j) * (n / 8), i)));
    same_codes(c, rows<pol::scale_and_zero<float>>(c, pol::awq_quantizer<4>{}, n, k, group, [&](std::size_t i, pol::scale_and_zero<float> s) {
                 const int row = int(i) / groups, g = int(i) % groups;
                 REQUIRE(to_float(narrow<fp16>(s.scale)) == scales[std::size_t(g) * n + row]);
                 REQUIRE(unsigned(s.zero) == awq_code(z.data() + std::size_t(g) * (n / 8), row));
               }), expected, k);
  }
  REQUIRE(compared == 4);
  compared = 0;
  for (const auto& c : golden::cases("compressed_tensors.safetensors")) {
    if (c.format != "ct:pack-quantized" || !c.has("input")) continue;
    const int bits = c.params.at("num_bits"), n = c.params.at("shape")[0], k = c.params.at("shape")[1];
    const auto q = words(c, "weight_packed");
    const auto scales = floats(c, "weight_scale");
    const int groups = int(c["weight_scale"].shape.back()), row = int(c["weight_packed"].shape.back());
    bytes expected;
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < k; ++j) expected.push_back(std::uint8_t(bits_at(q.data() + std::size_t(i) * row, j, bits)));
    const auto z = c.has("weight_zero_point") ? words(c, "weight_zero_point") : std::vector<std::uint32_t>{};
    auto run = [&](auto quantizer) {
      same_codes(c, rows<pol::scale_and_zero<float>>(c, quantizer, n, k, groups == 1 ? 0 : k / groups, [&](std::size_t i, pol::scale_and_zero<float> s) {
                   REQUIRE(s.scale == scales[i]);
                   if (!z.empty()) REQUIRE(unsigned(s.zero) == bits_at(z.data() + i % groups, int(i) / groups, bits, groups));
                 }), expected, k);
    };
    const bool sym = z.empty();
    if (bits == 2) run(pol::compressed_tensors_quantizer<2, true>{});
    if (bits == 3) run(pol::compressed_tensors_quantizer<3, true>{});
    if (bits == 4) sym ? run(pol::compressed_tensors_quantizer<4, true>{}) : run(pol::compressed_tensors_quantizer<4, false>{});
    if (bits == 5) run(pol::compressed_tensors_quantizer<5, true>{});
    if (bits == 6) run(pol::compressed_tensors_quantizer<6, true>{});
    if (bits == 7) run(pol::compressed_tensors_quantizer<7, true>{});
    if (bits == 8) sym ? run(pol::compressed_tensors_quantizer<8, true>{}) : run(pol::compressed_tensors_quantizer<8, false>{});
  }
  REQUIRE(compared == 17);
  compared = 0;
  for (const auto& c : golden::cases("torchao.safetensors")) {
    if (c.format != "tinygemm-numerics") continue;
    const auto q = c["codes"].as<std::int32_t>();
    const auto s = floats(c, "scale"), z = floats(c, "zero");
    same_codes(c, rows<pol::tinygemm_block>(c, pol::tinygemm_quantizer{}, 8, 256, c.params.at("group"), [&](std::size_t i, pol::tinygemm_block b) {
                 REQUIRE(to_float(b.scale) == s[i]);
                 REQUIRE(to_float(b.zero) == z[i]);
               }), bytes(q.begin(), q.end()), 256);
  }
  REQUIRE(compared == 3);
  compared = 0;
  for (const auto& c : golden::cases("modelopt.safetensors")) {
    if (c.format != "modelopt:int4") continue;
    const auto s = floats(c, "scale");
    const int count = int(c["input"].size());
    same_codes(c, rows<float>(c, pol::modelopt_int4_quantizer{}, 1, count, 64, [&](std::size_t i, float stored) { REQUIRE(stored == s[i]); }), nibbles(raw(c, "packed"), true), count);
  }
  REQUIRE(compared == 2);
}

TEST_CASE("microscaling quantizers", "[policy][quantizer][golden]") {
  using pol::mx_rule;
  compared = 0;
  for (const auto& c : golden::cases("torchao.safetensors")) {
    if (c.format.rfind("torchao:mx", 0) != 0) continue;
    const std::string rule = c.params.at("scale_rule");
    const bytes scales = raw(c, "scale");
    auto all = [&](auto codec, const bytes& codes) {
      using t = decltype(codec);
      if (rule == "floor") microscaling<t, mx_rule::floor>(c, codes, scales);
      else if (rule == "ceil") microscaling<t, mx_rule::ceil>(c, codes, scales);
      else if (rule == "even") microscaling<t, mx_rule::even>(c, codes, scales);
      else microscaling<t, mx_rule::quotient>(c, codes, scales);
    };
    if (c.format == "torchao:mxfp4") all(pol::e2m1{}, nibbles(raw(c, "packed")));
    if (c.format == "torchao:mxfp6_e2m3") all(pol::e2m3{}, raw(c, "packed"));
    if (c.format == "torchao:mxfp6_e3m2") all(pol::e3m2{}, raw(c, "packed"));
    if (c.format == "torchao:mxfp8_e4m3") all(pol::e4m3{}, raw(c, "packed"));
    if (c.format == "torchao:mxfp8_e5m2") all(pol::e5m2{}, raw(c, "packed"));
  }
  REQUIRE(compared == 44);
  compared = 0;
  for (const auto& c : golden::cases("compressed_tensors.safetensors")) {
    if (c.format == "ct:mxfp4") microscaling<pol::e2m1, mx_rule::even, pol::tie::even, pol::zero_sign::of_nonzero>(c, nibbles(raw(c, "weight_packed")), raw(c, "weight_scale"));
    if (c.format == "ct:mxfp8") microscaling<pol::e4m3, mx_rule::quarter>(c, raw(c, "weight"), raw(c, "weight_scale"));
    if (c.format == "ct:mxfp6") {
      const bytes b = raw(c, "weight_packed");
      bytes codes;
      for (std::size_t i = 0; i < b.size(); i += 3)
        for (int j = 0; j < 4; ++j) codes.push_back(std::uint8_t((b[i] | b[i + 1] << 8 | b[i + 2] << 16) >> 6 * j & 63));
      microscaling<pol::e2m3, mx_rule::even>(c, codes, raw(c, "weight_scale"));
    }
  }
  REQUIRE(compared == 7);
  compared = 0;
  for (const auto& c : golden::cases("modelopt.safetensors")) {
    if (c.format == "modelopt:mxfp4") microscaling<pol::e2m1, mx_rule::quotient, pol::tie::toward_zero, pol::zero_sign::negative>(c, nibbles(raw(c, "packed")), raw(c, "scale"));
    if (c.format == "modelopt:mxfp8") microscaling<pol::e4m3, mx_rule::quotient>(c, raw(c, "packed"), raw(c, "scale"));
  }
  REQUIRE(compared == 5);
}

TEST_CASE("NVFP4 quantizers", "[policy][quantizer][golden]") {
  compared = 0;
  auto run = [&](const golden::test_case& c, auto quantizer, const bytes& codes, const bytes& scales) {
    const int k = int(c["input"].shape.back()), n = int(c["input"].size() / k);
    same_codes(c, rows<fp8_e4m3>(c, quantizer, n, k, 16, [&](std::size_t i, fp8_e4m3 s) { REQUIRE(int(s.bits) == int(scales[i])); }), codes, k);
  };
  for (const auto& c : golden::cases("torchao.safetensors"))
    if (c.format == "torchao:nvfp4") run(c, pol::nvfp4_torchao_quantizer{c.has("per_tensor_scale") ? floats(c, "per_tensor_scale")[0] : 1.0f}, nibbles(raw(c, "packed")), raw(c, "scale"));
  for (const auto& c : golden::cases("modelopt.safetensors"))
    if (c.format == "modelopt:nvfp4") {
      const float tensor = floats(c, "scale_2")[0];
      const auto x = floats(c, "input");
      REQUIRE(pol::nvfp4_tensor_scale(pol::absmax{}.reach<pol::e2m1>(x.data(), int(x.size()))) == tensor);
      run(c, pol::nvfp4_modelopt_quantizer{tensor}, nibbles(raw(c, "packed")), raw(c, "scale"));
    }
  for (const auto& c : golden::cases("compressed_tensors.safetensors"))
    if (c.format == "ct:nvfp4") run(c, pol::nvfp4_compressed_tensors_quantizer{floats(c, "weight_global_scale")[0]}, nibbles(raw(c, "weight_packed")), raw(c, "weight_scale"));
  REQUIRE(compared == 12);
}

TEST_CASE("FP8 and FP4 quantizers of tiles", "[policy][quantizer][golden]") {
  compared = 0;
  auto run = [&](const golden::test_case& c, auto rule, const std::string& role, const std::string& scale, int rows, int cols, bool zeros_differ = false) {
    const auto x = floats(c, "input"), expected = floats(c, scale);
    const int k = int(c["input"].shape.back()), n = int(c["input"].size() / k);
    bytes codes(x.size()), given = raw(c, role);
    std::vector<float> scales(expected.size() + 1, -1.0f);
    REQUIRE(pol::quantize_tiles(rule, view<const float, 1>{x.data(), n, k, k}, rows, cols, codes.data(), scales.data()).code == errc::ok);
    CAPTURE(c.id);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      CAPTURE(i);
      REQUIRE(scales[i] == expected[i]);
    }
    REQUIRE(scales.back() == -1.0f);
    if (zeros_differ)   // 0 / 0 at the producer
      for (std::size_t i = 0; i < codes.size(); ++i)
        if (x[i] == 0.0f && (given[i] & 0x7f) == 0x7f) given[i] = codes[i];
    same_codes(c, codes, given, k);
  };
  for (const auto& c : golden::cases("deepgemm.safetensors")) {
    if (!c.has("scale")) continue;
    const bool pow2 = c.params.at("power_of_two");
    const int rows_of = c.params.at("tile")[0], cols = c.params.at("tile")[1];
    if (c.format.rfind("deepgemm:fp8", 0) == 0) pow2 ? run(c, pol::deepgemm_rule<true>{}, "packed", "scale", rows_of, cols) : run(c, pol::deepgemm_rule<false>{}, "packed", "scale", rows_of, cols);
    else {
      const auto scales = floats(c, "scale");
      const int k = int(c["input"].shape.back()), n = int(c["input"].size() / k);
      auto check = [&](std::size_t i, float s) { REQUIRE(s == scales[i]); };
      same_codes(c, pow2 ? rows<float>(c, pol::deepgemm_fp4_quantizer<true>{}, n, k, 32, check) : rows<float>(c, pol::deepgemm_fp4_quantizer<false>{}, n, k, 32, check), nibbles(raw(c, "packed")), k);
    }
  }
  REQUIRE(compared == 16);
  compared = 0;
  for (const auto& c : golden::cases("torchao.safetensors"))
    if (c.format.rfind("fp8:", 0) == 0) run(c, pol::torchao_rule{}, "packed", "scale", c.params.at("tile")[0], c.params.at("tile")[1]);
  REQUIRE(compared == 4);
  compared = 0;
  for (const auto& c : golden::cases("modelopt.safetensors")) {
    if (c.format == "modelopt:fp8") run(c, pol::quotient_rule{}, "packed", "scale", 0, 0);
    if (c.format == "modelopt:fp8-block") run(c, pol::quotient_rule{}, "packed", "scale", 128, 128);
    if (c.format == "modelopt:fp8-1x128") run(c, pol::quotient_rule{}, "packed", "scale", 1, 128, true);
  }
  for (const auto& c : golden::cases("compressed_tensors.safetensors")) {
    if (c.format == "ct:fp8") run(c, pol::quotient_rule{0x1p-23f}, "weight", "weight_scale", floats(c, "weight_scale").size() == 1 ? 0 : 1, 0);
    if (c.format == "ct:fp8-block") run(c, pol::quotient_rule{0x1p-23f}, "weight", "weight_scale", 128, 128);
  }
  REQUIRE(compared == 8);
}
