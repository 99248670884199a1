#include "launcher/training/run_settings.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "collectives/foundation/errors.hpp"
#include "launcher/job/stored_settings.hpp"
#include "launcher/terminal/gib_text.hpp"

namespace bipo {
namespace {

using Json = nlohmann::ordered_json;

// Settings that may differ between a run and its continuation: they place the work or name files,
// but do not shape the result.
constexpr const char* kPlacement[] = {"model",        "adapter",   "train",     "test",
                                      "out",          "dp",        "threads",   "save_every",
                                      "cache_budget", "cache_dir", "world_size"};

bool is_placement(const std::string& name) {
  return std::find(std::begin(kPlacement), std::end(kPlacement), name) != std::end(kPlacement);
}

std::string yes_no(bool value) {
  return value ? "yes" : "no";
}

std::string template_text(const TrainingInputs& inputs) {
  return inputs.template_date ? fmt::format("{}, which prints the date {}", inputs.chat_template,
                                            iso_text(inputs.template_date->day))
                              : inputs.chat_template;
}

}  // namespace

std::string settings_to_json(const RunSettings& settings, const TrainingInputs& inputs,
                             const Topology& topology) {
  const TrainOptions& options = settings.options;
  Json json;
  json["model"] = absolute_text(options.model);
  json["adapter"] = absolute_text(options.adapter);
  json["model_fingerprint"] = fmt::format("{:016x}", inputs.model_fingerprint);
  json["train"] = absolute_text(options.train);
  json["train_pairs"] = inputs.train.size();
  json["train_tokens_hash"] = fmt::format("{:016x}", inputs.train_hash);
  json["test"] = absolute_text(options.test);
  json["test_pairs"] = inputs.test.size();
  json["test_tokens_hash"] = fmt::format("{:016x}", inputs.test_hash);
  json["layer"] = options.layer;
  json["out"] = absolute_text(options.out);
  json["epochs"] = options.epochs;
  json["max_steps"] = options.max_steps;
  json["batch_size"] = options.batch_size;
  json["micro_batch"] = settings.micro_batch;
  json["lr"] = options.lr;
  json["lr_unit"] = options.lr_unit;
  json["beta"] = options.beta;
  json["weight_decay"] = options.weight_decay;
  json["max_grad_norm"] = options.max_grad_norm;
  json["warmup_steps"] = options.warmup_steps;
  json["sign"] = options.sign;
  json["shuffle"] = options.shuffle;
  json["seed"] = options.seed;
  json["multipliers"] = options.multipliers;
  json["eval_every"] = options.eval_every;
  json["save_every"] = options.save_every;
  store_machine_settings(
      {settings.dtype, settings.device, settings.threads.threads, options.deterministic}, topology,
      json);
  store_text_settings(options, {inputs.chat_template, inputs.template_date, inputs.max_length},
                      json);
  json["cache_dtype"] = settings.cache_dtype;
  json["cache_budget"] = settings.cache_budget;
  json["cache_dir"] = absolute_text(options.cache_dir);
  return settings_text(json);
}

std::vector<SettingGroup> settings_table(const RunSettings& settings, const TrainingInputs& inputs,
                                         const Topology& topology) {
  const TrainOptions& o = settings.options;
  const ModelConfig& c = inputs.config;
  std::string system_prompt = o.system_prompt.empty() ? "(none)" : o.system_prompt;
  if (!inputs.implied_system_text.empty()) {
    system_prompt =
        fmt::format("(none sent; the template puts \"{}\")", inputs.implied_system_text);
  }
  return {
      {"model",
       {{"directory", o.model.string()},
        {"adapter", o.adapter.empty() ? "(none)" : o.adapter.string()},
        {"architecture",
         fmt::format(
             "{}, {} blocks, hidden {}, {} query and {} key/value heads of {}, vocabulary {}",
             c.architecture, c.blocks, c.hidden, c.heads, c.kv_heads, c.head_size, c.vocabulary)},
        {"layer", fmt::format("{} (output of block {} of 0..{})", o.layer, o.layer, c.blocks - 1)},
        {"dtype", fmt::format("{} products{}, fp32 residual stream and vector", settings.dtype,
                              settings.emulated
                                  ? " (computed in fp32: this processor has no bf16 instructions)"
                                  : "")}}},
      {"data",
       {{"train", fmt::format("{} ({} pairs)", o.train.string(), inputs.train.size())},
        {"test", o.test.empty()
                     ? "(none)"
                     : fmt::format("{} ({} pairs)", o.test.string(), inputs.test.size())},
        {"chat template", template_text(inputs)},
        {"system prompt", system_prompt},
        {"eos / bos", fmt::format("{} / {}", o.no_eos ? "none added" : "one after each answer",
                                  o.no_bos ? "none added" : "where the tokenizer has one")},
        {"max length", fmt::format("{} tokens", inputs.max_length)},
        {"skip bad rows", yes_no(o.skip_bad)}}},
      {"training",
       {{"epochs", fmt::format("{}", o.epochs)},
        {"max steps", o.max_steps == 0 ? "no limit" : fmt::format("{}", o.max_steps)},
        {"batch",
         fmt::format("{} pairs in micro-batches of {}", o.batch_size, settings.micro_batch)},
        {"learning rate",
         fmt::format("{} ({}), {} warm-up steps, cosine to 0", o.lr, o.lr_unit, o.warmup_steps)},
        {"AdamW", fmt::format("betas 0.9 0.999, eps 1e-8, weight decay {}", o.weight_decay)},
        {"max grad norm",
         o.max_grad_norm == 0 ? "no clipping" : fmt::format("{}", o.max_grad_norm)},
        {"beta", fmt::format("{}", o.beta)},
        {"sign", o.sign},
        {"shuffle", o.shuffle ? "on" : "off"},
        {"seed", fmt::format("{}", o.seed)},
        {"deterministic", yes_no(o.deterministic)}}},
      {"evaluation and output",
       {{"multipliers", fmt::format("{}", fmt::join(o.multipliers, ", "))},
        {"eval every", o.eval_every == 0 ? "never" : fmt::format("{} epochs", o.eval_every)},
        {"save every", fmt::format("{} s", o.save_every)},
        {"out", o.out.string()}}},
      {"machine",
       {{"ranks", topology.to_string()},
        {"device", fmt::format("{}, collectives: {}", settings.device, settings.backend)},
        {"threads per rank",
         fmt::format("{} ({})", settings.threads.threads, settings.threads.reason)},
        {"activation cache",
         fmt::format("up to {} per node, {}, in {}",
                     gib_text(static_cast<double>(settings.cache_budget)), settings.cache_dtype,
                     o.cache_dir.empty() ? "memory" : o.cache_dir.string())}}},
  };
}

std::int64_t stored_integer(const std::string& config, const std::string& name) {
  const Json json = Json::parse(config, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains(name) || !json[name].is_number_integer()) {
    throw UserError(fmt::format("the run file's config has no integer \"{}\"", name));
  }
  return json[name].get<std::int64_t>();
}

std::string result_settings(const std::string& config) {
  const Json all = Json::parse(config);
  Json shaping = Json::object();
  for (const auto& [name, value] : all.items()) {
    if (!is_placement(name)) {
      shaping[name] = value;
    }
  }
  return shaping.dump();
}

void check_same_settings(const std::string& stored, const std::string& now,
                         const std::string& file) {
  const Json before = Json::parse(stored, nullptr, /*allow_exceptions=*/false);
  const Json after = Json::parse(now);
  if (!before.is_object()) {
    throw UserError(fmt::format(
        "{}: its config is not a JSON object; it was not written by this program", file));
  }
  std::vector<std::string> differences;
  for (const auto& [name, value] : after.items()) {
    const Json old = before.value(name, Json());
    if (!is_placement(name) && old != value) {
      differences.push_back(fmt::format("{} was {}, now {}", name, old.dump(), value.dump()));
    }
  }
  if (!differences.empty()) {
    throw UserError(fmt::format(
        "--resume: {} was made with other settings ({}); use the same ones, or another --out, or "
        "--overwrite",
        file, fmt::join(differences, "; ")));
  }
}

std::vector<std::string> harmless_differences(const std::string& stored, const std::string& now) {
  const Json before = Json::parse(stored, nullptr, /*allow_exceptions=*/false);
  const Json after = Json::parse(now);
  std::vector<std::string> warnings;
  if (before.value("threads", Json()) != after["threads"]) {
    warnings.push_back(fmt::format(
        "threads per rank were {}, now {}: the result may differ in its last bits from an "
        "uninterrupted run's",
        before.value("threads", Json()).dump(), after["threads"].dump()));
  }
  return warnings;
}

}  // namespace bipo
