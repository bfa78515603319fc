// How grouped rows lie (policy/route_index.hpp), in which order slots are counted, and which are dropped: numbers of a call, no types.
#pragma once
#include <cstdint>
#include <smalti/core/status.hpp>
#include <smalti/core/view.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! Where the rows of each expert begin. Rows that buffers need: limit().
struct row_layout {
  int alignment = 1;                 //!< each expert begins at a multiple of it
  int rows_per_expert = 0;           //!< not 0: expert e begins at e rows_per_expert, whatever the counts are
  static constexpr row_layout indirect_ragged() { return {}; }
  static constexpr row_layout compact() { return {}; }
  static constexpr row_layout aligned(int rows) { return {rows, 0}; }
  static constexpr row_layout masked(int rows) { return {1, rows}; }
  static constexpr row_layout k_grouped(int rows = 1) { return {rows, 0}; }

  //! At most so many rows, padding included, for `slots` slots of `experts` experts: what a caller without counts must have.
  constexpr long long limit(long long slots, int experts) const {
    if (rows_per_expert != 0) return static_cast<long long>(experts) * rows_per_expert;
    return slots + (slots < experts ? slots : experts) * (alignment - 1);      // experts without rows have no padding
  }
  constexpr status check() const {
    if (alignment < 1) return {errc::bad_value, "layout.alignment must be at least 1", alignment, 1};
    if (rows_per_expert < 0) return {errc::bad_value, "layout.rows_per_expert must not be negative", rows_per_expert, 0};
    if (rows_per_expert != 0 && alignment != 1) return {errc::bad_value, "layout: rows are masked or aligned: choose rows_per_expert as a multiple of the alignment and leave it 1", alignment, 1};
    return {};
  }
};

//! Which slots an expert counts first. It is the order of its rows, and under a capacity decides who is dropped.
enum class slot_order : std::uint8_t {
  token,             //!< slot numbers: token 0's choices, token 1's, ... (MegaBlocks, ScatterMoE)
  choice,            //!< all first choices by token, then all second ones (Tutel, GShard)
  prioritized        //!< as choice, tokens in an order that is given: by falling importance (Tutel; Riquelme et al., arXiv:2106.05974)
};

//! How many slots an expert keeps. A dropped slot has no row, adds exactly 0, and its weight goes to nobody.
struct expert_capacity {
  enum class kind : std::uint8_t {
    dropless,        //!< all
    fixed,           //!< slots
    most,            //!< as many as the fullest expert needs: drops none, and tells how many (for masked rows)
    capped           //!< as `most`, but at most slots
  };
  kind how = kind::dropless;
  int slots = 0;
  static constexpr expert_capacity dropless() { return {}; }
  static constexpr expert_capacity fixed(int slots) { return {kind::fixed, slots}; }
  static constexpr expert_capacity max_needed() { return {kind::most, 0}; }
  static constexpr expert_capacity capped(int slots) { return {kind::capped, slots}; }
  //! Tutel's: choices * floor(factor * ceil(tokens / experts)), `tokens` the most of any rank; rounded up to `alignment`.
  static constexpr int tutel(double factor, int tokens, int experts, int choices, int alignment = 1) {
    const long long each = static_cast<long long>(factor * ceil_div(tokens, experts));
    return static_cast<int>(ceil_div(choices * each, static_cast<long long>(alignment)) * alignment);
  }
  //! MegaBlocks': floor(factor * choices * tokens / experts).
  static constexpr int mega_blocks(double factor, int tokens, int experts, int choices) {
    return static_cast<int>(factor * choices * tokens / experts);
  }
  //! The most slots that one expert can keep, whatever the routing: a token takes an expert once.
  constexpr int bound(int tokens) const {
    return how == kind::dropless || how == kind::most || slots > tokens ? tokens : slots;
  }
  //! What an expert keeps of its slots, at most. That an adaptive capacity is what the fullest needs drops none.
  constexpr int kept_at_most() const { return how == kind::dropless || how == kind::most ? 2147483647 : slots; }
  constexpr status check() const {
    if (slots < 0) return {errc::bad_value, "capacity.slots must not be negative", slots, 0};
    if ((how == kind::dropless || how == kind::most) && slots != 0) return {errc::bad_value, "capacity.slots has no meaning without a fixed or capped capacity: leave it 0", slots, 0};
    return {};
  }
};

}  // namespace smalti::inline SMALTI_DATA::policy
