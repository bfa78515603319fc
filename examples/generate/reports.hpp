// The program's modes that check and measure a model.
#pragma once
#include "engine.hpp"
#include "options.hpp"
#include "tokenizer.hpp"

namespace generate {

//! Each returns the process's exit status.
int run_tokenize(const tokenizer& t, const options& o);
int run_logits(engine& e, const options& o);
int run_greedy(engine& e, const options& o);
int run_eval(engine& e, const tokenizer& t, const options& o);

//! A bar on the error stream, where that is a terminal.
void progress(const char* what, std::size_t done, std::size_t all);

}  // namespace generate
