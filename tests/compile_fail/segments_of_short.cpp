// expect: smalti: segments<Offset> takes std::int32_t or std::int64_t
#include <smalti/core/segments.hpp>

int main() { return smalti::segments<short>{}.count; }
