// What tests of gradients share: matrices on a tape (tests/reference/tape.hpp), products of them, and comparisons with what an operation made.
#pragma once
#include "../reference/tape.hpp"
#include "moe_problem.hpp"
#include <smalti/flow/lora.hpp>

namespace tape_problem {

using namespace smalti;
using namespace test;
using namespace moe_problem;
using reference::tape;

// rows x cols places on a tape
struct matrix {
  int rows = 0, cols = 0;
  std::vector<int> at{};
  int operator()(int r, int c) const { return at[std::size_t(r) * cols + c]; }
};
// One leaf of a whole definition, moved by a little.
struct nudge {
  int at = -1;
  double by = 0;
};
template <class T> matrix leaves(tape& t, const T* data, int rows, int cols, nudge n) {
  matrix m{rows, cols};
  for (int i = 0; i < rows * cols; ++i) m.at.push_back(t.leaf(value(data[i]) + (t.size() == n.at ? n.by : 0)));
  return m;
}
// (w v')[r] of one row of values v: w is rows x v.size()
inline std::vector<int> times(tape& t, const matrix& w, const std::vector<int>& v) {
  std::vector<int> out;
  std::vector<std::pair<int, int>> terms(v.size());
  for (int r = 0; r < w.rows; ++r) {
    for (std::size_t c = 0; c < v.size(); ++c) terms[c] = {v[c], w(r, int(c))};
    out.push_back(t.dot(terms));
  }
  return out;
}
inline std::vector<int> row_of(const matrix& m, int r) { return {m.at.begin() + std::size_t(r) * m.cols, m.at.begin() + std::size_t(r + 1) * m.cols}; }
template <class F> std::vector<int> each(const std::vector<int>& v, F f) {
  std::vector<int> out;
  for (std::size_t i = 0; i < v.size(); ++i) out.push_back(f(int(i)));
  return out;
}

template <class T> std::vector<double> values_of(const array<T>& a, int n) {
  std::vector<double> out;
  for (int i = 0; i < n; ++i) out.push_back(value(a[i]));
  return out;
}

// A definition on a tape that has been walked back from y, whose gradient is `seed`.
template <class Define> tape walked(Define define, const std::vector<double>& seed) {
  tape t(operand_error<float>());
  const std::vector<int> y = define(t, nudge{});
  for (std::size_t i = 0; i < y.size(); ++i) t.seed(y[i], seed[i]);
  t.back();
  return t;
}

// A definition, its gradient, and the gradient again by differences: `define(tape, nudge)` puts everything on a
// tape and returns the places of y.
template <class Define> void by_differences(Define define, const std::vector<double>& seed, const tape& known, const std::vector<int>& some) {
  const auto loss = [&](int moved, double by) {
    tape t;
    const std::vector<int> y = define(t, nudge{moved, by});
    double sum = 0;
    for (std::size_t i = 0; i < y.size(); ++i) sum += seed[i] * t.value(y[i]);
    return sum;
  };
  for (int i : some) {
    const double step = 0x1p-14, slope = (loss(i, step) - loss(i, -step)) / (2 * step), scale = std::abs(slope) + std::abs(known.gradient(i));
    if (!(std::abs(slope - known.gradient(i)) <= 1e-5 * scale + 1e-7)) {
      CAPTURE(i, slope, known.gradient(i));
      REQUIRE(std::abs(slope - known.gradient(i)) <= 1e-5 * scale + 1e-7);
    }
  }
}

// What an operation made, against the gradients at the places, element by element; stored once in T.
template <class T> void same_gradients(const char* name, const array<T>& got, const tape& t, const std::vector<int>& at, double scale = 1) {
  REQUIRE(got.guarded());
  double size = 0;
  for (std::size_t i = 0; i < at.size(); ++i) {
    const double want = scale * t.gradient(at[i]), bound = std::abs(scale) * t.gradient_error(at[i]) + store_error<T>(want) * 1.01 + 1e-30, is = value(got[i]);
    size += std::abs(want);
    if (!(std::abs(is - want) <= bound)) {
      CAPTURE(name, i, want, is, bound);
      REQUIRE(std::abs(is - want) <= bound);
    }
  }
  CAPTURE(name);
  REQUIRE((at.empty() || size > 0));      // a gradient that is zero everywhere would prove nothing
}

// Low-rank updates of a projection, in pages, and on a tape.
struct updates {
  int from, to, most, lines;
  std::vector<int> ranks;
  array<int> first, count, line;
  array<float> scale;
  array<bf16> a, b;
  matrix of_a, of_b;
  updates(std::vector<int> r, int from, int to, std::mt19937& generator)
      : from(from), to(to), most(*std::max_element(r.begin(), r.end())), lines(std::accumulate(r.begin(), r.end(), 0)), ranks(std::move(r)), first(ranks.size()), count(ranks.size()), line(std::size_t(lines)), scale(ranks.size()),
        a(random_array<bf16>(std::size_t(lines) * from, generator, 0.2f)), b(random_array<bf16>(std::size_t(lines) * to, generator, 0.2f)) {
    int used = 0;
    for (std::size_t e = 0; e < ranks.size(); used += ranks[e++]) first[e] = used, count[e] = ranks[e], scale[e] = 0.5f + float(e) / 4;
    for (int i = 0; i < lines; ++i) line[i] = lines - 1 - i;
  }
  int high() const { return (most + 15) / 16 * 16; }
  lora::adapters<bf16> view() const {
    const int n = int(ranks.size());
    return {.a = {.pool = {a.data(), lines, from, from}, .first = first.data(), .count = count.data(), .line = line.data(), .weights = n, .most = most, .lines = lines},
            .b = {.pool = {b.data(), lines, to, to}, .first = first.data(), .count = count.data(), .line = line.data(), .scale = scale.data(), .weights = n, .most = most, .lines = lines}};
  }
  void put(tape& t, nudge n) { of_a = leaves(t, a.data(), lines, from, n), of_b = leaves(t, b.data(), lines, to, n); }
  // w v + scale B' A v for update e, or w v alone
  std::vector<int> times(tape& t, const matrix& w, int shift, const std::vector<int>& v, int e) const {
    std::vector<std::pair<int, int>> low;
    for (int q = 0; e >= 0 && q < ranks[e]; ++q) {
      std::vector<std::pair<int, int>> terms;
      for (int c = 0; c < from; ++c) terms.push_back({v[c], of_a(line[first[e] + q], c)});
      low.push_back({t.product(t.dot(terms), t.leaf(scale[e])), line[first[e] + q]});
    }
    std::vector<int> out;
    for (int i = 0; i < to; ++i) {
      std::vector<std::pair<int, int>> terms;
      for (int c = 0; c < from; ++c) terms.push_back({v[c], w(shift + i, c)});
      for (const auto& [value, at] : low) terms.push_back({value, of_b(at, i)});
      out.push_back(t.dot(terms));
    }
    return out;
  }
  // da and db of group g, whose update is e
  void same(const char* name, const array<float>& da, const array<float>& db, int groups, const tape& t, const matrix& a, const matrix& b, const std::vector<int>& update) const {
    CAPTURE(name);
    REQUIRE((da.guarded() && db.guarded()));
    for (int e = 0; e < int(ranks.size()); ++e)
      for (int q = 0; q < high(); ++q) {
        const auto compare = [&](const array<float>& got, const matrix& known, int cols) {
          for (int c = 0; c < cols; ++c) {
            double sum = 0;
            bool any = false;
            for (int g = 0; g < groups; ++g)
              if (update[g] == e) sum += got[(std::size_t(g) * high() + q) * cols + c], any = true;
            if (!any) continue;
            const double want = q < ranks[e] ? t.gradient(known(line[first[e] + q], c)) : 0, bound = q < ranks[e] ? t.gradient_error(known(line[first[e] + q], c)) + 1e-30 : 0;
            if (!(std::abs(sum - want) <= bound)) {
              CAPTURE(e, q, c, want, sum, bound);
              REQUIRE(std::abs(sum - want) <= bound);
            }
          }
        };
        compare(da, a, from), compare(db, b, to);
      }
    for (int g = 0; g < groups; ++g)      // groups without an update: zeros
      for (int i = 0; update[g] < 0 && i < high() * from; ++i) REQUIRE(da[std::size_t(g) * high() * from + i] == 0);
  }
};

inline stack<float> gradient_stack(array<float>& a, int groups, int rows, int cols) { return {a.data(), groups, rows, cols, static_cast<long long>(rows) * cols, cols}; }

// One choice: gate and up, their gradients rounded so often, and h, rounded so often.
inline std::vector<int> gated(tape& t, const std::vector<int>& gate, const std::vector<int>& up, int times, bool values_rounded = false) {
  return each(gate, [&](int i) {
    int g = gate[i], u = up[i];
    for (int k = 0; k < times; ++k) g = t.gradient_rounded(g, bf16_rounding), u = t.gradient_rounded(u, bf16_rounding);
    if (values_rounded) g = t.rounded(g, bf16_rounding), u = t.rounded(u, bf16_rounding);
    int h = t.product(t.silu(g), u);
    for (int k = 0; k < times; ++k) h = t.rounded(h, bf16_rounding);
    return h;
  });
}

}  // namespace tape_problem
