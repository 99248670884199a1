#include "launcher/commands/conceptor_results.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "collectives/foundation/exit_codes.hpp"
#include "experiments/files/atomic_file.hpp"
#include "experiments/job/machine.hpp"
#include "experiments/job/new_file.hpp"
#include "experiments/progress/progress.hpp"
#include "experiments/progress/stop_signals.hpp"
#include "experiments/settings/field.hpp"
#include "experiments/settings/stored_settings.hpp"
#include "experiments/training/run_record.hpp"
#include "launcher/commands/lone_process.hpp"
#include "trainer/extraction/conceptor.hpp"
#include "trainer/extraction/principal_component.hpp"

namespace bipo {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kFingerprintKey = "model_fingerprint";

// Copies; the vector may go.
at::Tensor tensor_of(const std::vector<double>& numbers) {
  const at::Tensor result = at::empty({static_cast<std::int64_t>(numbers.size())},
                                      at::TensorOptions().dtype(at::kDouble));
  std::copy(numbers.begin(), numbers.end(), result.mutable_data_ptr<double>());
  return result;
}

std::vector<double> numbers_of(const at::Tensor& matrix) {
  const at::Tensor rows = matrix.contiguous();
  const double* begin = rows.const_data_ptr<double>();
  return {begin, begin + rows.numel()};
}

struct GivenConceptor {
  std::string file;
  ConceptorAttributes attributes;
  Json config;
  double quota = 0;
  at::Tensor matrix;  // [D, D]
};

// What tells one model from another.
constexpr const char* kModelKeys[] = {kFingerprintKey, kWeightsHashKey};

GivenConceptor read_given(const VectorChoice& choice) {
  ConceptorRecord record = read_conceptor_file(choice.file);
  const std::int64_t hidden = record.attributes.hidden_size;
  const double quota = quota_of(record);
  at::Tensor matrix = tensor_of(record.matrix).view({hidden, hidden});
  Json config = Json::parse(record.attributes.config);
  return {choice.file.string(), std::move(record.attributes), std::move(config), quota,
          std::move(matrix)};
}

void require_alike(const GivenConceptor& first, const GivenConceptor& other) {
  const ConceptorAttributes& one = first.attributes;
  const ConceptorAttributes& two = other.attributes;
  if (one.hidden_size != two.hidden_size) {
    throw UserError(fmt::format(
        "--vector {}: its conceptor is of hidden size {}, that of {} of {}; only conceptors of one "
        "size can be combined",
        other.file, two.hidden_size, first.file, one.hidden_size));
  }
  if (one.layer != two.layer) {
    throw UserError(fmt::format(
        "--vector {}: its conceptor belongs to layer {}, that of {} to layer {}; conceptors of "
        "different layers say nothing about each other",
        other.file, two.layer, first.file, one.layer));
  }
  for (const char* const key : kModelKeys) {
    if (first.config.contains(key) && other.config.contains(key) &&
        first.config[key] != other.config[key]) {
      throw UserError(fmt::format(
          "--vector {}: its conceptor is of the model {}, that of {} of {}, which has other "
          "weights or another configuration; activations of different models say nothing about "
          "each other",
          other.file, two.model, first.file, one.model));
    }
  }
}

// Throws UserError where there is no memory for what is done with `count` conceptors, of which the
// first is in memory.
void require_room(std::size_t count, std::int64_t hidden) {
  // The other files' matrices, and what conceptor_or() holds of its own at the most.
  constexpr std::uint64_t kMatricesAtOnce = 11;
  const auto size = static_cast<std::uint64_t>(hidden);
  const std::uint64_t needed = (count - 1 + kMatricesAtOnce) * size * size * sizeof(double);
  const std::uint64_t available = memory_per_rank(at::kCPU, /*local_ranks=*/1);
  if (needed > available) {
    throw UserError(fmt::format(
        "{} conceptors of hidden size {} take {} more to combine, but {} are free; combine two at "
        "a time, or where there is more memory",
        count, hidden, gib_text(static_cast<double>(needed)),
        gib_text(static_cast<double>(available))));
  }
}

std::vector<GivenConceptor> read_given(const ExtractOptions& options) {
  std::vector<GivenConceptor> given;
  for (const VectorChoice& choice : options.vectors) {
    given.push_back(read_given(choice));
    if (given.size() == 1) {
      require_room(options.vectors.size(), given.front().attributes.hidden_size);
    }
    for (const GivenConceptor& earlier : given) {  // of which one may not say its model
      require_alike(earlier, given.back());
    }
  }
  return given;
}

at::Tensor combined(const std::vector<GivenConceptor>& given, ExtractMethod method) {
  at::Tensor result = given.front().matrix;
  if (method == ExtractMethod::kConceptorNot) {
    return conceptor_not(result);
  }
  for (std::size_t i = 1; i < given.size(); ++i) {
    result = method == ExtractMethod::kConceptorAnd ? conceptor_and(result, given[i].matrix)
                                                    : conceptor_or(result, given[i].matrix);
  }
  return result;
}

// Returns what all of the given files have under `key`; null where they differ or one lacks it.
Json shared_setting(const std::vector<GivenConceptor>& given, const char* key) {
  std::set<Json> values;
  for (const GivenConceptor& conceptor : given) {
    values.insert(conceptor.config.contains(key) ? conceptor.config[key] : Json());
  }
  return values.size() == 1 ? *values.begin() : Json();
}

std::string combination_config(const ExtractOptions& options,
                               const std::vector<GivenConceptor>& given, double quota) {
  Json json = {{"method", name_of(options.method)}, {"out", absolute_text(options.out)}};
  Json list = Json::array();
  for (const GivenConceptor& conceptor : given) {
    const ConceptorAttributes& attributes = conceptor.attributes;
    list.push_back({{"file", absolute_text(conceptor.file)},
                    {"aperture", attributes.aperture ? Json(*attributes.aperture) : Json()},
                    {"quota", conceptor.quota},
                    {"model", attributes.model}});
  }
  json["conceptors"] = std::move(list);
  json["layer"] = given.front().attributes.layer;
  json["quota"] = quota;
  for (const char* const key : {"adapter", kFingerprintKey, kWeightsHashKey}) {
    const Json shared = shared_setting(given, key);
    if (!shared.is_null()) {
      json[key] = shared;
    }
  }
  return settings_text(json);
}

// Where a file does not say what tells its model from others, the names are all that is known.
void warn_of_several_models(const std::vector<GivenConceptor>& given) {
  std::set<std::string> models;
  bool is_known = true;
  for (const GivenConceptor& conceptor : given) {
    models.insert(conceptor.attributes.model);
    for (const char* const key : kModelKeys) {
      is_known = is_known && conceptor.config.contains(key);
    }
  }
  if (models.size() > 1 && !is_known) {
    std::cerr << fmt::format("warning: the conceptors were made with several models: {}\n",
                             fmt::join(models, ", "));
  }
}

ConceptorRecord combination(const ExtractOptions& options) {
  std::vector<std::filesystem::path> inputs;
  for (const VectorChoice& choice : options.vectors) {
    inputs.push_back(choice.file);
  }
  check_new_file("--out", options.out, options.overwrite, inputs);
  const std::vector<GivenConceptor> given = read_given(options);
  check_free_space(options.out, given.front().matrix.nbytes());
  warn_of_several_models(given);
  const at::Tensor result = combined(given, options.method);
  const double quota = conceptor_quota(result);
  ConceptorRecord record;
  ConceptorAttributes& attributes = record.attributes;
  attributes.layer = given.front().attributes.layer;
  attributes.config = combination_config(options, given, quota);
  attributes.model = given.front().attributes.model;
  attributes.hidden_size = given.front().attributes.hidden_size;
  attributes.dtype = "fp64";
  describe_lone_process(attributes);
  record.matrix = numbers_of(result);
  return record;
}

void write_combination(const ExtractOptions& options, const ConceptorRecord& record) {
  remove_stale_temps(options.out);
  write_conceptor_file(options.out, record);
  const std::size_t count = options.vectors.size();
  std::cout << fmt::format("{}: {} of {} conceptor{} of layer {}, quota {:.4f}\n",
                           options.out.string(), name_of(options.method), count,
                           count == 1 ? "" : "s", record.attributes.layer, quota_of(record));
}

}  // namespace

void make_conceptors(const ExtractPreparation& preparation,
                     std::vector<ExtractedDirection>& moments, const PassProgress& progress) {
  const std::int64_t hidden = preparation.job.inputs.config.hidden;
  std::int64_t count = 0;
  for (ExtractedDirection& of_layer : moments) {
    progress("conceptors, layer", ++count, static_cast<std::int64_t>(moments.size()));
    of_layer.value = numbers_of(upper_triangle(conceptor_of(
        symmetric_matrix(tensor_of(of_layer.value), hidden), preparation.options.aperture)));
  }
}

ConceptorRecord conceptor_record(const ExtractPreparation& preparation,
                                 const ExtractedDirection& found, const Session& session) {
  const JobPreparation& job = preparation.job;
  const std::int64_t hidden = job.inputs.config.hidden;
  const double aperture = preparation.options.aperture;
  const at::Tensor conceptor = symmetric_matrix(tensor_of(found.value), hidden);
  DirectionNorms norms;
  norms.residual = found.median_rms * std::sqrt(static_cast<double>(hidden));
  norms.figure = conceptor_quota(conceptor);
  const RunAttributes described =
      run_attributes(job.options, job, session, extract_config(preparation, found.layer, norms),
                     preparation.created_utc);
  ConceptorRecord record;
  static_cast<JobAttributes&>(record.attributes) = described;
  record.attributes.layer = found.layer;
  record.attributes.aperture = aperture;
  if (const double absolute = aperture / found.median_rms;
      std::isfinite(absolute) && absolute > 0) {
    record.attributes.absolute_aperture = absolute;
  }
  record.matrix = numbers_of(conceptor);
  return record;
}

std::uint64_t conceptor_bytes(std::int64_t hidden, std::int64_t layers) {
  // At the most the moments, as a triangle and whole, their eigenvectors and what LAPACK takes for
  // these, two of them; later less: the conceptor, its copy, and that in the file's two images.
  constexpr std::int64_t kMatricesAtOnce = 5;
  return static_cast<std::uint64_t>(layers * triangle_size(hidden) +
                                    kMatricesAtOnce * hidden * hidden) *
         sizeof(double);
}

int run_conceptor_combination(const ExtractOptions& options, Session& session) {
  std::optional<ConceptorRecord> record;
  session.together([&] {
    if (session.rank() == 0) {
      record = combination(options);
    }
  });
  stop_when_asked();  // the result is written whole
  session.together([&] {
    if (record) {
      write_combination(options, *record);
    }
  });
  return kExitDone;
}

}  // namespace bipo
