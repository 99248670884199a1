// Fuzzes the reader of the adapter_config.json of LoRA adapters.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "tests/fuzz/scratch_directory.hpp"
#include "trainer/model/lora/lora_config.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::vector<std::string> modules = {"model.layers.1.self_attn.q_proj", "lm_head", ""};
  try {
    const bipo::LoraConfig config(bipo::fuzz::input_file("adapter_config.json", data, size),
                                  "model");
    for (const std::string& module : modules) {
      if (config.rank(module) <= 0 || !std::isfinite(config.scale(module))) {
        throw std::logic_error("a rank or a scale that no adapter has");
      }
      config.targets_module(module);
      config.targets_parameter(module + ".weight");
    }
    config.warnings(modules);
  } catch (const bipo::UserError&) {
    // The right answer to a bad file; anything else is a finding.
  }
  return 0;
}
