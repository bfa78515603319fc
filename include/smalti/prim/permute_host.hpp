// The host twin of permute. Included at the end of permute.hpp, which declares what is defined here.
#pragma once
#include <algorithm>
#include <cstring>
#include <smalti/prim/host_loop.hpp>
#include <smalti/prim/permute.hpp>
#include <smalti/tile/mutant.hpp>

namespace smalti::inline SMALTI_CODE::prim::detail {

template <class T, movement Movement, class Args> status move_rows(const host_context& context, const Args& x) {
  const std::size_t bytes = std::size_t(x.to.cols) * sizeof(T);
  const std::int64_t rows = Movement == movement::gather ? x.to.rows : x.from.rows;
  const std::int64_t together = std::max<std::int64_t>(1, std::int64_t(65536 / bytes));   // rows worth a thread's turn
  for_pieces(context, (rows + together - 1) / together, [&](std::int64_t piece, int) {
    const std::int64_t last = std::min((piece + 1) * together, rows);
    for (std::int64_t i = piece * together; i < last; ++i) {
      const std::int64_t named = Movement == movement::copy ? i : x.index[i];
      if (named < 0 && !mutant(defect::permute_moves_skipped)) continue;
      const std::int64_t source = Movement == movement::gather ? named : i, target = Movement == movement::gather ? i : named;
      std::memcpy(x.to.data + target * x.to.stride, x.from.data + source * x.from.stride, mutant(defect::permute_loses_last_column) ? bytes - sizeof(T) : bytes);
    }
  });
  return {};
}

}  // namespace smalti::inline SMALTI_CODE::prim::detail
