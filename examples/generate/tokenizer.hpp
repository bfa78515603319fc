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

//! A part of a text. Control tokens that are written out in markup are taken for themselves, elsewhere they are plain text.
struct piece {
  std::string text;
  bool markup = false;
};

class tokenizer {
public:
  explicit tokenizer(const vocabulary& v);
  ~tokenizer();

  std::vector<int> encode(std::string_view text, bool markup) const;
  //! Pieces one behind the other: what lies between two control tokens is merged as one text, whoever wrote it.
  std::vector<int> encode(const std::vector<piece>& pieces) const;
  //! The bytes of a token; control tokens have none.
  std::string decode(int token) const;
  std::string decode(const std::vector<int>& tokens) const;
  int end() const { return end_; }
  //! The control token that is written so, or -1.
  int control(std::string_view name) const;
  //! The token in front of every text that is none of a conversation's, or -1.
  int begin() const { return begin_; }

private:
  struct pattern;
  void encode_plain(std::string_view text, std::vector<int>& out) const;
  void encode_piece(std::string_view piece, std::vector<int>& out) const;

  bool bytes_;
  int begin_, end_;
  std::vector<std::string> bytes_of_;                          // of each token
  std::unordered_map<std::string, int> ids_;                   // by their bytes
  std::unordered_map<std::string, int> ranks_;                 // of a merge: both parts, with a zero between
  std::vector<std::pair<std::string, int>> control_;           // the longest first
  std::unique_ptr<pattern> pattern_;
};

}  // namespace generate
