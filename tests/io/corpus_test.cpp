// The inputs that fuzzing has found, tests/fuzz/io_corpus.bin, run with every build and every sanitizer.
#include <catch2/catch.hpp>

#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>

#include "../fuzz/io_fuzz.cpp"
#include "../support/paths.hpp"

TEST_CASE("what fuzzing found is read without a broken promise", "[io]") {
  std::ifstream in(test::golden_dir() + "/../fuzz/io_corpus.bin", std::ios::binary);
  REQUIRE(in);
  const std::string archive{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  std::size_t at = 0;
  int inputs = 0;
  while (at < archive.size()) {
    std::uint32_t size = 0;
    REQUIRE(archive.size() - at >= sizeof size);
    std::memcpy(&size, archive.data() + at, sizeof size);
    at += sizeof size;
    REQUIRE(archive.size() - at >= size);
    const std::string input = archive.substr(at, size);  // memory of its own, so that a sanitizer sees where it ends
    CHECK(LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(input.data()), input.size()) == 0);
    at += size;
    ++inputs;
  }
  CHECK(inputs > 200);
}
