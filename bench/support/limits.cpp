#include "limits.hpp"

#include <omp.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#if defined(__x86_64__)
#  include <immintrin.h>
#endif

namespace bench {
namespace {

// The widest vector the compiler was told of. Kernels that use less of the machine show as a smaller share.
#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
#elif defined(__AVX__)
constexpr int vector_bytes = 32;
#else
constexpr int vector_bytes = 16;
#endif
typedef float floats __attribute__((vector_size(vector_bytes)));

// Two units of latency 4 (5 on some) need 8 to 10 chains; 12 leave room in 16 registers for the factors.
constexpr int chains = 12;

// Keeps a value in a register and hides it from the optimiser: no chain is folded, merged or dropped.
template <class V> inline void opaque(V& v) {
#if defined(__x86_64__)
  asm volatile("" : "+v"(v));
#else
  asm volatile("" : "+w"(v));
#endif
}

template <class V, class Step> double run_chains(V start, long long rounds, Step step) {
  // Twelve names, not an array: g++ keeps an array in memory here, and measures the store buffer.
  V a = start, b = start, c = start, d = start, e = start, f = start, g = start, h = start, i = start, j = start, k = start, l = start;
  const auto one = [&step](V& s) {
    step(s);
    opaque(s);
  };
  for (long long r = 0; r < rounds; ++r) {
    one(a);
    one(b);
    one(c);
    one(d);
    one(e);
    one(f);
    one(g);
    one(h);
    one(i);
    one(j);
    one(k);
    one(l);
  }
  return double(rounds) * chains;  // instructions
}

double run_fma(double flop) {
  constexpr double each = 2.0 * vector_bytes / sizeof(float);
  floats x{}, y{};
  for (unsigned i = 0; i < vector_bytes / sizeof(float); ++i) x[i] = 0.999f, y[i] = 0.001f;
  opaque(x);
  opaque(y);
  return each * run_chains(floats{}, static_cast<long long>(flop / each / chains) + 1, [=](floats& s) { s = s * x + y; });
}

#if defined(__AVX512BF16__)
double run_bf16_dot(double flop) {
  constexpr double each = 2.0 * 32;
  const __m512bh x = (__m512bh)_mm512_set1_epi16(0x3f80), y = (__m512bh)_mm512_set1_epi16(0x3c00);
  return each * run_chains(_mm512_setzero_ps(), static_cast<long long>(flop / each / chains) + 1,
                           [=](__m512& s) { s = _mm512_dpbf16_ps(s, x, y); });
}
#endif

#if defined(__AVX512VNNI__)
double run_s8_dot(double flop) {
  constexpr double each = 2.0 * 64;
  const __m512i x = _mm512_set1_epi8(1), y = _mm512_set1_epi8(2);
  return each * run_chains(_mm512_setzero_si512(), static_cast<long long>(flop / each / chains) + 1,
                           [=](__m512i& s) { s = _mm512_dpbusd_epi32(s, x, y); });
}
#elif defined(__AVXVNNI__)
double run_s8_dot(double flop) {
  constexpr double each = 2.0 * 32;
  const __m256i x = _mm256_set1_epi8(1), y = _mm256_set1_epi8(2);
  return each * run_chains(_mm256_setzero_si256(), static_cast<long long>(flop / each / chains) + 1,
                           [=](__m256i& s) { s = _mm256_dpbusd_avx_epi32(s, x, y); });
}
#elif defined(__AVX2__)
double run_s8_dot(double flop) {  // three instructions make one dot of 32 pairs
  constexpr double each = 2.0 * 32;
  const __m256i x = _mm256_set1_epi8(1), ones = _mm256_set1_epi16(1);
  __m256i y = _mm256_set1_epi8(2);
  return each * run_chains(_mm256_setzero_si256(), static_cast<long long>(flop / each / chains) + 1, [=](__m256i& s) mutable {
           opaque(y);
           s = _mm256_add_epi32(s, _mm256_madd_epi16(_mm256_maddubs_epi16(x, y), ones));
         });
}
#endif

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AMX_INT8__)
#  define BENCH_AMX 1
struct alignas(64) tile_shapes {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};
};

// Linux gives a process the tiles' register state only when asked.
bool permitted_amx() {
  constexpr long request_permission = 0x1023, tile_data = 18;
  static const bool granted = syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
  return granted;
}

// The state of the tiles is per thread and is put back to its initial form at the end, so that a context
// switch in a later measurement does not save 8 KiB.
template <class Multiply> double run_tiles(double flop, double each, Multiply multiply) {
  tile_shapes shapes;
  for (int t = 0; t < 8; ++t) shapes.row_bytes[t] = 64, shapes.rows[t] = 16;
  asm volatile("" : : "r"(&shapes) : "memory");  // g++'s intrinsic names only the first 8 bytes as read
  _tile_loadconfig(&shapes);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  const long long rounds = static_cast<long long>(flop / each / 6) + 1;
  for (long long r = 0; r < rounds; ++r) multiply();
  _tile_release();
  return each * 6 * double(rounds);
}
// A tile product takes 16 cycles to issue and 52 to arrive: four chains hide it, six are sure to.
double run_amx_bf16(double flop) {
  return run_tiles(flop, 2.0 * 16 * 16 * 32, [] {
    _tile_dpbf16ps(0, 6, 7);
    _tile_dpbf16ps(1, 6, 7);
    _tile_dpbf16ps(2, 6, 7);
    _tile_dpbf16ps(3, 6, 7);
    _tile_dpbf16ps(4, 6, 7);
    _tile_dpbf16ps(5, 6, 7);
  });
}
double run_amx_s8(double flop) {
  return run_tiles(flop, 2.0 * 16 * 16 * 64, [] {
    _tile_dpbssd(0, 6, 7);
    _tile_dpbssd(1, 6, 7);
    _tile_dpbssd(2, 6, 7);
    _tile_dpbssd(3, 6, 7);
    _tile_dpbssd(4, 6, 7);
    _tile_dpbssd(5, 6, 7);
  });
}
#endif

double run_here(instruction what, double flop) {
  switch (what) {
    case instruction::fma: return run_fma(flop);
#if defined(__AVX512BF16__)
    case instruction::bf16_dot: return run_bf16_dot(flop);
#endif
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__) || defined(__AVX2__)
    case instruction::s8_dot: return run_s8_dot(flop);
#endif
#if defined(BENCH_AMX)
    case instruction::amx_bf16: return run_amx_bf16(flop);
    case instruction::amx_s8: return run_amx_s8(flop);
#endif
    default: return 0;
  }
}

// One thread works on the caller; more work in a team that starts together, and the slowest one counts.
template <class Body> work_done together(int threads, Body body) {
  work_done done;
  if (threads == 1) {
    const double start = thread_seconds();
    done.amount = body(0);
    done.seconds = thread_seconds() - start;
    return done;
  }
  double amount = 0, start = 0, end = 0;
#pragma omp parallel num_threads(threads) reduction(+ : amount)
  {
#pragma omp barrier
#pragma omp single
    start = wall_seconds();
    amount += body(omp_get_thread_num());
#pragma omp barrier
#pragma omp single
    end = wall_seconds();
  }
  return {amount, end - start};
}

// Loads of 16 bytes on purpose: one stream of them runs further ahead of memory than wide loads or several
// streams (measured with one core: 18.0 GB/s, against 16.0 with 64-byte loads and 17.3 with four streams).
void read_lines(const std::byte* data, std::size_t bytes) {
  typedef std::uint64_t words __attribute__((vector_size(16)));
  words a{}, b{}, c{}, d{};
  const auto* at = reinterpret_cast<const words*>(data);
  for (std::size_t i = 0; i + 4 <= bytes / sizeof(words); i += 4) {
    a ^= at[i];
    b ^= at[i + 1];
    c ^= at[i + 2];
    d ^= at[i + 3];
  }
  opaque(a), opaque(b), opaque(c), opaque(d);
}

void copy_lines(std::byte* to, const std::byte* from, std::size_t bytes) {
#if defined(__AVX__)
  for (std::size_t i = 0; i < bytes; i += 32)  // faster than 64 bytes at a time: 25 GB/s against 20
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + i), _mm256_load_si256(reinterpret_cast<const __m256i*>(from + i)));
  _mm_sfence();
#else
  std::memcpy(to, from, bytes);
#endif
}

double now(clockid_t clock) {
  timespec t;
  clock_gettime(clock, &t);
  return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

}  // namespace

double thread_seconds() { return now(CLOCK_THREAD_CPUTIME_ID); }
double wall_seconds() { return now(CLOCK_MONOTONIC); }

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const std::size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

const char* name(instruction what) {
  switch (what) {
    case instruction::fma: return "f32 FMA";
    case instruction::bf16_dot: return "bf16 dot";
    case instruction::s8_dot: return "8-bit dot";
    case instruction::amx_bf16: return "AMX bf16";
    case instruction::amx_s8: return "AMX int8";
  }
  return "unknown";
}

bool available(instruction what) {
#if defined(__x86_64__)
  __builtin_cpu_init();
#endif
  switch (what) {
    case instruction::fma: return true;
    case instruction::bf16_dot:
#if defined(__AVX512BF16__)
      return __builtin_cpu_supports("avx512bf16");
#else
      return false;
#endif
    case instruction::s8_dot:
#if defined(__AVX512VNNI__)
      return __builtin_cpu_supports("avx512vnni");
#elif defined(__AVXVNNI__) || defined(__AVX2__)
      return __builtin_cpu_supports("avx2");
#else
      return false;
#endif
    case instruction::amx_bf16:
    case instruction::amx_s8:
#if defined(BENCH_AMX)
      return permitted_amx();
#else
      return false;
#endif
  }
  return false;
}

work_done arithmetic(instruction what, int threads, double flop) {
  if (!available(what)) return {};
  return together(threads, [&](int) { return run_here(what, flop); });
}

std::size_t last_level_cache() {
  std::size_t largest = 0;
  for (int index = 0; index < 8; ++index) {
    char path[96];
    std::snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", index);
    std::FILE* file = std::fopen(path, "r");
    if (file == nullptr) break;
    unsigned long size = 0;
    char unit = 0;
    if (std::fscanf(file, "%lu%c", &size, &unit) >= 1)
      largest = std::max(largest, std::size_t(size) * (unit == 'M' ? 1u << 20 : unit == 'K' ? 1u << 10 : 1u));
    std::fclose(file);
  }
  return largest == 0 ? std::size_t(32) << 20 : largest;
}

std::size_t beyond_caches() {
  constexpr std::size_t least = std::size_t(1) << 30, most = std::size_t(8) << 30;
  return std::min(most, std::max(least, 2 * last_level_cache()));
}

pages::pages(std::size_t bytes) : size(bytes) {
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    std::fprintf(stderr, "bench: no %zu MiB of memory\n", size >> 20);
    std::abort();
  }
  madvise(memory, size, MADV_HUGEPAGE);
  data = static_cast<std::byte*>(memory);
}

pages::~pages() {
  if (data != nullptr) munmap(data, size);
}

memory_stream::memory_stream() : size_(beyond_caches()) {
  memory_ = pages(size_);
  std::memset(memory_.data, 1, size_);  // the zero page would be cached
}

work_done memory_stream::read(int threads, std::size_t bytes) {
  bytes = std::min(bytes, size_);
  const std::size_t share = bytes / std::size_t(threads) / 4096 * 4096;
  if (at_ + share * std::size_t(threads) > size_) at_ = 0;
  const std::byte* from = memory_.data + at_;
  at_ += share * std::size_t(threads);
  return together(threads, [&](int t) {
    read_lines(from + std::size_t(t) * share, share);
    return double(share);
  });
}

work_done memory_stream::copy(int threads, std::size_t bytes) {
  const std::size_t half = size_ / 2;
  bytes = std::min(bytes / 2, half);
  const std::size_t share = bytes / std::size_t(threads) / 4096 * 4096;
  if (at_ % half + share * std::size_t(threads) > half) at_ = 0;
  std::byte* from = memory_.data + at_ % half;
  at_ += share * std::size_t(threads);
  return together(threads, [&](int t) {
    copy_lines(from + half + std::size_t(t) * share, from + std::size_t(t) * share, share);
    return 2.0 * double(share);
  });
}

}  // namespace bench
