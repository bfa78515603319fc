// Where the codes of a weight lie: planes of 32-bit words, one formula for every width and every machine. The packer
// writes what this object says and the upcast reads it, so the two cannot disagree; a static_assert proves that no
// two codes share a bit and that no bit is left out.
#pragma once
#include <cstdint>
#include <smalti/core/version.hpp>
#include <smalti/core/view.hpp>

namespace smalti::inline SMALTI_DATA::policy {

//! Who will read packed weights. One packing for each serves every number of tokens.
enum class machine_family : int {
  gpu,            //!< pairs (bits 0 and 16 of a word), which two instructions turn into two 16-bit operands
  host,           //!< quads of bytes, for the 8-bit dot and for pairs of bf16, in panels of columns
  block_scaled    //!< codes side by side in their natural order: what a block-scaled product reads undecoded
};

//! One code's place in one part: 32-bit word `word` of its column, bits [bit, bit + width).
struct code_place {
  int word, bit;
  constexpr bool operator==(const code_place&) const = default;
};

//! N x K codes of Bits bits. A code is cut into parts of 8, 4, 2 and 1 bits (6 = 4 + 2, 7 = 4 + 2 + 1, 5 = 4 + 1,
//! 3 = 2 + 1); part 0 is the widest and holds the LOWEST bits of the code. Each part of width w is a plane of words:
//!
//!     positions(w) = 32 / Run / w          depth-tiles that share the words of a word tile
//!     depth = Run * Words                  codes along k of one operand
//!     t = k / depth, r = k % depth
//!     word = (t / positions(w)) * Words + r / Run
//!     bit  = (r % Run) * (32 / Run) + w * (t % positions(w))
//!
//! so that depth-tile t of every part is word tile t / positions(w) at position t % positions(w): parts meet in one
//! operand by two shifts and an `or`.
//!
//! @tparam Run    consecutive codes of a word at one position, 32 / Run bits apart
//! @tparam Words  words of a column in one word tile
template <int Bits, int Run, int Words>
struct word_planes {
  static_assert(Bits >= 1 && Bits <= 8, "smalti: a weight's code has 1 to 8 bits");
  static_assert(Run >= 1 && 32 % Run == 0, "smalti: Run codes share a word at one position: choose a power of two up to 32");
  static_assert(Words >= 1, "smalti: a word tile holds at least one word of each column");

  static constexpr int bits = Bits, run = Run, words = Words;
  static constexpr int lane = 32 / Run;                 //!< bits between the codes of a run
  static constexpr int depth = Run * Words;
  static constexpr int parts = (Bits >> 3 & 1) + (Bits >> 2 & 1) + (Bits >> 1 & 1) + (Bits & 1);

  //! Bits of part p; p = 0 is the widest.
  SMALTI_HD static constexpr int width(int part) {
    int left = Bits;
    for (int w = 8;; w /= 2)
      if ((left & w) != 0 && part-- == 0) return w;
  }
  //! The bit of the code that is bit 0 of part p.
  SMALTI_HD static constexpr int shift(int part) {
    int sum = 0;
    for (int p = 0; p < part; ++p) sum += width(p);
    return sum;
  }
  static_assert((Bits & 8 ? 8 : Bits & 4 ? 4 : Bits & 2 ? 2 : 1) <= 32 / Run, "smalti: a part is wider than the space between the codes of a run: use a smaller Run");

  SMALTI_HD static constexpr int positions(int part) { return lane / width(part); }
  static constexpr int narrowest = Bits & -Bits;
  static constexpr int step = depth * (lane / narrowest);   //!< K is padded to a multiple of this

  SMALTI_HD static constexpr int padded_k(int k) { return ceil_div(k, step) * step; }
  //! 32-bit words of one column of part p.
  SMALTI_HD static constexpr int words_of(int k, int part) { return static_cast<int>(static_cast<long long>(padded_k(k)) * width(part) / 32); }
  //! Those of them that hold codes of the first k. A last word tile of which only the first depth-tile is in use ends with the
  //! codes, in steps of eight words, which readers take together.
  SMALTI_HD static constexpr int used_words(int k, int part) {
    const int span = depth * positions(part), rest = k % span, some = ceil_div(rest, 8 * Run) * 8;
    return k / span * Words + (rest >= depth || some > Words ? Words : some);
  }
  //! Operands along k.
  SMALTI_HD static constexpr int tiles(int k) { return ceil_div(k, depth); }
  SMALTI_HD static constexpr int word_tile(int tile, int part) { return tile / positions(part); }
  SMALTI_HD static constexpr int position(int tile, int part) { return tile % positions(part); }

  SMALTI_HD static constexpr code_place place(int k, int part) {
    const int t = k / depth, r = k % depth;
    return {word_tile(t, part) * Words + r / Run, (r % Run) * lane + width(part) * position(t, part)};
  }
  //! The k whose code lies at a place: the inverse of place.
  SMALTI_HD static constexpr int code_at(code_place at, int part) {
    const int t = at.word / Words * positions(part) + at.bit % lane / width(part);
    return t * depth + at.word % Words * Run + at.bit / lane;
  }

  //! Every bit of a column's words belongs to exactly one code, and code_at undoes place; over one period of both.
  static constexpr bool is_bijection() {
    for (int p = 0; p < parts; ++p) {
      for (int k = 0; k < 2 * step; ++k) {
        const code_place at = place(k, p);
        if (at.word < 0 || at.word >= words_of(2 * step, p) || at.bit < 0 || at.bit + width(p) > 32) return false;
        if (at.bit % width(p) != 0 || code_at(at, p) != k) return false;   // so places differ, and no two overlap
      }
      if (2LL * step * width(p) != 32LL * words_of(2 * step, p)) return false;   // as many bits as there are: none is left out
    }
    return shift(parts - 1) + width(parts - 1) == Bits;
  }
};

namespace detail {
template <int Bits, machine_family Family> constexpr int run_of = Family == machine_family::gpu ? 2 : Family == machine_family::host ? 4 : 32 / Bits;
}  // namespace detail

//! The planes of one machine family and the order of its columns: what is packed and what agents load.
//!
//! gpu, block_scaled: part p is a row-major matrix of N rows, words_of(k, p) words each. host: panels of `Columns`
//! columns, each [word][column]; N is padded to Columns, and words past the last code are left out.
//!
//! @tparam Depth  codes along k of one operand. Where scales enter the operand it divides the group on a GPU (32, or
//!                16 for groups of 16); the host may take several groups (128). block_scaled: 32 / Bits always
template <int Bits, machine_family Family, int Depth, int Columns = 64>
struct weight_layout : word_planes<Bits, detail::run_of<Bits, Family>, Depth / detail::run_of<Bits, Family>> {
  using planes = word_planes<Bits, detail::run_of<Bits, Family>, Depth / detail::run_of<Bits, Family>>;
  static constexpr machine_family family = Family;
  static constexpr bool panels = Family == machine_family::host;
  static constexpr int columns = panels ? Columns : 1;
  static_assert(Depth >= 1 && Depth % detail::run_of<Bits, Family> == 0, "smalti: Depth is a multiple of the codes of a run: 2 on a GPU, 4 on the host");
  static_assert(Family != machine_family::block_scaled || ((Bits == 4 || Bits == 8) && Depth == 32 / Bits),
                "smalti: block-scaled products read codes of 4 or 8 bits in natural order: Depth is 32 / Bits");
  static_assert(planes::is_bijection(), "smalti: two codes share a bit, or a bit belongs to none");

  //! 32-bit words of one column of part p, as stored.
  SMALTI_HD static constexpr int words_of(int k, int part) { return columns > 1 ? planes::used_words(k, part) : planes::words_of(k, part); }
  SMALTI_HD static constexpr int padded_n(int n) { return ceil_div(n, columns) * columns; }
  //! 32-bit words of part p of an N x K weight.
  SMALTI_HD static constexpr long long size(int n, int k, int part) { return static_cast<long long>(padded_n(n)) * words_of(k, part); }
  //! Where word `word` of column n lies; `words` are those of one column, words_of(k, part).
  SMALTI_HD static constexpr long long index(int n, int word, int words) {
    return (static_cast<long long>(n / columns) * words + word) * columns + n % columns;
  }
};

template <int Bits, int Depth = 32> using gpu_layout = weight_layout<Bits, machine_family::gpu, Depth>;
template <int Bits, int Depth = 128, int Columns = 64> using host_layout = weight_layout<Bits, machine_family::host, Depth, Columns>;
template <int Bits> using block_scaled_layout = weight_layout<Bits, machine_family::block_scaled, 32 / Bits>;

}  // namespace smalti::inline SMALTI_DATA::policy
