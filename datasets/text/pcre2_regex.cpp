#define PCRE2_CODE_UNIT_WIDTH 8
#include "datasets/text/pcre2_regex.hpp"

#include <fmt/format.h>
#include <pcre2.h>

#include <array>
#include <new>
#include <optional>
#include <string>

#include "collectives/foundation/errors.hpp"
#include "datasets/text/unicode_text.hpp"

namespace bipo {
namespace {

struct MatchDataDeleter {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
using MatchData = std::unique_ptr<pcre2_match_data, MatchDataDeleter>;

struct CompileContextDeleter {
  void operator()(pcre2_compile_context* context) const { pcre2_compile_context_free(context); }
};
using CompileContext = std::unique_ptr<pcre2_compile_context, CompileContextDeleter>;

PCRE2_SPTR code_units(std::string_view text) {
  return reinterpret_cast<PCRE2_SPTR>(text.data());
}

std::string error_text(int code) {
  std::array<PCRE2_UCHAR, 256> buffer{};
  pcre2_get_error_message(code, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

// Makes the end of a line independent of the build options of the installed PCRE2.
CompileContext line_feed_context() {
  CompileContext context(pcre2_compile_context_create(nullptr));
  if (!context) {
    throw std::bad_alloc();
  }
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  return context;
}

MatchData make_match_data(const pcre2_code* code) {
  MatchData data(pcre2_match_data_create_from_pattern(code, nullptr));
  if (!data) {
    throw std::bad_alloc();
  }
  return data;
}

// True for errors of the expression, which tries too many ways to match, not of the machine.
bool is_limit(int error) {
  return error == PCRE2_ERROR_MATCHLIMIT || error == PCRE2_ERROR_DEPTHLIMIT ||
         error == PCRE2_ERROR_HEAPLIMIT;
}

std::optional<Span> match(const pcre2_code* code, std::string_view text, std::size_t from,
                          std::uint32_t options, pcre2_match_data* data) {
  const std::uint32_t all_options = options | PCRE2_NO_UTF_CHECK;
  int result = pcre2_match(code, code_units(text), text.size(), from, all_options, data, nullptr);
  if (result == PCRE2_ERROR_JIT_STACKLIMIT) {
    // Compiled code has a small fixed stack; the interpreter backtracks on the heap.
    result = pcre2_match(code, code_units(text), text.size(), from, all_options | PCRE2_NO_JIT,
                         data, nullptr);
  }
  if (result == PCRE2_ERROR_NOMATCH) {
    return std::nullopt;
  }
  if (is_limit(result)) {
    throw UserError(
        fmt::format("a regular expression needs too many steps for a text of {} "
                    "bytes ({}); such a file is refused",
                    text.size(), error_text(result)));
  }
  if (result < 0) {
    throw EnvironmentError(fmt::format("pcre2_match failed at byte {} of a text of {} bytes: {}",
                                       from, text.size(), error_text(result)));
  }
  const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(data);
  return Span{offsets[0], offsets[1]};
}

}  // namespace

void Regex::CodeDeleter::operator()(pcre2_real_code_8* code) const {
  pcre2_code_free(code);
}

Regex::Regex(std::string_view pattern)
    : Regex(pattern, PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C) {
}

Regex Regex::literal(std::string_view text) {
  return Regex(text, PCRE2_UTF | PCRE2_LITERAL);
}

Regex::Regex(std::string_view pattern, unsigned options) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  const CompileContext context = line_feed_context();
  code_.reset(
      pcre2_compile(code_units(pattern), pattern.size(), options, &error, &offset, context.get()));
  if (!code_) {
    throw UserError(fmt::format("the regular expression \"{}\" is not accepted at byte {}: {}",
                                pattern, offset, error_text(error)));
  }
  // If the system forbids run-time code, this fails and pcre2_match interprets instead.
  pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE);
}

std::vector<Span> Regex::find_all(std::string_view text) const {
  const MatchData data = make_match_data(code_.get());
  std::vector<Span> matches;
  std::size_t from = 0;
  while (from <= text.size()) {
    const std::optional<Span> found = match(code_.get(), text, from, 0, data.get());
    if (!found) {
      break;
    }
    const bool empty_after_match =
        found->begin == found->end && !matches.empty() && matches.back().end == found->end;
    if (!empty_after_match) {
      matches.push_back(*found);
      from = found->end;
    } else if (from < text.size()) {
      from += first_character(text.substr(from)).size();
    } else {
      break;
    }
  }
  return matches;
}

std::size_t Regex::length_at_start(std::string_view text) const {
  const MatchData data = make_match_data(code_.get());
  const std::optional<Span> found = match(code_.get(), text, 0, PCRE2_ANCHORED, data.get());
  return found ? found->end : 0;
}

}  // namespace bipo
