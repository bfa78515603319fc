// What every header needs to know before its first line of code: the version, the compilers that are
// supported, the names of the inline namespaces, and the two marks that functions carry.
#pragma once

#define SMALTI_VERSION_MAJOR 0
#define SMALTI_VERSION_MINOR 1
#define SMALTI_VERSION_PATCH 0

#if !defined(__linux__)
#  error "smalti: only Linux is supported"
#endif
#if __cplusplus < 202002L
#  error "smalti: C++20 is needed: compile with -std=c++20; hide an instantiation behind a C function for older programs"
#endif
#if defined(__clang__)
#  if __clang_major__ < 14
#    error "smalti: clang 14 or newer is needed"
#  endif
#elif defined(__GNUC__)
#  if __GNUC__ < 12
#    error "smalti: g++ 12 or newer is needed"
#  endif
#else
#  error "smalti: g++ 12 or newer, or clang 14 or newer, is needed"
#endif

// SMALTI_HD marks every function of an agent or a policy: usable on every machine.
// SMALTI_VERB stands before the verbs of a machine, and nowhere else. It tells nvcc not to check which
// execution space the body calls: without it a __tile__ call from a function that is also __host__ is an
// error, even in a template that is never instantiated for the host.
#if defined(__CUDACC_TILE__)
#  define SMALTI_HD __tile__ __host__ __device__
#elif defined(__CUDACC__)
#  define SMALTI_HD __host__ __device__
#else
#  define SMALTI_HD
#endif
#if defined(__CUDACC__)
#  define SMALTI_VERB _Pragma("nv_exec_check_disable")
#else
#  define SMALTI_VERB
#endif

// Two inline namespaces. `core` data and `policy` values live in SMALTI_DATA: no body there differs by a
// macro. Code that does (tile, block, prim, ops, comm, flow) lives in SMALTI_CODE, whose name says what it
// was compiled with, so that files compiled with different flags link without mixing bodies.
//     namespace smalti::inline SMALTI_DATA { ... }
//     namespace smalti::inline SMALTI_CODE::gemm { ... }
// Both names carry the whole version: one program may link parts built with different versions, each with its own bodies,
// and what they pass to each other by these types is a link error rather than a layout guessed.
#define SMALTI_DATA SMALTI_VERSIONED_(SMALTI_VERSION_MAJOR, SMALTI_VERSION_MINOR, SMALTI_VERSION_PATCH)
#define SMALTI_VERSIONED_(major, minor, patch) SMALTI_VERSIONED_PASTE_(major, minor, patch)
#define SMALTI_VERSIONED_PASTE_(major, minor, patch) v##major##_##minor##_##patch

#if defined(__CUDACC__)
#  define SMALTI_DOT_ none          // nvcc compiles no host machine
#elif (defined(__AMX_BF16__) || defined(__AMXBF16__)) && (defined(__AMX_INT8__) || defined(__AMXINT8__)) && defined(__AVX512BF16__) && defined(__AVX512VNNI__) && defined(__AVX512DQ__)
#  define SMALTI_DOT_ amx
#  define SMALTI_DOT_LEVEL 4
#elif defined(__AVX512BF16__) && defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
#  define SMALTI_DOT_ avx512bf16
#  define SMALTI_DOT_LEVEL 3
#elif defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#  define SMALTI_DOT_ avx512
#  define SMALTI_DOT_LEVEL 2
#elif defined(__AVX2__) && defined(__FMA__)
#  define SMALTI_DOT_ avx2
#  define SMALTI_DOT_LEVEL 1
#else
#  define SMALTI_DOT_ portable
#  define SMALTI_DOT_LEVEL 0
#endif
#if defined(_OPENMP)
#  define SMALTI_THREADS_ omp
#else
#  define SMALTI_THREADS_ serial
#endif
// A .cu file's code depends on the architectures it is compiled for, too: the host sizes a grid and a workspace for
// the tile of the code that the driver will load. __CUDA_ARCH_LIST__ is 800,900 and the like.
#define SMALTI_ARCHS_1_(a) _##a
#define SMALTI_ARCHS_2_(a, b) _##a##_##b
#define SMALTI_ARCHS_3_(a, b, c) _##a##_##b##_##c
#define SMALTI_ARCHS_4_(a, b, c, d) _##a##_##b##_##c##_##d
#define SMALTI_ARCHS_5_(a, b, c, d, e) _##a##_##b##_##c##_##d##_##e
#define SMALTI_ARCHS_6_(a, b, c, d, e, f) _##a##_##b##_##c##_##d##_##e##_##f
#define SMALTI_ARCHS_7_(a, b, c, d, e, f, g) _##a##_##b##_##c##_##d##_##e##_##f##_##g
#define SMALTI_ARCHS_8_(a, b, c, d, e, f, g, h) _##a##_##b##_##c##_##d##_##e##_##f##_##g##_##h
#define SMALTI_ARCHS_9_(a, b, c, d, e, f, g, h, i) _##a##_##b##_##c##_##d##_##e##_##f##_##g##_##h##_##i
#define SMALTI_ARCHS_10_(a, b, c, d, e, f, g, h, i, j) _##a##_##b##_##c##_##d##_##e##_##f##_##g##_##h##_##i##_##j
#define SMALTI_ARCHS_11_(a, b, c, d, e, f, g, h, i, j, k) _##a##_##b##_##c##_##d##_##e##_##f##_##g##_##h##_##i##_##j##_##k
#define SMALTI_ARCHS_12_(a, b, c, d, e, f, g, h, i, j, k, l) _##a##_##b##_##c##_##d##_##e##_##f##_##g##_##h##_##i##_##j##_##k##_##l
#define SMALTI_ARCHS_COUNT_(a, b, c, d, e, f, g, h, i, j, k, l, n, ...) n
#define SMALTI_ARCHS_PASTE_(n, ...) SMALTI_ARCHS_##n##_(__VA_ARGS__)
#define SMALTI_ARCHS_APPLY_(n, ...) SMALTI_ARCHS_PASTE_(n, __VA_ARGS__)
#define SMALTI_ARCHS_(...) SMALTI_ARCHS_APPLY_(SMALTI_ARCHS_COUNT_(__VA_ARGS__, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0), __VA_ARGS__)
#if defined(__CUDACC__)
#  define SMALTI_COMPILER_ cuda
#else
#  define SMALTI_COMPILER_ host
#endif
#if defined(__CUDACC__) && defined(__CUDA_ARCH_LIST__)
#  define SMALTI_CODE_LIST_ SMALTI_ARCHS_(__CUDA_ARCH_LIST__)
#else
#  define SMALTI_CODE_LIST_
#endif
#if defined(SMALTI_MUTATIONS)       // the mutation test's binary: its bodies must meet no other's
#  define SMALTI_TAG_ _mutations
#else
#  define SMALTI_TAG_
#endif
#define SMALTI_PASTE_(x, y, z, a, b, c, d, e) v##x##_##y##_##z##_##a##_##b##_##c##d##e
#define SMALTI_PASTE(x, y, z, a, b, c, d, e) SMALTI_PASTE_(x, y, z, a, b, c, d, e)
#define SMALTI_CODE \
  SMALTI_PASTE(SMALTI_VERSION_MAJOR, SMALTI_VERSION_MINOR, SMALTI_VERSION_PATCH, SMALTI_DOT_, SMALTI_THREADS_, SMALTI_COMPILER_, \
               SMALTI_CODE_LIST_, SMALTI_TAG_)

namespace smalti::inline SMALTI_DATA {

struct version_number { int major, minor, patch; };
constexpr version_number version{SMALTI_VERSION_MAJOR, SMALTI_VERSION_MINOR, SMALTI_VERSION_PATCH};

//! False for every type: the condition of a static_assert that must fire only when instantiated.
template <class...> constexpr bool never = false;

}  // namespace smalti::inline SMALTI_DATA
