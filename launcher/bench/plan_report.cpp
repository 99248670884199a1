#include "launcher/bench/plan_report.hpp"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "experiments/progress/progress.hpp"

namespace bipo {
namespace {

using Json = nlohmann::ordered_json;

std::string plan_gib(double bytes) {
  return fmt::format("{:>14}", gib_text(bytes, 3));
}

std::string duration(double seconds) {
  if (seconds < 60) {
    return fmt::format("{:.3g} s", seconds);
  }
  const auto whole = static_cast<std::int64_t>(std::llround(seconds));
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

std::string plan_line(const std::string& name, const std::string& value) {
  return fmt::format("  {:<34}{}\n", name, value);
}

double device_hours(const PlanRequest& request, double seconds) {
  return seconds * static_cast<double>(request.machine.devices) / 3600;
}

std::string whole_cost(const PlanRequest& request, double seconds) {
  return fmt::format("{:>14}, {:.3g} device hours", duration(seconds),
                     device_hours(request, seconds));
}

// Returns "" where all devices share a node.
std::string nodes_text(const PlannedMachine& machine) {
  const bool one_node =
      machine.devices_per_node == 0 || machine.devices_per_node == machine.devices;
  return one_node ? "" : fmt::format(", {} per node", machine.devices_per_node);
}

std::string head_text(const PlanRequest& r) {
  const PlannedMachine& m = r.machine;
  return fmt::format(
      "{}: {:.4g} G parameters, {} of 0..{}, {}\n"
      "{} x {}{}: {:.4g} TFLOP/s, {:.4g} GB/s and {:.4g} GiB each ({})\n"
      "{} training and {} held-out pairs of {:.0f} tokens, {:.0f} of answers; prompts share "
      "{:.0f}\n",
      r.model, model_parameters(r.config) / 1e9, layers_text(r.layer), r.config.blocks - 1, r.dtype,
      m.devices, m.name, nodes_text(m), m.speed.operations / 1e12, m.speed.copy_bytes / 1e9,
      m.memory_bytes / kGiB, m.source, r.train_pairs, r.test_pairs, r.pair.tokens, r.pair.answers,
      r.pair.shared);
}

// By options of the command that plans.
std::string remedies(const PlanRequest& r) {
  std::string text =
      r.has_started ? "use more ranks, a higher --layer" : "use more --devices, a higher --layer";
  if (r.micro_batch && *r.micro_batch > 1) {
    text += ", a lower --micro-batch";
  }
  if (r.tp) {
    text += ", another --tp";
  }
  return text + (r.dtype == "bf16" ? " or a larger machine" : " or --dtype bf16");
}

std::string arrangement_text(const PlanRequest& r, const RunPlan& p) {
  if (p.fits) {
    return fmt::format("--tp {} --dp {} --micro-batch {:.0f}\n", p.shape.tp, p.shape.dp,
                       p.shape.micro_pairs) +
           (r.attention.empty() ? "" : fmt::format("attention {}\n", r.attention));
  }
  return fmt::format("does not fit: --tp {} needs the least, {:.3g} GiB of {:.3g}; {}\n",
                     p.shape.tp, p.peak_bytes / kGiB, r.machine.memory_bytes / kGiB, remedies(r));
}

std::string memory_text(const PlanRequest& r, const RunPlan& p) {
  const RankMemory& m = p.memory;
  std::string text = "\nmemory per rank\n";
  text += plan_line(
      fmt::format("weights of blocks {}..{}", r.layer.blocks_before(), r.config.blocks - 1),
      plan_gib(m.suffix));
  text += plan_line("head and final norm", plan_gib(m.head));
  text += plan_line("activations of a micro-batch", plan_gib(m.activations));
  if (p.shape.graphs) {
    text += plan_line("CUDA graphs", plan_gib(m.graphs));
  } else if (p.lacks_room_for_graphs) {
    text += plan_line("CUDA graphs", fmt::format("{:>14}", "none: no room"));
  }
  text += plan_line("prefix pass, before the others", plan_gib(m.prefix));
  text += plan_line("pairs as tokens", plan_gib(m.data));
  text += plan_line("libraries", plan_gib(m.program));
  text += plan_line("at most", plan_gib(p.peak_bytes));
  text += plan_line(
      fmt::format("activations of {}, per node", prefix_text(r.layer)),
      plan_gib(m.cache) + (r.machine.cuda ? " of host memory" : " (in \"at most\" by parts)"));
  return text;
}

std::string time_text(const PlanRequest& r, const RunPlan& p) {
  std::string text = "\ntime\n";
  text += plan_line(r.uses_reference ? "prefix pass" : "prefix pass, without reference",
                    fmt::format("{:>14}", duration(p.prefix_seconds)));
  text += plan_line("step", fmt::format("{:>14}, {:.4g} pairs/s", duration(p.step.total()),
                                        static_cast<double>(r.batch_size) / p.step.total()));
  if (p.shape.tp * p.shape.dp > 1) {
    text += plan_line(
        "  exchanged within replicas, by all",
        fmt::format("{:>14}, {}", duration(p.step.collectives), duration(p.step.reduction)));
  }
  text += plan_line(fmt::format("training, {} steps", p.steps),
                    fmt::format("{:>14}", duration(p.training_seconds)));
  text += plan_line("evaluations", fmt::format("{:>14}", duration(p.evaluation_seconds)));
  const bool is_cut = r.max_steps > 0 && p.steps == r.max_steps;
  text += plan_line(
      is_cut ? fmt::format("run of {} steps", p.steps) : fmt::format("run of {} epochs", r.epochs),
      whole_cost(r, p.run_seconds));
  if (r.cells > 1) {
    text += plan_line(fmt::format("sweep of {} cells", r.cells), whole_cost(r, p.sweep_seconds));
  }
  return text;
}

}  // namespace

std::string plan_text(const PlanRequest& request, const RunPlan& plan) {
  return head_text(request) + "\n" + arrangement_text(request, plan) + memory_text(request, plan) +
         time_text(request, plan);
}

std::string plan_json(const PlanRequest& r, const RunPlan& p) {
  Json json;
  json["model"] = r.model;
  json["parameters"] = model_parameters(r.config);
  json["layer"] = r.layer.lowest();
  if (r.layer.count() > 1) {
    json["layers"] = r.layer.blocks();
  }
  if (r.layer.site() != Site::kBlock) {
    json["site"] = to_string(r.layer.site());
  }
  json["dtype"] = r.dtype;
  json["machine"] = r.machine.name;
  json["devices"] = r.machine.devices;
  json["devices_per_node"] = r.machine.devices_per_node;
  json["memory_bytes"] = r.machine.memory_bytes;
  json["train_pairs"] = r.train_pairs;
  json["test_pairs"] = r.test_pairs;
  json["tokens_per_pair"] = r.pair.tokens;
  json["batch_size"] = r.batch_size;
  json["fits"] = p.fits;
  json["tp"] = p.shape.tp;
  json["dp"] = p.shape.dp;
  json["micro_batch"] = static_cast<std::int64_t>(p.shape.micro_pairs);
  if (!r.attention.empty()) {
    json["attention"] = r.attention;
  }
  json["memory_per_rank"] = {{"suffix", p.memory.suffix},           {"head", p.memory.head},
                             {"activations", p.memory.activations}, {"graphs", p.memory.graphs},
                             {"prefix_pass", p.memory.prefix},      {"pairs", p.memory.data},
                             {"libraries", p.memory.program},       {"peak", p.peak_bytes}};
  json["cache_bytes"] = p.memory.cache;
  json["prefix_seconds"] = p.prefix_seconds;
  json["seconds_per_step"] = p.step.total();
  json["step"] = {{"products", p.step.products},
                  {"attention", p.step.attention},
                  {"recurrence", p.step.recurrence},
                  {"head", p.step.head},
                  {"elementwise", p.step.elementwise},
                  {"collectives", p.step.collectives},
                  {"other", p.step.other},
                  {"reduction", p.step.reduction}};
  json["steps"] = p.steps;
  json["training_seconds"] = p.training_seconds;
  json["evaluation_seconds"] = p.evaluation_seconds;
  json["run_seconds"] = p.run_seconds;
  json["run_device_hours"] = device_hours(r, p.run_seconds);
  json["cells"] = r.cells;
  json["sweep_seconds"] = p.sweep_seconds;
  json["sweep_device_hours"] = device_hours(r, p.sweep_seconds);
  return json.dump(2) + "\n";
}

}  // namespace bipo
