#include "trainer/model/architecture/rope_config.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>

namespace bipo {
namespace {

// transformers 5 stores theta, scaling and rotated part together, for each kind of block if there
// are several.
constexpr const char* kParameters = "rope_parameters";
constexpr const char* kScaling = "rope_scaling";

ConfigFields of_kind(const ConfigFields& parameters, const char* kind) {
  return parameters.has(kind) ? parameters.object(kind) : parameters;
}

std::string type_of(const ConfigFields& scaling) {
  const auto type = scaling.text("rope_type");
  return type ? *type : scaling.text("type").value_or("default");
}

Llama3RopeScaling read_llama3(const ConfigFields& scaling) {
  const Llama3RopeScaling result{scaling.positive("factor"), scaling.positive("low_freq_factor"),
                                 scaling.positive("high_freq_factor"),
                                 scaling.positive("original_max_position_embeddings")};
  if (result.high_frequency_factor <= result.low_frequency_factor) {
    scaling.refuse("high_freq_factor must exceed low_freq_factor");
  }
  return result;
}

// 0.1 m ln(s) + 1 (arXiv 2309.00071, equation 22, where m = 1).
double yarn_magnitude(double factor, double scale) {
  return factor <= 1 ? 1 : 0.1 * scale * std::log(factor) + 1;
}

void read_yarn(const ConfigFields& scaling, std::int64_t context, RotaryEmbedding& rotary) {
  const double factor = scaling.positive("factor");
  const bool two_scales = scaling.has("mscale") && scaling.has("mscale_all_dim");
  const double magnitude = two_scales
                               ? yarn_magnitude(factor, scaling.positive("mscale")) /
                                     yarn_magnitude(factor, scaling.positive("mscale_all_dim"))
                               : yarn_magnitude(factor, 1);
  rotary.factor = scaling.positive_or("attention_factor", magnitude);
  rotary.scaling = YarnRopeScaling{
      factor, scaling.positive_or("beta_fast", 32), scaling.positive_or("beta_slow", 1),
      scaling.positive_or("original_max_position_embeddings", static_cast<double>(context)),
      scaling.truth_or("truncate", true)};
  if (rotary.theta <= 1) {
    scaling.refuse("yarn needs a rope_theta above 1");
  }
}

// Sequences beyond the original context use other frequencies for every token, so that answers on
// both sides of it could not share a prefix: the original context becomes the limit.
void read_long_rope(const ConfigFields& fields, const ConfigFields& scaling, std::int64_t pairs,
                    RotaryEmbedding& rotary, ModelConfig& config) {
  const std::vector<double> divisors = scaling.positives("short_factor");
  if (static_cast<std::int64_t>(divisors.size()) != pairs) {
    scaling.refuse(
        fmt::format("short_factor has {} numbers for {} rotated pairs", divisors.size(), pairs));
  }
  rotary.divisors.assign(divisors.begin(), divisors.end());
  const auto context = static_cast<double>(config.context);
  const double original =
      fields.positive_or("original_max_position_embeddings",
                         scaling.positive_or("original_max_position_embeddings", context));
  if (original < 2) {
    fields.refuse(
        fmt::format("original_max_position_embeddings is {}, must be at least 2", original));
  }
  const double factor = context / original;
  const double magnitude = factor <= 1 ? 1 : std::sqrt(1 + std::log(factor) / std::log(original));
  rotary.factor = scaling.positive_or("attention_factor", magnitude);
  config.context = static_cast<std::int64_t>(std::min(context, original));
}

void read_scaling(const ConfigFields& fields, const ConfigFields& scaling, const Family& family,
                  RotaryEmbedding& rotary, ModelConfig& config) {
  const std::string type = type_of(scaling);
  const std::int64_t rotated = rotary.rotated == 0 ? config.head_size : rotary.rotated;
  // Early files of the family use an author's name, or the name of another method.
  const bool long_rope = family.long_rope && (type == "su" || type == "yarn");
  if (type == "longrope" || long_rope) {
    read_long_rope(fields, scaling, rotated / 2, rotary, config);
  } else if (type == "linear") {
    rotary.scaling = LinearRopeScaling{scaling.positive("factor")};
  } else if (type == "llama3") {
    rotary.scaling = read_llama3(scaling);
  } else if (type == "yarn") {
    read_yarn(scaling, config.context, rotary);
  } else if (type != "default" && type != "dynamic") {
    // "dynamic" changes only sequences longer than the context, which are refused.
    scaling.refuse(
        fmt::format("type \"{}\" is not supported; supported: default, linear, dynamic, "
                    "llama3, yarn, longrope",
                    type));
  }
}

std::int64_t rotated_part(const ConfigFields& fields, const Family& family,
                          std::int64_t head_size) {
  if (!family.partial_rotation) {
    fields.require("partial_rotary_factor", 1.0);
    return 0;
  }
  const double part = fields.positive_or("partial_rotary_factor", 1);
  // A part above 1 might overflow the integer.
  const auto rotated =
      part > 1 ? 0 : static_cast<std::int64_t>(static_cast<double>(head_size) * part);
  if (rotated < 2 || rotated % 2 != 0) {
    fields.refuse(fmt::format(
        "\"partial_rotary_factor\" is {}, must rotate an even number of the {} elements "
        "of a head",
        part, head_size));
  }
  return rotated;
}

}  // namespace

RotaryEmbedding read_rotary_embedding(const ConfigFields& fields, const Family& family,
                                      ModelConfig& config) {
  RotaryEmbedding rotary;
  rotary.theta = fields.positive_or("rope_theta", family.theta);
  rotary.rotated = rotated_part(fields, family, config.head_size);
  if (fields.has(kParameters)) {
    const ConfigFields parameters = of_kind(fields.object(kParameters), "full_attention");
    rotary.theta = parameters.positive_or("rope_theta", rotary.theta);
    if (parameters.has("partial_rotary_factor")) {
      rotary.rotated = rotated_part(parameters, family, config.head_size);
    }
    read_scaling(fields, parameters, family, rotary, config);
  } else if (fields.has(kScaling)) {
    read_scaling(fields, fields.object(kScaling), family, rotary, config);
  }
  return rotary;
}

RotaryEmbedding read_local_rotary_embedding(const ConfigFields& fields, const Family& family) {
  RotaryEmbedding rotary;
  rotary.theta = fields.positive_or("rope_local_base_freq", family.local_theta);
  if (fields.has(kParameters) && fields.object(kParameters).has("sliding_attention")) {
    const ConfigFields parameters = fields.object(kParameters).object("sliding_attention");
    rotary.theta = parameters.positive_or("rope_theta", rotary.theta);
    const std::string type = type_of(parameters);
    if (type != "default") {
      parameters.refuse(fmt::format("type \"{}\" is not supported (only default)", type));
    }
  }
  return rotary;
}

}  // namespace bipo
