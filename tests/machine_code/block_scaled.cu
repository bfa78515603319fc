// Products of operands that are block-scaled on both sides, products in groups along k and persistent ones, compiled to machine code by scripts/machine_code.py. One kernel a
// compilation, chosen by -DKERNEL=name. Nothing here runs.
#include <smalti/ops/gemm/quantized.hpp>
#include <smalti/ops/quantize.hpp>
#include <smalti/policy/codec.hpp>
#include "tuned.hpp"

namespace kernels {

using namespace smalti;
using gemm::gemm_regime;

template <class Tokens, class Format, gemm_regime Regime> struct product {
  using op = gemm::quantized<Tokens, Format>;
  using problem = typename op::problem;
  using arguments = typename problem::arguments;
  template <target T> using agent = gemm::linear_agent<picked(gemm::block_scaled_tuning<typename problem::operand_type>{}(T, Regime)), problem>;
};
using mxfp8 = product<policy::mxfp8_tokens<>, policy::mxfp8_e4m3, gemm_regime::prefill>;
using mxfp8_decode = product<policy::mxfp8_tokens<>, policy::mxfp8_e4m3, gemm_regime::decode>;
using mxfp4 = product<policy::mxfp4_tokens<>, policy::mxfp4, gemm_regime::prefill>;
using mxfp4_decode = product<policy::mxfp4_tokens<>, policy::mxfp4, gemm_regime::decode>;
using nvfp4 = product<policy::nvfp4_tokens, policy::nvfp4_multiplier, gemm_regime::prefill>;
using nvfp4_decode = product<policy::nvfp4_tokens, policy::nvfp4_multiplier, gemm_regime::decode>;
using mxfp4_groups = quantize::tokens<bf16, policy::mxfp4_tokens<>>::kernel<chosen<quantize::tokens_tuning, quantize::tokens_default<32>>>;
using nvfp4_groups = quantize::tokens<bf16, policy::nvfp4_tokens>::kernel<chosen<quantize::tokens_tuning, quantize::tokens_default<16>>>;

// ---- groups along k, and blocks that make tile after tile
template <class Op, gemm_regime Regime> struct linear {
  using problem = typename Op::problem;
  using arguments = typename problem::arguments;
  template <target T> using agent = gemm::linear_agent<picked(gemm::default_linear_tuning<typename problem::operand_type, false, problem::chunk, problem::rows_type::along_k, problem::persistent>{}(T, Regime)), problem, problem::persistent && gemm::loops_over_tiles(T)>;
};
using w4a16_depth = linear<gemm::grouped_depth_weight_only<policy::int4_affine<128>>, gemm_regime::prefill>;
using fp8_depth = linear<gemm::grouped_depth_quantized<policy::fp8_tokens<128>, policy::fp8_row_block>, gemm_regime::prefill>;
struct persistent_options : gemm::linear_options { static constexpr bool persistent = true; };
using w4a16_persistent = linear<gemm::weight_only<policy::int4_symmetric<128>, policy::chain<>, bf16, bf16, persistent_options>, gemm_regime::prefill>;
struct depth_sums {
  using sums = gemm::segment_sums<bf16, 8, 128, 128, std::int32_t, 16, 64>;
  using arguments = typename sums::arguments;
  template <target> using agent = sums;
};

}  // namespace kernels

smalti::status start(const smalti::cuda_context& context, const kernels::KERNEL::arguments& a) { return smalti::launch<kernels::KERNEL>(context, a); }
