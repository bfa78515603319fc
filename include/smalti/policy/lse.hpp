// Log-sum-exp: its base, its value for no keys at all, and how partial softmax results merge. The one owner: split
// keys, paged prefixes, rings of devices and sinks all meet here.
//
// For the scores s_j that a partial result has seen, in base e:
//     lse = log(sum_j exp(s_j)),      value = sum_j exp(s_j - lse) v_j
// and in base 2 the same with 2^s_j and log2, for scores that carry the factor log2(e) already. Both are found in
// stored results of other programs, with nothing that tells them apart; here the base is part of the type, and types
// of different bases do not mix.
//
// No keys: lse = -infinity, value = 0. Such a partial has weight 0, whatever its value holds (a NaN too), and merging
// nothing but such gives one again. A lse of NaN or +infinity is a fault of the caller's and turns what it is
// merged with into NaN; some programs write +infinity for no keys: see empty_if_infinite.
//
// Everything is a template over the value V: a pack of lanes, a whole tile, or float (policy/scalar.hpp). Partials stay
// in float until the last merge: rounded to 16 bits after each step they lose accuracy with every step.
// Sources: Milakov and Gimelshein 2018, arXiv:1805.02867 (running maximum and sum); Dao et al. 2022, arXiv:2205.14135.
#pragma once
#include <smalti/core/float.hpp>
#include <smalti/policy/scalar.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! A log-sum-exp in base e.
template <class V> struct lse_e {
  V value;
  static constexpr float bits_per_unit = 1.4426950408889634f, units_per_bit = 0.6931471805599453f;
};
//! A log-sum-exp in base 2.
template <class V> struct lse_2 {
  V value;
  static constexpr float bits_per_unit = 1.0f, units_per_bit = 1.0f;
};
template <class V> lse_e(V) -> lse_e<V>;
template <class V> lse_2(V) -> lse_2<V>;

template <class L> inline constexpr bool is_lse = false;
template <class V> inline constexpr bool is_lse<lse_e<V>> = true;
template <class V> inline constexpr bool is_lse<lse_2<V>> = true;

//! Change of base. One rounding, at most 2^-24 |lse| for what was exact, and so a relative error of 2^-24 |lse| in the
//! weight: merge in the base that the partials have, convert the result. -infinity stays.
template <class V> SMALTI_HD constexpr lse_2<V> to_lse_2(lse_e<V> x) { return {x.value * lse_e<V>::bits_per_unit}; }
template <class V> SMALTI_HD constexpr lse_2<V> to_lse_2(lse_2<V> x) { return x; }
template <class V> SMALTI_HD constexpr lse_e<V> to_lse_e(lse_2<V> x) { return {x.value * lse_e<V>::units_per_bit}; }
template <class V> SMALTI_HD constexpr lse_e<V> to_lse_e(lse_e<V> x) { return x; }

//! The lse of no keys.
SMALTI_HD constexpr float empty_lse() { return bits_float(0xff800000u); }

//! What other programs wrote, with +infinity read as no keys.
template <class L> SMALTI_HD constexpr L empty_if_infinite(L x) {
  using namespace scalar;
  return {where(x.value == -empty_lse(), empty_lse(), x.value)};
}

//! The factors of one step of a running merge: what was there is multiplied by `keep`, what comes by `take`.
template <class V> struct lse_step { V keep, take; };

//! A running log-sum-exp: sum of base^(lse_i - largest). Exponents are never positive, so nothing overflows.
template <class L> struct lse_row {
  static_assert(is_lse<L>, "smalti: a log-sum-exp names its base: wrap the number as lse_e{x} or lse_2{x}");
  using number = decltype(L::value);
  number largest, sum;

  //! Adds one more. The same factors apply to whatever is summed with these weights.
  SMALTI_HD lse_step<number> absorb(L next) {
    using namespace scalar;
    const number top = max(largest, next.value);
    const number origin = where(top == empty_lse(), 0.0f, top);  // -infinity - -infinity would be NaN
    const number keep = exp2((largest - origin) * L::bits_per_unit);
    const number take = exp2((next.value - origin) * L::bits_per_unit);
    sum = sum * keep + take;
    largest = top;
    return {keep, take};
  }
  //! -infinity where nothing but empties was absorbed, since log2(0) is.
  SMALTI_HD L lse() const {
    using namespace scalar;
    return {largest + log2(sum) * L::units_per_bit};
  }
  //! What the weighted sum is multiplied by at the end; 1 where the row is empty.
  SMALTI_HD number normalizer() const {
    using namespace scalar;
    return over(1.0f, where(sum == 0.0f, 1.0f, sum));
  }
};

//! The row of one lse.
template <class L> SMALTI_HD lse_row<L> lse_begin(L first) {
  using namespace scalar;
  return {first.value, where(first.value == empty_lse(), 0.0f, 1.0f)};
}

//! log(base^a + base^b): the lse of both key sets together.
template <class L> SMALTI_HD L lse_join(L a, L b) {
  lse_row<L> row = lse_begin(a);
  row.absorb(b);
  return row.lse();
}

//! The weight of a part in the whole: base^(part - whole), and 0 for an empty part.
template <class L> SMALTI_HD auto lse_share(L part, L whole) {
  using namespace scalar;
  return where(part.value == empty_lse(), 0.0f, exp2((part.value - whole.value) * L::bits_per_unit));
}

//! A partial result: the normalized value and its lse. A sink logit a is the partial {0, a}.
template <class Value, class L> struct lse_partial {
  Value value;
  L lse;
};
template <class Value, class L> lse_partial(Value, L) -> lse_partial<Value, L>;

//! A running merge of partials, normalized only when it is finished. Its order is the order of the calls: the same
//! order gives the same bits.
template <class Value, class L> struct lse_running {
  Value value;
  lse_row<L> row;

  SMALTI_HD void absorb(const lse_partial<Value, L>& next) {
    using namespace scalar;
    const auto step = row.absorb(next.lse);
    value = value * step.keep + where(next.lse.value == empty_lse(), 0.0f, next.value) * step.take;  // 0 * NaN is NaN
  }
  SMALTI_HD lse_partial<Value, L> finish() const { return {value * row.normalizer(), row.lse()}; }
};
template <class Value, class L> SMALTI_HD lse_running<Value, L> lse_begin(const lse_partial<Value, L>& first) {
  using namespace scalar;
  return {where(first.lse.value == empty_lse(), 0.0f, first.value), lse_begin(first.lse)};
}

//! The result over all keys of all partials, merged from left to right:
//!     lse = log(sum_i base^lse_i),   value = sum_i base^(lse_i - lse) value_i
//! Associative and commutative up to rounding. With eps = 2^-24, n partials and M the largest |value_i|, the value's error
//! is at most (15 n + 5) eps M, the lse's 12 n eps + 2 eps |lse| (in base 2: 18 n eps + 2 eps |lse|); an lse that was itself
//! rounded adds its error, times ln of its base, to its weight. Cost: two exp2 a partial, one log2 and one quotient in all.
template <class Value, class L, class... Rest>
SMALTI_HD lse_partial<Value, L> lse_merge(const lse_partial<Value, L>& first, const Rest&... rest) {
  static_assert((__is_same(Rest, lse_partial<Value, L>) && ...),
                "smalti: lse_merge takes partials of one type: convert the bases with to_lse_2 or to_lse_e");
  lse_running<Value, L> all = lse_begin(first);
  (all.absorb(rest), ...);
  return all.finish();
}

}  // namespace smalti::inline SMALTI_DATA::policy
