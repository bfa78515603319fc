// For `odr.py --break`: the same namespace for every file, which is what the library's own naming prevents.
#pragma once
#include <smalti/core/version.hpp>
#undef SMALTI_CODE
#define SMALTI_CODE v0_same_for_all
