// The host twin of scan. Included at the end of scan.hpp, which declares what is defined here.
#pragma once
#include <algorithm>
#include <smalti/prim/host_loop.hpp>
#include <smalti/prim/scan.hpp>
#include <smalti/tile/mutant.hpp>

namespace smalti::inline SMALTI_CODE::prim::detail {

// Scans one chunk whose predecessors add up to `carry`; returns the chunk's own sum.
template <class Sum, scan_kind Kind, class T> Sum scan_one_chunk(const T* in, T* out, std::int64_t n, Sum carry) {
  Sum sum = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const Sum next = sum + Sum(in[i]);
    out[i] = T(carry + ((Kind == scan_kind::inclusive) != mutant(defect::scan_kinds_swapped) ? next : sum));
    sum = next;
  }
  return sum;
}

template <class Sum, scan_kind Kind, class T> void scan_run(const T* in, T* out, std::int64_t n) {
  Sum carry = 0;
  for (std::int64_t i = 0; i < n; i += scan_chunk) carry = (mutant(defect::scan_forgets_carry) ? Sum(0) : carry) + scan_one_chunk<Sum, Kind>(in + i, out + i, std::min(scan_chunk, n - i), carry);
}

inline std::int64_t scan_chunks(std::int64_t n) { return (n + scan_chunk - 1) / scan_chunk; }

template <class T, scan_kind Kind, class Args> std::size_t scan_bytes(const host_context& context, const Args& x) {
  const std::int64_t chunks = scan_chunks(x.count);
  return workers(context, chunks) > 1 ? std::size_t(chunks) * sizeof(T) : 0;
}

template <class T, scan_kind Kind, class Args> status scan_all(const host_context& context, const Args& x, workspace scratch) {
  using sum = typename scan_sum<T>::type;
  if constexpr (segmented<std::remove_cvref_t<decltype(x.parts)>>) {
    for_pieces(context, x.parts.count, [&](std::int64_t i, int) {
      const std::int64_t first = x.parts.first(int(i));
      scan_run<sum, Kind>(x.in + first, x.out + first, std::int64_t(x.parts.length(int(i))));
    });
  } else {
    const std::int64_t chunks = scan_chunks(x.count);
    if (workers(context, chunks) == 1) {
      scan_run<sum, Kind>(x.in, x.out, x.count);
      return {};
    }
    sum* carry = carver{scratch.data}.take<sum>(std::size_t(chunks));
    for_pieces(context, chunks, [&](std::int64_t c, int) {
      const std::int64_t last = std::min((c + 1) * scan_chunk, x.count);
      sum total = 0;
      for (std::int64_t i = c * scan_chunk; i < last; ++i) total += sum(x.in[i]);
      carry[c] = total;
    });
    sum before = 0;
    for (std::int64_t c = 0; c < chunks; ++c) {
      const sum here = carry[c];
      carry[c] = mutant(defect::scan_carry_includes_itself) ? before + here : before;
      before += here;
    }
    for_pieces(context, chunks, [&](std::int64_t c, int) {
      const std::int64_t first = c * scan_chunk;
      scan_one_chunk<sum, Kind>(x.in + first, x.out + first, std::min(scan_chunk, x.count - first), carry[c]);
    });
  }
  return {};
}

}  // namespace smalti::inline SMALTI_CODE::prim::detail
