// An extent as a sum of tile widths. GPU tiles have extents of powers of two, so a head of 96 elements is a tile of 64
// and one of 32; the host takes any multiple of 32 in one piece.
#pragma once
#include <smalti/core/version.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! Chunks of `Extent` in falling order, each `Widest` or a smaller power of two, so that each begins at a multiple of its
//! own width: chunk i is tile first(i) / width(i) of the extent. The last is `Narrowest` where less is left: what lies
//! past the extent is the padding of a masked load. Widest = 0: one chunk, the extent rounded up to a multiple of 32.
template <int Extent, int Widest, int Narrowest = 16>
struct chunks {
  static_assert(Extent > 0, "smalti: an extent of chunks must be positive");
  static_assert((Widest & (Widest - 1)) == 0 && (Narrowest & (Narrowest - 1)) == 0 && (Widest == 0 || Widest >= Narrowest),
                "smalti: the widths of chunks are powers of two: choose a widest chunk of 0, 16, 32, 64, 128, 256 or 512");

  SMALTI_HD static constexpr int width(int i) {
    if (Widest == 0) return (Extent + 31) / 32 * 32;
    int left = Extent - first(i), w = Widest;
    while (w > left && w > Narrowest) w /= 2;
    return w;
  }
  SMALTI_HD static constexpr int first(int i) {
    int sum = 0;
    for (int n = 0; n < i; ++n) {
      int w = Widest;
      while (w > Extent - sum && w > Narrowest) w /= 2;
      sum += w;
    }
    return sum;
  }
  SMALTI_HD static constexpr int how_many() {
    int n = 0;
    if (Widest == 0) return 1;
    while (first(n) < Extent) ++n;
    return n;
  }
  static constexpr int count = how_many();
  static constexpr int padded = Widest == 0 ? (Extent + 31) / 32 * 32 : first(count - 1) + width(count - 1);   //!< with the padding of the last chunk
};

}  // namespace smalti::inline SMALTI_DATA::policy
