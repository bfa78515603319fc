// Quantization of activations while a model runs, and the block Hadamard transform: see tokens and hadamard below. Weights are
// quantized once, on the host: policy/quantizer.hpp. docs/ops/quantize.md has the formats and their errors.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <smalti/block/quantize/hadamard.hpp>
#include <smalti/block/quantize/tokens.hpp>
#include <smalti/core/check_view.hpp>
#include <smalti/core/determinism.hpp>
#include <smalti/core/explain_context.hpp>
#include <smalti/core/float.hpp>
#include <smalti/core/packed.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/view.hpp>
#include <smalti/core/workspace.hpp>
#include <smalti/ops/quantize/tuning.hpp>
#include <smalti/policy/token_format.hpp>
#include <smalti/tile/launch.hpp>
#include <smalti/tile/mutant.hpp>

namespace smalti::inline SMALTI_CODE::quantize {

//! What quantization may be told besides its types. Derive, and change what you need:
//!     struct with_sums : quantize::options { static constexpr int sum_group = 32; };
struct options {
  static constexpr int sum_group = 0;          //!< columns of each sum of decoded codes, for weights with minima or zero points; 0: none
  static constexpr bool any_width = false;     //!< the slow path: any address, width and stride
};

namespace detail {
template <class T> constexpr bool is_activation = std::is_same_v<T, bf16> || std::is_same_v<T, fp16> || std::is_same_v<T, float>;
constexpr bool is_extent(int n) { return n >= 16 && n <= 256 && (n & (n - 1)) == 0; }
}  // namespace detail

//! codes[i, j] = round(x[i, j] / scale of the group of (i, j)), the scale from the group's largest magnitude, as Format says:
//!     policy::int8_tokens<Group>   one float for Group columns (0: for the row)
//!     policy::fp8_tokens<128>      DeepSeek-V3's: one float for 128 columns
//!     policy::mxfp8_tokens<>       one e8m0 for 32 columns
//!     policy::mxfp4_tokens<>       the same, two codes of e2m1 a byte: codes are rows x cols / 2; x is bf16
//!     policy::nvfp4_tokens         one e4m3 for 16 columns, under the tensor's scale, amax / 2688, that args.tensor points at
//!
//! @tparam X   bf16, fp16 or float
//! @pre   rows are contiguous; without any_width: addresses and strides are multiples of 16 bytes, and so are the widths of x
//!        and codes; nothing overlaps
//! @post  the same bits on every machine with a fused multiply-add, for every order of blocks; a row's bits do not depend on the
//!        others. A NaN or an infinity makes the scale of its group NaN or infinite (e8m0: 255), and nothing else
//! @note  cost: a read of x (a second one, from the cache, where the group is the row) and a write of the codes. No workspace
//! @note  error: half the gap between neighbouring codes times the scale; see policy/token_format.hpp
template <class X, class Format, class Options = options>
struct tokens {
  static_assert(detail::is_activation<X>, "smalti: activations are bf16, fp16 or float: convert x");
  static_assert(policy::explain_token_format<Format>());
  static_assert(Options::sum_group == 0 || detail::is_extent(Options::sum_group), "smalti: sum_group is a power of two from 16 to 256, or 0 for no sums");
  static_assert(Options::sum_group == 0 || Format::group == 0 || Format::group == Options::sum_group,
                "smalti: sums are taken over the groups of the format: give sum_group the format's group, or quantize whole rows");
  static constexpr determinism level = determinism::run_to_run;

  using code = typename Format::code;
  static constexpr bool in_pairs = codes_in<code> == 2;
  static_assert(!in_pairs || (std::is_same_v<X, bf16> && Options::sum_group == 0 && !Options::any_width), "smalti: activations of two codes a byte are made of bf16 with whole 16 bytes, without sums: convert x, pad it");
  using problem = std::conditional_t<in_pairs, pairs_problem<Format>, tokens_problem<X, Format, Options::sum_group, !Options::any_width>>;
  using scale = typename problem::scale;
  static constexpr bool by_row = Format::group == 0, float_scale = std::is_same_v<typename Format::scale, float>;
  static constexpr bool has_tensor = [] {
    if constexpr (in_pairs) return Format::has_tensor;
    else return false;
  }();
  template <class T> static constexpr int step = Options::any_width ? 1 : step_of<T>;

  struct args {
    view<const X, step<X>> x;             //!< rows x cols
    view<code, step<code>> codes;         //!< rows x cols; pairs: rows x cols / 2
    view<scale, 1> scales;                //!< floats: groups x rows, as products read them; e8m0 and e4m3: rows x groups, or more columns: those get scales of zeros
    view<float, 1> sums = {};             //!< ceil(cols / sum_group) x rows, with options::sum_group
    const float* tensor = nullptr;        //!< nvfp4_tokens: one float, above zero, where the work runs
  };

  //! Arguments whose results lie in memory of a carver: codes in rows of whole 64 bytes, scales and sums as products read them. Formats of float scales.
  static args place(const view<const X, step<X>>& x, carver& carve) {
    static_assert(float_scale && !in_pairs, "smalti: place() is for formats with float scales: lay the arrays of the others out yourself");
    const int high = groups(x.cols), wide = round_up(x.cols, 64);
    args a{.x = x, .codes = {carve.take<code>(std::size_t(x.rows) * std::size_t(wide)), x.rows, x.cols, wide}, .scales = {carve.take<float>(std::size_t(high) * std::size_t(x.rows)), high, x.rows, x.rows}};
    if constexpr (Options::sum_group != 0) {
      const int sums = ceil_div(x.cols, Options::sum_group);
      a.sums = {carve.take<float>(std::size_t(sums) * std::size_t(x.rows)), sums, x.rows, x.rows};
    }
    return a;
  }

  //! Groups of a row; an empty one has none.
  static constexpr int groups(int cols) { return by_row ? int(cols > 0) : ceil_div(cols, by_row ? 1 : Format::group); }

  //! Everything that can be said before a launch. Reads no data.
  template <class Context> static status check(const Context& context, const args& a) {
    static_assert(explain_context<Context>());
    return first_of([&] { return check_context(context); }, [&] { return check_view<"x">(a.x); }, [&] { return check_view<"codes">(a.codes); },
                    [&] { return check_view<"scales">(a.scales); }, [&] { return check_view<"sums">(a.sums); }, [&] { return check_extents(a); }, [&] { return check_overlap(a); });
  }

  //! None is needed.
  template <class Context> static std::size_t workspace_bytes(const Context&, const args&) {
    static_assert(explain_context<Context>());
    return 0;
  }

  //! Starts the quantization on the context; on the host it is done on return.
  template <class Context> static status run(const Context& context, const args& a, workspace = {}) {
    static_assert(explain_context<Context>());
    if (const status bad = check(context, a); !bad) return bad;
    if (a.x.rows == 0 || a.x.cols == 0) return {};
    using selector = typename selector_of<Context, tokens_default<Format::group>>::type;
    if constexpr (!runs_here<Context>) return {};
    else if constexpr (in_pairs)
      return launch<kernel<selector>>(base_of(context), {.x = {reinterpret_cast<const std::int32_t*>(a.x.data), a.x.rows, a.x.cols / 2, a.x.stride / 2},
                                                         .codes = {reinterpret_cast<std::uint8_t*>(a.codes.data), a.codes.rows, a.codes.cols, a.codes.stride},
                                                         .scales = a.scales,
                                                         .tensor = a.tensor});
    else {
      const typename problem::arguments all{.x = a.x, .codes = a.codes, .scales = a.scales, .sums = a.sums};
      // A tile of a few rows costs what it costs with one: a token that is decoded has its own (576 columns: 1.64 us, 1.08 with one row).
      if constexpr (is_host<Context> && !by_row)
        if (a.x.rows == 1) return launch<kernel<one_row<selector>>>(base_of(context), all);
      return launch<kernel<selector>>(base_of(context), all);
    }
  }

  // ---- what a launch names: not for callers
  template <class Selector> struct one_row {
    SMALTI_HD constexpr tokens_tuning operator()(target t) const {
      tokens_tuning tuning = Selector{}(t);
      tuning.m = 1;
      return tuning;
    }
  };
  template <class Selector> struct kernel {
    using arguments = typename problem::arguments;
    template <target T> static constexpr auto choose() {
      if constexpr (in_pairs) return std::type_identity<pairs_by_group<Selector{}(T), problem>>{};
      else return std::type_identity<std::conditional_t<by_row, tokens_by_row<Selector{}(T), problem>, tokens_by_group<Selector{}(T), problem>>>{};
    }
    template <target T> using agent = typename decltype(choose<T>())::type;
  };

private:
  static status check_extents(const args& a) {
    if (a.codes.rows != a.x.rows) return {errc::bad_shape, "codes needs as many rows as x", a.codes.rows, a.x.rows};
    if (a.x.cols % codes_in<code> != 0) return {errc::bad_shape, "x needs a whole number of pairs of columns: pad it", a.x.cols, round_up(a.x.cols, codes_in<code>)};
    if (a.codes.cols != a.x.cols / codes_in<code>) return {errc::bad_shape, in_pairs ? "codes needs half the columns of x: two codes a byte" : "codes needs as many columns as x", a.codes.cols, a.x.cols / codes_in<code>};
    if (has_tensor && a.tensor == nullptr) return {errc::null_pointer, "tensor is null: nvfp4_tokens has a scale for the whole of x"};
    const int high = float_scale ? groups(a.x.cols) : a.x.rows, wide = float_scale ? a.x.rows : groups(a.x.cols);
    if (a.scales.rows != high) return {errc::bad_shape, float_scale ? "scales needs a row for each group of columns" : "scales needs as many rows as x", a.scales.rows, high};
    if (float_scale ? a.scales.cols != wide : a.scales.cols < wide) return {errc::bad_shape, float_scale ? "scales needs a column for each row of x" : "scales needs a column for each group of columns", a.scales.cols, wide};
    if constexpr (Options::sum_group != 0) {
      const int sums = ceil_div(a.x.cols, Options::sum_group);
      if (a.sums.rows != sums) return {errc::bad_shape, "sums needs a row for each sum_group columns", a.sums.rows, sums};
      if (a.sums.cols != a.x.rows) return {errc::bad_shape, "sums needs a column for each row of x", a.sums.cols, a.x.rows};
    } else if (a.sums.data != nullptr) {
      return {errc::bad_value, "sums needs options::sum_group: without it nothing is summed"};
    }
    return {};
  }
  static status check_overlap(const args& a) {
    const byte_range x = bytes_of(a.x), codes = bytes_of(a.codes), scales = bytes_of(a.scales), sums = bytes_of(a.sums);
    if (codes.meets(x)) return {errc::aliased, "codes must not overlap x: give it memory of its own"};
    if (scales.meets(x) || scales.meets(codes)) return {errc::aliased, "scales must not overlap x or codes: give it memory of its own"};
    if (sums.meets(x) || sums.meets(codes) || sums.meets(scales)) return {errc::aliased, "sums must not overlap x, codes or scales: give it memory of its own"};
    return {};
  }
};

//! y = the block Hadamard transform of each row of x: runs of B columns become H x / sqrt(B), H[i, j] = (-1)^(ones in i & j).
//! H / sqrt(B) is orthogonal and its own inverse, so (x H)(w H)' = x w' where both operands of a product are transformed
//! (weights by policy::hadamard_rows before they are quantized).
//!
//! @tparam X, Y   bf16 or fp16; Y also float
//! @tparam B      16, 32, 64, 128 or 256
//! @pre   cols is a multiple of B; y does not overlap x; views as above
//! @post  the same bits on every run with the same context; a row's bits do not depend on the others
//! @note  cost: 2 B operations an element on the matrix units, a read of x (for each 64 of B) and a write of y
//! @note  error: (B + 1) 2^-24 of the sum of magnitudes / sqrt(B), then one rounding to Y
template <class X, class Y, int B, class Options = options>
struct hadamard {
  static_assert(std::is_same_v<X, bf16> || std::is_same_v<X, fp16>, "smalti: the Hadamard transform multiplies bf16 or fp16: convert x, or transform floats by policy::hadamard_rows on the host");
  static_assert(detail::is_activation<Y>, "smalti: the Hadamard transform writes bf16, fp16 or float");
  static_assert(detail::is_extent(B), "smalti: a block of the Hadamard transform has 16, 32, 64, 128 or 256 columns");
  static constexpr determinism level = determinism::run_to_run;
  template <class T> static constexpr int step = Options::any_width ? 1 : step_of<T>;

  struct args {
    view<const X, step<X>> x;             //!< rows x cols
    view<Y, step<Y>> y;                   //!< rows x cols
  };

  //! Everything that can be said before a launch. Reads no data.
  template <class Context> static status check(const Context& context, const args& a) {
    static_assert(explain_context<Context>());
    return first_of([&] { return check_context(context); }, [&] { return check_view<"x">(a.x); }, [&] { return check_view<"y">(a.y); }, [&] { return check_extents(a); });
  }

  //! None is needed.
  template <class Context> static std::size_t workspace_bytes(const Context&, const args&) {
    static_assert(explain_context<Context>());
    return 0;
  }

  //! Starts the transform on the context; on the host it is done on return.
  template <class Context> static status run(const Context& context, const args& a, workspace = {}) {
    static_assert(explain_context<Context>());
    if (const status bad = check(context, a); !bad) return bad;
    if (a.x.rows == 0 || a.x.cols == 0) return {};
    using selector = typename selector_of<Context, hadamard_default>::type;
    if constexpr (runs_here<Context>) return launch<kernel<selector>>(base_of(context), {.x = a.x, .y = a.y});
    else return {};
  }

  // ---- what a launch names: not for callers
  using problem = hadamard_problem<X, Y, B, !Options::any_width>;
  template <class Selector> struct kernel {
    using arguments = typename problem::arguments;
    template <target T> using agent = hadamard_agent<Selector{}(T), problem>;
  };

private:
  static status check_extents(const args& a) {
    if (a.x.cols % B != 0) return {errc::bad_shape, "x needs a multiple of B columns: pad it with zeros, and the other operand too", a.x.cols, round_up(a.x.cols, B)};
    if (a.y.rows != a.x.rows) return {errc::bad_shape, "y needs as many rows as x", a.y.rows, a.x.rows};
    if (a.y.cols != a.x.cols) return {errc::bad_shape, "y needs as many columns as x", a.y.cols, a.x.cols};
    if (bytes_of(a.y).meets(bytes_of(a.x))) return {errc::aliased, "y must not overlap x: give it memory of its own"};
    return {};
  }
};

}  // namespace smalti::inline SMALTI_CODE::quantize
