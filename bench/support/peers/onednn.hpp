// oneDNN as a peer: C[m x n] = A[m x k] B^T with B stored n x k, as linear layers store it.
#pragma once
#if defined(SMALTI_BENCH_ONEDNN)
#  include <dnnl.hpp>
#  include <omp.h>

#  include <string>
#  include <unordered_map>
#  include <utility>

namespace bench::onednn {

enum class element { f32, bf16, s8 };  // s8 sums in s32, bf16 in f32, as the library under test does

inline std::string version() {
  const dnnl_version_t* v = dnnl::version();
  return "oneDNN " + std::to_string(v->major) + "." + std::to_string(v->minor) + "." + std::to_string(v->patch);
}

//! Keeps oneDNN from AMX; only before its first primitive. Throws where it is too late.
inline void without_amx() {
  if (dnnl::set_max_cpu_isa(dnnl::cpu_isa::avx512_core_bf16) != dnnl::status::success)
    throw std::runtime_error("oneDNN was already in use: its instructions can no longer be limited");
}

inline dnnl::engine& engine() {
  static dnnl::engine e(dnnl::engine::kind::cpu, 0);
  return e;
}

//! One matrix product, its kernel made beforehand. `packed`: the weights are put into the order oneDNN
//! likes best in prepare(), outside any measurement; else run() takes them as they are.
class linear {
 public:
  linear(element type, int m, int n, int k, bool packed, int threads)
      : stream_(engine()), plain_({k, n}, weight_type(type), dnnl::memory::dims{1, k}), packed_(packed), threads_(threads) {
    using md = dnnl::memory::desc;
    using tag = dnnl::memory::format_tag;
    const auto in = weight_type(type);
    const auto out = type == element::s8 ? dnnl::memory::data_type::s32 : dnnl::memory::data_type::f32;
    omp_set_num_threads(threads_);  // oneDNN plans for the number of threads it sees here
    const md a({m, k}, in, tag::ab), c({m, n}, out, tag::ab);
    const md b = packed ? md({k, n}, in, tag::any) : plain_;
    const dnnl::matmul::primitive_desc plan(dnnl::matmul::desc(a, b, c), engine());
    product_ = dnnl::matmul(plan);
    implementation_ = plan.impl_info_str();
    a_ = dnnl::memory(plan.src_desc(), engine(), nullptr);
    b_ = packed ? dnnl::memory(plan.weights_desc(), engine()) : dnnl::memory(plan.weights_desc(), engine(), nullptr);
    c_ = dnnl::memory(plan.dst_desc(), engine(), nullptr);
  }
  void prepare(const void* b) {
    if (!packed_) return;
    omp_set_num_threads(threads_);
    dnnl::memory from(plain_, engine(), const_cast<void*>(b));
    dnnl::reorder(from, b_).execute(stream_, from, b_);
    stream_.wait();
  }
  void run(const void* a, const void* b, void* c) {
    omp_set_num_threads(threads_);
    a_.set_data_handle(const_cast<void*>(a));
    if (!packed_) b_.set_data_handle(const_cast<void*>(b));
    c_.set_data_handle(c);
    product_.execute(stream_, {{DNNL_ARG_SRC, a_}, {DNNL_ARG_WEIGHTS, b_}, {DNNL_ARG_DST, c_}});
    stream_.wait();
  }
  //! What oneDNN calls the kernel it chose, as "brgemm:avx512_core_bf16".
  const std::string& implementation() const { return implementation_; }

 private:
  static dnnl::memory::data_type weight_type(element type) {
    return type == element::f32    ? dnnl::memory::data_type::f32
           : type == element::bf16 ? dnnl::memory::data_type::bf16
                                   : dnnl::memory::data_type::s8;
  }
  dnnl::stream stream_;
  dnnl::memory::desc plain_;
  dnnl::matmul product_;
  dnnl::memory a_, b_, c_;
  std::string implementation_;
  bool packed_;
  int threads_;
};

}  // namespace bench::onednn
#endif
