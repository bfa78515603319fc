// A compact battery of checks, small enough to run once for each seeded defect. A check throws where something is
// wrong. Memory is full of NaN wherever no value belongs: between rows, around arrays, in workspaces and on the stack.
#pragma once
#include <alloca.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <type_traits>
#include <vector>

#include <smalti/core/context.hpp>
#include <smalti/core/float.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/view.hpp>
#include <smalti/core/workspace.hpp>
#include <smalti/tile/mutant.hpp>

namespace battery {

struct failure {
  const char* what;
};
inline void expect(bool holds, const char* what) {
  if (!holds) throw failure{what};
}

struct check {
  const char* name;
  void (*run)();
};
std::vector<check> machine_checks();
std::vector<check> gemm_checks();
std::vector<check> attention_checks();
std::vector<check> attention_backward_checks();
std::vector<check> prim_checks();
std::vector<check> norm_checks();
std::vector<check> quantize_checks();
std::vector<check> route_checks();
std::vector<check> moe_checks();
std::vector<check> comm_checks();

//! `n` elements between two bands; every byte is 0xFF, which is NaN in every float type.
template <class T> class memory {
 public:
  explicit memory(std::size_t n, std::size_t band = 16384)
      : bytes_(n * sizeof(T)), all_(band + (bytes_ + 255) / 256 * 256 + band + 256, 0xFF) {
    first_ = all_.data() + band;
    first_ += (256 - reinterpret_cast<std::uintptr_t>(first_) % 256) % 256;
  }
  memory(const memory&) = delete;
  T* data() { return reinterpret_cast<T*>(first_); }
  const T* data() const { return reinterpret_cast<const T*>(first_); }
  T& operator[](std::size_t i) { return data()[i]; }
  const T& operator[](std::size_t i) const { return data()[i]; }
  std::size_t bytes() const { return bytes_; }
  void poison() { std::memset(first_, 0xFF, bytes_); }
  bool intact() const {
    for (const unsigned char& b : all_)
      if ((&b < first_ || &b >= first_ + bytes_) && b != 0xFF) return false;
    return true;
  }

 private:
  std::size_t bytes_;
  std::vector<unsigned char> all_;
  unsigned char* first_;
};

template <class T> double value(T x) {
  if constexpr (std::is_arithmetic_v<T>) return double(x);
  else return double(smalti::to_float(x));
}
template <class T> T element(double x) {
  if constexpr (std::is_arithmetic_v<T>) return T(x);
  else return smalti::narrow<T>(float(x));
}

//! count matrices of rows x cols, each row `stride` elements long, of small integers: their sums and products are exact in
//! every order. What lies between the rows stays NaN.
template <class T> struct matrix {
  int count, rows, cols, stride;
  memory<T> at;
  matrix(int count, int rows, int cols, int stride, unsigned seed = 0)
      : count(count), rows(rows), cols(cols), stride(stride), at(std::size_t(count) * rows * stride) {
    std::minstd_rand generator(seed + 1);
    if (seed != 0)
      for (int n = 0; n < count; ++n)
        for (int r = 0; r < rows; ++r)
          for (int c = 0; c < cols; ++c) (*this)(n, r, c) = element<T>(int(generator() >> 8) % 9 - 3);
  }
  T& operator()(int n, int r, int c) { return at[(std::size_t(n) * rows + r) * stride + c]; }
  const T& operator()(int n, int r, int c) const { return at[(std::size_t(n) * rows + r) * stride + c]; }
  double get(int n, int r, int c) const { return value((*this)(n, r, c)); }
  smalti::view<const T, 1> read(int n = 0) const { return {at.data() + std::size_t(n) * rows * stride, rows, cols, stride}; }
  smalti::view<T, 1> write(int n = 0) { return {at.data() + std::size_t(n) * rows * stride, rows, cols, stride}; }
  long long distance() const { return static_cast<long long>(rows) * stride; }
  //! Nobody wrote around the array or between its rows.
  bool intact() const {
    if (!at.intact()) return false;
    const auto* bytes = reinterpret_cast<const unsigned char*>(at.data());
    for (std::size_t line = 0; line < std::size_t(count) * rows; ++line)
      for (std::size_t b = (line * stride + cols) * sizeof(T); b < (line + 1) * stride * sizeof(T); ++b)
        if (bytes[b] != 0xFF) return false;
    return true;
  }
};

//! Leaves NaN where the next calls keep their tiles.
[[gnu::noinline]] inline void poison_stack() {
  constexpr std::size_t size = 512 * 1024;
  void* p = alloca(size);
  std::memset(p, 0xFF, size);
  asm volatile("" : : "r"(p) : "memory");
}

//! One thread in order, and two that take the blocks in shuffled order.
inline std::vector<smalti::host_context> contexts() { return {{1, 0}, {2, 20261121}}; }

}  // namespace battery
