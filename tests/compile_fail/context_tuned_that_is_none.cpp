// expect: smalti: the first argument of an op is a context
#include <smalti/core/explain_context.hpp>

struct selector {};
static_assert(smalti::explain_context<smalti::tuned<int, selector>>());
int main() {}
