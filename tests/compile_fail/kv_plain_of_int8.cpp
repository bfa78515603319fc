// expect: smalti: kv_plain stores float, bf16, fp16, fp8_e4m3 or fp8_e5m2
#include <smalti/policy/kv_storage.hpp>

int main() { return smalti::policy::kv_plain<signed char>::format.bits; }
