// Tile shapes of attention, by target and regime. To use others:
//     struct mine { constexpr attention::attention_tuning operator()(target, attention::attention_regime) const { return {...}; } };
//     op::run(with_tuning<mine>(ctx), args, workspace)
#pragma once
#include <concepts>
#include <type_traits>
#include <smalti/block/attention/flash.hpp>
#include <smalti/core/context.hpp>
#include <smalti/core/float.hpp>

namespace smalti::inline SMALTI_CODE::attention {

//! Decode: at most `decode_rows` query rows for each key head (heads of a group counted), memory bound. Few: at most
//! `few_rows`, on the host only, where sixteen rows would cost twice the softmax of eight. Prefill: the rest, each block
//! rows of one head. Packed: the same where a block has rows of all heads of a group (options::packed).
enum class attention_regime { few, decode, prefill, packed };
SMALTI_HD constexpr bool is_decode(attention_regime r) { return r == attention_regime::few || r == attention_regime::decode; }
constexpr int few_rows = 8, decode_rows = 16;

//! The default for products of T, heads of D and ValueDim elements.
template <class T, int D, int ValueDim> struct default_tuning {
  SMALTI_HD constexpr attention_tuning operator()(target t, attention_regime regime) const {
    constexpr int wide = D > ValueDim ? D : ValueDim;
    if (t == target::host) {
      if (!is_decode(regime)) return {.m = 32, .n = 256, .chunk = 0, .value = 0, .strips = 8};
      return {.m = regime == attention_regime::few ? 8 : 16, .n = 256, .chunk = 0, .value = 0, .keys_left = true};
    }
    if (is_decode(regime)) return {.m = 16, .n = wide > 128 ? 32 : 64};
    const bool large = t == target::sm90 || t == target::sm100;
    if (wide > 128) return {.m = 64, .n = large ? 64 : 32};
    return {.m = large ? 128 : 64, .n = 64};
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
