#include "launcher/bench/bench_report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>

#include "collectives/foundation/errors.hpp"
#include "experiments/progress/progress.hpp"

namespace bipo {
namespace {

using Json = nlohmann::ordered_json;

// Missing in what older versions wrote.
constexpr const char* kRecurrenceShare = "recurrence_share";
constexpr const char* kNetworkBytes = "network_bytes";
constexpr const char* kNetworkLatency = "network_latency";

bool is_newer(std::string_view name) {
  return name == kRecurrenceShare || name == kNetworkBytes || name == kNetworkLatency;
}

std::string bench_gib(double bytes) {
  return gib_text(bytes, 3);
}

std::string bench_line(const std::string& name, const std::string& value) {
  return fmt::format("  {:<18}{}\n", name, value);
}

// Returns the parts in the order of the report; a recurrence only where the model has one.
std::vector<std::pair<const char*, double>> parts_of(const StepSeconds& seconds) {
  std::vector<std::pair<const char*, double>> parts = {{"products", seconds.products},
                                                       {"attention", seconds.attention},
                                                       {"head", seconds.head},
                                                       {"elementwise", seconds.elementwise},
                                                       {"collectives", seconds.collectives},
                                                       {"other", seconds.other}};
  if (seconds.recurrence > 0) {
    parts.insert(parts.begin() + 2, {"recurrence", seconds.recurrence});
  }
  return parts;
}

template <typename Speed>
auto fields_of(Speed& speed) {
  return std::vector{std::pair{"operations", &speed.operations},
                     std::pair{"copy_bytes", &speed.copy_bytes},
                     std::pair{"link_bytes", &speed.link_bytes},
                     std::pair{"product_share", &speed.product_share},
                     std::pair{"attention_share", &speed.attention_share},
                     std::pair{kRecurrenceShare, &speed.recurrence_share},
                     std::pair{"head_share", &speed.head_share},
                     std::pair{"elementwise_share", &speed.elementwise_share},
                     std::pair{"seconds_per_call", &speed.seconds_per_call},
                     std::pair{"link_latency", &speed.link_latency},
                     std::pair{kNetworkBytes, &speed.network_bytes},
                     std::pair{kNetworkLatency, &speed.network_latency}};
}

std::string breakdown_text(const StepSeconds& seconds) {
  std::string text;
  for (const auto& [name, value] : parts_of(seconds)) {
    text +=
        fmt::format("{}{} {:.0f} %", text.empty() ? "" : ", ", name, 100 * value / seconds.total());
  }
  return text;
}

}  // namespace

double BenchReport::median_step_seconds() const {
  std::vector<double> sorted = step_seconds;
  std::sort(sorted.begin(), sorted.end());
  const std::size_t middle = sorted.size() / 2;
  return sorted.size() % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

std::string bench_text(const BenchReport& r) {
  const double step = r.median_step_seconds();
  const auto [fastest, slowest] = std::minmax_element(r.step_seconds.begin(), r.step_seconds.end());
  const double achieved = r.floor_flops_per_step / step;
  std::string text = fmt::format(
      "{}, {} of 0..{}, {} on {}, {} ranks = {} dp x {} tp, {} threads per rank\n"
      "{} pairs in micro-batches of {}: {:.0f} tokens per step, {:.0f} of answers; {} steps after "
      "{} to warm up\n\n",
      r.model, layers_text(r.layer), r.blocks - 1, r.dtype, r.device, r.world, r.dp, r.tp,
      r.threads, r.batch_size, r.micro_batch, r.tokens_per_step, r.answers_per_step,
      r.step_seconds.size(), r.warmup);
  if (r.objective != BenchReport().objective) {
    text += bench_line("objective", r.objective);
  }
  text += bench_line("step",
                     fmt::format("{:.4g} s median ({:.4g} to {:.4g})", step, *fastest, *slowest));
  text += bench_line("pairs", fmt::format("{:.4g} /s", static_cast<double>(r.batch_size) / step));
  text += bench_line("tokens", fmt::format("{:.0f} /s", r.tokens_per_step / step));
  text += bench_line("floor", fmt::format("{:.4g} GFLOP per step, {:.4g} GFLOP/s achieved",
                                          r.floor_flops_per_step / 1e9, achieved / 1e9));
  text += bench_line("machine peak",
                     fmt::format("{:.4g} GFLOP/s in the model's own products, {:.4g} GB/s copying",
                                 r.peak_flops / 1e9, r.copy_bytes_per_second / 1e9));
  text += bench_line("share of peak", fmt::format("{:.1f} %", 100 * achieved / r.peak_flops));
  text += bench_line("a step's time", breakdown_text(r.breakdown));
  text +=
      bench_line("prefix pass", fmt::format("{:.4g} s for {} pairs", r.prefix_seconds, r.pairs));
  text += bench_line(
      "memory", fmt::format("{} at most per rank; weights {}, activations of {} {}{}",
                            bench_gib(static_cast<double>(r.peak_memory_bytes)),
                            bench_gib(static_cast<double>(r.weight_bytes)), prefix_text(r.layer),
                            bench_gib(static_cast<double>(r.cache_bytes)),
                            r.cache_kept ? " per node" : " not kept: more than the cache budget"));
  text +=
      bench_line("the plan says", fmt::format("{:.4g} s per step, {:.4g} s for the prefix pass, {}",
                                              r.planned_step_seconds, r.planned_prefix_seconds,
                                              bench_gib(r.planned_memory_bytes)));
  return text;
}

std::string bench_json(const BenchReport& r) {
  const double step = r.median_step_seconds();
  Json json;
  json["model"] = r.model;
  json["layer"] = r.layer.lowest();
  if (r.layer.count() > 1) {
    json["layers"] = r.layer.blocks();
  }
  if (r.layer.site() != Site::kBlock) {
    json["site"] = to_string(r.layer.site());
  }
  json["dtype"] = r.dtype;
  json["device"] = r.device;
  json["backend"] = r.backend;
  json["world_size"] = r.world;
  json["dp"] = r.dp;
  json["tp"] = r.tp;
  json["threads"] = r.threads;
  json["batch_size"] = r.batch_size;
  json["micro_batch"] = r.micro_batch;
  json["pairs"] = r.pairs;
  json["objective"] = r.objective;
  json["warmup"] = r.warmup;
  json["steps"] = r.step_seconds.size();
  json["tokens_per_step"] = r.tokens_per_step;
  json["answer_tokens_per_step"] = r.answers_per_step;
  json["seconds_per_step"] = step;
  json["step_seconds"] = r.step_seconds;
  json["pairs_per_second"] = static_cast<double>(r.batch_size) / step;
  json["tokens_per_second"] = r.tokens_per_step / step;
  json["floor_flops_per_step"] = r.floor_flops_per_step;
  json["achieved_flops"] = r.floor_flops_per_step / step;
  json["peak_flops"] = r.peak_flops;
  json["copy_bytes_per_second"] = r.copy_bytes_per_second;
  json["fraction_of_peak"] = r.floor_flops_per_step / step / r.peak_flops;
  json["free_memory_bytes"] = r.free_memory_bytes;
  json["peak_memory_bytes"] = r.peak_memory_bytes;
  json["weight_bytes"] = r.weight_bytes;
  json["cache_bytes"] = r.cache_bytes;
  json["cache_kept"] = r.cache_kept;
  json["prefix_seconds"] = r.prefix_seconds;
  for (const auto& [name, seconds] : parts_of(r.breakdown)) {
    json["breakdown"][name] = seconds;
  }
  for (const auto& [name, value] : fields_of(r.speed)) {
    json["speed"][name] = *value;
  }
  json["planned"]["seconds_per_step"] = r.planned_step_seconds;
  json["planned"]["prefix_seconds"] = r.planned_prefix_seconds;
  json["planned"]["peak_memory_bytes"] = r.planned_memory_bytes;
  return json.dump(2) + "\n";
}

MeasuredMachine measured_machine(const std::string& text, const std::string& path) {
  const auto refuse = [&](const std::string& reason) -> UserError {
    return UserError(fmt::format("--measured {}: not the output of `bipo-dist bench --json` ({})",
                                 path, reason));
  };
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    throw refuse("not a JSON object");
  }
  MeasuredMachine machine;
  try {
    for (const auto& [name, value] : fields_of(machine.speed)) {
      const Json& speed = json.at("speed");
      if (!is_newer(name) || speed.contains(name)) {
        *value = speed.at(name).get<double>();
      }
    }
    machine.memory_bytes = json.at("free_memory_bytes").get<double>();
    machine.device = json.at("device").get<std::string>();
    machine.dtype = json.at("dtype").get<std::string>();
  } catch (const Json::exception& error) {
    throw refuse(error.what());
  }
  if (!(machine.speed.operations > 0) || !(machine.speed.copy_bytes > 0)) {
    throw UserError(fmt::format("--measured {}: its speeds are not positive numbers", path));
  }
  return machine;
}

}  // namespace bipo
