// How a conversation is written down for a model: named forms, and which of them the template in a model's file is.
#pragma once
#include <string>
#include <string_view>
#include <vector>
#include "tokenizer.hpp"

namespace generate {

struct message {
  std::string role, text;      //!< system (the first, or none), user, assistant
};

struct chat_form;

//! A template is a program, and no interpreter of it is built: it is taken for the form whose control tokens it names and whose pieces it has, and
//! refused where it is none of them or has what no form has.
class chat_template {
public:
  //! The form `name`, or with an empty name the one that `v.chat_template` is. Refuses forms whose control tokens the vocabulary does not have.
  chat_template(const std::string& name, const vocabulary& v, const tokenizer& t);

  //! Messages, and what asks for the model's answer. `fresh`: they begin the conversation; else they follow an answer, which is ended first.
  //! Only what the template itself writes is markup: control tokens in a message are plain text.
  std::vector<piece> write(const std::vector<message>& messages, bool fresh) const;
  //! Whether the model ends its answer with this token.
  bool ends(int token) const { return token >= 0 && token == end_; }
  const char* name() const;

private:
  const chat_form* form_ = nullptr;
  std::string begin_;            // the text of the vocabulary's first token, where a conversation has it in front
  std::string default_system_;   // what the file's template says where no system message stands
  bool trims_ = false;
  int end_ = -1;
};

//! What --chat-template takes.
std::string chat_forms();

}  // namespace generate
