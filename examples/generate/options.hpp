// The program's command line.
#pragma once
#include <cstdint>
#include <string>

namespace generate {

struct options {
  std::string model, prompt, weights = "native", activations = "bf16", attention = "flash", kv = "bf16", cache = "dense", machine = "host";
  std::string tokens, logits, greedy, eval, recall, tokenize, matrix;      //!< files
  std::string speed, kept, chat_template, system, render;
  bool ask_first = false, chat = false, json = false, raw = false, help = false;
  int threads = 0, ranks = 1, page = 16, length = 128, window = 512, windows = 0, skip = 1, context = 2048;
  float temperature = 0, top_p = 1, min_p = 0;
  int top_k = 0;
  std::uint64_t seed = 0;
};

//! Reads argv; throws std::runtime_error with one sentence.
options parse(int argc, char** argv);
const char* usage();

}  // namespace generate
