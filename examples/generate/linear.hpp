// A linear layer whose weights are stored in some format. Each format is a translation unit of its own.
#pragma once
#include <cstddef>
#include <memory>
#include <string>
#include <vector>
#include <smalti/core/float.hpp>
#include "machine.hpp"
#include "settings.hpp"
#include "weights.hpp"

namespace generate::inline GENERATE_MACHINE {

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
  virtual std::size_t bytes() const = 0;          //!< held
  virtual std::size_t needed() const = 0;         //!< of codes and what belongs to their groups: what a product must read, without any padding
};

enum class form { plain, pairs };     //!< pairs: gated() is what will be asked, nothing else

//! The rows of a matrix in bf16, in the machine's memory, rounding to nearest even what is finer.
buffer<smalti::bf16> bf16_rows(const matrix& m);

//! The format of settings.weights; refuses unknown ones by naming the known ones. native: as the file has it.
std::unique_ptr<linear> make_linear(const linear_settings& s, const matrix& w, form f = form::plain);
//! Every format that can be asked for, native first.
const std::vector<std::string>& weight_formats();

// One translation unit each. `native`: the file's own codes are kept, else the numbers are quantized.
using maker = std::unique_ptr<linear>(const matrix& w, form f, bool native, bool int8_activations);
maker make_bf16, make_int8, make_int6, make_int4, make_int3, make_nf4, make_mxfp4, make_fp8, make_q4_0, make_q4_1, make_q8_0;

}  // namespace generate::inline GENERATE_MACHINE
