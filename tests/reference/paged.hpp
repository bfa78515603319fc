// Oracle of a paged cache: sequences that own everything they hold, and a pool in which one number stands for the row of one
// token. Nothing is shared, nothing is clever.
#pragma once
#include <cstdint>
#include <vector>

namespace oracle {

//! What a token's row holds: a number that depends on the track and on all tokens up to it, as keys and values do.
inline std::uint64_t row_of(std::uint64_t before, std::uint64_t token) {
  std::uint64_t x = before * 6364136223846793005u + token * 2862933555777941757u + 3037000493u;
  return x ^ x >> 29;
}

struct sequence {
  std::vector<std::vector<std::uint64_t>> rows;   // of each track, what it keeps
  std::vector<std::int32_t> tokens;               // all ids so far
  std::vector<std::uint64_t> last;                // of each track, the last row ever
  std::uint32_t salt = 0;
  int floor = 0;                                  // positions at the last rewrite
  bool swapped = false;

  explicit sequence(int tracks = 0, std::uint32_t salt = 0) : rows(std::size_t(tracks)), last(std::size_t(tracks)), salt(salt) {
    for (int t = 0; t < tracks; ++t) last[std::size_t(t)] = row_of(salt + 1, std::uint64_t(t) + 1);
  }
  void append(std::int32_t token) {
    tokens.push_back(token);
    for (std::size_t t = 0; t < rows.size(); ++t) rows[t].push_back(last[t] = row_of(last[t], std::uint64_t(token)));
  }
  // The rows kept are the last ones: what is cut was appended after the last rewrite.
  void truncate(int positions) {
    const std::size_t less = tokens.size() - std::size_t(positions);
    tokens.resize(std::size_t(positions));
    for (std::size_t t = 0; t < rows.size(); ++t) {
      rows[t].resize(rows[t].size() - less);
      last[t] = row_of(salt + 1, t + 1);
      for (const std::int32_t token : tokens) last[t] = row_of(last[t], std::uint64_t(token));
    }
  }
};

}  // namespace oracle
