// A compiled PCRE2 expression over UTF-8 text.
#pragma once

#include <cstddef>
#include <memory>
#include <string_view>
#include <vector>

struct pcre2_real_code_8;

namespace bipo {

// Bytes [begin, end) of a text.
struct Span {
  std::size_t begin = 0;
  std::size_t end = 0;
  bool operator==(const Span&) const = default;
};

// Const members may be called from several threads at once; they throw UserError where a match
// would take more steps than PCRE2 allows.
class Regex {
 public:
  // Throws UserError with the offending place when PCRE2 does not accept `pattern`.
  explicit Regex(std::string_view pattern);
  static Regex literal(std::string_view text);  // matches exactly `text`

  // Every match in well-formed UTF-8, left to right, not overlapping.  An empty match counts unless
  // it stands where the previous match ended, as in Oniguruma's iteration.
  std::vector<Span> find_all(std::string_view text) const;

  // Bytes of the match that begins where `text` does; 0 where there is none.
  std::size_t length_at_start(std::string_view text) const;

 private:
  struct CodeDeleter {
    void operator()(pcre2_real_code_8* code) const;
  };
  Regex(std::string_view pattern, unsigned options);

  std::unique_ptr<pcre2_real_code_8, CodeDeleter> code_;
};

}  // namespace bipo
