// Applies the text options to a model with a given context.
#pragma once

#include <cstdint>

#include "datasets/rows/row_options.hpp"
#include "experiments/settings/settings.hpp"

namespace bipo {

struct ChatTemplateSettings;  // datasets/template/chat_template.hpp
struct TokenizeOptions;       // datasets/tokens/tokenization.hpp

// `context`: the model's longest sequence in tokens, the limit if --max-length sets none.  Throws
// UserError for a --max-length beyond it.
TokenizeOptions tokenize_options(const TextOptions& options, std::int64_t context);

// How a file of pairs is read, of which `max_pairs` are taken (0: all).
RowOptions row_options(const TextOptions& options, std::int64_t max_pairs);

// The date must already be chosen: see choose_template_date().
ChatTemplateSettings template_settings(const TextOptions& options);

}  // namespace bipo
