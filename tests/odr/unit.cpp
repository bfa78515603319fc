// One file of the mixed program: compiled several times, each with other flags and -DODR_UNIT=<its name>.
#include "work.hpp"

#define ODR_JOIN_(a, b) a##b
#define ODR_JOIN(a, b) ODR_JOIN_(a, b)

extern "C" int ODR_JOIN(odr_, ODR_UNIT)(char* out, unsigned size) { return odr_line(out, size, ODR_TEXT(ODR_UNIT)); }

// A status made in one file and read in another is one type, whatever the flags.
smalti::status ODR_JOIN(odr_status_, ODR_UNIT)() { return {smalti::errc::bad_shape, ODR_TEXT(ODR_UNIT), 3, 4}; }
