// One small agent for each word of the tile vocabulary, compiled to machine code by scripts/machine_code.py: whether
// every word exists for every type and architecture, and what it becomes. One kernel a compilation, chosen by
// -DKERNEL=name. Nothing here runs.
#include <smalti/core/float.hpp>
#include <smalti/core/view.hpp>
#include <smalti/tile/cuda_tile/launch.cuh>
#include <smalti/tile/vocabulary.hpp>

namespace verbs {

using namespace smalti;

// ---- load and store: every type of memory
template <target> struct convert {
  view<const bf16> from_bf16;
  view<const fp16> from_fp16;
  view<const fp8_e4m3> from_e4m3;
  view<const fp8_e5m2> from_e5m2;
  view<const float> from_float;
  view<const signed char> from_bytes;
  view<const int> from_int;
  view<bf16> to_bf16;
  view<fp16> to_fp16;
  view<fp8_e4m3> to_e4m3;
  view<fp8_e5m2> to_e5m2;
  view<float> to_float;
  view<signed char> to_bytes;
  view<int> to_int;
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int i = block.x(), j = block.y();
    tile<Block, float, 32, 64> sum, part;
    block.load(sum, from_float, i, j);
    block.load(part, from_bf16, i, j);
    add(block, sum, part);
    block.load(part, from_fp16, i, j);
    add(block, sum, part);
    block.load(part, from_e4m3, i, j);
    add(block, sum, part);
    block.load(part, from_e5m2, i, j);
    add(block, sum, part);
    block.store(to_float, i, j, sum);
    block.store(to_bf16, i, j, sum);
    block.store(to_fp16, i, j, sum);
    block.store(to_e4m3, i, j, sum);
    block.store(to_e5m2, i, j, sum);
    tile<Block, int, 32, 64> count, more;
    block.load(count, from_int, i, j);
    block.load(more, from_bytes, i, j);
    add(block, count, more);
    block.store(to_int, i, j, count);
    block.store(to_bytes, i, j, count);
  }
  template <class Block, class Tile> static SMALTI_HD void add(Block& block, Tile& sum, const Tile& part) {
    block.map([](auto a, auto b) { return a + b; }, sum, sum, part);
  }
};

// ---- load and store: transposed, stacked, a far stack by its matrix
template <target> struct turned {
  view<const bf16> a;
  stack<const bf16> b;
  stack<const float> far;
  view<float> c;
  stack<float> d;
  view<float> column_out;
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int i = block.x(), j = block.y(), n = block.z();
    tile<Block, float, 64, 32> x, y, z;
    block.load(x, transposed(a), i, j);
    block.load(y, transposed(b), n, i, j);
    block.load(z, far[n], i, j);
    block.map([](auto p, auto q, auto r) { return p + q * r; }, x, x, y, z);
    block.load(y, b, n, i, j);
    block.map([](auto p, auto q) { return p - q; }, x, x, y);
    block.store(transposed(c), i, j, x);
    block.store(transposed(d), n, i, j, x);
    block.store(d, n, i, j, x);
    column<Block, float, 64> s;
    block.row_sum(s, x);
    block.store_column(column_out, n, i, s);
  }
};

// ---- product: C = A B' for operands of T, memory of M
template <class T, class M, int R, int C, int K, int Step = step_of<M>> struct product_of {
  using sum = std::conditional_t<std::is_integral_v<T>, int, float>;
  view<const M, Step> a, b;
  view<sum, Step == 1 ? 1 : step_of<sum>> c;
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    tile<Block, sum, R, C> acc;
    block.fill(acc, 0);
    for (int step : block.steps(0, ceil_div(a.cols, K))) {
      left<Block, T, R, K> x;
      right<Block, T, K, C> w;
      block.load(x, a, block.x(), step);
      block.load(w, transposed(b), step, block.y());
      block.product(acc, x, w);
    }
    block.store(c, block.x(), block.y(), acc);
  }
};
constexpr int rows_of(target t) { return t == target::sm90 || t == target::sm100 ? 128 : 64; }
template <target T> using product_bf16 = product_of<bf16, bf16, rows_of(T), 128, 64>;
template <target T> using product_fp16 = product_of<fp16, fp16, rows_of(T), 128, 64>;
template <target T> using product_tf32 = product_of<tf32, float, rows_of(T), T == target::sm80 || T == target::sm120 ? 64 : 128, 32>;
template <target T> using product_e4m3 = product_of<fp8_e4m3, fp8_e4m3, 64, 64, 64>;
template <target T> using product_e5m2 = product_of<fp8_e5m2, fp8_e5m2, 64, 64, 64>;
template <target T> using product_int8 = product_of<signed char, signed char, 64, 64, 64>;
template <target T> using product_slow = product_of<bf16, bf16, 64, 64, 32, 1>;

// ---- as_left: the second product takes the first one's sums
template <target T> struct chained {
  static constexpr int keys = T == target::sm80 ? 32 : 64;   // 64 of them spill 280 bytes on sm_80
  view<const bf16> a, b, d;
  view<bf16> c;
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    left<Block, bf16, 64, 64> x;
    left<Block, bf16, 64, keys> p;
    right<Block, bf16, 64, keys> w;
    right<Block, bf16, keys, 64> v;
    tile<Block, float, 64, keys> s;
    tile<Block, float, 64, 64> acc;
    block.fill(acc, 0.0f);
    block.load(x, a, block.x(), 0);
    for (int step : block.steps(0, ceil_div(b.rows, keys))) {
      block.fill(s, 0.0f);
      block.load(w, transposed(b), 0, step);
      block.product(s, x, w);
      block.as_left(p, s);
      block.load(v, d, step, 0);
      block.product(acc, p, v);
    }
    block.store(c, block.x(), 0, acc);
  }
};

// ---- load_rows, store_rows, scatter, lookup
template <target> struct gathered {
  view<const bf16> x;
  view<const bf16, 64> whole;
  view<const float, 1> loose;
  const int* index;
  int count;
  view<bf16> y;
  view<float, 1> z;
  view<int, 1> places;
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int i = block.x(), j = block.y();
    column<Block, int, 64> rows, targets;
    block.map([=, index = index, count = count](auto r) { return max(lookup(index, r + i * 64, count), 0); }, rows, row_index{});
    block.map([=, count = count](auto r, auto to) { return where(r + i * 64 < count, to, -1); }, targets, row_index{}, rows);
    tile<Block, float, 64, 64> a, b, c;
    block.load_rows(a, x, rows, j);
    block.load_rows(b, whole, rows, j);
    block.load_rows(c, transposed(whole), rows, j);
    block.map([=, loose = loose](auto p, auto q, auto s, auto r, auto k) { return p * q + s + lookup(loose, r, k); }, a, a, b, c,
              row_index{}, column_index{});
    block.store_rows(y, targets, j, a);
    block.store_rows(z, targets, j, a);
    tile<Block, int, 64, 64> hits, before, columns;
    block.map([](auto v) { return where(v > 0.0f, 1, 0); }, hits, a);
    block.row_scan(before, hits);
    block.map([](auto k) { return k; }, columns, column_index{});
    block.scatter(places, i, before, hits, columns);
  }
};

// ---- reductions
template <target> struct reduced {
  view<const float> x;
  view<const int> n;
  view<float, 1> out;
  view<int, 1> counts;
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int i = block.x();
    tile<Block, float, 64, 64> t;
    tile<Block, int, 64, 64> u;
    block.load(t, x, i, 0);
    block.load(u, n, i, 0);
    column<Block, float, 64> most, sum;
    row<Block, float, 64> across_most, across_sum;
    column<Block, int, 64> most_of, sum_of;
    row<Block, int, 64> across_most_of, across_sum_of;
    block.row_max(most, t);
    block.row_sum(sum, t);
    block.column_max(across_most, t);
    block.column_sum(across_sum, t);
    block.row_max(most_of, u);
    block.row_sum(sum_of, u);
    block.column_max(across_most_of, u);
    block.column_sum(across_sum_of, u);
    block.map([](auto v, auto a, auto b, auto c, auto d) { return over(v - a, b) * c + d; }, t, t, most, sum, across_most, across_sum);
    block.map([](auto v, auto a, auto b, auto c, auto d) { return ((v - a) ^ b) + (c & d); }, u, u, most_of, sum_of, across_most_of, across_sum_of);
    block.store(out, i, 0, t);
    block.store(counts, i, 0, u);
  }
};

// ---- arrive and accumulate: partial sums, combined in order by the last block to arrive
template <target> struct arrived {
  stack<float> parts;
  view<float> total;
  view<float> unordered;
  stack<float, 1> unordered_too;
  int* counter;
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int i = block.x(), j = block.y(), n = block.z();
    tile<Block, float, 64, 64> t, sum;
    block.load(t, parts, n, i, j);
    block.map([](auto v) { return v * 2.0f; }, t, t);
    block.accumulate(unordered, i, j, t);
    block.accumulate(unordered_too, n, i, j, t);
    block.store(parts, n, i, j, t);
    if (block.arrive(counter) != parts.count - 1) return;
    block.fill(sum, 0.0f);
    for (int k : block.steps(0, parts.count)) {
      block.load(t, parts, k, i, j);
      block.map([](auto a, auto b) { return a + b; }, sum, sum, t);
    }
    block.store(total, i, j, sum);
  }
};

// ---- values
template <target> struct functions {
  view<const float> x;
  view<float> y;
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    const int i = block.x();
    tile<Block, float, 16, 64> t;
    tile<Block, int, 16, 64> u;
    block.load(t, x, i, 0);
    block.map([](auto v) { return exp2(v) + log2(abs(v)) + sqrt(abs(v)) + rsqrt(abs(v) + 1.0f); }, t, t);
    block.map([](auto v) { return tanh(v) + erf(v) + sin(v) + cos(v) + floor(v); }, t, t);
    block.map([](auto v) { return fma(v, v, 1.0f) + max(v, 0.0f) + min(1, v) + where(v < 0.0f, -v, 2) + over(1.0f, v) + v / (v + 3); }, t, t);
    block.map([](auto v) { return bits_float(float_bits(v) & 0x7fffffff) + to_float(to_int(v)) + rounded_as<bf16>(v) + rounded_as<fp8_e4m3>(v); }, t, t);
    block.map([](auto v, auto r, auto c) { return where(!(v >= 1.0f) && (r == c || r != 3), (to_int(v) << 2) % 7, (r | c) / 3 - (c >> 1)); }, u, t,
              row_index{}, column_index{});
    block.map([](auto v, auto n) { return v + to_float(n); }, t, t, u);
    block.store(y, i, 0, t);
  }
};

// ---- words and unpack
using four_bits = policy::offset_int<4>;
template <class T, bool Left> struct unpacked {
  stack<const std::uint32_t> codes;
  view<const T> x;
  view<float> y;
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    tile<Block, float, 64, 64> acc;
    block.fill(acc, 0.0f);
    for (int g : block.steps(0, ceil_div(x.cols, 128))) {
      words<Block, 64, 16> w;
      block.load(w, codes, g, block.y());
      plane<0>(block, acc, w, g);
    }
    block.store(y, block.x(), block.y(), acc);
  }
  template <int P, class Block, class Acc, class Words> SMALTI_HD void plane(Block& block, Acc& acc, const Words& w, int g) const {
    if constexpr (P < 4) {
      if constexpr (Left) {
        left<Block, T, 64, 32> a;
        right<Block, T, 32, 64> b;
        block.load(b, transposed(x), g * 4 + P, block.x());
        block.template unpack<P>(a, four_bits{}, w);
        block.product(acc, a, b);
      } else {
        left<Block, T, 64, 32> a;
        right<Block, T, 32, 64> b;
        block.load(a, x, block.x(), g * 4 + P);
        block.template unpack<P>(b, four_bits{}, w);
        block.product(acc, a, b);
      }
      plane<P + 1>(block, acc, w, g);
    }
  }
};
template <target> using unpacked_bf16 = unpacked<bf16, true>;
template <target> using unpacked_fp16 = unpacked<fp16, false>;

// ---- an agent whose fields stand in every awkward place: empty policies first, nested, an enum, no field at all
enum class colour : int { red, green };
struct nothing {};
struct nested { nothing first; view<float> y; nothing last; };
template <target> struct awkward {
  static constexpr int occupancy = 2, cluster = 1;
  nothing first;
  colour c;
  nested inner;
  nothing middle;
  bool twice;
  long long shift;
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    tile<Block, float, 16, 16> t;
    block.fill(t, c == colour::red && twice ? float(shift) : 1.0f);
    block.store(inner.y, block.x(), 0, t);
  }
};

struct maker { template <target T> using agent = KERNEL<T>; };

}  // namespace verbs

smalti::status launch(cudaStream_t stream, const smalti::grid& g, const verbs::maker::agent<smalti::target::sm80>& agent) {
  return smalti::cuda_tile::launch(stream, verbs::maker{}, g, agent);
}
