// expect: smalti: lse_merge takes partials of one type: convert the bases with to_lse_2 or to_lse_e
#include <smalti/policy/lse.hpp>
using namespace smalti::policy;
float merged(lse_partial<float, lse_e<float>> a, lse_partial<float, lse_2<float>> b) { return lse_merge(a, b).value; }
int main() {}
