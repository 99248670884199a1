// Plain text files, whose perplexity is measured, as token sequences.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

#include "datasets/tokens/tokenization.hpp"

namespace bipo {

// A run of lines that are not blank, joined by line breaks; white space at its ends is kept.
struct ReferenceDocument {
  std::string text;
  std::string where;  // "text.txt:17": the line where it begins
};

// UTF-8 text whose documents are separated by blank lines.  Throws UserError for a file that is
// missing, empty, not UTF-8, or holds NUL.
std::vector<ReferenceDocument> read_reference_text(const std::filesystem::path& path);

struct ReferencePieces {
  std::vector<Continuations> pieces;   // one answer each
  std::vector<std::size_t> documents;  // the index of each piece's document
  std::vector<std::string> skipped;    // documents of a single token, with their place
};

// Uses no chat template and no EOS.  Every token but the first is predicted: a piece's prompt is
// tokens_before_text() or else its first token, its answer the rest.  Documents longer than
// options.max_length tokens are cut into pieces of that length without overlap, each beginning with
// these tokens or an unpredicted one; a last piece of that token alone is dropped.  Throws
// UserError for a max_length below 2, and if no token is left to predict.
ReferencePieces tokenize_reference_text(const std::vector<ReferenceDocument>& documents,
                                        const TextTools& text);

}  // namespace bipo
