// Integer keys and values by the definition of their layout, number by number: for tests of what writes and of what reads them.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

namespace oracle {

//! What a storage says of one part of heads of `d` channels.
struct kv_codes {
  int bits = 8, d = 64;
  bool affine = false;
  int tokens = 1, channels = 64;       // that share a scale

  int words() const { return d * bits / 32; }
  int scales() const { return d / channels; }
  int width() const { return scales() * (affine ? 2 : 1); }

  //! Channel c of a row: two neighbours share a word at bits p b and 16 + p b, the first words' worth of pairs at p = 0, the next at 1.
  unsigned code(const std::uint32_t* row, int c) const {
    const int pair = c / 2, word = pair % words(), position = pair / words();
    return row[word] >> (position * bits + 16 * (c % 2)) & ((1u << bits) - 1);
  }
  double exact(unsigned code, double scale, double minimum) const { return affine ? double(code) * scale + minimum : (double(code) - (1 << (bits - 1))) * scale; }
  //! As it is multiplied: one rounding to float, then one to the operand.
  float number(unsigned code, float scale, float minimum) const {
    return affine ? std::fma(float(code), scale, minimum) : (float(code) - float(1 << (bits - 1))) * scale;
  }
};

}  // namespace oracle
