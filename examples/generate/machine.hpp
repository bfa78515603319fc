// Where the engine runs. The same text is compiled for the processor and, by nvcc, for a GPU: what differs is here.
#pragma once
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>
#include <smalti/core/context.hpp>
#include <smalti/core/describe.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/view.hpp>
#include <smalti/core/workspace.hpp>

namespace generate {

using machine = smalti::host_context;

//! The answer of an op, or the end of the program's work with its sentence.
inline void expect(const smalti::status& st) {
  if (st) return;
  char text[512];
  throw std::runtime_error(smalti::describe(st, text));
}

//! `n` elements in the machine's memory, on a boundary of 256 bytes.
template <class T> class buffer {
public:
  buffer() = default;
  explicit buffer(std::size_t n) : n_(n), data_(static_cast<T*>(std::aligned_alloc(256, (n * sizeof(T) + 256) / 256 * 256))) {
    if (data_ == nullptr) throw std::bad_alloc();
  }
  buffer(buffer&& o) noexcept : n_(o.n_), data_(o.data_) { o.data_ = nullptr, o.n_ = 0; }
  buffer& operator=(buffer&& o) noexcept {
    std::swap(n_, o.n_), std::swap(data_, o.data_);
    return *this;
  }
  ~buffer() { std::free(data_); }
  T* data() const { return data_; }
  std::size_t size() const { return n_; }
  std::size_t bytes() const { return n_ * sizeof(T); }
  void put(const T* from, std::size_t n, std::size_t at = 0) { std::memcpy(static_cast<void*>(data_ + at), from, n * sizeof(T)); }
  void get(T* to, std::size_t n, std::size_t at = 0) const { std::memcpy(static_cast<void*>(to), data_ + at, n * sizeof(T)); }
  void clear(std::size_t n) { std::memset(static_cast<void*>(data_), 0, n * sizeof(T)); }
  //! Room for n elements; what was there is gone where it grows.
  void reserve(std::size_t n) {
    if (n > n_) *this = buffer(n);
  }
  smalti::view<T> rows(int rows, int cols) const { return {data_, rows, cols, cols}; }
  smalti::view<const T> read(int rows, int cols) const { return {data_, rows, cols, cols}; }

private:
  std::size_t n_ = 0;
  T* data_ = nullptr;
};

//! Scratch memory for ops, as much as the largest has asked for.
class scratch {
public:
  smalti::workspace at_least(std::size_t bytes) {
    memory_.reserve(bytes);
    return {memory_.data(), bytes};
  }
  std::size_t bytes() const { return memory_.bytes(); }

private:
  buffer<std::byte> memory_;
};

//! Runs an op with scratch memory.
template <class Op> void run(const machine& context, const typename Op::args& x, scratch& memory) {
  expect(Op::run(context, x, memory.at_least(Op::workspace_bytes(context, x))));
}

inline void wait(const machine&) {}

}  // namespace generate
