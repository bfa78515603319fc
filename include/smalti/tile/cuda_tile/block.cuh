// The cuda_tile machine: every verb is a few CUDA Tile operations; the compiler owns threads, shared memory,
// swizzles, TMA descriptors, barriers, warp roles and the software pipeline. What the words mean is in
// vocabulary.hpp; comments here say what is special about this machine.
#pragma once
#include <smalti/core/view.hpp>
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

// Codes of 4 bits in 32-bit words, [column][word]: plane p of word w holds k = 2 w (bits 4 p up) and 2 w + 1 (bits
// 16 + 4 p up) of the p-th quarter of the group.
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

// A column and a row of indices, shifted by an origin.
SMALTI_VERB template <int R> SMALTI_HD auto down(int origin) {
  return ct::reshape(ct::iota<ct::tile<int, ct::shape<R>>>(), ct::shape<R, 1>{}) + origin;
}
SMALTI_VERB template <int C> SMALTI_HD auto across(int origin) {
  return ct::reshape(ct::iota<ct::tile<int, ct::shape<C>>>(), ct::shape<1, C>{}) + origin;
}
// Pointers to the beginnings of rows, in 64 bits: a gather reaches as far as memory does.
SMALTI_VERB template <class T, int Step, class Rows> SMALTI_HD auto row_pointers(const view<T, Step>& m, Rows rows) {
  return promised_pointer<Step>(m.data) + ct::element_cast<long long>(rows) * promised_stride<Step, T>(static_cast<long long>(m.stride));
}

}  // namespace detail

struct block {
  template <class T, int R, int C> using tile = register_tile<T, R, C>;
  template <class T, int R> using column = register_tile<T, R, 1>;
  template <class T, int C> using row = register_tile<T, 1, C>;
  template <class T, int R, int K> using left = register_tile<T, R, K>;
  template <class T, int K, int N> using right = register_tile<T, K, N>;
  template <int N, int Words> using words = packed_words<N, Words>;

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

  SMALTI_VERB template <class T, int Step, class Tile> SMALTI_HD static void store(const view<T, Step>& m, int i, int j, const Tile& t) {
    ct::partition_view{detail::span(m), ct::shape<Tile::rows, Tile::cols>{}}.store_masked(detail::encode<T>(t.v), i, j);
  }
  SMALTI_VERB template <class T, int Step, class Tile>
  SMALTI_HD static void store(const stack<T, Step>& m, int n, int i, int j, const Tile& t) {
    const auto cube = ct::reshape(detail::encode<T>(t.v), ct::shape<1, Tile::rows, Tile::cols>{});
    ct::partition_view{detail::span(m), ct::shape<1, Tile::rows, Tile::cols>{}}.store_masked(cube, n, i, j);
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
  SMALTI_VERB template <class T, int Step, class Rows, class Tile>
  SMALTI_HD static void store_rows(const view<T, Step>& m, const Rows& rows, int j, const Tile& t) {
    const auto c = detail::across<Tile::cols>(j * Tile::cols);
    ct::store_masked(detail::row_pointers(m, rows.v) + c, detail::encode<T>(t.v),
                     (rows.v >= 0) && (c < detail::promised_width<Step>(m.cols)));
  }
  SMALTI_VERB template <class T, int Step, class Place, class Keep, class Tile>
  SMALTI_HD static void scatter(const view<T, Step>& m, int i, const Place& place, const Keep& keep, const Tile& t) {
    const auto r = detail::down<Tile::rows>(i * Tile::rows);
    ct::store_masked(detail::row_pointers(m, r) + (place.v - 1), detail::encode<T>(t.v),
                     (keep.v != 0) && (place.v >= 1) && (place.v <= m.cols) && (r < m.rows));
  }
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
  SMALTI_VERB template <class Left, class Tile> SMALTI_HD static void as_left(Left& a, const Tile& t) {
    a.v = detail::hold<typename Left::element>(t.v);
  }
  // 0x4300 | code is 128 + code in bf16 and 0x6400 | code is 1024 + code in fp16: subtracting the bias and the
  // codec's offset is exact.
  SMALTI_VERB template <int Plane, class Operand, int N, int Words, class Codec>
  SMALTI_HD static void unpack(Operand& b, const packed_words<N, Words>& w, Codec) {
    using element = typename Operand::element;
    static_assert(std::is_same_v<element, bf16> || std::is_same_v<element, fp16>, "smalti: packed codes become operands of bf16 or fp16");
    static_assert((Operand::rows == N && Operand::cols == 2 * Words) || (Operand::cols == N && Operand::rows == 2 * Words),
                  "smalti: a plane of words<N, W> fills an operand of N columns and 2 W of k");
    constexpr bool brain = std::is_same_v<element, bf16>;
    const auto pairs = ((w.v >> std::uint32_t(4 * Plane)) & std::uint32_t(0x000f000f)) | std::uint32_t(brain ? 0x43004300 : 0x64006400);
    const auto values = ct::repack<detail::tile_t<element>>(pairs, ct::integral_constant<1>{}) -
                        detail::tile_t<element>((brain ? 128.0f : 1024.0f) + float(Codec::offset));
    if constexpr (Operand::rows == N) b.v = values;
    else b.v = ct::transpose(values);
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
