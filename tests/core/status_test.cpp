#include <catch2/catch.hpp>
#include <set>
#include <string>
#include <smalti/core/status.hpp>
#include <smalti/core/throw.hpp>
#include <smalti/core/workspace.hpp>

using namespace smalti;

TEST_CASE("a status is true when it is ok", "[core][status]") {
  CHECK(bool(status{}));
  for (int code = 1; code <= int(errc::cuda_error); ++code) CHECK_FALSE(bool(status{errc(code)}));
}

TEST_CASE("every code has a name of its own", "[core][status]") {
  std::set<std::string> names;
  for (int code = 0; code <= int(errc::cuda_error); ++code) {
    CHECK(name(errc(code)) != std::string("unknown"));
    names.insert(name(errc(code)));
  }
  CHECK(names.size() == std::size_t(errc::cuda_error) + 1);
  CHECK(name(errc(200)) == std::string("unknown"));
}

TEST_CASE("first_of keeps the first refusal and runs nothing after it", "[core][status]") {
  int ran = 0;
  const auto pass = [&] { ++ran; return status{}; };
  const auto refuse = [&] { ++ran; return status{errc::bad_value, "b", 1, 2}; };
  const auto never_run = [&] { ++ran; return status{errc::bad_shape, "c"}; };
  CHECK(first_of(pass, refuse, never_run) == status{errc::bad_value, "b", 1, 2});
  CHECK(ran == 2);
  CHECK(bool(first_of(pass, pass)));
  CHECK(bool(first_of()));
}

TEST_CASE("a carver that counts and one that carves agree", "[core][workspace]") {
  alignas(256) std::byte memory[2048];
  const auto lay_out = [](carver c) {
    auto* a = c.take<float>(3);
    auto* b = c.take<char>(0);
    auto* d = c.take<double>(65);
    return std::tuple(a, b, d, c.used);
  };
  const auto counted = lay_out({});
  const auto carved = lay_out({memory});
  CHECK(std::get<3>(counted) == std::get<3>(carved));
  CHECK(std::get<0>(counted) == nullptr);
  CHECK(reinterpret_cast<std::byte*>(std::get<0>(carved)) == memory);
  CHECK(reinterpret_cast<std::byte*>(std::get<2>(carved)) == memory + 256);
  CHECK(std::get<3>(carved) == 256 + 65 * 8);
}

TEST_CASE("a workspace is refused with the reason", "[core][workspace]") {
  alignas(256) std::byte memory[1024];
  CHECK(bool(check_workspace({}, 0)));
  CHECK(check_workspace({}, 8) == status{errc::workspace_too_small, "", 0, 8});
  CHECK(check_workspace({memory, 7}, 8) == status{errc::workspace_too_small, "", 7, 8});
  CHECK(bool(check_workspace({memory, 8}, 8)));
  CHECK(check_workspace({memory + 16, 512}, 8) == status{errc::misaligned, "", 16, 0});
}

TEST_CASE("expect throws the line and keeps the status", "[core][throw]") {
  CHECK_NOTHROW(expect({}));
  const status refusal{errc::bad_shape, "k must be even", 7, 8};
  try {
    expect(refusal);
    FAIL("nothing was thrown");
  } catch (const std::runtime_error& e) {
    CHECK(std::string(e.what()) == "bad_shape: k must be even: got 7, need 8");
    const auto* ours = dynamic_cast<const error*>(&e);
    REQUIRE(ours != nullptr);
    CHECK(ours->why() == refusal);
    CHECK(ours->code() == errc::bad_shape);
  }
}
