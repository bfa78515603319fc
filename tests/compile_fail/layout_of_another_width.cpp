// expect: smalti: the layout has another number of bits than the codec
#include <smalti/policy/codec.hpp>
#include <smalti/policy/packing.hpp>

using namespace smalti;
int main() {
  std::uint32_t* parts[1] = {};
  return int(policy::pack_codes<policy::gpu_layout<8>, policy::nf4>({}, parts).code);
}
