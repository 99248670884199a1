// Turns the text of one option's value into a number, a list or a name, or says which rule it
// breaks.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "datasets/text/template_date.hpp"
#include "experiments/settings/settings.hpp"
#include "experiments/sweeps/sweep_axes.hpp"

namespace bipo {

// All of them read the whole text (no trailing characters, no blanks; one leading '+' is allowed)
// and throw UserError whose text is the rule alone, as in "must be a finite number"; the
// caller says which option and which value.

std::int64_t parse_integer(std::string_view text, std::int64_t minimum);

std::uint64_t parse_unsigned(std::string_view text);

enum class RealRange { kAny, kNonNegative, kPositive, kShare };  // kShare: above 0, at most 1

// Finite, in decimal or scientific notation.
double parse_real(std::string_view text, RealRange range);

// Comma separated, at least one, all different.
std::vector<double> parse_real_list(std::string_view text);

// A count of bytes, with K, M, G or T (either case) for powers of 1024.
std::uint64_t parse_bytes(std::string_view text);

// One of `names`.
std::string parse_name(std::string_view text, const std::vector<std::string>& names);

// YYYY-MM-DD.
CalendarDate parse_date(std::string_view text);

// Comma separated, at least one, all different, each as the function of one value reads it.
std::vector<double> parse_positive_real_list(std::string_view text);
std::vector<std::uint64_t> parse_unsigned_list(std::string_view text);
std::vector<std::int64_t> parse_positive_integer_list(std::string_view text);
std::vector<std::string> parse_name_list(std::string_view text,
                                         const std::vector<std::string>& names);

// Comma separated DIR or NAME=DIR; without a name, the directory's own.
std::vector<NamedModel> parse_models(std::string_view text);

// Comma separated TRAIN or TRAIN:TEST, with or without NAME= before it; without one, the name of
// the training file up to its extension.
std::vector<NamedData> parse_data_sets(std::string_view text);

// The name of a data set that was given none.
std::string data_name(const std::filesystem::path& train);

// FILE or FILE@WEIGHT.
VectorChoice parse_vector_choice(const std::string& text);

// Comma separated N, FIRST:LAST or FIRST:LAST:STEP, both ends included; or `all`, which is no range
// at all.
std::vector<LayerRange> parse_layer_ranges(std::string_view text);

}  // namespace bipo
