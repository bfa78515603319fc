// Operands and scales of block-scaled products on the host machine: codes of 8 bits are widened as everywhere, those of e2m1 are
// unpacked here to the bf16 that they are exactly; scales are decoded to floats when they are loaded.
#pragma once
#include <array>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <smalti/core/float.hpp>
#include <smalti/core/packed.hpp>
#include <smalti/tile/host/fill.hpp>
#include <smalti/tile/host/panels.hpp>

namespace smalti::inline SMALTI_CODE::host {

template <class S, int R, int G> struct stored_left_scales : factor_array<R, G> {};
template <class S, int G, int N> struct stored_right_scales : array_tile<float, G, N> {};

namespace detail {

// Both codes of a byte as bf16, the first in the lower half.
inline constexpr auto pairs_of_e2m1 = [] {
  std::array<std::uint32_t, 256> table{};
  for (unsigned b = 0; b < 256; ++b)
    table[b] = (smalti::float_bits(smalti::to_float(e2m1{std::uint8_t(b & 15)})) >> 16) | (smalti::float_bits(smalti::to_float(e2m1{std::uint8_t(b >> 4)})) & 0xffff0000u);
  return table;
}();

// `bytes` pairs of codes; zeros up to `width` values.
inline void unpack_pairs(bf16* to, const e2m1x2* from, int bytes, int width) {
  for (int i = 0; i < bytes; ++i) {
    const std::uint32_t both = pairs_of_e2m1[from[i].bytes[0]];
    std::memcpy(static_cast<void*>(to + 2 * i), &both, 4);
  }
  if (2 * bytes < width) std::memset(static_cast<void*>(to + 2 * bytes), 0, std::size_t(width - 2 * bytes) * sizeof(bf16));
}

// A stored scale: a byte of e8m0, or e4m3.
template <class S, class M> float scale_of(M stored) {
  if constexpr (std::is_same_v<S, e8m0>) return smalti::to_float(e8m0{stored});
  else return smalti::to_float(stored);
}

}  // namespace detail

template <int R, int K, int Step> void load_pairs(left_panel<e2m1, R, K>& t, const view<const e2m1x2, Step>& m, int i, int j) {
  t.drop();
  t.data = &t.own[0][0], t.stride = K;
  t.depth = 2 * inside(m.cols, std::int64_t(j) * (K / 2), K / 2), t.live = inside(m.rows, std::int64_t(i) * R, R);
  for (int r = 0; r < t.live; ++r) detail::unpack_pairs(t.own[r], address(m, std::int64_t(i) * R + r, std::int64_t(j) * (K / 2)), t.depth / 2, K);
}
//! Right panel whose columns are rows of memory.
template <class Panel, int Step> void fill_right_pairs(typename Panel::array& out, const view<const e2m1x2, Step>& m, int i, int j, int valid, int depth) {
  constexpr int K = Panel::rows, N = Panel::cols;
  alignas(64) bf16 wide[N][K];
  for (int n = 0; n < valid; ++n) detail::unpack_pairs(wide[n], address(m, std::int64_t(j) * N + n, std::int64_t(i) * (K / 2)), depth / 2, K);
  fill_right_transposed<Panel>(out, valid, depth, [&](int n) -> const bf16* { return n < valid ? wide[n] : nullptr; });
}

//! Scales of R rows and G groups from a matrix rows x groups; outside it zeros, which meet zeros.
template <class S, int R, int G, class M, int Step> void load_scales(stored_left_scales<S, R, G>& t, const view<const M, Step>& m, int i, int j) {
  const int live = inside(m.rows, std::int64_t(i) * R, R), groups = inside(m.cols, std::int64_t(j) * G, G);
  for (int g = 0; g < G; ++g)
    for (int r = 0; r < R; ++r) t.v[g][r] = g < groups && r < live ? detail::scale_of<S>(m.data[(std::int64_t(i) * R + r) * m.stride + std::int64_t(j) * G + g]) : 0.0f;
}
//! The same for a right operand: from a matrix columns x groups.
template <class S, int G, int N, class M, int Step> void load_scales(stored_right_scales<S, G, N>& t, const view<const M, Step>& m, int i, int j) {
  const int live = inside(m.rows, std::int64_t(j) * N, N), groups = inside(m.cols, std::int64_t(i) * G, G);
  for (int g = 0; g < G; ++g)
    for (int n = 0; n < N; ++n)
      t.v[g][n] = g < groups && n < live ? detail::scale_of<S>(m.data[(std::int64_t(j) * N + n) * m.stride + std::int64_t(i) * G + g]) : 0.0f;
}

}  // namespace smalti::inline SMALTI_CODE::host
