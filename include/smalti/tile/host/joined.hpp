// Products of several right operands as one: tiles that lie apart in memory, whose panels are packed once each and kept, are multiplied as if
// they were one panel. Side by side they are columns of the result; one below another they share its sums, which then stay in
// registers from one to the next.
#pragma once
#include <cstdint>
#include <type_traits>
#include <smalti/tile/host/dot.hpp>
#include <smalti/tile/host/panels.hpp>
#include <smalti/tile/mutant.hpp>

namespace smalti::inline SMALTI_CODE::host {

namespace detail {

#if SMALTI_DOT_LEVEL >= 4
// 32 rows and 32 columns, Count right operands of `steps` words each, one below another.
template <int Count> void amx_square_below(char* acc, std::int64_t acc_stride, const char* left, std::int64_t left_stride, const char* const (&right)[Count], int steps) {
  constexpr std::int64_t line = 32 * word;
  char* low = acc + 16 * acc_stride;
  const char* left_low = left + 16 * left_stride;
  _tile_loadd(0, acc, acc_stride);
  _tile_loadd(2, low, acc_stride);
  _tile_loadd(1, acc + 64, acc_stride);
  _tile_loadd(3, low + 64, acc_stride);
  for (int g = 0; g < Count; ++g) {
    const char* from = right[g];
    for (int s = 0; s < steps; s += 16, left += 64, left_low += 64, from += 16 * line) {
      _tile_loadd(6, from, line);
      _tile_loadd(4, left, left_stride);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(5, left_low, left_stride);
      _tile_dpbf16ps(2, 5, 6);
      _tile_loadd(7, from + 64, line);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, acc, acc_stride);
  _tile_stored(2, low, acc_stride);
  _tile_stored(1, acc + 64, acc_stride);
  _tile_stored(3, low + 64, acc_stride);
}
#endif

// acc (+)= a b, columns of acc `stride` apart.
template <bool Fresh, class T, int R, int A, class U, int K, int N>
void product_at(float* acc, std::int64_t stride, const left_panel<T, R, A>& a, int first, const right_panel<U, K, N>& b) {
  using panel = right_panel<U, K, N>;
  const int depth = a.depth - first < b.depth ? a.depth - first : b.depth, words = (depth + panel::per_word - 1) / panel::per_word, columns = round_up(b.live, lane_count);
  if constexpr (panel::in_tiles) {
    dot_strips<Fresh>(acc, stride, a.data + first, a.stride, b.data, std::int64_t(K) * panel::strip, a.live, columns, words * panel::per_word);
  } else {
    if constexpr (Fresh)
      for (int r = 0; r < R; ++r)
        for (int n = 0; n < N; n += lane_count) write(acc + r * stride + n, floats(0.0f));
    for (int n = 0; n < columns; n += panel::strip)
      dot_left(acc + n, stride, a, a.stride, first, b.data + std::int64_t(n) * K, panel::strip, columns - n < panel::strip ? columns - n : panel::strip, words * panel::per_word);
  }
}

}  // namespace detail

struct joined_products {
  static constexpr bool joins = true;              // arrays of right operands are multiplied as one
  //! Columns g N to (g + 1) N of acc are (+)= a b[g].
  template <int R, int W, int K, int N, int G, class T, class U>
  static void multiply(array_tile<float, R, W>& acc, const left_panel<T, R, K>& a, const right_panel<U, K, N> (&b)[G]) {
    static_assert(W == G * N, "smalti: operands side by side are as wide as their product");
    const bool anew = a.live == R && a.depth > 0;
    for (int g = 0; g < G; ++g) {
      if (anew && round_up(b[g].live, lane_count) == N && b[g].depth > 0) {
        detail::product_at<true>(&acc.v[0][g * N], W, a, 0, b[g]);
      } else {
        for (int r = 0; r < R; ++r)
          for (int n = 0; n < N; n += lane_count) write(&acc.v[r][g * N + n], floats(0.0f));
        detail::product_at<false>(&acc.v[0][g * N], W, a, 0, b[g]);
      }
    }
  }
  template <int R, int W, int K, int N, int G, class T, class U>
  static void product(array_tile<float, R, W>& acc, const left_panel<T, R, K>& a, const right_panel<U, K, N> (&b)[G]) {
    static_assert(W == G * N, "smalti: operands side by side are as wide as their product");
    for (int g = 0; g < G; ++g) detail::product_at<false>(&acc.v[0][g * N], W, a, 0, b[g]);
  }
  //! acc += sum over g of columns g K to (g + 1) K of a times b[g].
  template <int R, int W, int K, int N, int G, class T, class U>
    requires (W == G * K && G > 1)
  static void product(array_tile<float, R, N>& acc, const left_panel<T, R, W>& a, const right_panel<U, K, N> (&b)[G]) {
#if SMALTI_DOT_LEVEL >= 4
    using panel = right_panel<U, K, N>;
    if constexpr (panel::in_tiles && std::is_same_v<typename panel::storage, bf16> && R % 32 == 0 && K % 32 == 0) {
      bool whole = detail::amx_is_usable() && a.live == R && a.depth == W;
      for (int g = 0; g < G; ++g) whole = whole && b[g].live == N && b[g].depth == K;
      if (whole) {
        using namespace detail;
        amx_configure(16, 16, 16);
        for (int n = 0; n < N; n += 32) {
          const char* right[G];
          for (int g = 0; g < G; ++g) right[g] = bytes(b[g].data + std::int64_t(n) * K);
          for (int r = 0; r < R; r += 32) amx_square_below<G>(bytes(&acc.v[r][n]), N * word, bytes(a.data + r * a.stride), a.stride * 2, right, K / 2);
        }
        amx_release();
        amx_fence();
        return;
      }
    }
#endif
    for (int g = 0; g < G; ++g) detail::product_at<false>(&acc.v[0][0], N, a, g * K, b[g]);
  }
};

}  // namespace smalti::inline SMALTI_CODE::host
