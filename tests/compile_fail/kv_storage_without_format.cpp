// expect: smalti: a storage of keys and values needs  static constexpr kv_format format
#include <smalti/ops/cache.hpp>

struct mine {};
smalti::cache::paged<mine> cache;
int main() {}
