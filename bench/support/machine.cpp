#include "machine.hpp"

#include "limits.hpp"

#include <benchmark/benchmark.h>

#include <cstdio>
#include <fstream>

namespace bench {
namespace {

std::string cpu_line(const std::string& key) {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.rfind(key, 0) == 0 && line.find(": ") != std::string::npos) return line.substr(line.find(": ") + 2);
  return "unknown";
}

std::string first_line_of(const char* command) {
  std::string line;
  if (std::FILE* pipe = popen(command, "r")) {
    char text[256];
    if (std::fgets(text, sizeof text, pipe) != nullptr) line = text;
    pclose(pipe);
  }
  while (!line.empty() && line.back() == '\n') line.pop_back();
  return line.empty() ? "unknown" : line;
}

}  // namespace

void describe_machine(const std::string& peers) {
  std::string instructions;
  for (const instruction i : {instruction::fma, instruction::bf16_dot, instruction::s8_dot, instruction::amx_bf16, instruction::amx_s8})
    if (available(i)) instructions += (instructions.empty() ? "" : ", ") + std::string(name(i));
  benchmark::AddCustomContext("cpu", cpu_line("model name"));
  benchmark::AddCustomContext("instructions", instructions);
#if defined(__clang__)
  benchmark::AddCustomContext("compiler", "clang " __clang_version__);
#else
  benchmark::AddCustomContext("compiler", "g++ " __VERSION__);
#endif
  benchmark::AddCustomContext("flags", SMALTI_BENCH_FLAGS);
  benchmark::AddCustomContext("commit", first_line_of("git -C '" SMALTI_SOURCE_DIR "' describe --always --dirty --abbrev=12 2>/dev/null"));
  benchmark::AddCustomContext("last_level_cache", std::to_string(last_level_cache()));
  benchmark::AddCustomContext("peers", peers);
}

}  // namespace bench
