// Equal copies of an operand, used one after another, so that each use comes from memory: a weight matrix is
// read once per token, and a benchmark that reads the same one again measures the cache.
#pragma once
#include "limits.hpp"

#include <algorithm>
#include <cstring>

namespace bench {

//! Copies of `count` elements of T that together exceed the caches (beyond_caches()), never fewer than two.
//! Each copy begins on a boundary of 4096 bytes.
template <class T> class rotating {
 public:
  //! `fill(T* first, count)` writes the first copy; the others are equal to it. With `rotate` false there is
  //! one copy only, and a case finds it as warm as the caches keep it.
  template <class Fill>
  rotating(std::size_t count, bool rotate, Fill fill) : distance_((count * sizeof(T) + 4095) / 4096 * 4096), copies_(1) {
    if (rotate) copies_ = std::max<std::size_t>(2, (beyond_caches() + distance_ - 1) / distance_);
    memory_ = pages(copies_ * distance_);
    fill(at(0), count);
    for (std::size_t i = 1; i < copies_; ++i) std::memcpy(at(i), at(0), count * sizeof(T));
  }
  //! The copy whose last use is the longest ago.
  T* next() {
    T* here = at(turn_);
    turn_ = turn_ + 1 == copies_ ? 0 : turn_ + 1;
    return here;
  }
  T* first() { return at(0); }
  std::size_t copies() const { return copies_; }

 private:
  T* at(std::size_t i) { return reinterpret_cast<T*>(memory_.data + i * distance_); }
  pages memory_;
  std::size_t distance_, copies_, turn_ = 0;
};

}  // namespace bench
