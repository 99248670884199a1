// Cuts plain text files into documents, and documents into sequences that fit the model.
#include "datasets/tokens/reference_text.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <string_view>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "datasets/text/data_text.hpp"
#include "datasets/tokenizer/tokenizer.hpp"
#include "datasets/tokens/tokenization.hpp"

namespace bipo {
namespace {

using Tokens = std::vector<TokenId>;

std::string_view without_carriage_return(std::string_view line) {
  return line.ends_with('\r') ? line.substr(0, line.size() - 1) : line;
}

// Returns how many tokens of a piece come from the text: those before it take their share of the
// model's.
std::size_t piece_length(const TextTools& text, std::size_t before) {
  if (text.options.max_length < static_cast<std::int64_t>(std::max<std::size_t>(before, 1)) + 1) {
    throw UserError(
        fmt::format("reference text: a limit of {} tokens leaves nothing to predict; raise "
                    "--max-length",
                    text.options.max_length));
  }
  return static_cast<std::size_t>(text.options.max_length) - before;
}

}  // namespace

std::vector<ReferenceDocument> read_reference_text(const std::filesystem::path& path) {
  const std::string text = read_data_text(path);
  std::vector<ReferenceDocument> documents;
  std::string_view rest = text;
  bool inside = false;
  for (std::size_t number = 1; !rest.empty(); ++number) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    const std::string_view line = without_carriage_return(rest.substr(0, end));
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (is_blank(line)) {
      inside = false;
      continue;
    }
    const std::string where = fmt::format("{}:{}", path.string(), number);
    require_text(line, where);
    if (inside) {
      documents.back().text += '\n';
      documents.back().text += line;
    } else {
      documents.push_back({std::string(line), where});
    }
    inside = true;
  }
  return documents;
}

ReferencePieces tokenize_reference_text(const std::vector<ReferenceDocument>& documents,
                                        const TextTools& text) {
  ReferencePieces result;
  const Tokens before = tokens_before_text(text);
  const std::size_t length = piece_length(text, before.size());
  for (std::size_t index = 0; index < documents.size(); ++index) {
    const ReferenceDocument& document = documents[index];
    Tokens tokens;
    try {
      tokens = text.tokenizer.encode(document.text);
      require_known_ids(tokens, text.vocabulary);
    } catch (const UserError& error) {
      throw UserError(fmt::format("{}: {}", document.where, error.what()));
    }
    if (!before.empty() && before.size() <= tokens.size() &&
        std::equal(before.begin(), before.end(), tokens.begin())) {
      tokens.erase(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(before.size()));
    }
    const std::size_t pieces_before = result.pieces.size();
    for (std::size_t begin = 0; begin < tokens.size(); begin += length) {
      const auto first = tokens.begin() + static_cast<std::ptrdiff_t>(begin);
      const auto last =
          first + static_cast<std::ptrdiff_t>(std::min(length, tokens.size() - begin));
      Continuations piece{before.empty() ? Tokens{*first} : before,
                          {Tokens(before.empty() ? first + 1 : first, last)},
                          document.where};
      if (!piece.answers[0].empty()) {
        result.pieces.push_back(std::move(piece));
        result.documents.push_back(index);
      }
    }
    if (result.pieces.size() == pieces_before) {
      result.skipped.push_back(
          fmt::format("{}: the document has no token that another one predicts", document.where));
    }
  }
  if (result.pieces.empty()) {
    throw UserError(
        fmt::format("{}: the reference text holds no token that another one predicts; its "
                    "documents, which blank lines separate, need at least two tokens",
                    documents.empty() ? std::string("no documents") : documents[0].where));
  }
  return result;
}

}  // namespace bipo
