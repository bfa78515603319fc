// What items look like on the wire. A wire turns a run of items of one chunk into bytes and back; the executor asks it for
// each chunk of a message, so that a chunk's bytes are the same in every message that carries it.
//
// A wire that loses something must keep ranks equal all the same: the owner of a finished chunk encodes it once, takes the
// decoded values itself, and everyone forwards those bytes as they came (the executor keeps them). Sums that several
// ranks form are then no longer the same on both sides: such schedules are refused (schedule_promise::one_owner).
#pragma once
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <smalti/comm/schedule.hpp>

namespace smalti::inline SMALTI_CODE::comm {

//! Items and accumulators as they lie in memory. Nothing is converted, so messages need not be copied.
struct plain_wire {
  static constexpr bool plain = true, exact = true;
  constexpr std::uint32_t code() const { return 0; }
};

//! A wire for the types of a combine. `n` items of width elements each; `first` is the vector's item that the run begins with (for
//! what is kept beside it, as in error feedback).
//!     bytes(what, n)                       of n items: a function of its arguments alone, the same on all ranks
//!     encode(what, first, from, n, to)     `from` are elements for input and result, accumulators for partial
//!     decode(what, first, from, n, to)     the same way round
//!     exact                                decode(encode(x)) is x, to the bit
//!     own_trip                             optional: true where the owner of a sum that folds everyone's items rounds its own as well, so
//!                                          that a partition-invariant schedule stays it (direct; a wire by blocks needs chunks of whole blocks)
//!     items_together()                     optional: runs that begin and end at multiples of so many items of a chunk are encoded and decoded by
//!                                          themselves, to the same bytes, and bytes(what, n) adds up over them; else a chunk is one run
//!     width                                optional: elements of an item; the executor holds it to the combine's
//!     check()                              optional: what the wire refuses, as a status
template <class W, class C>
concept wire = W::plain || requires(W w, content what, std::int64_t n, const typename C::element* x, typename C::element* y,
                                    const typename C::accumulator* a, typename C::accumulator* b, std::byte* to, const std::byte* from) {
  { W::exact } -> std::convertible_to<bool>;
  { w.code() } -> std::same_as<std::uint32_t>;
  { w.bytes(what, n) } -> std::same_as<std::int64_t>;
  w.encode(what, n, x, n, to);
  w.encode(what, n, a, n, to);
  w.decode(what, n, from, n, y);
  w.decode(what, n, from, n, b);
};

template <class W, class C> consteval bool explain_wire() {
  static_assert(requires { { W::plain } -> std::convertible_to<bool>; { W::exact } -> std::convertible_to<bool>; }, "smalti: a wire says  static constexpr bool plain  (false for one that encodes) and  static constexpr bool exact");
  static_assert(wire<W, C>, "smalti: a wire needs  int64 bytes(content, n), encode(content, first, const element* or const accumulator*, n, std::byte*), decode(content, first, const std::byte*, n, element* or accumulator*)  and  uint32 code() const");
  return wire<W, C>;
}

}  // namespace smalti::inline SMALTI_CODE::comm
