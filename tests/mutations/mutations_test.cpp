// The proof that the tests find defects. Each defect seeded in the library (tile/mutant.hpp) is switched on in a child
// of this process, which runs the battery under a time limit: a wrong result, a crash and a hang all count as caught.
// Defects of policies are policies of their own, in policies_test.cpp.
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <array>
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>

#include "battery.hpp"

using namespace smalti;

namespace {

constexpr int defects = int(defect::count);
constexpr unsigned time_limit = 30;  // seconds
constexpr int wrong_result = 3;      // exit status of a child

// Defects that no check here can see, and why.
struct exception {
  defect which;
  const char* reason;
};
constexpr exception exceptions[] = {
    {defect::arrive_without_order,
     "x86 orders memory at every atomic addition; the thread sanitizer's build, and other processors, can tell"},
    {defect::padding_rows_weigh, "the host's products skip rows that are not there; a GPU multiplies their zeros with a weight that may be infinite"},
#if !defined(_OPENMP)
    {defect::scan_carry_includes_itself, "without OpenMP there is one thread, and the code is that of several"},
#endif
};

template <defect D> constexpr std::string_view name_of() {
  std::string_view text = __PRETTY_FUNCTION__;
  text = text.substr(0, text.find_first_of(";]", text.find("D = ")));
  return text.substr(text.rfind(':') + 1);
}
template <std::size_t... I> constexpr std::array<std::string_view, sizeof...(I)> all_names(std::index_sequence<I...>) {
  return {name_of<defect(I)>()...};
}
constexpr auto names = all_names(std::make_index_sequence<std::size_t(defects)>{});
static_assert(names[0] == "address_past_last_row");

std::vector<battery::check> all_checks() {
  std::vector<battery::check> all;
  for (const auto& some : {battery::machine_checks(), battery::prim_checks(), battery::gemm_checks(), battery::attention_checks(), battery::attention_backward_checks(), battery::norm_checks(), battery::quantize_checks(), battery::route_checks(), battery::moe_checks(), battery::comm_checks()})
    all.insert(all.end(), some.begin(), some.end());
  return all;
}

// What found a defect: the check, and what it said or how it ended.
struct verdict {
  bool caught;
  std::string by;
};

// The battery in a child with this defect at work. Nothing here may have started threads before: a child of a process
// with a team of OpenMP threads has the team's memory and not its threads.
verdict try_defect(defect d) {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    close(ends[0]);
    const rlimit no_core{0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    for (const int fatal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGALRM, SIGTERM}) signal(fatal, SIG_DFL);  // not Catch2's
    if (d != defect::none)
      if (const int nowhere = open("/dev/null", O_WRONLY); nowhere >= 0) dup2(nowhere, 1), dup2(nowhere, 2);
    alarm(time_limit);
    defect_at_work = d;
    for (const auto& check : all_checks()) {
      static_cast<void>(!write(ends[1], check.name, std::strlen(check.name) + 1));
      try {
        check.run();
      } catch (const battery::failure& f) {
        static_cast<void>(!write(ends[1], f.what, std::strlen(f.what) + 1));
        _exit(wrong_result);
      } catch (...) {
        _exit(2);
      }
    }
    _exit(0);
  }
  close(ends[1]);
  std::string said;
  char some[256];
  for (ssize_t n; (n = read(ends[0], some, sizeof some)) > 0;) said.append(some, std::size_t(n));
  close(ends[0]);
  int how = 0;
  REQUIRE(waitpid(child, &how, 0) == child);
  if (WIFEXITED(how) && WEXITSTATUS(how) == 0) return {false, ""};
  // names of the checks that were begun, and after a wrong result the sentence of the one that failed
  std::vector<std::string> words;
  for (std::size_t at = 0; at < said.size();) {
    words.emplace_back(said.c_str() + at);
    at += words.back().size() + 1;
  }
  if (words.empty()) return {true, "a crash before the first check"};
  if (WIFEXITED(how) && WEXITSTATUS(how) == wrong_result) return {true, words[words.size() - 2] + ": " + words.back()};
  if (WIFSIGNALED(how))
    return {true, words.back() + (WTERMSIG(how) == SIGALRM ? ": time limit" : ": signal " + std::to_string(WTERMSIG(how)))};
  return {true, words.back() + ": exit " + std::to_string(WEXITSTATUS(how))};
}

}  // namespace

TEST_CASE("the battery passes without a defect, and no seeded defect escapes it", "[mutations]") {
  const verdict sound = try_defect(defect::none);
  INFO(sound.by);
  REQUIRE_FALSE(sound.caught);

  int caught = 0;
  std::string unexplained;
  for (int i = 0; i < defects; ++i) {
    const verdict v = try_defect(defect(i));
    const char* reason = nullptr;
    for (const exception& e : exceptions)
      if (e.which == defect(i)) reason = e.reason;
    caught += v.caught;
    const std::string what = v.caught ? v.by : reason != nullptr ? std::string("ESCAPED: ") + reason : "ESCAPED";
    std::printf("%-36.*s %s\n", int(names[i].size()), names[i].data(), what.c_str());
    if (!v.caught && reason == nullptr) unexplained += std::string(names[i]) + " ";
  }
  std::printf("%d of %d seeded defects are caught\n", caught, defects);
  std::fflush(stdout);
  CHECK(defects >= 60);
  CHECK(100 * caught >= 95 * defects);
  CHECK(unexplained == "");
}
