// The host twin of sort_by_key: radix sort from the least significant byte. Included at the end of sort.hpp, which
// declares what is defined here.
#pragma once
#include <algorithm>
#include <utility>
#include <smalti/prim/host_loop.hpp>
#include <smalti/prim/sort.hpp>
#include <smalti/tile/mutant.hpp>

namespace smalti::inline SMALTI_CODE::prim::detail {

// Each worker takes one stretch of the array in every pass; short arrays are not worth a second worker.
inline int sort_workers(const host_context& context, std::int64_t n) { return workers(context, n / 16384); }

template <class Code> struct sort_scratch {
  Code* code[2];
  std::int32_t* place[2];
  std::int64_t* bins;                  // [worker][256]
  std::size_t bytes;
};
template <class Code> sort_scratch<Code> lay_out_sort(std::byte* base, std::int64_t n, int threads) {
  carver c{base};
  sort_scratch<Code> s{};
  for (int i = 0; i < 2; ++i) s.code[i] = c.take<Code>(std::size_t(n)), s.place[i] = c.take<std::int32_t>(std::size_t(n));
  s.bins = c.take<std::int64_t>(std::size_t(threads) * 256);
  s.bytes = c.used;
  return s;
}

template <class Key, direction Direction, class Args> std::size_t sort_bytes(const host_context& context, const Args& x) {
  return lay_out_sort<code_of<Key>>(nullptr, x.count, sort_workers(context, x.count)).bytes;
}

template <class Key, direction Direction, class Args> status sort_all(const host_context& context, const Args& x, workspace scratch) {
  using code = code_of<Key>;
  const std::int64_t n = x.count;
  const int threads = sort_workers(context, n);
  sort_scratch<code> s = lay_out_sort<code>(scratch.data, n, threads);
  const auto first = [=](std::int64_t piece) { return n / threads * piece + std::min(n % threads, piece); };

  code differing = 0;                  // bits in which some key differs from the first
  for (std::int64_t i = 0; i < n; ++i) {
    const code c = sort_code<Direction>(x.keys[i]);
    s.code[0][i] = c;
    s.place[0][i] = std::int32_t(i);
    differing |= c ^ s.code[0][0];
  }
  for (int shift = 0; shift < int(8 * sizeof(code)) - (mutant(defect::sort_skips_top_byte) ? 8 : 0); shift += 8) {
    if ((differing >> shift & 255) == 0) continue;
    for_pieces(context, threads, [&](std::int64_t piece, int) {
      std::int64_t* bins = s.bins + piece * 256;
      std::fill(bins, bins + 256, 0);
      for (std::int64_t i = first(piece); i < first(piece + 1); ++i) ++bins[s.code[0][i] >> shift & 255];
    });
    std::int64_t before = 0;           // of this digit in earlier stretches, and of lesser digits
    for (int digit = 0; digit < 256; ++digit)
      for (int piece = 0; piece < threads; ++piece) before += std::exchange(s.bins[piece * 256 + digit], before);
    for_pieces(context, threads, [&](std::int64_t piece, int) {
      std::int64_t* bins = s.bins + piece * 256;
      for (std::int64_t i = first(piece); i < first(piece + 1); ++i) {
        const std::int64_t to = bins[s.code[0][i] >> shift & 255]++;
        s.code[1][to] = s.code[0][i];
        s.place[1][to] = s.place[0][i];
      }
    });
    std::swap(s.code[0], s.code[1]);
    std::swap(s.place[0], s.place[1]);
  }
  for_pieces(context, threads, [&](std::int64_t piece, int) {
    for (std::int64_t i = first(piece); i < first(piece + 1); ++i) {
      const std::int32_t place = s.place[0][i];
      if (x.keys_out != nullptr) x.keys_out[i] = x.keys[place];
      if (x.values_out != nullptr) x.values_out[i] = x.values != nullptr ? x.values[place] : mutant(defect::sort_returns_ranks) ? std::int32_t(i) : place;
    }
  });
  return {};
}

}  // namespace smalti::inline SMALTI_CODE::prim::detail
