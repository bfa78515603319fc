// Memory that is a file: where pages of keys and values go that neither a GPU nor the main memory is to hold.
#pragma once
#include <cerrno>
#include <cstddef>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <smalti/core/status.hpp>
#include <smalti/core/version.hpp>
#include <smalti/core/workspace.hpp>

namespace smalti::inline SMALTI_DATA::io {

//! Owns one mapping of a file of its own, read and written. Moved, never copied; what memory() gave ends with it.
//!
//! The file has no name from the moment that it is mapped: its space is free again when the owner goes, also after a crash. Pages are written back
//! and read by the system, as it needs memory. Take it as any workspace: cache::make_pool(shape, map.memory(), pool).
class mapped_pool {
 public:
  mapped_pool() = default;
  mapped_pool(const mapped_pool&) = delete;
  mapped_pool& operator=(const mapped_pool&) = delete;
  mapped_pool(mapped_pool&& other) noexcept : memory_(std::exchange(other.memory_, {})) {}
  mapped_pool& operator=(mapped_pool&& other) noexcept {
    if (this != &other) {
      close();
      memory_ = std::exchange(other.memory_, {});
    }
    return *this;
  }
  ~mapped_pool() { close(); }

  //! Makes `path`, which must not exist, `bytes` large with its space reserved, maps it and takes its name away. `got` of a refusal is errno. What was mapped
  //! before is gone.
  status open(const char* path, std::size_t bytes) {
    close();
    if (path == nullptr) return {errc::null_pointer, "mapped_pool: the path is null: pass the name of a file that does not exist yet"};
    if (bytes == 0) return {errc::bad_shape, "mapped_pool: bytes must be positive", 0, 1};
    const int file = ::open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file < 0) return {errc::bad_value, "mapped_pool: the file cannot be made (it must not exist, its folder must); got is errno", errno, 0};
    const int full = ::posix_fallocate(file, 0, ::off_t(bytes));        // else a write would end the process where the device is full
    void* at = full == 0 ? ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0) : MAP_FAILED;
    const int number = full != 0 ? full : errno;
    ::unlink(path);
    ::close(file);                                                      // the mapping keeps the file
    if (at == MAP_FAILED) return {errc::exhausted, "mapped_pool: the device has too little space, or the file cannot be mapped; got is errno", number, std::int64_t(bytes)};
    memory_.data = static_cast<std::byte*>(at), memory_.size = bytes;
    return {};
  }
  void close() noexcept {
    if (memory_.data != nullptr) ::munmap(memory_.data, memory_.size);
    memory_ = {};
  }
  workspace memory() const noexcept { return memory_; }

 private:
  workspace memory_{};
};

}  // namespace smalti::inline SMALTI_DATA::io
