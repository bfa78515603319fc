// Strided memory: what a message is made of when it is not one piece. Any nesting of repetitions becomes one canonical form, and one pack
// and one unpack move it.
//
//     byte(i3, i2, i1, i0) = start + i3 stride[3] + i2 stride[2] + i1 stride[1] + i0,   0 <= i0 < count[0]
//
// The canonical form has as few dimensions as the bytes allow and keeps their order: dense runs grow together, equal steps become
// one dimension, single repetitions go, and none of their offsets is lost. Dimensions are never swapped: that would change the
// order of bytes in a message. Source: Pearson et al. 2021, TEMPI, arXiv:2012.14363 (whose published canonicalizer drops the
// offset of a single repetition).
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <smalti/block/comm/strided.hpp>
#include <smalti/core/status.hpp>
#include <smalti/tile/launch.hpp>

// swept: begin (bench/tune_gpu.py --write; registers, instructions and every shape tried are in strided.json)
// From machine code, nvcc 13.5.37; not timed: not yet run on a GPU. o: occupancy, c: cluster. What is not clean is said.
// agent           sm_80  sm_89  sm_90  sm_100  sm_120  tried
// strided blocks  8x256  8x256  8x256  8x256   8x256   5
// swept: end

namespace smalti::inline SMALTI_CODE::comm {

struct strided_block {
  static constexpr int most_dims = 4;
  std::int64_t start = 0;
  int dims = 1;
  std::int64_t count[most_dims] = {0, 1, 1, 1};   //!< count[0] bytes in one piece
  std::int64_t stride[most_dims] = {1, 0, 0, 0};

  static constexpr strided_block dense(std::int64_t bytes, std::int64_t offset = 0) {
    strided_block b;
    b.start = offset, b.count[0] = bytes;
    return b;
  }
  //! n of these, `step` bytes apart, the first moved by `offset`. Canonical after each step, so that deep nestings of regular types fit.
  //! @return dims beyond most_dims is said by check
  constexpr strided_block repeated(std::int64_t n, std::int64_t step, std::int64_t offset = 0) const {
    strided_block b = *this;
    if (!(mutant(defect::single_repetition_loses_offset) && n == 1)) b.start += offset;
    if (n == 1) return b;
    if (n <= 0 || b.bytes() == 0) {
      b = dense(0, b.start);
      return b;
    }
    const int outer = b.dims - 1;
    if (outer >= most_dims) {                        // too many already: check says so
      ++b.dims;
    } else if (outer == 0 && step == b.count[0]) {          // runs that touch are one
      b.count[0] *= n;
    } else if (outer > 0 && step == b.count[outer] * b.stride[outer]) {   // equal steps go on
      b.count[outer] *= n;
    } else {
      if (b.dims < most_dims) b.count[b.dims] = n, b.stride[b.dims] = step;
      ++b.dims;
    }
    return b;
  }
  //! A box of a matrix (or of more dimensions) in row order: `size` of the box, at `first`, in an array of `extent`; innermost last.
  template <int N> static constexpr strided_block box(const std::int64_t (&extent)[N], const std::int64_t (&first)[N], const std::int64_t (&size)[N], std::int64_t element) {
    strided_block b = dense(element);
    std::int64_t step = element;
    for (int i = N - 1; i >= 0; --i) b = b.repeated(size[i], step, first[i] * step), step *= extent[i];
    return b;
  }

  constexpr std::int64_t bytes() const {
    std::int64_t n = 1;
    for (int i = 0; i < dims && i < most_dims; ++i) n *= count[i];
    return n;
  }
  constexpr status check() const {
    if (dims > most_dims) return {errc::out_of_reach, "strided_block: more than 4 dimensions that do not join: pack the inner ones first", dims, most_dims};
    for (int i = 0; i < dims; ++i)
      if (count[i] < 0) return {errc::bad_shape, "strided_block: a count must not be negative", count[i], 0};
    return {};
  }
  //! Whether no two bytes of it are one: what is unpacked must be written once. Sufficient: each stride clears what is inside it.
  constexpr status check_unpack() const {
    if (const status bad = check(); !bad) return bad;
    std::int64_t extent = count[0];
    for (int i = 1; i < dims; ++i) {
      const std::int64_t step = stride[i] < 0 ? -stride[i] : stride[i];
      if (step < extent) return {errc::aliased, "strided_block: its pieces overlap, or cannot be told apart: they can be packed, not unpacked", step, extent};
      extent += (count[i] - 1) * step;
    }
    return {};
  }
  //! Calls f(offset) for each piece of count[0] bytes, in order.
  template <class F> constexpr void each(F f) const {
    if (bytes() == 0) return;
    for (std::int64_t c = 0; c < (dims > 3 ? count[3] : 1); ++c)
      for (std::int64_t b = 0; b < (dims > 2 ? count[2] : 1); ++b)
        for (std::int64_t a = 0; a < (dims > 1 ? count[1] : 1); ++a) f(start + c * stride[3] + b * stride[2] + a * stride[1]);
  }
  friend constexpr bool operator==(const strided_block&, const strided_block&) = default;
};

//! Tile shapes of packing, on each machine.
struct default_strided_tuning {
  SMALTI_HD constexpr strided_tuning operator()(target t) const { return t == target::host ? strided_tuning{16, 64} : strided_tuning{8, 256}; }
};

//! Packs a strided block into one piece, or unpacks it: host and GPU run one tile program (words of 4 bytes where all sizes, strides and
//! addresses allow, else bytes). On a host context pieces of 64 bytes and more are copied whole instead.
//! @post unpack(pack(x)) = x; bytes between the pieces are not touched
//! @note cost: 2 bytes() of memory traffic. No workspace
struct strided {
  struct args {
    strided_block block;
    std::byte* base = nullptr;         //!< what offsets count from
    std::byte* packed = nullptr;       //!< block.bytes() bytes
  };
  template <class Context> static status check_pack(const Context& context, const args& x) { return check(context, x, true); }
  template <class Context> static status check_unpack(const Context& context, const args& x) { return check(context, x, false); }
  //! packed = the block's bytes, in order.
  template <class Context> static status pack(const Context& context, const args& x) { return move(context, x, true); }
  //! The block's bytes = packed.
  template <class Context> static status unpack(const Context& context, const args& x) { return move(context, x, false); }

  // ---- what a launch names
  template <class Word> struct kernel {
    using arguments = strided_arguments<Word>;
    template <target T> using agent = strided_agent<default_strided_tuning{}(T), Word>;
  };

 private:
  template <class Context> static status check(const Context& context, const args& x, bool packing) {
    static_assert(explain_context<Context>());
    if constexpr (!runs_here<Context>) return {errc::not_initialised, "the context does not work in this file"};
    else if (const status bad = check_context(base_of(context)); !bad) return bad;
    if (const status bad = packing ? x.block.check() : x.block.check_unpack(); !bad) return bad;
    if (x.block.bytes() == 0) return {};
    if (x.base == nullptr) return {errc::null_pointer, "base is null"};
    if (x.packed == nullptr) return {errc::null_pointer, "packed is null"};
    std::int64_t low = x.block.start, high = x.block.start + x.block.count[0];
    for (int i = 1; i < x.block.dims; ++i) {
      const std::int64_t reach = (x.block.count[i] - 1) * x.block.stride[i];
      (reach < 0 ? low : high) += reach;
    }
    if (x.packed < x.base + high && x.base + low < x.packed + x.block.bytes()) return {errc::aliased, "packed overlaps the block: they need arrays of their own"};
    const std::int64_t step = x.block.dims > 1 ? x.block.stride[1] : 0, outer = (x.block.dims > 2 ? x.block.count[2] : 1) * (x.block.dims > 3 ? x.block.count[3] : 1);
    if (x.block.count[0] > 2147483647 || (x.block.dims > 1 && x.block.count[1] > 2147483647) || step > 2147483647 || step < -2147483647)
      return {errc::out_of_reach, "strided_block: pieces, rows and their stride must be below 2^31 bytes: cut the block", x.block.count[0], 2147483647};
    if (!is_host<Context> && outer > 65535) return {errc::out_of_reach, "strided_block: at most 65,535 outer repetitions on a GPU: cut the block", outer, 65535};
    return {};
  }
  template <class Context> static status move(const Context& context, const args& x, bool packing) {
    if (const status bad = check(context, x, packing); !bad) return bad;
    if (x.block.bytes() == 0) return {};
    if constexpr (runs_here<Context>) {
      const auto address = reinterpret_cast<std::uintptr_t>(x.base + x.block.start) | reinterpret_cast<std::uintptr_t>(x.packed);
      std::int64_t sizes = x.block.count[0];
      for (int i = 1; i < x.block.dims; ++i) sizes |= x.block.stride[i];
      if constexpr (is_host<Context>)
        if (x.block.count[0] >= 64) {
          std::byte* at = x.packed;
          x.block.each([&](std::int64_t offset) {
            if (packing) std::memcpy(at, x.base + offset, std::size_t(x.block.count[0]));
            else std::memcpy(x.base + offset, at, std::size_t(x.block.count[0]));
            at += x.block.count[0];
          });
          return {};
        }
      return address % 4 == 0 && sizes % 4 == 0 ? start<int>(context, x, packing) : start<unsigned char>(context, x, packing);
    } else {
      return {};
    }
  }
  template <class Word, class Context> static status start(const Context& context, const args& x, bool packing) {
    const strided_block& b = x.block;
    constexpr std::int64_t w = sizeof(Word);
    Word *apart = reinterpret_cast<Word*>(x.base + b.start), *together = reinterpret_cast<Word*>(x.packed);
    return launch<kernel<Word>>(base_of(context), {packing ? apart : together, packing ? together : apart, int(b.dims > 1 ? b.count[1] : 1), int(b.count[0] / w), int(b.dims > 2 ? b.count[2] : 1),
                                                   int(b.dims > 3 ? b.count[3] : 1), int(b.dims > 1 ? b.stride[1] / w : b.count[0] / w), b.dims > 2 ? b.stride[2] / w : 0, b.dims > 3 ? b.stride[3] / w : 0, packing});
  }
};

}  // namespace smalti::inline SMALTI_CODE::comm
