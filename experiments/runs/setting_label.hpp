// What a person calls a setting that files store by a key.
#pragma once

#include <string>

namespace bipo {

// Returns the option ("--lr-unit" for "lr_unit"), or, for what no option sets, what the value tells
// of, and the key.
std::string setting_label(const std::string& key);

}  // namespace bipo
