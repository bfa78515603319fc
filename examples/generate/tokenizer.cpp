#include "tokenizer.hpp"

#include <algorithm>
#include <climits>
#include <stdexcept>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace generate {

namespace {

// GPT-2's alphabet writes each byte as a printable character: itself where it is one, else the next free one from U+0100.
struct alphabet {
  int byte_of[512];
  alphabet() {
    std::fill(std::begin(byte_of), std::end(byte_of), -1);
    int next = 256;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
      byte_of[printable ? b : next++] = b;
    }
  }
  // The bytes that a token's text stands for.
  std::string bytes(std::string_view text) const {
    std::string out;
    for (std::size_t i = 0; i < text.size();) {
      const auto first = static_cast<unsigned char>(text[i]);
      int c = first;
      std::size_t length = 1;
      if (first >= 0xC0 && first < 0xE0 && i + 1 < text.size()) c = (first & 0x1F) << 6 | (static_cast<unsigned char>(text[i + 1]) & 0x3F), length = 2;
      if (c < 512 && byte_of[c] >= 0) out += char(byte_of[c]);
      else out += text.substr(i, length);
      i += length;
    }
    return out;
  }
};

}  // namespace

// How text is cut before merging: with `smollm` every character of category N alone, then by GPT-2's expression. Both in one pass: what
// lies between two numbers is cut by the expression as if the text ended there.
struct tokenizer::pattern {
  pcre2_code* number = nullptr;      // null: numbers are left to the expression
  pcre2_code* piece = nullptr;
  explicit pattern(bool numbers_alone) : number(numbers_alone ? compile("\\p{N}") : nullptr), piece(compile("'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+")) {}
  ~pattern() {
    pcre2_code_free(number);
    pcre2_code_free(piece);
  }
  static pcre2_code* compile(const char* text) {
    int error = 0;
    PCRE2_SIZE where = 0;
    pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text), PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP | PCRE2_MATCH_INVALID_UTF, &error, &where, nullptr);
    if (code == nullptr) throw std::runtime_error("the tokenizer's expression is not understood by this PCRE2");
    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
    return code;
  }
  // Calls visit(piece) for each match and for what lies between matches.
  template <class Visit> static void split(const pcre2_code* code, std::string_view text, Visit visit) {
    pcre2_match_data* match = pcre2_match_data_create_from_pattern(code, nullptr);
    std::size_t at = 0;
    while (at < text.size()) {
      const int found = pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at, 0, match, nullptr);
      if (found < 0) break;
      const PCRE2_SIZE* range = pcre2_get_ovector_pointer(match);
      if (range[1] == range[0]) break;
      if (range[0] > at) visit(text.substr(at, range[0] - at));
      visit(text.substr(range[0], range[1] - range[0]));
      at = range[1];
    }
    pcre2_match_data_free(match);
    if (at < text.size()) visit(text.substr(at));
  }
};

tokenizer::tokenizer(const vocabulary& v) : bytes_(v.bytes), begin_(v.adds_begin ? v.begin : -1), end_(v.end) {
  if (bytes_) return;
  if (v.pre != "smollm" && v.pre != "gpt-2") throw std::runtime_error("tokenizer.ggml.pre: '" + v.pre + "' is not built: smollm and gpt-2 are");
  const alphabet letters;
  pattern_ = std::make_unique<pattern>(v.pre == "smollm");
  bytes_of_.resize(v.tokens.size());
  for (std::size_t i = 0; i < v.tokens.size(); ++i) {
    if (i < v.kinds.size() && v.kinds[i] == 3) {
      if (!v.tokens[i].empty()) control_.emplace_back(v.tokens[i], int(i));
      continue;
    }
    bytes_of_[i] = letters.bytes(v.tokens[i]);
    ids_.emplace(bytes_of_[i], int(i));
  }
  std::sort(control_.begin(), control_.end(), [](const auto& a, const auto& b) { return a.first.size() > b.first.size(); });
  for (std::size_t i = 0; i < v.merges.size(); ++i) {
    const std::size_t space = v.merges[i].find(' ', 1);
    if (space == std::string::npos) throw std::runtime_error("a merge of the tokenizer has no space");
    ranks_.emplace(letters.bytes(std::string_view(v.merges[i]).substr(0, space)) + '\0' + letters.bytes(std::string_view(v.merges[i]).substr(space + 1)), int(i));
  }
}
tokenizer::~tokenizer() = default;

int tokenizer::control(std::string_view name) const {
  for (const auto& [text, id] : control_)
    if (text == name) return id;
  return -1;
}

std::vector<int> tokenizer::encode(std::string_view text, bool markup) const { return encode(std::vector<piece>{{std::string(text), markup}}); }

std::vector<int> tokenizer::encode(const std::vector<piece>& pieces) const {
  std::vector<int> out;
  if (bytes_) {
    for (const piece& p : pieces)
      for (char c : p.text) out.push_back(static_cast<unsigned char>(c));
    return out;
  }
  std::string plain;      // since the last control token
  for (const piece& p : pieces) {
    for (std::size_t i = 0; i < p.text.size();) {
      const std::pair<std::string, int>* found = nullptr;
      for (std::size_t c = 0; p.markup && found == nullptr && c < control_.size(); ++c)
        if (p.text.compare(i, control_[c].first.size(), control_[c].first) == 0) found = &control_[c];
      if (found == nullptr) {
        plain += p.text[i++];
        continue;
      }
      encode_plain(plain, out);
      plain.clear();
      out.push_back(found->second);
      i += found->first.size();
    }
  }
  encode_plain(plain, out);
  return out;
}

void tokenizer::encode_plain(std::string_view text, std::vector<int>& out) const {
  const auto cut = [&](std::string_view part) { pattern::split(pattern_->piece, part, [&](std::string_view piece) { encode_piece(piece, out); }); };
  if (pattern_->number == nullptr) cut(text);
  else pattern::split(pattern_->number, text, cut);
}

// Merges the pair of the lowest rank, the leftmost first, until there is none.
void tokenizer::encode_piece(std::string_view piece, std::vector<int>& out) const {
  if (const auto whole = ids_.find(std::string(piece)); whole != ids_.end() && piece.size() == 1) return out.push_back(whole->second);
  std::vector<std::string> parts;
  for (char c : piece) parts.emplace_back(1, c);
  for (;;) {
    int best = INT_MAX;
    std::size_t where = 0;
    for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
      const auto rank = ranks_.find(parts[i] + '\0' + parts[i + 1]);
      if (rank != ranks_.end() && rank->second < best) best = rank->second, where = i;
    }
    if (best == INT_MAX) break;
    parts[where] += parts[where + 1];
    parts.erase(parts.begin() + std::ptrdiff_t(where) + 1);
  }
  for (const std::string& part : parts) {
    if (const auto id = ids_.find(part); id != ids_.end()) out.push_back(id->second);
    else
      for (char c : part)
        if (const auto byte = ids_.find(std::string(1, c)); byte != ids_.end()) out.push_back(byte->second);
  }
}

std::string tokenizer::decode(int token) const {
  if (bytes_) return std::string(1, char(token));
  return token >= 0 && std::size_t(token) < bytes_of_.size() ? bytes_of_[std::size_t(token)] : std::string();
}
std::string tokenizer::decode(const std::vector<int>& tokens) const {
  std::string text;
  for (int t : tokens) text += decode(t);
  return text;
}

}  // namespace generate
