#include "trainer/model/lora/lora_tensors.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <set>
#include <string_view>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "trainer/model/architecture/wrappers.hpp"
#include "trainer/model/sharding/names.hpp"

namespace bipo {
namespace {

constexpr std::string_view kPrefix = "base_model.model.";
constexpr std::string_view kHeadModule = "lm_head";
constexpr std::string_view kTextModule = "model.";

// What a tensor of an adapter is, by the end of its name.  PEFT reads the names with its adapter's
// name, which is "default" unless a caller says otherwise, as well as those without.
struct TensorKind {
  const char* name;
  const char* end;  // what follows the adapter's name
  std::string LoraUpdate::*member;
  bool of_embedding = false;
  bool takes_adapter = true;  // PEFT reads an adapter's name between both
};
constexpr std::array kTensorKinds = {
    TensorKind{"lora_A", ".weight", &LoraUpdate::a},
    TensorKind{"lora_B", ".weight", &LoraUpdate::b},
    TensorKind{"lora_B", ".bias", &LoraUpdate::bias},
    TensorKind{"lora_magnitude_vector", ".weight", &LoraUpdate::magnitude},
    TensorKind{"lora_magnitude_vector", "", &LoraUpdate::magnitude, false, false},
    TensorKind{"lora_embedding_A", "", &LoraUpdate::a, true},
    TensorKind{"lora_embedding_B", "", &LoraUpdate::b, true},
};

std::string without_end(const std::string& text, std::string_view end) {
  return text.substr(0, text.size() - end.size());
}

// Shortens a list to what a message can name.
std::string some_of(const std::vector<std::string>& names) {
  constexpr std::size_t kMost = 12;
  const std::size_t shown = std::min(kMost, names.size());
  const std::vector<std::string> first(names.begin(),
                                       names.begin() + static_cast<std::ptrdiff_t>(shown));
  return fmt::format("{}{}", fmt::join(first, ", "), shown < names.size() ? ", ..." : "");
}

// A command that rewrites the file at `path`; `change` is Python about the table t.
std::string command_to_rewrite(const std::string& path, const std::string& change) {
  return fmt::format(
      "python -c \"from safetensors.torch import load_file, save_file; f = '{}'; t = load_file(f); "
      "{}; save_file(t, f, metadata={{'format': 'pt'}})\"",
      path, change);
}

std::string command_to_replace(const std::string& path, const std::string& from,
                               const std::string& to) {
  return command_to_rewrite(
      path, fmt::format("t = {{k.replace('{}', '{}'): v for k, v in t.items()}}", from, to));
}

// A matrix of the model that an adapter may update.
struct Module {
  TensorShape shape;
  bool has_bias = false;
  bool is_embedding = false;
};

std::map<std::string, Module> modules_of(const ModelConfig& config) {
  std::map<std::string, Module> modules;
  std::set<std::string> biased;
  for (const auto& [role, block] : weights_of(config)) {
    const TensorPlace place = parameter_place(config, role, block);
    if (place.name.ends_with(kBiasEnd)) {
      biased.insert(without_end(place.name, kBiasEnd));
    } else if (is_product(role)) {
      modules.emplace(without_end(place.name, kWeightEnd),
                      Module{place.shape, false, role == Role::kEmbedding});
    }
  }
  for (auto& [name, module] : modules) {
    module.has_bias = biased.contains(name);
  }
  return modules;
}

// The model's weights by the name of their tensor; a tied head has both names.
std::map<std::string, std::vector<WeightId>> weights_by_name(const ModelConfig& config) {
  std::map<std::string, std::vector<WeightId>> weights;
  for (const WeightId& id : weights_of(config)) {
    weights[parameter_place(config, id.role, id.block).name].push_back(id);
  }
  if (config.tied_head) {
    weights[parameter_place(config, Role::kHead).name] = {{Role::kEmbedding}};
  }
  return weights;
}

enum class Likeness { kEqual, kRounded, kDifferent };

Likeness compare(const at::Tensor& copy, const at::Tensor& own) {
  const at::ScalarType wide = at::promote_types(copy.scalar_type(), own.scalar_type());
  if (at::equal(copy.to(wide), own.to(wide))) {
    return Likeness::kEqual;
  }
  const bool is_rounded =
      at::equal(own.to(copy.scalar_type()), copy) || at::equal(copy.to(own.scalar_type()), own);
  return is_rounded ? Likeness::kRounded : Likeness::kDifferent;
}

class TensorReader {
 public:
  TensorReader(const LoraConfig& config, const SafetensorsFile& file, const ModelConfig& model,
               const WeightSource& base)
      : config_(config),
        file_(file),
        model_(model),
        base_(base),
        modules_(modules_of(model)),
        weights_(weights_by_name(model)),
        embedding_(without_end(parameter_place(model, Role::kEmbedding).name, kWeightEnd)) {}

  LoraTensors read() {
    for (const auto& [name, entry] : file_.entries()) {
      add(name, entry);
    }
    refuse_unknown();
    refuse_tied();
    check_modules();
    std::vector<std::string> adapted;
    for (auto& [module, update] : updates_) {
      complete(module, update);
      adapted.push_back(key_of(module));
    }
    std::vector<std::string> warnings = config_.warnings(adapted);
    for (const auto& [copy, weight] : copies_) {
      check_copy(copy, weight, weights_.at(weight), warnings);
    }
    if (of_other_parts_ > 0) {
      warnings.push_back(fmt::format(
          "{}: {} of its tensors not used: they adapt other parts of {} than its text part",
          file_.path().string(), of_other_parts_, model_.wrapper->architecture));
    }
    return {std::move(updates_), std::move(warnings)};
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    throw UserError(fmt::format("--adapter: {}: {}", file_.path().string(), what));
  }

  void unknown(const std::string& why, const std::string& name) { unknown_[why].push_back(name); }

  // Sorts the tensor into updates_, copies_ or unknown_.
  void add(const std::string& name, const SafetensorsFile::Entry& entry) {
    if (!name.starts_with(kPrefix)) {
      unknown(fmt::format("do not begin with {}, so that PEFT reads past them", kPrefix), name);
      return;
    }
    const std::string in_model = name_in_class(name.substr(kPrefix.size()));
    if (model_.wrapper != nullptr && model_.wrapper->other_module(in_model)) {
      ++of_other_parts_;
      return;
    }
    for (const TensorKind& kind : kTensorKinds) {
      if (add_if(kind, name, in_model)) {
        return;
      }
    }
    std::string weight = in_model;
    for (const std::string_view end : {kWeightEnd, kBiasEnd}) {
      const std::string base_layer = fmt::format(".base_layer{}", end);
      if (weight.ends_with(base_layer)) {
        weight = without_end(weight, base_layer) + std::string(end);
      }
    }
    if (weights_.contains(weight)) {
      check_type(name, entry);
      copies_.emplace_back(name, weight);
    } else {
      unknown("belong to no matrix of this model, or are of an unsupported kind", name);
    }
  }

  // Wrappers had their parts under other names until transformers 4.52, which PEFT still reads.
  std::string name_in_class(std::string name) const {
    if (model_.wrapper == nullptr) {
      return name;
    }
    const std::string_view head = "language_model.lm_head.";
    if (name.starts_with(head)) {
      return fmt::format("{}.{}", kHeadModule, name.substr(head.size()));
    }
    const std::string_view older = model_.wrapper->text_names.front();
    return name.starts_with(older)
               ? std::string(model_.wrapper->text_module) + name.substr(older.size())
               : name;
  }

  // Whether the name has the kind's end.
  bool add_if(const TensorKind& kind, const std::string& name, const std::string& in_model) {
    const std::string infix = fmt::format(".{}", kind.name);
    const std::size_t place = in_model.rfind(infix);
    if (place == std::string::npos || !in_model.ends_with(kind.end)) {
      return false;
    }
    const std::size_t begin = place + infix.size();
    const std::size_t end = in_model.size() - std::string_view(kind.end).size();
    if (begin > end) {
      return false;
    }
    const std::string adapter = in_model.substr(begin, end - begin);
    if (!adapter.empty() && (!kind.takes_adapter || adapter.front() != '.' ||
                             adapter == kWeightEnd || adapter == kBiasEnd)) {
      return false;
    }
    if (!adapter.empty() && adapter != ".default") {
      unknown(fmt::format("are named for the adapter \"{}\", which PEFT reads only with "
                          "adapter_name=\"{}\"; rename them: {}",
                          adapter.substr(1), adapter.substr(1),
                          command_to_replace(file_.path().string(),
                                             fmt::format("{}{}{}", infix, adapter, kind.end),
                                             fmt::format("{}{}", infix, kind.end))),
              name);
      return true;
    }
    add_part(kind, in_model.substr(0, place), name);
    return true;
  }

  void add_part(const TensorKind& kind, const std::string& module, const std::string& name) {
    const bool is_tied_head = model_.tied_head && module == kHeadModule;
    const auto found = modules_.find(module);
    if (found == modules_.end() && !is_tied_head) {
      if (modules_.contains("model." + module)) {
        unknown(fmt::format("lack \"model.\" in their names, so that PEFT reads past them; if they "
                            "belong to this model, rename them: {}",
                            command_to_replace(file_.path().string(), std::string(kPrefix),
                                               std::string(kPrefix) + "model.")),
                name);
      } else if (const std::string inside = in_wrapper(module); modules_.contains(inside)) {
        unknown(
            fmt::format("are named as in a model of text alone, so that PEFT reads past them "
                        "in {}; if they belong to this model, rename them: {}",
                        model_.wrapper->architecture,
                        command_to_replace(
                            file_.path().string(), std::string(kPrefix) + std::string(kTextModule),
                            fmt::format("{}{}", kPrefix, model_.wrapper->text_module))),
            name);
      } else {
        unknown("belong to no matrix of this model, or are of an unsupported kind", name);
      }
      return;
    }
    if (kind.of_embedding && (found == modules_.end() || !found->second.is_embedding)) {
      unknown("are of an embedding, which their module is not", name);
      return;
    }
    LoraUpdate& update = updates_[module];
    std::string& part = update.*kind.member;
    if (!part.empty()) {
      refuse(
          fmt::format("holds {} and {}, which are one tensor to PEFT; take one out", part, name));
    }
    part = name;
    update.transposed = update.transposed || kind.of_embedding;
  }

  // Returns the name in a wrapper's class of a module of a model of text alone.
  std::string in_wrapper(const std::string& module) const {
    return model_.wrapper == nullptr || !module.starts_with(kTextModule)
               ? std::string()
               : std::string(model_.wrapper->text_module) + module.substr(kTextModule.size());
  }

  void refuse_unknown() const {
    if (unknown_.empty()) {
      return;
    }
    std::vector<std::string> kinds;
    for (const auto& [why, names] : unknown_) {
      kinds.push_back(fmt::format("{} of its tensors {}: {}", names.size(), why, some_of(names)));
    }
    refuse(fmt::format("{}", fmt::join(kinds, "; ")));
  }

  // PEFT's merge_and_unload adds an update of one of both to the matrix of both.
  void refuse_tied() const {
    if (!model_.tied_head) {
      return;
    }
    for (const std::string& module : {embedding_, std::string(kHeadModule)}) {
      const bool is_target = config_.targets_module(module) ||
                             config_.targets_parameter(module + std::string(kWeightEnd));
      if (is_target || updates_.contains(module)) {
        refuse(fmt::format(
            "adapts {}, but this model's head is its embedding: PEFT's merge_and_unload changes "
            "both, the adapter without merging only one, and no answer is the right one; train "
            "without {} among target_modules, or merge as the adapter was meant and give the "
            "result as --model: {}",
            module, module, config_.merging_command()));
      }
    }
  }

  bool is_target(const std::string& module) const {
    return config_.targets_module(module) || by_parameter(module);
  }

  bool by_parameter(const std::string& module) const {
    return config_.targets_parameter(module + std::string(kWeightEnd));
  }

  // The name that PEFT looks up in patterns.
  std::string key_of(const std::string& module) const {
    return by_parameter(module) ? module + std::string(kWeightEnd) : module;
  }

  // Refuses other modules than the configuration targets.
  void check_modules() const {
    std::vector<std::string> missing;
    std::vector<std::string> unlisted;
    for (const auto& [module, matrix] : modules_) {
      const bool has_tensors = updates_.contains(module);
      const bool is_listed = is_target(module);
      if (is_listed && !has_tensors) {
        missing.push_back(module);
      }
      if (!is_listed && has_tensors) {
        unlisted.push_back(module);
      }
      if (config_.targets_module(module) && by_parameter(module)) {
        refuse(
            fmt::format("{} is among target_modules and among target_parameters of {}, which "
                        "PEFT does not accept",
                        module, config_.path().string()));
      }
    }
    if (!missing.empty()) {
      refuse(
          fmt::format("{} modules that {} targets have no tensors here: {}; the adapter is "
                      "incomplete, get it again",
                      missing.size(), config_.path().string(), some_of(missing)));
    }
    if (!unlisted.empty()) {
      refuse(
          fmt::format("{} modules have tensors here, but {} does not target them: {}; the two "
                      "files do not belong together",
                      unlisted.size(), config_.path().string(), some_of(unlisted)));
    }
    if (updates_.empty()) {
      refuse("holds no tensors of an adapter; it would change nothing");
    }
  }

  void complete(const std::string& name, LoraUpdate& update) const {
    const Module& module = modules_.at(name);
    if (update.a.empty() || update.b.empty()) {
      refuse(fmt::format("module {} has {} only; the adapter is incomplete, get it again", name,
                         update.a.empty() ? "lora_B" : "lora_A"));
    }
    if (module.is_embedding && update.transposed == by_parameter(name)) {
      refuse(
          fmt::format("{} does not fit {}: an embedding's own update is named "
                      "lora_embedding_A, that of its parameter lora_A",
                      update.a, config_.path().string()));
    }
    require_part(name, "lora_magnitude_vector", "use_dora", config_.has_magnitudes(),
                 update.magnitude);
    require_part(name, "lora_B.bias", "lora_bias", config_.has_biases(), update.bias);
    if (config_.has_biases() && !module.has_bias) {
      refuse(fmt::format(
          "{} adds a bias to {}, which has none in this model, so that no merged model can hold "
          "it: PEFT's merge_and_unload ends with RuntimeError; train without lora_bias",
          update.bias, name));
    }
    update.rank = config_.rank(key_of(name));
    update.scale = config_.scale(key_of(name));
    const auto [out, in] = update.transposed ? std::pair(module.shape.columns, module.shape.rows)
                                             : std::pair(module.shape.rows, module.shape.columns);
    check_shape(update.a, {update.rank, in});
    check_shape(update.b, {out, update.rank});
    for (const std::string& vector : {update.magnitude, update.bias}) {
      if (!vector.empty()) {
        check_shape(vector, {out});
      }
    }
  }

  void require_part(const std::string& module, const char* part, const char* field, bool is_on,
                    const std::string& tensor) const {
    if (is_on && tensor.empty()) {
      refuse(
          fmt::format("module {} has no {}, which \"{}\" in {} requires; the adapter is "
                      "incomplete, get it again",
                      module, part, field, config_.path().string()));
    }
    if (!is_on && !tensor.empty()) {
      refuse(
          fmt::format("holds {}, but \"{}\" in {} is not true, so that PEFT reads past it; the "
                      "two files do not belong together",
                      tensor, field, config_.path().string()));
    }
  }

  void check_type(const std::string& name, const SafetensorsFile::Entry& entry) const {
    if (!at::isFloatingType(entry.type)) {
      refuse(fmt::format("tensor {} is of type {}, which is not a floating-point type", name,
                         c10::toString(entry.type)));
    }
  }

  void check_shape(const std::string& name, const std::vector<std::int64_t>& expected) const {
    const SafetensorsFile::Entry& entry = file_.entries().at(name);
    if (entry.shape != expected) {
      refuse(fmt::format(
          "tensor {} has shape [{}], but the model and the rank in {} imply [{}]; "
          "they do not belong together",
          name, fmt::join(entry.shape, ", "), config_.path().string(), fmt::join(expected, ", ")));
    }
    check_type(name, entry);
  }

  // Compares a base weight that was saved along with the model's, which is used.
  void check_copy(const std::string& copy, const std::string& weight,
                  const std::vector<WeightId>& ids, std::vector<std::string>& warnings) const {
    const TensorPlace place = parameter_place(model_, ids.front().role, ids.front().block);
    const std::vector<std::int64_t> shape =
        place.shape.is_vector() ? std::vector{place.shape.rows}
                                : std::vector{place.shape.rows, place.shape.columns};
    const SafetensorsFile::Entry& entry = file_.entries().at(copy);
    if (entry.shape != shape) {
      refuse(fmt::format(
          "tensor {} has shape [{}], but {} of this model has [{}]: the adapter was made for a "
          "model of another size or with tokens added; give that model as --model, or {}",
          copy, fmt::join(entry.shape, ", "), weight, fmt::join(shape, ", "), how_to_merge()));
    }
    Likeness likeness = Likeness::kEqual;
    for (const WeightId& id : ids) {
      likeness = std::max(likeness, compare_rows(copy, id));
    }
    if (likeness == Likeness::kDifferent) {
      refuse_trained(copy, weight);
    }
    if (likeness == Likeness::kRounded) {
      warnings.push_back(
          fmt::format("{}: tensor {} is the model's own {} in another precision ({}); the model's "
                      "is used",
                      file_.path().string(), copy, weight, c10::toString(entry.type)));
    }
  }

  Likeness compare_rows(const std::string& copy, const WeightId& id) const {
    constexpr std::int64_t kElementsPerPart = 1 << 22;
    const TensorPlace place = parameter_place(model_, id.role, id.block);
    const TensorShape shape = full_shape(model_, id.role, id.block);
    const std::int64_t step =
        std::max<std::int64_t>(1, kElementsPerPart / std::max<std::int64_t>(1, shape.columns));
    Likeness likeness = Likeness::kEqual;
    for (std::int64_t begin = 0; begin < shape.rows; begin += step) {
      const Range rows = {begin, std::min(begin + step, shape.rows)};
      const Range columns = {0, shape.columns};
      likeness = std::max(likeness, compare(file_.read(copy, place.rows_in_tensor(rows), columns),
                                            base_.read(id.role, id.block, {rows, columns})));
    }
    return likeness;
  }

  std::string how_to_merge() const {
    return fmt::format("merge the adapter into its model and give the result as --model: {}",
                       config_.merging_command());
  }

  [[noreturn]] void refuse_trained(const std::string& copy, const std::string& weight) const {
    refuse(fmt::format(
        "tensor {} differs from {} of this model: it was trained too, or belongs to another base "
        "model; only low-rank updates are supported beside this model's own weights.  Either {}; "
        "or, if the tensor is the base model's own, as beside a quantised --model, take it out: {}",
        copy, weight, how_to_merge(),
        command_to_rewrite(file_.path().string(), fmt::format("del t['{}']", copy))));
  }

  const LoraConfig& config_;
  const SafetensorsFile& file_;
  const ModelConfig& model_;
  const WeightSource& base_;
  std::map<std::string, Module> modules_;
  std::map<std::string, std::vector<WeightId>> weights_;
  std::string embedding_;
  LoraUpdates updates_;
  std::vector<std::pair<std::string, std::string>> copies_;  // tensor, the model's weight
  std::size_t of_other_parts_ = 0;  // tensors that adapt a wrapper's other parts
  std::map<std::string, std::vector<std::string>> unknown_;  // tensors by what is wrong
};

}  // namespace

LoraTensors read_lora_tensors(const LoraConfig& config, const SafetensorsFile& file,
                              const ModelConfig& model, const WeightSource& base) {
  return TensorReader(config, file, model, base).read();
}

}  // namespace bipo
