// Memory that ends where nothing may be read: the last element lies against a page that no one may touch, so an
// access behind it is a fault, not luck.
#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <new>

template <class T> class guarded {
public:
  explicit guarded(std::size_t count) {
    const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t used = (count * sizeof(T) + page - 1) / page * page;
    mapped_ = used + page;
    base_ = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base_ == MAP_FAILED || mprotect(static_cast<char*>(base_) + used, page, PROT_NONE) != 0) throw std::bad_alloc();
    data_ = reinterpret_cast<T*>(static_cast<char*>(base_) + used - count * sizeof(T));
  }
  ~guarded() { munmap(base_, mapped_); }
  guarded(const guarded&) = delete;
  guarded& operator=(const guarded&) = delete;

  T* data() const { return data_; }
  T& operator[](std::size_t i) const { return data_[i]; }

private:
  void* base_;
  T* data_;
  std::size_t mapped_;
};
