// expect: smalti: mikv demotes single tokens
#include <smalti/ops/cache/mikv.hpp>

int main() { return int(sizeof(smalti::cache::mikv<64, smalti::policy::kv_per_channel_keys<2, 32>>)); }
