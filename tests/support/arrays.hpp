// Memory for tests that every machine can reach, with guard bands: what an op writes outside its result is found.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <random>
#include <smalti/core/float.hpp>
#include <smalti/core/workspace.hpp>
#include <vector>
#if defined(__CUDACC__)
#  include <cuda_runtime_api.h>
#endif

namespace test {

//! `n` elements between two bands of 256 guard bytes, on a boundary of 256 bytes plus `shift` elements.
template <class T> class array {
public:
  explicit array(std::size_t n, int shift = 0) : n_(n), bytes_(n * sizeof(T) + shift * sizeof(T) + 2 * guard) {
#if defined(__CUDACC__)
    void* p = nullptr;
    if (cudaMallocManaged(&p, bytes_) != cudaSuccess) throw std::bad_alloc();
    memory_ = static_cast<unsigned char*>(p);
#else
    memory_ = static_cast<unsigned char*>(std::aligned_alloc(256, (bytes_ + 255) / 256 * 256));
#endif
    std::memset(memory_, 0xA5, bytes_);
    first_ = memory_ + guard + shift * sizeof(T);
  }
  array(array&& o) noexcept : n_(o.n_), bytes_(o.bytes_), memory_(o.memory_), first_(o.first_) { o.memory_ = nullptr; }
  ~array() {
#if defined(__CUDACC__)
    cudaFree(memory_);
#else
    std::free(memory_);
#endif
  }
  T* data() { return reinterpret_cast<T*>(first_); }
  const T* data() const { return reinterpret_cast<const T*>(first_); }
  std::size_t size() const { return n_; }
  T& operator[](std::size_t i) { return data()[i]; }
  const T& operator[](std::size_t i) const { return data()[i]; }
  T* begin() { return data(); }
  T* end() { return data() + n_; }
  //! True while nobody wrote before or behind the elements.
  bool guarded() const {
    for (const unsigned char* p = memory_; p < memory_ + bytes_; ++p)
      if ((p < first_ || p >= first_ + n_ * sizeof(T)) && *p != 0xA5) return false;
    return true;
  }

private:
  static constexpr std::size_t guard = 256;
  std::size_t n_, bytes_;
  unsigned char *memory_, *first_;
};

//! Normal values of deviation `size`, rounded to T; ints are uniform in [-128, 127].
template <class T> array<T> random_array(std::size_t n, std::mt19937& generator, float size = 1, int shift = 0) {
  array<T> a(n, shift);
  std::normal_distribution<float> normal(0, size);
  std::uniform_int_distribution<int> integer(-128, 127);
  for (T& x : a) {
    if constexpr (std::is_integral_v<T>) x = T(integer(generator));
    else if constexpr (std::is_same_v<T, float>) x = normal(generator);
    else x = smalti::narrow<T>(normal(generator));
  }
  return a;
}

//! A copy of a vector.
template <class T> array<T> array_of(const std::vector<T>& v) {
  array<T> a(v.size());
  for (std::size_t i = 0; i < v.size(); ++i) a[i] = v[i];
  return a;
}

//! The double value of an element.
template <class T> double value(T x) {
  if constexpr (std::is_arithmetic_v<T>) return double(x);
  else return double(smalti::to_float(x));
}

//! Workspace full of rubbish, a little larger than asked for, with its end guarded.
class scratch {
public:
  explicit scratch(std::size_t bytes) : bytes_(bytes), memory_(bytes) { std::memset(memory_.data(), 0xFF, bytes); }   // NaN in every float type
  smalti::workspace get() { return {memory_.data(), bytes_}; }
  bool guarded() const { return memory_.guarded(); }

private:
  std::size_t bytes_;
  array<unsigned char> memory_;
};

}  // namespace test
