// Regular expressions of an adapter's configuration, matched against the names of modules as PEFT
// matches them with Python's module re.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "datasets/text/pcre2_regex.hpp"

namespace bipo {

// All throw UserError for an expression that is malformed, or that Python and PCRE2 read
// differently or only one of them accepts: it names the construct.  Names are ASCII without line
// breaks.
class NamePattern {
 public:
  // Matches whole names, as re.fullmatch(expression, name): target_modules, exclude_modules.
  static NamePattern whole(const std::string& expression);

  // Matches names that end with the expression after a dot, or that are it, as
  // re.match(rf"(.*\.)?({expression})$", name): the keys of rank_pattern and alpha_pattern.
  static NamePattern ending(const std::string& expression);

  // Matches names with the expression, a block's number and more, between dots, as
  // re.match(rf"(?:^|.*?\.){expression}\.(?P<idx>\d+)\.", name): layers_pattern.
  // Refuses alternatives outside parentheses, of which PEFT finds a number after the last only.
  static NamePattern before_block(const std::string& expression);

  bool matches(std::string_view name) const;

 private:
  explicit NamePattern(const std::string& pcre2) : regex_(pcre2) {}

  Regex regex_;  // matches nothing that is shorter than the part of the name in question
};

// Translates an expression of Python's re to PCRE2's syntax.  Whole: flags such as (?i) may stand
// at its beginning.  Throws UserError as above.
std::string python_to_pcre2(std::string_view expression, bool whole);

}  // namespace bipo
