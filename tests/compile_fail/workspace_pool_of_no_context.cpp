// expect: smalti: a workspace_pool serves host_context
#include <smalti/core/workspace_pool.hpp>

int main() { smalti::workspace_pool<int> pool; }
