// Where tests read and write files. A program that was carried to another machine is told in its environment.
#pragma once
#include <cstdlib>
#include <string>

namespace test {

inline std::string from_environment(const char* name, const char* otherwise) {
  const char* set = std::getenv(name);
  return set != nullptr && *set != 0 ? set : otherwise;
}

//! tests/golden of the checkout.
inline std::string golden_dir() { return from_environment("SMALTI_GOLDEN_DIR", SMALTI_GOLDEN_DIR); }
//! A folder of the build, for what one half of a test leaves for the other.
inline std::string data_dir() { return from_environment("SMALTI_TEST_DATA_DIR", SMALTI_TEST_DATA_DIR); }

}  // namespace test
