// expect: smalti: a pair layout needs an int dims
#include <smalti/policy/position.hpp>

struct half_a_layout {
  int dims;
  int first(int pair) const { return pair; }
};
static_assert(smalti::policy::explain_pair_layout<half_a_layout>());
int main() {}
