// expect: smalti: a group of activations is a power of two from 16 to 256, or 0 for a whole row
#include <smalti/policy/token_format.hpp>

static_assert(smalti::policy::explain_token_format<smalti::policy::int8_tokens<48>>());
int main() {}
