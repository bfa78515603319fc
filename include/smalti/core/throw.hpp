// For programs that want exceptions: a status that is not ok becomes one. Opt-in; the library itself never throws.
#pragma once
#include <smalti/core/describe.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/version.hpp>

#if defined(__cpp_exceptions)
#include <stdexcept>

namespace smalti::inline SMALTI_DATA {

//! A status as an exception: what() is the line that describe() writes. The status itself is kept.
class error : public std::runtime_error {
public:
  explicit error(const status& s) : error(s, line{}) {}
  const status& why() const noexcept { return why_; }
  errc code() const noexcept { return why_.code; }

private:
  struct line { char text[description_size]; };
  error(const status& s, line l) : std::runtime_error(describe(s, l.text)), why_(s) {}
  status why_;
};

//! Throws smalti::error unless the status is ok:
//!     expect(linear::run(ctx, args, workspace));
inline void expect(const status& s) {
  if (!s) throw error(s);
}

}  // namespace smalti::inline SMALTI_DATA

#else   // -fno-exceptions: the header can be included, a call is refused

namespace smalti::inline SMALTI_DATA::inline without_exceptions {

template <class Status> void expect(const Status&) {
  static_assert(never<Status>, "smalti: expect() throws: compile without -fno-exceptions, or test the status yourself");
}

}  // namespace smalti::inline SMALTI_DATA::inline without_exceptions

#endif
