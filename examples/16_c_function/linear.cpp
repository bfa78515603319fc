// The only file of the program that needs C++20: it instantiates one kernel and hides it behind linear.h.
#include "linear.h"

#include <smalti/core/float.hpp>
#include <smalti/ops/gemm.hpp>

using namespace smalti;

// [c function]
namespace {

using layer = gemm::dense<bf16, bf16, float, policy::chain<policy::bias<float>, policy::silu>>;

layer::args arguments(const linear_layer& l) {
  // bf16 is its 16 bits and nothing else
  return {.a = {reinterpret_cast<const bf16*>(l.a), l.tokens, l.inputs, l.inputs},
          .b = {reinterpret_cast<const bf16*>(l.w), l.outputs, l.inputs, l.inputs},
          .c = {l.c, l.tokens, l.outputs, l.outputs},
          .epilogue = {{l.bias, l.outputs}, {}}};
}

}  // namespace

extern "C" size_t linear_workspace_bytes(const linear_layer* l) {
  return layer::workspace_bytes(host_context{.threads = l->threads}, arguments(*l));
}

extern "C" int linear_run(const linear_layer* l, void* memory, size_t bytes, const char** why) {
  const status s = layer::run(host_context{.threads = l->threads}, arguments(*l), {memory, bytes});
  *why = s.what;  // fixed text: it outlives the call
  return static_cast<int>(s.code);
}
// [c function]
