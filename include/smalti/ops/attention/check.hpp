// What attention refuses, and facts about its arguments.
#pragma once
#include <cstdint>
#include <type_traits>
#include <smalti/block/attention/kv.hpp>
#include <smalti/block/attention/rows.hpp>
#include <smalti/core/check_view.hpp>
#include <smalti/core/float.hpp>
#include <smalti/core/pages.hpp>
#include <smalti/core/segments.hpp>
#include <smalti/core/status.hpp>
#include <smalti/policy/mask.hpp>

namespace smalti::inline SMALTI_CODE::attention {

// Products of float are those of the processor: a GPU's matrix units would round them.
#if defined(__CUDACC__)
template <class T> constexpr bool is_whole_float = false;
#else
template <class T> constexpr bool is_whole_float = std::is_same_v<T, float>;
#endif
template <class T> constexpr bool float_memory = std::is_same_v<T, bf16> || std::is_same_v<T, fp16> || std::is_same_v<T, fp8_e4m3> || std::is_same_v<T, fp8_e5m2>;
template <class T> constexpr bool result_memory = float_memory<T> || std::is_same_v<T, float>;

//! @tparam Whole  the operation multiplies floats too, on the host
template <class T, int D, int ValueDim, class Out, bool Whole = false> consteval bool explain_attention_types() {
  static_assert(std::is_same_v<T, bf16> || std::is_same_v<T, fp16> || (Whole && is_whole_float<T>), "smalti: attention multiplies bf16 or fp16, attention::flash on the host float too: convert the queries");
  static_assert(result_memory<Out>, "smalti: the result of attention is float, bf16, fp16, fp8_e4m3 or fp8_e5m2");
  static_assert(D > 0 && D % 8 == 0 && ValueDim > 0 && ValueDim % 8 == 0, "smalti: head dims of attention are multiples of 8: pad the last dimension with zeros");
  static_assert(D <= 1024 && ValueDim <= 1024, "smalti: head dims of attention are at most 1024");
  return true;
}

namespace detail {

//! Whether Blocks are lists for 16 query rows and more (Tall), or for fewer.
template <class Blocks, bool Tall> constexpr bool lists_are() {
  if constexpr (Blocks::listed) return (Blocks::height >= 16) == Tall;
  else return false;
}

constexpr long long far_away = 1ll << 46;       // beyond any address space, so that sizes in bytes never overflow

//! Extents, addresses and promises of rows of heads; `cols` is what the type of the op says.
template <literal Name, int Step, class T> status check_rows(const head_rows<T>& x, int cols) {
  if (x.sequences < 0 || x.heads < 0 || x.rows < 0)
    return {errc::bad_shape, sentence<Name, ": sequences, heads and rows must not be negative">(), x.sequences < 0 ? x.sequences : x.heads < 0 ? x.heads : x.rows, 0};
  if (x.cols != cols) return {errc::bad_shape, sentence<Name, ": cols must be the head dim in the op's type">(), x.cols, cols};
  if (x.sequences == 0 || x.heads == 0 || x.rows == 0) return {};
  if (x.data == nullptr) return {errc::null_pointer, sentence<Name, " is null">()};
  if (x.row_stride < cols) return {errc::bad_shape, sentence<Name, ": row_stride must be at least the columns">(), x.row_stride, cols};
  if (x.head_stride < 0 || x.sequence_stride < 0 || x.head_stride > far_away / x.heads || x.sequence_stride > far_away / x.sequences)
    return {errc::bad_value, sentence<Name, ": head_stride and sequence_stride must not be negative, and within the address space">(), x.head_stride < 0 ? x.head_stride : x.sequence_stride, 0};
  const auto address = reinterpret_cast<std::uintptr_t>(x.data);
  if (address % alignof(T) != 0) return {errc::misaligned, sentence<Name, ": the address must be a multiple of the element's size">(), std::int64_t(address % alignof(T)), 0};
  if constexpr (Step > 1) {
    if (address % 16 != 0) return {errc::misaligned, sentence<Name, ": the address must be a multiple of 16 bytes">(), std::int64_t(address % 16), 0};
    if (x.row_stride % Step != 0) return {errc::misaligned, sentence<Name, ": row_stride must be a multiple of 16 bytes">(), x.row_stride, round_up(x.row_stride, Step)};
    if (x.heads > 1 && x.head_stride % Step != 0) return {errc::misaligned, sentence<Name, ": head_stride must be a multiple of 16 bytes">(), x.head_stride, 0};
    if (x.sequences > 1 && x.sequence_stride % Step != 0) return {errc::misaligned, sentence<Name, ": sequence_stride must be a multiple of 16 bytes">(), x.sequence_stride, 0};
    if (cols % Step != 0) return {errc::misaligned, sentence<Name, ": the head dim must be a multiple of 16 bytes of this memory">(), cols, round_up(cols, Step)};
  }
  return {};
}

//! Two tensors that describe the same rows.
template <literal Name, literal Of, class T, class U> status check_same_rows(const head_rows<T>& x, const head_rows<U>& of) {
  if (x.sequences != of.sequences) return {errc::bad_shape, sentence<Name, ": needs as many sequences as q">(), x.sequences, of.sequences};
  if (x.heads != of.heads) return {errc::bad_shape, sentence<Name, ": needs as many heads as q">(), x.heads, of.heads};
  if (x.rows != of.rows) return {errc::bad_shape, sentence<Name, ": needs as many rows as q">(), x.rows, of.rows};
  if ((x.offsets == nullptr) != (of.offsets == nullptr)) return {errc::bad_value, sentence<Name, ": both or neither of it and q are ragged">()};
  return {};
}

//! What is written must be written once: no two rows share memory.
template <literal Name, class T> status check_distinct(const head_rows<T>& x) {
  if (x.heads > 1) {
    const long long one_head = static_cast<long long>(x.rows - 1) * x.row_stride + x.cols, one_row = static_cast<long long>(x.heads - 1) * x.head_stride + x.cols;
    const bool apart = x.head_stride >= one_head && x.offsets == nullptr, interleaved = x.head_stride >= x.cols && x.row_stride >= one_row;
    // Ragged heads lie apart by more rows than are known here.
    if (!apart && !interleaved && !(x.offsets != nullptr && x.head_stride >= one_head)) return {errc::aliased, sentence<Name, ": rows of different heads must not overlap">(), x.head_stride, x.cols};
  }
  if (x.sequences > 1 && x.offsets == nullptr) {
    const long long extent = static_cast<long long>(x.rows - 1) * x.row_stride + (x.heads - 1) * x.head_stride + x.cols;
    const bool inside_rows = x.heads > 1 && x.head_stride >= (x.sequences - 1) * x.sequence_stride + static_cast<long long>(x.rows - 1) * x.row_stride + x.cols && x.sequence_stride >= static_cast<long long>(x.rows - 1) * x.row_stride + x.cols;
    if (x.sequence_stride < extent && !inside_rows) return {errc::aliased, sentence<Name, ": rows of different sequences must not overlap">(), x.sequence_stride, extent};
  }
  return {};
}

//! Offsets of a ragged batch, where the host can read them.
template <literal Name, class T> status check_offsets(const head_rows<T>& x) {
  if (x.offsets == nullptr || x.sequences == 0) return {};
  if (x.offsets[0] < 0) return {errc::bad_value, sentence<Name, ".offsets must not be negative">(), x.offsets[0], 0};
  for (int s = 0; s < x.sequences; ++s)
    if (x.offsets[s + 1] < x.offsets[s]) return {errc::bad_value, sentence<Name, ".offsets must not decrease">(), x.offsets[s + 1], x.offsets[s]};
  for (int s = 0; s < x.sequences; ++s)
    if (x.offsets[s + 1] - x.offsets[s] > x.rows) return {errc::bad_shape, sentence<Name, ".rows must be at least the rows of every sequence of a ragged batch">(), x.rows, x.offsets[s + 1] - x.offsets[s]};
  return {};
}

//! What is kept beside a cache learns which tokens are new in one of two ways.
inline status check_new(int fresh, const int* from) {
  if (fresh < -1) return {errc::bad_value, "fresh counts the newest tokens of every sequence, -1 leaves it to `from`", fresh, -1};
  if (fresh >= 0 && from != nullptr) return {errc::bad_value, "fresh and from both say which tokens are new: give one of them", fresh, -1};
  return {};
}
template <class T> constexpr bool rows_in_reach(const head_rows<T>& x) { return static_cast<long long>(x.rows) * x.row_stride <= 2147483647ll; }

//! The bytes a tensor covers; nothing where only a GPU knows.
template <class T> byte_range bytes_covered(const head_rows<T>& x, bool readable) {
  const char* first = reinterpret_cast<const char*>(x.data);
  if (x.sequences <= 0 || x.heads <= 0 || x.rows <= 0 || (x.offsets != nullptr && !readable)) return {first, first};
  const long long heads = (x.heads - 1) * x.head_stride + x.cols;
  const long long rows = x.offsets != nullptr ? static_cast<long long>(x.offsets[x.sequences] - 1) * x.row_stride
                                              : (x.sequences - 1) * x.sequence_stride + static_cast<long long>(x.rows - 1) * x.row_stride;
  if (rows < 0) return {first, first};
  return {first, first + (heads + rows) * static_cast<long long>(sizeof(T))};
}

}  // namespace detail

// ---- sources of keys: check_kv(source, queries' sequences and heads, whether the host may read tables), reach, bytes

template <int D, int ValueDim, class T> status check_kv(const dense_kv<T>& kv, bool readable) {
  static_assert(float_memory<T> || is_whole_float<T>, "smalti: dense keys and values are bf16, fp16, fp8_e4m3 or fp8_e5m2 in memory");
  if (const status bad = detail::check_rows<"kv.k", step_of<T>>(kv.k, D); !bad) return bad;
  if (const status bad = detail::check_rows<"kv.v", step_of<T>>(kv.v, ValueDim); !bad) return bad;
  if (kv.k.sequences != kv.v.sequences || kv.k.heads != kv.v.heads) return {errc::bad_shape, "kv.v: needs the sequences and heads of kv.k", kv.v.heads, kv.k.heads};
  if (kv.k.rows != kv.v.rows) return {errc::bad_shape, "kv.v: needs as many rows as kv.k", kv.v.rows, kv.k.rows};
  if ((kv.k.offsets == nullptr) != (kv.v.offsets == nullptr)) return {errc::bad_value, "kv.v: both or neither of kv.k and kv.v are ragged"};
  if (readable) {
    if (const status bad = detail::check_offsets<"kv.k">(kv.k); !bad) return bad;
    if (const status bad = detail::check_offsets<"kv.v">(kv.v); !bad) return bad;
    for (int s = 0; s < kv.k.sequences; ++s) {
      if (kv.k.length(s) != kv.v.length(s)) return {errc::bad_shape, "kv.v: a sequence has other rows than in kv.k", kv.v.length(s), kv.k.length(s)};
      if (kv.used != nullptr && (kv.used[s] < 0 || kv.used[s] > kv.k.length(s))) return {errc::bad_value, "kv.used must lie within the rows of its sequence", kv.used[s], kv.k.length(s)};
    }
  } else {
    if (!detail::rows_in_reach(kv.k) || !detail::rows_in_reach(kv.v))
      return {errc::out_of_reach, "kv: rows of one head must end within 2^31 elements on a GPU: lay keys and values out by heads", static_cast<long long>(kv.k.rows) * kv.k.row_stride, 2147483647ll};
  }
  return {};
}
template <class T> int kv_sequences(const dense_kv<T>& kv) { return kv.k.sequences; }
template <class T> bool overlaps(const dense_kv<T>& kv, byte_range o, bool readable) {
  return o.meets(detail::bytes_covered(kv.k, readable)) || o.meets(detail::bytes_covered(kv.v, readable));
}

namespace detail {
// Step: as of a view; 0: of rows that promise 16 bytes.
template <literal Name, int Step = 0, class T> status check_pool(const page_pool<T>& p, int cols, int page, bool boxed_on_gpu, bool on_gpu) {
  if (p.count < 0 || p.heads < 0) return {errc::bad_shape, sentence<Name, ": count and heads must not be negative">(), p.count < 0 ? p.count : p.heads, 0};
  if (p.cols != cols) return {errc::bad_shape, sentence<Name, ": cols must be the head dim in the op's type">(), p.cols, cols};
  if (p.count == 0 || p.heads == 0) return {};
  if (p.data == nullptr) return {errc::null_pointer, sentence<Name, " is null">()};
  constexpr int step = Step == 0 ? step_of<T> : Step;
  const auto address = reinterpret_cast<std::uintptr_t>(p.data);
  if (address % alignof(T) != 0) return {errc::misaligned, sentence<Name, ": the address must be a multiple of the element's size">(), std::int64_t(address % alignof(T)), 0};
  if (step > 1 && address % 16 != 0) return {errc::misaligned, sentence<Name, ": the address must be a multiple of 16 bytes">(), std::int64_t(address % 16), 0};
  if (p.slot_stride < cols) return {errc::bad_shape, sentence<Name, ": slot_stride must be at least the columns">(), p.slot_stride, cols};
  if (p.slot_stride % step != 0 || (p.heads > 1 && p.head_stride % step != 0) || p.page_stride % step != 0 || cols % step != 0)
    return {errc::misaligned, sentence<Name, ": strides and columns must be multiples of 16 bytes">(), p.slot_stride, round_up(p.slot_stride, step)};
  if (p.head_stride < 0 || p.page_stride <= 0 || p.page_stride > far_away / p.count) return {errc::bad_value, sentence<Name, ": page_stride must be positive, head_stride not negative, and both within the address space">(), p.page_stride, 0};
  if (p.page_stride % p.slot_stride != 0) return {errc::bad_shape, sentence<Name, ": page_stride must be a multiple of slot_stride">(), p.page_stride, p.slot_stride};
  if (p.page_stride < static_cast<long long>(page - 1) * p.slot_stride + cols) return {errc::bad_shape, sentence<Name, ": page_stride must hold a page's slots">(), p.page_stride, static_cast<long long>(page) * p.slot_stride};
  if (p.count * (p.page_stride / p.slot_stride) > 2147483647ll)
    return {errc::out_of_reach, sentence<Name, ": a pool has at most 2^31 - 1 rows of slot_stride">(), p.count * (p.page_stride / p.slot_stride), 2147483647ll};
  if (on_gpu && boxed_on_gpu && p.count * p.page_stride > 2147483647ll)
    return {errc::out_of_reach, sentence<Name, ": whole pages are copied through 32-bit offsets on a GPU: use paged_kv<T> without a page size, which gathers">(), p.count * p.page_stride, 2147483647ll};
  return {};
}
}  // namespace detail

template <int D, int ValueDim, class T, int Page> status check_kv(const paged_kv<T, Page>& kv, bool readable) {
  static_assert(float_memory<T>, "smalti: paged keys and values are bf16, fp16, fp8_e4m3 or fp8_e5m2 in memory");
  if (kv.where.page <= 0) return {errc::bad_value, "kv.where.page must be positive: it counts the tokens of a page", kv.where.page, 1};
  if (Page > 0 && kv.where.page != Page) return {errc::bad_value, "kv.where.page must be the page size in the type of paged_kv", kv.where.page, Page};
  if (kv.sequences < 0 || kv.most < 0) return {errc::bad_shape, "kv: sequences and most must not be negative", kv.sequences < 0 ? kv.sequences : kv.most, 0};
  if (const status bad = detail::check_pool<"kv.k">(kv.k, D, kv.where.page, Page > 0, !readable); !bad) return bad;
  if (const status bad = detail::check_pool<"kv.v">(kv.v, ValueDim, kv.where.page, Page > 0, !readable); !bad) return bad;
  if (kv.k.heads != kv.v.heads || kv.k.count != kv.v.count) return {errc::bad_shape, "kv.v: needs the heads and pages of kv.k", kv.v.heads, kv.k.heads};
  if (kv.where.length == nullptr && kv.sequences > 0) return {errc::null_pointer, "kv.where.length is null: it needs one length for each sequence", 0, kv.sequences};
  if (readable) return check_pages(kv.where, kv.sequences, kv.k.heads, 2147483647 / kv.where.page, kv.k.count);
  return {};
}
template <class T, int Page> int kv_sequences(const paged_kv<T, Page>& kv) { return kv.sequences; }
namespace detail {
//! From the first element of a pool to the last.
template <class T> byte_range pool_bytes(const page_pool<T>& p, int page) {
  const char* first = reinterpret_cast<const char*>(p.data);
  if (p.count <= 0 || p.heads <= 0 || page <= 0) return {first, first};
  const long long last = (p.count - 1) * p.page_stride + (p.heads - 1) * p.head_stride + static_cast<long long>(page - 1) * p.slot_stride + p.cols;
  return {first, first + last * static_cast<long long>(sizeof(T))};
}
}  // namespace detail
template <class T, int Page> bool overlaps(const paged_kv<T, Page>& kv, byte_range o, bool) {
  const int page = Page > 0 ? Page : kv.where.page;
  return o.meets(detail::pool_bytes(kv.k, page)) || o.meets(detail::pool_bytes(kv.v, page));
}

}  // namespace smalti::inline SMALTI_CODE::attention
