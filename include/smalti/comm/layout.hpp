// Which rank holds which token of a sequence: index maps with closed formulas, the same on every rank, and their inverses.
//
//     share(n, r)          how many of n tokens rank r holds
//     token(n, r, i)       which token is its i-th; ascending in i
//     owner(n, t), index(n, t)   who holds token t, and as which
//
// Positions, masks and rotary phases are those of token(n, r, i): never those of i.
#pragma once
#include <cstdint>
#include <smalti/comm/partition.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/version.hpp>

namespace smalti::inline SMALTI_CODE::comm {

enum class deal : std::uint8_t {
  contiguous,   //!< rank r holds part r of P
  zigzag,       //!< of 2 P chunks, r and 2 P - 1 - r: equal work under a causal mask
  striped       //!< tokens are dealt out in stripes of `width`, in turn
};

//! n tokens over `ranks` ranks. Any n and any P: parts differ by one token (a stripe) at most, and may be empty; nothing is padded.
//! Sources: Brandon et al. 2023, arXiv:2311.09431 (striped); zigzag as in ring-flash-attention (zhuzilin).
struct token_layout {
  deal how = deal::contiguous;
  int ranks = 1;
  int width = 1;       //!< of a stripe

  constexpr std::int64_t share(std::int64_t n, int r) const {
    if (how == deal::contiguous) return even_offset(n, ranks, r + 1) - even_offset(n, ranks, r);
    if (how == deal::zigzag) return chunk_length(n, r) + chunk_length(n, 2 * ranks - 1 - r);
    const std::int64_t whole = n / width, mine = whole / ranks + (r < whole % ranks ? 1 : 0);
    return mine * width + (r == whole % ranks ? n % width : 0);
  }
  constexpr std::int64_t token(std::int64_t n, int r, std::int64_t i) const {
    if (how == deal::contiguous) return even_offset(n, ranks, r) + i;
    if (how == deal::zigzag) {
      const std::int64_t low = chunk_length(n, r);
      return i < low ? even_offset(n, 2 * ranks, r) + i : even_offset(n, 2 * ranks, 2 * ranks - 1 - r) + (i - low);
    }
    return (i / width * ranks + r) * width + i % width;
  }
  constexpr int owner(std::int64_t n, std::int64_t t) const {
    if (how == deal::contiguous) return int(part_of(n, ranks, t));
    if (how == deal::zigzag) {
      const int chunk = int(part_of(n, 2 * ranks, t));
      return chunk < ranks ? chunk : 2 * ranks - 1 - chunk;
    }
    return int(t / width % ranks);
  }
  constexpr std::int64_t index(std::int64_t n, std::int64_t t) const {
    if (how == deal::contiguous) return t - even_offset(n, ranks, owner(n, t));
    if (how == deal::zigzag) {
      const int chunk = int(part_of(n, 2 * ranks, t));
      const std::int64_t in_chunk = t - even_offset(n, 2 * ranks, chunk);
      return chunk < ranks ? in_chunk : chunk_length(n, 2 * ranks - 1 - chunk) + in_chunk;
    }
    return t / width / ranks * width + t % width;
  }
  constexpr status check() const {
    if (ranks < 1) return {errc::bad_shape, "token_layout: ranks must be at least 1", ranks, 1};
    if (width < 1) return {errc::bad_value, "token_layout: width must be at least 1 token", width, 1};
    return {};
  }
  friend constexpr bool operator==(const token_layout&, const token_layout&) = default;

 private:
  constexpr std::int64_t chunk_length(std::int64_t n, int c) const { return even_offset(n, 2 * ranks, c + 1) - even_offset(n, 2 * ranks, c); }
  // The inverse of even_offset: which of `parts` parts holds item t.
  static constexpr std::int64_t part_of(std::int64_t n, std::int64_t parts, std::int64_t t) {
    const std::int64_t small = n / parts, longer = n % parts, before = longer * (small + 1);
    return t < before ? t / (small + 1) : longer + (t - before) / small;
  }
};
constexpr token_layout contiguous(int ranks) { return {deal::contiguous, ranks}; }
constexpr token_layout zigzag(int ranks) { return {deal::zigzag, ranks}; }
constexpr token_layout striped(int ranks, int width = 1) { return {deal::striped, ranks, width}; }

}  // namespace smalti::inline SMALTI_CODE::comm
