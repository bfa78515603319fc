// A status as one line of text, into the caller's memory. Opt-in: the only core header that formats.
#pragma once
#include <cstddef>
#include <cstdio>
#include <smalti/core/status.hpp>

namespace smalti::inline SMALTI_DATA {

//! Enough for every sentence of this library with both numbers.
constexpr std::size_t description_size = 512;

//! Writes "bad_shape: k must be a multiple of the codec's group: got 100, need 128", or "ok", into `buffer` and
//! returns it. The numbers are left out where the status has none (both 0). What does not fit is cut; the text is
//! always terminated. With size 0 nothing is written and "" is returned.
inline const char* describe(const status& s, char* buffer, std::size_t size) {
  if (buffer == nullptr || size == 0) return "";
  const char* what = s.what == nullptr ? "" : s.what;
  const char* colon = *what == '\0' ? "" : ": ";
  if (s.code == errc::ok)
    std::snprintf(buffer, size, "%s", name(s.code));
  else if (s.got == 0 && s.need == 0)
    std::snprintf(buffer, size, "%s%s%s", name(s.code), colon, what);
  else
    std::snprintf(buffer, size, "%s%s%s: got %lld, need %lld", name(s.code), colon, what, static_cast<long long>(s.got),
                  static_cast<long long>(s.need));
  return buffer;
}

//! The same for an array: describe(s, text).
template <std::size_t Size> const char* describe(const status& s, char (&buffer)[Size]) { return describe(s, buffer, Size); }

}  // namespace smalti::inline SMALTI_DATA
