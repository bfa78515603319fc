// Who holds which tokens: a table that is the same on every rank. Layouts (comm/layout.hpp) fill it, turns of a conversation add to
// it, and any other table does as well: blocks of one sequence lent to other machines, keys that an eviction left over.
#pragma once
#include <cstdint>
#include <vector>
#include <smalti/comm/layout.hpp>
#include <smalti/core/status.hpp>

namespace smalti::inline SMALTI_CODE::flow {

//! Row i of sequence s on rank r is token  positions[offsets[r * sequences + s] + i]  of the lengths[s] tokens of that sequence.
//! A view: it owns nothing.
//! @pre within a rank and sequence positions ascend; no token is in two places
struct placement {
  int ranks = 1, sequences = 0;
  const int* offsets = nullptr;      //!< [ranks * sequences + 1]
  const int* positions = nullptr;
  const int* lengths = nullptr;      //!< [sequences]

  constexpr int rows(int rank, int s) const { return offsets[rank * sequences + s + 1] - offsets[rank * sequences + s]; }
  constexpr const int* at(int rank, int s) const { return positions + offsets[rank * sequences + s]; }
  //! Where the positions of each sequence on one rank begin: [sequences].
  constexpr const int* first(int rank) const { return offsets + static_cast<long long>(rank) * sequences; }
  constexpr int rows(int rank) const { return offsets[(rank + 1) * sequences] - offsets[rank * sequences]; }
  constexpr int most_rows(int rank) const {
    int most = 0;
    for (int s = 0; s < sequences; ++s) most = rows(rank, s) > most ? rows(rank, s) : most;
    return most;
  }
  constexpr int longest() const {
    int most = 0;
    for (int s = 0; s < sequences; ++s) most = lengths[s] > most ? lengths[s] : most;
    return most;
  }

  //! Sizes and ends of every run: O(ranks * sequences).
  constexpr status check() const {
    if (ranks < 1) return {errc::bad_shape, "placement: ranks must be at least 1", ranks, 1};
    if (sequences < 0) return {errc::bad_shape, "placement: sequences must not be negative", sequences, 0};
    if (sequences == 0) return {};
    if (offsets == nullptr || lengths == nullptr) return {errc::null_pointer, "placement: offsets needs ranks * sequences + 1 entries, lengths one for each sequence"};
    if (offsets[0] != 0) return {errc::bad_value, "placement: offsets must begin with 0", offsets[0], 0};
    for (int i = 0; i < ranks * sequences; ++i) {
      const int n = offsets[i + 1] - offsets[i];
      if (n < 0) return {errc::bad_value, "placement: offsets must not decrease", offsets[i + 1], offsets[i]};
      if (n == 0) continue;
      if (positions == nullptr) return {errc::null_pointer, "placement: positions is null, but there are tokens"};
      const int first = positions[offsets[i]], last = positions[offsets[i + 1] - 1], all = lengths[i % sequences];
      if (first < 0 || last >= all) return {errc::bad_value, "placement: a position lies outside its sequence: got is the position, need the tokens of the sequence", first < 0 ? first : last, all};
      if (last - first < n - 1) return {errc::bad_value, "placement: positions must ascend", last, first + n - 1};
    }
    return {};
  }
  //! The whole precondition: positions ascend and no token is in two places. `marks`: longest() bytes of scratch.
  constexpr status check_tokens(unsigned char* marks) const {
    if (const status bad = check(); !bad) return bad;
    for (int s = 0; s < sequences; ++s) {
      for (int t = 0; t < lengths[s]; ++t) marks[t] = 0;
      for (int r = 0; r < ranks; ++r)
        for (int i = 0; i < rows(r, s); ++i) {
          const int t = at(r, s)[i];
          if (i > 0 && t <= at(r, s)[i - 1]) return {errc::bad_value, "placement: positions must ascend", t, at(r, s)[i - 1]};
          if (marks[t] != 0) return {errc::bad_value, "placement: a token is in two places: it would be counted twice", t, s};
          marks[t] = 1;
        }
    }
    return {};
  }
};

//! Keeps a placement while tokens come. Every rank that hears of the same turns has the same table.
class ledger {
 public:
  ledger(int ranks, int sequences) : ranks_(ranks), sequences_(sequences), held_(std::size_t(ranks) * sequences), lengths_(std::size_t(sequences)) {}
  //! All sequences at once, by one layout.
  ledger(const comm::token_layout& by, const int* lengths, int sequences) : ledger(by.ranks, sequences) {
    for (int s = 0; s < sequences; ++s) append(s, lengths[s], by);
  }
  //! `count` more tokens of sequence s, dealt out by a layout; rank r takes the share of rank r - shift. A turn of a conversation with
  //! zigzag, a generated token with contiguous and a shift that grows by 1 each time: then ranks stay within one token of each other.
  void append(int s, int count, const comm::token_layout& by, int shift = 0) {
    const int before = lengths_[std::size_t(s)];
    for (int r = 0; r < ranks_; ++r) {
      const int as = (r - shift % ranks_ + ranks_) % ranks_;
      auto& mine = held_[std::size_t(r) * sequences_ + s];
      for (std::int64_t i = 0; i < by.share(count, as); ++i) mine.push_back(before + int(by.token(count, as, i)));
    }
    lengths_[std::size_t(s)] += count;
  }
  //! `count` tokens that one rank holds.
  void append_to(int s, int count, int rank) {
    auto& mine = held_[std::size_t(rank) * sequences_ + s];
    for (int i = 0; i < count; ++i) mine.push_back(lengths_[std::size_t(s)]++);
  }

  //! The table; it lives until the ledger is changed.
  placement table() {
    offsets_.assign(1, 0), positions_.clear();
    for (const auto& run : held_) {
      positions_.insert(positions_.end(), run.begin(), run.end());
      offsets_.push_back(int(positions_.size()));
    }
    return {ranks_, sequences_, offsets_.data(), positions_.data(), lengths_.data()};
  }

 private:
  int ranks_, sequences_;
  std::vector<std::vector<int>> held_;      // [rank * sequences + s]
  std::vector<int> lengths_, offsets_, positions_;
};

}  // namespace smalti::inline SMALTI_CODE::flow
