// Verb conformance: every word of the tile vocabulary on every machine. The host build computes each case, checks it
// against an expectation written out by hand in the case, and records its bytes; the GPU build computes the same
// cases and compares with the record: to the bit, or within the case's relative error where the words do not
// promise bits (functions that a GPU approximates).
#pragma once
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>
#include <smalti/tile/launch.hpp>
#include <smalti/tile/vocabulary.hpp>
#include "support/arrays.hpp"
#include "support/contexts.hpp"
#include "support/paths.hpp"

namespace conformance {

using namespace smalti;

// The same agent for every target.
template <class Agent> struct kernel {
  using arguments = typename Agent::arguments;
  template <target> using agent = Agent;
};

// The record of one test file: case name -> bytes.
class record {
public:
  explicit record(const char* file) : path_(test::data_dir() + "/" + file) {
#if defined(__CUDACC__)
    if (std::FILE* f = std::fopen(path_.c_str(), "rb")) {
      std::uint32_t sizes[2];
      while (std::fread(sizes, sizeof sizes, 1, f) == 1) {
        std::string name(sizes[0], 0);
        std::vector<unsigned char> bytes(sizes[1]);
        if (std::fread(name.data(), 1, sizes[0], f) != sizes[0] || std::fread(bytes.data(), 1, sizes[1], f) != sizes[1]) break;
        cases_[name] = bytes;
      }
      std::fclose(f);
    }
    INFO("run the host half first: it writes " << path_);
    REQUIRE_FALSE(cases_.empty());
#endif
  }
  ~record() {
#if !defined(__CUDACC__)
    if (std::FILE* f = std::fopen(path_.c_str(), "wb")) {
      for (const auto& [name, bytes] : cases_) {
        const std::uint32_t sizes[2] = {std::uint32_t(name.size()), std::uint32_t(bytes.size())};
        std::fwrite(sizes, sizeof sizes, 1, f);
        std::fwrite(name.data(), 1, name.size(), f);
        std::fwrite(bytes.data(), 1, bytes.size(), f);
      }
      std::fclose(f);
    }
#endif
  }

  //! Host: keeps the result. GPU: compares it with the host's; `relative` = 0 asks for the same bits (any NaN equals any).
  template <class T> void keep(const std::string& name, const test::array<T>& result, double relative = 0) {
    INFO(name);
    REQUIRE(result.guarded());
    const auto* first = reinterpret_cast<const unsigned char*>(result.data());
    std::vector<unsigned char> bytes(first, first + result.size() * sizeof(T));
#if defined(__CUDACC__)
    REQUIRE(cases_.count(name) == 1);
    REQUIRE(cases_[name].size() == bytes.size());
    for (std::size_t i = 0; i < result.size(); ++i) {
      T want;
      std::memcpy(&want, cases_[name].data() + i * sizeof(T), sizeof(T));
      const double a = test::value(result[i]), b = test::value(want);
      CAPTURE(i, a, b);
      if (std::isnan(b)) CHECK(std::isnan(a));
      else if (relative == 0) CHECK(std::memcmp(&want, &result[i], sizeof(T)) == 0);
      else CHECK((a == b || std::abs(a - b) <= relative * (std::abs(b) + 1e-30)));
    }
#else
    static_cast<void>(relative);
    if (cases_.count(name) == 1) CHECK(cases_[name] == bytes);   // the same case again: the same bits
    cases_[name] = bytes;
#endif
  }

private:
  std::string path_;
  std::map<std::string, std::vector<unsigned char>> cases_;
};

//! Runs the agent on the context of this build and waits.
template <class Agent> void run(const Agent& agent) {
  const auto context = test::any_context();
  const status st = launch<kernel<Agent>>(context, agent.x);
  INFO(st.what);
  REQUIRE(st.code == errc::ok);
  test::wait(context);
}

constexpr unsigned seed = 31;

//! Small integers: every sum and product of them is exact in every type but the smallest.
template <class T> test::array<T> integers(std::size_t n, int limit = 4) {
  test::array<T> a(n);
  std::mt19937 generator(seed);
  for (T& x : a) {
    const int v = int(generator() % (2 * limit + 1)) - limit;
    if constexpr (std::is_arithmetic_v<T>) x = T(v);
    else x = narrow<T>(float(v));
  }
  return a;
}

template <class T> const char* type_name() {
  if constexpr (std::is_same_v<T, float>) return "float";
  else if constexpr (std::is_same_v<T, bf16>) return "bf16";
  else if constexpr (std::is_same_v<T, fp16>) return "fp16";
  else if constexpr (std::is_same_v<T, fp8_e4m3>) return "fp8_e4m3";
  else if constexpr (std::is_same_v<T, fp8_e5m2>) return "fp8_e5m2";
  else if constexpr (std::is_same_v<T, std::int8_t>) return "int8";
  else return "int";
}

}  // namespace conformance
