// The conformance matrix of attention: laws that hold whatever the lengths, masks, layouts and tiles. What is compared with
// the oracle uses the error model of attention_problem.hpp.
#include <catch2/catch.hpp>
#include <algorithm>
#include <cstring>
#include <cmath>
#include <random>
#include "ops/attention_problem.hpp"
#include <smalti/policy/masks/compose.hpp>
#include <smalti/policy/masks/window.hpp>
#include <smalti/policy/position.hpp>
#include <smalti/policy/score.hpp>
#if !defined(__CUDACC__)
#  include <sys/mman.h>
#endif

using namespace smalti;
namespace policy = smalti::policy;
using test::attention_shape;
using test::row_order;
using test::rows_of_batch;

namespace {

constexpr unsigned seed = 53;
constexpr int d = 32;

template <bool Split = false, bool Invariant = false, class Score = policy::identity_score, class Lse = policy::lse_e<float>> struct with : attention::options {
  using out = float;
  using lse = Lse;
  using score = Score;
  static constexpr bool split_kv = Split, batch_invariant = Invariant;
};
template <class Mask, class Options = with<>, class Kv = attention::dense_kv<bf16>>
using small = test::tuned_op<attention::flash<bf16, d, Kv, Mask, Options>, test::small_tiles>;

// One call: the values of o and lse, copied out.
struct answer {
  std::vector<float> o, lse;
  bool same_bits(const answer& other) const {
    return o.size() == other.o.size() && std::memcmp(o.data(), other.o.data(), o.size() * 4) == 0 && std::memcmp(lse.data(), other.lse.data(), lse.size() * 4) == 0;
  }
};
template <class Op, class Context, class Kv, class Change = void (*)(typename Op::args&)>
answer attend(const Context& context, const attention_shape& shape, attention::head_rows<const bf16> q, const Kv& kv, Change change = [](typename Op::args&) {}) {
  const std::size_t rows = q.offsets != nullptr ? std::size_t(q.offsets[q.sequences]) : std::size_t(q.sequences) * q.rows;
  test::array<float> o(rows * q.heads * d), lse(rows * q.heads);
  for (float& x : o) x = NAN;
  for (float& x : lse) x = NAN;
  const auto like = [&](float* data, int cols) {
    if (q.offsets != nullptr) return attention::ragged(data, segments<std::int32_t>{q.offsets, q.sequences}, q.rows, q.heads, cols);
    return attention::bshd(data, q.sequences, q.rows, q.heads, cols);
  };
  typename Op::args x{.q = q, .kv = kv, .o = like(o.data(), d), .lse = like(lse.data(), 1), .scale = 0.2f};
  change(x);
  test::scratch memory(Op::workspace_bytes(context, x));
  const status st = Op::run(context, x, memory.get());
  INFO(st.what << " got " << st.got << " need " << st.need);
  REQUIRE(st.code == errc::ok);
  test::wait(context);
  REQUIRE(o.guarded());
  REQUIRE(lse.guarded());
  (void)shape;
  return {{o.begin(), o.end()}, {lse.begin(), lse.end()}};
}

// One sequence, [token][head][element].
struct one_sequence {
  attention_shape shape;
  rows_of_batch<bf16> q, k, v;
  one_sequence(int queries, int keys, int heads, int kv_heads, std::mt19937& generator, float size = 1)
      : shape{{queries}, {keys}, heads, kv_heads, d, d}, q(shape.queries, heads, d, row_order::bshd), k(shape.keys, kv_heads, d, row_order::bshd), v(shape.keys, kv_heads, d, row_order::bshd) {
    q.fill(generator, size);
    k.fill(generator, size);
    v.fill(generator);
  }
  one_sequence copy() const {
    std::mt19937 any;
    one_sequence x(shape.queries[0], shape.keys[0], shape.heads, shape.kv_heads, any);
    const auto each = [&](auto& to, const auto& from, int rows, int heads) {
      for (int i = 0; i < rows; ++i)
        for (int h = 0; h < heads; ++h)
          for (int c = 0; c < d; ++c) to.at(0, h, i, c) = narrow<bf16>(float(from.get(0, h, i, c)));
    };
    each(x.q, q, shape.queries[0], shape.heads);
    each(x.k, k, shape.keys[0], shape.kv_heads);
    each(x.v, v, shape.keys[0], shape.kv_heads);
    return x;
  }
  attention::head_rows<const bf16> queries() { return q.rows<const bf16>(); }
  attention::dense_kv<bf16> kv() { return {k.rows<const bf16>(), v.rows<const bf16>()}; }
  // The keys [first, last).
  attention::dense_kv<bf16> part(int first, int last) {
    attention::dense_kv<bf16> x = kv();
    for (auto* rows : {&x.k, &x.v}) rows->data += first * rows->row_stride, rows->rows = last - first;
    return x;
  }
  oracle::attention_problem problem(int h, const std::function<bool(int, int)>& visible = [](int, int) { return true; }) const {
    auto p = test::oracle_of(shape, q, [&](int s, int g, int j, int c) { return k.get(s, g, j, c); }, [&](int s, int g, int j, int c) { return v.get(s, g, j, c); }, double(0.2f), 0, h);
    p.visible = visible;
    return p;
  }
};

// `slack`: of each weight, beyond the model.
void compare(const one_sequence& x, const answer& got, const std::function<bool(int, int)>& visible, double slack = 0, const std::function<void(oracle::attention_problem&)>& more = {}) {
  const int heads = x.shape.heads;
  for (int h = 0; h < heads; ++h) {
    auto p = x.problem(h, visible);
    if (more) more(p);
    const auto r = oracle::attention(p);
    for (int i = 0; i < p.queries; ++i) {
      CAPTURE(h, i, p.queries, p.keys);
      for (int e = 0; e < d; ++e) {
        const double o = got.o[(std::size_t(i) * heads + h) * d + e], want = r.o[std::size_t(i) * d + e];
        if (!(std::abs(o - want) <= test::attention_error<bf16, float>(r, p, i, e) + slack * r.size[std::size_t(i) * d + e])) {
          CAPTURE(e, o, want);
          FAIL("a value");
        }
      }
      const double lse = got.lse[std::size_t(i) * heads + h];
      if (std::isinf(r.lse[i]) ? lse != r.lse[i] : !(std::abs(lse - r.lse[i]) <= 1e-5 * (1 + std::abs(r.lse[i])) + slack)) {
        CAPTURE(lse, r.lse[i]);
        FAIL("a log-sum-exp");
      }
    }
  }
}

}  // namespace

TEST_CASE("matrix: lengths, with the tiles of the machine", "[ops][attention][matrix]") {
  std::mt19937 generator(seed);
  for (const auto& [queries, keys] : {std::pair{0, 5}, {5, 0}, {1, 4097}, {70, 4097}, {255, 256}, {256, 257}, {257, 255}, {300, 40}}) {
    one_sequence x(queries, keys, 2, 1, generator);
    CAPTURE(seed, queries, keys);
    test::for_each_context(seed, [&, keys = keys, queries = queries](const auto& context) {
      using op = attention::flash<bf16, d, attention::dense_kv<bf16>, policy::causal, with<>>;
      compare(x, attend<op>(context, x.shape, x.queries(), x.kv()), [=](int i, int j) { return j <= i + keys - queries; });
    });
  }
}

TEST_CASE("matrix: any partition of the keys merges to the same result", "[ops][attention][matrix]") {
  std::mt19937 generator(seed);
  using partial = policy::lse_partial<float, policy::lse_e<float>>;
  for (int round = 0; round < 12; ++round) {
    const int queries = round % 2 == 0 ? 37 : 3, keys = 90, shift = keys - queries - (round % 3) * 40, parts = 1 + round % 5;
    one_sequence x(queries, keys, 2, 2, generator);
    CAPTURE(seed, round, queries, shift, parts);
    const auto visible = [=](int i, int j) { return j <= i + shift; };
    std::vector<int> cut{0, keys};
    for (int n = 1; n < parts; ++n) cut.push_back(n == 2 ? cut.back() : int(generator() % unsigned(keys + 1)));      // some are empty
    std::sort(cut.begin(), cut.end());
    test::for_each_context(seed, [&](const auto& context) {
      std::vector<answer> found;
      for (int n = 0; n < parts; ++n) {
        using op = small<policy::placed<policy::causal_top_left>>;
        found.push_back(attend<op>(context, x.shape, x.queries(), x.part(cut[n], cut[n + 1]), [&](auto& a) { a.mask = {{shift}, 0, cut[n]}; }));
      }
      std::shuffle(found.begin(), found.end(), generator);
      answer all = found.front();
      for (std::size_t n = 0; n < all.o.size(); ++n) {
        auto merged = policy::lse_begin(partial{found[0].o[n], {found[0].lse[n / d]}});
        for (int m = 1; m < parts; ++m) merged.absorb(partial{found[m].o[n], {found[m].lse[n / d]}});
        const partial one = merged.finish();
        all.o[n] = one.value, all.lse[n / d] = one.lse.value;
      }
      compare(x, all, visible, 0x1p-16);
    });
  }
}

TEST_CASE("matrix: extreme scores, ties, and what is not a number", "[ops][attention][matrix]") {
  std::mt19937 generator(seed);
  const auto run = [&](one_sequence& x, auto check) {
    test::for_each_context(seed, [&](const auto& context) { check(attend<small<policy::causal>>(context, x.shape, x.queries(), x.kv())); });
  };
  const auto causal = [](int i, int j) { return j <= i + 20; };
  for (const float size : {1e-3f, 12.0f, 40.0f, 98.0f}) {            // scores up to 6e4: an error of a score is an error of a weight
    CAPTURE(seed, size);
    one_sequence x(45, 65, 2, 1, generator, size);
    run(x, [&](const answer& got) { compare(x, got, causal); });
  }
  {
    one_sequence x(45, 65, 2, 1, generator);                                                 // one key far above all others: +1e4
    for (int c = 0; c < d; ++c) {
      for (int h = 0; h < 2; ++h) x.q.at(0, h, 44, c) = narrow<bf16>(40.0f);
      x.k.at(0, 0, 33, c) = narrow<bf16>(40.0f);
    }
    run(x, [&](const answer& got) {
      compare(x, got, causal);
      // the weight of the one key rounds to 1 in bf16 and not in the float sum: its exponent, of 1.4e4, is off by 2^-24 of itself
      for (int e = 0; e < d; ++e) CHECK(std::abs(got.o[44 * 2 * d + e] - x.v.get(0, 0, 33, e)) <= 0x1p-9 * std::abs(x.v.get(0, 0, 33, e)));
    });
  }
  {
    one_sequence x(45, 65, 2, 1, generator, 40);                                             // every score of every row below -1e4
    for (int c = 0; c < d; ++c) {
      for (int i = 0; i < 45; ++i)
        for (int h = 0; h < 2; ++h) x.q.at(0, h, i, c) = narrow<bf16>(60 + float(x.q.get(0, h, i, c)) / 8);
      for (int j = 0; j < 65; ++j) x.k.at(0, 0, j, c) = narrow<bf16>(-60 + float(x.k.get(0, 0, j, c)) / 8);
    }
    run(x, [&](const answer& got) { compare(x, got, causal); });
  }
  {
    one_sequence x(45, 65, 2, 1, generator);                                                 // equal keys: the mean of the values
    for (int j = 0; j < 65; ++j)
      for (int c = 0; c < d; ++c) x.k.at(0, 0, j, c) = narrow<bf16>(0.5f);
    run(x, [&](const answer& got) { compare(x, got, causal); });
  }
  {
    one_sequence x(45, 65, 2, 1, generator);                                                 // scores of -infinity: keys that weigh nothing
    for (int i = 0; i < 45; ++i)
      for (int h = 0; h < 2; ++h) x.q.at(0, h, i, 0) = narrow<bf16>(1.0f);
    for (int j = 0; j < 65; j += 3) x.k.at(0, 0, j, 0) = bf16{0xff80};
    run(x, [&](const answer& got) { compare(x, got, [&](int i, int j) { return causal(i, j) && j % 3 != 0; }); });
  }
  {
    one_sequence x(45, 65, 2, 1, generator);                                                 // NaN stays with those who see it
    x.k.at(0, 0, 50, 7) = bf16{0x7fc0};
    x.q.at(0, 1, 3, 2) = bf16{0x7fc0};
    run(x, [&](const answer& got) {
      for (int i = 0; i < 45; ++i)
        for (int h = 0; h < 2; ++h) {
          const bool poisoned = i + 20 >= 50 || (h == 1 && i == 3);
          CAPTURE(i, h);
          for (int e = 0; e < d; ++e) CHECK(std::isnan(got.o[(i * 2 + h) * d + e]) == poisoned);
          CHECK(std::isnan(got.lse[i * 2 + h]) == poisoned);
        }
    });
  }
}

TEST_CASE("matrix: laws of rows and of the log-sum-exp", "[ops][attention][matrix]") {
  std::mt19937 generator(seed);
  one_sequence x(45, 65, 2, 1, generator);
  const auto causal = [](int i, int j) { return j <= i + 20; };
  test::for_each_context(seed, [&](const auto& context) {
    const answer plain = attend<small<policy::causal>>(context, x.shape, x.queries(), x.kv());
    // A number added to every logit of a row leaves o and is added to the log-sum-exp.
    test::array<float> shifts(45 * 65);
    for (int i = 0; i < 45; ++i) std::fill(shifts.begin() + i * 65, shifts.begin() + (i + 1) * 65, float(i - 20));
    using moved = small<policy::causal, with<false, false, policy::additive_bias<float>>>;
    const answer raised = attend<moved>(context, x.shape, x.queries(), x.kv(), [&](auto& a) { a.logits = {shifts.data(), 45, 65, 65}; });
    compare(x, raised, causal, 1e-5, [&](oracle::attention_problem& p) { p.logit = [&](double z, int i, int) { return z + shifts[i * 65]; }; });
    for (int n = 0; n < 45 * 2; ++n) CHECK(std::abs(raised.lse[n] - plain.lse[n] - float(n / 2 - 20)) <= 1e-5);
    // The base is a change of units.
    using base_2 = small<policy::causal, with<false, false, policy::identity_score, policy::lse_2<float>>>;
    const answer bits = attend<base_2>(context, x.shape, x.queries(), x.kv());
    for (int n = 0; n < 45 * 2; ++n) CHECK(std::abs(bits.lse[n] - plain.lse[n] * 1.4426950408889634) <= 1e-5);
    for (std::size_t n = 0; n < plain.o.size(); ++n) CHECK(bits.o[n] == plain.o[n]);
    // A cap far above every score is none.
    using capped = small<policy::causal, with<false, false, policy::soft_cap>>;
    compare(x, attend<capped>(context, x.shape, x.queries(), x.kv(), [](auto& a) { a.logits = {1e5f}; }), causal, 1e-2);
    // Values of 1 give 1: weights sum to one.
    one_sequence ones = x.copy();
    for (int j = 0; j < 65; ++j)
      for (int c = 0; c < d; ++c) ones.v.at(0, 0, j, c) = narrow<bf16>(1.0f);
    for (const float o : attend<small<policy::causal>>(context, ones.shape, ones.queries(), ones.kv()).o) CHECK(std::abs(o - 1) <= 0x1p-8);
    // The order of keys does not matter where all are visible.
    one_sequence turned = x.copy();
    for (int j = 0; j < 65; ++j)
      for (int c = 0; c < d; ++c) turned.k.at(0, 0, j, c) = x.k.at(0, 0, 64 - j, c), turned.v.at(0, 0, j, c) = x.v.at(0, 0, 64 - j, c);
    compare(x, attend<small<policy::full>>(context, turned.shape, turned.queries(), turned.kv()), [](int, int) { return true; });
    // A mask that hides nothing is no mask, to the bit.
    const answer open = attend<small<policy::full>>(context, x.shape, x.queries(), x.kv());
    const answer wide = attend<small<policy::sliding_window<>>>(context, x.shape, x.queries(), x.kv(), [](auto& a) { a.mask = policy::window_left(1000, 1000); });
    CHECK(open.same_bits(wide));
  });
}

// Pages in any order; slots past the end and pages of nobody hold NaN, entries past the last page point far away.
template <class Layout, int Page> void pages_are_rows(int size) {
  std::mt19937 generator(seed + size);
  const attention_shape shape{{33, 0, 7, 20}, {100, 12, 0, 64}, 4, 2, d, d};
  CAPTURE(seed, size, Page);
  rows_of_batch<bf16> q(shape.queries, 4, d, row_order::ragged), k(shape.keys, 2, d, row_order::ragged), v(shape.keys, 2, d, row_order::ragged);
  q.fill(generator);
  k.fill(generator);
  v.fill(generator);
  const int width = ceil_div(100, size) + 2, pool = 4 * width + 3;
  std::vector<int> order(pool);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), generator);
  test::array<int> table(4 * width), length(4);
  test::array<bf16> pk(std::size_t(pool) * size * 2 * d), pv(std::size_t(pool) * size * 2 * d);
  for (bf16& x : pk) x = bf16{0x7fc0};
  for (bf16& x : pv) x = bf16{0x7fc0};
  for (int s = 0; s < 4; ++s) {
    length[s] = shape.keys[s];
    for (int n = 0; n < width; ++n) table[s * width + n] = n < ceil_div(shape.keys[s], size) ? order[s * width + n] : 1 << 28;
    for (int j = 0; j < shape.keys[s]; ++j)
      for (int h = 0; h < 2; ++h)
        for (int c = 0; c < d; ++c) {
          const std::size_t at = std::size_t(Layout{}.row(table[s * width + j / size], j % size, h, 2, size)) * d + c;
          pk[at] = k.at(s, h, j, c), pv[at] = v.at(s, h, j, c);
        }
  }
  const pages where{table.data(), width, 0, length.data(), 0, size};
  const attention::paged_kv<bf16, Page> paged{attention::pool_of(Layout{}, static_cast<const bf16*>(pk.data()), pool, size, 2, d),
                                              attention::pool_of(Layout{}, static_cast<const bf16*>(pv.data()), pool, size, 2, d), where, 4, 100};
  test::for_each_context(seed, [&](const auto& context) {
    const answer rows = attend<small<policy::causal>>(context, shape, q.rows<const bf16>(), attention::dense_kv<bf16>{k.rows<const bf16>(), v.rows<const bf16>()});
    const answer found = attend<small<policy::causal, with<>, attention::paged_kv<bf16, Page>>>(context, shape, q.rows<const bf16>(), paged);
    for (std::size_t n = 0; n < rows.o.size(); ++n)
      if (!(std::abs(rows.o[n] - found.o[n]) <= 1e-6)) FAIL("a value of pages differs");
#if !defined(__CUDACC__)
    CHECK(rows.same_bits(found));          // the same tiles in the same order
#endif
  });
}
TEST_CASE("matrix: dense, ragged and paged memory give the same result", "[ops][attention][matrix]") {
  pages_are_rows<policy::nhd, 0>(16);
  pages_are_rows<policy::nhd, 0>(1);
  pages_are_rows<policy::hnd, 0>(48);
  pages_are_rows<policy::hnd, 64>(64);
}

TEST_CASE("matrix: positions count by their distance alone", "[ops][attention][matrix]") {
  std::mt19937 generator(seed);
  const int queries = 21, keys = 40, shift = keys - queries, origin = 9;
  const one_sequence plain(queries, keys, 2, 1, generator, 0.5f);
  const policy::rotary<> rotary{d};
  const auto turned = [&](int query_first, int key_first) {
    one_sequence x = plain.copy();
    std::vector<float> cos(d / 2), sin(d / 2);
    const auto turn = [&](auto& rows, int s, int h, int i, int position) {
      policy::fill_rotations(rotary, policy::rotary_use::encode, position, 1, cos.data(), sin.data());
      policy::rotate_head(policy::half_split{d}, cos.data(), sin.data(), &rows.at(s, h, i, 0));
    };
    for (int i = 0; i < queries; ++i)
      for (int h = 0; h < 2; ++h) turn(x.q, 0, h, i, query_first + i);
    for (int j = 0; j < keys; ++j) turn(x.k, 0, 0, j, key_first + j);
    return x;
  };
  test::for_each_context(seed, [&](const auto& context) {
    const auto run = [&](one_sequence&& x) { return attend<small<policy::causal>>(context, x.shape, x.queries(), x.kv()); };
    const answer here = run(turned(shift, 0));
    // Rotated vectors are rounded to bf16: 2^-8 of the sum of sizes in a score, so 2^-7 of |v| and more is not asked.
    const auto close = [&](const answer& there) {
      for (std::size_t n = 0; n < here.o.size(); ++n)
        if (!(std::abs(here.o[n] - there.o[n]) <= 0x1p-6)) return false;
      return true;
    };
    for (const int by : {1, 1000, 200000}) CHECK(close(run(turned(shift + by, by))));
    CHECK(close(run(turned(policy::block_relative{origin}.query_phase(shift + origin, 0), policy::block_relative{origin}.key_phase(0, 0)))));   // a segment that begins at `origin`
    CHECK_FALSE(close(run(turned(shift + 3, 0))));
  });
  // ALiBi and a bias by distance do not know where the sequence begins: a suffix of the keys is the same sequence, later.
  test::array<float> slopes(2);
  policy::fill_alibi_slopes(2, slopes.data());
  test::for_each_context(seed, [&](const auto& context) {
    one_sequence x = plain.copy();
    using op = small<policy::causal, with<false, false, policy::alibi_bias<>>>;
    const answer all = attend<op>(context, x.shape, x.queries(), x.kv(), [&](auto& a) { a.logits = {slopes.data()}; });
    for (int h = 0; h < 2; ++h) {
      auto p = x.problem(h, [=](int i, int j) { return j <= i + shift; });
      p.logit = [&](double z, int i, int j) { return z - slopes[h] * std::abs(i + shift - j); };
      const auto r = oracle::attention(p);
      for (int i = 0; i < queries; ++i)
        for (int e = 0; e < d; ++e) CHECK(std::abs(all.o[(i * 2 + h) * d + e] - r.o[i * d + e]) <= 2 * test::attention_error<bf16, float>(r, p, i, e));
    }
  });
}

namespace {
// Tiles of keys that differ between few rows and many: only one kernel for both gives the same bits.
struct uneven_tiles {
  SMALTI_HD constexpr attention::attention_tuning operator()(target t, attention::attention_regime regime) const {
    attention::attention_tuning tiles = test::small_tiles{}(t, regime);
    if (regime == attention::attention_regime::prefill) tiles.n = 64;
    return tiles;
  }
};
template <bool Split> using invariant = test::tuned_op<attention::flash<bf16, d, attention::dense_kv<bf16>, policy::causal, with<Split, true>>, uneven_tiles>;
}  // namespace
TEST_CASE("matrix: a row's bits do not depend on its batch where that is promised", "[ops][attention][matrix]") {
  std::mt19937 generator(seed);
  const attention_shape shape{{33, 1, 70, 5}, {100, 90, 70, 33}, 4, 2, d, d};
  rows_of_batch<bf16> q(shape.queries, 4, d, row_order::ragged), k(shape.keys, 2, d, row_order::ragged), v(shape.keys, 2, d, row_order::ragged);
  q.fill(generator);
  k.fill(generator);
  v.fill(generator);
  test::for_each_context(seed, [&](const auto& context) {
    const auto law = [&](auto op, int split) {
      using type = decltype(op);
      const answer all = attend<type>(context, shape, q.rows<const bf16>(), attention::dense_kv<bf16>{k.rows<const bf16>(), v.rows<const bf16>()}, [&](auto& a) { a.split_keys = split; });
      const answer again = attend<type>(context, shape, q.rows<const bf16>(), attention::dense_kv<bf16>{k.rows<const bf16>(), v.rows<const bf16>()}, [&](auto& a) { a.split_keys = split; });
      CHECK(all.same_bits(again));
      for (int s = 0; s < 4; ++s) {
        CAPTURE(seed, s, split);
        const attention_shape alone{{shape.queries[s]}, {shape.keys[s]}, 4, 2, d, d};
        const auto one = [&](attention::head_rows<const bf16> x) {
          return attention::bshd(x.begin(s, 0), 1, x.length(s), x.heads, x.cols);
        };
        const answer mine = attend<type>(context, alone, one(q.rows<const bf16>()), attention::dense_kv<bf16>{one(k.rows<const bf16>()), one(v.rows<const bf16>())}, [&](auto& a) { a.split_keys = split; });
        const std::size_t first = std::size_t(q.rows<const bf16>().offsets[s]) * 4;
        CHECK(std::memcmp(mine.o.data(), all.o.data() + first * d, mine.o.size() * 4) == 0);
        CHECK(std::memcmp(mine.lse.data(), all.lse.data() + first, mine.lse.size() * 4) == 0);
      }
    };
    law(invariant<false>{}, 0);
    law(invariant<true>{}, 40);
  });
}

#if !defined(__CUDACC__)
namespace {
// Address space of which only what is touched becomes memory.
class far_memory {
public:
  explicit far_memory(std::size_t bytes) : bytes_(bytes), data_(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) {}
  ~far_memory() {
    if (data_ != MAP_FAILED) munmap(data_, bytes_);
  }
  far_memory(const far_memory&) = delete;
  far_memory& operator=(const far_memory&) = delete;
  bf16* data() const { return data_ == MAP_FAILED ? nullptr : static_cast<bf16*>(data_); }

private:
  std::size_t bytes_;
  void* data_;
};
}  // namespace

TEST_CASE("matrix: keys further than 2^31 elements away", "[ops][attention][matrix]") {
  std::mt19937 generator(seed);
  const long long page = (1LL << 31) + 128, size = 16;               // elements from page to page
  const far_memory far(std::size_t(6 * page + 4096) * sizeof(bf16));
  if (far.data() == nullptr) {
    WARN("no address space of " << 6 * page * 2 << " bytes: not tested");
    return;
  }
  one_sequence x(20, 80, 2, 1, generator);
  const auto causal = [](int i, int j) { return j <= i + 60; };
  test::array<int> table(5), length(1);
  length[0] = 80;
  const int order[] = {5, 0, 3, 1, 4};
  for (int n = 0; n < 5; ++n) table[n] = order[n];
  for (int j = 0; j < 80; ++j)
    for (int c = 0; c < d; ++c) {
      bf16* slot = far.data() + order[j / size] * page + (j % size) * 2 * d;       // a slot: key, value
      slot[c] = x.k.at(0, 0, j, c), slot[d + c] = x.v.at(0, 0, j, c);
    }
  const attention::page_pool<const bf16> keys{far.data(), 6, 1, d, page, 0, 2 * d}, values{far.data() + d, 6, 1, d, page, 0, 2 * d};
  const attention::paged_kv<bf16> paged{keys, values, pages{table.data(), 5, 0, length.data(), 0, int(size)}, 1, 80};
  test::for_each_context(seed, [&](const auto& context) {
    compare(x, attend<small<policy::causal, with<>, attention::paged_kv<bf16>>>(context, x.shape, x.queries(), paged), causal);
  });
  // Two sequences and two heads, each further than 32 bits reach.
  const attention_shape two{{20, 20}, {80, 80}, 2, 2, d, d};
  rows_of_batch<bf16> q(two.queries, 2, d, row_order::bshd);
  q.fill(generator);
  for (int s = 0; s < 2; ++s)
    for (int h = 0; h < 2; ++h)
      for (int j = 0; j < 80; ++j)
        for (int c = 0; c < d; ++c) {
          bf16* at = far.data() + s * 2 * page + h * page + j * 2 * d + c;
          at[0] = x.k.at(0, 0, (j + s * 7 + h) % 80, c), at[d] = x.v.at(0, 0, (j + s * 7 + h) % 80, c);
        }
  const attention::head_rows<const bf16> k{far.data(), 2, 2, 80, d, 2 * page, page, 2 * d}, v{far.data() + d, 2, 2, 80, d, 2 * page, page, 2 * d};
  test::for_each_context(seed, [&](const auto& context) {
    const answer got = attend<small<policy::full>>(context, two, q.rows<const bf16>(), attention::dense_kv<bf16>{k, v});
    for (int s = 0; s < 2; ++s)
      for (int h = 0; h < 2; ++h) {
        auto p = test::oracle_of(two, q, [&](int s, int h, int j, int c) { return x.k.get(0, 0, (j + s * 7 + h) % 80, c); },
                                 [&](int s, int h, int j, int c) { return x.v.get(0, 0, (j + s * 7 + h) % 80, c); }, double(0.2f), s, h);
        const auto r = oracle::attention(p);
        for (int i = 0; i < 20; ++i)
          for (int e = 0; e < d; ++e) CHECK(std::abs(got.o[((s * 20 + i) * 2 + h) * d + e] - r.o[i * d + e]) <= test::attention_error<bf16, float>(r, p, i, e));
      }
  });
}
#endif
