// expect: smalti: expect() throws: compile without -fno-exceptions
#undef __cpp_exceptions      // what -fno-exceptions does
#include <smalti/core/throw.hpp>

int main() { smalti::expect(smalti::status{}); }
