// Fuzzes the reader of config.json.
#include <cstddef>
#include <cstdint>
#include <stdexcept>

#include "collectives/foundation/errors.hpp"
#include "tests/fuzz/scratch_directory.hpp"
#include "trainer/model/architecture/config.hpp"

namespace {

// What the code that allocates by these numbers takes for granted.
void check_config(const bipo::ModelConfig& config) {
  const auto blocks = static_cast<std::size_t>(config.blocks);
  if (config.context < 1 || config.head_size < 2 || config.kv_heads < 1 ||
      config.heads % config.kv_heads != 0 || config.kind_of_block.size() != blocks) {
    throw std::logic_error("a configuration was accepted that is none");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto path = bipo::fuzz::input_file("config.json", data, size);
  try {
    check_config(bipo::read_model_config(path.parent_path()));
  } catch (const bipo::UserError&) {
    // The right answer to a bad file; anything else is a finding.
  }
  return 0;
}
