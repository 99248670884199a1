// Peak rates of common GPUs, from their makers' data sheets.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace bipo {

struct MachineEntry {
  std::string name;
  double memory_bytes = 0;
  double bf16_flops = 0;  // per second, dense, accumulated in fp32
  double fp32_flops = 0;  // per second, without TF32
  double memory_bytes_per_second = 0;
  double link_bytes_per_second = 0;  // to its neighbours, one direction
  std::string source;
};

const std::vector<MachineEntry>& machine_table();

std::vector<std::string> machine_names();

// Throws BugError unless `name` is one of machine_names().
const MachineEntry& machine_entry(const std::string& name);

}  // namespace bipo
