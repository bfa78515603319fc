// What a schedule puts on the wires, counted from its lists: for conservation tests, cost models and claims.
#pragma once
#include <algorithm>
#include <cstdint>
#include <unordered_map>
#include <vector>
#include <smalti/comm/schedule.hpp>

namespace smalti::inline SMALTI_CODE::comm {

//! Bytes of one item in each kind of message.
struct wire_width {
  std::int64_t input = 4, partial = 4, result = 4;
  constexpr std::int64_t of(content what) const { return what == content::input ? input : what == content::partial ? partial : result; }
};

struct traffic {
  std::int64_t sent = 0, received = 0;          //!< bytes, over all ranks: equal
  std::int64_t messages = 0;                    //!< that are not empty
  std::int64_t most_sent = 0, most_received = 0;//!< by one rank
  std::int64_t busiest_link = 0;                //!< most bytes from one rank to one other
  int most_messages = 0;                        //!< sent by one rank
};

//! Counts the messages of all ranks. Cost: one pass over all lists; memory for every pair of ranks that talks.
template <schedule S> traffic traffic_of(const S& s, const partition& cut, wire_width width = {}) {
  traffic t;
  std::vector<action> room;
  std::unordered_map<std::int64_t, std::int64_t> links;
  std::vector<std::int64_t> received(std::size_t(s.ranks));
  for (int rank = 0; rank < s.ranks; ++rank) {
    std::int64_t sent = 0;
    int messages = 0;
    for (int step = 0; step < s.steps(); ++step) {
      action_list count;
      s.step(rank, step, count);
      if (std::size_t(count.size()) > room.size()) room.resize(std::size_t(count.size()));
      action_list list(room.data(), int(room.size()));
      s.step(rank, step, list);
      std::int64_t length = 0;   // of the message so far
      for (int i = 0; i < list.size(); ++i) {
        const action& a = list[i];
        if (a.does != verb::send && !receives(a.does)) continue;
        const std::int64_t bytes = cut.length(a.chunks) * width.of(a.what);
        if (!a.joined) length = 0;
        if (a.does != verb::send) {
          received[std::size_t(rank)] += bytes;
          continue;
        }
        sent += bytes;
        links[std::int64_t(rank) * s.ranks + a.peer] += bytes;
        messages += length == 0 && bytes > 0;
        length += bytes;
      }
    }
    t.sent += sent;
    t.most_sent = std::max(t.most_sent, sent);
    t.messages += messages;
    t.most_messages = std::max(t.most_messages, messages);
  }
  for (const std::int64_t bytes : received) t.received += bytes, t.most_received = std::max(t.most_received, bytes);
  for (const auto& link : links) t.busiest_link = std::max(t.busiest_link, link.second);
  return t;
}

}  // namespace smalti::inline SMALTI_CODE::comm
