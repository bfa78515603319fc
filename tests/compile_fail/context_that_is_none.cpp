// expect: smalti: the first argument of an op is a context
#include <smalti/core/explain_context.hpp>

struct stream {};
static_assert(smalti::explain_context<stream>());
int main() {}
