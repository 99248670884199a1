#include "trainer/cost/machine_table.hpp"

#include <fmt/format.h>

#include "collectives/foundation/errors.hpp"

namespace bipo {

const std::vector<MachineEntry>& machine_table() {
  // Links: half of NVLink's figure for both directions; PCIe 4.0 x16 without NVLink.
  static const std::vector<MachineEntry> table = {
      {"a100-40", 40e9, 312e12, 19.5e12, 1.555e12, 300e9,
       "NVIDIA A100 Tensor Core GPU data sheet, 40 GB SXM"},
      {"a100-80", 80e9, 312e12, 19.5e12, 2.039e12, 300e9,
       "NVIDIA A100 Tensor Core GPU data sheet, 80 GB SXM"},
      {"h100", 80e9, 989e12, 67e12, 3.35e12, 450e9,
       "NVIDIA H100 Tensor Core GPU data sheet, SXM; tensor figures halved: stated with sparsity"},
      {"h200", 141e9, 989e12, 67e12, 4.8e12, 450e9,
       "NVIDIA H200 Tensor Core GPU data sheet, SXM; tensor figures halved: stated with sparsity"},
      {"l4", 24e9, 121e12, 30.3e12, 300e9, 32e9,
       "NVIDIA L4 Tensor Core GPU data sheet; tensor figures halved: stated with sparsity"},
      {"l40s", 48e9, 362e12, 91.6e12, 864e9, 32e9, "NVIDIA L40S GPU data sheet"},
      {"rtx-4090", 24e9, 165.2e12, 82.6e12, 1.008e12, 32e9,
       "NVIDIA Ada GPU Architecture white paper, GeForce RTX 4090"},
  };
  return table;
}

std::vector<std::string> machine_names() {
  std::vector<std::string> names;
  for (const MachineEntry& entry : machine_table()) {
    names.push_back(entry.name);
  }
  return names;
}

const MachineEntry& machine_entry(const std::string& name) {
  for (const MachineEntry& entry : machine_table()) {
    if (entry.name == name) {
      return entry;
    }
  }
  throw BugError(fmt::format("machine table: no entry '{}'", name));
}

}  // namespace bipo
