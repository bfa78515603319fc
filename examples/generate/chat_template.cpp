#include "chat_template.hpp"

#include <stdexcept>

namespace generate {

struct chat_form {
  const char* name;
  std::vector<std::string> control = {};   // tokens that it needs; the last one ends an answer
  // Empty: a system message goes in front of the first user message, an empty line between. (Mistral's later templates put it in front of the last
  // one, which would take what a cache keeps between turns away from it.)
  std::string system_open = {}, system_close = {};
  std::string user_open = {}, user_close = {}, answer_open = {}, answer_close = {};
  bool begins = false, trims = false;      // with the vocabulary's first token; without spaces around a message
  std::vector<std::string> needs = {};     // what a template of this form has in its text
};

namespace {

const std::vector<chat_form>& forms() {
  static const std::vector<chat_form> all = {
      {.name = "chatml", .control = {"<|im_start|>", "<|im_end|>"}, .system_open = "<|im_start|>system\n", .system_close = "<|im_end|>\n", .user_open = "<|im_start|>user\n",
       .user_close = "<|im_end|>\n", .answer_open = "<|im_start|>assistant\n", .answer_close = "<|im_end|>\n", .needs = {"<|im_start|>", "<|im_end|>", "<|im_start|>assistant"}},
      {.name = "llama3", .control = {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"}, .system_open = "<|start_header_id|>system<|end_header_id|>\n\n", .system_close = "<|eot_id|>",
       .user_open = "<|start_header_id|>user<|end_header_id|>\n\n", .user_close = "<|eot_id|>", .answer_open = "<|start_header_id|>assistant<|end_header_id|>\n\n", .answer_close = "<|eot_id|>",
       .begins = true, .trims = true, .needs = {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "trim"}},
      {.name = "gemma", .control = {"<start_of_turn>", "<end_of_turn>"}, .user_open = "<start_of_turn>user\n", .user_close = "<end_of_turn>\n",
       .answer_open = "<start_of_turn>model\n", .answer_close = "<end_of_turn>\n", .begins = true, .trims = true, .needs = {"<start_of_turn>", "<end_of_turn>", "<start_of_turn>model", "trim"}},
      {.name = "mistral", .control = {"</s>"}, .user_open = "[INST] ", .user_close = " [/INST]", .answer_close = "</s>", .begins = true, .needs = {"'[INST] '", "' [/INST]'", "eos_token"}},
      {.name = "mistral-tekken", .control = {"[INST]", "[/INST]", "</s>"}, .user_open = "[INST]", .user_close = "[/INST]", .answer_close = "</s>", .begins = true, .needs = {"'[INST]'", "'[/INST]'", "eos_token"}},
      {.name = "plain", .system_open = "", .system_close = "\n", .user_close = "\n", .answer_close = "\n"},
  };
  return all;
}

// What marks a family of templates, and what none of the forms writes: dates, a model's thoughts, tools that are always there.
const char* const families[] = {"<|im_start|>", "<|start_header_id|>", "<start_of_turn>", "[INST]"};
const char* const strangers[] = {"<|im_sep|>", "Cutting Knowledge Date", "date_string", "strftime_now", "<<SYS>>", "[SYSTEM_PROMPT]", "<think>", "<|user|>"};

bool has(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

// Double quotes as single ones, and line ends as they are written in a literal: templates differ in both.
std::string uniform(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\n') out += "\\n";
    else out += c == '"' ? '\'' : c;
  }
  return out;
}

std::string trimmed(const std::string& text) {
  const char* const spaces = " \t\r\n\v\f";
  const std::size_t first = text.find_first_not_of(spaces);
  return first == std::string::npos ? std::string() : text.substr(first, text.find_last_not_of(spaces) - first + 1);
}

[[noreturn]] void not_known(const std::string& text, const std::string& why) {
  std::string words = text.substr(0, 48);
  for (char& c : words)
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';
  throw std::runtime_error("the chat template of the model's file (" + words + (text.size() > 48 ? "..." : "") + ") " + why + ": name a form with --chat-template (" + chat_forms() + "), or take --raw");
}

const chat_form& recognised(const std::string& text) {
  const std::string same = uniform(text);
  for (const char* stranger : strangers)
    if (has(same, stranger)) not_known(text, "has '" + std::string(stranger) + "', which no form here writes");
  int count = 0;
  for (const char* family : families) count += has(same, family);
  if (count > 1) not_known(text, "has the tokens of several forms");
  for (const chat_form& f : forms()) {
    bool all = !f.needs.empty();
    for (const std::string& part : f.needs) all = all && has(same, part);
    if (all) return f;
  }
  not_known(text, "is of no form that is known here");
}

// A system message that the template has whole, as a literal: what it puts in front where none is given. Two that differ are refused.
std::string literal_system(const std::string& text, const chat_form& f) {
  const std::string same = uniform(text), open = uniform(f.system_open), close = uniform(f.system_close);
  if (open.empty()) return {};
  std::string found;
  for (std::size_t at = same.find(open); at != std::string::npos; at = same.find(open, at + 1)) {
    const std::size_t from = at + open.size(), to = same.find(close, from);
    if (to == std::string::npos || to == from || same[from] == '\'' || same[from] == '{') continue;      // a variable follows
    std::string part = same.substr(from, to - from);
    for (std::size_t line = part.find("\\n"); line != std::string::npos; line = part.find("\\n", line + 1)) part.replace(line, 2, 1, '\n');
    if (part.find_first_of("'\\{}") != std::string::npos) not_known(text, "writes words of its own beside a system message");
    if (!found.empty() && found != part) not_known(text, "has more than one system message of its own");
    found = part;
  }
  return found;
}

}  // namespace

std::string chat_forms() {
  std::string names;
  for (const chat_form& f : forms()) names += (names.empty() ? "" : ", ") + std::string(f.name);
  return names;
}

chat_template::chat_template(const std::string& name, const vocabulary& v, const tokenizer& t) {
  if (name.empty()) {
    if (v.chat_template.empty()) throw std::runtime_error("the model's file has no chat template: name a form with --chat-template (" + chat_forms() + ")");
    form_ = &recognised(v.chat_template);
    default_system_ = literal_system(v.chat_template, *form_);
    trims_ = has(v.chat_template, "trim");
  } else {
    for (const chat_form& f : forms())
      if (name == f.name) form_ = &f;
    if (form_ == nullptr) throw std::runtime_error("--chat-template " + name + " is not built: " + chat_forms() + " are");
    trims_ = form_->trims;
  }
  for (const std::string& token : form_->control) {
    end_ = t.control(token);
    if (end_ < 0) throw std::runtime_error("the chat template " + std::string(form_->name) + " needs the control token " + token + ", which the model's vocabulary does not have: name another form with --chat-template");
  }
  const bool named = v.begin >= 0 && v.begin < int(v.tokens.size());
  const bool written = has(v.chat_template, "bos_token") || (form_->begins && named && has(v.chat_template, v.tokens[std::size_t(v.begin)]));
  if (name.empty() ? written : form_->begins || v.adds_begin) {
    if (!named) throw std::runtime_error("the chat template " + std::string(form_->name) + " begins with the vocabulary's first token, and the model's file names none (bos_token_id)");
    begin_ = v.tokens[std::size_t(v.begin)];
  }
}

const char* chat_template::name() const { return form_->name; }

std::vector<piece> chat_template::write(const std::vector<message>& messages, bool fresh) const {
  std::vector<piece> out;
  const auto markup = [&](const std::string& text) {
    if (!text.empty()) out.push_back({text, true});
  };
  const auto content = [&](const std::string& text, const std::string& before = {}) { out.push_back({before + (trims_ ? trimmed(text) : text), false}); };
  markup(fresh ? begin_ : form_->answer_close);
  const bool own_role = !form_->system_close.empty();
  std::string system;      // waits for a user message
  if (fresh && !default_system_.empty() && (messages.empty() || messages.front().role != "system")) markup(form_->system_open + default_system_ + form_->system_close);
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const message& m = messages[i];
    if (m.role == "system") {
      if (i > 0 || !fresh) throw std::runtime_error("a system message must be the first of a conversation");
      if (own_role) markup(form_->system_open), content(m.text), markup(form_->system_close);
      else system = m.text;
    } else if (m.role == "user") {
      markup(form_->user_open);
      content(m.text, system.empty() ? system : system + "\n\n");
      markup(form_->user_close);
      system.clear();
    } else if (m.role == "assistant") {
      markup(form_->answer_open), content(m.text), markup(form_->answer_close);
    } else {
      throw std::runtime_error("the role '" + m.role + "' is not built: system, user and assistant are");
    }
  }
  markup(form_->answer_open);
  return out;
}

}  // namespace generate
