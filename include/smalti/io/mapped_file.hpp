// A file as read-only memory, unmapped when its owner goes.
#pragma once
#include <cerrno>
#include <cstdint>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <smalti/core/version.hpp>
#include <smalti/io/bytes.hpp>
#include <smalti/io/file_status.hpp>

namespace smalti::inline SMALTI_DATA::io {

//! Owns one mapping. Moved, never copied; spans of data() stay valid when the owner moves and end with it.
//!
//! Pages are read when they are touched, so opening costs the same for any size. A file that another process cuts short while
//! it is mapped ends this process with SIGBUS, as every mapping does: map what nobody writes.
class mapped_file {
 public:
  mapped_file() = default;
  mapped_file(const mapped_file&) = delete;
  mapped_file& operator=(const mapped_file&) = delete;
  mapped_file(mapped_file&& other) noexcept : memory_(std::exchange(other.memory_, {})) {}
  mapped_file& operator=(mapped_file&& other) noexcept {
    if (this != &other) {
      close();
      memory_ = std::exchange(other.memory_, {});
    }
    return *this;
  }
  ~mapped_file() { close(); }

  //! Maps `path`, in place of what was mapped before; after a refusal nothing is. Refuses what is not a regular file; `got`
  //! is then errno. An empty file is no fault here: data() is empty, and the readers refuse it.
  file_status open(const char* path) {
    close();
    if (path == nullptr) return detail::refuse(file_rule::cannot_open, "the path is null: pass the name of a file", 0);
    const int file = ::open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a pipe must not block before it is refused
    if (file < 0) return failed("the file cannot be opened; got is errno", path);
    struct stat facts {};
    if (::fstat(file, &facts) != 0) return failed("the file's size cannot be asked for; got is errno", path, file);
    if (!S_ISREG(facts.st_mode)) {
      ::close(file);
      return detail::refuse(file_rule::cannot_open, "only a regular file can be mapped: this is a folder, a pipe or a device", 0, path);
    }
    if (facts.st_size > 0) {
      void* at = ::mmap(nullptr, std::size_t(facts.st_size), PROT_READ, MAP_PRIVATE, file, 0);
      if (at == MAP_FAILED) return failed("the file cannot be mapped; got is errno", path, file);
      memory_ = {static_cast<const std::byte*>(at), std::size_t(facts.st_size)};
    }
    ::close(file);  // the mapping keeps the file
    return {};
  }

  void close() noexcept {
    if (memory_.data() != nullptr) ::munmap(const_cast<std::byte*>(memory_.data()), memory_.size());
    memory_ = {};
  }

  bytes data() const noexcept { return memory_; }

 private:
  static file_status failed(const char* what, const char* path, int file = -1) {
    const int number = errno;
    if (file >= 0) ::close(file);
    return detail::refuse(file_rule::cannot_open, what, 0, path, std::uint64_t(number));
  }
  bytes memory_;
};

}  // namespace smalti::inline SMALTI_DATA::io
