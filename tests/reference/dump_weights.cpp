// Prints a model's configuration and the weights that one tensor-parallel rank reads: a line of
// JSON for each, followed by the weight's bytes.
#include <ATen/core/Tensor.h>

#include <cstdlib>
#include <exception>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/reference/tensor_stream.hpp"
#include "trainer/model/model_files.hpp"
#include "trainer/model/sharding/names.hpp"
#include "trainer/model/sharding/sharding.hpp"

namespace {

using Json = nlohmann::json;

Json config_json(const bipo::ModelConfig& config) {
  return {{"architecture", config.architecture},
          {"hidden", config.hidden},
          {"blocks", config.blocks},
          {"heads", config.heads},
          {"kv_heads", config.kv_heads},
          {"head_size", config.head_size},
          {"intermediate", config.intermediate},
          {"vocabulary", config.vocabulary},
          {"context", config.context},
          {"norm_epsilon", config.norm_epsilon},
          {"rope_theta", config.rotary.front().theta},
          {"rope_divisors", config.rotary.front().divisors},
          {"tied_head", config.tied_head}};
}

class Dump {
 public:
  Dump(const bipo::ModelFiles& model, std::int64_t tp, std::int64_t rank)
      : model_(model), shard_(bipo::plan_shard(model.config, tp, rank)) {}

  void print(bipo::Role role, std::int64_t block = 0) const {
    const at::Tensor weight =
        model_.weights->read(role, block, bipo::slice_of(model_.config, shard_, role, block));
    bipo::testing::print_tensor(bipo::tensor_place(model_.config, role, block).name, weight);
  }

 private:
  const bipo::ModelFiles& model_;
  bipo::ShardPlan shard_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4 && argc != 5) {
    std::cerr << "usage: dump_weights MODEL TP RANK [ADAPTER]\n";
    return 2;
  }
  try {
    const bipo::ModelFiles model = bipo::open_model(argv[1], argc == 5 ? argv[4] : "");
    std::cout << config_json(model.config).dump() << '\n';
    const Dump dump(model, std::atoll(argv[2]), std::atoll(argv[3]));
    for (const bipo::Role role : bipo::outer_roles(model.config)) {
      dump.print(role);
    }
    for (std::int64_t block = 0; block < model.config.blocks; ++block) {
      for (const bipo::Role role : bipo::block_roles(model.config, block)) {
        dump.print(role, block);
      }
    }
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
