// The program's modes that check and measure a model.
#pragma once
#include <map>
#include <string>
#include "engine.hpp"
#include "options.hpp"
#include "tokenizer.hpp"

namespace generate {

//! Each returns the process's exit status.
int run_tokenize(const tokenizer& t, const options& o);
int run_render(const vocabulary& v, const tokenizer& t, const options& o);
int run_logits(engine& e, const options& o);
int run_greedy(engine& e, const options& o);
int run_eval(engine& e, const tokenizer& t, const options& o);
int run_recall(engine& e, const options& o);
int run_speed(engine& e, const options& o);

//! What the cache's pages held of all prompts, before and after their shares were chosen.
struct cache_held {
  std::size_t prompt = 0, settled = 0;
};

//! Bits per byte of a text, in windows that know nothing of each other.
struct text_score {
  double bits_per_byte = 0, perplexity = 0;
  std::size_t tokens = 0, bytes = 0;
  cache_held held;
};
text_score score_text(engine& e, const tokenizer& t, const options& o);

//! Questions about facts hidden in a text that were answered right, by the length of the text and by how far back the fact lies.
struct recall_score {
  struct part {
    int asked = 0, right = 0, dense = 0, kept = 0;     //!< dense: what the file's own model had right; kept: both
  };
  std::map<int, part> by_length, by_distance;          //!< by_distance: of the power of two at or above it
  part all;
  int skipped = 0;                                     //!< contexts longer than --context
  cache_held held;
};
recall_score score_recall(engine& e, const options& o);

//! "15 of 16 at 512 tokens (dense 15), ..."
std::string describe(const recall_score& r);

//! A bar on the error stream, where that is a terminal.
void progress(const char* what, std::size_t done, std::size_t all);

}  // namespace generate
