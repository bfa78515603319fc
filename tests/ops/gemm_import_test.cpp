// Checkpoints to packed weights: what a kernel will read, decoded place by place, equals what the format's own package gives back
// for the file, to the bit; and a matrix that a format would change is refused.
#include <catch2/catch.hpp>

#include <algorithm>
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
#include <smalti/ops/gemm/import.hpp>

#include "../support/arrays.hpp"
#include "../support/golden.hpp"
#include "../support/golden_file.hpp"
#include "../support/paths.hpp"

using namespace smalti;
using namespace smalti::io;

namespace {

using test::floats, test::opened;

// Scales of group g, output j, wherever the packing has them.
template <class Arrays, class T> T scale_at(const view<const T>& v, int rows, int g, int j) {
  if constexpr (Arrays::panel > 1) return v.data[(std::ptrdiff_t(j / Arrays::panel) * rows + g) * Arrays::panel + j % Arrays::panel];
  else return v.data[std::ptrdiff_t(g) * v.stride + j];
}
float number(float x) { return x; }
float number(fp16 x) { return to_float(x); }
float number(fp8_e4m3 x) { return to_float(x); }
float number(std::uint8_t x) { return float(x); }
float number(std::int8_t x) { return float(x); }

// All weights of a packed matrix, in the file's order of columns.
template <class Weight> std::vector<float> decoded(const Weight& w) {
  using packed = typename Weight::packed;
  using scales = typename packed::scales;
  using second = typename scales::second;
  using arrays = typename Weight::arrays;
  using element = typename scales::element;
  const std::uint32_t* parts[3] = {w.planes.a.data, nullptr, nullptr};
  if constexpr (Weight::layout::parts > 1) parts[1] = gemm::part_of<1>(w.planes).data;
  if constexpr (Weight::layout::parts > 2) parts[2] = gemm::part_of<2>(w.planes).data;
  const int rows = scales::rows(w.packed_k);
  std::vector<float> out(std::size_t(w.n) * w.k, -7777.0f);
  for (int j = 0; j < w.n; ++j)
    for (int p = 0; p < w.packed_k; ++p) {
      const int column = w.order != nullptr ? w.order[p] : p;
      if (column < 0) continue;
      const int g = scales::row_of(p), c = scales::col_of(j);
      const float value = packed::codec::value(policy::packed_code<typename Weight::layout>(parts, j, p, w.packed_k));
      float scale = 0, minimum = 0, zero = 0;
      const auto stored = scale_at<arrays>(w.scales.scale, rows, g, c);
      if constexpr (arrays::double_quantized) {
        const int flat = c * rows + g;
        scale = policy::double_quantized_scale(unsigned(stored), w.scales.blocks.data[flat / second::block], w.scales.tensor[0]);
      } else if constexpr (std::is_same_v<element, e8m0>) {
        scale = to_float(e8m0{std::uint8_t(stored)});
      } else {
        scale = number(element(stored));
        if constexpr (arrays::has_super) scale = scale * to_float(w.scales.outer.data[std::ptrdiff_t(g / second::groups) * w.scales.outer.stride + c]);
        if constexpr (arrays::has_number) scale = policy::effective_scale<scales>(scale, w.scales.tensor[0]);
      }
      if constexpr (arrays::has_minimum) {
        minimum = number(scale_at<arrays>(w.scales.minimum, rows, g, c));
        if constexpr (arrays::has_super) minimum = minimum * -to_float(w.scales.outer_minimum.data[std::ptrdiff_t(g / second::groups) * w.scales.outer_minimum.stride + c]);
      }
      if constexpr (arrays::has_zero) zero = float(scale_at<arrays>(w.scales.zero, rows, g, c));
      float& at = out[std::size_t(j) * w.k + column];
      REQUIRE(at == -7777.0f);      // each column once
      at = policy::rounded((value - zero) * scale);
      if (arrays::has_minimum) at = at + minimum;
    }
  return out;
}

template <class Format> std::vector<float> packed_values(const quantized& q, bool always_ordered = false) {
  using weight = gemm::packed_weight<Format>;
  const bool ordered = always_ordered || !q.column_group.empty();
  test::array<std::byte> memory(weight::bytes(int(q.n), int(q.k), 1, ordered));
  const weight w = weight::over(memory.data(), int(q.n), int(q.k), 1, ordered);
  const status st = gemm::pack_imported(w, q);
  CAPTURE(st.what, st.got, st.need);
  REQUIRE(st.code == errc::ok);
  REQUIRE(memory.guarded());
  return decoded(w);
}
// Without a format, in bands of three rows.
std::vector<float> plain_values(const quantized& q) {
  test::array<float> out(std::size_t(q.n * q.k));
  for (std::int64_t i = 0; i < q.n; i += 3) gemm::imported_values(q, i, std::min<std::int64_t>(3, q.n - i), out.data() + i * q.k);
  REQUIRE(out.guarded());
  return {out.data(), out.data() + out.size()};
}
template <class Format> void same_values(const quantized& q, const tensor* dequant) {
  CHECK(packed_values<Format>(q) == floats(*dequant));
  CHECK(plain_values(q) == floats(*dequant));
}
template <class Format> status refusal(const quantized& q) {
  const status st = gemm::check_import<Format>(q);
  CHECK(st.code != errc::ok);
  return st;
}

template <class Layer> quantized imported(const Layer& layer) {
  quantized q;
  REQUIRE(import_layer(layer, q));
  return q;
}
std::int64_t integer(const golden::test_case& c, const char* key) { return c.params.at(key); }

// FP8 as it lies: the copy's codes under its scales, and nothing behind them.
template <class Format> void same_matrix(const quantized& q, const tensor* dequant) {
  using scales = typename Format::scales;
  const int n = int(q.n), k = int(q.k);
  test::array<std::byte> memory(gemm::matrix_bytes<Format>(n, k));
  gemm::imported_matrix<Format> w;
  REQUIRE(gemm::copy_imported<Format>(w, memory.data(), q).code == errc::ok);
  REQUIRE(memory.guarded());
  CHECK(w.matrix.stride % 16 == 0);
  CHECK(w.scales.scale.stride % 4 == 0);
  std::vector<float> out;
  for (int j = 0; j < n; ++j)
    for (int p = 0; p < k; ++p)
      out.push_back(to_float(w.matrix.data[std::ptrdiff_t(j) * w.matrix.stride + p]) * w.scales.scale.data[std::ptrdiff_t(scales::row_of(p)) * w.scales.scale.stride + scales::col_of(j)]);
  CHECK(out == floats(*dequant));
  CHECK(plain_values(q) == floats(*dequant));
  gemm::imported_matrix<Format> none;
  CHECK(gemm::copy_imported<Format>(none, nullptr, q).code == errc::null_pointer);
  CHECK(none.matrix.data == nullptr);
}

// Block-scaled: the same, two codes a byte where they are e2m1, scales as the file stores them, the tensor's beside them.
template <class Format> void same_block_matrix(const quantized& q, const tensor* dequant) {
  const int n = int(q.n), k = int(q.k);
  test::array<std::byte> memory(gemm::matrix_bytes<Format>(n, k));
  gemm::imported_matrix<Format> w;
  REQUIRE(gemm::copy_imported<Format>(w, memory.data(), q).code == errc::ok);
  REQUIRE(memory.guarded());
  CHECK(w.matrix.stride % 16 == 0);
  CHECK(w.scales.cols % 16 == 0);
  constexpr bool pairs = std::is_same_v<typename Format::codec::storage, e2m1>, number = !std::is_same_v<typename Format::scales::second, policy::one_level>;
  std::vector<float> out;
  for (int j = 0; j < n; ++j)
    for (int p = 0; p < k; ++p) {
      const unsigned byte = reinterpret_cast<const std::uint8_t*>(w.matrix.data)[std::ptrdiff_t(j) * w.matrix.stride + p / (pairs ? 2 : 1)], code = !pairs ? byte : p % 2 == 0 ? byte & 15u : byte >> 4;
      const auto stored = w.scales.data[std::ptrdiff_t(j) * w.scales.stride + p / Format::scales::group_k];
      float scale = 0;
      if constexpr (number) scale = policy::effective_scale<typename Format::scales>(to_float(stored), *w.tensor);
      else scale = to_float(e8m0{stored});
      out.push_back(Format::codec::value(code) * scale);
    }
  CHECK(out == floats(*dequant));
  CHECK(plain_values(q) == floats(*dequant));
}

using policy::zero_point;
template <int Bits> void gptq_case(const quantized& q, std::int64_t group, const tensor* want) {
  if (group == 32) same_values<policy::int_affine<Bits, 32, zero_point::integer>>(q, want);
  else if (group == 64) same_values<policy::int_affine<Bits, 64, zero_point::integer>>(q, want);
  else if (group == 128) same_values<policy::int_affine<Bits, 128, zero_point::integer>>(q, want);
  else same_values<policy::int_affine<Bits, 0, zero_point::integer>>(q, want);
}

}  // namespace

TEST_CASE("GPTQ layers of every width, act-order and ragged ones, and AWQ", "[ops][gemm][io]") {
  const opened f("gptq.safetensors");
  std::map<std::string, int> seen;
  for (const auto& c : golden::cases("gptq.safetensors")) {
    CAPTURE(c.id);
    const int bits = int(integer(c, "bits"));
    const quantized q = imported(gptq_layer{f(c, "qweight"), f(c, "qzeros_v2"), f(c, "scales"), f(c, "g_idx"), bits, integer(c, "group"), 2, c.format == "gptq_p"});
    if (bits == 2) gptq_case<2>(q, integer(c, "group"), f(c, "dequant"));
    else if (bits == 3) gptq_case<3>(q, integer(c, "group"), f(c, "dequant"));
    else if (bits == 4) gptq_case<4>(q, integer(c, "group"), f(c, "dequant"));
    else if (bits == 5) gptq_case<5>(q, integer(c, "group"), f(c, "dequant"));
    else if (bits == 6) gptq_case<6>(q, integer(c, "group"), f(c, "dequant"));
    else if (bits == 7) gptq_case<7>(q, integer(c, "group"), f(c, "dequant"));
    else gptq_case<8>(q, integer(c, "group"), f(c, "dequant"));
    if (c.id == "gptq/b4.sym.g64") {      // zeros that are all 8 need not be kept; groups may become finer; an order may be the plain one
      same_values<policy::int_affine<4, 64>>(q, f(c, "dequant"));
      same_values<policy::int_affine<4, 16>>(q, f(c, "dequant"));
      CHECK(packed_values<policy::int_affine<4, 64>>(q, true) == floats(*f(c, "dequant")));
      CHECK(refusal<policy::int_affine<4, 128>>(q).got == 128);
      CHECK(refusal<policy::int_affine<4, 48>>(q).need == 64);
      CHECK(refusal<policy::int_affine<4, 0>>(q).got == 0);
      CHECK(refusal<policy::int_affine<3, 64>>(q).got == 4);
      CHECK(refusal<policy::mxfp4>(q).got == int(code_kind::integer));
      CHECK(refusal<policy::int_affine<4, 64, zero_point::floating>>(q).code == errc::bad_value);
      quantized finer = q;
      finer.scale[3] = 0.1f;              // no fp16
      CHECK(refusal<policy::int_affine<4, 64>>(finer).got == 3);
      CHECK(gemm::check_import<policy::int_affine<4, 64, zero_point::none, float>>(finer).code == errc::ok);
      finer.scale.pop_back();
      CHECK(refusal<policy::int_affine<4, 64>>(finer).code == errc::bad_shape);
      finer = q;
      finer.zero_points.pop_back();
      CHECK(refusal<policy::int_affine<4, 64>>(finer).code == errc::bad_shape);
      finer = q;
      finer.n = 0;
      CHECK(refusal<policy::int_affine<4, 64>>(finer).code == errc::bad_shape);
    }
    if (c.id == "gptq/b4.asym.g64") CHECK(std::string(refusal<policy::int_affine<4, 64>>(q).what).find("zero_point::integer") != std::string::npos);
    if (!q.column_group.empty()) ++seen["act_order"];
    ++seen[c.format];
  }
  CHECK(seen == std::map<std::string, int>{{"gptq", 23}, {"gptq_p", 4}, {"act_order", 5}});

  const opened a("awq.safetensors");
  for (const auto& c : golden::cases("awq.safetensors"))
    if (c.has("dequant")) gptq_case<4>(imported(awq_layer{a(c, "qweight"), a(c, "qzeros"), a(c, "scales"), integer(c, "group")}), integer(c, "group"), a(c, "dequant"));
}

TEST_CASE("an order of columns needs a place in the packed weight", "[ops][gemm][io]") {
  const opened f("gptq.safetensors");
  const auto& c = golden::find("gptq/b4.asym.act");
  const quantized q = imported(gptq_layer{f(c, "qweight"), f(c, "qzeros_v2"), f(c, "scales"), f(c, "g_idx"), 4, 64, 2});
  using weight = gemm::packed_weight<policy::int4_affine<64>>;
  test::array<std::byte> memory(weight::bytes(int(q.n), int(q.k)));
  const status st = gemm::pack_imported(weight::over(memory.data(), int(q.n), int(q.k)), q);
  CHECK(st.code == errc::bad_value);
  CHECK(std::string(st.what).find("ordered = true") != std::string::npos);
}

TEST_CASE("matrices below one another", "[ops][gemm][io]") {
  const opened f("gguf.safetensors");
  // the same rows three times, as one weight: the values three times
  const auto stacked = [&](auto format, const char* id, ggml_type type) {
    using weight = gemm::packed_weight<decltype(format)>;
    const auto& c = golden::find(id);
    CAPTURE(c.id);
    const tensor *packed = f(c, "packed"), *want = f(c, "dequant");
    quantized q;
    REQUIRE(import_tensor({packed->name, type, 2, {want->shape[1], want->shape[0], 1, 1}, packed->data}, q));
    const quantized* const parts[] = {&q, &q, &q};
    test::array<std::byte> memory(weight::bytes(3 * int(q.n), int(q.k)));
    const weight w = weight::over(memory.data(), 3 * int(q.n), int(q.k));
    REQUIRE(gemm::pack_imported(w, parts, 3).code == errc::ok);
    REQUIRE(memory.guarded());
    std::vector<float> all = floats(*want);
    const std::vector<float> once = all;
    for (int i = 0; i < 2; ++i) all.insert(all.end(), once.begin(), once.end());
    CHECK(decoded(w) == all);
    CHECK(gemm::pack_imported(w, parts, 0).code == errc::null_pointer);
    CHECK(gemm::pack_imported(w, parts, 2).code == errc::bad_shape);
    quantized other = q;
    other.k = q.k - 32;
    const quantized* const uneven[] = {&q, &other, &q};
    CHECK(gemm::pack_imported(w, uneven, 3).code == errc::bad_shape);
  };
  stacked(policy::q4_1{}, "gguf/q4_1.plain", ggml_type::q4_1);
  stacked(policy::q4_k{}, "gguf/q4_k.plain", ggml_type::q4_k);
}

TEST_CASE("blocks of ggml", "[ops][gemm][io]") {
  const opened f("gguf.safetensors");
  std::map<std::string, int> seen;
  for (const auto& c : golden::cases("gguf.safetensors")) {
    if (!c.has("dequant")) continue;
    CAPTURE(c.id);
    const tensor* packed = f(c, "packed");
    const tensor* want = f(c, "dequant");
    const std::uint32_t type = c.params.contains("type") ? std::uint32_t(c.params.at("type")) : c.format == "gguf:mxfp4" ? 39u : 40u;
    quantized q;
    if (!import_tensor({packed->name, ggml_type(type), 2, {want->shape[1], want->shape[0], 1, 1}, packed->data}, q)) continue;
    ++seen[c.format];
    switch (ggml_type(type)) {
      case ggml_type::q4_0: same_values<policy::q4_0>(q, want); break;
      case ggml_type::q5_0: same_values<policy::q5_0>(q, want); break;
      case ggml_type::q8_0: same_values<policy::q8_0>(q, want); break;
      case ggml_type::q4_1: same_values<policy::q4_1>(q, want); break;
      case ggml_type::q5_1: same_values<policy::q5_1>(q, want); break;
      case ggml_type::q4_k:
        same_values<policy::q4_k>(q, want);
        same_values<policy::format<policy::offset_int<4, 0>, policy::scales<float, 32, 1, zero_point::floating>>>(q, want);      // its levels made one
        break;
      case ggml_type::q5_k: same_values<policy::q5_k>(q, want); break;
      case ggml_type::q6_k: same_values<policy::q6_k>(q, want); break;
      case ggml_type::mxfp4: same_values<policy::mxfp4>(q, want); break;
      case ggml_type::nvfp4: {
        bool large = false;      // 0xff is 480 to ggml, beyond E4M3
        for (const std::uint8_t code : q.stored.code) large |= code == 0xff;
        if (large) CHECK(std::string(refusal<policy::nvfp4_multiplier>(q).what).find("stored scale") != std::string::npos);
        else same_values<policy::nvfp4_multiplier>(q, want);
        break;
      }
      default: FAIL("a block type that this test does not know");
    }
    if (c.id == "gguf/q4_1.plain") CHECK(std::string(refusal<policy::q4_0>(q).what).find("minima") != std::string::npos);
    if (c.id == "gguf/q4_0.plain") CHECK(refusal<policy::q4_1>(q).code == errc::bad_value);
    if (c.id == "gguf/q4_1.plain") CHECK(std::string(refusal<policy::q4_k>(q).what).find("another form") != std::string::npos);
    if (c.id == "gguf/q4_k.plain") {
      quantized other = q;
      other.stored.span = 4;
      CHECK(refusal<policy::q4_k>(other).need == 8);
      other = q;
      other.stored.code[5] ^= 1;
      CHECK(refusal<policy::q4_k>(other).got == 5);
      other = q;
      other.stored.minimum_code[6] ^= 1;
      CHECK(refusal<policy::q4_k>(other).got == 6);
    }
  }
  CHECK(seen.size() == 10);
  for (const auto& [format, count] : seen) CHECK(count >= 2);
}

TEST_CASE("bitsandbytes: one level, two levels, blocks that cross rows", "[ops][gemm][io]") {
  const opened f("bitsandbytes.safetensors");
  int plain_ones = 0, nested = 0, flat = 0;
  for (const auto& c : golden::cases("bitsandbytes.safetensors")) {
    if (!c.has("dequant") || (c.format != "bnb:nf4" && c.format != "bnb:fp4") || c.params.value("dtype", "float32") != "float32") continue;
    bitsandbytes_layer layer{f(c, "packed"), f(c, "absmax"), f(c, "nested_absmax"), f(c, "nested_map")};
    layer.kind = c.format == "bnb:nf4" ? code_kind::nf4 : code_kind::fp4;
    layer.n = c.params.at("shape").at(0), layer.k = c.params.at("shape").at(1), layer.block = integer(c, "blocksize");
    if (c.has("nested_offset")) layer.nested_offset = floats(*f(c, "nested_offset"))[0];
    const quantized q = imported(layer);
    const tensor* want = f(c, "dequant");
    const bool nf = layer.kind == code_kind::nf4;
    CAPTURE(c.id, layer.block, q.k, q.flat);
    if (q.flat) {
      CHECK(refusal<policy::bnb_nf4<64>>(q).code == errc::bad_value);
      if (q.k % 16 != 0 || layer.block % 16 != 0) continue;
      if (nf) same_values<policy::bnb_nf4<16>>(q, want);
      else same_values<policy::bnb_fp4<16>>(q, want);
      ++flat;
    } else if (layer.block == 64) {
      if (nf) same_values<policy::bnb_nf4<>>(q, want);
      else same_values<policy::bnb_fp4<>>(q, want);
      ++plain_ones;
      if (!c.has("nested_map")) continue;
      if (nf) same_values<policy::bnb_nf4_double<>>(q, want);
      else same_values<policy::bnb_fp4_double<>>(q, want);
      ++nested;
      if (!nf) continue;
      quantized other = q;
      other.stored.map[9] = 0.5f;
      CHECK(refusal<policy::bnb_nf4_double<>>(other).got == 9);
    }
  }
  CHECK(plain_ones >= 4);
  CHECK(nested >= 2);
  CHECK(flat >= 1);
}

TEST_CASE("block-scaled floats: NVFP4 of both conventions, MX, FP8 of every reach; compressed-tensors' integers", "[ops][gemm][io]") {
  std::map<std::string, int> seen;
  const opened f("compressed_tensors.safetensors");
  for (const auto& c : golden::cases("compressed_tensors.safetensors")) {
    CAPTURE(c.id);
    const tensor* scale = f(c, "weight_scale");
    const tensor* codes = c.has("weight_packed") ? f(c, "weight_packed") : f(c, "weight");
    const tensor* want = f(c, "dequant");
    const std::string strategy = c.params.at("strategy");
    if (c.format == "ct:pack-quantized") {
      if (integer(c, "num_bits") != 4) continue;
      const std::int64_t group = strategy == "group" ? integer(c, "group_size") : -1;
      const quantized q = imported(pack_quantized_layer{codes, scale, f(c, "weight_shape"), f(c, "weight_zero_point"), nullptr, 4, group});
      if (group == 32) same_values<policy::int_affine<4, 32, zero_point::integer, float>>(q, want);
      else if (group == 128) same_values<policy::int_affine<4, 128, zero_point::integer, float>>(q, want);
      else continue;
    } else if (c.format == "ct:nvfp4") {
      const quantized q = imported(nvfp4(codes, scale, f(c, "weight_global_scale"), tensor_scale_use::divides));
      same_values<policy::nvfp4_divisor>(q, want);
      same_block_matrix<policy::nvfp4_divisor>(q, want);
      CHECK(std::string(refusal<policy::nvfp4_multiplier>(q).what).find("divides") != std::string::npos);
    } else if (c.format == "ct:mxfp4") {
      same_values<policy::mxfp4>(imported(mx(codes, scale, code_kind::e2m1)), want);
      same_block_matrix<policy::mxfp4>(imported(mx(codes, scale, code_kind::e2m1)), want);
    }
    else if (c.format == "ct:mxfp6") same_values<policy::mxfp6_e2m3>(imported(mx(codes, scale, code_kind::e2m3)), want);
    else if (c.format == "ct:mxfp8") {
      same_values<policy::mxfp8_e4m3>(imported(mx(codes, scale, code_kind::e4m3)), want);
      same_block_matrix<policy::mxfp8_e4m3>(imported(mx(codes, scale, code_kind::e4m3)), want);
    }
    else if (c.format == "ct:fp8-block") {
      same_values<policy::fp8_block>(imported(fp8(codes, scale, 128, 128)), want);
      same_matrix<policy::fp8_block>(imported(fp8(codes, scale, 128, 128)), want);
      same_values<policy::fp8_row_block>(imported(fp8(codes, scale, 128, 128)), want);      // finer along n
      if (want->shape[1] > 128) CHECK(refusal<policy::fp8_channel>(imported(fp8(codes, scale, 128, 128))).need == 128);
    } else if (strategy == "tensor") {
      same_values<policy::fp8_tensor>(imported(fp8(codes, scale, 0, 0)), want);
      same_matrix<policy::fp8_tensor>(imported(fp8(codes, scale, 0, 0)), want);
      same_values<policy::fp8_channel>(imported(fp8(codes, scale, 0, 0)), want);
    } else {
      same_values<policy::fp8_channel>(imported(fp8(codes, scale, 1, 0)), want);
      CHECK(refusal<policy::fp8_tensor>(imported(fp8(codes, scale, 1, 0))).need == 1);
    }
    ++seen[c.format];
  }
  CHECK(seen.size() == 7);
  const opened m("modelopt.safetensors");
  int modelopt = 0;
  for (const auto& c : golden::cases("modelopt.safetensors")) {
    if (c.format != "modelopt:nvfp4" || !c.has("dequant")) continue;
    CAPTURE(c.id);
    same_values<policy::nvfp4_multiplier>(imported(nvfp4(m(c, "packed"), m(c, "scale"), m(c, "scale_2"), tensor_scale_use::multiplies)), m(c, "dequant"));
    same_block_matrix<policy::nvfp4_multiplier>(imported(nvfp4(m(c, "packed"), m(c, "scale"), m(c, "scale_2"), tensor_scale_use::multiplies)), m(c, "dequant"));
    ++modelopt;
  }
  CHECK(modelopt >= 1);
}
