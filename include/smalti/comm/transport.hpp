// How bytes move between ranks: what the executor asks of a transport. Models: in_process.hpp (many ranks in one thread,
// in a seeded order), threads.hpp (a thread each), mpi.hpp (a process each).
//
// A rank holds one transport object. Messages are matched by sender, receiver and tag, and those that agree in all
// three in the order in which they were posted; there is no wildcard. A message of an earlier epoch is never delivered.
//
// Membership: an epoch is a period in which the set of ranks does not change. A fault ends it: whoever notices calls
// abort(epoch), every wait of that epoch ends, and a layer above agrees on the survivors and opens the next epoch. Nothing
// here changes the membership; operation numbers, tickets and deadlines are what such a layer needs.
#pragma once
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <smalti/core/version.hpp>

namespace smalti::inline SMALTI_CODE::comm {

//! What a message belongs to: the epoch of the group, and the number of the operation in it. All ranks number the
//! operations of a group alike; operations with different numbers may be in flight together.
struct message_tag {
  std::uint32_t epoch = 0, operation = 0;
  friend constexpr bool operator==(message_tag, message_tag) = default;
};

//! A posted send or receive. Tickets are not reused while an older one with the same number may still be asked for.
struct ticket {
  std::int64_t number = -1;
  constexpr explicit operator bool() const { return number >= 0; }
  friend constexpr bool operator==(ticket, ticket) = default;
};

enum class delivery : std::uint8_t {
  pending,
  done,
  too_long,    //!< the message is longer than the memory of the receive: nothing was written behind it
  peer_lost,   //!< the peer has died
  aborted      //!< abort(epoch) was called, on any rank
};
//! What became of a ticket. Any state but pending ends it.
struct delivery_report {
  delivery state = delivery::pending;
  std::int64_t bytes = 0;   //!< of the message; also where it was too long
  int lost = -1;            //!< peer_lost, aborted: the rank whose loss was the cause; -1: none
};

//! Nanoseconds of the transport's clock.
using nanoseconds = std::int64_t;
constexpr nanoseconds never_late = INT64_MAX;

//! What a transport must know. All calls but idle return at once.
//!     post_send(peer, tag, data, bytes)     data may not change until the ticket ends
//!     post_recv(peer, tag, data, capacity)  data may not be touched until the ticket ends
//!     test(ticket)                          makes progress; after any answer but pending the ticket is gone
//!     cancel(ticket)                        ends it: afterwards the transport does not touch its memory
//!     idle(deadline)                        waits until some ticket may have ended, or the deadline; may return early
//!     abort(epoch, lost)                    from any thread, idempotent: every ticket of the epoch ends, on every rank that the
//!                                           transport can reach. `lost` is the rank that caused it, or -1
template <class T>
concept transport = requires(T t, const T c, int peer, message_tag tag, const std::byte* from, std::byte* to, std::int64_t n, ticket k) {
  { c.rank() } -> std::same_as<int>;
  { c.size() } -> std::same_as<int>;
  { c.epoch() } -> std::same_as<std::uint32_t>;
  { t.now() } -> std::same_as<nanoseconds>;
  { t.post_send(peer, tag, from, n) } -> std::same_as<ticket>;
  { t.post_recv(peer, tag, to, n) } -> std::same_as<ticket>;
  { t.test(k) } -> std::same_as<delivery_report>;
  t.cancel(k);
  t.idle(nanoseconds{});
  t.abort(std::uint32_t{}, peer);
};

template <class T> consteval bool explain_transport() {
  static_assert(requires(const T c) { { c.rank() } -> std::same_as<int>; { c.size() } -> std::same_as<int>; { c.epoch() } -> std::same_as<std::uint32_t>; },
                "smalti: a transport needs  int rank() const, int size() const  and  std::uint32_t epoch() const");
  static_assert(requires(T t, message_tag g, const std::byte* s, std::byte* d) { { t.post_send(0, g, s, std::int64_t{}) } -> std::same_as<ticket>; { t.post_recv(0, g, d, std::int64_t{}) } -> std::same_as<ticket>; },
                "smalti: a transport needs  ticket post_send(int peer, message_tag, const std::byte*, std::int64_t)  and  ticket post_recv(int peer, message_tag, std::byte*, std::int64_t)");
  static_assert(requires(T t) { { t.test(ticket{}) } -> std::same_as<delivery_report>; t.cancel(ticket{}); t.idle(nanoseconds{}); t.abort(std::uint32_t{}, 0); { t.now() } -> std::same_as<nanoseconds>; },
                "smalti: a transport needs  delivery_report test(ticket), void cancel(ticket), void idle(nanoseconds deadline), void abort(std::uint32_t epoch, int lost)  and  nanoseconds now()");
  return transport<T>;
}

}  // namespace smalti::inline SMALTI_CODE::comm
