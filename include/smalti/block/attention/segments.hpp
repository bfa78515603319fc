// Keys of one sequence in several memories: each a segment with its own source, its own mask and its own form of the queries.
#pragma once
#include <type_traits>
#include <smalti/core/view.hpp>
#include <smalti/policy/mask.hpp>
#include <smalti/tile/grid.hpp>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::attention {

// ---- what a segment does to the queries before its keys meet them

//! Nothing.
struct same_queries {};
//! They are turned: keys of a segment carry positions that begin at an origin of their own, and the query at p meets them as the
//! query at p - origin (<R(p) q, R(origin + j) k> = <R(p - origin) q, R(j) k>). q is then not rotated before.
struct turned_queries {
  const int* positions = nullptr;        //!< [sequence * rows + row]: p - origin, in the context's memory
  const float* frequencies = nullptr;    //!< 4 x D / 2: policy::fill_frequencies
  float attention_scale = 1;             //!< policy::rotary::scaling.attention_scale()
};
//! Each channel is multiplied: keys of the segment were divided by the same (MiKV's channel balancer). [query head][D].
struct scaled_queries {
  const float* factor = nullptr;
};

//! One segment. Mask: of queries and the segment's own keys, counted from 0; policy::causal in the segment that ends with the
//! newest keys, at least as many as there are queries.
template <class Kv, class Mask = policy::full, class Queries = same_queries>
struct segment {
  using source = Kv;
  using mask_type = Mask;
  using queries_type = Queries;
  Kv kv = {};
  Mask mask = {};
  Queries queries = {};
};

//! Keys from one source, values from another, of equal lengths: codes beside numbers, say.
template <class Keys, class Values>
struct paired_head {
  Keys k;
  Values v;
  float k_scale, v_scale;
  SMALTI_HD constexpr int length() const { return k.length(); }
  template <bool Clamped, int D, class Block, class Right> SMALTI_HD void load_key(Block& block, Right& t, int c, int j) const { k.template load_key<Clamped, D>(block, t, c, j); }
  template <bool Clamped, int D, class Block, class Left> SMALTI_HD void load_key_rows(Block& block, Left& t, int c, int j) const { k.template load_key_rows<Clamped, D>(block, t, c, j); }
  template <bool Clamped, int D, class Block, class Right> SMALTI_HD void load_value(Block& block, Right& t, int c, int j) const { v.template load_value<Clamped, D>(block, t, c, j); }
};
template <class Keys, class Values>
struct paired_kv {
  using storage = void;                  // panels are not kept: the halves may be codes
  Keys keys;                             //!< its values are not looked at
  Values values;                         //!< its keys are not looked at
  constexpr int heads() const { return keys.heads(); }
  constexpr int longest() const { return keys.longest(); }
  template <bool Ragged = true> SMALTI_HD constexpr auto at(int sequence, int head) const {
    const auto k = keys.template at<true>(sequence, head);
    const auto v = values.template at<true>(sequence, head);
    return paired_head<std::remove_const_t<decltype(k)>, std::remove_const_t<decltype(v)>>{k, v, k.k_scale, v.v_scale};
  }
};

// ---- queries times a factor for each channel of each head

struct scale_queries_tuning {
  int m, c;
  int occupancy = 1, cluster = 1;
  constexpr bool operator==(const scale_queries_tuning&) const = default;
};
template <class T> struct scale_queries_problem {
  struct arguments {
    view<const T> x;                     //!< tokens x heads * D
    view<T> y;
    const float* factor;                 //!< one for each column
  };
};
template <scale_queries_tuning Tuning, class Problem>
struct scale_queries_agent {
  using arguments = typename Problem::arguments;
  static constexpr int m = Tuning.m, c = Tuning.c, occupancy = Tuning.occupancy, cluster = Tuning.cluster;
  arguments a;
  static constexpr grid blocks(const arguments& a) { return {ceil_div(a.x.rows, m), ceil_div(a.x.cols, c), 1}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    tile<Block, float, m, c> t;
    block.load(t, a.x, block.x(), block.y());
    block.map([factor = a.factor, cols = a.x.cols, first = block.y() * c](auto v, auto e) { return v * lookup(factor, e + first, cols); }, t, t, column_index{});
    block.store(a.y, block.x(), block.y(), t);
  }
};

}  // namespace smalti::inline SMALTI_CODE::attention
