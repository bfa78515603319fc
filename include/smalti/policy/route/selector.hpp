// Selectors: which experts a token gets, from its keys. The order is total: the greater key first, equal keys by the lower expert; -0
// equals +0; NaN is below every number. An expert that is selected is out by its place, not by a key of -infinity, so that a row of
// -infinity still selects k different experts. A selector is a small aggregate with
//     groups        experts compete in groups first
//     given         experts come from memory: expert(token, choice)
//     stops         the choices of a token end where their scores reach `mass`
//     check(extent)
#pragma once
#include <cstdint>
#include <smalti/core/status.hpp>
#include <smalti/policy/route/scorer.hpp>
#include <smalti/policy/scalar.hpp>

namespace smalti::inline SMALTI_DATA::policy {

namespace detail {
constexpr status check_choices(const route_extent& e) {
  if (e.choices > e.experts) return {errc::bad_value, "choices must be at most the experts: a token takes an expert once", e.choices, e.experts};
  return {};
}
}  // namespace detail

//! The k greatest keys, best first. k is a number of the call, another one each time if need be (Tutel's top-ANY).
struct top_k {
  static constexpr bool groups = false, given = false, stops = false;
  constexpr status check(const route_extent& e) const { return detail::check_choices(e); }
};
using top_any = top_k;

//! What a group of experts is compared by.
enum class group_score : std::uint8_t {
  two_greatest,      //!< the sum of its two greatest keys: DeepSeek-V3, with a bias
  greatest           //!< its greatest key: DeepSeek-V2, without
};

//! Experts compete in `count` groups of neighbours: the `kept` best groups stay, equal ones by the lower group, and the k greatest keys
//! among their experts are taken; the other groups are out whatever the sign of their keys. Node-limited routing: a group a node.
struct group_top_k {
  static constexpr bool groups = true, given = false, stops = false;
  int count = 8, kept = 4;
  group_score by = group_score::two_greatest;
  constexpr status check(const route_extent& e) const {
    if (count < 1 || count > 32) return {errc::bad_value, "group_top_k.count must be between 1 and 32", count, 32};
    if (kept < 1 || kept > count) return {errc::bad_value, "group_top_k.kept must be between 1 and count", kept, count};
    if (e.experts % count != 0) return {errc::bad_shape, "experts must be a multiple of group_top_k.count: groups are equal", e.experts, count};
    const int width = e.experts / count;
    if (by == group_score::two_greatest && width < 2) return {errc::bad_shape, "groups need two experts for the sum of two keys: take fewer groups or group_score::greatest", width, 2};
    if (e.choices > kept * width) return {errc::bad_value, "choices must be at most the experts of the kept groups: keep more groups", e.choices, kept * width};
    return {};
  }
};

//! Of the k greatest the fewest first whose scores together reach `mass`; the other choices are -1. At least one. With scores that sum
//! to 1: dynamic routing (Huang et al. 2024, arXiv:2403.07652).
struct top_p_experts {
  static constexpr bool groups = false, given = false, stops = true;
  float mass = 0.5f;
  constexpr status check(const route_extent& e) const {
    if (!(mass >= 0 && mass <= 1)) return {errc::bad_value, "top_p_experts.mass must be between 0 and 1"};
    return detail::check_choices(e);
  }
};

//! The same experts for every token: experts[0] to experts[k - 1], different ones. Shared experts; all experts in their order.
struct fixed_experts {
  static constexpr bool groups = false, given = true, stops = false;
  const std::int32_t* experts = nullptr;          //!< null: 0, 1, 2, ...
  int count = 0;                                  //!< entries
  template <class T, class C> SMALTI_HD auto expert(T token, C choice, int) const {
    using namespace scalar;
    const int place = experts == nullptr ? 1 : 0;
    return lookup(experts, choice + token * 0, place ? 0 : count) + (choice + token * 0) * place;
  }
  constexpr status check(const route_extent& e) const {
    if (experts != nullptr && count < e.choices) return {errc::bad_shape, "fixed_experts.count must be at least the choices", count, e.choices};
    return detail::check_choices(e);
  }
};

//! Static routing: token t has the experts experts[t k] to experts[t k + k - 1], -1 for none; adapters of a batch with k = 1.
struct given_experts {
  static constexpr bool groups = false, given = true, stops = false;
  const std::int32_t* experts = nullptr;
  int count = 0;                                  //!< entries: tokens times choices
  template <class T, class C> SMALTI_HD auto expert(T token, C choice, int choices) const {
    using namespace scalar;
    return lookup(experts, token * choices + choice, count);
  }
  constexpr status check(const route_extent& e) const {
    const long long need = static_cast<long long>(e.tokens) * e.choices;
    if (need > 0 && experts == nullptr) return {errc::null_pointer, "given_experts.experts is null: it needs an element for each token and choice"};
    if (count < need) return {errc::bad_shape, "given_experts.count must be at least tokens times choices", count, need};
    return {};
  }
};

}  // namespace smalti::inline SMALTI_DATA::policy
