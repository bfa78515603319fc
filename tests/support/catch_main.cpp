// The one main of all tests. With SMALTI_TEST_NEEDS_GPU it asks for a GPU first and returns 77, ctest's "skipped",
// where there is none: a GPU test that did not run must not count as passed.
#if __has_include(<catch2/catch_all.hpp>)
#  include <catch2/catch_all.hpp>
#else
#  define CATCH_CONFIG_RUNNER
#  include <catch2/catch.hpp>
#endif
#include <cstdio>

#if defined(SMALTI_TEST_NEEDS_GPU)
extern "C" int cudaGetDeviceCount(int*);
extern "C" const char* cudaGetErrorString(int);
#endif

int main(int argc, char** argv) {
#if defined(SMALTI_TEST_NEEDS_GPU)
  int devices = 0;
  const int error = cudaGetDeviceCount(&devices);
  if (error != 0 || devices == 0) {
    std::printf("skipped: no NVIDIA GPU can be used here (%s)\n", error != 0 ? cudaGetErrorString(error) : "none is visible");
    return 77;
  }
#endif
  return Catch::Session().run(argc, argv);
}
