// The host machine: one thread runs a block. Plain C++20: sanitizers and debuggers see ordinary arrays.
#pragma once
#include <limits>
#include <type_traits>
#include <smalti/policy/tf32_parts.hpp>
#include <smalti/tile/host/block_scaled.hpp>
#include <smalti/tile/host/coded_dot.hpp>
#include <smalti/tile/host/columns.hpp>
#include <smalti/tile/host/dot.hpp>
#include <smalti/tile/host/factors.hpp>
#include <smalti/tile/host/fill.hpp>
#include <smalti/tile/host/joined.hpp>
#include <smalti/tile/host/math.hpp>
#include <smalti/tile/host/unpack.hpp>
#include <smalti/tile/host/unpack_rows.hpp>
#include <smalti/tile/host/panels.hpp>
#include <smalti/tile/host/plain_memory.hpp>
#include <smalti/tile/host/scaled_dot.hpp>
#include <smalti/tile/host/streamed.hpp>
#include <smalti/tile/mutant.hpp>

#if defined(__CUDACC__)
#  error "smalti: the host machine belongs in .cpp files: nvcc refuses vector types in code it may compile for the device"
#endif

namespace smalti::inline SMALTI_CODE::host {

//! The nearest value of T, held as float.
template <class T> floats rounded_as(floats x) {
  alignas(64) T rounded[lane_count];
  write(rounded, x);
  return read(rounded);
}
template <> inline floats rounded_as<float>(floats x) { return x; }
template <> inline floats rounded_as<tf32>(floats x) { return x; }   // this machine multiplies whole floats

//! m[row, column], zero outside.
template <class S, int Step> auto lookup(const view<S, Step>& m, uniform row, consecutive column) {
  const bool there = row.value >= 0 && row.value < m.rows;
  return lookup(m.data + (there ? std::int64_t(row.value) * m.stride : 0), column, there ? m.cols : 0);
}
template <class S, int Step, class Row, class Column> auto lookup(const view<S, Step>& m, Row row, Column column) {
  lanes<value_of<std::remove_const_t<S>>> found(0);
  const ints r(row), c(column);
  for (int i = 0; i < lane_count; ++i)
    if (const S* p = address(m, r[i], c[i])) found.set(i, read(p, 1)[0]);
  return found;
}

struct range {
  int first, last;
  struct iterator {
    int i;
    int operator*() const { return i; }
    iterator& operator++() { ++i; return *this; }
    bool operator!=(iterator o) const { return i < o.i; }
  };
  iterator begin() const { return {first}; }
  iterator end() const { return {last}; }
};

struct block : plain_memory, joined_products {
  using plain_memory::load, plain_memory::load_rows, joined_products::multiply, joined_products::product;
  static constexpr bool announces = true;          // announce does something
  template <class T, int R, int C> using tile = array_tile<T, R, C>;
  template <class T, int R> using column = array_column<T, R>;
  template <class T, int C> using row = array_row<T, C>;
  template <class T, int R, int K> using left = left_panel<T, R, K>;
  template <class T, int K, int N> using right = right_panel<T, K, N>;
  template <class T, int R, int K> using streamed_left = streamed_left_panel<T, R, K>;
  template <class T, int K, int N> using streamed_right = streamed_right_panel<T, K, N>;
  template <int N, int Words> using words = packed_words<N, Words>;
  template <class S, int N, int C> using stored_rows = row_pointers<S, N, C>;
  template <int R, int G> using factors = factor_array<R, G>;
  template <class S, int R, int G> using left_scales = stored_left_scales<S, R, G>;
  template <class S, int G, int N> using right_scales = stored_right_scales<S, G, N>;
  template <class T, class Codec, int K, int N, int Tile> using coded = coded_panel<T, Codec, K, N, Tile>;

  explicit block(int x, int y, int z, panel_store* panels = nullptr, panel_store* turned = nullptr) : index{x, y, z}, store_of_panels(panels), store_of_turned(turned) {}

  int index[3];
  panel_store* store_of_panels = nullptr;
  panel_store* store_of_turned = nullptr;          // left operands that had to be turned, apart: they are wanted in another order

  int x() const { return index[0]; }
  int y() const { return index[1]; }
  int z() const { return index[2]; }
  static range steps(int first, int last) { return {first, last - (mutant(defect::steps_stop_early) ? 1 : 0)}; }

  // ---- memory: operands
  template <class T, int R, int K, class S, int Step> static void load(left_panel<T, R, K>& t, const view<S, Step>& m, int i, int j) {
    if constexpr (std::is_same_v<std::remove_const_t<S>, typename left_panel<T, R, K>::storage>) {
      const int depth = inside(m.cols, std::int64_t(j) * K, K);
      if (depth % (4 / int(sizeof(S))) == 0 || mutant(defect::left_used_past_k)) {   // whole words: used where it lies
        t.live = mutant(defect::left_reads_all_rows) ? R : inside(m.rows, std::int64_t(i) * R, R);
        t.data = m.data + std::int64_t(i) * R * m.stride + std::int64_t(j) * K;
        t.stride = m.stride, t.across = false;
        t.depth = depth;
        return;
      }
    }
    fill_left(t, inside(m.cols, std::int64_t(j) * K, K), [&](int r) { return address(m, std::int64_t(i) * R + r, std::int64_t(j) * K); });
  }
  template <class T, int R, int K, class S, int Step>
  void load(left_panel<T, R, K>& t, const transposed_view<view<S, Step>>& m, int i, int j) {
    using panel = left_panel<T, R, K>;
    t.drop();
    t.data = &t.own[0][0], t.across = panel::may_lie_across, t.live = inside(m.of.cols, std::int64_t(i) * R, R), t.depth = inside(m.of.rows, std::int64_t(j) * K, K);
    const auto row = [&](int k) { return address(m.of, std::int64_t(j) * K + k, std::int64_t(i) * R); };
    const auto pack = [&](auto& out) {
      if constexpr (panel::may_lie_across) fill_left_across<panel>(out, t.live, t.depth, row);
      else fill_left_transposed<panel>(out, t.live, t.depth, row);
    };
    t.stride = panel::line;
    if (!keep(store_of_turned, t, m.of, i, j, panel::may_lie_across ? 6 : 2, pack)) pack(t.own), t.stride = K;
    if (t.across) t.stride = K * lane_count;
  }
  template <class T, int K, int N, class S, int Step> void load(right_panel<T, K, N>& t, const view<S, Step>& m, int i, int j) {
    using panel = right_panel<T, K, N>;
    own(t);
    const int depth = inside(m.rows, std::int64_t(i) * K, K), valid = inside(m.cols, std::int64_t(j) * N, N);
    const auto pack = [&](typename panel::array& out) {
      fill_right<panel>(out, depth, valid, [&](int r) { return address(m, std::int64_t(i) * K + r, std::int64_t(j) * N); });
    };
    if (!keep(store_of_panels, t, m, i, j, 0, pack)) pack(t.own);
    t.live = valid, t.depth = depth;
  }
  template <class T, int K, int N, class S, int Step>
  void load(right_panel<T, K, N>& t, const transposed_view<view<S, Step>>& m, int i, int j) {
    using panel = right_panel<T, K, N>;
    own(t);
    const int depth = inside(m.of.cols, std::int64_t(i) * K, K), valid = inside(m.of.rows, std::int64_t(j) * N, N);
    const auto pack = [&](typename panel::array& out) {
      fill_right_transposed<panel>(out, valid, depth, [&](int n) { return address(m.of, std::int64_t(j) * N + n, std::int64_t(i) * K); });
    };
    if (!keep(store_of_panels, t, m.of, i, j, 1, pack)) pack(t.own);
    t.live = valid, t.depth = depth;
  }
  template <class T, int R, int K, class S, int Step, class Rows>
  static void load_rows(left_panel<T, R, K>& t, const view<S, Step>& m, const Rows& rows, int j) {
    fill_left(t, inside(m.cols, std::int64_t(j) * K, K), [&](int r) { return address(m, rows.v[r] + (mutant(defect::gather_one_row_late) ? 1 : 0), std::int64_t(j) * K); });
  }
  template <class T, int K, int N, class S, int Step, class Rows>
  static void load_rows(right_panel<T, K, N>& t, const view<S, Step>& m, const Rows& rows, int j) {
    own(t);
    fill_right<right_panel<T, K, N>>(
        t.own, K, inside(m.cols, std::int64_t(j) * N, N), [&](int r) { return address(m, rows.v[r], std::int64_t(mutant(defect::gather_first_columns) ? 0 : j) * N); });
    t.live = inside(m.cols, std::int64_t(j) * N, N);
  }
  template <class T, int K, int N, class S, int Step, class Rows>
  static void load_rows(right_panel<T, K, N>& t, const transposed_view<view<S, Step>>& m, const Rows& rows, int i) {
    own(t);
    fill_right_transposed<right_panel<T, K, N>>(
        t.own, N, inside(m.of.cols, std::int64_t(i) * K, K), [&](int n) { return address(m.of, rows.v[n], std::int64_t(mutant(defect::gather_turned_first_columns) ? 0 : i) * K); });
    t.depth = inside(m.of.cols, std::int64_t(i) * K, K);
  }
  // Rows of one name are the same in every call of a launch: their panel is packed once.
  template <class T, int K, int N, class S, int Step, class Rows>
  void load_rows(right_panel<T, K, N>& t, const view<S, Step>& m, const Rows& rows, int j, int name) {
    using panel = right_panel<T, K, N>;
    own(t);
    const int valid = inside(m.cols, std::int64_t(j) * N, N);
    const auto pack = [&](typename panel::array& out) { fill_right<panel>(out, K, valid, [&](int r) { return address(m, rows.v[r], std::int64_t(j) * N); }); };
    if (!keep(store_of_panels, t, m, name, j, 3, pack)) pack(t.own);
    t.live = valid;
  }
  template <class T, int K, int N, class S, int Step, class Rows>
  void load_rows(right_panel<T, K, N>& t, const transposed_view<view<S, Step>>& m, const Rows& rows, int i, int name) {
    using panel = right_panel<T, K, N>;
    own(t);
    const int depth = inside(m.of.cols, std::int64_t(i) * K, K);
    const auto pack = [&](typename panel::array& out) { fill_right_transposed<panel>(out, N, depth, [&](int n) { return address(m.of, rows.v[n], std::int64_t(i) * K); }); };
    if (!keep(store_of_panels, t, m.of, i, name, 4, pack)) pack(t.own);
    t.depth = depth;
  }

  // ---- memory: block-scaled operands
  template <int R, int K, int Step> static void load(left_panel<e2m1, R, K>& t, const view<const e2m1x2, Step>& m, int i, int j) { load_pairs(t, m, i, j); }
  template <int K, int N, int Step> void load(right_panel<e2m1, K, N>& t, const transposed_view<view<const e2m1x2, Step>>& m, int i, int j) {
    using panel = right_panel<e2m1, K, N>;
    own(t);
    const int depth = 2 * inside(m.of.cols, std::int64_t(i) * (K / 2), K / 2), valid = inside(m.of.rows, std::int64_t(j) * N, N);
    const auto pack = [&](typename panel::array& out) { fill_right_pairs<panel>(out, m.of, i, j, valid, depth); };
    if (!keep(store_of_panels, t, m.of, i, j, 1, pack)) pack(t.own);
    t.live = valid, t.depth = depth;
  }
  template <class S, int R, int G, class M, int Step> static void load(stored_left_scales<S, R, G>& t, const view<const M, Step>& m, int i, int j) { load_scales(t, m, i, j); }
  template <class S, int G, int N, class M, int Step> static void load(stored_right_scales<S, G, N>& t, const transposed_view<view<const M, Step>>& m, int i, int j) { load_scales(t, m.of, i, j); }

  // ---- memory: operands that are used where they lie
  template <class T, int R, int K, class S, int Step> static void load(streamed_left_panel<T, R, K>& t, const view<S, Step>& m, int i, int j) {
    const int valid = inside(m.cols, std::int64_t(j) * K, K);
    if constexpr (std::is_same_v<std::remove_const_t<S>, typename streamed_left_panel<T, R, K>::storage>)
      fill_streamed_left(t, valid, m.data + std::int64_t(i) * R * m.stride + std::int64_t(j) * K, m.stride, inside(m.rows, std::int64_t(i) * R, R), (std::int64_t(i) + 1) * R < m.rows);
    else fill_streamed_left(t, valid, [&](int r) { return address(m, std::int64_t(i) * R + r, std::int64_t(j) * K); });
  }
  template <class T, int K, int N, class S, int Step> static void load(streamed_right_panel<T, K, N>& t, const view<S, Step>& m, int i, int j) {
    const int depth = inside(m.rows, std::int64_t(i) * K, K), valid = inside(m.cols, std::int64_t(j) * N, N);
    if constexpr (std::is_same_v<std::remove_const_t<S>, typename streamed_right_panel<T, K, N>::storage>)
      if (depth > 0 && valid % lane_count == 0) return fill_streamed_right(t, depth, valid, m.data + std::int64_t(i) * K * m.stride + std::int64_t(j) * N, m.stride, (std::int64_t(i) + 1) * K < m.rows);
    fill_streamed_right(t, depth, valid, [&](int r) { return address(m, std::int64_t(i) * K + r, std::int64_t(j) * N); });
  }
  template <class T, int R, int K, class S, int Step, class Rows> static void load_rows(streamed_left_panel<T, R, K>& t, const view<S, Step>& m, const Rows& rows, int j) {
    gather_streamed_left(t, inside(m.cols, std::int64_t(j) * K, K), m, rows, j);
  }
  template <class T, int K, int N, class S, int Step, class Rows> static void load_rows(streamed_right_panel<T, K, N>& t, const view<S, Step>& m, const Rows& rows, int j) {
    gather_streamed_right(t, inside(m.cols, std::int64_t(j) * N, N), m, rows, j);
  }
  // What will be loaded next, after t has been multiplied: its first 32 rows are fetched meanwhile.
  template <class T, int R, int K, class S, int Step, class Rows> static void announce(streamed_left_panel<T, R, K>& t, const view<S, Step>& m, const Rows& rows, int j) { announce_of(t, m, rows, j, K); }
  template <class T, int K, int N, class S, int Step, class Rows> static void announce(streamed_right_panel<T, K, N>& t, const view<S, Step>& m, const Rows& rows, int j) { announce_of(t, m, rows, j, N); }
  template <class T, int R, int K, class S, int Step> static void announce(streamed_left_panel<T, R, K>& t, const view<S, Step>& m, int i, int j) { announce_of(t, m, i, j, R, K); }
  template <class T, int K, int N, class S, int Step> static void announce(streamed_right_panel<T, K, N>& t, const view<S, Step>& m, int i, int j) { announce_of(t, m, i, j, K, N); }
  template <class Panel, class S, int Step> static void announce_of(Panel& t, const view<S, Step>& m, int i, int j, int height, int width) {
    if constexpr (std::is_same_v<std::remove_const_t<S>, typename Panel::storage>) announce_rows(t, [&](int r) { return address(m, std::int64_t(i) * height + r, std::int64_t(j) * width); });
  }
  template <class Panel, class S, int Step, class Rows> static void announce_of(Panel& t, const view<S, Step>& m, const Rows& rows, int j, int width) {
    static_assert(Rows::rows == 32, "smalti: 32 rows are announced");
    if constexpr (std::is_same_v<std::remove_const_t<S>, typename Panel::storage>) announce_rows(t, [&](int r) { return address(m, rows.v[r], std::int64_t(j) * width); });
  }

  // ---- memory: of stacks
  template <class Tile, class S, int Step> void load(Tile& t, const stack<S, Step>& m, int n, int i, int j) { load(t, m[n], i, j); }
  template <class Tile, class S, int Step> void load(Tile& t, const transposed_view<stack<S, Step>>& m, int n, int i, int j) {
    load(t, transposed(m.of[n]), i, j);
  }
  template <class Tile, class S, int Step> void load(Tile& t, const stacks<S, Step>& m, int o, int n, int i, int j) { load(t, m.at(o, n), i, j); }
  template <class Tile, class S, int Step> void load(Tile& t, const transposed_view<stacks<S, Step>>& m, int o, int n, int i, int j) {
    load(t, transposed(m.of.at(o, n)), i, j);
  }

  // ---- arithmetic
  template <class Tile> static void fill(Tile& t, typename Tile::element value) {
    auto* p = reinterpret_cast<typename Tile::element*>(t.v);
    const lanes<typename Tile::element> pack(value);
    for (std::size_t i = 0; i < sizeof(t.v) / sizeof(value) / (mutant(defect::fill_stops_halfway) ? 2 : 1); i += lane_count) write(p + i, pack);
  }
  template <class Acc, int R, int N, int K, class T, class U>
  static void product(array_tile<Acc, R, N>& acc, const left_panel<T, R, K>& a, const right_panel<U, K, N>& b) {
    static_assert(std::is_same_v<typename left_panel<T, R, K>::storage, typename right_panel<U, K, N>::storage>,
                  "smalti: both operands of a product are bf16-like, or both float-like, or both 8-bit integers");
    static_assert(std::is_same_v<Acc, std::conditional_t<std::is_same_v<T, std::int8_t>, int, float>>,
                  "smalti: 8-bit integers are summed in int, everything else in float");
    if (mutant(defect::product_starts_anew)) fill(acc, Acc{});
    const std::int64_t stride = mutant(defect::product_ignores_stride) ? K : a.stride;
    using panel = right_panel<U, K, N>;
    const int depth = a.depth < b.depth ? a.depth : b.depth, columns = round_up(b.live, lane_count);
    const int words = mutant(defect::product_loses_odd_k) ? depth / panel::per_word : ceil_div(depth, panel::per_word);
    if constexpr (panel::in_tiles) dot_strips<false>(&acc.v[0][0], N, a.data, stride, b.data, std::int64_t(K) * panel::strip, a.live, columns, words * panel::per_word);
    else if constexpr (std::is_same_v<T, std::int8_t>)
      dot(&acc.v[0][0], N, a.data, stride, b.data, panel::strip, a.live, columns, words * 4, nullptr, panel::strip == N ? 0 : K * panel::strip);
    else for (int n = 0; n < columns; n += panel::strip)
      dot_left(&acc.v[0][n], N, a, stride, 0, b.data + std::int64_t(n) * K, panel::strip, columns - n < panel::strip ? columns - n : panel::strip, words * panel::per_word);
  }
  template <int R, int N, int K, class T> static void product(array_tile<float, R, N>& acc, const streamed_left_panel<T, R, K>& a, const right_panel<T, K, N>& b) {
    streamed_product<false>(acc, a, b);
  }
  template <int R, int N, int K, class T> static void multiply(array_tile<float, R, N>& acc, const streamed_left_panel<T, R, K>& a, const right_panel<T, K, N>& b) {
    if (a.live < a.pieces || round_up(b.live, lane_count) < N) fill(acc, 0.0f);
    streamed_product<true>(acc, a, b);
  }
  template <int R, int N, int K, class T> static void product(array_tile<float, R, N>& acc, const left_panel<T, R, K>& a, const streamed_right_panel<T, K, N>& b) {
    streamed_product(acc, a, b);
  }
  // Groups of k, each with its scales: integers in one fused kernel, everything else group by group.
  template <int R, int N, int K, class T, class U, class Left, class Right, class Sums = unit_factor, class Minima = unit_factor>
  static void product(array_tile<float, R, N>& acc, const left_panel<T, R, K>& a, const right_panel<U, K, N>& b, const Left& left, const Right& right, const Sums& sums = {},
                      const Minima& minima = {}) {
    using panel = right_panel<U, K, N>;
    constexpr int groups = detail::factor_groups<Left, Right, Sums, Minima>(), group = K / groups;
    static_assert(K % groups == 0 && group % 4 == 0, "smalti: a scaled product has groups of equal length, a multiple of 4");
    const product_factors f = detail::factors_of<N>(left, right, sums, minima);
    const int depth = a.depth < b.depth ? a.depth : b.depth, columns = round_up(b.live, lane_count);
    const int words = ceil_div(depth, panel::per_word);
    for (int n = 0; n < columns; n += panel::strip) {
      const int wide = columns - n < panel::strip ? columns - n : panel::strip;
      const auto* from = b.data + std::int64_t(n) * K;
      if constexpr (std::is_same_v<typename panel::storage, std::int8_t>) {
        scaled_dot(&acc.v[0][n], N, a.data, a.stride, from, panel::strip, a.live, wide, words * 4, group, f.at(0, 0, n));
      } else {
        alignas(64) float part[R][panel::strip];
        for (int g = 0; g * group < depth; ++g) {
          for (int r = 0; r < a.live; ++r) std::memset(part[r], 0, std::size_t(wide) * sizeof(float));
          const int left_words = ceil_div(depth - g * group, panel::per_word);
          dot_left(&part[0][0], panel::strip, a, a.stride, g * group, from + std::int64_t(g) * group * panel::strip, panel::strip, wide,
                   (left_words < group / panel::per_word ? left_words : group / panel::per_word) * panel::per_word);
          for (int r = 0; r < a.live; ++r) {
            const product_factors here = f.at(r, g, n);
            const floats scale = here.left ? floats(*here.left) : floats(1.0f);
            for (int c = 0; c < wide; c += lane_count) {
              floats total = fma(read(&part[r][c]), here.right ? scale * read(here.right + c) : scale, read(&acc.v[r][n + c]));
              if (here.sums) total = fma(floats(*here.sums), read(here.minima + c), total);
              write(&acc.v[r][n + c], total);
            }
          }
        }
      }
    }
  }
  template <int R, int N, int K, class T, class U, class S, int G>
  static void product(array_tile<float, R, N>& acc, const left_panel<T, R, K>& a, const right_panel<U, K, N>& b, const stored_left_scales<S, R, G>& left, const stored_right_scales<S, G, N>& right) {
    product(acc, a, b, static_cast<const factor_array<R, G>&>(left), static_cast<const array_tile<float, G, N>&>(right));
  }
  // Packed codes are decoded now: how, depends on what they are multiplied with and on how many rows there are.
  template <int R, int N, int K, class T, class U, class Codec, int Tile, class Left, class Right, class Sums = unit_factor, class Minima = unit_factor>
  static void product(array_tile<float, R, N>& acc, const left_panel<T, R, K>& a, const coded_panel<U, Codec, K, N, Tile>& b, const Left& left, const Right& right, const Sums& sums = {},
               const Minima& minima = {}) {
    if constexpr (std::is_same_v<U, std::int8_t>) {
      constexpr int groups = detail::factor_groups<Left, Right, Sums, Minima>();
      coded_product<Tile, !std::is_same_v<Sums, unit_factor>, R, K>(acc.v, a.data, a.stride, a.live, a.depth, b.at, Codec{}, K / groups, detail::factors_of<N>(left, right, sums, minima));
    } else {
      constexpr int groups = detail::factor_groups<Left, Right, Sums, Minima>();
      if (!coded_in_tiles<!std::is_same_v<Sums, unit_factor>, K / groups>(acc, a, b, detail::factors_of<N>(left, right, sums, minima)))
        decoded(b, [&](const auto& panel) { product(acc, a, panel, left, right, sums, minima); });
    }
  }
  template <class Acc, int R, int N, int K, class T, class U, class Codec, int Tile>
  static void product(array_tile<Acc, R, N>& acc, const left_panel<T, R, K>& a, const coded_panel<U, Codec, K, N, Tile>& b) {
    if constexpr (std::is_same_v<Acc, float>)
      if (coded_in_tiles<false, K>(acc, a, b, {})) return;
    decoded(b, [&](const auto& panel) { product(acc, a, panel); });
  }
  // The sums in acc are new: where the inner product can begin with zeros, acc is written once.
  template <class Acc, int R, int N, int K, class T, class U>
  static void multiply(array_tile<Acc, R, N>& acc, const left_panel<T, R, K>& a, const right_panel<U, K, N>& b) {
    using panel = right_panel<U, K, N>;
    using storage = typename panel::storage;
    if constexpr (std::is_same_v<typename left_panel<T, R, K>::storage, storage> && (std::is_same_v<storage, bf16> || std::is_same_v<storage, std::int8_t>)) {
      const int words = ceil_div(a.depth < b.depth ? a.depth : b.depth, panel::per_word);
      if (words > 0 && a.live == R && round_up(b.live, lane_count) == N && !mutant(defect::multiply_keeps_sums)) {
        if constexpr (panel::in_tiles) dot_strips<true>(&acc.v[0][0], N, a.data, a.stride, b.data, std::int64_t(K) * panel::strip, R, N, words * panel::per_word);
        else dot_anew(&acc.v[0][0], N, a.data, a.stride, b.data, panel::strip, R, N, words * panel::per_word, panel::strip == N ? 0 : K * panel::strip);
        return;
      }
    }
    if (!mutant(defect::multiply_keeps_sums)) fill(acc, Acc{});
    product(acc, a, b);
  }
  template <class Tile> static void begin(Tile& acc, bool any) {
    if (!any) fill(acc, typename Tile::element{});
  }
  template <class Acc, class Left, class Right> static void product(Acc& acc, const Left& a, const Right& b, bool first) {
    if (first) multiply(acc, a, b);
    else product(acc, a, b);
  }
  template <class T, int R, int K> static void as_left(left_panel<T, R, K>& a, const array_tile<float, R, K>& t) {
    a.data = &a.own[0][0], a.stride = K, a.live = R, a.depth = K;
    for (int r = 0; r < R; ++r) make_left_row([](floats x) { return x; }, a, r, [](floats, floats) {}, t);
  }
  // map, then as_left, in one pass: the values themselves are not kept.
  template <class F, class T, int R, int K, class... In> static void map_left(const F& f, left_panel<T, R, K>& a, const In&... in) {
    a.data = &a.own[0][0], a.stride = K, a.live = R, a.depth = K;
    for (int r = 0; r < R; ++r) make_left_row(f, a, r, [](floats, floats) {}, in...);
  }
  template <class F, class T, int R, int K, class... In> static void map_left_sum(const F& f, left_panel<T, R, K>& a, array_column<float, R>& sums, const In&... in) {
    a.data = &a.own[0][0], a.stride = K, a.live = R, a.depth = K;
    for (int r = 0; r < R; ++r) make_left_row_sum(f, a, sums, r, in...);
  }
  // Most factors of a running maximum are one: such rows are left alone.
  template <int R, int C> static void scale_rows(array_tile<float, R, C>& t, const array_column<float, R>& by) {
    for (int r = 0; r < R; ++r)
      if (by.v[r] != 1.0f)
        for (int c = 0; c < C; c += lane_count) write(&t.v[r][c], read(&t.v[r][c]) * by.v[r]);
  }
  template <class T, int R, int K> static void mask_depth(left_panel<T, R, K>& t, int first, int last) {
    if (first <= 0 && last >= t.depth) return;
    static_assert(!left_panel<T, R, K>::may_lie_across, "smalti: a left operand that may lie across has no masked depth: mask the right one");
    const auto* const from = t.data;
    for (int r = 0; r < t.live; ++r)
      for (int k = 0; k < K; ++k) t.own[r][k] = k >= first && k < last && k < t.depth ? from[r * t.stride + k] : typename left_panel<T, R, K>::storage{};
    t.drop();
    t.data = &t.own[0][0], t.stride = K;
  }
  template <class T, int K, int N> static void mask_depth(right_panel<T, K, N>& t, int first, int last) {
    using panel = right_panel<T, K, N>;
    if (first <= 0 && last >= t.depth) return;
    if (t.data != &t.own[0][0][0][0]) std::memcpy(static_cast<void*>(&t.own), t.data, sizeof(t.own));
    t.drop();
    t.data = &t.own[0][0][0][0];
    for (int k = 0; k < K; ++k)
      if (k < first || k >= last)
        for (int n = 0; n < N; ++n) panel::at(t.own, k, n)[k % panel::per_word] = typename panel::storage{};
  }
  template <int R, int K> static void split(left_panel<tf32, R, K>& high, left_panel<tf32, R, K>& low, const left_panel<float, R, K>& x) {
    for (left_panel<tf32, R, K>* part : {&high, &low}) part->data = &part->own[0][0], part->stride = K, part->live = x.live, part->depth = x.depth;
    for (int r = 0; r < x.live; ++r)
      for (int k = 0; k < x.depth; k += lane_count) {
        const floats v = read(x.data + r * x.stride + k, x.depth - k < lane_count ? x.depth - k : lane_count);
        write(&high.own[r][k], policy::tf32_high{}(v), K - k < lane_count ? K - k : lane_count);
        write(&low.own[r][k], policy::tf32_low{}(v), K - k < lane_count ? K - k : lane_count);
      }
  }
  template <int K, int N> static void split(right_panel<tf32, K, N>& high, right_panel<tf32, K, N>& low, const right_panel<float, K, N>& x) {
    using panel = right_panel<float, K, N>;
    own(high), own(low);
    for (right_panel<tf32, K, N>* part : {&high, &low}) part->live = x.live, part->depth = x.depth;
    const auto& from = *reinterpret_cast<const typename panel::array*>(x.data);
    for (int n = 0; n < x.live; n += lane_count)
      for (int k = 0; k < x.depth; ++k) {
        const floats v = read(&from[n / panel::strip][k][n % panel::strip][0]);
        write(panel::at(high.own, k, n), policy::tf32_high{}(v));
        write(panel::at(low.own, k, n), policy::tf32_low{}(v));
      }
  }
  // Sixteen by sixteen in registers; rows of `in` that `out` has no column for are left out, and so are columns.
  template <class T, int R, int C, int C2> static void turn(array_tile<T, R, C>& out, const array_tile<T, C, C2>& in) {
    static_assert(C2 >= R, "smalti: a turned tile has a column for each row of the result");
    for (int r = 0; r < R; r += lane_count)
      for (int c = 0; c < C; c += lane_count) {
        const void* rows[lane_count];
        for (int i = 0; i < lane_count; ++i) rows[i] = &in.v[c + i][r];
        if (R - r >= lane_count) {
          transpose_words(&out.v[r][c], C, rows);
        } else if ((R - r) % 4 == 0) {
          for (int i = 0; i < R - r; i += 4) {
            const void* from[lane_count];
            for (int k = 0; k < lane_count; ++k) from[k] = static_cast<const char*>(rows[k]) + i * 4;
            transpose_four(&out.v[r + i][c], C, from);
          }
        } else {
          alignas(64) T some[lane_count][lane_count];
          transpose_words(some, lane_count, rows);
          for (int i = 0; i < R - r; ++i) write(&out.v[r + i][c], read(some[i]));
        }
      }
  }
  template <class F, class Out, class... In> static void map(const F& f, Out& out, const In&... in) {
    if constexpr (std::rank_v<decltype(out.v)> == 2) {
      for (int r = 0; r < Out::rows; ++r)
        for (int c = 0; c < Out::cols - (mutant(defect::map_loses_last_pack) ? lane_count : 0); c += lane_count) keep_value(&out.v[r][c], apply(f, across(in, r, c)...));
    } else if constexpr (Out::cols == 1) {
      for (int r = 0; r < Out::rows; r += lane_count) keep_value(&out.v[r], apply(f, down(in, r)...));
    } else {
      for (int c = 0; c < Out::cols; c += lane_count) keep_value(&out.v[c], apply(f, across(in, 0, c)...));
    }
  }
  template <class T, int R, int C> static void row_max(array_column<T, R>& out, const array_tile<T, R, C>& t) {
    reduce(out, t, [](auto a, auto b) { return max(a, b); });
  }
  template <class T, int R, int C> static void row_sum(array_column<T, R>& out, const array_tile<T, R, C>& t) {
    reduce(out, t, [](auto a, auto b) { return a + b; });
  }
  template <class T, int R, int C> static void column_max(array_row<T, C>& out, const array_tile<T, R, C>& t) {
    reduce_down(out, t, [](auto a, auto b) { return max(a, b); });
  }
  template <class T, int R, int C> static void column_sum(array_row<T, C>& out, const array_tile<T, R, C>& t) {
    reduce_down(out, t, [](auto a, auto b) { return a + b; });
  }
  template <int R, int C> static void row_scan(array_tile<int, R, C>& out, const array_tile<int, R, C>& t) {
    for (int r = 0; r < R; ++r)
      for (int c = 0, sum = 0; c < C; ++c) out.v[r][c] = (sum += t.v[r][c]) - (mutant(defect::scan_is_exclusive) ? t.v[r][c] : 0);
  }
  // Depth-tile `Tile` of packed codes; then also (value - zero) * scale, with one row of scales for each group of k.
  template <int Tile, class Codec, int N, int Words, class T, class... W>
  static void unpack(right_panel<T, 4 * Words, N>& b, Codec codec, const packed_words<N, Words>& w, const W&... more) {
    const auto from = own(b, parts_of<Codec>(w, more...));
    unpack_codes<Tile, Words, right_panel<T, 4 * Words, N>>(b.own, from, codec);
  }
  template <int Tile, class Codec, int K, int N, class T, class... W>
  static void unpack(coded_panel<T, Codec, K, N, Tile>& b, Codec, const packed_words<N, K / 4>& w, const W&... more) {
    b.at = parts_of<Codec>(w, more...);
  }
  template <class Operand, class Codec, class Words, class Scales, class Minima> static void unpack_rows(Operand& b, Codec, const Words& w, const Scales& scales, const Minima& minima) {
    host::unpack_rows(b, detail::decoder_of<typename Operand::element, Codec>(w, scales, minima));
  }
  template <class Operand, class Codec, class Words, class Scales, class Minima> static void unpack_columns(Operand& b, Codec, const Words& w, const Scales& scales, const Minima& minima) {
    host::unpack_columns(b, detail::decoder_of<typename Operand::element, Codec>(w, scales, minima));
  }
  template <class Tile, class Operand, class Way> static void part_columns(Tile& x, Tile& y, const Operand& from, Way) { host::part_columns<Way>(x, y, from); }
  template <class Operand, class Tile, class Way> static void join_columns(Operand& t, const Tile& x, const Tile& y, Way, int part = 0) { host::join_columns<Way>(t, x, y, part); }
  template <int Tile, class Codec, int N, int Words, class T, class Scales, class Zeros, class... W>
  static void unpack_scaled(right_panel<T, 4 * Words, N>& b, Codec codec, const Scales& scales, const Zeros& zeros, const packed_words<N, Words>& w, const W&... more) {
    const auto from = own(b, parts_of<Codec>(w, more...));
    const float* zero = nullptr;
    if constexpr (!std::is_same_v<Zeros, unit_factor>) zero = detail::first_of_factors(zeros);
    host::unpack_scaled<Tile, Words, right_panel<T, 4 * Words, N>>(b.own, from, codec, detail::first_of_factors(scales), zero, 4 * Words / detail::factor_groups<Scales>());
  }

private:
  template <class Codec, class... W> static auto parts_of(const W&... w) {
    return word_parts<int(sizeof...(W))>{{w.data + (mutant(defect::unpack_one_word_late) ? w.stride : 0)...}, {w.stride...}, detail::least(w.rows...)};
  }
  // False where tile registers do not multiply such operands.
  template <bool Corrected, int Group, int R, int N, int K, class T, class U, class Codec, int Tile>
  static bool coded_in_tiles([[maybe_unused]] array_tile<float, R, N>& acc, [[maybe_unused]] const left_panel<T, R, K>& a, [[maybe_unused]] const coded_panel<U, Codec, K, N, Tile>& b,
                      [[maybe_unused]] const product_factors& f) {
#if SMALTI_DOT_LEVEL >= 4
    if constexpr (std::is_same_v<typename left_panel<T, R, K>::storage, bf16> && std::is_same_v<typename storage_of<U>::type, bf16> && N == 64 && Group % 32 == 0)
      if (detail::amx_is_usable()) {
        coded_product<Tile, Corrected, R, K>(acc.v, a.data, a.stride, a.live, a.depth, b.at, Codec{}, Group, f);
        return true;
      }
#endif
    return false;
  }
  // work(the right panel that the codes become)
  template <class U, class Codec, int K, int N, int Tile, class Work> static void decoded(const coded_panel<U, Codec, K, N, Tile>& b, Work work) {
    right_panel<U, K, N> panel;
    unpack_codes<Tile, K / 4, right_panel<U, K, N>>(panel.own, own(panel, b.at), Codec{});
    work(panel);
  }
  // Row r of the operand from f, pack by pack; `also` sees every pair of packs before it is rounded.
  template <class F, class T, int R, int K, class Also, class... In> [[gnu::always_inline]] static void make_left_row(const F& f, left_panel<T, R, K>& a, int r, const Also& also, const In&... in) {
    constexpr bool stored_rounded = std::is_same_v<typename left_panel<T, R, K>::storage, T>;
    const auto as_stored = [](floats x) { return stored_rounded || mutant(defect::as_left_not_rounded) ? x : rounded_as<T>(x); };
    for (int k = 0; k + 2 * lane_count <= K; k += 2 * lane_count) {
      const floats first = apply(f, across(in, r, k)...), second = apply(f, across(in, r, k + lane_count)...);
      also(first, second);
      write_pair(&a.own[r][k], as_stored(first), as_stored(second));
    }
    if constexpr (K % (2 * lane_count) != 0) {
      const floats last = apply(f, across(in, r, K - lane_count)...);
      also(last, floats(0.0f));
      write(&a.own[r][K - lane_count], as_stored(last));
    }
  }
  template <class F, class T, int R, int K, class... In> [[gnu::always_inline]] static void make_left_row_sum(const F& f, left_panel<T, R, K>& a, array_column<float, R>& sums, int r, const In&... in) {
    floats even(0.0f), odd(0.0f);
    make_left_row(f, a, r, [&](floats first, floats second) { even = even + first, odd = odd + second; }, in...);
    sums.v[r] = fold(even + odd, [](auto x, auto y) { return x + y; });
  }
  template <class T, int K, int N> static void own(right_panel<T, K, N>& t) {
    t.drop();
    t.data = &t.own[0][0][0][0];
    t.live = N, t.depth = K;
  }
  // The same for codes: of a word tile that ends early no more is decoded than is there.
  template <class T, int K, int N, class Words> static const Words& own(right_panel<T, K, N>& t, const Words& w) {
    own(t);
    if (w.rows < K / 4) t.depth = 4 * w.rows;
    return w;
  }
  // A panel of memory that nobody writes during the launch is packed once and found again. False where there is no
  // room to keep it.
  template <class Panel, class S, int Step, class Pack>
  static bool keep(panel_store* store, Panel& t, const view<S, Step>& m, int i, int j, int form, Pack pack) {
    if constexpr (std::is_const_v<S>)
      if (store != nullptr) {
        const panel_store::key key{mutant(defect::panel_key_without_matrix) ? nullptr : m.data, m.rows, m.cols, m.stride,
                                   mutant(defect::panel_key_without_step) ? 0 : i,
                                   mutant(defect::panel_key_without_strip) ? 0 : j,
                                   mutant(defect::panel_key_without_form) ? 0 : form, Panel::rows, Panel::cols, Panel::per_word};
        const std::byte* p = store->find(key);
        if (p == nullptr) {
          std::byte* room = store->make(key, sizeof(typename Panel::array));
          if (room != nullptr) pack(*reinterpret_cast<typename Panel::array*>(room));
          p = room;
        }
        if (p != nullptr) {
          t.data = reinterpret_cast<const typename Panel::storage*>(p);
          t.kept = store;
          return true;
        }
      }
    return false;
  }
  static void keep_value(float* p, floats x) { write(p, x); }
  static void keep_value(int* p, ints x) { write(p, x); }

  template <class Column, class Tile, class F> static void reduce(Column& out, const Tile& t, F f) {
    for (int r = 0; r < Tile::rows; ++r) {
      auto sum = read(&t.v[r][0]);
      for (int c = mutant(defect::reduction_skips_a_pack) ? 2 * lane_count : lane_count; c < Tile::cols; c += lane_count) sum = f(sum, read(&t.v[r][c]));
      out.v[r] = fold(sum, f);
    }
  }
  template <class Row, class Tile, class F> static void reduce_down(Row& out, const Tile& t, F f) {
    for (int c = 0; c < Tile::cols; c += lane_count) {
      auto sum = read(&t.v[0][c]);
      for (int r = 1; r < Tile::rows - (mutant(defect::reduction_loses_last_row) ? 1 : 0); ++r) sum = f(sum, read(&t.v[r][c]));
      write(&out.v[c], sum);
    }
  }
  template <class T, int R, int C> static lanes<T> across(const array_tile<T, R, C>& t, int r, int c) { return read(&t.v[r][c]); }
  template <class T, int C> static lanes<T> across(const array_row<T, C>& t, int, int c) { return read(&t.v[c]); }
  template <class T, int R> static lanes<T> across(const array_column<T, R>& t, int r, int) { return lanes<T>(t.v[mutant(defect::map_repeats_first_row) ? 0 : r]); }
  static uniform across(row_index, int r, int) { return {r}; }
  static consecutive across(column_index, int, int c) { return {mutant(defect::column_index_restarts) ? 0 : c}; }
  template <class T, int R> static lanes<T> down(const array_column<T, R>& t, int r) { return read(&t.v[r]); }
  static consecutive down(row_index, int r) { return {r}; }
};

}  // namespace smalti::inline SMALTI_CODE::host
