// Parses the text of one option's value into a number, a list or a name, or reports the rule that
// the text breaks.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "datasets/text/template_date.hpp"
#include "experiments/settings/settings.hpp"
#include "experiments/sweeps/sweep_axes.hpp"

namespace bipo {

// All functions parse the whole text (no trailing characters, no blanks; one leading '+' is
// allowed).  They throw UserError whose text is the rule alone, such as "must be a finite number";
// the caller adds the option and the value.

std::int64_t parse_integer(std::string_view text, std::int64_t minimum);

std::uint64_t parse_unsigned(std::string_view text);

enum class RealRange { kAny, kNonNegative, kPositive, kShare };  // kShare: above 0, at most 1

// Parses a finite number in decimal or scientific notation.
double parse_real(std::string_view text, RealRange range);

// Parses at least one number, comma separated, all different.
std::vector<double> parse_real_list(std::string_view text);

// Parses free, max:X or fixed:X, where X is a number above 0, or with a % behind it a share of the
// residual stream's norm.
NormChoice parse_norm(std::string_view text);

// Parses zero or random:X, with X likewise.
RandomStart parse_start(std::string_view text);

// Parses learned, or different numbers above 0.
FactorChoice parse_factors(std::string_view text);

// Parses a smoothing of labels: at least 0, below 0.5.
double parse_smoothing(std::string_view text);
std::vector<double> parse_smoothing_list(std::string_view text);

// Parses a share between 0 and 1, neither of them, or `half`.
double parse_part(std::string_view text);

// Parses a number of bytes; K, M, G or T (either case) mean powers of 1024.
std::uint64_t parse_bytes(std::string_view text);

// Parses seconds, or a number with s, m or h after it: 90, 1.5m.
double parse_duration(std::string_view text);

// Parses the share or the number of steps of a warm-up: 0.1, 20.
Warmup parse_warmup(std::string_view text);

// Parses the rank of what is added, a whole number above 0; throws UserError for all but 1, the
// only one that a vector can have.
std::int64_t parse_rank(std::string_view text);

// Parses one of `names`.
std::string parse_name(std::string_view text, const std::vector<std::string>& names);

// Parses YYYY-MM-DD.
CalendarDate parse_date(std::string_view text);

// Parse at least one value, comma separated, all different; the function of the same name for one
// value parses each.
std::vector<double> parse_positive_real_list(std::string_view text);
std::vector<double> parse_non_negative_real_list(std::string_view text);
std::vector<std::uint64_t> parse_unsigned_list(std::string_view text);
std::vector<std::int64_t> parse_positive_integer_list(std::string_view text);
std::vector<std::int64_t> parse_block_list(std::string_view text);  // from 0
std::vector<std::string> parse_name_list(std::string_view text,
                                         const std::vector<std::string>& names);

// Parses comma separated DIR or NAME=DIR; the default name is the directory's.
std::vector<NamedModel> parse_models(std::string_view text);

// Parses comma separated TRAIN or TRAIN:TEST, each with or without NAME= before it; the default
// name is data_name() of TRAIN.
std::vector<NamedData> parse_data_sets(std::string_view text);

// Returns the default name of a data set: the training file's name without its extension.
std::string data_name(const std::filesystem::path& train);

// Parses NAME=JSON, a variable of a chat template: `enable_thinking=false`.
std::pair<std::string, nlohmann::ordered_json> parse_template_arg(const std::string& text);

// Parses FILE[:best|:last|:epoch=N][@WEIGHT].  A file that exists under a longer name, with what
// looks like an ending, is meant before one of a shorter name.
VectorChoice parse_vector_choice(const std::string& text);

// Parses FILE[:best|:last|:epoch=N]:THRESHOLD, a finite number behind the last colon.
GateChoice parse_gate(const std::string& text);

// Parses at least one rule of positions, comma separated, all different; in a list first:P+last:S
// stands for first:P,last:S.  Returns their texts.
std::vector<std::string> parse_positions_list(std::string_view text);

// Parses blocks, from 0, all different, in any order, with commas between them or, as a sweep has
// jointly trained ones, with +.
SteeredLayers parse_layers(std::string_view text);

// Parses comma separated N, FIRST:LAST or FIRST:LAST:STEP, both ends included, N+N+..., which are
// trained jointly, or `all`, which yields no range.
std::vector<LayerRange> parse_layer_ranges(std::string_view text);

}  // namespace bipo
