// expect: smalti: DLPack has no name for this element type
#include <smalti/core/dlpack.hpp>

struct six_bits { unsigned char bits; };
int main() { return smalti::dlpack_dtype_of<six_bits>::value.bits; }
