// A linear layer whose weights are stored in some format. Each format is a translation unit of its own.
#pragma once
#include <cstddef>
#include <memory>
#include <string>
#include <smalti/core/float.hpp>
#include "machine.hpp"
#include "weights.hpp"

namespace generate {

//! y = x W', in the four forms that a transformer uses.
struct linear {
  virtual ~linear() = default;
  //! y, rounded to bf16.
  virtual void project(const machine&, smalti::view<const smalti::bf16> x, smalti::view<smalti::bf16> y, scratch&) const = 0;
  //! stream += y, in float.
  virtual void add_to(const machine&, smalti::view<const smalti::bf16> x, smalti::view<float> stream, scratch&) const = 0;
  //! y = silu(x G') * (x U'), where W holds the rows of G and then those of U.
  virtual void gated(const machine&, smalti::view<const smalti::bf16> x, smalti::view<smalti::bf16> y, scratch&) const = 0;
  //! y in float.
  virtual void logits(const machine&, smalti::view<const smalti::bf16> x, smalti::view<float> y, scratch&) const = 0;
  virtual std::size_t bytes() const = 0;
};

//! The rows of a matrix in bf16, in the machine's memory, rounding to nearest even what is finer.
buffer<smalti::bf16> bf16_rows(const matrix& m);

//! Weights in bf16, rounding to nearest even what is finer.
std::unique_ptr<linear> make_bf16(const matrix& w);

//! The format of that name; refuses unknown ones by naming the known ones.
std::unique_ptr<linear> make_linear(const std::string& format, const matrix& w);

}  // namespace generate
