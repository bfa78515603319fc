// Every importer against the producer of its format: the neutral form, decoded by the reference from its definition alone, equals
// what the producer's own package gives back, to the bit (== and NaN for NaN). tests/golden/README.md says who the producers are.
#include <catch2/catch.hpp>

#include <cmath>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include <smalti/io/bitsandbytes.hpp>
#include <smalti/io/block_scaled.hpp>
#include <smalti/io/compressed_tensors.hpp>
#include <smalti/io/ggml_blocks.hpp>
#include <smalti/io/gptq.hpp>
#include <smalti/io/mapped_file.hpp>
#include <smalti/io/plain.hpp>
#include <smalti/io/safetensors.hpp>

#include "../reference/imported.hpp"
#include "../support/golden.hpp"
#include "../support/golden_file.hpp"
#include "../support/paths.hpp"

using namespace smalti;
using namespace smalti::io;

namespace {

using test::floats, test::opened;

const reference::tables& tables() {
  static const reference::tables all = [] {
    opened f("bitsandbytes.safetensors");
    return reference::tables{floats(*f(golden::find("bitsandbytes/nf4.table"), "values")),
                             floats(*f(golden::find("bitsandbytes/fp4.table"), "values"))};
  }();
  return all;
}

bool same(float a, float b) { return a == b || (std::isnan(a) && std::isnan(b)); }

// All values, the codes asked for in bands of every height up to 5: each band must say the same.
std::vector<float> values(const quantized& q) {
  std::vector<float> v(std::size_t(q.n * q.k));
  std::vector<std::uint8_t> codes(std::size_t(q.n * q.k) + 1), band(codes.size());
  codes.back() = 0xAA;
  q.codes(0, q.n, codes.data());
  REQUIRE(codes.back() == 0xAA);
  for (std::int64_t height = 1; height <= 5; ++height)
    for (std::int64_t i = 0; i < q.n; i += height) {
      const std::int64_t count = std::min(height, q.n - i);
      q.codes(i, count, band.data());
      REQUIRE(std::memcmp(band.data(), codes.data() + i * q.k, std::size_t(count * q.k)) == 0);
    }
  for (std::int64_t i = 0; i < q.n; ++i)
    for (std::int64_t j = 0; j < q.k; ++j) {
      const unsigned code = codes[std::size_t(i * q.k + j)];
      REQUIRE(code < (1u << q.bits));
      v[std::size_t(i * q.k + j)] = reference::imported_value(q, i, j, code, tables());
    }
  return v;
}

// Differences to a tensor of the producer's.
std::int64_t wrong(const quantized& q, const tensor* expected) {
  REQUIRE(expected != nullptr);
  const std::vector<float> want = floats(*expected), got = values(q);
  REQUIRE(want.size() == got.size());
  REQUIRE(q.scale.size() == std::size_t(q.groups()));
  REQUIRE((q.minimum.empty() || q.minimum.size() == q.scale.size()));
  REQUIRE((q.zero == zero_kind::per_group) == !q.zero_points.empty());
  std::int64_t count = 0;
  for (std::size_t i = 0; i < want.size(); ++i) count += !same(want[i], got[i]);
  return count;
}

// The stored scales must make the scales.
void check_stored(const quantized& q) {
  const stored_scales& s = q.stored;
  if (s.form == scale_form::single) return;
  REQUIRE(s.code.size() == q.scale.size());
  int bad = 0;
  for (std::size_t g = 0; g < q.scale.size(); ++g) {
    const float super = s.super.empty() ? 1 : s.super.at(s.span == 0 ? 0 : g / std::size_t(s.span));
    const unsigned c = s.code[g];
    float want = 0;
    switch (s.form) {
      case scale_form::e8m0: want = c == 255 ? NAN : float(std::ldexp(1.0, int(c) - 127)); break;
      case scale_form::e4m3: {
        const double e = reference::imported_code(code_kind::e4m3, c, tables());
        want = reference::rounded(s.divides ? e / super : e * super);
        break;
      }
      case scale_form::ue4m3_ggml:
        want = c == 0x7F ? 0 : c == 0xFF ? 480 : float(reference::imported_code(code_kind::e4m3, c & 0x7F, tables()));
        break;
      case scale_form::u6: want = reference::rounded(double(super) * c); break;
      case scale_form::s8: want = reference::rounded(double(super) * std::int8_t(c)); break;
      default: want = reference::rounded(double(reference::rounded(double(s.map.at(c)) * super)) + s.offset);
    }
    bad += !same(want, q.scale[g]);
    if (s.form == scale_form::u6)
      bad += !same(-reference::rounded(double(s.super_minimum.at(g / std::size_t(s.span))) * s.minimum_code.at(g)), q.minimum[g]);
  }
  CHECK(bad == 0);
}

template <class Layer> quantized imported(const Layer& layer) {
  quantized q;
  char line[description_size];
  const file_status s = import_layer(layer, q);
  INFO(describe(s, line));
  REQUIRE(s);
  check_stored(q);
  return q;
}

std::int64_t number(const golden::test_case& c, const char* key) { return c.params.at(key); }

}  // namespace

TEST_CASE("GPTQ, versions 1 and 2, act-order, ragged groups, planes", "[io]") {
  const opened f("gptq.safetensors");
  std::map<std::string, int> seen;
  for (const auto& c : golden::cases("gptq.safetensors")) {
    CAPTURE(c.id);
    gptq_layer layer{f(c, "qweight"),     f(c, "qzeros_v2"), f(c, "scales"), f(c, "g_idx"), int(number(c, "bits")), number(c, "group"), 2,
                     c.format == "gptq_p"};
    const quantized q = imported(layer);
    CHECK(q.n == number(c, "n"));
    CHECK(q.k == number(c, "k"));
    CHECK(wrong(q, f(c, "dequant")) == 0);
    CHECK(q.column_group.empty() == !c.params.at("act_order"));
    ++seen[c.format];
    if (!layer.planar) {
      layer.qzeros = f(c, "qzeros_v1");
      layer.version = 1;
      CHECK(wrong(imported(layer), f(c, "dequant")) == 0);
    }
    if (!c.params.at("act_order")) {
      layer.g_idx = nullptr;
      CHECK(wrong(imported(layer), f(c, "dequant")) == 0);
    } else {  // in the order of columns that it names, groups are contiguous
      const auto order = q.column_order();
      REQUIRE(order.size() == std::size_t(q.k));
      std::vector<bool> used(order.size());
      for (std::size_t p = 0; p < order.size(); ++p) {
        CHECK(q.group(0, order[p]) == std::int64_t(p) / q.group_k);
        used[std::size_t(order[p])] = true;
      }
      CHECK(std::count(used.begin(), used.end(), false) == 0);
      ++seen["act_order"];
    }
  }
  CHECK(seen["gptq"] == 23);
  CHECK(seen["gptq_p"] == 4);
  CHECK(seen["act_order"] == 5);
}

TEST_CASE("AWQ", "[io]") {
  const opened f("awq.safetensors");
  int seen = 0;
  for (const auto& c : golden::cases("awq.safetensors")) {
    if (!c.has("dequant")) continue;
    CAPTURE(c.id);
    const quantized q = imported(awq_layer{f(c, "qweight"), f(c, "qzeros"), f(c, "scales"), number(c, "group")});
    CHECK(q.n == number(c, "n"));
    CHECK(q.k == number(c, "k"));
    CHECK(wrong(q, f(c, "dequant")) == 0);
    ++seen;
  }
  CHECK(seen == 4);
}

TEST_CASE("blocks of ggml", "[io]") {
  const opened f("gguf.safetensors");
  std::map<std::string, int> seen;
  for (const auto& c : golden::cases("gguf.safetensors")) {
    if (!c.has("dequant")) continue;
    CAPTURE(c.id);
    const tensor* packed = f(c, "packed");
    const tensor* want = f(c, "dequant");
    const std::uint32_t type = c.params.contains("type") ? std::uint32_t(c.params.at("type")) : c.format == "gguf:mxfp4" ? 39u : 40u;
    const gguf_tensor t{packed->name, ggml_type(type), 2, {want->shape[1], want->shape[0], 1, 1}, packed->data};
    quantized q;
    const auto s = import_tensor(t, q, nan_rule::keep);
    if (io::detail::layout(t.type).group == 0) {
      CHECK(s.rule == file_rule::unsupported);
      continue;
    }
    REQUIRE(s);
    check_stored(q);
    // Blocks whose scale is NaN in the standard, which ggml takes for 2^128.
    std::int64_t differences = wrong(q, want);
    if (t.type == ggml_type::mxfp4) {
      const std::vector<float> theirs = floats(*want), ours = values(q);
      for (std::size_t i = 0; i < ours.size(); ++i)
        if (q.stored.code[std::size_t(q.group(std::int64_t(i) / q.k, std::int64_t(i) % q.k))] == 255)
          differences -= !same(theirs[i], ours[i]);
    }
    CHECK(differences == 0);
    ++seen[c.format];
    // Refused exactly where something is not finite.
    bool finite = true;
    for (const float x : q.scale) finite = finite && std::isfinite(x);
    for (const float x : q.minimum) finite = finite && std::isfinite(x);
    CHECK(bool(import_tensor(t, q)) == finite);
  }
  const std::map<std::string, int> all{{"gguf:q4_0", 4}, {"gguf:q4_1", 4}, {"gguf:q5_0", 4}, {"gguf:q5_1", 4},  {"gguf:q8_0", 4},
                                       {"gguf:q4_k", 3}, {"gguf:q5_k", 3}, {"gguf:q6_k", 3}, {"gguf:mxfp4", 5}, {"gguf:nvfp4", 6}};
  CHECK(seen == all);
}

TEST_CASE("bitsandbytes, with and without double quantization, blocks that cross rows", "[io]") {
  const opened f("bitsandbytes.safetensors");
  std::map<std::string, int> seen;
  for (const auto& c : golden::cases("bitsandbytes.safetensors")) {
    if (!c.has("dequant") || (c.format != "bnb:nf4" && c.format != "bnb:fp4")) continue;
    CAPTURE(c.id);
    bitsandbytes_layer layer{f(c, "packed"), f(c, "absmax"), f(c, "nested_absmax"), f(c, "nested_map")};
    layer.kind = c.format == "bnb:nf4" ? code_kind::nf4 : code_kind::fp4;
    layer.n = c.params.at("shape").at(0);
    layer.k = c.params.at("shape").at(1);
    layer.block = number(c, "blocksize");
    if (c.has("nested_offset")) layer.nested_offset = floats(*f(c, "nested_offset"))[0];
    const quantized q = imported(layer);
    CHECK(q.flat == (layer.k % layer.block != 0));
    if (c.has("absmax_dequant")) CHECK(q.scale == floats(*f(c, "absmax_dequant")));
    const std::string dtype_of = c.params.value("dtype", "float32");
    if (dtype_of == "float32") {
      CHECK(wrong(q, f(c, "dequant")) == 0);
    } else {  // bitsandbytes rounds the values once more
      const std::vector<float> want = floats(*f(c, "dequant")), got = values(q);
      int differences = 0;
      for (std::size_t i = 0; i < want.size(); ++i)
        differences += !same(want[i], dtype_of == "bfloat16" ? to_float(narrow<smalti::bf16>(got[i])) : to_float(narrow<fp16>(got[i])));
      CHECK(differences == 0);
    }
    ++seen[c.format + (q.flat ? " flat" : "") + (c.has("nested_map") ? " nested" : "")];
  }
  const std::map<std::string, int> all{{"bnb:nf4", 8}, {"bnb:nf4 flat", 4}, {"bnb:nf4 nested", 4},
                                       {"bnb:fp4", 8}, {"bnb:fp4 flat", 4}, {"bnb:fp4 nested", 4}};
  CHECK(seen == all);
}

TEST_CASE("compressed-tensors", "[io]") {
  const opened f("compressed_tensors.safetensors");
  std::map<std::string, int> seen;
  for (const auto& c : golden::cases("compressed_tensors.safetensors")) {
    CAPTURE(c.id);
    quantized q;
    const tensor* scale = f(c, "weight_scale");
    const tensor* codes = c.has("weight_packed") ? f(c, "weight_packed") : f(c, "weight");
    const std::string strategy = c.params.at("strategy");
    if (c.format == "ct:pack-quantized")
      q = imported(pack_quantized_layer{codes, scale, f(c, "weight_shape"), f(c, "weight_zero_point"), nullptr, int(number(c, "num_bits")),
                                        strategy == "group" ? number(c, "group_size") : -1});
    else if (c.format == "ct:nvfp4") q = imported(nvfp4(codes, scale, f(c, "weight_global_scale"), tensor_scale_use::divides));
    else if (c.format == "ct:mxfp4") q = imported(mx(codes, scale, code_kind::e2m1));
    else if (c.format == "ct:mxfp6") q = imported(mx(codes, scale, code_kind::e2m3));
    else if (c.format == "ct:mxfp8") q = imported(mx(codes, scale, code_kind::e4m3));
    else if (c.format == "ct:fp8") q = imported(fp8(codes, scale, strategy == "tensor" ? 0 : 1, 0));
    else q = imported(fp8(codes, scale, 128, 128));
    CHECK(wrong(q, f(c, "dequant")) == 0);
    ++seen[c.format];
  }
  const std::map<std::string, int> all{{"ct:pack-quantized", 17}, {"ct:nvfp4", 3}, {"ct:mxfp4", 3},    {"ct:mxfp6", 2},
                                       {"ct:mxfp8", 2},           {"ct:fp8", 2},   {"ct:fp8-block", 2}};
  CHECK(seen == all);
}

TEST_CASE("torchao, ModelOpt and DeepGEMM", "[io]") {
  std::map<std::string, int> seen;
  int refused = 0;
  for (const char* name : {"torchao.safetensors", "modelopt.safetensors", "deepgemm.safetensors"}) {
    const opened f(name);
    for (const auto& c : golden::cases(name)) {
      if (!c.has("dequant") || !c.has("packed") || c.format == "modelopt:int4") continue;
      CAPTURE(c.id);
      const tensor *w = f(c, "packed"), *s = f(c, "scale");
      block_scaled_layer layer;
      if (c.format == "torchao:nvfp4") layer = nvfp4(w, s, f(c, "per_tensor_scale"), tensor_scale_use::multiplies);
      else if (c.format == "modelopt:nvfp4") layer = nvfp4(w, s, f(c, "scale_2"), tensor_scale_use::multiplies);
      else if (c.format == "torchao:mxfp4" || c.format == "modelopt:mxfp4") layer = mx(w, s, code_kind::e2m1);
      else if (c.format == "torchao:mxfp6_e2m3") layer = mx(w, s, code_kind::e2m3);
      else if (c.format == "torchao:mxfp6_e3m2") layer = mx(w, s, code_kind::e3m2);
      else if (c.format == "torchao:mxfp8_e4m3" || c.format == "modelopt:mxfp8") layer = mx(w, s, code_kind::e4m3);
      else if (c.format == "torchao:mxfp8_e5m2") layer = mx(w, s, code_kind::e5m2);
      else if (c.format == "modelopt:fp8") layer = fp8(w, s, 0, 0);
      else if (c.format == "deepgemm:fp4:1x32") layer = {.weight = w, .scale = s, .kind = code_kind::e2m1, .group_n = 1, .group_k = 32};
      else if (c.params.contains("tile")) layer = fp8(w, s, c.params.at("tile").at(0), c.params.at("tile").at(1));
      else layer = fp8(w, s, c.params.at("block").at(0), c.params.at("block").at(1));
      quantized q;
      const auto strict = import_layer(layer, q);
      layer.nan = nan_rule::keep;
      q = imported(layer);
      CHECK(wrong(q, f(c, "dequant")) == 0);
      // Refused exactly where a scale or a code is not finite. (A finite code times a finite scale may still pass the largest
      // float: that is no fault of the file.)
      bool sound = true;
      std::vector<std::uint8_t> codes(std::size_t(q.n * q.k));
      q.codes(0, q.n, codes.data());
      for (const float x : q.scale) sound = sound && std::isfinite(x);
      for (const std::uint8_t code : codes) sound = sound && std::isfinite(reference::imported_code(q.kind, code, tables()));
      CHECK(bool(strict) == sound);
      if (!sound) ++refused;
      CHECK((sound || strict.rule == file_rule::bad_code));
      if (c.id == "modelopt/fp8.zero_block") {  // the all-zero block comes back as zeros, everything else as it was
        layer.nan = nan_rule::zero_blocks;
        const std::vector<float> mended = values(imported(layer)), theirs = floats(*f(c, "dequant"));
        int zeros = 0;
        for (std::size_t i = 0; i < mended.size(); ++i) {
          CHECK(mended[i] == (std::isnan(theirs[i]) ? 0 : theirs[i]));
          zeros += std::isnan(theirs[i]);
        }
        CHECK(zeros == 128);
      }
      ++seen[c.format];
    }
  }
  CHECK(seen.size() == 17);
  int all = 0;
  for (const auto& [format, count] : seen) all += count;
  CHECK(all == 82);
  CHECK(refused == 3);
}
