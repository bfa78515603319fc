// How the heads and tokens of a page of keys or values lie in memory. A pool of pages is seen as one long list of rows,
// each the d elements of one token and head; a layout says which row that is.
#pragma once
#include <concepts>
#include <cstdint>
#include <type_traits>
#include <smalti/core/version.hpp>

namespace smalti::inline SMALTI_DATA::policy {

enum class kv_order : std::uint8_t { nhd, hnd };

//! [page][slot][head][d]: a token's heads lie together. One append writes one run; a head's rows are `heads` rows apart.
//! Seen as a matrix of pages * tokens rows and heads * d columns, row page * tokens + slot holds the token.
struct nhd {
  static constexpr kv_order order = kv_order::nhd;
  //! The row of token `slot` of a page with `tokens` slots and `heads` heads. Page and Slot: int, or a machine's index values.
  template <class Page, class Slot> SMALTI_HD constexpr auto row(Page page, Slot slot, int head, int heads, int tokens) const {
    return (page * tokens + slot) * heads + head;
  }
};

//! [page][head][slot][d]: a head's tokens lie together, `tokens` * d elements in one run: the box that one copy of a
//! page's head takes, and the better order for keys of few bits.
struct hnd {
  static constexpr kv_order order = kv_order::hnd;
  template <class Page, class Slot> SMALTI_HD constexpr auto row(Page page, Slot slot, int head, int heads, int tokens) const {
    return (page * heads + head) * tokens + slot;
  }
};

//! A bijection of (page, slot, head) to rows that keeps the rows of a page together, pages in their order.
template <class L>
concept kv_layout = std::is_empty_v<L> && std::is_trivially_copyable_v<L> && requires(const L l, int i) {
  { l.row(i, i, i, i, i) } -> std::same_as<int>;
  { L::order } -> std::convertible_to<kv_order>;
};

template <class L> consteval bool explain_kv_layout() {
  static_assert(std::is_empty_v<L> && std::is_trivially_copyable_v<L>, "smalti: a layout of pages is an empty type: policy::nhd or policy::hnd");
  static_assert(requires(const L l, int i) { { l.row(i, i, i, i, i) } -> std::same_as<int>; },
                "smalti: a layout of pages needs  template <class Page, class Slot> auto row(Page, Slot, int head, int heads, int tokens) const  (SMALTI_HD): policy::nhd or policy::hnd");
  static_assert(requires { { L::order } -> std::convertible_to<kv_order>; },
                "smalti: a layout of pages needs  static constexpr kv_order order, so that pools of different layouts are not mixed");
  return true;
}

}  // namespace smalti::inline SMALTI_DATA::policy
