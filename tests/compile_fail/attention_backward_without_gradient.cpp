// expect: smalti: this normalizer has no gradient
#include <smalti/ops/attention/backward.hpp>
using namespace smalti;
struct with_power : attention::backward_options {
  using normalizer = policy::softmax_with_power;
};
int main() { return sizeof(attention::flash_backward<bf16, 64, policy::causal, with_power>::args); }
