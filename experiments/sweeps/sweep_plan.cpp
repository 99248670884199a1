// The plan of a sweep: its cells, and the packs in which they train.
#include "experiments/sweeps/sweep_plan.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>
#include <span>
#include <string_view>
#include <tuple>
#include <utility>

#include "collectives/foundation/content_hash.hpp"
#include "collectives/foundation/errors.hpp"
#include "trainer/objective/objective.hpp"

namespace bipo {
namespace {

std::string range_text(const LayerRange& range) {
  if (!range.joint.empty()) {
    return fmt::format("{}", fmt::join(range.joint, "+"));
  }
  if (range.first == range.last) {
    return fmt::format("{}", range.first);
  }
  return fmt::format("{}:{}:{}", range.first, range.last, range.step);
}

// Appends to `layers` the layers of `range` that a model of `blocks` blocks has, and the others to
// `missing`, as text.  Missing layers stay a range: a mistyped one may hold more than fit in
// memory.
void append_layers(const LayerRange& range, std::int64_t blocks, std::vector<SteeredLayers>& layers,
                   std::vector<std::string>& missing) {
  if (range.first < 0 || (!range.joint.empty() && range.joint.back() >= blocks)) {
    missing.push_back(range_text(range));
    return;
  }
  if (!range.joint.empty()) {
    layers.push_back(SteeredLayers(range.joint));
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
    layers.emplace_back(layer);
  }
}

// Reports ranges that are empty for every model.
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

std::vector<SteeredLayers> list_layers(const std::vector<LayerRange>& ranges,
                                       const std::string& model, std::int64_t blocks,
                                       std::vector<std::string>& problems) {
  std::vector<SteeredLayers> layers;
  if (ranges.empty()) {
    for (std::int64_t layer = 0; layer < blocks; ++layer) {
      layers.emplace_back(layer);
    }
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

// Sorts them by their lowest layers, then by the others.
std::vector<SteeredLayers> sort_layers(std::vector<SteeredLayers> layers,
                                       std::vector<std::string>& problems) {
  std::sort(layers.begin(), layers.end(),
            [](const SteeredLayers& a, const SteeredLayers& b) { return a.blocks() < b.blocks(); });
  std::vector<std::string> repeated;
  for (std::size_t i = 1; i < layers.size(); ++i) {
    const std::string text = to_string(layers[i], "+");
    if (layers[i] == layers[i - 1] && (repeated.empty() || repeated.back() != text)) {
      repeated.push_back(text);
    }
  }
  if (!repeated.empty()) {
    problems.push_back(fmt::format("--layers: {} given more than once; give each value once",
                                   fmt::join(repeated, ", ")));
  }
  return layers;
}

template <typename Value>
std::vector<Value> sort_axis(std::string_view option, const std::vector<Value>& values,
                             std::vector<std::string>& problems) {
  if (values.empty()) {
    problems.push_back(fmt::format("{}: no value; give at least one", option));
  }
  return sort_values(option, values, problems);
}

// Reports an axis without values, and values with the same name.
template <typename Named>
void check_names(std::string_view option, const std::vector<Named>& values,
                 std::vector<std::string>& problems) {
  std::vector<std::string> names;
  for (const Named& value : values) {
    names.push_back(value.name);
  }
  sort_axis(option, names, problems);
}

// Leaves out what names of files should not hold: "max:3%" becomes max3pct, "0.5,1" 0.5+1.
std::string name_part(const std::string& value) {
  std::string part;
  for (const char c : value) {
    if (c == '%') {
      part += "pct";
    } else if (c != ':') {
      part += c == ',' ? '+' : c;
    }
  }
  return part;
}

bool is_axis(const std::vector<Cell>& cells, std::string Cell::*setting) {
  return std::any_of(cells.begin(), cells.end(), [usual = Cell(), setting](const Cell& cell) {
    return cell.*setting != usual.*setting;
  });
}

std::string layer_part(const Cell& cell) {
  return cell.joint_layers.empty() ? fmt::format("{}", cell.layer) : cell.joint_layers;
}

std::string cell_name(const Cell& cell) {
  std::string name = fmt::format("{}-{}-layer{}-seed{}-lr{}-beta{}-sign{}-batch{}-epochs{}",
                                 cell.model, cell.data, layer_part(cell), cell.seed, cell.lr,
                                 cell.beta, cell.sign, cell.batch_size, cell.epochs);
  const Cell usual;
  const bool has_other_objective = cell.objective != usual.objective;
  if (has_other_objective) {
    name += fmt::format("-objective{}", cell.objective);
  }
  if (cell.label_smoothing != 0) {
    name += fmt::format("-smoothing{}", cell.label_smoothing);
  }
  if (cell.objective == to_string(ObjectiveKind::kSimpo)) {
    name += fmt::format("-gamma{}", cell.simpo_gamma);
  }
  if (has_other_objective || cell.reduction != usual.reduction) {
    name += fmt::format("-reduction{}", cell.reduction);
  }
  if (cell.positions != usual.positions) {
    name += "-positions";
    std::copy_if(cell.positions.begin(), cell.positions.end(), std::back_inserter(name),
                 [](char letter) { return letter != ':' && letter != ','; });
  }
  for (const auto& [axis, setting] : kSettingAxes) {
    if (cell.*setting != usual.*setting && setting != &Cell::joint_layers) {
      name += fmt::format("-{}{}", axis, name_part(cell.*setting));
    }
  }
  return name;
}

// Takes from the cell what its objective does not use.
void settle_objective(Cell& cell) {
  const ObjectiveKind kind = parse_objective(cell.objective);
  if (kind != ObjectiveKind::kSimpo) {
    cell.simpo_gamma = Cell().simpo_gamma;
  }
  if (!has_two_directions(kind)) {
    cell.sign = "plus";
  }
  if (projects_out(kind)) {
    cell.sign = "both";
  }
  cell.reduction =
      to_string(cell.reduction == "auto" ? own_reduction(kind) : parse_reduction(cell.reduction));
}

// Leaves the first of cells with the same name.
void drop_repeated(std::vector<Cell>& cells) {
  std::set<std::string> names;
  std::erase_if(cells, [&](const Cell& cell) { return !names.insert(cell.name).second; });
}

// Returns what members of a pack have in common.
std::tuple<std::string, std::string, std::int64_t, std::string, std::int64_t, std::int64_t>
pack_key(const Cell& cell) {
  return {cell.model, cell.data, cell.layer, cell.joint_layers, cell.batch_size, cell.epochs};
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
  return fmt::format("{}-{}-layer{}-{}cells-{:016x}", first.model, first.data, layer_part(first),
                     members.size(), hash.value());
}

// Makes packs whose sizes differ by one at most: a small last pack would waste its passes.
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

// Divides by `base` until the value is below it or the units end.
std::string scaled_text(double value, double base, std::span<const char* const> units) {
  std::size_t unit = 0;
  while (value >= base && unit + 1 < units.size()) {
    value /= base;
    ++unit;
  }
  const bool is_whole = std::string_view(units[unit]) == "B";
  return fmt::format("{:.{}f} {}", value, is_whole ? 0 : 1, units[unit]);
}

std::string bytes_text(std::uint64_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  return scaled_text(static_cast<double>(bytes), 1024, kUnits);
}

std::string operations_text(double operations) {
  constexpr const char* kUnits[] = {"GFLOP", "TFLOP", "PFLOP", "EFLOP"};
  return scaled_text(operations / 1e9, 1000, kUnits);
}

std::string plan_line(const std::string& order, double operations, double share,
                      std::uint64_t bytes, const std::string& name) {
  return fmt::format("{:>7}  {:>12}  {:>7.2f}%  {:>10}  {}\n", order, operations_text(operations),
                     100 * share, bytes_text(bytes), name);
}

std::string plural(std::size_t count, std::string_view noun) {
  return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

template <typename Value>
Value sum_of(const std::vector<Cell>& cells, const std::function<Value(const Cell&)>& value) {
  return std::accumulate(cells.begin(), cells.end(), Value{},
                         [&](Value sum, const Cell& cell) { return sum + value(cell); });
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
  std::vector<std::int64_t> layers;
  for (const SteeredLayers& value :
       sort_layers(list_layers(ranges, model, blocks, problems), problems)) {
    if (value.count() > 1) {
      problems.push_back(fmt::format(
          "--layers {}: layers with + between them are trained jointly, and here is no training",
          to_string(value, "+")));
    }
    layers.push_back(value.lowest());
  }
  throw_if_any(problems);
  return layers;
}

SteeredLayers steered_layers(const Cell& cell) {
  if (cell.joint_layers.empty()) {
    return cell.layer;
  }
  std::vector<std::int64_t> layers;
  const char* at = cell.joint_layers.data();
  const char* const end = at + cell.joint_layers.size();
  bool is_list = true;
  while (is_list && at <= end) {
    std::int64_t layer = -1;
    const auto [stop, error] = std::from_chars(at, end, layer);
    is_list = error == std::errc() && (stop == end || *stop == '+') &&
              layer > (layers.empty() ? cell.layer - 1 : layers.back());
    layers.push_back(layer);
    at = stop + 1;
  }
  if (!is_list || layers.size() < 2 || layers.front() != cell.layer) {
    throw UserError(
        fmt::format("the cell {} has the layer {} and the joint layers '{}', which do "
                    "not ascend from it",
                    cell.name, cell.layer, cell.joint_layers));
  }
  return SteeredLayers(std::move(layers));
}

std::vector<Cell> expand(const SweepAxes& axes, const std::vector<std::int64_t>& blocks) {
  std::vector<std::string> problems;
  check_names("--models", axes.models, problems);
  check_names("--data", axes.data, problems);
  check_ranges(axes.layers, problems);
  std::vector<std::pair<std::string, SteeredLayers>> model_layers;
  std::vector<std::string> repeated;  // the same for every model
  for (std::size_t m = 0; m < axes.models.size(); ++m) {
    const std::string& model = axes.models[m].name;
    repeated.clear();
    for (const SteeredLayers& layers :
         sort_layers(list_layers(axes.layers, model, blocks.at(m), problems), repeated)) {
      model_layers.emplace_back(model, layers);
    }
  }
  problems.insert(problems.end(), repeated.begin(), repeated.end());
  const auto seeds = sort_axis("--seeds", axes.seeds, problems);
  const auto lrs = sort_axis("--lrs", axes.lrs, problems);
  const auto betas = sort_axis("--betas", axes.betas, problems);
  const auto objectives = sort_axis("--objectives", axes.objectives, problems);
  const auto smoothings = sort_axis("--label-smoothings", axes.label_smoothings, problems);
  const auto gammas = sort_axis("--simpo-gammas", axes.simpo_gammas, problems);
  const auto reductions = sort_axis("--reductions", axes.reductions, problems);
  const auto positions = sort_axis("--positions", axes.positions, problems);
  const auto signs = sort_axis("--signs", axes.signs, problems);
  const auto batch_sizes = sort_axis("--batch-sizes", axes.batch_sizes, problems);
  const auto epochs = sort_axis("--epochs", axes.epochs, problems);
  std::vector<std::pair<std::string Cell::*, std::vector<std::string>>> settings = {
      {&Cell::norm, sort_values("--norms", axes.norms, problems)},
      {&Cell::schedule, sort_values("--schedules", axes.schedules, problems)},
      {&Cell::init, sort_values("--inits", axes.inits, problems)},
      {&Cell::factors, sort_values("--factors", axes.factors, problems)}};
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
  combine(model_layers, [](Cell& cell, const auto& value) {
    cell.model = value.first;
    cell.layer = value.second.lowest();
    cell.joint_layers = value.second.count() > 1 ? to_string(value.second, "+") : "";
  });
  combine(axes.data, [](Cell& cell, const NamedData& data) { cell.data = data.name; });
  combine(seeds, [](Cell& cell, std::uint64_t seed) { cell.seed = seed; });
  combine(lrs, [](Cell& cell, double lr) { cell.lr = lr; });
  combine(betas, [](Cell& cell, double beta) { cell.beta = beta; });
  combine(objectives, [](Cell& cell, const std::string& name) { cell.objective = name; });
  combine(smoothings, [](Cell& cell, double smoothing) { cell.label_smoothing = smoothing; });
  combine(gammas, [](Cell& cell, double gamma) { cell.simpo_gamma = gamma; });
  combine(reductions, [](Cell& cell, const std::string& name) { cell.reduction = name; });
  combine(positions, [](Cell& cell, const std::string& text) { cell.positions = text; });
  combine(signs, [](Cell& cell, const std::string& sign) { cell.sign = sign; });
  combine(batch_sizes, [](Cell& cell, std::int64_t size) { cell.batch_size = size; });
  combine(epochs, [](Cell& cell, std::int64_t count) { cell.epochs = count; });
  for (const auto& [member, values] : settings) {
    if (!values.empty()) {
      combine(values,
              [member = member](Cell& cell, const std::string& value) { cell.*member = value; });
    }
  }
  std::stable_sort(cells.begin(), cells.end(), [](const Cell& a, const Cell& b) {
    return std::tie(a.model, a.data) < std::tie(b.model, b.data);
  });
  for (Cell& cell : cells) {
    settle_objective(cell);
    cell.name = cell_name(cell);
  }
  drop_repeated(cells);
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
  sort_longest_first(packs, cost);
  return packs;
}

void sort_longest_first(std::vector<Pack>& packs, const CellCost& cost) {
  std::stable_sort(packs.begin(), packs.end(), [&](const Pack& a, const Pack& b) {
    return pack_cost(a, cost) > pack_cost(b, cost);
  });
}

double pack_cost(const Pack& pack, const CellCost& cost) {
  return sum_of(pack.members, cost);
}

bool is_well_formed(const Pack& pack) {
  return pack.name == pack_name(pack.members) &&
         std::all_of(pack.members.begin(), pack.members.end(), [&](const Cell& cell) {
           return pack_key(cell) == pack_key(pack.members.front());
         });
}

std::int64_t choose_vectors_per_pass(std::int64_t micro_batch_tokens, std::int64_t wanted_tokens) {
  if (micro_batch_tokens < 1) {
    throw BugError(
        fmt::format("choose_vectors_per_pass: micro-batches of {} tokens", micro_batch_tokens));
  }
  const bool has_remainder = wanted_tokens % micro_batch_tokens > 0;
  return std::max<std::int64_t>(1, wanted_tokens / micro_batch_tokens + (has_remainder ? 1 : 0));
}

std::string describe_plan(const SweepPlan& plan, const CellCost& cost,
                          const std::function<std::uint64_t(const Cell&)>& bytes_of_cell) {
  const double total = sum_of(plan.cells, cost);
  const std::uint64_t bytes = sum_of(plan.cells, bytes_of_cell);
  std::string text =
      fmt::format("{} in {}, {} in all, {} of run files\n\n", plural(plan.cells.size(), "cell"),
                  plural(plan.packs.size(), "pack"), operations_text(total), bytes_text(bytes));
  text += fmt::format("{:>7}  {:>12}  {:>8}  {:>10}  {}\n", "order", "cost", "share", "disk",
                      "pack and its cells");
  for (std::size_t order = 0; order < plan.packs.size(); ++order) {
    const Pack& pack = plan.packs[order];
    const std::uint64_t pack_bytes = sum_of(pack.members, bytes_of_cell);
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

nlohmann::ordered_json plan_as_json(
    const SweepPlan& plan, const CellCost& cost,
    const std::function<std::uint64_t(const Cell&)>& bytes_of_cell) {
  using Json = nlohmann::ordered_json;
  const double total = sum_of(plan.cells, cost);
  Json packs = Json::array();
  for (std::size_t order = 0; order < plan.packs.size(); ++order) {
    const Pack& pack = plan.packs[order];
    Json cells = Json::array();
    for (const Cell& cell : pack.members) {
      cells.push_back({{"name", cell.name},
                       {"model", cell.model},
                       {"data", cell.data},
                       {"layer", cell.layer},
                       {"seed", cell.seed},
                       {"lr", cell.lr},
                       {"beta", cell.beta},
                       {"sign", cell.sign},
                       {"batch_size", cell.batch_size},
                       {"epochs", cell.epochs},
                       {"objective", cell.objective},
                       {"label_smoothing", cell.label_smoothing},
                       {"simpo_gamma", cell.simpo_gamma},
                       {"reduction", cell.reduction},
                       {"steered_positions", cell.positions},
                       {"operations", cost(cell)},
                       {"share", cost(cell) / total},
                       {"disk_bytes", bytes_of_cell(cell)}});
      for (const auto& [name, member] : kSettingAxes) {
        if (is_axis(plan.cells, member)) {
          cells.back()[name] = cell.*member;
        }
      }
    }
    const double of_pack = pack_cost(pack, cost);
    packs.push_back({{"order", order + 1},
                     {"name", pack.name},
                     {"operations", of_pack},
                     {"share", of_pack / total},
                     {"disk_bytes", sum_of(pack.members, bytes_of_cell)},
                     {"cells", cells}});
  }
  return {{"cells", plan.cells.size()},
          {"operations", total},
          {"disk_bytes", sum_of(plan.cells, bytes_of_cell)},
          {"packs", packs}};
}

}  // namespace bipo
