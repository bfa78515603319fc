// What every unit of the mixed program does. The templates live in the library's two namespaces; in SMALTI_CODE their
// bodies differ by the flags of the file that compiles them, and the linker keeps one body for each name: a file gets
// its own answers only if the namespace's name carries those flags.
#pragma once
#include <cstdio>

#include <smalti/core/status.hpp>
#include <smalti/core/view.hpp>
#include <smalti/tile/vocabulary.hpp>
#if defined(ODR_GEMM)
#  include <smalti/ops/gemm.hpp>
#endif

#define ODR_TEXT_(x) #x
#define ODR_TEXT(x) ODR_TEXT_(x)

namespace smalti::inline SMALTI_CODE {

template <class T> struct odr_probe {
  [[gnu::noinline]] static int dot_level() {
#if defined(SMALTI_DOT_LEVEL)
    return SMALTI_DOT_LEVEL;
#else
    return -1;
#endif
  }
  [[gnu::noinline]] static int threads() {
#if defined(_OPENMP)
    return 1;
#else
    return 0;
#endif
  }
  [[gnu::noinline]] static int nvcc() {
#if defined(__CUDACC__)
    return 1;
#else
    return 0;
#endif
  }
};

#if defined(ODR_GEMM)
//! A product of small whole numbers, so that every compiler and every order of sums gives the same bits: one number
//! that stands for all of C. On a machine without a GPU a .cu file's answer is the context's refusal.
template <class Input> [[gnu::noinline]] long long odr_gemm() {
  constexpr int m = 37, n = 40, k = 72;
  alignas(64) static Input a[m * k], b[n * k];
  alignas(64) static float c[m * n];
  for (int i = 0; i < m * k; ++i) a[i] = smalti::narrow<Input>(float(i * 7 % 11 - 5));
  for (int i = 0; i < n * k; ++i) b[i] = smalti::narrow<Input>(float(i * 5 % 13 - 6));
  using product = gemm::dense<Input, Input, float>;
  const typename product::args x{.a = {a, m, k, k}, .b = {b, n, k, k}, .c = {c, m, n, n}};
#if defined(__CUDACC__)
  const auto context = cuda_context::on(nullptr);
  if (!context.ready) return -static_cast<long long>(product::run(context, x).code);
  return 0;        // host memory is no argument for a GPU; that the kernel linked is the test
#else
  alignas(256) static std::byte memory[1 << 22];
  const host_context context{2};
  if (const status s = product::run(context, x, {memory, sizeof memory}); !s) return -static_cast<long long>(s.code);
  long long sum = 0, expected = 0;
  for (int i = 0; i < m; ++i)
    for (int j = 0; j < n; ++j) {
      long long dot = 0;
      for (int p = 0; p < k; ++p) dot += ((i * k + p) * 7 % 11 - 5) * ((j * k + p) * 5 % 13 - 6);
      sum += static_cast<long long>(c[i * n + j]) * (i + 3 * j + 1);
      expected += dot * (i + 3 * j + 1);
    }
  return sum != expected ? -1000 : sum < 0 ? -sum : sum;
#endif
}

//! Workspace of a split product: it comes from the tile of the target that the machine runs. For a GPU, a pretended one of
//! compute capability 9.0: a file compiled for 8.0 alone runs its own tiles there.
struct odr_split : gemm::options { static constexpr bool split_k = true; };
template <class Input> [[gnu::noinline]] long long odr_workspace() {
  using product = gemm::dense<Input, Input, float, policy::chain<>, odr_split>;
  typename product::args x{.a = {nullptr, 37, 512, 512}, .b = {nullptr, 40, 512, 512}, .c = {nullptr, 37, 40, 40}, .splits = 2};
#if defined(__CUDACC__)
  cuda_context context;
  context.arch = 90;
#else
  const host_context context{1};
#endif
  return static_cast<long long>(product::workspace_bytes(context, x));
}
#endif

}  // namespace smalti::inline SMALTI_CODE

namespace smalti::inline SMALTI_DATA {

//! No body in SMALTI_DATA differs by a macro: a file may link to any of them.
template <class T> [[gnu::noinline]] long long odr_shared(const stack<T, 1>& s) { return (s[1].data - s.data) * 100 + ceil_div(s.rows, 4); }

}  // namespace smalti::inline SMALTI_DATA

//! One line, the same whether the unit is linked alone or among others.
static int odr_line(char* out, unsigned size, const char* unit) {
  float data[64] = {};
  long long product = 0, workspace = 0;
#if defined(ODR_GEMM)
  product = smalti::odr_gemm<smalti::bf16>();
  workspace = smalti::odr_workspace<smalti::bf16>();
#endif
  return std::snprintf(out, size, "%s %s dot %d threads %d nvcc %d shared %lld gemm %lld workspace %lld", unit, ODR_TEXT(SMALTI_CODE),
                       smalti::odr_probe<float>::dot_level(), smalti::odr_probe<float>::threads(), smalti::odr_probe<float>::nvcc(),
                       smalti::odr_shared<float>({data, 2, 5, 4, 20, 4}), product, workspace);
}
