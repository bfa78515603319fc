// A total divided into whole parts: what every allocator of a cache budget ends with.
#pragma once
#include <cstdint>
#include <smalti/core/version.hpp>

namespace smalti::inline SMALTI_DATA::policy {

namespace detail {
// A weight of an apportionment, all equal where those that are left are nothing, and what part of `rest` it stands for.
struct shares {
  const double* weights;
  bool equal;
  double sum, rest;
  // Weights are numbers from nothing to much: what is not one counts as nothing.
  double weight(int i) const { return equal ? 1.0 : weights[i] > 0 ? (weights[i] < 1e300 ? weights[i] : 1e300) : 0.0; }
  double share(int i) const { return rest * (weight(i) / sum); }
  // Remainders are in [0, 1), whose order is that of their bits.
  std::uint64_t remainder(int i) const { return __builtin_bit_cast(std::uint64_t, share(i) - __builtin_floor(share(i))); }
};
}  // namespace detail

//! `total` in whole parts in proportion to `weights`, none above its cap, by largest remainders:
//!     sum out[i] = min(total, sum caps[i]),      0 <= out[i] <= caps[i]
//! What a cap cuts off goes to the others in proportion to their weights. Equal remainders: the lower place. Where all weights
//! that are left are nothing, they count as equal. A part whose weight is not less gets no less, if its cap allows.
//! Hamilton's method; O(count^2) where each round of caps closes one part, O(64 count) otherwise. Memory: none.
inline void apportion(const double* weights, const int* caps, int count, long long total, int* out) {
  constexpr int open = -1;
  long long room = 0;
  for (int i = 0; i < count; ++i) room += caps[i], out[i] = open;
  long long rest = total < 0 ? 0 : total < room ? total : room;
  detail::shares of{weights, false, 0, 0};
  for (bool again = true; again;) {
    again = false;
    for (int attempt = 0; attempt < 2; ++attempt) {
      int still = 0;
      of.sum = 0;
      for (int i = 0; i < count; ++i)
        if (out[i] == open) of.sum += of.weight(i), ++still;
      if (still == 0) return;
      if (of.sum > 0) break;
      of.equal = true;
    }
    of.rest = double(rest);
    for (int i = 0; i < count; ++i)
      if (out[i] == open && of.share(i) >= caps[i]) out[i] = caps[i], rest -= caps[i], again = true;
  }
  // No cap binds any more: whole parts, then one each to the greatest remainders, of which the least is found by halves.
  long long left = rest;
  for (int i = 0; i < count; ++i)
    if (out[i] == open) left -= static_cast<long long>(__builtin_floor(of.share(i)));
  std::uint64_t low = 0, high = std::uint64_t(1) << 63;                  // at least `left` remainders reach low
  while (high - low > 1) {
    const std::uint64_t middle = low + (high - low) / 2;
    long long reach = 0;
    for (int i = 0; i < count; ++i) reach += out[i] == open && of.remainder(i) >= middle;
    if (reach >= left) low = middle;
    else high = middle;
  }
  long long ties = left;
  for (int i = 0; i < count; ++i) ties -= out[i] == open && of.remainder(i) > low;
  for (int i = 0; i < count; ++i)
    if (out[i] == open) {
      const std::uint64_t r = of.remainder(i);
      out[i] = static_cast<int>(__builtin_floor(of.share(i))) + (r > low || (r == low && ties-- > 0));
    }
}

}  // namespace smalti::inline SMALTI_DATA::policy
