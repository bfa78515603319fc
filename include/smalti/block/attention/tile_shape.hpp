// Shapes of attention's tiles: what a tuning chooses, and what becomes of it where blocks of a list are consumed.
#pragma once
#include <smalti/core/version.hpp>

namespace smalti::inline SMALTI_CODE::attention {

//! Tile shape and launch hints of one kernel. `strips`: a block makes so many tiles of m rows, each tile of keys for all of
//! them before the next (the host: keys then come from the near cache; 1 on a GPU). `chunk`: the widest piece of a head's
//! elements, 0 for one piece of any width (the host). `value`: the most columns of values one block makes; more are split
//! over blocks. `keys_left` computes S' = K Q' and turns it: for few rows, where the left operand is the one that streams
//! from memory. `joined` (the host): blocks of a list that are narrower than n share tiles of n keys where no mask cuts them.
struct attention_tuning {
  int m, n;
  int chunk = 256, value = 256;
  bool keys_left = false;
  int strips = 1;
  int occupancy = 1, cluster = 1;
  bool joined = false;
  constexpr bool operator==(const attention_tuning&) const = default;
};

//! The tuning with which lists of blocks are consumed: a tile of keys lies within a block of the list, and the rows of one
//! block of the grid share a list.
template <class Blocks> SMALTI_HD constexpr attention_tuning fitted(attention_tuning t, bool grouped) {
  if constexpr (Blocks::listed) {
    if (t.n > Blocks::width) t.n = Blocks::width;
    if (!grouped && t.m > Blocks::height) t.m = Blocks::height;
    if (!grouped && t.m * t.strips != Blocks::height) t.strips = t.strips == 1 ? 1 : Blocks::height / t.m;
  }
  return t;
}
//! Query rows (of all heads of a group) of one block of the grid.
template <class Blocks> SMALTI_HD constexpr int rows_of_block(const attention_tuning& t, bool grouped, int group) {
  if constexpr (Blocks::listed) {
    if (grouped) return Blocks::height * group;
  }
  return t.m * t.strips;
}

}  // namespace smalti::inline SMALTI_CODE::attention
