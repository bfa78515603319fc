// expect: smalti: block-scaled products read codes of 4 or 8 bits in natural order
#include <smalti/policy/word_planes.hpp>

int main() { return smalti::policy::block_scaled_layout<2>::depth; }
