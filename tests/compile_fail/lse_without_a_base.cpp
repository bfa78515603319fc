// expect: smalti: a log-sum-exp names its base: wrap the number as lse_e{x} or lse_2{x}
#include <smalti/policy/lse.hpp>
struct plain { float value; };
float running(smalti::policy::lse_row<plain> row) { return row.sum; }
int main() {}
