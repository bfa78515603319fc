// A golden file opened through the library's own readers.
#pragma once
#include <catch2/catch.hpp>

#include <string>
#include <vector>

#include <smalti/io/mapped_file.hpp>
#include <smalti/io/plain.hpp>
#include <smalti/io/safetensors.hpp>

#include "golden.hpp"
#include "paths.hpp"

namespace test {

//! One of the golden files, as users open theirs.
struct opened {
  smalti::io::mapped_file file;
  smalti::io::safetensors f;
  explicit opened(const std::string& name) {
    REQUIRE(file.open((golden_dir() + "/" + name).c_str()));
    REQUIRE(f.read(file.data()));
  }
  //! The tensor that plays a role in a case, or null.
  const smalti::io::tensor* operator()(const golden::test_case& c, const char* role) const {
    const auto at = c.names.find(role);
    return at == c.names.end() ? nullptr : f.find(at->second);
  }
};

//! All values of a plain tensor.
inline std::vector<float> floats(const smalti::io::tensor& t) {
  smalti::io::plain p;
  REQUIRE(smalti::io::import_plain(t, p));
  std::vector<float> v(std::size_t(p.n * p.k));
  p.values(0, p.n, v.data());
  return v;
}

}  // namespace test
