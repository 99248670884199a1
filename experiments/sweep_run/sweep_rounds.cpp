#include "experiments/sweep_run/sweep_rounds.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "trainer/intervention/layers.hpp"

namespace bipo {

std::vector<RoundPart> plan_round(const std::vector<LayerNeed>& needs, std::uint64_t budget) {
  std::vector<RoundPart> parts;
  std::uint64_t used = 0;
  for (const LayerNeed& need : needs) {
    auto part = std::find_if(parts.begin(), parts.end(), [&](const RoundPart& candidate) {
      return candidate.inputs == need.inputs;
    });
    const bool is_there = part != parts.end() &&
                          std::binary_search(part->layers.begin(), part->layers.end(), need.layer);
    if (is_there) {
      continue;
    }
    const bool fits = used <= budget && need.bytes <= budget - used;
    if (!fits && !parts.empty()) {
      continue;
    }
    used += need.bytes;
    if (part == parts.end()) {
      part = parts.insert(parts.end(), RoundPart{need.inputs, {}});
    }
    part->layers.insert(std::lower_bound(part->layers.begin(), part->layers.end(), need.layer),
                        need.layer);
  }
  return parts;
}

std::string layers_of_cells(const RoundPart& part, const std::vector<Cell>& cells) {
  constexpr std::size_t kShown = 6;
  std::vector<std::string> layers;
  for (const Cell& cell : cells) {
    const std::string text = to_string(steered_layers(cell), "+");
    if (std::binary_search(part.layers.begin(), part.layers.end(), cell.layer) &&
        std::find(layers.begin(), layers.end(), text) == layers.end()) {
      layers.push_back(text);
    }
  }
  const std::size_t count = layers.size();
  layers.resize(std::min(count, kShown));
  return fmt::format("layer{} {}{}", count == 1 ? "" : "s", fmt::join(layers, ", "),
                     count > kShown ? fmt::format(" and {} more", count - kShown) : "");
}

std::string round_to_text(const std::vector<RoundPart>& parts) {
  nlohmann::json json = nlohmann::json::array();
  for (const RoundPart& part : parts) {
    json.push_back({{"inputs", part.inputs}, {"layers", part.layers}});
  }
  return json.dump();
}

std::vector<RoundPart> round_from_text(const std::string& text) {
  std::vector<RoundPart> parts;
  for (const auto& part : nlohmann::json::parse(text)) {
    parts.push_back(
        {part.at("inputs").get<std::size_t>(), part.at("layers").get<std::vector<std::int64_t>>()});
  }
  return parts;
}

}  // namespace bipo
