// The present moment as text, for records that people read.
#pragma once

#include <string>

namespace bipo {

// ISO 8601 in UTC to the second, e.g. 2026-01-02T03:04:05Z, by this host's clock.
std::string utc_text();

}  // namespace bipo
