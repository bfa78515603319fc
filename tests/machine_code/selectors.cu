// The agents that choose keys: HiP's search, Quest's bounds, MInference's probe, compiled to machine code by scripts/machine_code.py. One kernel a
// compilation, chosen by -DKERNEL=name. Nothing here runs.
#include <smalti/ops/attention/select_hip.hpp>
#include <smalti/ops/attention/select_quest.hpp>
#include <smalti/ops/attention/vertical_slash.hpp>

namespace kernels {

using namespace smalti;
using hip = attention::hip_select<bf16, 128>;
using hip_step_64 = hip::step_kernel<64>;
using hip_step_16 = hip::step_kernel<16>;
using hip_lists = hip::list_kernel;
using quest_bounds = attention::quest_bounds<bf16, 128, 16>::kernel;
using quest_scores = attention::quest_select<bf16, 128, 16>::kernel;
using quest_lists = attention::quest_select<bf16, 128, 16>::list_kernel;
using slash = attention::vertical_slash_select<bf16, 128>;
using slash_rows = slash::probe_kernel<0>;
using slash_columns = slash::probe_kernel<1>;
using slash_diagonals = slash::probe_kernel<2>;
using slash_fill = slash::fill_kernel;
using slash_lists = slash::list_kernel;

}  // namespace kernels

smalti::status start(const smalti::cuda_context& context, const kernels::KERNEL::arguments& x) {
  return smalti::launch<kernels::KERNEL>(context, x);
}
