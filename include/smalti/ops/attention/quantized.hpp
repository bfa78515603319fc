// Attention to quantized keys and values: attention::flash<T, D, quantized_kv<Storage>> for dense and ragged batches,
// flash<T, D, paged_quantized_kv<Storage, Page>> for pages. docs/ops/attention/quantized_kv.md.
#pragma once
#include <type_traits>
#include <smalti/block/attention/kv_quantized.hpp>
#include <smalti/ops/attention.hpp>
#include <smalti/ops/attention/check.hpp>

namespace smalti::inline SMALTI_CODE::attention {

namespace detail {

template <literal Name, class Rows> status check_widths(int codes, int scales) {
  if (codes != Rows::words) return {errc::bad_shape, sentence<Name, ".codes: cols must be the words of a token in the type's storage, D * bits / 32">(), codes, Rows::words};
  if (scales != Rows::width) return {errc::bad_shape, sentence<Name, ".scales: cols must be the scales (and minima) of a row in the type's storage">(), scales, Rows::width};
  return {};
}
template <literal Name, class Storage, policy::kv_part Part, int D> status check_quantized_rows(const quantized_rows<Storage>& x, bool readable) {
  using rows = typename Storage::template rows_of<Part, D>;
  if (const status bad = check_widths<Name, rows>(x.codes.cols, x.scales.cols); !bad) return bad;
  if (const status bad = check_rows<Name, step_of<std::uint32_t>>(x.codes, rows::words); !bad) return bad;
  if (const status bad = check_rows<Name, 1>(x.scales, rows::width); !bad) return bad;
  if (x.codes.sequences != x.scales.sequences || x.codes.heads != x.scales.heads) return {errc::bad_shape, sentence<Name, ".scales: needs the sequences and heads of the codes">(), x.scales.heads, x.codes.heads};
  if (x.scales.rows < ceil_div(x.codes.rows, rows::tokens)) return {errc::bad_shape, sentence<Name, ".scales: needs a row for each token, or for each group of tokens">(), x.scales.rows, ceil_div(x.codes.rows, rows::tokens)};
  if (x.codes.offsets != nullptr && rows::tokens > 1) return {errc::bad_value, sentence<Name, ": groups of tokens do not lie in ragged batches, where they would cross sequences: use pages">()};
  if ((x.codes.offsets == nullptr) != (x.scales.offsets == nullptr)) return {errc::bad_value, sentence<Name, ".scales: both or neither of codes and scales are ragged">()};
  if (!readable) {
    if (!rows_in_reach(x.codes) || !rows_in_reach(x.scales)) return {errc::out_of_reach, sentence<Name, ": rows of one head must end within 2^31 elements on a GPU: lay keys and values out by heads">(), static_cast<long long>(x.codes.rows) * x.codes.row_stride, 2147483647ll};
    return {};
  }
  if (const status bad = check_offsets<Name>(x.codes); !bad) return bad;
  for (int s = 0; s < x.codes.sequences && x.codes.offsets != nullptr; ++s)
    if (x.codes.length(s) != x.scales.length(s)) return {errc::bad_shape, sentence<Name, ".scales: a sequence has other rows than its codes">(), x.scales.length(s), x.codes.length(s)};
  return {};
}
template <literal Name, class Storage, policy::kv_part Part, int D> status check_quantized_pool(const quantized_pool<Storage>& x, int page, bool boxed, bool on_gpu) {
  using rows = typename Storage::template rows_of<Part, D>;
  if (const status bad = check_widths<Name, rows>(x.codes.cols, x.scales.cols); !bad) return bad;
  if (page % rows::tokens != 0) return {errc::bad_shape, "kv.where.page must be a multiple of the storage's group of tokens", page, rows::tokens};
  if (const status bad = check_pool<Name>(x.codes, rows::words, page, boxed, on_gpu); !bad) return bad;
  if (const status bad = check_pool<Name, 1>(x.scales, rows::width, page / rows::tokens, false, on_gpu); !bad) return bad;
  if (x.codes.heads != x.scales.heads || x.codes.count != x.scales.count) return {errc::bad_shape, sentence<Name, ".scales: needs the heads and pages of the codes">(), x.scales.heads, x.codes.heads};
  return {};
}

}  // namespace detail

template <int D, int ValueDim, class Storage> status check_kv(const quantized_kv<Storage>& kv, bool readable) {
  static_assert(policy::explain_kv_storage<Storage>());
  if (const status bad = detail::check_quantized_rows<"kv.k", Storage, policy::kv_part::key, D>(kv.k, readable); !bad) return bad;
  if (const status bad = detail::check_quantized_rows<"kv.v", Storage, policy::kv_part::value, ValueDim>(kv.v, readable); !bad) return bad;
  const auto &k = kv.k.codes, &v = kv.v.codes;
  if (k.sequences != v.sequences || k.heads != v.heads) return {errc::bad_shape, "kv.v: needs the sequences and heads of kv.k", v.heads, k.heads};
  if (k.rows != v.rows) return {errc::bad_shape, "kv.v: needs as many rows as kv.k", v.rows, k.rows};
  if ((k.offsets == nullptr) != (v.offsets == nullptr)) return {errc::bad_value, "kv.v: both or neither of kv.k and kv.v are ragged"};
  if (readable)
    for (int s = 0; s < k.sequences; ++s) {
      if (k.length(s) != v.length(s)) return {errc::bad_shape, "kv.v: a sequence has other rows than in kv.k", v.length(s), k.length(s)};
      if (kv.used != nullptr && (kv.used[s] < 0 || kv.used[s] > k.length(s))) return {errc::bad_value, "kv.used must lie within the rows of its sequence", kv.used[s], k.length(s)};
    }
  return {};
}
template <class Storage> int kv_sequences(const quantized_kv<Storage>& kv) { return kv.k.codes.sequences; }
template <class Storage> bool overlaps(const quantized_kv<Storage>& kv, byte_range o, bool readable) {
  return o.meets(detail::bytes_covered(kv.k.codes, readable)) || o.meets(detail::bytes_covered(kv.v.codes, readable)) || o.meets(detail::bytes_covered(kv.k.scales, readable)) ||
         o.meets(detail::bytes_covered(kv.v.scales, readable));
}

template <int D, int ValueDim, class Storage, int Page> status check_kv(const paged_quantized_kv<Storage, Page>& kv, bool readable) {
  static_assert(policy::explain_kv_storage<Storage>());
  if (kv.where.page <= 0) return {errc::bad_value, "kv.where.page must be positive: it counts the tokens of a page", kv.where.page, 1};
  if (Page > 0 && kv.where.page != Page) return {errc::bad_value, "kv.where.page must be the page size in the type of paged_quantized_kv", kv.where.page, Page};
  if (kv.sequences < 0 || kv.most < 0) return {errc::bad_shape, "kv: sequences and most must not be negative", kv.sequences < 0 ? kv.sequences : kv.most, 0};
  if (const status bad = detail::check_quantized_pool<"kv.k", Storage, policy::kv_part::key, D>(kv.k, kv.where.page, Page > 0, !readable); !bad) return bad;
  if (const status bad = detail::check_quantized_pool<"kv.v", Storage, policy::kv_part::value, ValueDim>(kv.v, kv.where.page, Page > 0, !readable); !bad) return bad;
  const auto &k = kv.k.codes, &v = kv.v.codes;
  if (k.heads != v.heads || k.count != v.count) return {errc::bad_shape, "kv.v: needs the heads and pages of kv.k", v.heads, k.heads};
  if (kv.where.length == nullptr && kv.sequences > 0) return {errc::null_pointer, "kv.where.length is null: it needs one length for each sequence", 0, kv.sequences};
  if (readable) return check_pages(kv.where, kv.sequences, k.heads, 2147483647 / kv.where.page, k.count);
  return {};
}
template <class Storage, int Page> int kv_sequences(const paged_quantized_kv<Storage, Page>& kv) { return kv.sequences; }
template <class Storage, int Page> bool overlaps(const paged_quantized_kv<Storage, Page>& kv, byte_range o, bool) {
  const int page = Page > 0 ? Page : kv.where.page;
  return o.meets(detail::pool_bytes(kv.k.codes, page)) || o.meets(detail::pool_bytes(kv.v.codes, page)) || o.meets(detail::pool_bytes(kv.k.scales, Storage::template scale_rows<policy::kv_part::key>(page))) ||
         o.meets(detail::pool_bytes(kv.v.scales, Storage::template scale_rows<policy::kv_part::value>(page)));
}

}  // namespace smalti::inline SMALTI_CODE::attention
