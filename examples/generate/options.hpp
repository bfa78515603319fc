// The program's command line.
#pragma once
#include <cstdint>
#include <string>

namespace generate {

struct options {
  std::string model, prompt, weights = "native", machine = "host";
  std::string tokens, logits, greedy, eval, recall, tokenize;      //!< files
  bool chat = false, json = false, raw = false, help = false;
  int threads = 0, page = 16, length = 128, window = 512, context = 2048;
  float temperature = 0, top_p = 1, min_p = 0;
  int top_k = 0;
  std::uint64_t seed = 0;
};

//! Reads argv; throws std::runtime_error with one sentence.
options parse(int argc, char** argv);
const char* usage();

}  // namespace generate
