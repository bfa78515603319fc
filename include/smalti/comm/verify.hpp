// Static checks of a schedule: no data, no transport, no clock. Every list is carried out on symbols: an item is the tree
// of ranks that was combined into it, so that coverage, order and agreement are facts about trees and not samples.
//
//     const verdict v = verify(ring(7));      // for one number of ranks; tests take many
//
// What is proved, for these ranks and depth:
//   coverage        every output chunk holds each rank's contribution exactly once (or the one block that belongs there)
//   agreement       all ranks end with the same tree for the same chunk: the same bits
//   order           the tree is the one that the promise names; except by_chunk, it is the same for every chunk
//   no deadlock     with `depth` steps in flight and sends that wait for posted receives (rule 2 of schedule.hpp)
//   matching        each message has the same step, chunks and content at both ends; none is left over
//   memory          nothing is read before it is written, nothing lies outside a slot, the input is never written
//   in place        where promised: the same again with input and output in one memory
// Cost: about 100 ns an action and 16 bytes a chunk of each slot. A tool for tests and tuning: it allocates.
#pragma once
#include <algorithm>
#include <cstdint>
#include <deque>
#include <unordered_map>
#include <utility>
#include <vector>
#include <smalti/comm/schedule.hpp>

namespace smalti::inline SMALTI_CODE::comm {

//! What was found: ok, or the first thing wrong, with the rank, step and peer where it showed (-1: nowhere in particular).
struct verdict {
  status what;
  int rank = -1, step = -1, peer = -1;
  std::int64_t messages = 0;       //!< of all ranks
  std::int64_t actions = 0;
  int most_actions = 0;            //!< of one rank in one step
  constexpr explicit operator bool() const { return bool(what); }
};

namespace detail {

// What stands in a chunk's place: a combine tree over ranks, the chunk it belongs to, and how far it is.
struct symbol {
  int tree = -1;   // none: nothing was written there
  int chunk = 0;
  content what = content::input;
};

// Trees, each kept once: two symbols have the same bits exactly where they have the same number. Leaves come first.
class forest {
 public:
  explicit forest(int ranks) : ranks_(ranks), words_((ranks + 63) / 64) {
    for (int r = 0; r < ranks; ++r) {
      members_.resize(members_.size() + words_);
      members_[std::size_t(r) * words_ + r / 64] = std::uint64_t(1) << r % 64;
    }
  }
  int leaf(int rank) const { return rank; }
  //! -1 where the two have a rank in common.
  int join(int left, int right) {
    for (int w = 0; w < words_; ++w)
      if (word(left, w) & word(right, w)) return -1;
    const std::uint64_t key = std::uint64_t(left) << 32 | std::uint32_t(right);
    const auto found = joined_.find(key);
    if (found != joined_.end()) return found->second;
    const int tree = int(members_.size() / words_);
    for (int w = 0; w < words_; ++w) members_.push_back(word(left, w) | word(right, w));
    joined_.emplace(key, tree);
    return tree;
  }
  int size(int tree) const {
    int n = 0;
    for (int w = 0; w < words_; ++w) n += __builtin_popcountll(word(tree, w));
    return n;
  }
  bool whole(int tree) const { return size(tree) == ranks_; }
  int fold() {
    int t = 0;
    for (int r = 1; r < ranks_; ++r) t = join(t, r);
    return t;
  }
  int balanced(int first, int last) {
    if (last - first == 1) return first;
    int half = 1;
    while (half * 2 < last - first) half *= 2;
    const int left = balanced(first, first + half);
    return join(left, balanced(first + half, last));
  }

 private:
  std::uint64_t word(int tree, int w) const { return members_[std::size_t(tree) * words_ + w]; }
  int ranks_, words_;
  std::vector<std::uint64_t> members_;
  std::unordered_map<std::uint64_t, int> joined_;
};

// Carries all lists out on symbols.
template <schedule S> class symbolic_run {
 public:
  symbolic_run(const S& s, int depth, bool in_place) : s_(s), depth_(depth), in_place_(in_place), trees_(s.ranks), ranks_(s.ranks), finished_(std::size_t(s.chunks())) {}

  verdict run() {
    for (int r = 0; r < s_.ranks; ++r)
      if (!begin(r)) return found_;
    for (bool moved = true; moved;) {
      moved = false;
      for (int r = 0; r < s_.ranks; ++r) {
        if (!advance(r, moved)) return found_;
      }
    }
    for (int r = 0; r < s_.ranks; ++r) {
      const auto& me = ranks_[r];
      if (me.step < s_.steps())
        return fail(r, me.at < int(me.list.size()) ? me.list[me.at].peer : -1, {errc::bad_value, "schedule: deadlock: a rank waits for a message that never comes, or for a send that can never end"});
    }
    for (const auto& [key, queue] : channels_)
      if (!queue.empty()) return fail(int(key / s_.ranks), int(key % s_.ranks), {errc::bad_value, "schedule: a message is sent and never received", std::int64_t(queue.size()), 0});
    return outputs();
  }

 private:
  struct message {
    int step;
    content what;
    std::vector<symbol> symbols;
    std::vector<int> chunks;      // as the sender names them
    bool from_input;
  };
  struct sending { int peer; int slot; chunk_range chunks; };
  struct state {
    int step = -1, at = 0;
    bool entered = false;
    std::vector<action> list;
    std::vector<std::vector<symbol>> slots;
    std::vector<std::pair<int, sending>> sends;   // (step, what), which may not have ended
  };

  bool wrong(int r, int peer, status why) {
    found_.what = why, found_.rank = r, found_.step = ranks_[r].step, found_.peer = peer;
    return false;
  }
  verdict fail(int r, int peer, status why) {
    wrong(r, peer, why);
    return found_;
  }

  bool begin(int r) {
    state& me = ranks_[r];
    me.slots.resize(std::size_t(first_scratch + s_.scratch_slots()));
    me.slots[input_slot].resize(std::size_t(s_.chunks()));
    me.slots[output_slot].resize(std::size_t(s_.chunks()));
    for (int i = first_scratch; i < int(me.slots.size()); ++i) me.slots[i].resize(std::size_t(s_.scratch(r, i).chunks.count));
    const chunk_range in = s_.input(r), out = s_.output(r), all{0, s_.chunks()};
    if (!all.holds(in) || !all.holds(out)) return wrong(r, -1, {errc::bad_shape, "schedule: input or output has chunks that the partition has not", std::max(in.last(), out.last()), all.last()});
    for (int c = in.first; c < in.last(); ++c) me.slots[in_place_ ? output_slot : input_slot][c] = {trees_.leaf(r), c, content::input};
    return enter(r, 0);
  }

  bool enter(int r, int step) {
    state& me = ranks_[r];
    me.step = step, me.at = 0, me.entered = true;
    me.list.clear();
    if (step >= s_.steps()) return true;
    action_list count;
    s_.step(r, step, count);
    me.list.resize(std::size_t(count.size()));
    action_list fill(me.list.data(), int(me.list.size()));
    s_.step(r, step, fill);
    found_.actions += count.size();
    found_.most_actions = std::max(found_.most_actions, count.size());
    return true;
  }

  // A send has ended when its receive is posted: when the peer has entered a step late enough.
  bool ended(int step, const sending& what) const { return ranks_[what.peer].step >= step - depth_ + 1; }
  bool all_ended(state& me, int up_to) {
    std::erase_if(me.sends, [&](const auto& s) { return ended(s.first, s.second); });
    return std::none_of(me.sends.begin(), me.sends.end(), [&](const auto& s) { return s.first <= up_to; });
  }

  bool advance(int r, bool& moved) {
    state& me = ranks_[r];
    while (me.step < s_.steps()) {
      if (me.at == int(me.list.size())) {
        if (!all_ended(me, me.step + 1 - depth_)) return true;
        enter(r, me.step + 1);
        moved = true;
        continue;
      }
      int next = me.at + 1;
      while (next < int(me.list.size()) && me.list[next].joined) ++next;
      bool blocked = false;
      if (!carry_out(r, me.at, next, blocked)) return false;
      if (blocked) return true;
      me.at = next;
      moved = true;
    }
    return true;
  }

  // The places of chunks in a slot; -1 where the slot has no such chunk.
  int place(int r, int slot, int chunk) const {
    if (slot == input_slot) return s_.input(r).holds(chunk) ? chunk : -1;
    if (slot == output_slot) return s_.output(r).holds(chunk) ? chunk : -1;
    const scratch_room room = s_.scratch(r, slot);
    if (room.rolling) return room.chunks.count > 0 && chunk >= 0 && chunk < s_.chunks() ? room.place(chunk) : -1;
    return room.chunks.holds(chunk) ? chunk - room.chunks.first : -1;
  }
  std::vector<symbol>& memory(int r, int slot) { return ranks_[r].slots[in_place_ && slot == input_slot ? output_slot : slot]; }
  bool inside(int r, int slot, chunk_range chunks) {
    if (slot < 0 || slot >= first_scratch + s_.scratch_slots()) return wrong(r, -1, {errc::bad_value, "schedule: there is no such slot: see scratch_slots", slot, first_scratch + s_.scratch_slots() - 1});
    if (chunks.count < 1) return wrong(r, -1, {errc::bad_value, "schedule: an action names at least one chunk", chunks.count, 1});
    for (int c = chunks.first; c < chunks.last(); ++c)
      if (place(r, slot, c) < 0) return wrong(r, -1, {errc::bad_value, "schedule: an action names a chunk for which its slot has no room", c, s_.chunks()});
    if (slot >= first_scratch && s_.scratch(r, slot).rolling && chunks.count != 1) return wrong(r, -1, {errc::bad_value, "schedule: an action on a rolling slot names one chunk", chunks.count, 1});
    return true;
  }
  bool read(int r, int slot, int chunk, symbol& value) {
    value = memory(r, slot)[std::size_t(place(r, slot, chunk))];
    if (value.tree < 0) return wrong(r, -1, {errc::bad_value, "schedule: a chunk is read before it is written", chunk, slot});
    // In a rolling slot another chunk may stand in the place. In an all_to_all chunks move between places on purpose.
    if (s_.kind != collective::all_to_all && value.chunk != chunk) return wrong(r, -1, {errc::bad_value, "schedule: what stands in the place is another chunk", value.chunk, chunk});
    return true;
  }
  // May wait for a send that still holds the place.
  bool write(int r, int slot, int chunk, symbol value, bool& blocked) {
    if (slot == input_slot) return wrong(r, -1, {errc::bad_value, "schedule: the input is never written", chunk, -1});
    if (holding(r, slot, chunk)) {
      blocked = true;
      return true;
    }
    const bool lifted = slot >= first_scratch && reduces(s_.kind);
    if (lifted && value.what == content::result) return wrong(r, -1, {errc::bad_value, "schedule: a finished item goes back into a sum", chunk, slot});
    if (!lifted && value.what == content::partial) return wrong(r, -1, {errc::bad_value, "schedule: an unfinished sum goes into the output: finish it", chunk, slot});
    memory(r, slot)[std::size_t(place(r, slot, chunk))] = value;
    return true;
  }
  bool holding(int r, int slot, int chunk) {
    state& me = ranks_[r];
    const int where = place(r, slot, chunk);
    for (const auto& [step, send] : me.sends) {
      const bool same = send.slot == slot || (in_place_ && send.slot < first_scratch && slot < first_scratch);
      if (!same || ended(step, send)) continue;
      for (int c = send.chunks.first; c < send.chunks.last(); ++c)
        if (place(r, send.slot, c) == where) return true;
    }
    return false;
  }

  bool carry_out(int r, int first, int last, bool& blocked) {
    state& me = ranks_[r];
    const action& a = me.list[first];
    if (a.joined) return wrong(r, a.peer, {errc::bad_value, "schedule: the first action of a step has none before it to be joined with"});
    for (int i = first; i < last; ++i) {
      const action& b = me.list[i];
      if (!inside(r, b.slot, b.chunks)) return false;
      if (b.does == verb::recv_combine || b.does == verb::combine || b.does == verb::finish)
        if (!inside(r, b.with, b.chunks)) return false;
      if (b.does == verb::copy && !inside(r, b.with, {b.from, b.chunks.count})) return false;
      if (i > first && ((b.does == verb::send) != (a.does == verb::send) || !(b.does == verb::send || receives(b.does)) || b.peer != a.peer || b.what != a.what))
        return wrong(r, b.peer, {errc::bad_value, "schedule: joined actions are one message: all send or all receive, with one peer and content"});
    }
    if (a.does == verb::send || receives(a.does)) {
      if (a.peer < 0 || a.peer >= s_.ranks || a.peer == r) return wrong(r, a.peer, {errc::bad_value, "schedule: peer must be another rank", a.peer, s_.ranks - 1});
      return a.does == verb::send ? send(r, first, last) : receive(r, first, last, blocked);
    }
    return local(r, a, blocked);
  }

  bool send(int r, int first, int last) {
    state& me = ranks_[r];
    const action& a = me.list[first];
    message m{me.step, a.what, {}, {}, a.slot == input_slot};
    for (int i = first; i < last; ++i) {
      const action& b = me.list[i];
      for (int c = b.chunks.first; c < b.chunks.last(); ++c) {
        symbol value;
        if (!read(r, b.slot, c, value)) return false;
        const content what = b.slot >= first_scratch && reduces(s_.kind) ? content::partial : value.what;
        if (what != a.what) return wrong(r, a.peer, {errc::bad_value, "schedule: a message says what it holds: input, partial or result", int(a.what), int(what)});
        value.what = what;
        m.symbols.push_back(value);
        m.chunks.push_back(c);
      }
      me.sends.push_back({me.step, {b.peer, b.slot, b.chunks}});
    }
    ++found_.messages;
    channels_[std::int64_t(r) * s_.ranks + a.peer].push_back(std::move(m));
    return true;
  }

  bool receive(int r, int first, int last, bool& blocked) {
    state& me = ranks_[r];
    const action& a = me.list[first];
    auto& queue = channels_[std::int64_t(a.peer) * s_.ranks + r];
    if (queue.empty()) {
      blocked = true;
      return true;
    }
    // Nothing is written while any place is still held: asked first, so that an action happens whole or not at all.
    for (int i = first; i < last; ++i)
      for (int c = me.list[i].chunks.first; c < me.list[i].chunks.last(); ++c)
        if (me.list[i].slot != input_slot && holding(r, me.list[i].slot, c)) {
          blocked = true;
          return true;
        }
    const message m = std::move(queue.front());
    queue.pop_front();
    if (m.step != me.step) return wrong(r, a.peer, {errc::bad_value, "schedule: a message is sent in one step and received in another", me.step, m.step});
    if (m.what != a.what) return wrong(r, a.peer, {errc::bad_value, "schedule: sender and receiver disagree on what a message holds", int(a.what), int(m.what)});
    std::size_t k = 0;
    for (int i = first; i < last; ++i) {
      const action& b = me.list[i];
      for (int c = b.chunks.first; c < b.chunks.last(); ++c, ++k) {
        if (k >= m.symbols.size()) return wrong(r, a.peer, {errc::bad_value, "schedule: a message is shorter than its receiver expects", std::int64_t(m.symbols.size()), std::int64_t(k + 1)});
        if (s_.kind != collective::all_to_all && m.chunks[k] != c) return wrong(r, a.peer, {errc::bad_value, "schedule: sender and receiver name different chunks of a message", c, m.chunks[k]});
        if (s_.kind == collective::all_to_all && s_.promise().ragged && (!m.from_input || b.slot != output_slot))
          return wrong(r, a.peer, {errc::bad_value, "schedule: blocks of different lengths must go from the input to the output in one hop: promise ragged = false"});
        symbol value = m.symbols[k];
        if (b.does == verb::recv_combine) {
          symbol here;
          if (!read(r, b.with, c, here) || !merge(r, here, value, b.order, value)) return false;
        }
        if (!write(r, b.slot, c, value, blocked)) return false;
      }
    }
    if (k != m.symbols.size()) return wrong(r, a.peer, {errc::bad_value, "schedule: a message is longer than its receiver expects", std::int64_t(m.symbols.size()), std::int64_t(k)});
    return true;
  }

  bool merge(int r, symbol here, symbol incoming, side order, symbol& value) {
    if (!reduces(s_.kind)) return wrong(r, -1, {errc::bad_value, "schedule: this collective moves items and combines none"});
    if (here.chunk != incoming.chunk) return wrong(r, -1, {errc::bad_value, "schedule: different chunks are combined", incoming.chunk, here.chunk});
    if (here.what == content::result || incoming.what == content::result) return wrong(r, -1, {errc::bad_value, "schedule: a finished item goes back into a sum"});
    const int tree = order == side::here_first ? trees_.join(here.tree, incoming.tree) : trees_.join(incoming.tree, here.tree);
    if (tree < 0) return wrong(r, -1, {errc::bad_value, "schedule: a rank's contribution enters a sum twice", here.chunk, here.chunk});
    value = {tree, here.chunk, content::partial};
    return true;
  }

  bool local(int r, const action& a, bool& blocked) {
    for (int c = a.chunks.first; c < a.chunks.last(); ++c)
      if (a.slot != input_slot && holding(r, a.slot, c)) {
        blocked = true;
        return true;
      }
    std::vector<symbol> values;   // all read before any is written
    for (int k = 0; k < a.chunks.count; ++k) {
      const int c = a.chunks.first + k;
      symbol value, here;
      if (!read(r, a.with, a.does == verb::copy ? a.from + k : c, value)) return false;
      if (a.does == verb::copy && s_.kind != collective::all_to_all && a.from + k != c) return wrong(r, -1, {errc::bad_value, "schedule: a copy moves a chunk to another's place", a.from + k, c});
      if (a.does == verb::copy && a.with >= first_scratch && reduces(s_.kind)) value.what = content::partial;
      if (a.does == verb::combine && (!read(r, a.slot, c, here) || !merge(r, here, value, a.order, value))) return false;
      if (a.does == verb::finish) {
        if (!reduces(s_.kind) || a.with < first_scratch) return wrong(r, -1, {errc::bad_value, "schedule: finish takes sums from scratch", a.with, first_scratch});
        if (!trees_.whole(value.tree)) return wrong(r, -1, {errc::bad_value, "schedule: a sum is finished before every rank has contributed", trees_.size(value.tree), s_.ranks});
        if (s_.promise().one_owner && finished_[std::size_t(c)]++ > 0) return wrong(r, -1, {errc::bad_value, "schedule: a sum is finished twice, where one owner is promised", c, -1});
        value.what = content::result;
      }
      values.push_back(value);
    }
    for (int k = 0; k < a.chunks.count; ++k)
      if (!write(r, a.slot, a.chunks.first + k, values[std::size_t(k)], blocked)) return false;
    if (a.does == verb::finish)
      for (int c = a.chunks.first; c < a.chunks.last(); ++c) memory(r, a.with)[std::size_t(place(r, a.with, c))] = {};
    return true;
  }

  verdict outputs() {
    const combine_order order = s_.promise().order;
    const int expected = order == combine_order::rank_fold ? trees_.fold() : order == combine_order::rank_tree ? trees_.balanced(0, s_.ranks) : -1;
    std::vector<int> tree(std::size_t(s_.chunks()), expected);
    int any = expected;
    for (int r = 0; r < s_.ranks; ++r) {
      const chunk_range out = s_.output(r);
      for (int c = out.first; c < out.last(); ++c) {
        const symbol v = memory(r, output_slot)[std::size_t(c)];
        const int part = c / s_.pieces, piece = c % s_.pieces;
        if (v.tree < 0) return fail(r, -1, {errc::bad_value, "schedule: a chunk of the output is never written", c, -1});
        if (reduces(s_.kind)) {
          if (v.chunk != c || v.what != content::result || !trees_.whole(v.tree)) return fail(r, -1, {errc::bad_value, "schedule: a chunk of the output is not the finished sum over all ranks", trees_.size(v.tree), s_.ranks});
          if (tree[c] < 0) tree[c] = order == combine_order::by_chunk || any < 0 ? v.tree : any;
          if (any < 0) any = v.tree;
          if (tree[c] != v.tree)
            return fail(r, -1, {errc::bad_value, order == combine_order::by_chunk ? "schedule: ranks disagree on the order of a sum: they may end with different bits" : "schedule: the order of a sum is not the one that is promised", c, -1});
        } else {
          const bool rooted = s_.kind == collective::broadcast || s_.kind == collective::scatter || s_.kind == collective::send_recv;
          const int owner = rooted ? s_.root : part;
          const int chunk = s_.kind == collective::all_to_all ? r * s_.pieces + piece : c;
          if (v.tree != trees_.leaf(owner) || v.chunk != chunk) return fail(r, -1, {errc::bad_value, "schedule: a chunk of the output holds another block than belongs there", c, chunk});
        }
      }
    }
    return found_;
  }

  const S& s_;
  int depth_;
  bool in_place_;
  forest trees_;
  std::vector<state> ranks_;
  std::vector<int> finished_;   // how often a chunk's sum was
  std::unordered_map<std::int64_t, std::deque<message>> channels_;
  verdict found_;
};

}  // namespace detail

//! Checks a schedule for its number of ranks. `depth` 1 is the strictest: what passes there passes with any.
template <schedule S> verdict verify(const S& s, int depth = 1) {
  verdict v;
  if (v.what = s.check(); !v.what) return v;
  if (depth < 1) {
    v.what = {errc::bad_value, "verify: depth must be at least 1 step", depth, 1};
    return v;
  }
  v = detail::symbolic_run<S>(s, depth, false).run();
  if (v && s.promise().in_place) {
    const verdict again = detail::symbolic_run<S>(s, depth, true).run();
    if (!again) return again;
  }
  return v;
}

}  // namespace smalti::inline SMALTI_CODE::comm
