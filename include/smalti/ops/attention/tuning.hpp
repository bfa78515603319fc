// Tile shapes of attention, by target and regime. To use others:
//     struct mine { constexpr attention::attention_tuning operator()(target, attention::attention_regime) const { return {...}; } };
//     op::run(with_tuning<mine>(ctx), args, workspace)
#pragma once
#include <concepts>
#include <type_traits>
#include <smalti/block/attention/flash.hpp>
#include <smalti/core/context.hpp>
#include <smalti/core/float.hpp>

// swept: begin (bench/tune_gpu.py --write; registers, instructions and every shape tried are in tuning.json)
// From machine code, nvcc 13.5.37; not timed: not yet run on a GPU. o: occupancy, c: cluster. What is not clean is said.
// agent                                        sm_80      sm_89     sm_90                 sm_100     sm_120  tried
// attention d 64, causal                       64x128     64x128    64x128                128x64 o2  64x64   12
// attention d 128, causal                      64x128     64x128    64x128                128x64 o2  64x64   53
// attention d 128, user mask                   64x128     64x128    64x128                128x64 o2  64x64   17
// attention d 128, fp8 keys                    32x128 o2  64x128    64x128                128x64 o2  64x64   19
// attention d 256, fp8 keys                    32x32 o2   32x32 o2  64x64                 64x64      64x32   6
// attention d 128, ragged                      64x128     64x128    64x128                128x64 o2  64x64   15
// attention d 128, pages of 64                 64x128     64x64     64x128 no USETMAXREG  128x64 o2  64x64   19
// attention d 128, pages of 16                 64x128     64x64     64x128                128x64 o2  64x64   14
// attention d 256, causal                      32x32 o2   32x32 o2  64x64                 64x64      32x32   18
// attention d 128, decode, split, pages of 16  16x64 o2   16x64     16x64                 16x64      16x64   11
// attention latent (MLA) 576 and 512, decode   16x32      16x32     16x32                 16x32      16x32   5
// attention d 128, int8 keys, decode           16x32      16x64     16x64                 16x64      16x64   10
// attention d 128, int4 keys, decode           16x32      16x64     16x64                 16x64      16x64   10
// attention d 128, int8 keys                   32x32 o2   32x32 o2  64x128                128x64 o2  32x64   15
// The host, one thread of a Xeon with AMX, each shape beside the present one in turns; speed: of the next best over the present.
// l: b_left or keys_left, s: strips, g: group.
// host                                         present    ms     next best  speed  tried
// attention d 128, causal, 2048 tokens         32x256 s8  1.787  32x256 s4  1.03   4
// attention d 128, 1 query of 4 heads a group  4x256 l    1.324  4x64 l     1.01   4
// swept: end

namespace smalti::inline SMALTI_CODE::attention {

//! Decode: at most `decode_rows` query rows for each key head (heads of a group counted), memory bound. Few and fewest: at most
//! `few_rows` and `fewest_rows`, on the host only, where sixteen rows would cost twice the softmax of eight, and eight twice the
//! products of four. Prefill: the rest, each block rows of one head. Packed: the same where a block has rows of all heads of a
//! group (options::packed).
enum class attention_regime { few, decode, prefill, packed, fewest };
SMALTI_HD constexpr bool is_decode(attention_regime r) { return r == attention_regime::few || r == attention_regime::decode || r == attention_regime::fewest; }
constexpr int fewest_rows = 4, few_rows = 8, decode_rows = 16;

//! How keys lie in memory, and so what they take on their way to the product: coded ones are decoded from integers, turned ones
//! rotated when they are read, 8-bit floats converted, those of pages found row by row.
enum class key_form { plain, pages, floats_of_8_bits, coded, turned };
template <class Kv> constexpr key_form form_of_keys = [] {
  if constexpr (requires { typename Kv::way; }) return key_form::turned;
  else if constexpr (requires { typename Kv::storage; }) return key_form::coded;
  else if constexpr (requires { requires sizeof(typename Kv::element) == 1; }) return key_form::floats_of_8_bits;
  else if constexpr (requires(const Kv kv) { kv.where.page; }) return key_form::pages;
  else return key_form::plain;
}();

//! The default for products of T, heads of D and ValueDim elements.
template <class T, int D, int ValueDim, key_form Keys = key_form::plain> struct default_tuning {
  SMALTI_HD constexpr attention_tuning operator()(target t, attention_regime regime) const {
    constexpr int wide = D > ValueDim ? D : ValueDim;
    constexpr bool coded = Keys == key_form::coded || Keys == key_form::turned, eighths = Keys == key_form::floats_of_8_bits;
    if (t == target::host) {
      if (!is_decode(regime)) return {.m = 32, .n = 256, .chunk = 0, .value = 0, .strips = 8, .joined = true};
      return {.m = regime == attention_regime::fewest ? fewest_rows : regime == attention_regime::few ? few_rows : decode_rows, .n = 256, .chunk = 0, .value = 0, .keys_left = true};
    }
    // d 128, two blocks a processor on sm_80: with one the body of a balanced list is made twice and spills.
    if (is_decode(regime)) return {.m = 16, .n = wide > 128 || (coded && t == target::sm80) ? 32 : 64, .occupancy = t == target::sm80 && !coded && wide > 64 && wide <= 128 ? 2 : 1};
    if (coded && (t == target::sm80 || t == target::sm89)) return {.m = 32, .n = 32, .occupancy = 2};                   // decoding takes registers
    if (coded && t == target::sm120) return {.m = 32, .n = wide > 128 ? 32 : 64};
    if ((Keys == key_form::turned || (eighths && D <= 64)) && t == target::sm90) return {.m = 64, .n = 64};
    // Swept by bench/tune_gpu.py, with masks, ragged batches, pages and fp8 keys: the largest shapes near the first choice that do
    // not spill. Two blocks a processor on sm_100: with one the tile compiler of 13.5.37 crashes.
    if (wide > 128) {
      if (t == target::sm100) return {.m = 64, .n = 64, .chunk = wide > 256 ? 256 : 128};   // pieces of 256: the tile compiler of 13.5.37 crashes
      if (t == target::sm90) return {.m = 64, .n = 64};
      // 8-bit floats are converted in registers: pieces of the head, one after another, so that few are at work at a time.
      if (eighths && wide <= 256 && t == target::sm120) return {.m = 64, .n = 32, .chunk = 64};
      return {.m = 32, .n = 32, .chunk = eighths && wide <= 256 && t != target::sm120 ? 32 : 256, .occupancy = t == target::sm120 ? 1 : 2};
    }
    if (eighths && wide > 64 && t == target::sm80) return {.m = 32, .n = 128, .chunk = 64, .occupancy = 2};     // by integer arithmetic there
    if (Keys == key_form::pages && wide > 64 && t == target::sm89) return {.m = 64, .n = 64};                    // 128 pointers to rows do not fit
    if (t == target::sm100) return {.m = 128, .n = 64, .occupancy = 2};
    return {.m = 64, .n = t == target::sm120 ? 64 : 128};
  }
};

template <class S>
concept attention_selector = std::is_empty_v<S> && requires(const S s) { { s(target::host, attention_regime::prefill) } -> std::same_as<attention_tuning>; };

template <class S> consteval bool explain_attention_selector() {
  static_assert(attention_selector<S>,
                "smalti: a tuning of attention is an empty type with  constexpr attention_tuning operator()(target, attention_regime) const  (SMALTI_HD)");
  return true;
}

}  // namespace smalti::inline SMALTI_CODE::attention
