#pragma once

#include <string>

namespace bipo {

// Returns the name of this machine.
std::string host_name();

}  // namespace bipo
