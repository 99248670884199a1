// The plan of a sweep: its cells, the packs in which they train, and both as JSON and as text.
#include "experiments/sweeps/sweep_plan.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>
#include <string_view>
#include <tuple>
#include <utility>

#include "collectives/foundation/content_hash.hpp"
#include "collectives/foundation/errors.hpp"

namespace bipo {
namespace {

using nlohmann::json;
using Json = nlohmann::ordered_json;

std::string range_text(const LayerRange& range) {
  if (range.first == range.last) {
    return fmt::format("{}", range.first);
  }
  return fmt::format("{}:{}:{}", range.first, range.last, range.step);
}

// Appends the layers of `range` that a model of `blocks` blocks has to `layers`, and to `missing`,
// as text, those it has not.  A mistyped range may hold more layers than there is memory for, so
// missing ones stay a range.
void append_layers(const LayerRange& range, std::int64_t blocks, std::vector<std::int64_t>& layers,
                   std::vector<std::string>& missing) {
  if (range.first < 0) {
    missing.push_back(range_text(range));
    return;
  }
  const std::int64_t steps = (range.last - range.first) / range.step;
  for (std::int64_t i = 0; i <= steps; ++i) {
    const std::int64_t layer = range.first + i * range.step;
    if (layer >= blocks) {
      const std::int64_t last = range.first + steps * range.step;
      missing.push_back(range_text({layer, last, range.step}));
      return;
    }
    layers.push_back(layer);
  }
}

// Ranges that hold nothing, whatever the model.
void check_ranges(const std::vector<LayerRange>& ranges, std::vector<std::string>& problems) {
  for (const LayerRange& range : ranges) {
    if (range.step < 1 || range.last < range.first) {
      problems.push_back(fmt::format(
          "--layers {}:{}:{}: a range is first:last:step, with first up to last and a step of at "
          "least 1",
          range.first, range.last, range.step));
    }
  }
}

std::vector<std::int64_t> list_layers(const std::vector<LayerRange>& ranges,
                                      const std::string& model, std::int64_t blocks,
                                      std::vector<std::string>& problems) {
  std::vector<std::int64_t> layers;
  if (ranges.empty()) {
    layers.resize(static_cast<std::size_t>(blocks));
    std::iota(layers.begin(), layers.end(), 0);
    return layers;
  }
  std::vector<std::string> missing;
  for (const LayerRange& range : ranges) {
    if (range.step >= 1 && range.last >= range.first) {
      append_layers(range, blocks, layers, missing);
    }
  }
  if (!missing.empty()) {
    problems.push_back(
        fmt::format("--layers: {}: the model {} has {} blocks, so layers go from 0 to {}",
                    fmt::join(missing, ", "), model, blocks, blocks - 1));
  }
  return layers;
}

template <typename Value>
std::vector<Value> sort_values(std::string_view option, std::vector<Value> values,
                               std::vector<std::string>& problems) {
  std::sort(values.begin(), values.end());
  std::set<Value> repeated;
  for (std::size_t i = 1; i < values.size(); ++i) {
    if (values[i] == values[i - 1]) {
      repeated.insert(values[i]);
    }
  }
  if (!repeated.empty()) {
    problems.push_back(fmt::format("{}: {} given more than once; give each value once", option,
                                   fmt::join(repeated, ", ")));
  }
  return values;
}

template <typename Value>
std::vector<Value> sort_axis(std::string_view option, const std::vector<Value>& values,
                             std::vector<std::string>& problems) {
  if (values.empty()) {
    problems.push_back(fmt::format("{}: no value; give at least one", option));
  }
  return sort_values(option, values, problems);
}

// Places of `values` in the order of their names, which must differ.
template <typename Named>
std::vector<std::size_t> sort_names(std::string_view option, const std::vector<Named>& values,
                                    std::vector<std::string>& problems) {
  std::vector<std::string> names;
  std::vector<std::size_t> places(values.size());
  std::iota(places.begin(), places.end(), std::size_t{0});
  for (const Named& value : values) {
    names.push_back(value.name);
  }
  sort_axis(option, names, problems);
  std::sort(places.begin(), places.end(),
            [&](std::size_t a, std::size_t b) { return names[a] < names[b]; });
  return places;
}

std::string cell_name(const Cell& cell) {
  return fmt::format("{}-{}-layer{}-seed{}-lr{}-beta{}-sign{}-batch{}-epochs{}", cell.model,
                     cell.data, cell.layer, cell.seed, cell.lr, cell.beta, cell.sign,
                     cell.batch_size, cell.epochs);
}

// What members of a pack have in common.
std::tuple<std::string, std::string, std::int64_t, std::int64_t, std::int64_t> pack_key(
    const Cell& cell) {
  return {cell.model, cell.data, cell.layer, cell.batch_size, cell.epochs};
}

std::string pack_name(const std::vector<Cell>& members) {
  if (members.size() == 1) {
    return members.front().name;
  }
  ContentHash hash;
  for (const Cell& cell : members) {
    hash.add(cell.name);
    hash.add("\n");
  }
  const Cell& first = members.front();
  return fmt::format("{}-{}-layer{}-{}cells-{:016x}", first.model, first.data, first.layer,
                     members.size(), hash.value());
}

// Parts whose sizes differ by one at most: a last pack of few vectors would waste its passes.
void append_equal_packs(const std::vector<Cell>& cells, std::size_t most,
                        std::vector<Pack>& packs) {
  const std::size_t parts = (cells.size() + most - 1) / most;
  for (std::size_t part = 0; part < parts; ++part) {
    const auto begin = static_cast<std::ptrdiff_t>(part * cells.size() / parts);
    const auto end = static_cast<std::ptrdiff_t>((part + 1) * cells.size() / parts);
    Pack pack;
    pack.members.assign(cells.begin() + begin, cells.begin() + end);
    pack.name = pack_name(pack.members);
    packs.push_back(std::move(pack));
  }
}

Json cell_to_json(const Cell& cell) {
  return {{"name", cell.name},    {"model", cell.model}, {"data", cell.data},
          {"layer", cell.layer},  {"seed", cell.seed},   {"lr", cell.lr},
          {"beta", cell.beta},    {"sign", cell.sign},   {"batch_size", cell.batch_size},
          {"epochs", cell.epochs}};
}

Json pack_to_json(const Pack& pack) {
  Json members = Json::array();
  for (const Cell& cell : pack.members) {
    members.push_back(cell.name);
  }
  return {{"name", pack.name}, {"members", members}};
}

bool has_integer(const json& object, const char* key) {
  return object.contains(key) && object[key].is_number_integer();
}

bool has_vectors_per_pass(const json& plan) {
  return has_integer(plan, "vectors_per_pass") ||
         (plan.contains("vectors_per_pass") && plan["vectors_per_pass"] == "auto");
}

bool has_plan_parts(const json& plan) {
  return plan.contains("settings") && plan["settings"].is_object() && plan.contains("cells") &&
         plan["cells"].is_array() && has_vectors_per_pass(plan);
}

json parse_stored_plan(const std::string& text, const std::string& path) {
  json plan = json::parse(text, nullptr, /*allow_exceptions=*/false);
  const bool has_schema = has_integer(plan, "schema_version");
  if (has_schema && plan["schema_version"] > kSweepPlanSchema) {
    throw UserError(
        fmt::format("{}: a newer bipo-dist wrote this plan (schema {}; this one knows {}); "
                    "continue the sweep with that version, or give another --out",
                    path, plan["schema_version"].dump(), kSweepPlanSchema));
  }
  if (!has_schema || plan["schema_version"] != kSweepPlanSchema || !has_plan_parts(plan)) {
    throw UserError(
        fmt::format("{}: not the plan of a sweep, or damaged; bipo-dist writes it once and never "
                    "changes it: restore it, or give another --out",
                    path));
  }
  return plan;
}

std::string value_text(const json& settings, const std::string& name) {
  return settings.contains(name) ? settings[name].dump() : "absent";
}

std::vector<std::string> setting_differences(const json& before, const json& after) {
  std::set<std::string> names;
  for (const json* settings : {&before, &after}) {
    for (const auto& [name, value] : settings->items()) {
      names.insert(name);
    }
  }
  std::vector<std::string> differences;
  for (const std::string& name : names) {
    const std::string old_text = value_text(before, name);
    const std::string new_text = value_text(after, name);
    if (old_text != new_text) {
      differences.push_back(fmt::format("{} was {}, now {}", name, old_text, new_text));
    }
  }
  return differences;
}

std::set<std::string> cell_names(const json& plan) {
  std::set<std::string> names;
  for (const json& cell : plan["cells"]) {
    const bool is_named = cell.contains("name") && cell["name"].is_string();
    names.insert(is_named ? cell["name"].get<std::string>() : cell.dump());
  }
  return names;
}

// "2 cells less: a, b", or nothing where `some` has no name that `others` lacks.
void append_surplus(const std::set<std::string>& some, const std::set<std::string>& others,
                    std::string_view direction, std::vector<std::string>& differences) {
  constexpr std::size_t kShown = 5;
  std::vector<std::string> surplus;
  std::set_difference(some.begin(), some.end(), others.begin(), others.end(),
                      std::back_inserter(surplus));
  if (surplus.empty()) {
    return;
  }
  const std::size_t count = surplus.size();
  if (count > kShown) {
    surplus.resize(kShown);
    surplus.push_back("...");
  }
  differences.push_back(fmt::format("{} {} {}: {}", count, count == 1 ? "cell" : "cells", direction,
                                    fmt::join(surplus, ", ")));
}

std::vector<std::string> plan_differences(const json& before, const json& after) {
  auto differences = setting_differences(before["settings"], after["settings"]);
  if (before["vectors_per_pass"] != after["vectors_per_pass"]) {
    differences.push_back(fmt::format("vectors_per_pass was {}, now {}",
                                      before["vectors_per_pass"].dump(),
                                      after["vectors_per_pass"].dump()));
  }
  const auto cells_before = cell_names(before);
  const auto cells_after = cell_names(after);
  append_surplus(cells_before, cells_after, "less", differences);
  append_surplus(cells_after, cells_before, "more", differences);
  if (differences.empty() && before != after) {
    differences.push_back("the same cells stand in another order or in other packs");
  }
  return differences;
}

std::string bytes_text(std::uint64_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 1024 && unit + 1 < std::size(kUnits)) {
    value /= 1024;
    ++unit;
  }
  return fmt::format("{:.{}f} {}", value, unit == 0 ? 0 : 1, kUnits[unit]);
}

std::string operations_text(double operations) {
  constexpr const char* kUnits[] = {"GFLOP", "TFLOP", "PFLOP", "EFLOP"};
  double value = operations / 1e9;
  std::size_t unit = 0;
  while (value >= 1000 && unit + 1 < std::size(kUnits)) {
    value /= 1000;
    ++unit;
  }
  return fmt::format("{:.1f} {}", value, kUnits[unit]);
}

std::string plan_line(const std::string& order, double operations, double share,
                      std::uint64_t bytes, const std::string& name) {
  return fmt::format("{:>7}  {:>12}  {:>7.2f}%  {:>10}  {}\n", order, operations_text(operations),
                     100 * share, bytes_text(bytes), name);
}

std::string plural(std::size_t count, std::string_view noun) {
  return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

void throw_if_any(const std::vector<std::string>& problems) {
  if (!problems.empty()) {
    throw UserError(fmt::format("{}", fmt::join(problems, "; ")));
  }
}

}  // namespace

std::vector<std::int64_t> expand_layers(const std::vector<LayerRange>& ranges,
                                        const std::string& model, std::int64_t blocks) {
  std::vector<std::string> problems;
  check_ranges(ranges, problems);
  auto layers = sort_values("--layers", list_layers(ranges, model, blocks, problems), problems);
  throw_if_any(problems);
  return layers;
}

std::vector<Cell> expand(const SweepAxes& axes, const std::vector<std::int64_t>& blocks) {
  std::vector<std::string> problems;
  const auto models = sort_names("--models", axes.models, problems);
  const auto data = sort_names("--data", axes.data, problems);
  check_ranges(axes.layers, problems);
  std::vector<std::vector<std::int64_t>> layers;  // of the models, as listed
  for (std::size_t m = 0; m < axes.models.size(); ++m) {
    layers.push_back(list_layers(axes.layers, axes.models[m].name, blocks.at(m), problems));
  }
  for (std::size_t m = 0; m < layers.size(); ++m) {
    std::vector<std::string> repeated;
    layers[m] = sort_values("--layers", std::move(layers[m]), repeated);
    if (m == 0) {
      problems.insert(problems.end(), repeated.begin(), repeated.end());
    }
  }
  const auto seeds = sort_axis("--seeds", axes.seeds, problems);
  const auto lrs = sort_axis("--lrs", axes.lrs, problems);
  const auto betas = sort_axis("--betas", axes.betas, problems);
  const auto signs = sort_axis("--signs", axes.signs, problems);
  const auto batch_sizes = sort_axis("--batch-sizes", axes.batch_sizes, problems);
  const auto epochs = sort_axis("--epochs", axes.epochs, problems);
  throw_if_any(problems);

  std::vector<Cell> cells{Cell()};
  const auto combine = [&](const auto& values, const auto& set) {
    std::vector<Cell> combined;
    for (const Cell& cell : cells) {
      for (const auto& value : values) {
        combined.push_back(cell);
        set(combined.back(), value);
      }
    }
    cells = std::move(combined);
  };
  std::vector<std::pair<std::string, std::int64_t>> model_layers;
  for (const std::size_t m : models) {
    for (const std::int64_t layer : layers[m]) {
      model_layers.emplace_back(axes.models[m].name, layer);
    }
  }
  combine(model_layers, [](Cell& cell, const auto& value) {
    cell.model = value.first;
    cell.layer = value.second;
  });
  combine(data, [&](Cell& cell, std::size_t place) { cell.data = axes.data[place].name; });
  combine(seeds, [](Cell& cell, std::uint64_t seed) { cell.seed = seed; });
  combine(lrs, [](Cell& cell, double lr) { cell.lr = lr; });
  combine(betas, [](Cell& cell, double beta) { cell.beta = beta; });
  combine(signs, [](Cell& cell, const std::string& sign) { cell.sign = sign; });
  combine(batch_sizes, [](Cell& cell, std::int64_t size) { cell.batch_size = size; });
  combine(epochs, [](Cell& cell, std::int64_t count) { cell.epochs = count; });
  std::stable_sort(cells.begin(), cells.end(), [](const Cell& a, const Cell& b) {
    return std::tie(a.model, a.data) < std::tie(b.model, b.data);
  });
  for (Cell& cell : cells) {
    cell.name = cell_name(cell);
  }
  return cells;
}

std::vector<Pack> make_packs(const std::vector<Cell>& cells,
                             const std::function<std::int64_t(const Cell&)>& most,
                             const CellCost& cost) {
  std::map<decltype(pack_key(cells.front())), std::vector<Cell>> alike;
  for (const Cell& cell : cells) {
    alike[pack_key(cell)].push_back(cell);
  }
  std::vector<Pack> packs;
  for (const auto& [key, members] : alike) {
    const std::int64_t limit = most(members.front());
    if (limit < 1) {
      throw BugError(fmt::format("make_packs: {} vectors per pass", limit));
    }
    append_equal_packs(members, std::min(members.size(), static_cast<std::size_t>(limit)), packs);
  }
  std::stable_sort(packs.begin(), packs.end(), [&](const Pack& a, const Pack& b) {
    return pack_cost(a, cost) > pack_cost(b, cost);
  });
  return packs;
}

double pack_cost(const Pack& pack, const CellCost& cost) {
  double sum = 0;
  for (const Cell& cell : pack.members) {
    sum += cost(cell);
  }
  return sum;
}

std::int64_t choose_vectors_per_pass(std::int64_t micro_batch_tokens, std::int64_t wanted_tokens) {
  if (micro_batch_tokens < 1) {
    throw BugError(
        fmt::format("choose_vectors_per_pass: micro-batches of {} tokens", micro_batch_tokens));
  }
  const bool has_remainder = wanted_tokens % micro_batch_tokens > 0;
  return std::max<std::int64_t>(1, wanted_tokens / micro_batch_tokens + (has_remainder ? 1 : 0));
}

std::string plan_to_json(const SweepPlan& plan) {
  Json json;
  json["schema_version"] = kSweepPlanSchema;
  json["settings"] = Json::parse(plan.settings);
  if (plan.vectors_per_pass) {
    json["vectors_per_pass"] = *plan.vectors_per_pass;
  } else {
    json["vectors_per_pass"] = "auto";
  }
  json["cells"] = Json::array();
  for (const Cell& cell : plan.cells) {
    json["cells"].push_back(cell_to_json(cell));
  }
  json["packs"] = Json::array();
  for (const Pack& pack : plan.packs) {
    json["packs"].push_back(pack_to_json(pack));
  }
  return json.dump(2) + '\n';
}

void check_same_plan(const std::string& stored, const std::string& now, const std::string& path) {
  const json before = parse_stored_plan(stored, path);
  const auto differences = plan_differences(before, json::parse(now));
  if (!differences.empty()) {
    throw UserError(fmt::format(
        "{}: the sweep in this directory has another plan ({}); a plan is fixed when its sweep "
        "first starts, and cells are not added later: give the settings of that time, or another "
        "--out",
        path, fmt::join(differences, "; ")));
  }
}

std::string describe_plan(const SweepPlan& plan, const CellCost& cost,
                          const std::function<std::uint64_t(const Cell&)>& bytes_of_cell) {
  double total = 0;
  std::uint64_t bytes = 0;
  for (const Cell& cell : plan.cells) {
    total += cost(cell);
    bytes += bytes_of_cell(cell);
  }
  std::string text =
      fmt::format("{} in {}, {} in all, {} of run files\n\n", plural(plan.cells.size(), "cell"),
                  plural(plan.packs.size(), "pack"), operations_text(total), bytes_text(bytes));
  text += fmt::format("{:>7}  {:>12}  {:>8}  {:>10}  {}\n", "order", "cost", "share", "disk",
                      "pack and its cells");
  for (std::size_t order = 0; order < plan.packs.size(); ++order) {
    const Pack& pack = plan.packs[order];
    std::uint64_t pack_bytes = 0;
    for (const Cell& cell : pack.members) {
      pack_bytes += bytes_of_cell(cell);
    }
    const double of_pack = pack_cost(pack, cost);
    text +=
        plan_line(fmt::format("{}", order + 1), of_pack, of_pack / total, pack_bytes, pack.name);
    if (pack.members.size() == 1) {
      continue;  // the pack's line is the cell's
    }
    for (const Cell& cell : pack.members) {
      text += plan_line("", cost(cell), cost(cell) / total, bytes_of_cell(cell), "  " + cell.name);
    }
  }
  return text;
}

}  // namespace bipo
