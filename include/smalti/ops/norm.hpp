// Normalization of rows: root mean square and layer normalization, with or without the addition to the residual stream.
#pragma once
#include <cstddef>
#include <type_traits>
#include <smalti/block/norm/normalize.hpp>
#include <smalti/core/check_view.hpp>
#include <smalti/core/context.hpp>
#include <smalti/core/determinism.hpp>
#include <smalti/core/explain_context.hpp>
#include <smalti/core/float.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/workspace.hpp>
#include <smalti/tile/launch.hpp>

// swept: begin (bench/tune_gpu.py --write; registers, instructions and every shape tried are in norm.json)
// From machine code, nvcc 13.5.37; not timed: not yet run on a GPU. o: occupancy, c: cluster. What is not clean is said.
// agent       sm_80   sm_89   sm_90   sm_100  sm_120  tried
// rms norm    4x1024  4x1024  4x1024  4x1024  4x1024  11
// layer norm  4x1024  4x1024  4x1024  4x1024  4x1024  11
// The host, one thread of a Xeon with AMX, each shape beside the present one in turns; speed: of the next best over the present.
// l: b_left or keys_left, s: strips, g: group.
// host        present  ms     next best  speed  tried
// rms norm    2x256    3.579  4x256      1.07   6
// layer norm  2x256    5.158  4x256      1.10   6
// swept: end

namespace smalti::inline SMALTI_CODE::norm {

//! What a normalization may be told besides its types. Derive, and change what you need:
//!     struct after_attention : norm::options { static constexpr bool adds = true; using stream = float; };
struct options {
  static constexpr bool adds = false;          //!< stream += x, then the stream is normalized
  static constexpr bool bias = false;          //!< a row is added at the end
  static constexpr bool any_width = false;     //!< the slow path: any address, width and stride
  using gain = float;                          //!< element of gain and bias
  using stream = float;                        //!< element of the residual stream
};

enum class statistic { root_mean_square, mean_and_variance };

//! Rows of a processor's tile share one pass of loops; a GPU's block wants a few thousand elements in flight.
struct default_tuning {
  SMALTI_HD constexpr norm_tuning operator()(target t) const { return t == target::host ? norm_tuning{.m = 2, .n = 256} : norm_tuning{.m = 4, .n = 1024}; }
};

//! y[i, j] = (v[i, j] - mean_i) * scale_i * (gain[j] + gain_offset) + bias[j], where v = x, or v = stream + x rounded to the
//! stream's element, which is stored there. With root_mean_square: mean_i = 0, scale_i = 1 / sqrt(mean_j v^2 + epsilon);
//! with mean_and_variance: scale_i = 1 / sqrt(mean_j (v - mean_i)^2 + epsilon).
//!
//! @tparam X, Y   bf16, fp16 or float; Y also fp8. Sums in float
//! @pre   x, y (and stream) have the same extents, gain (and bias) one row of as many columns; y may be x itself, the stream
//!        may not be; epsilon >= 0
//! @post  the same bits on every run with the same context; a row's bits do not depend on the other rows
//! @note  cost: a read of x and a write of y (a read and a write of the stream more); rows stay in the cache between the
//!        passes. No workspace
//! @note  error: (cols / lanes + 8) 2^-24 relative in the statistic (sums of at most cols / 16 terms a lane), then one rounding to Y
//!
//! Sources: Zhang and Sennrich, arXiv:1910.07467; Ba, Kiros and Hinton, arXiv:1607.06450. gain_offset = 1 is Gemma's form.
template <statistic Statistic, class X, class Y = X, class Options = options>
struct normalize {
  template <class T> static constexpr bool input = std::is_same_v<T, bf16> || std::is_same_v<T, fp16> || std::is_same_v<T, float>;
  static_assert(input<X> && input<typename Options::gain> && input<typename Options::stream>,
                "smalti: a normalization reads bf16, fp16 or float: convert x, the gain or the stream");
  static_assert(input<Y> || std::is_same_v<Y, fp8_e4m3> || std::is_same_v<Y, fp8_e5m2>, "smalti: a normalization writes bf16, fp16, float, fp8_e4m3 or fp8_e5m2");
  static constexpr determinism level = determinism::run_to_run;
  static constexpr bool adds = Options::adds;
  using gain_element = typename Options::gain;
  using stream_element = typename Options::stream;
  template <class T> static constexpr int step = Options::any_width ? 1 : step_of<T>;

  struct args {
    view<const X, step<X>> x;                         //!< rows x cols
    view<const gain_element, 1> gain;                 //!< 1 x cols
    view<Y, step<Y>> y;                               //!< rows x cols
    float epsilon = 1e-5f;
    float gain_offset = 0;
    view<stream_element, step<stream_element>> stream = {};  //!< rows x cols, with options::adds
    view<const gain_element, 1> bias = {};            //!< 1 x cols, with options::bias
  };

  //! Everything that can be said before a launch. Reads no data.
  template <class Context> static status check(const Context& context, const args& a) {
    static_assert(explain_context<Context>());
    return first_of([&] { return check_context(context); }, [&] { return check_view<"x">(a.x); }, [&] { return check_view<"y">(a.y); },
                    [&] { return check_view<"gain">(a.gain); }, [&] { return same_extents<"y">(a.y, a.x); }, [&] { return one_row<"gain">(a.gain, a.x); },
                    [&] { return check_options(a); }, [&] { return check_overlap(a); });
  }

  //! None is needed.
  template <class Context> static std::size_t workspace_bytes(const Context&, const args&) {
    static_assert(explain_context<Context>());
    return 0;
  }

  //! Starts the normalization on the context; on the host it is done on return.
  template <class Context> static status run(const Context& context, const args& a, workspace = {}) {
    static_assert(explain_context<Context>());
    if (const status bad = check(context, a); !bad) return bad;
    if (a.x.rows == 0 || a.x.cols == 0) return {};
    using selector = typename selector_of<Context, default_tuning>::type;
    if constexpr (runs_here<Context>)
      return launch<kernel<selector>>(base_of(context), {.x = a.x, .stream = a.stream, .gain = a.gain, .bias = a.bias, .y = a.y,
                                                         .epsilon = a.epsilon, .gain_offset = a.gain_offset});
    else return {};
  }

  // ---- what a launch names: not for callers
  using problem = norm_problem<X, stream_element, gain_element, Y, !Options::any_width, Statistic == statistic::mean_and_variance, Options::bias, adds>;
  template <class Selector> struct kernel {
    using arguments = typename problem::arguments;
    template <target T> using agent = norm_agent<Selector{}(T), problem>;
  };

private:
  template <literal Name, class V> static status same_extents(const V& v, const view<const X, step<X>>& x) {
    if (v.rows != x.rows) return {errc::bad_shape, sentence<Name, " needs as many rows as x">(), v.rows, x.rows};
    if (v.cols != x.cols) return {errc::bad_shape, sentence<Name, " needs as many columns as x">(), v.cols, x.cols};
    return {};
  }
  template <literal Name> static status one_row(const view<const gain_element, 1>& v, const view<const X, step<X>>& x) {
    if (v.rows != 1) return {errc::bad_shape, sentence<Name, " needs one row: an element for each column of x">(), v.rows, 1};
    if (v.cols != x.cols) return {errc::bad_shape, sentence<Name, " needs as many columns as x">(), v.cols, x.cols};
    return {};
  }
  static status check_options(const args& a) {
    if (!(a.epsilon >= 0)) return {errc::bad_value, "epsilon must not be negative", 0, 0};
    if constexpr (Options::adds) {
      if (const status bad = first_of([&] { return check_view<"stream">(a.stream); }, [&] { return same_extents<"stream">(a.stream, a.x); }); !bad) return bad;
    } else if (a.stream.data != nullptr) {
      return {errc::bad_value, "stream needs options::adds: without it nothing is added"};
    }
    if constexpr (Options::bias) return first_of([&] { return check_view<"bias">(a.bias); }, [&] { return one_row<"bias">(a.bias, a.x); });
    else if (a.bias.data != nullptr) return {errc::bad_value, "bias needs options::bias: without it nothing is added"};
    return {};
  }
  static status check_overlap(const args& a) {
    const byte_range y = bytes_of(a.y), stream = bytes_of(a.stream);
    if (y.meets(bytes_of(a.x)) && !same_memory(a.y, a.x)) return {errc::aliased, "y must be x itself (same address, element size and stride) or not overlap it"};
    if (y.meets(bytes_of(a.gain)) || y.meets(bytes_of(a.bias))) return {errc::aliased, "y must not overlap gain or bias: every block reads them"};
    if (stream.meets(bytes_of(a.x)) || stream.meets(y)) return {errc::aliased, "stream must not overlap x or y: give it memory of its own"};
    if (stream.meets(bytes_of(a.gain)) || stream.meets(bytes_of(a.bias))) return {errc::aliased, "stream must not overlap gain or bias: every block reads them"};
    return {};
  }
};

template <class X, class Y = X, class Options = options> using rms = normalize<statistic::root_mean_square, X, Y, Options>;
template <class X, class Y = X, class Options = options> using layer = normalize<statistic::mean_and_variance, X, Y, Options>;

}  // namespace smalti::inline SMALTI_CODE::norm
