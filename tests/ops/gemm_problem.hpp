// One GEMM problem for the tests: memory with strides wider than the rows, guard bands, and the double answer.
#pragma once
#include <catch2/catch.hpp>
#include <cstring>
#include <tuple>
#include <vector>
#include <smalti/ops/gemm.hpp>
#include "reference/gemm.hpp"
#include "support/arrays.hpp"
#include "support/contexts.hpp"
#include "support/tolerance.hpp"

namespace test {

using namespace smalti;

struct aligned_nk : gemm::options {};
struct aligned_kn : gemm::options { static constexpr auto b = gemm::b_order::k_by_n; };
struct any_nk : gemm::options { static constexpr bool any_width = true; };
struct any_kn : gemm::options { static constexpr bool any_width = true; static constexpr auto b = gemm::b_order::k_by_n; };
struct split_nk : gemm::options { static constexpr bool split_k = true; };
struct turned_nk : gemm::options { static constexpr auto a = gemm::a_order::k_by_m; };
struct turned_kn : aligned_kn { static constexpr auto a = gemm::a_order::k_by_m; };
struct invariant_nk : gemm::options { static constexpr bool batch_invariant = true; };

// One problem: memory with strides wider than the rows, guard bands, and the double answer before the epilogue.
template <class A, class C, class Options> struct problem {
  static constexpr bool by_rows = Options::b == gemm::b_order::n_by_k, a_by_rows = Options::a == gemm::a_order::m_by_k;
  int m, n, k, batch, pairs;
  std::int64_t lda, ldb, ldc;
  array<A> a, b;
  array<C> c;
  std::vector<oracle::sums> sums;

  static std::int64_t stride(int width, std::size_t size) {
    const int step = Options::any_width ? 1 : int(16 / size);
    return (width + step - 1) / step * step + step;
  }
  problem(int m, int n, int k, int batch, std::mt19937& generator, int pairs = 1)
      : m(m), n(n), k(k), batch(batch), pairs(pairs), lda(stride(a_by_rows ? k : m, sizeof(A))), ldb(stride(by_rows ? k : n * pairs, sizeof(A))), ldc(stride(n, sizeof(C))),
        a(random_array<A>(std::size_t(batch) * a_matrix(), generator, 1, Options::any_width)),
        b(random_array<A>(std::size_t(batch) * (by_rows ? n * pairs : k) * ldb, generator, 0.25f, Options::any_width)),
        c(std::size_t(batch) * m * ldc, Options::any_width) {
    for (int s = 0; s < batch; ++s)
      sums.push_back(oracle::multiply(a.data() + s * a_matrix(), lda, b.data() + s * b_matrix(), ldb, by_rows, m, n * pairs, k, a_by_rows));
  }
  std::int64_t a_matrix() const { return (a_by_rows ? m : k) * lda; }
  std::int64_t b_matrix() const { return (by_rows ? n * pairs : k) * ldb; }
  template <class Op> typename Op::args args() {
    return {.a = {a.data(), a_by_rows ? m : k, a_by_rows ? k : m, int(lda)},
            .b = {b.data(), by_rows ? n * pairs : k, by_rows ? k : n * pairs, int(ldb)},
            .c = {c.data(), m, n, int(ldc)},
            .batch = {batch, a_matrix(), b_matrix(), m * ldc}};
  }
  // the double sum and its size at (i, j) of matrix s
  double sum(int s, int i, int j) const { return sums[s].value[std::size_t(i) * n * pairs + j]; }
  double size(int s, int i, int j) const { return sums[s].size[std::size_t(i) * n * pairs + j]; }
  C got(int s, int i, int j) const { return c[std::size_t(s) * m * ldc + i * ldc + j]; }

  //! Every element is within its bound, and nothing beside the result was touched.
  template <class Expected> void verify(Expected expected, double slope, double function) const {
    const gemm_error model{k, slope, function, operand_error<A>()};
    double worst = 0;
    for (int s = 0; s < batch; ++s)
      for (int i = 0; i < m; ++i) {
        for (int j = 0; j < n; ++j) {
          const double want = expected(s, i, j), bound = model.template bound<C, A>(size_of(s, i, j), want);
          const double error = std::abs(value(got(s, i, j)) - want);
          if (!(error <= bound)) {
            CAPTURE(s, i, j, want, value(got(s, i, j)), bound);
            REQUIRE(error <= bound);
          }
          worst = std::max(worst, error);
        }
        for (int j = n; j < ldc; ++j) {
          const C untouched = got(s, i, j);
          unsigned char bytes[sizeof(C)];
          std::memcpy(bytes, &untouched, sizeof(C));
          for (unsigned char x : bytes) REQUIRE(x == 0xA5);
        }
      }
    REQUIRE(c.guarded());
    CHECK(a.guarded());
    CHECK(b.guarded());
  }
  double size_of(int s, int i, int j) const { return pairs == 1 ? size(s, i, j) : size(s, i, j) + size(s, i, j + n); }
};

template <class Op, class Context> void run(const Context& context, const typename Op::args& x) {
  scratch memory(Op::workspace_bytes(context, x));
  const status st = Op::run(context, x, memory.get());
  CAPTURE(st.what, st.got, st.need);
  REQUIRE(st.code == errc::ok);
  wait(base_of(context));
  REQUIRE(memory.guarded());
}

constexpr unsigned gemm_seed = 20261121;

template <class A, class C, class Options> void shapes(std::initializer_list<std::tuple<int, int, int, int>> list) {
  using op = gemm::dense<A, A, C, policy::chain<>, Options>;
  std::mt19937 generator(gemm_seed);
  for (auto [m, n, k, batch] : list) {
    CAPTURE(gemm_seed, m, n, k, batch);
    problem<A, C, Options> p(m, n, k, batch, generator);
    for_each_context(gemm_seed, [&](const auto& context) {
      std::memset(p.c.data(), 0xA5, p.c.size() * sizeof(C));
      run<op>(context, p.template args<op>());
      p.verify([&](int s, int i, int j) { return p.sum(s, i, j); }, 1, 0);
    });
  }
}

}  // namespace test

