// OpenBLAS as a peer: C[m x n] = A[m x k] B^T in f32, B stored n x k. It takes plain arrays only.
#pragma once
#if defined(SMALTI_BENCH_OPENBLAS)
#  include <cblas.h>

#  include <string>

namespace bench::openblas {

//! As "OpenBLAS 0.3.21 (SkylakeX)": the second is the kernel set it chose for this processor.
inline std::string version() {
  const std::string all = openblas_get_config();
  const auto end = all.find(' ', all.find(' ') + 1);
  return all.substr(0, end) + " (" + openblas_get_corename() + ")";
}

inline void linear(const float* a, const float* b, float* c, int m, int n, int k, int threads) {
  openblas_set_num_threads(threads);
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, n, k, 1.0f, a, k, b, k, 0.0f, c, n);
}

}  // namespace bench::openblas
#endif
