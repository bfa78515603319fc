// Rows of heads: queries, keys, values, results and log-sum-exps of a batch, dense or ragged, in any order of axes.
#pragma once
#include <cstdint>
#include <smalti/core/segments.hpp>
#include <smalti/core/view.hpp>

namespace smalti::inline SMALTI_CODE::attention {

//! Element c of row i of head h of sequence s lies at
//!     data + s * sequence_stride + i * row_stride + h * head_stride + c                 dense: `rows` rows each
//!     data + (offsets[s] + i) * row_stride + h * head_stride + c                        ragged: offsets[s + 1] - offsets[s] rows
//! Strides count elements; a stride of 0 shares. Ragged: `rows` is the most rows of any sequence, which sizes the grid.
template <class T>
struct head_rows {
  using element = T;
  T* data = nullptr;
  int sequences = 0, heads = 0, rows = 0, cols = 0;
  long long sequence_stride = 0, head_stride = 0;
  int row_stride = 0;
  const std::int32_t* offsets = nullptr;

  SMALTI_HD constexpr int length(int sequence) const { return offsets != nullptr ? offsets[sequence + 1] - offsets[sequence] : rows; }
  SMALTI_HD constexpr T* begin(int sequence, int head) const {
    const long long first = offsets != nullptr ? static_cast<long long>(offsets[sequence]) * row_stride : sequence * sequence_stride;
    return data + first + head * head_stride;
  }
  //! All rows of a dense batch.
  SMALTI_HD constexpr stacks<T> all() const { return {data, sequences, heads, rows, cols, sequence_stride, head_stride, row_stride}; }
  //! The rows of one head of one sequence.
  template <int Step = step_of<T>> SMALTI_HD constexpr view<T, Step> at(int sequence, int head) const {
    return {begin(sequence, head), length(sequence), cols, row_stride};
  }
};

//! Tile (i, j) of one head of one sequence: of a ragged batch through a view of its own, else through one of them all,
//! whose descriptor is the same for every block.
template <bool Ragged, class Block, class Tile, class T> SMALTI_HD void load_rows(Block& block, Tile& t, const head_rows<T>& x, int sequence, int head, int i, int j) {
  if constexpr (Ragged) block.load(t, x.at(sequence, head), i, j);
  else block.load(t, x.all(), sequence, head, i, j);
}

//! The rows of a group of heads as rows of one matrix: row i of head g is its row i * row_step + g * head_step.
template <class T, int Step = step_of<T>>
struct row_group {
  view<T, Step> all;
  int row_step, head_step;
  SMALTI_HD static constexpr row_group of(const head_rows<T>& x, int sequence, int first_head, int group) {
    const bool by_head = group > 1 && x.head_stride < x.row_stride;
    const int unit = by_head ? static_cast<int>(x.head_stride) : x.row_stride;
    const int row_step = x.row_stride / unit, head_step = static_cast<int>(x.head_stride / unit), rows = x.length(sequence);
    return {{x.begin(sequence, first_head), (rows - 1) * row_step + (group - 1) * head_step + 1, x.cols, unit}, row_step, head_step};
  }
  template <class I, class G> SMALTI_HD constexpr auto row(I i, G g) const { return i * row_step + g * head_step; }
};

//! [sequence][row][head][cols], as frameworks hand over (BSHD).
template <class T> constexpr head_rows<T> bshd(T* data, int sequences, int rows, int heads, int cols) {
  return {data, sequences, heads, rows, cols, static_cast<long long>(rows) * heads * cols, cols, heads * cols, nullptr};
}
//! One sequence, in a matrix of tokens whose rows may hold more than these heads: q of one that has q, k and v side by side.
template <class T, int Step> constexpr head_rows<T> bshd(const view<T, Step>& tokens, int heads, int cols) {
  return {tokens.data, 1, heads, tokens.rows, cols, static_cast<long long>(tokens.rows) * tokens.stride, cols, tokens.stride, nullptr};
}
//! [sequence][head][row][cols] (BHSD).
template <class T> constexpr head_rows<T> bhsd(T* data, int sequences, int rows, int heads, int cols) {
  return {data, sequences, heads, rows, cols, static_cast<long long>(rows) * heads * cols, static_cast<long long>(rows) * cols, cols, nullptr};
}
//! The same rows, their first `cols` columns: the values of latent attention are the beginnings of its keys.
template <class T> constexpr head_rows<T> leading(head_rows<T> x, int cols) {
  x.cols = cols;
  return x;
}
//! [row][head][cols] with the rows of sequence s in [offsets[s], offsets[s + 1]), none longer than `most` rows.
template <class T> constexpr head_rows<T> ragged(T* data, const segments<std::int32_t>& rows, int most, int heads, int cols) {
  return {data, rows.count, heads, most, cols, 0, cols, heads * cols, rows.offsets};
}
//! The same in a matrix of tokens whose rows may hold more than these heads: q of one that has q, k and v side by side.
template <class T, int Step> constexpr head_rows<T> ragged(const view<T, Step>& tokens, const segments<std::int32_t>& rows, int heads, int cols) {
  return {tokens.data, rows.count, heads, tokens.rows, cols, 0, cols, tokens.stride, rows.offsets};
}

}  // namespace smalti::inline SMALTI_CODE::attention
