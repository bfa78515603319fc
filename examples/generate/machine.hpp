// Where the engine runs. The same text is compiled for the processor and, by nvcc, for a GPU: what differs is here. What depends on the
// machine lives in an inline namespace with its name, so that one program holds both.
#pragma once
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>
#include <smalti/core/context.hpp>
#include <smalti/core/cuda_context.hpp>
#include <smalti/core/describe.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/view.hpp>
#include <smalti/core/workspace.hpp>

#if defined(__CUDACC__)
#  define GENERATE_MACHINE on_gpu
#else
#  define GENERATE_MACHINE on_host
#endif

namespace generate::inline GENERATE_MACHINE {

//! The answer of an op, or the end of the program's work with its sentence.
inline void expect(const smalti::status& st) {
  if (st) return;
  char text[512];
  throw std::runtime_error(smalti::describe(st, text));
}

//! Memory of the processor.
struct host_memory {
  static void* take(std::size_t bytes) {
    void* const p = std::aligned_alloc(256, (bytes + 256) / 256 * 256);
    if (p == nullptr) throw std::bad_alloc();
    return p;
  }
  static void give(void* p) { std::free(p); }
  static void copy_in(void* to, const void* from, std::size_t bytes) { std::memcpy(to, from, bytes); }
  static void copy_out(void* to, const void* from, std::size_t bytes) { std::memcpy(to, from, bytes); }
  static void clear(void* p, std::size_t bytes) { std::memset(p, 0, bytes); }
};

#if defined(__CUDACC__)

using machine = smalti::cuda_context;
constexpr bool small_floats_as_integers = false;      // of 4 bits, as 8-bit operands: twice their values are integers, which the host's unpacking makes

inline void expect_cuda(cudaError_t error, const char* what) { expect(smalti::status_of(error, what)); }

// Copies go by the stream of the context, the default one: behind the work that was queued before them. cudaFree waits for that too.
struct machine_memory {
  static void* take(std::size_t bytes) {
    void* p = nullptr;
    expect_cuda(cudaMalloc(&p, bytes > 0 ? bytes : 1), "memory of the GPU could not be had: take a smaller --context");
    return p;
  }
  static void give(void* p) { static_cast<void>(cudaFree(p)); }
  static void copy_in(void* to, const void* from, std::size_t bytes) { expect_cuda(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice), "a copy to the GPU failed"); }
  static void copy_out(void* to, const void* from, std::size_t bytes) { expect_cuda(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost), "a copy from the GPU failed"); }
  static void clear(void* p, std::size_t bytes) { expect_cuda(cudaMemsetAsync(p, 0, bytes, nullptr), "memory of the GPU could not be cleared"); }
};
//! Written by the processor, read by kernels.
struct shared_memory : host_memory {
  static void* take(std::size_t bytes) {
    void* p = nullptr;
    expect_cuda(cudaMallocHost(&p, bytes > 0 ? bytes : 1), "pinned memory could not be had");
    return p;
  }
  static void give(void* p) { static_cast<void>(cudaFreeHost(p)); }
};
inline void wait(const machine& on) { expect_cuda(cudaStreamSynchronize(on.stream), "the GPU reported a failure"); }

#else

using machine = smalti::host_context;
constexpr bool small_floats_as_integers = true;
using machine_memory = host_memory;
using shared_memory = host_memory;
inline void wait(const machine&) {}

#endif

//! `n` elements of a memory, on a boundary of 256 bytes.
template <class T, class Memory> class buffer_in {
public:
  buffer_in() = default;
  explicit buffer_in(std::size_t n) : n_(n), data_(static_cast<T*>(Memory::take(n * sizeof(T)))) {}
  buffer_in(buffer_in&& o) noexcept : n_(std::exchange(o.n_, 0)), data_(std::exchange(o.data_, nullptr)) {}
  buffer_in& operator=(buffer_in&& o) noexcept {
    std::swap(n_, o.n_), std::swap(data_, o.data_);
    return *this;
  }
  ~buffer_in() {
    if (data_ != nullptr) Memory::give(data_);
  }
  T* data() const { return data_; }
  std::size_t size() const { return n_; }
  std::size_t bytes() const { return n_ * sizeof(T); }
  void put(const T* from, std::size_t n, std::size_t at = 0) { Memory::copy_in(data_ + at, from, n * sizeof(T)); }
  void get(T* to, std::size_t n, std::size_t at = 0) const { Memory::copy_out(to, data_ + at, n * sizeof(T)); }
  void clear(std::size_t n) { Memory::clear(data_, n * sizeof(T)); }
  //! Room for n elements; what was there is gone where it grows.
  void reserve(std::size_t n) {
    if (n > n_) *this = buffer_in(n);
  }
  smalti::view<T> rows(int rows, int cols) const { return {data_, rows, cols, cols}; }
  smalti::view<const T> read(int rows, int cols) const { return {data_, rows, cols, cols}; }

private:
  std::size_t n_ = 0;
  T* data_ = nullptr;
};
template <class T> using buffer = buffer_in<T, machine_memory>;
template <class T> using host_buffer = buffer_in<T, host_memory>;
template <class T> using shared_buffer = buffer_in<T, shared_memory>;

//! What the processor has written, in the machine's memory.
template <class T> buffer<T> on_machine(host_buffer<T> from) {
  if constexpr (std::is_same_v<machine_memory, host_memory>) return from;
  else {
    buffer<T> there(from.size());
    there.put(from.data(), from.size());
    return there;
  }
}
template <class T> buffer<T> on_machine(const std::vector<T>& from) {
  buffer<T> there(from.size());
  there.put(from.data(), from.size());
  return there;
}

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

}  // namespace generate::inline GENERATE_MACHINE
