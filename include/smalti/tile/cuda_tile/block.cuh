// The cuda_tile machine: every verb is a few CUDA Tile operations; the compiler owns threads, shared memory,
// swizzles, TMA descriptors, barriers, warp roles and the software pipeline. What the words mean is in
// vocabulary.hpp; comments here say what is special about this machine.
#pragma once
#include <smalti/core/view.hpp>
#include <smalti/policy/codecs/integer.hpp>
#include <smalti/policy/codecs/small_float.hpp>
#include <smalti/policy/scales.hpp>
#include <smalti/policy/tf32_parts.hpp>
#include <smalti/policy/word_planes.hpp>
#include <smalti/tile/cuda_tile/values.cuh>
#include <smalti/tile/vocabulary.hpp>

namespace smalti::inline SMALTI_CODE::cuda_tile {

template <class T, int R, int C> struct register_tile {
  static_assert(R > 0 && (R & (R - 1)) == 0 && C > 0 && (C & (C - 1)) == 0,
                "smalti: extents of a tile are powers of two on cuda_tile: split the extent into chunks that are (96 = 64 + 32)");
  using element = T;
  using shape = ct::shape<R, C>;
  static constexpr int rows = R, cols = C;
  ct::tile<detail::tile_t<T>, shape> v;
};

// The left operand of a product: a tile that knows it (a square one does not show it), for the codes unpacked into it.
template <class T, int R, int K> struct left_tile : register_tile<T, R, K> {};
template <class Tile> constexpr bool is_left = false;
template <class T, int R, int K> constexpr bool is_left<left_tile<T, R, K>> = true;

// Scales of a block-scaled operand as they lie in memory: R x G of a left one, G x N of a right one.
template <class S, int R, int C> struct stored_scales {
  static constexpr int rows = R, cols = C;
  using held = std::conditional_t<std::is_same_v<S, e8m0>, std::conditional_t<detail::has_block_scales, __nv_fp8_e8m0, std::uint8_t>, detail::memory_t<S>>;
  ct::tile<held, ct::shape<R, C>> v;
};

// Codes in 32-bit words, [column][word].
template <int N, int Words> struct packed_words {
  static constexpr int rows = N, cols = Words;
  ct::tile<std::uint32_t, ct::shape<N, Words>> v;
};

namespace detail {

using index = std::uint32_t;  // TMA and 16-byte accesses want 32-bit indices and divisors that can be proved

SMALTI_VERB template <int Step, class T> SMALTI_HD auto promised_pointer(T* p) {
  if constexpr (Step == 1) return memory_pointer(p);
  else return ct::assume_aligned<16>(memory_pointer(p));
}
// A stride in elements: 16 bytes where the view promises it.
SMALTI_VERB template <int Step, class T, class Int> SMALTI_HD auto promised_stride(Int stride) {
  if constexpr (Step == 1) return stride;
  else return ct::assume_divisible<step_of<std::remove_const_t<T>>>(stride);
}
SMALTI_VERB template <int Step, class Int> SMALTI_HD auto promised_width(Int cols) {
  if constexpr (Step == 1) return cols;
  else return ct::assume_divisible<Step>(cols);
}

SMALTI_VERB template <class T, int Step> SMALTI_HD auto span(const view<T, Step>& m) {
  using extents = ct::extents<index, ct::dynamic_extent, ct::dynamic_extent>;
  using strides = ct::strides<index, ct::dynamic_stride, 1>;
  return ct::tensor_span{promised_pointer<Step>(m.data),
                         ct::layout_strided_mapping<extents, strides>{extents{index(m.rows), promised_width<Step>(index(m.cols))},
                                                                      strides{promised_stride<Step, T>(index(m.stride))}}};
}
SMALTI_VERB template <class T, int Step> SMALTI_HD auto span(const stack<T, Step>& m) {
  using extents = ct::extents<index, ct::dynamic_extent, ct::dynamic_extent, ct::dynamic_extent>;
  using strides = ct::strides<index, ct::dynamic_stride, ct::dynamic_stride, 1>;
  return ct::tensor_span{promised_pointer<Step>(m.data),
                         ct::layout_strided_mapping<extents, strides>{
                             extents{index(m.count), index(m.rows), promised_width<Step>(index(m.cols))},
                             strides{promised_stride<Step, T>(index(m.distance)), promised_stride<Step, T>(index(m.stride))}}};
}
SMALTI_VERB template <class T, int Step> SMALTI_HD auto span(const stacks<T, Step>& m) {
  using extents = ct::extents<index, ct::dynamic_extent, ct::dynamic_extent, ct::dynamic_extent, ct::dynamic_extent>;
  using strides = ct::strides<index, ct::dynamic_stride, ct::dynamic_stride, ct::dynamic_stride, 1>;
  return ct::tensor_span{promised_pointer<Step>(m.data),
                         ct::layout_strided_mapping<extents, strides>{
                             extents{index(m.outer), index(m.count), index(m.rows), promised_width<Step>(index(m.cols))},
                             strides{promised_stride<Step, T>(index(m.outer_distance)), promised_stride<Step, T>(index(m.distance)),
                                     promised_stride<Step, T>(index(m.stride))}}};
}

// A column and a row of indices, shifted by an origin.
SMALTI_VERB template <int R> SMALTI_HD auto down(int origin) {
  return ct::reshape(ct::iota<ct::tile<int, ct::shape<R>>>(), ct::shape<R, 1>{}) + origin;
}
SMALTI_VERB template <int C> SMALTI_HD auto across(int origin) {
  return ct::reshape(ct::iota<ct::tile<int, ct::shape<C>>>(), ct::shape<1, C>{}) + origin;
}
// What a codec says of its pairs. In a class: tile code takes a codec's variable template for a function (nvcc 13.5).
template <class Codec, class T> struct pair_facts {
  static constexpr bool two_biases = Codec::template has_bias_pairs<T>;
  static constexpr float bias_of() {
    if constexpr (two_biases) return 0;
    else return Codec::template bias<T>;
  }
  static constexpr float bias = bias_of(), factor = Codec::template factor<T>;
};
// Pointers to the beginnings of rows, in 64 bits: a gather reaches as far as memory does.
SMALTI_VERB template <class T, int Step, class Rows> SMALTI_HD auto row_pointers(const view<T, Step>& m, Rows rows) {
  return promised_pointer<Step>(m.data) + ct::element_cast<long long>(rows) * promised_stride<Step, T>(static_cast<long long>(m.stride));
}

}  // namespace detail

struct block {
  template <class T, int R, int C> using tile = register_tile<T, R, C>;
  template <class T, int R> using column = register_tile<T, R, 1>;
  template <class T, int C> using row = register_tile<T, 1, C>;
  template <class T, int R, int K> using left = left_tile<T, R, K>;
  template <class T, int K, int N> using right = register_tile<T, K, N>;
  template <class T, int R, int K> using streamed_left = left<T, R, K>;
  template <class T, int K, int N> using streamed_right = right<T, K, N>;
  static constexpr bool announces = false;         // the machine fetches ahead by itself
  static constexpr bool joins = false;             // a part of a tile has no word here: arrays of operands are not multiplied as one
  template <int N, int Words> using words = packed_words<N, Words>;
  template <class S, int N, int C> using stored_rows = register_tile<S, N, C>;
  template <class T, class Codec, int K, int N, int Tile> using coded = right<T, K, N>;
  template <int R, int G> using factors = register_tile<float, R, G>;
  template <class S, int R, int G> using left_scales = stored_scales<S, R, G>;
  template <class S, int G, int N> using right_scales = stored_scales<S, G, N>;

  SMALTI_VERB SMALTI_HD static int x() { return ct::bid().x; }
  SMALTI_VERB SMALTI_HD static int y() { return ct::bid().y; }
  SMALTI_VERB SMALTI_HD static int z() { return ct::bid().z; }
  SMALTI_VERB SMALTI_HD static auto steps(int first, int last) { return ct::irange(first, last); }

  // ---- memory: tiles through descriptors (TMA from sm_90 on; cp.async or 16-byte accesses on sm_80)
  SMALTI_VERB template <class Tile, class T, int Step> SMALTI_HD static void load(Tile& t, const view<T, Step>& m, int i, int j) {
    const auto got = ct::partition_view{detail::span(m), ct::shape<Tile::rows, Tile::cols>{}}.load_masked(ct::view_padding_zero_t{}, i, j);
    t.v = detail::decode<typename Tile::element, std::remove_const_t<T>>(got);
  }
  SMALTI_VERB template <class Tile, class T, int Step> SMALTI_HD static void load(Tile& t, const stack<T, Step>& m, int n, int i, int j) {
    const auto got =
        ct::partition_view{detail::span(m), ct::shape<1, Tile::rows, Tile::cols>{}}.load_masked(ct::view_padding_zero_t{}, n, i, j);
    t.v = detail::decode<typename Tile::element, std::remove_const_t<T>>(ct::reshape(got, ct::shape<Tile::rows, Tile::cols>{}));
  }
  SMALTI_VERB template <class Tile, class T, int Step>
  SMALTI_HD static void load(Tile& t, const transposed_view<view<T, Step>>& m, int i, int j) {
    const auto got =
        ct::partition_view{detail::span(m.of), ct::shape<Tile::cols, Tile::rows>{}}.load_masked(ct::view_padding_zero_t{}, j, i);
    t.v = ct::transpose(detail::decode<typename Tile::element, std::remove_const_t<T>>(got));
  }
  SMALTI_VERB template <class Tile, class T, int Step>
  SMALTI_HD static void load(Tile& t, const transposed_view<stack<T, Step>>& m, int n, int i, int j) {
    const auto got =
        ct::partition_view{detail::span(m.of), ct::shape<1, Tile::cols, Tile::rows>{}}.load_masked(ct::view_padding_zero_t{}, n, j, i);
    const auto flat = ct::reshape(got, ct::shape<Tile::cols, Tile::rows>{});
    t.v = ct::transpose(detail::decode<typename Tile::element, std::remove_const_t<T>>(flat));
  }
  // The whole weight matrix is one panel here: [column][word].
  SMALTI_VERB template <int N, int Words, int Step>
  SMALTI_HD static void load(packed_words<N, Words>& t, const stack<const std::uint32_t, Step>& panels, int g, int j) {
    const auto got = ct::partition_view{detail::span(panels), ct::shape<1, N, Words>{}}.load_masked(ct::view_padding_zero_t{}, 0, j, g);
    t.v = ct::reshape(got, ct::shape<N, Words>{});
  }

  // Block-scaled operands and their scales. Codes of e2m1 lie along k, two a byte, whichever operand they become.
  SMALTI_VERB template <int R, int K, int Step> SMALTI_HD static void load(left_tile<e2m1, R, K>& t, const view<const e2m1x2, Step>& m, int i, int j) {
    t.v = pairs_in_rows<R, K>(ct::partition_view{detail::span(m), ct::shape<R, K / 2>{}}.load_masked(ct::view_padding_zero_t{}, i, j));
  }
  SMALTI_VERB template <int K, int N, int Step> SMALTI_HD static void load(register_tile<e2m1, K, N>& t, const transposed_view<view<const e2m1x2, Step>>& m, int i, int j) {
    const auto bytes = ct::partition_view{detail::span(m.of), ct::shape<N, K / 2>{}}.load_masked(ct::view_padding_zero_t{}, j, i);
    if constexpr (detail::has_block_scales) t.v = ct::repack<__nv_fp4_e2m1>(ct::transpose(bytes), ct::integral_constant<0>{});   // a tile of codes that is turned itself is unpacked
    else t.v = ct::transpose(pairs_in_rows<N, K>(bytes));
  }
  SMALTI_VERB template <class S, int R, int C, class T, int Step> SMALTI_HD static void load(stored_scales<S, R, C>& t, const view<T, Step>& m, int i, int j) {
    const auto got = ct::partition_view{detail::span(m), ct::shape<R, C>{}}.load_masked(ct::view_padding_zero_t{}, i, j);
    if constexpr (std::is_same_v<S, e8m0> && detail::has_block_scales) t.v = ct::element_bitcast<__nv_fp8_e8m0>(got);
    else t.v = got;
  }
  SMALTI_VERB template <class S, int R, int C, class T, int Step> SMALTI_HD static void load(stored_scales<S, R, C>& t, const transposed_view<view<T, Step>>& m, int i, int j) {
    const auto got = ct::transpose(ct::partition_view{detail::span(m.of), ct::shape<C, R>{}}.load_masked(ct::view_padding_zero_t{}, j, i));
    if constexpr (std::is_same_v<S, e8m0> && detail::has_block_scales) t.v = ct::element_bitcast<__nv_fp8_e8m0>(got);
    else t.v = got;
  }

  SMALTI_VERB template <class Tile, class T, int Step>
  SMALTI_HD static void load(Tile& t, const stacks<T, Step>& m, int o, int n, int i, int j) {
    const auto got =
        ct::partition_view{detail::span(m), ct::shape<1, 1, Tile::rows, Tile::cols>{}}.load_masked(ct::view_padding_zero_t{}, o, n, i, j);
    t.v = detail::decode<typename Tile::element, std::remove_const_t<T>>(ct::reshape(got, ct::shape<Tile::rows, Tile::cols>{}));
  }
  SMALTI_VERB template <class Tile, class T, int Step>
  SMALTI_HD static void load(Tile& t, const transposed_view<stacks<T, Step>>& m, int o, int n, int i, int j) {
    const auto got =
        ct::partition_view{detail::span(m.of), ct::shape<1, 1, Tile::cols, Tile::rows>{}}.load_masked(ct::view_padding_zero_t{}, o, n, j, i);
    t.v = ct::transpose(detail::decode<typename Tile::element, std::remove_const_t<T>>(ct::reshape(got, ct::shape<Tile::cols, Tile::rows>{})));
  }

  SMALTI_VERB template <class T, int Step, class Tile> SMALTI_HD static void store(const view<T, Step>& m, int i, int j, const Tile& t) {
    ct::partition_view{detail::span(m), ct::shape<Tile::rows, Tile::cols>{}}.store_masked(detail::encode<T>(t.v), i, j);
  }
  SMALTI_VERB template <class T, int Step, class Tile>
  SMALTI_HD static void store(const stack<T, Step>& m, int n, int i, int j, const Tile& t) {
    const auto cube = ct::reshape(detail::encode<T>(t.v), ct::shape<1, Tile::rows, Tile::cols>{});
    ct::partition_view{detail::span(m), ct::shape<1, Tile::rows, Tile::cols>{}}.store_masked(cube, n, i, j);
  }
  SMALTI_VERB template <class T, int Step, class Tile>
  SMALTI_HD static void store(const stacks<T, Step>& m, int o, int n, int i, int j, const Tile& t) {
    const auto cube = ct::reshape(detail::encode<T>(t.v), ct::shape<1, 1, Tile::rows, Tile::cols>{});
    ct::partition_view{detail::span(m), ct::shape<1, 1, Tile::rows, Tile::cols>{}}.store_masked(cube, o, n, i, j);
  }
  SMALTI_VERB template <class T, int Step, class Tile>
  SMALTI_HD static void store(const transposed_view<view<T, Step>>& m, int i, int j, const Tile& t) {
    ct::partition_view{detail::span(m.of), ct::shape<Tile::cols, Tile::rows>{}}.store_masked(ct::transpose(detail::encode<T>(t.v)), j, i);
  }
  SMALTI_VERB template <class T, int Step, class Tile>
  SMALTI_HD static void store(const transposed_view<stack<T, Step>>& m, int n, int i, int j, const Tile& t) {
    const auto cube = ct::reshape(ct::transpose(detail::encode<T>(t.v)), ct::shape<1, Tile::cols, Tile::rows>{});
    ct::partition_view{detail::span(m.of), ct::shape<1, Tile::cols, Tile::rows>{}}.store_masked(cube, n, j, i);
  }
  SMALTI_VERB template <class T, int Step, class Column>
  SMALTI_HD static void store_column(const view<T, Step>& m, int n, int i, const Column& t) {
    const auto line = ct::reshape(detail::encode<T>(t.v), ct::shape<1, Column::rows>{});
    ct::partition_view{detail::span(m), ct::shape<1, Column::rows>{}}.store_masked(line, n, i);
  }
  // RED on sm_80, a reducing TMA store on sm_90 where the view promises 16 bytes.
  SMALTI_VERB template <int Step, class Tile> SMALTI_HD static void accumulate(const view<float, Step>& m, int i, int j, const Tile& t) {
    ct::partition_view{detail::span(m), ct::shape<Tile::rows, Tile::cols>{}}.atomic_add_masked(t.v, ct::memory_order_relaxed_t{},
                                                                                               ct::thread_scope_device_t{}, i, j);
  }
  SMALTI_VERB template <int Step, class Tile>
  SMALTI_HD static void accumulate(const stack<float, Step>& m, int n, int i, int j, const Tile& t) {
    ct::partition_view{detail::span(m), ct::shape<1, Tile::rows, Tile::cols>{}}.atomic_add_masked(
        ct::reshape(t.v, ct::shape<1, Tile::rows, Tile::cols>{}), ct::memory_order_relaxed_t{}, ct::thread_scope_device_t{}, n, i, j);
  }

  // ---- memory: tiles of pointers (cp.async or 16-byte loads; never TMA)
  SMALTI_VERB template <class Tile, class T, int Step, class Rows>
  SMALTI_HD static void load_rows(Tile& t, const view<T, Step>& m, const Rows& rows, int j) {
    t.v = gather<typename Tile::element, Tile::rows, Tile::cols>(m, rows, j);
  }
  SMALTI_VERB template <class Tile, class T, int Step, class Rows>
  SMALTI_HD static void load_rows(Tile& t, const transposed_view<view<T, Step>>& m, const Rows& rows, int i) {
    t.v = ct::transpose(gather<typename Tile::element, Tile::cols, Tile::rows>(m.of, rows, i));
  }
  SMALTI_VERB template <class Tile, class View, class Rows>
  SMALTI_HD static void load_rows(Tile& t, const View& m, const Rows& rows, int j, int) {      // the name of the rows: nothing is kept here
    load_rows(t, m, rows, j);
  }
  SMALTI_VERB template <class T, int Step, class Rows, class Tile>
  SMALTI_HD static void store_rows(const view<T, Step>& m, const Rows& rows, int j, const Tile& t) {
    const auto c = detail::across<Tile::cols>(j * Tile::cols);
    ct::store_masked(detail::row_pointers(m, rows.v) + c, detail::encode<T>(t.v),
                     (rows.v >= 0) && (c < detail::promised_width<Step>(m.cols)));
  }
  SMALTI_VERB template <class T, int Step, class Rows, class Tile>
  SMALTI_HD static void store_rows(const transposed_view<view<T, Step>>& m, const Rows& rows, int j, const Tile& t) {
    const auto c = detail::across<Tile::rows>(j * Tile::rows);
    ct::store_masked(detail::row_pointers(m.of, rows.v) + c, ct::transpose(detail::encode<T>(t.v)), (rows.v >= 0) && (c < detail::promised_width<Step>(m.of.cols)));
  }
  SMALTI_VERB template <int C, class T, int Step, class From, int FromStep, class Rows>
  SMALTI_HD static void copy_rows(const view<T, Step>& to, const Rows& target, const view<From, FromStep>& from, const Rows& source, int j) {
    tile<T, Rows::rows, C> t;
    load_rows(t, from, source, j);
    store_rows(to, target, j, t);
  }
  SMALTI_VERB template <class T, int Step, class Place, class Keep, class Tile>
  SMALTI_HD static void scatter(const view<T, Step>& m, int i, const Place& place, const Keep& keep, const Tile& t) {
    const auto r = detail::down<Tile::rows>(i * Tile::rows);
    ct::store_masked(detail::row_pointers(m, r) + (place.v - 1), detail::encode<T>(t.v),
                     (keep.v != 0) && (place.v >= 1) && (place.v <= m.cols) && (r < m.rows));
  }
  SMALTI_VERB template <class T> SMALTI_HD static T number(const T* memory, int i) { return ct::load(memory + i); }
  // Tokens of the Tile IR order it: the stores before it are its inputs, the loads after it take its token. On the
  // chip the stores are waited for, then a fence of the device, the atomic, and the first-level cache is dropped.
  SMALTI_VERB SMALTI_HD static int arrive(int* counter) {
    return ct::atomic_add(counter, 1, ct::memory_order_acq_rel_t{}, ct::thread_scope_device_t{});
  }

  // ---- arithmetic
  SMALTI_VERB template <class Tile, class Number> SMALTI_HD static void fill(Tile& t, Number x) {
    using element = typename Tile::element;
    using number = std::conditional_t<detail::is_real<element>, float, element>;
    t.v = detail::hold<element>(ct::full<ct::tile<number, typename Tile::shape>>(static_cast<number>(x)));
  }
  // HMMA, HGMMA, UTCHMMA and their kin; 8-bit floats are multiplied as fp16 below sm_89, to the same products.
  SMALTI_VERB template <class Acc, class Left, class Right> SMALTI_HD static void product(Acc& acc, const Left& a, const Right& b) {
    static_assert(std::is_same_v<typename Left::element, typename Right::element>,
                  "smalti: both operands of a product have the same element type");
    static_assert(std::is_same_v<typename Acc::element, std::conditional_t<std::is_integral_v<typename Left::element>, int, float>>,
                  "smalti: 8-bit integers are summed in int, everything else in float");
    static_assert(!std::is_same_v<typename Left::element, float>,
                  "smalti: operands of a product of floats are tf32 on cuda_tile: say left<tf32>");
    acc.v = ct::mma(a.v, b.v, acc.v);
  }
  SMALTI_VERB template <class Acc, class Left, class Right> SMALTI_HD static void multiply(Acc& acc, const Left& a, const Right& b) {
    fill(acc, 0);
    product(acc, a, b);
  }
  SMALTI_VERB template <class Tile> SMALTI_HD static void begin(Tile& acc, bool) { fill(acc, 0); }
  SMALTI_VERB template <class Acc, class Left, class Right> SMALTI_HD static void product(Acc& acc, const Left& a, const Right& b, bool) { product(acc, a, b); }
  SMALTI_VERB template <class Left, class Tile> SMALTI_HD static void as_left(Left& a, const Tile& t) {
    a.v = detail::hold<typename Left::element>(t.v);
  }
  SMALTI_VERB template <class Operand> SMALTI_HD static void mask_depth(Operand& t, int first, int last) {
    using held = typename decltype(t.v)::element_type;
    constexpr int R = Operand::rows, C = Operand::cols;
    const auto place = [] {
      if constexpr (is_left<Operand>) return detail::across<C>(0);
      else return detail::down<R>(0);
    }();
    const auto inside = ct::broadcast((place >= first) && (place < last), ct::shape<R, C>{});
    if constexpr (sizeof(held) == 1) t.v = ct::element_bitcast<held>(ct::select(inside, ct::element_bitcast<std::uint8_t>(t.v), ct::full<ct::tile<std::uint8_t, ct::shape<R, C>>>(std::uint8_t(0))));
    else t.v = ct::select(inside, t.v, ct::full<ct::tile<held, ct::shape<R, C>>>(ct::element_cast<held>(0.0f)));
  }
  SMALTI_VERB template <class Operand, class Whole> SMALTI_HD static void split(Operand& high, Operand& low, const Whole& x) {
    map(policy::tf32_high{}, high, x);
    map(policy::tf32_low{}, low, x);
  }
  SMALTI_VERB template <class F, class Left, class... In> SMALTI_HD static void map_left(const F& f, Left& a, const In&... in) {
    a.v = detail::hold<typename Left::element>(spread_result<Left>(f(argument<Left>(in)...)));
  }
  SMALTI_VERB template <class F, class Left, class Column, class... In> SMALTI_HD static void map_left_sum(const F& f, Left& a, Column& sums, const In&... in) {
    const auto values = spread_result<Left>(f(argument<Left>(in)...));
    sums.v = ct::sum(values, ct::integral_constant<1>{});
    a.v = detail::hold<typename Left::element>(values);
  }
  SMALTI_VERB template <class Tile, class Column> SMALTI_HD static void scale_rows(Tile& t, const Column& by) { t.v = t.v * by.v; }
  // A scaled product has one group of k here: a product of its own, and one multiply-add a result. As parts of wider
  // products the compiler would keep the integer and the float sums in registers together.
  SMALTI_VERB template <class Acc, class Left, class Right, class LeftFactors, class RightFactors, class Sums = unit_factor, class Minima = unit_factor>
  SMALTI_HD static void product(Acc& acc, const Left& a, const Right& b, const LeftFactors& lf, const RightFactors& rf, const Sums& sums = {}, const Minima& minima = {}) {
    using sum = std::conditional_t<std::is_integral_v<typename Left::element>, int, float>;
    const auto part = ct::element_cast<float>(ct::mma(a.v, b.v, ct::full<ct::tile<sum, typename Acc::shape>>(sum(0))));
    const auto right = scaled_by<1>(part, rf);
    acc.v = acc.v + scaled_by<0>(right, lf);
    if constexpr (!std::is_same_v<Sums, unit_factor>) acc.v = acc.v + sums.v * minima.v;
  }

  // UTCQMMA, UTCOMMA, OMMA and QMMA with scales. Elsewhere both operands are scaled in bf16: codes have at most four digits and
  // scales of e4m3 four, so nothing is rounded; the exponents fit but for the last few of e8m0.
  SMALTI_VERB template <class Acc, class Left, class Right, class S, int R, int G, int N>
  SMALTI_HD static void product(Acc& acc, const Left& a, const Right& b, const stored_scales<S, R, G>& left, const stored_scales<S, G, N>& right) {
    if constexpr (detail::has_block_scales) {
      acc.v = ct::scaled_mma(a.v, left.v, b.v, right.v, acc.v);
    } else {
      constexpr int K = Left::cols, group = K / G;
      const auto x = ct::reshape(ct::element_cast<__nv_bfloat16>(a.v), ct::shape<R, G, group>{}) * ct::reshape(scale_values<S>(left.v), ct::shape<R, G, 1>{});
      const auto w = ct::reshape(ct::element_cast<__nv_bfloat16>(b.v), ct::shape<G, group, N>{}) * ct::reshape(scale_values<S>(right.v), ct::shape<G, 1, N>{});
      acc.v = ct::mma(ct::reshape(x, ct::shape<R, K>{}), ct::reshape(w, ct::shape<K, N>{}), acc.v);
    }
  }

  // Codes of 16-bit operands lie in pairs, at bits 0 and 16 of a word; of 8-bit operands in quads of bytes
  // (policy/word_planes.hpp with Run 2 and 4).
  SMALTI_VERB template <int Tile, class Operand, class Codec, int N, int Words, class... W>
  SMALTI_HD static void unpack(Operand& b, Codec, const packed_words<N, Words>& w, const W&... more) {
    place_codes(b, values_of_codes<Tile, typename Operand::element, Codec>(w, more...));
  }
  // In the operand's type: the scale is rounded to it too.
  SMALTI_VERB template <int Tile, class Operand, class Codec, class Scales, class Zeros, int N, int Words, class... W>
  SMALTI_HD static void unpack_scaled(Operand& b, Codec, const Scales& scales, const Zeros& zeros, const packed_words<N, Words>& w, const W&... more) {
    using element = detail::tile_t<typename Operand::element>;
    static_assert(Scales::rows * Scales::cols == N, "smalti: an operand takes one scale for each column on cuda_tile: its depth must divide the group");
    const auto codes = values_of_codes<Tile, typename Operand::element, Codec>(w, more...);
    const auto scale = ct::element_cast<element>(ct::reshape(scales.v, ct::shape<N, 1>{}));
    if constexpr (std::is_same_v<Zeros, unit_factor>) place_codes(b, codes * scale);
    else place_codes(b, (codes - ct::element_cast<element>(ct::reshape(zeros.v, ct::shape<N, 1>{}))) * scale);
  }

  // In float, for one rounding; rows lie as rows, whatever the operand.
  SMALTI_VERB template <class Operand, class Codec, class Words, class Scales, class Minima>
  SMALTI_HD static void unpack_rows(Operand& b, Codec, const Words& w, const Scales& scales, const Minima& minima) {
    b.v = scaled_rows<typename Operand::element, Codec>(w, scales, minima);
  }
  SMALTI_VERB template <class Operand, class Codec, class Words, class Scales, class Minima>
  SMALTI_HD static void unpack_columns(Operand& b, Codec, const Words& w, const Scales& scales, const Minima& minima) {
    b.v = ct::transpose(scaled_rows<typename Operand::element, Codec>(w, scales, minima));
  }
  SMALTI_VERB template <class Tile, class Operand, class Way> SMALTI_HD static void part_columns(Tile& x, Tile& y, const Operand& from, Way) {
    constexpr int R = Tile::rows, C = Tile::cols;
    const auto all = ct::element_cast<float>(from.v);
    if constexpr (std::is_same_v<Way, column_halves>) {
      x.v = ct::extract(all, ct::shape<R, C>{}, 0, 0);
      y.v = ct::extract(all, ct::shape<R, C>{}, 0, 1);
    } else {
      const auto pairs = ct::reshape(all, ct::shape<R, C, 2>{});
      x.v = ct::reshape(ct::extract(pairs, ct::shape<R, C, 1>{}, 0, 0, 0), ct::shape<R, C>{});
      y.v = ct::reshape(ct::extract(pairs, ct::shape<R, C, 1>{}, 0, 0, 1), ct::shape<R, C>{});
    }
  }
  SMALTI_VERB template <class Operand, class Tile, class Way> SMALTI_HD static void join_columns(Operand& t, const Tile& x, const Tile& y, Way) {
    const auto all = joined<Way, Tile::rows, Tile::cols>(detail::hold<typename Operand::element>(x.v), detail::hold<typename Operand::element>(y.v));
    if constexpr (is_left<Operand>) t.v = all;
    else t.v = ct::transpose(all);
  }

  SMALTI_VERB template <class Out, class Tile> SMALTI_HD static void turn(Out& out, const Tile& in) {
    static_assert(Out::rows == Tile::cols && Out::cols == Tile::rows, "smalti: a turned tile has the extents of the result, swapped");
    out.v = ct::transpose(in.v);
  }
  SMALTI_VERB template <class F, class Out, class... In> SMALTI_HD static void map(const F& f, Out& out, const In&... in) {
    const auto result = f(argument<Out>(in)...);
    using element = typename Out::element;
    using number = std::conditional_t<detail::is_real<element>, float, int>;
    if constexpr (detail::is_value<std::remove_cvref_t<decltype(result)>>)
      out.v = detail::hold<element>(detail::spread<number, typename Out::shape>(result.v));
    else out.v = detail::hold<element>(ct::full<ct::tile<number, typename Out::shape>>(static_cast<number>(result)));
  }
  // NaN loses against every number in a maximum; the order of a sum is the compiler's, and fixed.
  SMALTI_VERB template <class Column, class Tile> SMALTI_HD static void row_max(Column& out, const Tile& t) {
    out.v = ct::reduce_max(t.v, ct::integral_constant<1>{});
  }
  SMALTI_VERB template <class Column, class Tile> SMALTI_HD static void row_sum(Column& out, const Tile& t) {
    out.v = ct::sum(t.v, ct::integral_constant<1>{});
  }
  SMALTI_VERB template <class Row, class Tile> SMALTI_HD static void column_max(Row& out, const Tile& t) {
    out.v = ct::reduce_max(t.v, ct::integral_constant<0>{});
  }
  SMALTI_VERB template <class Row, class Tile> SMALTI_HD static void column_sum(Row& out, const Tile& t) {
    out.v = ct::sum(t.v, ct::integral_constant<0>{});
  }
  SMALTI_VERB template <class Tile> SMALTI_HD static void row_scan(Tile& out, const Tile& t) {
    out.v = ct::partial_sum(t.v, ct::integral_constant<1>{});
  }

 private:
  SMALTI_VERB template <class Way, int R, int C, class Tile> SMALTI_HD static auto joined(Tile x, Tile y) {
    if constexpr (std::is_same_v<Way, column_halves>) return ct::cat(x, y, ct::integral_constant<1>{});
    else return ct::reshape(ct::cat(ct::reshape(x, ct::shape<R, C, 1>{}), ct::reshape(y, ct::shape<R, C, 1>{}), ct::integral_constant<2>{}), ct::shape<R, 2 * C>{});
  }
  // Bytes of two e2m1 as [row][k].
  SMALTI_VERB template <int R, int K, class Bytes> SMALTI_HD static auto pairs_in_rows(Bytes bytes) {
    if constexpr (detail::has_block_scales) {
      return ct::repack<__nv_fp4_e2m1>(bytes, ct::integral_constant<1>{});
    } else {
      using codec = policy::e2m1;
      const auto wide = ct::element_cast<std::uint32_t>(bytes);
      const auto codes = detail::wrap((wide & std::uint32_t(15)) | ((wide >> std::uint32_t(4)) << std::uint32_t(16)));
      return ct::repack<__nv_bfloat16>(codec::template pairs<bf16>(codes).v, ct::integral_constant<1>{}) * __nv_bfloat16(detail::pair_facts<codec, bf16>::factor);
    }
  }
  SMALTI_VERB template <class S, class Tile> SMALTI_HD static auto scale_values(Tile held) {
    if constexpr (std::is_same_v<S, e8m0>) return ct::element_cast<__nv_bfloat16>(policy::scale_value<e8m0>(detail::wrap(ct::element_cast<int>(held))).v);
    else return detail::decode<bf16, S>(held);
  }
  // What a map's function gave, as floats of the operand's shape.
  SMALTI_VERB template <class Out, class Result> SMALTI_HD static auto spread_result(const Result& result) { return detail::spread<float, typename Out::shape>(result.v); }
  // A part times the factors of its rows (Axis 0) or columns (1), or as it is.
  SMALTI_VERB template <int Axis, class Tile, class Factors> SMALTI_HD static auto scaled_by(Tile part, const Factors& f) {
    if constexpr (std::is_same_v<Factors, unit_factor>) {
      return part;
    } else {
      static_assert((Axis == 0 ? Factors::cols : Factors::rows) == 1, "smalti: a scaled product has one group of k on cuda_tile: take operands no deeper than the group");
      return part * f.v;
    }
  }
  // The parts of the codes, shifted to their places and joined: one code for each Bits-wide field of the layout's lanes.
  SMALTI_VERB template <int Tile, class Planes, int Part, class First, class... W> SMALTI_HD static auto joined_codes(const First& w, const W&... more) {
    constexpr int place = Planes::width(Part) * Planes::position(Tile, Part);
    constexpr std::uint32_t lanes = Planes::run == 2 ? 0x00010001u : 0x01010101u, keep = ((1u << Planes::width(Part)) - 1) * lanes;
    const auto codes = ((w.v >> std::uint32_t(place)) & std::uint32_t(keep)) << std::uint32_t(Planes::shift(Part));
    if constexpr (sizeof...(W) == 0) return codes;
    else return codes | joined_codes<Tile, Planes, Part + 1>(more...);
  }
  // [column][k] in the operand's type.
  SMALTI_VERB template <int Tile, class Element, class Codec, int N, int Words, class... W>
  SMALTI_HD static auto values_of_codes(const packed_words<N, Words>& w, const W&... more) {
    using element = detail::tile_t<Element>;
    if constexpr (std::is_same_v<Element, std::int8_t>) {
      static_assert(requires { Codec::offset; }, "smalti: 8-bit operands take integer codes on cuda_tile: multiply other codes as 16-bit operands");
      using planes = policy::word_planes<Codec::bits, 4, Words>;
      static_assert(sizeof...(W) + 1 == planes::parts, "smalti: unpack takes the words of every part of the codes");
      const auto codes = joined_codes<Tile, planes, 0>(w, more...);
      // each byte less the offset: a byte of code + 128 - offset carries nothing into the next
      const auto bytes = Codec::offset == 0 ? codes : (codes + std::uint32_t((128 - Codec::offset) * 0x01010101u)) ^ std::uint32_t(0x80808080u);
      static_assert(Codec::bits < 8 || Codec::offset == 128, "smalti: 8-bit operands are signed: codes of 8 bits need an offset of 128");
      return ct::repack<std::int8_t>(bytes, ct::integral_constant<1>{});
    } else {
      static_assert(std::is_same_v<Element, bf16> || std::is_same_v<Element, fp16>, "smalti: packed codes become operands of bf16, fp16 or int8");
      using planes = policy::word_planes<Codec::bits, 2, Words>;
      static_assert(sizeof...(W) + 1 == planes::parts, "smalti: unpack takes the words of every part of the codes");
      const auto codes = detail::wrap(joined_codes<Tile, planes, 0>(w, more...));
      const auto patterns = ct::repack<element>(Codec::template pairs<Element>(codes).v, ct::integral_constant<1>{});
      using facts = detail::pair_facts<Codec, Element>;
      if constexpr (facts::two_biases) {
        return patterns - ct::repack<element>(Codec::template bias_pairs<Element>(codes).v, ct::integral_constant<1>{});
      } else {
        if constexpr (facts::bias != 0) return patterns - element(facts::bias);
        else if constexpr (facts::factor != 1) return patterns * element(facts::factor);
        else return patterns;
      }
    }
  }
  // The positions of words from Tile on, side by side: they are the codes in the order of the channels.
  SMALTI_VERB template <int Tile, int Count, class Element, class Codec, class Words> SMALTI_HD static auto positions_of(const Words& w) {
    if constexpr (Count == 1) return values_of_codes<Tile, Element, Codec>(packed_words<Words::rows, Words::cols>{w.v});
    else return ct::cat(positions_of<Tile, Count / 2, Element, Codec>(w), positions_of<Tile + Count / 2, Count / 2, Element, Codec>(w), ct::integral_constant<1>{});
  }
  // [row][channel]: each row of scales is shared by rows, each scale by channels.
  SMALTI_VERB template <class Element, class Codec, class Words, class Scales, class Minima> SMALTI_HD static auto scaled_rows(const Words& w, const Scales& scales, const Minima& minima) {
    constexpr int rows = Words::rows, channels = Words::cols * 32 / Codec::bits, groups = Scales::rows, parts = Scales::cols;
    using apart = ct::shape<groups, rows / groups, parts, channels / parts>;
    const auto codes = ct::reshape(ct::element_cast<float>(positions_of<0, 16 / Codec::bits, Element, Codec>(w)), apart{});
    const auto scale = ct::reshape(ct::element_cast<float>(scales.v), ct::shape<groups, 1, parts, 1>{});
    if constexpr (std::is_same_v<Minima, unit_factor>)
      return ct::element_cast<detail::tile_t<Element>>(ct::reshape(codes * scale, ct::shape<rows, channels>{}));
    else
      return ct::element_cast<detail::tile_t<Element>>(ct::reshape(
          ct::fma(codes, ct::broadcast(scale, apart{}), ct::broadcast(ct::reshape(ct::element_cast<float>(minima.v), ct::shape<groups, 1, parts, 1>{}), apart{})), ct::shape<rows, channels>{}));
  }
  SMALTI_VERB template <class Operand, class Tile> SMALTI_HD static void place_codes(Operand& b, Tile values) {
    constexpr int columns = Tile::shape_type::static_extent(0), depth = Tile::shape_type::static_extent(1);
    static_assert(is_left<Operand> ? Operand::rows == columns && Operand::cols == depth : Operand::cols == columns && Operand::rows == depth,
                  "smalti: words<N, W> fill an operand of N columns and 2 W of k (4 W for 8-bit operands)");
    if constexpr (is_left<Operand>) b.v = values;
    else b.v = ct::transpose(values);
  }
  // Rows exist, so they are not masked. Columns past the width are zero; a view<T, Step> whose Step is a multiple of
  // the tile's columns promises that there are none, and then the loads carry no mask: on sm_80 a third of the
  // instructions of a loop that gathers.
  SMALTI_VERB template <class To, int R, int C, class T, int Step, class Rows>
  SMALTI_HD static auto gather(const view<T, Step>& m, const Rows& rows, int j) {
    using from = std::remove_const_t<T>;
    const auto c = detail::across<C>(j * C);
    const auto pointers = detail::row_pointers(m, rows.v) + c;
    if constexpr (Step % C == 0) return detail::decode<To, from>(ct::load(pointers));
    else return detail::decode<To, from>(ct::load_masked(pointers, c < detail::promised_width<Step>(m.cols), detail::zero_of<from>()));
  }
  SMALTI_VERB template <class Out, class Tile> SMALTI_HD static auto argument(const Tile& t) {
    using number = std::conditional_t<detail::is_real<typename Tile::element>, float, int>;
    return detail::wrap(ct::element_cast<number>(t.v));
  }
  SMALTI_VERB template <class Out> SMALTI_HD static auto argument(row_index) { return detail::wrap(detail::down<Out::rows>(0)); }
  SMALTI_VERB template <class Out> SMALTI_HD static auto argument(column_index) { return detail::wrap(detail::across<Out::cols>(0)); }
};

}  // namespace smalti::inline SMALTI_CODE::cuda_tile
