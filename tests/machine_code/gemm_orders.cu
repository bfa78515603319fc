// The dense product with every order of its operands, 8-bit floats, floats in two parts, reductions, grouped tiles and
// persistent blocks, as the operation starts it. One kernel a compilation, chosen by -DKERNEL=name. Nothing here runs.
#include <smalti/ops/gemm.hpp>
#include "tuned.hpp"

namespace kernels {

using namespace smalti;
using gemm::a_order;
using gemm::b_order;

template <class T, class C, class Options, class Epilogue = policy::chain<>, gemm::gemm_regime Regime = gemm::gemm_regime::prefill> struct dense {
  using op = gemm::dense<T, T, C, Epilogue, Options>;
  using tuning = chosen<gemm::gemm_tuning, gemm::order_tuning<T, op::pairs, Options>>;
  using kernel = typename op::template kernel<tuning, Regime, false>;
  using arguments = typename kernel::arguments;
  template <target T_> using agent = typename kernel::template agent<T_>;
};
template <a_order A, b_order B, bool Persistent = false, gemm::float_product Product = gemm::float_product::tf32, class... Reductions> struct form : gemm::options {
  static constexpr a_order a = A;
  static constexpr b_order b = B;
  static constexpr bool persistent = Persistent;
  static constexpr gemm::float_product f32 = Product;
  using reductions = policy::chain<Reductions...>;
};
using nn = form<a_order::m_by_k, b_order::k_by_n>;
using nt = form<a_order::m_by_k, b_order::n_by_k>;
using tn = form<a_order::k_by_m, b_order::k_by_n>;
using tt = form<a_order::k_by_m, b_order::n_by_k>;
using three = form<a_order::m_by_k, b_order::n_by_k, false, gemm::float_product::tf32x3>;
using persistent = form<a_order::m_by_k, b_order::n_by_k, true>;
using reducing = form<a_order::m_by_k, b_order::n_by_k, false, gemm::float_product::tf32, policy::column_sum, policy::row_absmax>;

using bf16_nt = dense<bf16, bf16, nt>;
using bf16_nn = dense<bf16, bf16, nn>;
using bf16_tn = dense<bf16, bf16, tn>;
using bf16_tt = dense<bf16, bf16, tt>;
using fp16_tn = dense<fp16, fp16, tn>;
using f32_nt = dense<float, float, nt>;
using f32_nn = dense<float, float, nn>;
using f32_tn = dense<float, float, tn>;
using f32_tt = dense<float, float, tt>;
using s8_nt = dense<std::int8_t, int, nt>;
using s8_nn = dense<std::int8_t, int, nn>;
using s8_tn = dense<std::int8_t, int, tn>;
using s8_tt = dense<std::int8_t, int, tt>;
using e4m3_nt = dense<fp8_e4m3, bf16, nt>;
using e4m3_tn = dense<fp8_e4m3, bf16, tn>;
using e5m2_nt = dense<fp8_e5m2, bf16, nt>;
using bf16_decode = dense<bf16, bf16, nt, policy::chain<>, gemm::gemm_regime::decode>;
using f32_three = dense<float, float, three>;
using bf16_persistent = dense<bf16, bf16, persistent>;
using bf16_reduced = dense<bf16, bf16, reducing>;
using reduction_of_sums = gemm::combine_reduction_kernel<false>;

}  // namespace kernels

smalti::status start(const smalti::cuda_context& context, const kernels::KERNEL::arguments& x) {
  return smalti::launch<kernels::KERNEL>(context, x);
}
