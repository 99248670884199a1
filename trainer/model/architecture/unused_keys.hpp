// The general rule for a config.json: whatever is left unread and could change the mathematics is
// named.
#pragma once

#include <optional>
#include <string>

#include "trainer/model/architecture/config_fields.hpp"
#include "trainer/model/architecture/families.hpp"
#include "trainer/model/architecture/wrappers.hpp"

namespace bipo {

// Returns a warning that lists the fields of a model's config.json that nobody has read, or nothing
// if all of them are known to have no influence on what the family computes: metadata, settings of
// training and of sampling, ids of tokens, and what transformers' configuration classes write for
// every model.  To be called when everything else has been read.
std::optional<std::string> unused_keys(const ConfigFields& fields, const Family& family);

// The same for the fields that stand around the "text_config" of a wrapper.
std::optional<std::string> unused_keys(const ConfigFields& fields, const Wrapper& wrapper);

}  // namespace bipo
