// --matrix: every format of weights, of keys and values and every attention, one after another.
#pragma once
#include <memory>
#include "engine.hpp"
#include "model_file.hpp"
#include "options.hpp"
#include "tokenizer.hpp"

namespace generate {

//! What the command line asks of an engine for a model of this shape.
engine_options settings_of(const options& o, const config& shape);
//! The engine that it asks for.
std::unique_ptr<engine> make_machine_engine(const weights& w, const options& o);

//! Writes a Markdown table to o.matrix, and a plot of bits per byte against bytes moved for each token beside it (.svg).
int run_matrix(const model_file& model, const tokenizer& t, const options& o);

}  // namespace generate
