// Inner products one at a time: in double, in integers, and in float in a given order of sums.
#pragma once
#include <cmath>
#include <cstdint>

namespace reference {

// sum over p of left(p) * right(p), and the same of absolute values for error bounds
struct product {
  double sum = 0, size = 0;
  template <class Left, class Right> product(double start, int k, Left left, Right right) : sum(start), size(std::fabs(start)) {
    for (int p = 0; p < k; ++p) {
      const double x = double(left(p)) * double(right(p));
      sum += x;
      size += std::fabs(x);
    }
  }
};

// modulo 2^32
template <class Left, class Right> std::int32_t integer_product(std::int32_t start, int k, Left left, Right right) {
  std::int64_t sum = start;
  for (int p = 0; p < k; ++p) sum += std::int64_t(left(p)) * right(p);
  return static_cast<std::int32_t>(static_cast<std::uint32_t>(static_cast<std::uint64_t>(sum)));
}

// every product fused into the sum, in the order of p
template <class Left, class Right> float in_order(float start, int k, Left left, Right right) {
  for (int p = 0; p < k; ++p) start = std::fma(left(p), right(p), start);
  return start;
}
// of each pair the odd product first
template <class Left, class Right> float odd_first(float start, int k, Left left, Right right) {
  for (int p = 0; p < k; p += 2) {
    start = std::fma(left(p + 1), right(p + 1), start);
    start = std::fma(left(p), right(p), start);
  }
  return start;
}
// of each 32 the even and the odd products apart, then together, then to the sum
template <class Left, class Right> float in_blocks_of_32(float start, int k, Left left, Right right) {
  for (int first = 0; first < k; first += 32) {
    float even = 0, odd = 0;
    for (int p = first; p < k && p < first + 32; p += 2) {
      even = std::fma(left(p), right(p), even);
      odd = std::fma(left(p + 1), right(p + 1), odd);
    }
    start += even + odd;
  }
  return start;
}

}  // namespace reference
