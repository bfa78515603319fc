// For `versions.py --break`: the same namespaces for every version, which is what the library's own naming prevents.
#pragma once
#include <smalti/core/version.hpp>
#undef SMALTI_DATA
#undef SMALTI_CODE
#define SMALTI_DATA data_of_any_version
#define SMALTI_CODE code_of_any_version
