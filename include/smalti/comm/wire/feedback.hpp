// Error feedback: what a rank's message lost is added to its next one, so that over many operations on one vector the errors do
// not add up: after t operations the sum of what was sent is off by one operation's error, not by t of them.
//
// Source: Seide et al. 2014 (1-bit SGD); Karimireddy et al. 2019, arXiv:1901.09847.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <smalti/comm/wire.hpp>
#include <smalti/core/float.hpp>
#include <smalti/core/status.hpp>

namespace smalti::inline SMALTI_CODE::comm {

//! W with a residual for each element of the vector: `inputs` of what this rank contributes, `results` of the sums that it finishes as their
//! owner. Memory of the caller's, all zeros at first, kept from call to call of one vector; null: no feedback there.
//!     sent = encode(x + residual),   residual = x + residual - decode(sent)
//! @pre  a rank sends each chunk of its input to one rank: direct, halving_doubling and ring all_reduce, reduce_scatter and all_gather do
//! @note partial sums of rings have no feedback: they are of other ranks' inputs too
//! @note a NaN or an infinity leaves the residual of its block as it was
template <class W> struct feedback_wire {
  static constexpr bool plain = false, exact = false, elementwise = W::elementwise, own_trip = true;
  static_assert(!W::plain && !W::exact, "smalti: error feedback is for a wire that loses something");
  W inner{};
  float *inputs = nullptr, *results = nullptr;

  constexpr std::uint32_t code() const { return inner.code() | 1u << 31; }
  constexpr std::int64_t items_together() const { return inner.items_together(); }
  constexpr std::int64_t bytes(content what, std::int64_t n) const { return inner.bytes(what, n); }
  template <class X> void encode(content what, std::int64_t first, const X* x, std::int64_t n, std::byte* to) const {
    float* residual = what == content::input ? inputs : what == content::result ? results : nullptr;
    if (residual == nullptr) return inner.encode(what, first, x, n, to);
    const int width = inner.width;
    residual += first * width;
    for (std::int64_t i = 0, k; i < n; i += k) {
      k = items_at_once() < n - i ? items_at_once() : n - i;
      encode_some(what, first + i, x + i * width, k, to, residual + i * width, width);
      to += inner.bytes(what, k);
    }
  }
  template <class X> void decode(content what, std::int64_t first, const std::byte* from, std::int64_t n, X* y) const { inner.decode(what, first, from, n, y); }

  //! What the executor refuses before a call.
  constexpr status check() const {
    if (items_at_once() * inner.width > most) return {errc::out_of_reach, "feedback_wire: an item, or a block of items, has more than 2048 elements: send shorter items", items_at_once() * inner.width, most};
    return {};
  }

 private:
  static constexpr int most = 2048;
  static_assert(W::group <= most, "smalti: feedback_wire holds blocks of at most 2048 elements");
  // Whole blocks: their bytes follow one another as those of the whole run do.
  constexpr std::int64_t items_at_once() const {
    if (W::group == 0 || inner.tail > 0) return 1;
    if (W::group == 1) return inner.width < most ? most / inner.width : 1;
    return inner.width == 1 ? most / W::group * W::group : W::group;
  }
  template <class X> void encode_some(content what, std::int64_t first, const X* x, std::int64_t n, std::byte* to, float* residual, int width) const {
    float sum[most]{}, back[most];
    const int count = int(n * width);
    for (int i = 0; i < count; ++i) sum[i] = to_float(x[i]) + residual[i];
    inner.encode(what, first, sum, n, to);
    inner.decode(what, first, to, n, back);
    for (int i = 0; i < count; ++i) {
      const float lost = sum[i] - back[i];
      residual[i] = (float_bits(lost) & 0x7f800000u) != 0x7f800000u ? lost : residual[i];
    }
  }
};

}  // namespace smalti::inline SMALTI_CODE::comm
