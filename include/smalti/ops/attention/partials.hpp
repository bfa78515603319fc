// Memory for partial results of attention: float rows like those of the queries, one part after another.
#pragma once
#include <cstddef>
#include <smalti/block/attention/rows.hpp>
#include <smalti/core/workspace.hpp>
#include <smalti/policy/lse.hpp>

namespace smalti::inline SMALTI_CODE::attention {

//! o and lse of `parts` partial results with the rows of some queries. On a GPU a ragged batch is counted by its longest
//! sequence, since its offsets cannot be read.
struct partial_results {
  float *o = nullptr, *lse = nullptr;
  long long o_distance = 0, lse_distance = 0;

  template <class T> static partial_results take(carver& carve, const head_rows<T>& like, int value_dim, int parts) {
    const long long rows = static_cast<long long>(like.sequences) * like.rows * like.heads, lse = (rows + 3) / 4 * 4;
    partial_results p{nullptr, nullptr, rows * value_dim, lse};
    p.o = carve.take<float>(std::size_t(p.o_distance) * parts);
    p.lse = carve.take<float>(std::size_t(lse) * parts);
    return p;
  }
  template <class T> head_rows<float> o_of(const head_rows<T>& like, int value_dim, int part) const { return rows(o + part * o_distance, like, value_dim); }
  template <class T> head_rows<float> lse_of(const head_rows<T>& like, int part) const { return rows(lse + part * lse_distance, like, 1); }

private:
  template <class T> static head_rows<float> rows(float* data, const head_rows<T>& like, int cols) {
    return {data, like.sequences, like.heads, like.rows, cols, static_cast<long long>(like.rows) * like.heads * cols, cols, like.heads * cols, like.offsets};
  }
};
//! The same rows, to be read.
template <class T> constexpr head_rows<const T> read_only(const head_rows<T>& x) {
  return {x.data, x.sequences, x.heads, x.rows, x.cols, x.sequence_stride, x.head_stride, x.row_stride, x.offsets};
}
//! What attention must be told to write partial results.
template <class Base> struct partial_options : Base {
  using out = float;
  using lse = policy::lse_e<float>;
};

}  // namespace smalti::inline SMALTI_CODE::attention
