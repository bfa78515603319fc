// Copies that do not leave their result in the caches: rows that are read much later, or never by this thread.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <smalti/core/version.hpp>
#if defined(__AVX__)
#  include <immintrin.h>
#elif defined(__SSE2__)
#  include <emmintrin.h>      // a twentieth of the whole: every operation includes this file
#endif

namespace smalti::inline SMALTI_CODE::host {

#if defined(__AVX512F__)
namespace detail {
constexpr std::size_t streamed = 64;
inline void stream_one(char* to, const char* from) { _mm512_stream_si512(reinterpret_cast<__m512i*>(to), _mm512_loadu_si512(from)); }
}  // namespace detail
#elif defined(__AVX__)
namespace detail {
constexpr std::size_t streamed = 32;
inline void stream_one(char* to, const char* from) { _mm256_stream_si256(reinterpret_cast<__m256i*>(to), _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))); }
}  // namespace detail
#elif defined(__SSE2__)
namespace detail {
constexpr std::size_t streamed = 16;
inline void stream_one(char* to, const char* from) { _mm_stream_si128(reinterpret_cast<__m128i*>(to), _mm_loadu_si128(reinterpret_cast<const __m128i*>(from))); }
}  // namespace detail
#else
namespace detail {
constexpr std::size_t streamed = 0;        // no such stores: an ordinary copy
}  // namespace detail
#endif

//! `bytes` from one place to another that do not overlap; past the caches where `to` begins on a vector and whole vectors are copied.
//! Others may read them after stream_end().
inline void stream_copy(void* to, const void* from, std::size_t bytes) {
#if defined(__SSE2__)
  if (reinterpret_cast<std::uintptr_t>(to) % detail::streamed == 0 && bytes % detail::streamed == 0) {
    char* p = static_cast<char*>(to);
    const char* q = static_cast<const char*>(from);
    for (std::size_t i = 0; i < bytes; i += detail::streamed) detail::stream_one(p + i, q + i);
    return;
  }
#endif
  std::memcpy(to, from, bytes);
}
//! What this thread streamed is there before anything that it writes later.
inline void stream_end() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

}  // namespace smalti::inline SMALTI_CODE::host
