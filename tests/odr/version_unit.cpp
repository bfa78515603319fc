// One part of the program of versions.py, compiled once against each version: what it computes with that version's types
// and bodies. Compiled without optimisation, so that the linker has to choose among bodies of one name.
#include <cstddef>
#include <cstdio>

#include <smalti/core/describe.hpp>
#include <smalti/core/status.hpp>
#include <smalti/core/view.hpp>
#include <smalti/prim/scan.hpp>

#define UNIT_JOIN_(a, b) a##b
#define UNIT_JOIN(a, b) UNIT_JOIN_(a, b)

// The sizes of types, a sentence of the library, a function of core, one of prim that sums 1 to 100.
extern "C" int UNIT_JOIN(version_unit_, UNIT)(char* out, unsigned size) {
  using namespace smalti;
  int in[100], sums[100] = {};
  for (int i = 0; i < 100; ++i) in[i] = i + 1;
  using scan = prim::scan<int>;
  const host_context context{.threads = 1};
  const scan::args x{.in = in, .out = sums, .count = 100};
  alignas(256) std::byte memory[4096];
  const status done = scan::run(context, x, {memory, sizeof memory});
  const status refused = scan::run(context, {.in = nullptr, .out = sums, .count = 100}, {memory, sizeof memory});
  char text[description_size];
  describe(refused, text);
  return std::snprintf(out, size, "%d.%d.%d: a status has %zu bytes; round_up(9, 4) is %d; 1 to 100 are %d (%s); %s", version.major,
                       version.minor, version.patch, sizeof(status), round_up(9, 4), sums[99], name(done.code), text);
}
