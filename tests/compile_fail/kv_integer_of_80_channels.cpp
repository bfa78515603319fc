// expect: smalti: integer keys and values need head dims of whole 16-byte rows: multiples of 32
#include <smalti/policy/kv_integer.hpp>

int main() { return smalti::policy::kv_int8<>::rows_of<smalti::policy::kv_part::key, 80>::words; }
