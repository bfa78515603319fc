// cuBLASLt as a peer of the GPU benchmarks. It is opened when the program runs, so that a build needs no part of it and
// a program runs where it is absent. The declarations are those few of its documented interface that are used.
#pragma once
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <library_types.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace bench::cublaslt {

namespace abi {

enum class compute : int { f32 = 68, s32 = 72, f32_fast_tf32 = 77 };
enum class attribute : int { transpose_a = 3, transpose_b = 4 };
enum class preference : int { most_workspace = 1 };
enum class operation : int { as_is = 0, transposed = 1 };

struct algorithm {
  std::uint64_t data[8];
};
struct suggestion {
  algorithm with;
  std::size_t workspace;
  int state;
  float waves;
  int reserved[4];
};
using opaque = void*;

}  // namespace abi

//! The library and its functions; `absent` says why there is none.
class library {
 public:
  static const library& here() {
    static const library one;
    return one;
  }
  bool present() const { return handle != nullptr; }
  //! Of a library that is present.
  std::string name() const {
    const std::size_t v = get_version();
    return "cuBLASLt " + std::to_string(v / 10000) + "." + std::to_string(v / 100 % 100) + "." + std::to_string(v % 100);
  }

  abi::opaque handle = nullptr;
  std::string absent;
  std::size_t (*get_version)() = nullptr;
  int (*create)(abi::opaque*) = nullptr;
  int (*operation_create)(abi::opaque*, abi::compute, cudaDataType_t) = nullptr;
  int (*operation_set)(abi::opaque, abi::attribute, const void*, std::size_t) = nullptr;
  int (*operation_destroy)(abi::opaque) = nullptr;
  int (*layout_create)(abi::opaque*, cudaDataType_t, std::uint64_t, std::uint64_t, std::int64_t) = nullptr;
  int (*layout_destroy)(abi::opaque) = nullptr;
  int (*preference_create)(abi::opaque*) = nullptr;
  int (*preference_set)(abi::opaque, abi::preference, const void*, std::size_t) = nullptr;
  int (*preference_destroy)(abi::opaque) = nullptr;
  int (*suggest)(abi::opaque, abi::opaque, abi::opaque, abi::opaque, abi::opaque, abi::opaque, abi::opaque, int, abi::suggestion*, int*) = nullptr;
  int (*multiply)(abi::opaque, abi::opaque, const void*, const void*, abi::opaque, const void*, abi::opaque, const void*, const void*, abi::opaque,
                  void*, abi::opaque, const abi::algorithm*, void*, std::size_t, cudaStream_t) = nullptr;

 private:
  library() {
    void* file = nullptr;
    for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12", "/usr/local/cuda/lib64/libcublasLt.so"})
      if (file == nullptr) file = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (file == nullptr) {
      absent = "neither libcublasLt.so.13 nor libcublasLt.so.12 could be opened";
      return;
    }
    const bool whole = find(file, "cublasLtGetVersion", get_version) && find(file, "cublasLtCreate", create) &&
                       find(file, "cublasLtMatmulDescCreate", operation_create) && find(file, "cublasLtMatmulDescSetAttribute", operation_set) &&
                       find(file, "cublasLtMatmulDescDestroy", operation_destroy) && find(file, "cublasLtMatrixLayoutCreate", layout_create) &&
                       find(file, "cublasLtMatrixLayoutDestroy", layout_destroy) &&
                       find(file, "cublasLtMatmulPreferenceCreate", preference_create) &&
                       find(file, "cublasLtMatmulPreferenceSetAttribute", preference_set) &&
                       find(file, "cublasLtMatmulPreferenceDestroy", preference_destroy) &&
                       find(file, "cublasLtMatmulAlgoGetHeuristic", suggest) && find(file, "cublasLtMatmul", multiply);
    if (!whole) return;
    if (const int bad = create(&handle); bad != 0) {
      handle = nullptr;
      absent = "it does not start on this machine (status " + std::to_string(bad) + ")";
    }
  }
  template <class F> bool find(void* file, const char* name, F& function) {
    function = reinterpret_cast<F>(dlsym(file, name));
    if (function == nullptr) absent = std::string("it has no ") + name;
    return function != nullptr;
  }
};

inline void demand(int status, const char* what) {
  if (status != 0) throw std::runtime_error(std::string("cuBLASLt: ") + what + ": status " + std::to_string(status));
}

//! y[m x n] = x[m x k] w[n x k]^T with contiguous rows. The library counts columns, so it is told y' = w x', with w
//! transposed: the order that all its types take.
class linear {
 public:
  static constexpr std::size_t workspace_size = 64u << 20;

  linear(cudaDataType_t in, cudaDataType_t out, abi::compute compute, int m, int n, int k) : whole_(compute == abi::compute::s32) {
    const auto width = static_cast<std::uint64_t>(n), height = static_cast<std::uint64_t>(m), depth = static_cast<std::uint64_t>(k);
    demand(lib_.operation_create(&operation_, compute, whole_ ? CUDA_R_32I : CUDA_R_32F), "a product could not be described");
    const auto transposed = abi::operation::transposed, as_is = abi::operation::as_is;
    demand(lib_.operation_set(operation_, abi::attribute::transpose_a, &transposed, sizeof transposed), "w could not be transposed");
    demand(lib_.operation_set(operation_, abi::attribute::transpose_b, &as_is, sizeof as_is), "x could not be left as it is");
    demand(lib_.layout_create(&w_, in, depth, width, k), "w has no layout");
    demand(lib_.layout_create(&x_, in, depth, height, k), "x has no layout");
    demand(lib_.layout_create(&y_, out, width, height, n), "y has no layout");
    abi::opaque preference = nullptr;
    demand(lib_.preference_create(&preference), "no preference");
    const std::uint64_t bytes = workspace_size;
    demand(lib_.preference_set(preference, abi::preference::most_workspace, &bytes, sizeof bytes), "no workspace allowed");
    int found = 0;
    std::vector<abi::suggestion> all(8);
    const int bad = lib_.suggest(lib_.handle, operation_, w_, x_, y_, y_, preference, static_cast<int>(all.size()), all.data(), &found);
    lib_.preference_destroy(preference);
    demand(bad, "it suggests no algorithm");
    for (int i = 0; i < found; ++i)
      if (all[static_cast<std::size_t>(i)].state == 0) algorithms_.push_back(all[static_cast<std::size_t>(i)].with);
    if (algorithms_.empty()) throw std::runtime_error("cuBLASLt: it suggests no algorithm");
    if (cudaMalloc(&workspace_, workspace_size) != cudaSuccess) throw std::runtime_error("cuBLASLt: no memory for its workspace");
  }
  linear(const linear&) = delete;
  ~linear() {
    cudaFree(workspace_);
    for (const abi::opaque layout : {w_, x_, y_})
      if (layout != nullptr) lib_.layout_destroy(layout);
    lib_.operation_destroy(operation_);
  }

  //! Keeps the algorithm, of at most 8 that the library suggests, that `seconds()` finds the fastest.
  template <class Seconds> void choose(Seconds seconds) {
    std::size_t best = 0;
    double least = 0;
    for (chosen_ = 0; chosen_ < algorithms_.size(); ++chosen_)
      if (const double took = seconds(); chosen_ == 0 || took < least) best = chosen_, least = took;
    chosen_ = best;
  }
  void run(const void* x, const void* w, void* y, cudaStream_t stream) const {
    const float one = 1, zero = 0;
    const std::int32_t one_int = 1, zero_int = 0;
    const void *alpha = whole_ ? static_cast<const void*>(&one_int) : &one, *beta = whole_ ? static_cast<const void*>(&zero_int) : &zero;
    demand(lib_.multiply(lib_.handle, operation_, alpha, w, w_, x, x_, beta, y, y_, y, y_, &algorithms_[chosen_], workspace_, workspace_size, stream),
           "a product failed");
  }
  std::size_t candidates() const { return algorithms_.size(); }

 private:
  const library& lib_ = library::here();
  bool whole_;
  abi::opaque operation_ = nullptr, w_ = nullptr, x_ = nullptr, y_ = nullptr;
  std::vector<abi::algorithm> algorithms_;
  std::size_t chosen_ = 0;
  void* workspace_ = nullptr;
};

}  // namespace bench::cublaslt
