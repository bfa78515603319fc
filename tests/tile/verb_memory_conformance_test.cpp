// Verb conformance, memory: load, load_rows, store, store_rows, copy_rows, store_column, scatter, accumulate, arrive.
#include "conformance.hpp"

using namespace conformance;

namespace {

// ---- agents of one or two words each

// load a tile of T from S and store it as D; `Form` 0 plain, 1 transposed load, 2 transposed store
template <class S, class T, class D, int R, int C, int Step, int Form> struct copy {
  struct arguments {
    stack<const S, Step> from;
    stack<D, Step> to;
  } x;
  static constexpr grid blocks(const arguments& x) {
    const int rows = Form ? x.from.cols : x.from.rows, cols = Form ? x.from.rows : x.from.cols;
    return {ceil_div(Form == 2 ? cols : rows, R), ceil_div(Form == 2 ? rows : cols, C), x.from.count};
  }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    tile<Block, T, R, C> t;
    if constexpr (Form == 1) block.load(t, transposed(x.from), block.z(), block.x(), block.y());
    else block.load(t, x.from, block.z(), block.x(), block.y());
    if constexpr (Form == 2) block.store(transposed(x.to), block.z(), block.x(), block.y(), t);
    else block.store(x.to, block.z(), block.x(), block.y(), t);
  }
};

// rows and columns: out[i, j] = tile + row + column, and the column itself
template <class S> struct broadcast {
  static constexpr int R = 16, C = 32;
  struct arguments {
    view<const S, 1> across, down;
    view<float, 1> to, columns, lines;
  } x;
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.to.rows, R), ceil_div(x.to.cols, C), 1}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    row<Block, float, C> a;
    column<Block, float, R> d, e;
    tile<Block, float, R, C> t;
    block.load(a, x.across, 0, block.y());
    block.load(d, transposed(x.across), block.x(), 0);    // the same row, read down
    block.load(e, x.down, block.x(), 0);
    block.map([](auto p, auto q, auto s) { return p + q * 100.0f + s * 1000.0f; }, t, a, d, e);
    block.store(x.to, block.x(), block.y(), t);
    if (block.y() == 0) block.store_column(x.columns, 1, block.x(), d);
    if (block.x() == 0) block.store(x.lines, 0, block.y(), a);
  }
};

template <class S, int Step> struct gather_rows {
  static constexpr int R = 16, K = 64;
  struct arguments {
    view<const S, Step> from;
    const int* rows;
    int count;
    view<float, 1> to, back;
  } x;
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.count, R), 1, 1}; }
  // to = from[rows] E, with E the unit matrix: what was gathered, seen through a product; and scattered back by store_rows
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    column<Block, int, R> source, target;
    block.map([i = block.x(), rows = x.rows, count = x.count](auto r) { return lookup(rows, min(r + i * R, count - 1), count); }, source, row_index{});
    block.map([i = block.x(), count = x.count](auto r, auto s) { return where(r + i * R < count && s % 2 == 0, s, -1); }, target, row_index{}, source);
    left<Block, S, R, K> a, p;
    right<Block, S, K, K> unit;
    right<Block, S, K, R> b;
    tile<Block, float, R, K> acc;
    tile<Block, float, K, K> one;
    tile<Block, float, R, R> gram;
    static_cast<void>(p), static_cast<void>(unit), static_cast<void>(one);
    block.load_rows(a, x.from, source, 0);
    block.load_rows(b, transposed(x.from), source, 0);
    block.fill(gram, 0.0f);
    block.product(gram, a, b);                       // from[rows] from[rows]'
    block.store(x.to, block.x(), 0, gram);
    block.load(acc, x.back, 0, 0);
    block.map([](auto v, auto r, auto c) { return to_float(r * 64 + c) + v * 0.0f; }, acc, acc, row_index{}, column_index{});
    block.store_rows(x.back, target, 0, acc);
  }
};

struct copied_rows {
  static constexpr int R = 16, C = 32;
  struct arguments {
    view<const int> from;
    view<int> to;
    const int *source, *target;
    int count;
  } x;
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.count, R), ceil_div(x.from.cols, C), 1}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    column<Block, int, R> source, target;
    block.map([i = block.x(), rows = x.source, count = x.count](auto r) { return lookup(rows, min(r + i * R, count - 1), count); }, source, row_index{});
    block.map([i = block.x(), rows = x.target, count = x.count](auto r) { return where(r + i * R < count, lookup(rows, r + i * R, count), -1); }, target, row_index{});
    block.template copy_rows<C>(x.to, target, x.from, source, block.y());
  }
};

struct scattered {
  static constexpr int R = 16, C = 32;
  struct arguments {
    view<int, 1> to;
  } x;
  static constexpr grid blocks(const arguments& x) { return {ceil_div(x.to.rows, R), 1, 1}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    tile<Block, int, R, C> keep, place, index;
    block.map([](auto r, auto c) { return where((r + c) % 3 == 0, 1, 0); }, keep, row_index{}, column_index{});
    block.row_scan(place, keep);
    block.map([](auto r, auto c) { return r * 0 + c; }, index, row_index{}, column_index{});
    block.scatter(x.to, block.x(), place, keep, index);
  }
};

struct accumulated {
  static constexpr int R = 16, C = 32;
  struct arguments {
    stack<float, 1> to;
  } x;
  static constexpr grid blocks(const arguments&) { return {3, 2, 4}; }   // z blocks add to the same tiles
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    tile<Block, float, R, C> t;
    block.map([z = block.z()](auto r, auto c) { return to_float(r + c + z); }, t, row_index{}, column_index{});
    block.accumulate(x.to, block.z() % 2, block.x(), block.y(), t);
  }
};

// every block leaves a tile; the last to arrive adds them all
struct last_block {
  static constexpr int R = 16, C = 16, parts = 23;
  struct arguments {
    view<float> parts_of;
    int* counter;
    view<float> to;
  } x;
  static constexpr grid blocks(const arguments&) { return {parts, 1, 1}; }
  template <class Block> SMALTI_HD void operator()(Block& block) const {
    tile<Block, float, R, C> t, sum;
    block.map([i = block.x()](auto r, auto c) { return to_float(r * 16 + c + i); }, t, row_index{}, column_index{});
    block.store(x.parts_of, block.x(), 0, t);
    if (block.arrive(x.counter) != parts - 1) return;
    block.fill(sum, 0.0f);
    for (int i : block.steps(0, parts)) {
      block.load(t, x.parts_of, i, 0);
      block.map([](auto a, auto b) { return a + b; }, sum, sum, t);
    }
    block.store(x.to, 0, 0, sum);
  }
};

template <class S, class T, class D, int Step, int Form> void copy_case(record& r, int count, int rows, int cols) {
  const int stride = cols + (Step == 1 ? 3 : 16), wide = Form ? rows : cols, out_stride = wide + (Step == 1 ? 5 : 32), high = Form ? cols : rows;
  const auto from = integers<S>(std::size_t(count) * rows * stride, 7);
  test::array<D> to(std::size_t(count) * high * out_stride);
  copy<S, T, D, 16, 32, Step, Form> agent{{{from.data(), count, rows, cols, rows * stride, stride}, {to.data(), count, high, wide, high * out_stride, out_stride}}};
  run(agent);
  for (int n = 0; n < count; ++n)
    for (int i = 0; i < high; ++i)
      for (int j = 0; j < wide; ++j) {
        const double want = test::value(Form ? from[(std::size_t(n) * rows + j) * stride + i] : from[(std::size_t(n) * rows + i) * stride + j]);
        if (test::value(to[(std::size_t(n) * high + i) * out_stride + j]) != want) FAIL("copy " << n << " " << i << " " << j);
      }
  r.keep(std::string("copy ") + type_name<S>() + " " + type_name<D>() + " step " + std::to_string(Step) + " form " + std::to_string(Form) + " " +
             std::to_string(count) + "x" + std::to_string(rows) + "x" + std::to_string(cols), to);
}
template <class S, class T, class D> void copy_cases(record& r) {
  copy_case<S, T, D, 1, 0>(r, 1, 1, 1);
  copy_case<S, T, D, 1, 0>(r, 2, 37, 53);
  copy_case<S, T, D, 1, 1>(r, 2, 37, 53);
  copy_case<S, T, D, 1, 2>(r, 1, 37, 53);
  if constexpr (sizeof(S) == sizeof(D)) {
    copy_case<S, T, D, step_of<S>, 0>(r, 2, 33, 48);
    copy_case<S, T, D, step_of<S>, 0>(r, 1, 16, 32);
  }
}

}  // namespace

TEST_CASE("memory words", "[tile][conformance]") {
  static record r("verb_memory.bin");   // sections run one by one, and all go into one file
  copy_cases<float, float, float>(r);
  copy_cases<bf16, float, bf16>(r);
  copy_cases<fp16, float, fp16>(r);
  copy_cases<fp8_e4m3, float, fp8_e4m3>(r);
  copy_cases<fp8_e5m2, float, fp8_e5m2>(r);
  copy_cases<int, int, int>(r);
  copy_cases<std::int8_t, int, int>(r);
  copy_cases<bf16, float, float>(r);
  copy_cases<float, float, bf16>(r);
  copy_cases<float, float, fp8_e4m3>(r);

  SECTION("stores round to nearest even") {
    const int n = 4096;
    test::array<float> from(n);
    std::mt19937 generator(seed);
    for (int i = 0; i < n; ++i) {
      const std::uint32_t bits = std::uint32_t(generator());
      float v;
      std::memcpy(&v, &bits, 4);
      from[i] = i % 4 == 0 ? std::ldexp(float(i % 512) + 0.5f, i % 16 - 8) : std::isfinite(v) ? std::fmod(v, 400.0f) : 1.0f;   // ties; any value
    }
    const auto rounded = [&]<class D>(D, const char* name) {
      test::array<D> to(n);
      copy<float, float, D, 16, 32, step_of<float>, 0> agent{{{from.data(), 1, 64, 64, 0, 64}, {to.data(), 1, 64, 64, 0, 64}}};
      run(agent);
      for (int i = 0; i < n; ++i) REQUIRE(std::memcmp(&to[i], std::vector<D>{narrow<D>(from[i])}.data(), sizeof(D)) == 0);
      r.keep(std::string("round to ") + name, to);
    };
    rounded(bf16{}, "bf16");
    rounded(fp16{}, "fp16");
  }
  SECTION("rows and columns") {
    const int rows = 37, cols = 53, n = 64;
    const auto across = integers<bf16>(n), down = integers<bf16>(n * 3);
    test::array<float> to(rows * cols), columns(3 * rows), lines(cols);
    for (float& v : columns) v = 0;
    broadcast<bf16> agent{{{across.data(), 1, n, n}, {down.data(), n, 1, 3}, {to.data(), rows, cols, cols}, {columns.data(), 3, rows, rows}, {lines.data(), 1, cols, cols}}};
    run(agent);
    for (int i = 0; i < rows; ++i) {
      for (int j = 0; j < cols; ++j) REQUIRE(to[i * cols + j] == test::value(across[j]) + 100 * test::value(across[i]) + 1000 * test::value(down[i * 3]));
      REQUIRE(columns[rows + i] == test::value(across[i]));
      REQUIRE(columns[i] == 0);
    }
    for (int j = 0; j < cols; ++j) REQUIRE(lines[j] == test::value(across[j]));
    r.keep("broadcast", to);
    r.keep("store_column", columns);
    r.keep("store row", lines);
  }
  SECTION("gather and scatter of rows") {
    const int pool = 50, count = 37, k = 64;
    const auto from = integers<bf16>(std::size_t(pool) * (k + 8));
    test::array<int> rows(count);
    for (int i = 0; i < count; ++i) rows[i] = i * 17 % pool;
    test::array<float> to(48 * 16), back(pool * k);
    for (float& v : back) v = 0;
    gather_rows<bf16, step_of<bf16>> agent{{{from.data(), pool, k, k + 8}, rows.data(), count, {to.data(), 48, 16, 16}, {back.data(), pool, k, k}}};
    run(agent);
    for (int i = 0; i < count; ++i)
      for (int j = 0; j < 16 && i / 16 * 16 + j < count; ++j) {
        double want = 0;
        for (int p = 0; p < k; ++p) want += test::value(from[rows[i] * (k + 8) + p]) * test::value(from[rows[i / 16 * 16 + j] * (k + 8) + p]);
        REQUIRE(to[i * 16 + j] == want);
      }
    for (int i = 0; i < count; ++i)
      for (int p = 0; p < k; ++p) REQUIRE(back[rows[i] * k + p] == (rows[i] % 2 ? 0 : i % 16 * 64 + p));
    r.keep("load_rows", to);
    r.keep("store_rows", back);
  }
  SECTION("copies of rows") {
    const int pool = 50, count = 37;
    for (const int cols : {64, 52}) {              // whole vectors, and a rest
      const auto from = integers<int>(std::size_t(pool) * 64);
      test::array<int> source(count), target(count), to(pool * 64);
      for (int& v : to) v = -7;
      for (int i = 0; i < count; ++i) source[i] = i * 17 % pool, target[i] = i % 5 == 4 ? -1 : i * 3 % pool;
      run(copied_rows{{{from.data(), pool, cols, 64}, {to.data(), pool, cols, 64}, source.data(), target.data(), count}});
      std::vector<int> want(to.size(), -7);
      for (int i = 0; i < count; ++i)
        for (int c = 0; c < cols && target[i] >= 0; ++c) want[std::size_t(target[i] * 64 + c)] = from[source[i] * 64 + c];
      for (std::size_t i = 0; i < want.size(); ++i) REQUIRE(to[i] == want[i]);
      r.keep(cols == 64 ? "copy_rows" : "copy_rows, a rest", to);
    }
  }
  SECTION("scatter") {
    const int rows = 21, cols = 9;             // the eleventh survivor has no place
    test::array<int> to(rows * (cols + 2));
    for (int& v : to) v = -1;
    run(scattered{{{to.data(), rows, cols, cols + 2}}});
    for (int i = 0; i < rows; ++i)
      for (int c = 0, place = 0; c < 32; ++c)
        if ((i % 16 + c) % 3 == 0 && place < cols) REQUIRE(to[i * (cols + 2) + place++] == c);
    for (int i = 0; i < rows; ++i) REQUIRE((to[i * (cols + 2) + cols] == -1 && to[i * (cols + 2) + cols + 1] == -1));
    r.keep("scatter", to);
  }
  SECTION("accumulate") {
    const int rows = 37, cols = 53;
    test::array<float> to(2 * rows * cols);
    for (float& v : to) v = 1;
    run(accumulated{{{to.data(), 2, rows, cols, rows * cols, cols}}});
    for (int n = 0; n < 2; ++n)
      for (int i = 0; i < rows; ++i)
        for (int j = 0; j < cols; ++j) REQUIRE(to[(n * rows + i) * cols + j] == 1 + 2 * (i % 16 + j % 32) + n + n + 2);
    r.keep("accumulate", to);
  }
  SECTION("arrive") {
    test::array<float> parts(last_block::parts * 16 * 16), to(16 * 16);
    test::array<int> counter(1);
    counter[0] = 0;
    run(last_block{{{parts.data(), last_block::parts * 16, 16, 16}, counter.data(), {to.data(), 16, 16, 16}}});
    REQUIRE(counter[0] == last_block::parts);
    for (int i = 0; i < 256; ++i) REQUIRE(to[i] == last_block::parts * i + last_block::parts * (last_block::parts - 1) / 2);
    r.keep("arrive", to);
  }
}
