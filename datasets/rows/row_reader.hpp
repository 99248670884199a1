// Reads the members of one row, and remembers which columns of a file were of use.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "datasets/text/conversation.hpp"

namespace bipo {

// The columns of a file in the order of their first appearance, and whether any row used them.
class ColumnUse {
 public:
  void see(const nlohmann::ordered_json& row);
  void use(const std::string& column) { used_[column] = true; }
  bool is_used(const std::string& column) const;
  std::vector<std::string> unused() const;

 private:
  std::vector<std::string> order_;
  std::map<std::string, bool> used_;
};

// Refers to its arguments, which must outlive it.  Members throw UserError, which begins with the
// row's place.  Whatever they read counts as used.
class RowReader {
 public:
  RowReader(const nlohmann::ordered_json& row, const std::string& where, ColumnUse& use)
      : row_(row), where_(where), use_(use) {}

  const std::string& where() const { return where_; }
  bool has(const std::string& key) const { return row_.contains(key); }  // null included; no use

  // Refuses a row with images, under the names that TRL 1.16 has for their columns.
  void require_text_alone() const;

  const nlohmann::ordered_json& value(const std::string& key) const;  // of any kind
  // A string or an array; refuses anything else.
  const nlohmann::ordered_json& text_or_messages(const std::string& key) const;
  std::string text(const std::string& key) const;
  std::string optional_text(const std::string& key) const;  // "" if absent or null
  // A string as the user's turn, or messages.
  std::vector<Message> prompt(const std::string& key) const;
  // A string, one message, or messages, as turns that begin with the assistant's.
  std::vector<Message> answer(const std::string& key) const;
  std::vector<Message> conversation(const std::string& key) const;  // an array of messages
  // Texts of an array, or of a string in which ';' separates them; never empty.
  std::vector<std::string> texts(const std::string& key) const;
  // What TRL 1.16 hands to the chat template: `tools` (a list, or JSON text), and over it the
  // members of `chat_template_kwargs`.
  nlohmann::ordered_json template_variables() const;

 private:
  // Returns the member, JSON text parsed; null if absent or null.
  nlohmann::ordered_json json_member(const std::string& key) const;

  const nlohmann::ordered_json& row_;
  const std::string& where_;
  ColumnUse& use_;
};

}  // namespace bipo
