// expect: smalti: the window of kivi holds whole groups of tokens
#include <smalti/ops/cache/kivi.hpp>

int main() { return int(sizeof(smalti::cache::kivi<64, 2, 32, 48>)); }
