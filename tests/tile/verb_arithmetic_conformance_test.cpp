// Verb conformance, arithmetic: fill, product, as_left, unpack, map, reductions, scans.
#include "conformance.hpp"

#include <smalti/policy/codec.hpp>

using namespace conformance;

namespace {

// C = A B over several steps of k: ragged M, N, K; B as rows of k or as columns
template <class S, class T, class Sum, int Step, bool Transposed> struct multiply {
  static constexpr int M = 16, N = 32, K = 64;
  struct arguments {
    view<const S, Step> a, b;
    view<Sum, 1> c;
    int k;
  } x;
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.c.rows, M), ceil_div(x.c.cols, N), 1}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    tile<Block, Sum, M, N> acc, fresh;
    block.fill(acc, Sum(3));                                   // a product adds
    block.fill(fresh, Sum(77));
    block.begin(fresh, x.k > 0);                               // the first of these does not
    for (int step : block.steps(0, ceil_div(x.k, K))) {
      left<Block, T, M, K> a;
      right<Block, T, K, N> b;
      block.load(a, x.a, block.x(), step);
      if constexpr (Transposed) block.load(b, transposed(x.b), step, block.y());
      else block.load(b, x.b, step, block.y());
      block.product(acc, a, b);
      block.product(fresh, a, b, step == 0);
    }
    block.map([](auto u, auto v) { return u + v; }, acc, acc, fresh);
    block.store(x.c, block.x(), block.y(), acc);
  }
};

// as_left: (A B) C with the inner product rounded to T
template <class T> struct twice {
  static constexpr int N = 32;
  struct arguments {
    view<const T> a, b;
    view<float, 1> c;
  } x;
  static constexpr grid blocks(const arguments&) { return {}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    left<Block, T, N, N> a, p;
    right<Block, T, N, N> b;
    tile<Block, float, N, N> acc;
    block.load(a, x.a, 0, 0);
    block.load(b, x.b, 0, 0);
    block.fill(acc, 0.0f);
    block.product(acc, a, b);
    block.map([](auto v) { return v * 1.001f; }, acc, acc);    // no longer an integer: as_left rounds it
    block.as_left(p, acc);
    block.fill(acc, 0.0f);
    block.product(acc, p, b);
    block.store(x.c, 0, 0, acc);
  }
};

// map_left, map_left_sum, scale_rows: by (rounded(1.001 x) B + rounded(-x) B), and the sums of 1.001 x
template <class T> struct weighed {
  static constexpr int N = 32;
  struct arguments {
    view<const float> x, by;
    view<const T> b;
    view<float, 1> c, sums;
  } x;
  static constexpr grid blocks(const arguments&) { return {}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    left<Block, T, N, N> p;
    right<Block, T, N, N> b;
    tile<Block, float, N, N> t, acc;
    column<Block, float, N> by, sums;
    block.load(t, x.x, 0, 0);
    block.load(by, x.by, 0, 0);
    block.load(b, x.b, 0, 0);
    block.map_left_sum([](auto v) { return v * 1.001f; }, p, sums, t);
    block.multiply(acc, p, b);
    block.map_left([](auto v, auto r) { return -v - to_float(r); }, p, t, row_index{});
    block.product(acc, p, b);
    block.scale_rows(acc, by);
    block.store(x.c, 0, 0, acc);
    block.store(x.sums, 0, 0, sums);
  }
};

// c = a b' of codes as they lie under their scales (T: the operands; M: of memory; S, Stored: of scales)
template <class T, class M, class S, class Stored> struct block_scaled {
  static constexpr int R = 128, N = 32, K = 128, G = K / (std::is_same_v<S, e8m0> ? 32 : 16);
  struct arguments {
    view<const M> a, b;
    view<const Stored> a_scales, b_scales;
    view<float> c;
  } x;
  static constexpr grid blocks(const arguments&) { return {}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    left<Block, T, R, K> a;
    right<Block, T, K, N> b;
    left_scales<Block, S, R, G> left;
    right_scales<Block, S, G, N> right;
    tile<Block, float, R, N> acc;
    block.fill(acc, 0.0f);
    for (int t : block.steps(0, ceil_div(x.a.cols * codes_in<M>, K))) {
      block.load(a, x.a, 0, t);
      block.load(b, transposed(x.b), t, 0);
      block.load(left, x.a_scales, 0, t);
      block.load(right, transposed(x.b_scales), t, 0);
      block.product(acc, a, b, left, right);
    }
    block.store(x.c, 0, 0, acc);
  }
};

// c = a[., first to last] b[first + 1 to last, .]
template <class T, class Sum> struct masked {
  static constexpr int N = 64;
  struct arguments {
    view<const T> a, b;
    view<Sum> c;
    int first, last;
  } x;
  static constexpr grid blocks(const arguments&) { return {}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    left<Block, T, N, N> a;
    right<Block, T, N, N> b;
    tile<Block, Sum, N, N> acc;
    block.load(a, x.a, 0, 0);
    block.load(b, x.b, 0, 0);
    block.mask_depth(a, x.first, x.last);
    block.mask_depth(b, x.first + 1, 100);
    block.fill(acc, 0);
    block.product(acc, a, b);
    block.store(x.c, 0, 0, acc);
  }
};

// multiply, turn, matrices of stacks of stacks, and a column scattered to rows: c = (a b)' of one matrix of each, and the
// largest of each row of a b to the rows in reverse
struct turned {
  static constexpr int N = 32;
  struct arguments {
    stacks<const bf16> a;
    view<const bf16> b;
    stacks<float> c;
    view<float, 1> largest;
  } x;
  static constexpr grid blocks(const arguments&) { return {}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    left<Block, bf16, N, N> a;
    right<Block, bf16, N, N> b;
    tile<Block, float, N, N> acc, t;
    block.load(a, x.a, 1, 2, 0, 0);
    block.load(b, x.b, 0, 0);
    block.fill(acc, 77.0f);                                    // multiply begins anew
    block.multiply(acc, a, b);
    block.turn(t, acc);
    block.store(x.c, 1, 2, 0, 0, t);
    column<Block, float, N> most;
    column<Block, int, N> to;
    block.row_max(most, acc);
    block.map([=, rows = x.a.rows](auto r) { return where(r < rows, rows - 1 - r, -1); }, to, row_index{});
    block.store_rows(x.largest, to, 0, most);
  }
};

// Codes to an operand and through a product: T takes Run 2 on cuda_tile and Run 4 on the host, int8 Run 4 on both. One word
// tile: every position of it in turn.
#if defined(__CUDACC__)
template <class T> constexpr int codes_of_run = std::is_same_v<T, std::int8_t> ? 4 : 2;
#else
template <class T> constexpr int codes_of_run = 4;
#endif
template <class T, class Codec, bool Scaled> struct unpacked {
  static constexpr int M = 16, N = 32, W = 32 / codes_of_run<T>;        // 32 codes an operand: square, left and right look alike
  using planes = policy::word_planes<Codec::bits, codes_of_run<T>, W>;
  static constexpr int tiles = planes::lane / planes::narrowest;
  using sum = std::conditional_t<std::is_same_v<T, std::int8_t>, int, float>;
  struct arguments {
    view<const T> a;
    stack<const std::uint32_t> first, second, third;
    view<const float, 1> scales, zeros;
    view<sum, 1> c;
  } x;
  static constexpr grid blocks(const arguments&) { return {}; }
  template <int Tile, class Block, class Acc, class... Words> SMALTI_HD void one(Block& block, Acc& acc, const Words&... w) const {
    left<Block, T, M, 32> a;
    right<Block, T, 32, N> b;
    block.load(a, x.a, 0, Tile);
    if constexpr (Scaled) {
      row<Block, float, N> scale, zero;
      block.load(scale, x.scales, 0, 0);
      block.load(zero, x.zeros, 0, 0);
      block.template unpack_scaled<Tile>(b, Codec{}, scale, zero, w...);
    } else {
      block.template unpack<Tile>(b, Codec{}, w...);
    }
    block.product(acc, a, b);
  }
  template <int Tile, class Block, class Acc> SMALTI_HD void each(Block& block, Acc& acc) const {
    if constexpr (Tile < tiles) {
      words<Block, N, W> first, second, third;
      block.load(first, x.first, planes::word_tile(Tile, 0), 0);
      if constexpr (planes::parts == 1) one<Tile>(block, acc, first);
      if constexpr (planes::parts > 1) block.load(second, x.second, planes::word_tile(Tile, 1), 0);
      if constexpr (planes::parts == 2) one<Tile>(block, acc, first, second);
      if constexpr (planes::parts > 2) {
        block.load(third, x.third, planes::word_tile(Tile, 2), 0);
        one<Tile>(block, acc, first, second, third);
      }
      each<Tile + 1>(block, acc);
    }
  }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    tile<Block, sum, M, N> acc;
    block.fill(acc, 0);
    each<0>(block, acc);
    block.store(x.c, 0, 0, acc);
  }
};

// Scaled products: int8 or bf16, with and without the correction; one group a product
template <class T> struct scaled {
  static constexpr int M = 16, N = 32, K = 64;
  struct arguments {
    view<const T> a, b;                                          // M x K, N x K
    view<const float, 1> rows, columns, sums, minima;           // groups x M, groups x N
    view<float, 1> plain, by_column, corrected;
    int k;
  } x;
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.plain.rows, M), ceil_div(x.plain.cols, N), 1}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    tile<Block, float, M, N> all, half, corrected;
    block.fill(all, 0.0f);
    block.fill(half, 0.0f);
    block.fill(corrected, 0.0f);
    for (int step : block.steps(0, ceil_div(x.k, K))) {
      left<Block, T, M, K> a;
      right<Block, T, K, N> b;
      factors<Block, M, 1> rows, sums;
      row<Block, float, N> columns, minima;
      block.load(a, x.a, block.x(), step);
      block.load(b, transposed(x.b), step, block.y());
      block.load(rows, transposed(x.rows), block.x(), step);
      block.load(sums, transposed(x.sums), block.x(), step);
      block.load(columns, x.columns, step, block.y());
      block.load(minima, x.minima, step, block.y());
      block.product(all, a, b, rows, columns);
      block.product(half, a, b, unit_factor{}, columns);
      block.product(corrected, a, b, rows, columns, sums, minima);
    }
    block.store(x.plain, block.x(), block.y(), all);
    block.store(x.by_column, block.x(), block.y(), half);
    block.store(x.corrected, block.x(), block.y(), corrected);
  }
};

struct reductions {
  static constexpr int R = 16, C = 64;
  struct arguments {
    view<const float, 1> from;
    view<float, 1> down, across;      // max and sum of rows as columns; max and sum of columns as rows
    view<int, 1> scan, most;
  } x;
  static constexpr grid blocks(const arguments&) { return {}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    tile<Block, float, R, C> t;
    tile<Block, int, R, C> n, running;
    column<Block, float, R> high, total;
    row<Block, float, C> tall, sum;
    column<Block, int, R> top;
    block.load(t, x.from, 0, 0);
    block.row_max(high, t);
    block.row_sum(total, t);
    block.column_max(tall, t);
    block.column_sum(sum, t);
    block.store(x.down, 0, 0, high), block.store(x.down, 0, 1, total);
    block.store(x.across, 0, 0, tall), block.store(x.across, 1, 0, sum);
    block.map([](auto v) { return to_int(v); }, n, t);
    block.row_scan(running, n);
    block.store(x.scan, 0, 0, running);
    block.row_max(top, n);
    block.store(x.most, 0, 0, top);
  }
};

template <class S, class T, class Sum, int Step, bool Transposed> void product_case(record& r, int m, int n, int k) {
  const int lda = (k + 15) / 16 * 16 + 16, ldb = ((Transposed ? k : n) + 15) / 16 * 16 + 16;
  const int limit = std::is_same_v<S, std::int8_t> ? 128 : 4;
  const auto a = integers<S>(std::size_t(m) * lda, limit), b = integers<S>(std::size_t(Transposed ? n : k) * ldb, limit);
  test::array<Sum> c(std::size_t(m) * n);
  run(multiply<S, T, Sum, Step, Transposed>{{{a.data(), m, k, lda}, {b.data(), Transposed ? n : k, Transposed ? k : n, ldb}, {c.data(), m, n, n}, k}});
  for (int i = 0; i < m; ++i)
    for (int j = 0; j < n; ++j) {
      double want = 3;                                          // and the product twice
      for (int p = 0; p < k; ++p) want += 2 * test::value(a[i * lda + p]) * test::value(Transposed ? b[j * ldb + p] : b[p * ldb + j]);
      if (double(c[i * n + j]) != want) {
        CAPTURE(type_name<S>(), i, j, m, n, k);
        REQUIRE(double(c[i * n + j]) == want);
      }
    }
  r.keep(std::string("product ") + type_name<S>() + " step " + std::to_string(Step) + (Transposed ? " transposed " : " ") + std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k), c);
}
template <class S, class T, class Sum> void product_cases(record& r) {
  for (auto [m, n, k] : {std::tuple{1, 1, 1}, {16, 32, 64}, {17, 33, 65}, {40, 70, 130}, {5, 100, 31}}) {
    product_case<S, T, Sum, 1, false>(r, m, n, k);
    product_case<S, T, Sum, 1, true>(r, m, n, k);
  }
  product_case<S, T, Sum, step_of<S>, true>(r, 33, 48, 112);
  product_case<S, T, Sum, step_of<S>, false>(r, 33, 48, 112);
}

// Values and scales are small multiples of powers of two: every sum is exact, so the machines agree to the bit. Table codecs
// are compared with values rounded to the operand.
template <class T, class Codec, bool Scaled = false> void unpack_case(record& r, const char* name) {
  using agent = unpacked<T, Codec, Scaled>;
  using planes = typename agent::planes;
  const int m = 16, n = 32, k = planes::step;
  const auto a = integers<T>(std::size_t(m) * k);
  std::vector<unsigned> code(std::size_t(n) * k);
  std::mt19937 generator(seed);
  for (unsigned& c : code) do c = unsigned(generator() % (1u << Codec::bits)); while (!std::isfinite(Codec::value(c)));
  std::vector<test::array<std::uint32_t>> words;
  stack<const std::uint32_t> part[3];
  for (int p = 0; p < planes::parts; ++p) {
    const int high = planes::words_of(k, p);
    words.emplace_back(std::size_t(high) * n);
    for (auto& w : words[p]) w = 0;
#if defined(__CUDACC__)
    const auto place = [=](int j, int w) { return j * high + w; };
    part[p] = {words[p].data(), 1, n, high, 0, high};
#else
    const auto place = [=](int j, int w) { return w * n + j; };
    part[p] = {words[p].data(), 1, high, n, static_cast<long long>(high) * n, n};
#endif
    for (int j = 0; j < n; ++j)
      for (int c = 0; c < k; ++c) {
        const auto at = planes::place(c, p);
        words[p][place(j, at.word)] |= (code[std::size_t(j) * k + c] >> planes::shift(p) & ((1u << planes::width(p)) - 1)) << at.bit;
      }
  }
  test::array<float> scales(n), zeros(n);
  for (int j = 0; j < n; ++j) scales[j] = std::ldexp(1.0f, j % 5 - 2), zeros[j] = float(j % 7);
  test::array<typename agent::sum> c(std::size_t(m) * n);
  run(agent{{{a.data(), m, k, k}, part[0], part[1], part[2], {scales.data(), 1, n, n}, {zeros.data(), 1, n, n}, {c.data(), m, n, n}}});
  for (int i = 0; i < m; ++i)
    for (int j = 0; j < n; ++j) {
      double want = 0, size = 0;
      for (int p = 0; p < k; ++p) {
        double v = Codec::value(code[std::size_t(j) * k + p]);
        if constexpr (!std::is_same_v<T, std::int8_t>) v = to_float(narrow<T>(float(v)));
        if (Scaled) v = (v - zeros[j]) * scales[j];
        want += test::value(a[std::size_t(i) * k + p]) * v, size += std::abs(test::value(a[std::size_t(i) * k + p]) * v);
      }
      CAPTURE(name, i, j);
      if (!(std::abs(double(c[i * n + j]) - want) <= k * 0x1p-24 * size)) REQUIRE(double(c[i * n + j]) == want);
    }
  constexpr bool table = requires { Codec::sign_and_magnitude; };
  r.keep(std::string("unpack ") + name, c, table ? 1e-4 : 0);
}

template <class T> void scaled_case(record& r, int m, int n, int k) {
  constexpr int group = 64;
  const int lda = (k + 15) / 16 * 16, groups = (k + group - 1) / group;
  const auto a = integers<T>(std::size_t(m) * lda, std::is_same_v<T, std::int8_t> ? 127 : 4), b = integers<T>(std::size_t(n) * lda, std::is_same_v<T, std::int8_t> ? 128 : 4);
  test::array<float> rows(std::size_t(groups) * m), sums(rows.size()), columns(std::size_t(groups) * n), minima(columns.size());
  std::mt19937 generator(seed);
  const auto draw = [&](auto& to) { for (float& x : to) x = std::ldexp(1.0f, int(generator() % 4) - 2); };
  draw(rows), draw(sums), draw(columns), draw(minima);
  test::array<float> plain(std::size_t(m) * n), by_column(plain.size()), corrected(plain.size());
  run(scaled<T>{{{a.data(), m, k, lda}, {b.data(), n, k, lda}, {rows.data(), groups, m, m}, {columns.data(), groups, n, n}, {sums.data(), groups, m, m}, {minima.data(), groups, n, n},
                 {plain.data(), m, n, n}, {by_column.data(), m, n, n}, {corrected.data(), m, n, n}, k}});
  for (int i = 0; i < m; ++i)
    for (int j = 0; j < n; ++j) {
      double want = 0, half = 0, correction = 0;
      for (int g = 0; g < groups; ++g) {
        double sum = 0;
        for (int p = g * group; p < std::min(k, (g + 1) * group); ++p) sum += test::value(a[std::size_t(i) * lda + p]) * test::value(b[std::size_t(j) * lda + p]);
        want += sum * rows[std::size_t(g) * m + i] * columns[std::size_t(g) * n + j];
        half += sum * columns[std::size_t(g) * n + j];
        correction += double(sums[std::size_t(g) * m + i]) * minima[std::size_t(g) * n + j];
      }
      CAPTURE(i, j, m, n, k);
      if (double(plain[std::size_t(i) * n + j]) != want) REQUIRE(double(plain[std::size_t(i) * n + j]) == want);
      if (double(by_column[std::size_t(i) * n + j]) != half) REQUIRE(double(by_column[std::size_t(i) * n + j]) == half);
      if (double(corrected[std::size_t(i) * n + j]) != want + correction) REQUIRE(double(corrected[std::size_t(i) * n + j]) == want + correction);
    }
  const std::string name = std::string("scaled product ") + type_name<T>() + " " + std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k);
  r.keep(name, plain);
  r.keep(name + " by column", by_column);
  r.keep(name + " corrected", corrected);
}

// Scales are powers of two, all sums exact.
template <class T, class M, class S, class Stored> void block_scaled_case(record& r, const char* name, int m, int n, int k) {
  constexpr int group = std::is_same_v<S, e8m0> ? 32 : 16, pair = codes_in<M>;
  const int wide = (k / group + 15) / 16 * 16;
  std::mt19937 generator(seed);
  test::array<M> a(std::size_t(m) * (k / pair)), b(std::size_t(n) * (k / pair));
  test::array<Stored> left(std::size_t(m) * wide), right(std::size_t(n) * wide);
  test::array<float> c(std::size_t(m) * n);
  const auto draw = [&](auto& codes, auto& scales) {
    for (auto& x : codes) {
      const unsigned bits = unsigned(generator());
      const std::uint8_t byte = pair == 2 ? std::uint8_t(bits) : narrow<fp8_e4m3>(float(int(bits % 9) - 4)).bits;
      std::memcpy(static_cast<void*>(&x), &byte, 1);
    }
    for (auto& s : scales) {
      const int e = int(generator() % 4) - 2;
      if constexpr (std::is_same_v<S, e8m0>) s = std::uint8_t(127 + e);
      else s = narrow<fp8_e4m3>(std::ldexp(1.0f, e));
    }
  };
  draw(a, left), draw(b, right);
  run(block_scaled<T, M, S, Stored>{{{a.data(), m, k / pair, k / pair}, {b.data(), n, k / pair, k / pair}, {left.data(), m, wide, wide}, {right.data(), n, wide, wide}, {c.data(), m, n, n}}});
  const double fp4[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  const auto code = [&](const auto& codes, int row, int p) {
    std::uint8_t byte;
    std::memcpy(&byte, &codes[std::size_t(row) * (k / pair) + p / pair], 1);
    if (pair == 1) return double(to_float(fp8_e4m3{byte}));
    const unsigned nibble = p % 2 ? byte >> 4 : byte & 15u;
    return nibble & 8 ? -fp4[nibble & 7] : fp4[nibble];
  };
  const auto scale = [&](const auto& scales, int row, int p) {
    if constexpr (std::is_same_v<S, e8m0>) return std::ldexp(1.0, int(scales[std::size_t(row) * wide + p / group]) - 127);
    else return double(to_float(scales[std::size_t(row) * wide + p / group]));
  };
  for (int i = 0; i < m; ++i)
    for (int j = 0; j < n; ++j) {
      double want = 0;
      for (int p = 0; p < k; ++p) want += code(a, i, p) * scale(left, i, p) * code(b, j, p) * scale(right, j, p);
      CAPTURE(name, i, j);
      if (double(c[std::size_t(i) * n + j]) != want) REQUIRE(double(c[std::size_t(i) * n + j]) == want);
    }
  r.keep(std::string("block-scaled ") + name, c);
}
template <class T, class Sum> void masked_case(record& r, int k, int first, int last) {
  const auto a = integers<T>(64 * 64), b = integers<T>(64 * 64);
  test::array<Sum> c(64 * 64);
  run(masked<T, Sum>{{{a.data(), 64, k, 64}, {b.data(), k, 64, 64}, {c.data(), 64, 64, 64}, first, last}});
  for (int i = 0; i < 64; ++i)
    for (int j = 0; j < 64; ++j) {
      double want = 0;
      for (int p = std::max(0, first + 1); p < std::min(k, last); ++p) want += test::value(a[i * 64 + p]) * test::value(b[p * 64 + j]);
      CAPTURE(k, first, last, i, j);
      if (double(c[i * 64 + j]) != want) REQUIRE(double(c[i * 64 + j]) == want);
    }
  r.keep(std::string("mask_depth ") + type_name<T>() + " " + std::to_string(first), c);
}

}  // namespace

TEST_CASE("arithmetic words", "[tile][conformance]") {
  static record r("verb_arithmetic.bin");   // sections run one by one, and all go into one file
  SECTION("product") {
    product_cases<bf16, bf16, float>(r);
    product_cases<fp16, fp16, float>(r);
    product_cases<float, tf32, float>(r);
    product_cases<std::int8_t, std::int8_t, int>(r);
    product_cases<fp8_e4m3, bf16, float>(r);
    product_cases<fp8_e5m2, bf16, float>(r);
  }
  SECTION("block-scaled") {
    block_scaled_case<fp8_e4m3, fp8_e4m3, e8m0, std::uint8_t>(r, "mxfp8", 128, 32, 128);
    block_scaled_case<fp8_e4m3, fp8_e4m3, e8m0, std::uint8_t>(r, "mxfp8, ragged", 37, 20, 288);
    block_scaled_case<e2m1, e2m1x2, e8m0, std::uint8_t>(r, "mxfp4", 100, 32, 352);
    block_scaled_case<e2m1, e2m1x2, fp8_e4m3, fp8_e4m3>(r, "nvfp4", 100, 12, 160);
  }
  SECTION("mask_depth") {
    masked_case<bf16, float>(r, 64, 5, 41);
    masked_case<bf16, float>(r, 48, -70, 200);
    masked_case<std::int8_t, int>(r, 64, 63, 64);
    masked_case<std::int8_t, int>(r, 48, 17, 30);
    masked_case<fp8_e4m3, float>(r, 64, 0, 33);
  }
  SECTION("as_left") {
    const auto inner = [&]<class T>(T, double unit) {
      const auto a = integers<T>(32 * 32), b = integers<T>(32 * 32);
      test::array<float> c(32 * 32);
      run(twice<T>{{{a.data(), 32, 32, 32}, {b.data(), 32, 32, 32}, {c.data(), 32, 32, 32}}});
      for (int i = 0; i < 32; ++i)
        for (int j = 0; j < 32; ++j) {
          double want = 0, size = 0;
          for (int q = 0; q < 32; ++q) {
            float p = 0;
            for (int e = 0; e < 32; ++e) p += to_float(a[i * 32 + e]) * to_float(b[e * 32 + q]);
            const double t = double(to_float(narrow<T>(p * 1.001f))) * to_float(b[q * 32 + j]);
            want += t, size += std::abs(t);
          }
          REQUIRE(std::abs(c[i * 32 + j] - want) <= unit * size);
        }
      r.keep(std::string("as_left ") + type_name<T>(), c, 1e-5);
    };
    inner(bf16{}, 40 * 0x1p-24);
    inner(fp16{}, 40 * 0x1p-24);
  }
  SECTION("map_left") {
    const auto inner = [&]<class T>(T, double unit) {
      const auto x = integers<float>(32 * 32), by = integers<float>(32 * 4);
      const auto b = integers<T>(32 * 32);
      test::array<float> c(32 * 32), sums(32);
      run(weighed<T>{{{x.data(), 32, 32, 32}, {by.data(), 32, 4, 4}, {b.data(), 32, 32, 32}, {c.data(), 32, 32, 32}, {sums.data(), 32, 1, 1}}});
      for (int i = 0; i < 32; ++i) {
        double total = 0, size = 0;
        for (int e = 0; e < 32; ++e) total += x[i * 32 + e] * 1.001f, size += std::abs(x[i * 32 + e]);
        REQUIRE(std::abs(sums[i] - total) <= 40 * 0x1p-24 * size);
        for (int j = 0; j < 32; ++j) {
          double want = 0, bound = 0;
          for (int e = 0; e < 32; ++e)
            for (const float v : {x[i * 32 + e] * 1.001f, -x[i * 32 + e] - float(i)}) {
              const double t = by[i * 4] * double(to_float(narrow<T>(v))) * to_float(b[e * 32 + j]);
              want += t, bound += std::abs(t);
            }
          REQUIRE(std::abs(c[i * 32 + j] - want) <= unit * bound);
        }
      }
      r.keep(std::string("map_left ") + type_name<T>(), c, 1e-5);
      r.keep(std::string("map_left_sum ") + type_name<T>(), sums, 1e-5);
    };
    inner(bf16{}, 80 * 0x1p-24);
    inner(fp16{}, 80 * 0x1p-24);
  }
  SECTION("multiply, turn, stacks") {
    constexpr int outer = 2, count = 3, rows = 20, n = 32;
    const auto a = integers<bf16>(outer * count * rows * n), b = integers<bf16>(n * n);
    test::array<float> c(outer * count * n * rows), largest(rows * 3);
    for (float& e : c) e = -1;
    for (float& e : largest) e = -1;
    run(turned{{{a.data(), outer, count, rows, n, count * rows * n, rows * n, n}, {b.data(), n, n, n}, {c.data(), outer, count, n, rows, count * n * rows, n * rows, rows}, {largest.data(), rows, 1, 3}}});
    const bf16* matrix = a.data() + (1 * count + 2) * rows * n;
    for (int i = 0; i < rows; ++i) {
      float most = -1e9f;
      for (int j = 0; j < n; ++j) {
        float want = 0;
        for (int e = 0; e < n; ++e) want += to_float(matrix[i * n + e]) * to_float(b[e * n + j]);
        REQUIRE(c[((1 * count + 2) * n + j) * rows + i] == want);
        most = std::max(most, want);
      }
      REQUIRE(largest[(rows - 1 - i) * 3] == most);
      REQUIRE(largest[(rows - 1 - i) * 3 + 1] == -1);
    }
    for (int e = 0; e < (1 * count + 2) * n * rows; ++e) REQUIRE(c[e] == -1);
    REQUIRE(c.guarded());
    r.keep("multiply, turn, stacks", c);
    r.keep("a column to rows", largest);
  }
  SECTION("unpack") {
    unpack_case<bf16, policy::offset_int<4>>(r, "bf16 of 4 bits");
    unpack_case<fp16, policy::offset_int<4, 0>>(r, "fp16 of 4 bits");
    unpack_case<bf16, policy::offset_int<2>>(r, "bf16 of 2 bits");
    unpack_case<bf16, policy::offset_int<3>>(r, "bf16 of 3 bits");
    unpack_case<fp16, policy::offset_int<6>>(r, "fp16 of 6 bits");
    unpack_case<bf16, policy::offset_int<7>>(r, "bf16 of 7 bits");
    unpack_case<bf16, policy::offset_int<8>>(r, "bf16 of 8 bits");
    unpack_case<bf16, policy::offset_int<8, 0>>(r, "bf16 of 8 bits, unsigned");
    unpack_case<bf16, policy::e2m1>(r, "bf16 of e2m1");
    unpack_case<fp16, policy::e3m2>(r, "fp16 of e3m2");
    unpack_case<bf16, policy::e4m3>(r, "bf16 of e4m3");
    unpack_case<bf16, policy::nf4>(r, "bf16 of nf4");
    unpack_case<fp16, policy::fp4>(r, "fp16 of fp4");
    unpack_case<std::int8_t, policy::offset_int<4>>(r, "int8 of 4 bits");
    unpack_case<std::int8_t, policy::offset_int<4, 0>>(r, "int8 of 4 bits, unsigned");
    unpack_case<std::int8_t, policy::offset_int<6>>(r, "int8 of 6 bits");
    unpack_case<std::int8_t, policy::offset_int<8>>(r, "int8 of 8 bits");
    unpack_case<bf16, policy::offset_int<4, 0>, true>(r, "bf16 of 4 bits, scaled");
  }
  SECTION("scaled product") {
    scaled_case<std::int8_t>(r, 17, 40, 192);
    scaled_case<std::int8_t>(r, 40, 33, 100);
    scaled_case<bf16>(r, 17, 40, 192);
  }
  SECTION("reductions") {
    const auto from = integers<float>(16 * 64, 100);
    test::array<float> down(16 * 2), across(2 * 64);
    test::array<int> scan(16 * 64), most(16);
    run(reductions{{{from.data(), 16, 64, 64}, {down.data(), 16, 2, 2}, {across.data(), 2, 64, 64}, {scan.data(), 16, 64, 64}, {most.data(), 16, 1, 1}}});
    for (int i = 0; i < 16; ++i) {
      float high = -1e9f, total = 0;
      for (int j = 0; j < 64; ++j) {
        high = std::max(high, from[i * 64 + j]);
        total += from[i * 64 + j];
        REQUIRE(scan[i * 64 + j] == int(total));
      }
      REQUIRE(down[i * 2] == high);
      REQUIRE(down[i * 2 + 1] == total);
      REQUIRE(most[i] == int(high));
    }
    for (int j = 0; j < 64; ++j) {
      float high = -1e9f, total = 0;
      for (int i = 0; i < 16; ++i) high = std::max(high, from[i * 64 + j]), total += from[i * 64 + j];
      REQUIRE(across[j] == high);
      REQUIRE(across[64 + j] == total);
    }
    r.keep("row_max, row_sum", down);
    r.keep("column_max, column_sum", across);
    r.keep("row_scan", scan);
    r.keep("row_max of ints", most);
  }
}
