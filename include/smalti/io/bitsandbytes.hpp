// bitsandbytes NF4 and FP4 weights, with or without double quantization.
//
// weight   U8 [ceil(N K / 2), 1]: codes of the whole matrix row after row, two in a byte, the earlier in the HIGH half
// absmax   F32 [B], or with double quantization U8 [B]: B = ceil(N K / blocksize) blocks of the matrix row after row, so that a
//          block crosses rows where K is not a multiple of the block, and the last may be short
// nested_quant_map F32 [256], nested_absmax F32 [ceil(B / nested_blocksize)], and nested_offset in the state:
//          absmax = map[code] * nested_absmax + offset, two roundings
// quant_map F32 [16]: the table itself, which is compared with what its name promises by whoever has the table
// quant_state.bitsandbytes__nf4 (or __fp4) U8: JSON with quant_type, blocksize, shape, dtype, and of double quantization
//          nested_blocksize, nested_offset
//     value = table[code] * absmax, which bitsandbytes rounds to the type of the model
//
// Source: bitsandbytes 0.50.2, as run for tests/golden. Blocks are counted as its quantizer counts them: its AVX-512 dequantizer
// restarts them at each row where K is a multiple of 16, and is wrong.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <smalti/core/version.hpp>
#include <smalti/io/bytes.hpp>
#include <smalti/io/file_status.hpp>
#include <smalti/io/import.hpp>
#include <smalti/io/quantized.hpp>
#include <smalti/io/safetensors.hpp>
#include <smalti/io/tensor.hpp>

namespace smalti::inline SMALTI_DATA::io {

//! One layer's tensors and what its quant_state says. read_quant_state fills the latter.
struct bitsandbytes_layer {
  const tensor *weight = nullptr, *absmax = nullptr;
  const tensor *nested_absmax = nullptr, *nested_map = nullptr;  //!< both or neither
  code_kind kind = code_kind::nf4;                               //!< or fp4
  std::int64_t n = 0, k = 0;
  std::int64_t block = 64, nested_block = 256;
  float nested_offset = 0;
  nan_rule nan = nan_rule::refuse;
};

namespace detail {

// {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [n, k], "nested_blocksize": 256, ...}: flat but for shape.
class quant_state_events : public json_events {
 public:
  quant_state_events(const char* begin, const char* const* farthest, std::uint64_t origin, bitsandbytes_layer* out)
      : json_events(begin, farthest, origin), out_(out) {}
  bool null() { return key_ != "quant_type" && key_ != "blocksize" && key_ != "shape" ? true : wrong(); }
  bool boolean(bool) { return null(); }
  bool number_float(double x, const std::string&) { return number(x, false, 0); }
  bool number_integer(std::int64_t x) { return number(double(x), false, 0); }
  bool number_unsigned(std::uint64_t x) { return number(double(x), x <= std::uint64_t(INT64_MAX), std::int64_t(x)); }
  bool string(std::string& s) {
    if (!open_) return wrong();
    if (key_ == "quant_type") {
      if (s != "nf4" && s != "fp4") return no(file_rule::unsupported, "quant_type must be nf4 or fp4");
      out_->kind = s == "nf4" ? code_kind::nf4 : code_kind::fp4;
      type_ = true;
      return true;
    }
    return in_shape_ || key_ == "blocksize" || key_ == "nested_blocksize" || key_ == "nested_offset" ? wrong() : true;
  }
  bool start_object(std::size_t) {
    if (open_) return wrong();
    return open_ = true;
  }
  bool start_array(std::size_t) {
    if (!open_ || key_ != "shape" || in_shape_) return wrong();
    return in_shape_ = true;
  }
  bool end_array() {
    if (extents_ != 2) return no(file_rule::bad_shape, "shape must be [output features, input features]", std::uint64_t(extents_), 2);
    in_shape_ = false;
    return true;
  }
  bool key(std::string& s) {
    key_ = s;
    for (const std::string& seen : seen_)
      if (seen == s) return no(file_rule::duplicate_key, "a key stands twice");
    if (seen_.size() == 64) return no(file_rule::bad_field, "a quant_state has few members", 65, 64);
    seen_.push_back(s);
    return true;
  }
  bool end_object() {
    if (!type_ || !block_ || extents_ != 2) return no(file_rule::bad_field, "a quant_state needs quant_type, blocksize and shape");
    return true;
  }

 private:
  bool wrong() { return no(file_rule::bad_field, "a quant_state is an object with numbers, strings, and a shape"); }
  bool number(double x, bool count, std::int64_t whole) {
    if (!open_) return wrong();
    if (in_shape_) {
      if (!count) return no(file_rule::bad_shape, "shape must hold counts");
      if (extents_ < 2) (extents_ == 0 ? out_->n : out_->k) = whole;
      return ++extents_, true;
    }
    if (key_ == "blocksize" || key_ == "nested_blocksize") {
      if (!count || whole < 1) return no(file_rule::bad_field, "a block size must be a positive whole number");
      (key_ == "blocksize" ? out_->block : out_->nested_block) = whole;
      block_ = block_ || key_ == "blocksize";
      return true;
    }
    if (key_ == "nested_offset") {
      out_->nested_offset = float(x);
      return true;
    }
    return key_ != "quant_type" && key_ != "shape" ? true : wrong();
  }
  bitsandbytes_layer* out_;
  std::vector<std::string> seen_;
  bool open_ = false, in_shape_ = false, type_ = false, block_ = false;
  int extents_ = 0;
};

// Two codes in a byte, the earlier in the high half, counted through the whole matrix.
inline void unpack_pairs_high(const quantized& q, std::int64_t first, std::int64_t count, std::uint8_t* out) {
  const std::uint8_t* b = octets(q.from.data);
  for (std::int64_t e = first * q.k; e < (first + count) * q.k; ++e) *out++ = e % 2 == 0 ? b[e / 2] >> 4 : b[e / 2] & 15;
}

}  // namespace detail

//! Takes kind, n, k and the block sizes out of a tensor quant_state.bitsandbytes__nf4 or __fp4.
inline file_status read_quant_state(const tensor& state, bitsandbytes_layer& to) {
  if (auto s = detail::check_tensor(&state, "", {dtype::u8}, "a quant_state must be U8"); !s) return s;
  const std::string_view text = detail::text(state.data);
  if (text.size() > 65536)
    return detail::refuse_tensor(file_rule::header_too_large, "a quant_state must have at most 65536 bytes", state, text.size(), 65536);
  if (auto s = detail::check_json_text(text, 0, 4); !s) return s;
  bitsandbytes_layer read = to;
  if (auto s = detail::parse_json<detail::quant_state_events>(text, 0, &read); !s) return s;
  to = read;
  return {};
}

//! The tensors and the quant_state of the layer `name`, such as "model.layers.0.self_attn.q_proj", in a safetensors file or model.
template <class File> file_status find_bitsandbytes(const File& file, const std::string& name, bitsandbytes_layer& to) {
  const std::string weight = name + ".weight";
  to = {};
  to.weight = file.find(weight);
  to.absmax = file.find(weight + ".absmax");
  to.nested_absmax = file.find(weight + ".nested_absmax");
  to.nested_map = file.find(weight + ".nested_quant_map");
  for (const char* kind : {".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4"})
    if (const tensor* state = file.find(weight + kind)) return read_quant_state(*state, to);
  return detail::refuse(file_rule::missing_tensor, "there is no quant_state of nf4 or fp4", 0, weight);
}

//! Reads a layer. Refused: sizes that do not fit each other, scales that are NaN or infinite.
inline file_status import_layer(const bitsandbytes_layer& from, quantized& to) {
  to = {};
  using detail::refuse_tensor;
  if (auto s = detail::check_tensor(from.weight, "there is no weight", {dtype::u8, dtype::i8}, "the packed weight must be U8"); !s)
    return s;
  const bool nested = from.nested_absmax != nullptr || from.nested_map != nullptr;
  if (auto s =
          nested ? detail::check_tensor(from.absmax, "there is no absmax", {dtype::u8}, "with double quantization absmax must be U8")
                 : detail::check_tensor(from.absmax, "there is no absmax", {dtype::f32}, "without double quantization absmax must be F32");
      !s)
    return s;
  if (from.kind != code_kind::nf4 && from.kind != code_kind::fp4)
    return refuse_tensor(file_rule::unsupported, "bitsandbytes' four bits are nf4 or fp4", *from.weight);
  if (from.block < 1 || from.nested_block < 1) return refuse_tensor(file_rule::bad_field, "a block size must be positive", *from.weight);
  if (auto s = detail::check_extents(*from.weight, from.n, from.k); !s) return s;
  quantized q;
  q.n = from.n;
  q.k = from.k;
  q.kind = from.kind;
  q.bits = 4;
  q.flat = from.k % from.block != 0;
  q.group_k = from.block;
  const std::uint64_t values = std::uint64_t(q.n) * std::uint64_t(q.k), blocks = std::uint64_t(q.groups());
  if (from.weight->data.size() != (values + 1) / 2)
    return refuse_tensor(file_rule::size_mismatch, "the packed weight must hold n * k codes, two in a byte", *from.weight,
                         from.weight->data.size(), (values + 1) / 2);
  std::uint64_t have = 0;
  static_cast<void>(detail::elements(from.absmax->shape, have));
  if (have != blocks) return refuse_tensor(file_rule::size_mismatch, "absmax must have one entry per block", *from.absmax, have, blocks);
  if (!nested) {
    if (auto s = detail::take_scales(*from.absmax, from.nan, q.scale); !s) return s;
  } else {
    const char* const f32 = "nested_absmax and nested_quant_map must be F32";
    if (auto s = detail::check_tensor(from.nested_absmax, "there is no nested_absmax", {dtype::f32}, f32); !s) return s;
    if (auto s = detail::check_tensor(from.nested_map, "there is no nested_quant_map", {dtype::f32}, f32); !s) return s;
    const std::uint64_t supers = (blocks + std::uint64_t(from.nested_block) - 1) / std::uint64_t(from.nested_block);
    if (from.nested_map->data.size() != 4 * 256)
      return refuse_tensor(file_rule::size_mismatch, "nested_quant_map must have 256 entries", *from.nested_map,
                           from.nested_map->data.size() / 4, 256);
    if (from.nested_absmax->data.size() / 4 != supers)
      return refuse_tensor(file_rule::size_mismatch, "nested_absmax must have one entry per block of blocks", *from.nested_absmax,
                           from.nested_absmax->data.size() / 4, supers);
    stored_scales& s = q.stored;
    s.form = scale_form::mapped8;
    if (auto why = detail::take_scales(*from.nested_absmax, from.nan, s.super); !why) return why;
    if (auto why = detail::take_scales(*from.nested_map, from.nan, s.map); !why) return why;
    s.span = from.nested_block;
    s.offset = from.nested_offset;
    const std::uint8_t* codes = detail::octets(from.absmax->data);
    s.code.assign(codes, codes + blocks);
    q.scale.resize(blocks);
    for (std::uint64_t i = 0; i < blocks; ++i) {
      // Rounded twice, as the producer does: a volatile keeps the compiler from fusing the two.
      const volatile float product = s.map[s.code[i]] * s.super[i / std::uint64_t(s.span)];
      q.scale[i] = product + s.offset;
      if (from.nan != nan_rule::keep && !detail::finite(q.scale[i]))
        return refuse_tensor(file_rule::bad_code, "a scale is NaN or infinite: nan_rule::keep lets it pass", *from.absmax, 0, 0, i);
    }
  }
  q.from = {from.weight->data, 0, 0};
  q.unpack = detail::unpack_pairs_high;
  to = std::move(q);
  return {};
}

}  // namespace smalti::inline SMALTI_DATA::io
