// Attention that turns keys when it reads them: attention::flash<T, D, rotated_kv<Kv, Position, Pairs>>, whatever source Kv is.
// docs/ops/attention/rotate_on_read.md.
#pragma once
#include <type_traits>
#include <smalti/block/attention/kv_rotated.hpp>
#include <smalti/ops/attention.hpp>
#include <smalti/ops/attention/check.hpp>

namespace smalti::inline SMALTI_CODE::attention {

template <int D, int ValueDim, class Kv, class Position, class Pairs> status check_kv(const rotated_kv<Kv, Position, Pairs>& x, bool readable) {
  static_assert(D % 32 == 0, "smalti: keys that are turned when they are read have head dims of whole packs of pairs: multiples of 32, on a GPU powers of two up to 256");
  if (const status bad = check_kv<D, ValueDim>(x.kv, readable); !bad) return bad;
  if (kv_sequences(x.kv) == 0 || x.heads() == 0) return {};
  if (x.frequencies == nullptr) return {errc::null_pointer, "kv.frequencies is null: policy::fill_frequencies writes 4 x D / 2", 0, 2 * D};
  if (!(x.scale > 0 && x.scale <= 3e38f)) return {errc::bad_value, "kv.scale must be positive and finite: it multiplies cosine and sine"};
  if (x.longest() >= policy::position_reach) return {errc::out_of_reach, "kv: positions are exact below 2^24 keys", x.longest(), policy::position_reach};
  if constexpr (rotated_kv<Kv, Position, Pairs>::placed) {
    if (x.places == nullptr) return {errc::null_pointer, "kv.places is null: keys stored turned need the places they are turned for", 0, x.longest()};
    if (x.places_stride < 0 || x.places_head_stride < 0) return {errc::bad_value, "kv: places_stride and places_head_stride must not be negative", x.places_stride < 0 ? x.places_stride : x.places_head_stride, 0};
  } else if (x.places != nullptr) {
    return {errc::bad_value, "kv.places: keys stored plain count by their slots: leave it null, or take a position policy of keys stored turned"};
  }
  return {};
}
template <class Kv, class Position, class Pairs> int kv_sequences(const rotated_kv<Kv, Position, Pairs>& x) { return kv_sequences(x.kv); }
template <class Kv, class Position, class Pairs> bool overlaps(const rotated_kv<Kv, Position, Pairs>& x, byte_range o, bool readable) { return overlaps(x.kv, o, readable); }

}  // namespace smalti::inline SMALTI_CODE::attention
