// The weights of a Llama-family model as its file has them.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>
#include <smalti/io/quantized.hpp>

namespace generate {

//! A matrix of the file, N x K, that gives its rows as floats. Matrices can be set below one another.
struct matrix {
  std::int64_t n = 0, k = 0;
  std::function<void(std::int64_t first, std::int64_t count, float* out)> rows;
  std::vector<std::shared_ptr<const smalti::io::quantized>> coded;      //!< the same rows as the file's own codes, part below part; empty: the file has plain numbers
};
matrix stacked(const std::vector<matrix>& parts);

struct layer_weights {
  matrix qkv;                     //!< rows of q, then of k, then of v
  matrix out, gate_up, down;      //!< gate_up: rows of the gate, then of up
  std::vector<float> attention_norm, feed_forward_norm;
};

enum class pairs { half_split, interleaved };

struct config {
  int layers = 0, width = 0, hidden = 0, heads = 0, kv_heads = 0, head_dim = 0, vocabulary = 0, context = 0;
  float rotary_base = 10000, epsilon = 1e-5f;
  pairs rotary_pairs = pairs::half_split;
};

struct weights {
  config shape;
  matrix embedding, head;
  std::vector<layer_weights> layers;
  std::vector<float> final_norm;
};

}  // namespace generate
