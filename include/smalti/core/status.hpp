// How an op says no: a code, a sentence that names the argument and the rule, the value it got and the value
// it needs. No exception, no string, no stream: see throw.hpp and describe.hpp for those who want them.
#pragma once
#include <cstdint>
#include <smalti/core/version.hpp>

namespace smalti::inline SMALTI_DATA {

enum class errc : std::uint8_t {
  ok, null_pointer, bad_shape, bad_value, misaligned, aliased, workspace_too_small, out_of_reach, unsupported_arch,
  not_initialised, capture_refused, exhausted, peer_lost, cuda_error
};

struct [[nodiscard]] status {
  errc code = errc::ok;
  const char* what = "";               //!< fixed text: the argument, the rule it broke and the remedy
  std::int64_t got = 0, need = 0;      //!< the value it had and the one it needs; both 0 where no number says it
  constexpr explicit operator bool() const noexcept { return code == errc::ok; }
  friend constexpr bool operator==(const status& a, const status& b) noexcept { return a.code == b.code && a.got == b.got && a.need == b.need; }
};

// exhausted: something bounded that its holders give back, such as the pages of a pool, is used up; the same call may
// succeed once some are free.

//! The code's name, spelled as in the source.
constexpr const char* name(errc code) noexcept {
  switch (code) {
    case errc::ok: return "ok";
    case errc::null_pointer: return "null_pointer";
    case errc::bad_shape: return "bad_shape";
    case errc::bad_value: return "bad_value";
    case errc::misaligned: return "misaligned";
    case errc::aliased: return "aliased";
    case errc::workspace_too_small: return "workspace_too_small";
    case errc::out_of_reach: return "out_of_reach";
    case errc::unsupported_arch: return "unsupported_arch";
    case errc::not_initialised: return "not_initialised";
    case errc::capture_refused: return "capture_refused";
    case errc::exhausted: return "exhausted";
    case errc::peer_lost: return "peer_lost";
    case errc::cuda_error: return "cuda_error";
  }
  return "unknown";
}

//! Runs checks in order and keeps the first that fails:
//!     return first_of([&] { return check_a(); }, [&] { return check_b(); });
template <class... Check> constexpr status first_of(const Check&... check) {
  status answer;
  static_cast<void>((... && static_cast<bool>(answer = check())));
  return answer;
}

}  // namespace smalti::inline SMALTI_DATA
