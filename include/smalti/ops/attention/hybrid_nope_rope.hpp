// Layers of two kinds: attention to everything without positions, and to a window with them. docs/ops/attention/hybrid_nope_rope.md.
#pragma once
#include <smalti/ops/attention.hpp>
#include <smalti/policy/masks/window.hpp>
#include <smalti/policy/position.hpp>

namespace smalti::inline SMALTI_CODE::attention {

//! SmallThinker's plan: layer l is causal attention to all keys without positions where l % Period == 0, else to the last Window
//! keys (the query's own among them) with rotary positions. Models without a window: hybrid_nope_rope<..., 0, 0>, every layer
//! causal with rotary positions.
//! Source: Song et al. 2025, SmallThinker, arXiv:2507.20984.
template <class T, int D, int Window = 4096, int Period = 4, class Kv = dense_kv<T>, class Options = options>
struct hybrid_nope_rope {
  static_assert(Window >= 0 && Period >= 0, "smalti: hybrid_nope_rope's Window and Period must not be negative; 0 and 0 for a model without a window");
  using global = flash<T, D, Kv, policy::causal, Options>;                   // no positions: policy::no_position
  using local = flash<T, D, Kv, policy::sliding_window<>, Options>;          // positions: policy::keep_original
  static constexpr bool is_global(int layer) { return Window == 0 || (Period > 0 && layer % Period == 0); }
  static constexpr bool has_positions(int layer) { return Window == 0 || !is_global(layer); }
  static constexpr policy::sliding_window<> window() { return policy::window_keys(Window); }
  //! Keys that a layer keeps of a sequence of `tokens`.
  static constexpr long long kept(int layer, long long tokens) { return is_global(layer) || tokens < Window ? tokens : Window; }

  //! Calls work(attention, mask) with the type of the layer's attention as a value of `kind`, and its mask.
  template <class Attention> struct kind { using type = Attention; };
  template <class Work> static auto visit(int layer, Work work) {
    return is_global(layer) ? work(kind<global>{}, policy::causal{}) : work(kind<local>{}, window());
  }
};

}  // namespace smalti::inline SMALTI_CODE::attention
