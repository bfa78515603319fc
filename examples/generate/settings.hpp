// What can be asked of an engine, on any machine.
#pragma once
#include <string>

namespace generate {

struct linear_settings {
  std::string weights = "native";
  bool int8_activations = false;      //!< x is rounded to 8 bits, with a scale for each group of the weights (32 where they have none)
};

struct attention_settings {
  std::string attention = "flash";   //!< flash, hip:K, quest:K, window:W
  std::string kv = "bf16";           //!< how keys and values are stored
  std::string cache = "dense";       //!< dense, or a system that keeps a share of a prompt's tokens: snapkv:F, ...
  int page = 16;                     //!< tokens of a page
  int tokens = 2048;                 //!< of all sequences together
  int sequences = 1;                 //!< open at once
};

struct engine_options {
  linear_settings linear;
  attention_settings attention;
  int threads = 0;                   //!< of each rank; 0: all
  int ranks = 1;                     //!< that share the prefill; more than one: flash attention and a dense cache
  int chunk = 512;                   //!< tokens of one pass
};

}  // namespace generate
