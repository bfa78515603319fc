// A model's file: weights, and what it says of its tokenizer.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>
#include "weights.hpp"

namespace generate {

//! What a GGUF file says of its tokenizer; without one tokens are bytes.
struct vocabulary {
  bool bytes = true;
  std::vector<std::string> tokens, merges;
  std::vector<int> kinds;                       //!< ggml's token types: 3 is a control token
  int begin = -1, end = -1;                     //!< ids of bos and eos; -1: none
  bool adds_begin = false;
  std::string pre;                              //!< how text is cut before merging
  std::string chat_template;                    //!< empty: none
};

//! An open model. Keeps the file mapped while it lives.
class model_file {
public:
  //! A GGUF file, or a folder with config.json and model.safetensors.
  explicit model_file(const std::string& path);
  ~model_file();
  const generate::weights& weights() const;
  const generate::vocabulary& vocabulary() const;
  const std::string& name() const;

private:
  struct contents;
  std::unique_ptr<contents> contents_;
};

}  // namespace generate
