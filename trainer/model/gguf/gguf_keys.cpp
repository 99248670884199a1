#include "trainer/model/gguf/gguf_keys.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "collectives/foundation/errors.hpp"

namespace bipo {

void ArchitectureKeys::refuse(const std::string& what) const {
  throw UserError(located(what));
}

std::string ArchitectureKeys::located(const std::string& what) const {
  return fmt::format("{}: {}", file_.path().string(), what);
}

const GgufValue* ArchitectureKeys::find(const char* key) {
  understood_.insert(full(key));
  return file_.find_value(full(key));
}

std::int64_t ArchitectureKeys::size(const char* key) {
  const GgufValue* value = find(key);
  if (value == nullptr) {
    refuse(fmt::format("metadata {} is missing", full(key)));
  }
  const std::int64_t size = value->integer().value_or(0);
  if (size < 1 || size > kLargestGgufSize) {
    refuse(
        fmt::format("metadata {} must be one integer from 1 to {}", full(key), kLargestGgufSize));
  }
  return size;
}

std::int64_t ArchitectureKeys::size_or(const char* key, std::int64_t otherwise) {
  return has(key) ? size(key) : otherwise;
}

std::int64_t ArchitectureKeys::size_or_zero(const char* key) {
  const GgufValue* value = find(key);
  return value == nullptr || value->integer() == 0 ? 0 : size(key);
}

double ArchitectureKeys::positive(const char* key) {
  const GgufValue* value = find(key);
  if (value == nullptr) {
    refuse(fmt::format("metadata {} is missing", full(key)));
  }
  const double number = value->number().value_or(0);
  if (!(number > 0) || !std::isfinite(number)) {
    refuse(fmt::format("metadata {} must be a positive number", full(key)));
  }
  return number;
}

double ArchitectureKeys::positive_or(const char* key, double otherwise) {
  return has(key) ? positive(key) : otherwise;
}

void ArchitectureKeys::require_size(const char* key, std::int64_t expected, const char* because) {
  if (has(key) && find(key)->integer() != expected) {
    refuse(fmt::format("metadata {} is not {}, {}; this is not supported", full(key), expected,
                       because));
  }
}

void ArchitectureKeys::require_number(const char* key, double expected) {
  if (has(key) && find(key)->number() != expected) {
    refuse(fmt::format("metadata {} is not {}; this is not supported", full(key), expected));
  }
}

void ArchitectureKeys::require_truth(const char* key, bool expected) {
  if (has(key) && find(key)->boolean() != expected) {
    refuse(fmt::format("metadata {} is not {}; this is not supported", full(key), expected));
  }
}

void ArchitectureKeys::accept_number(const char* key, std::initializer_list<double> neutral) {
  const GgufValue* value = file_.find_value(full(key));
  const std::optional<double> number = value == nullptr ? std::nullopt : value->number();
  const auto is_equal = [&](double other) {
    return std::abs(*number - other) <= std::numeric_limits<float>::epsilon() * std::abs(other);
  };
  if (number && std::any_of(neutral.begin(), neutral.end(), is_equal)) {
    ignore(key);
  }
}

void ArchitectureKeys::refuse_unknown() const {
  std::vector<std::string> unknown;
  for (const auto& [key, value] : file_.metadata()) {
    if (key.starts_with(prefix_) && !understood_.contains(key)) {
      unknown.push_back(key);
    }
  }
  if (!unknown.empty()) {
    refuse(fmt::format(
        "metadata {} is not known to this program and may change what the model computes; it is "
        "not ignored",
        fmt::join(unknown, ", ")));
  }
}

std::vector<std::string> ArchitectureKeys::of_other_architectures() const {
  std::vector<std::string> others;
  for (const auto& [key, value] : file_.metadata()) {
    const auto contains = [&](const char* part) { return key.find(part) != std::string::npos; };
    if (!key.starts_with(prefix_) && (contains(".attention.") || contains(".rope."))) {
      others.push_back(key);
    }
  }
  return others;
}

}  // namespace bipo
