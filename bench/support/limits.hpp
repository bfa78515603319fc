// What this machine can do at most, measured in the run that uses it: arithmetic rates of the instructions
// that kernels are made of, and the bandwidth of memory. A share of a data sheet's number says little on a
// machine whose clock, neighbours and page tables are not the data sheet's.
#pragma once
#include <cstddef>
#include <utility>
#include <vector>

namespace bench {

//! Instructions whose rate bounds a product. A widened bf16 product runs on `fma`.
enum class instruction { fma, bf16_dot, s8_dot, amx_bf16, amx_s8 };

//! The field's name of an instruction, as printed in labels.
const char* name(instruction);

//! True where this file was compiled with the instruction and the processor (for AMX: the kernel, too) permits it.
bool available(instruction);

//! Seconds that `threads` threads take, all at once, for at least `flop` operations each of independent
//! chains of one instruction, and how many operations that were in total. One multiply-add counts as two.
struct work_done {
  double amount = 0, seconds = 0;
  double rate() const { return seconds > 0 ? amount / seconds : 0; }
};
work_done arithmetic(instruction, int threads, double flop);

//! Bytes of the last-level cache, from the system; 32 MiB where it does not say.
std::size_t last_level_cache();

//! The size from which on memory answers and not a cache: at least 1 GiB and twice the last-level cache, at
//! most 8 GiB (a machine with a larger cache than 4 GiB would need more).
std::size_t beyond_caches();

//! Memory on pages of 2 MiB where the kernel gives them, so that a measurement of bandwidth is not one of
//! address translation. Starts at a page; holds zeros.
struct pages {
  std::byte* data = nullptr;
  std::size_t size = 0;
  pages() = default;
  explicit pages(std::size_t bytes);
  pages(pages&& other) noexcept : data(std::exchange(other.data, nullptr)), size(std::exchange(other.size, 0)) {}
  pages& operator=(pages&& other) noexcept {
    std::swap(data, other.data);
    std::swap(size, other.size);
    return *this;
  }
  ~pages();
};

//! A buffer of beyond_caches() bytes that is read or copied piece by piece, over and over.
class memory_stream {
 public:
  memory_stream();

  //! Reads (or copies) the next `bytes` of the buffer with `threads` threads. A copy counts each byte twice:
  //! once read, once written (with stores that do not first read the line).
  work_done read(int threads, std::size_t bytes);
  work_done copy(int threads, std::size_t bytes);
  std::size_t size() const { return size_; }

 private:
  pages memory_;
  std::size_t size_ = 0, at_ = 0;
};

//! Processor time of the calling thread: what other processes take does not count.
double thread_seconds();
//! Time on the wall.
double wall_seconds();
//! The clock that a measurement with `threads` threads uses: the thread's own for one, the wall's for more.
inline double seconds(int threads) { return threads == 1 ? thread_seconds() : wall_seconds(); }

double median(std::vector<double>);

}  // namespace bench
