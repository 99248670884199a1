// Parts of file names that nobody can guess.
#pragma once

#include <string>

namespace bipo {

// Returns 16 hexadecimal digits from the kernel's random numbers.
std::string random_name();

}  // namespace bipo
