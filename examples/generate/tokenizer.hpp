// Text to tokens and back: bytes, or byte-level BPE from the vocabulary and merges of a GGUF file.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>
#include "model_file.hpp"

namespace generate {

class tokenizer {
public:
  explicit tokenizer(const vocabulary& v);
  ~tokenizer();

  //! `special`: control tokens written out in the text are taken for themselves, else for plain text.
  std::vector<int> encode(std::string_view text, bool special) const;
  //! The bytes of a token; control tokens have none.
  std::string decode(int token) const;
  std::string decode(const std::vector<int>& tokens) const;
  int end() const { return end_; }

private:
  struct pattern;
  void encode_plain(std::string_view text, std::vector<int>& out) const;
  void encode_piece(std::string_view piece, std::vector<int>& out) const;

  bool bytes_;
  int end_;
  std::vector<std::string> bytes_of_;                          // of each token
  std::unordered_map<std::string, int> ids_;                   // by their bytes
  std::unordered_map<std::string, int> ranks_;                 // of a merge: both parts, with a zero between
  std::vector<std::pair<std::string, int>> control_;           // the longest first
  std::unique_ptr<pattern> pattern_;
};

}  // namespace generate
