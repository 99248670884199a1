// Prints a model's configuration and the weights that one tensor-parallel rank reads: a line of
// JSON for each, followed by the weight's bytes.  For the rank "all" those of every rank of 1 to TP
// ranks, with "TP/RANK/" before their names.
#include <ATen/core/Tensor.h>

#include <cstdlib>
#include <exception>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

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
  Dump(const bipo::ModelFiles& model, std::int64_t tp, std::int64_t rank, std::string prefix)
      : model_(model),
        shard_(bipo::plan_shard(model.config, tp, rank)),
        prefix_(std::move(prefix)) {}

  void print() const {
    for (const bipo::Role role : bipo::outer_roles(model_.config)) {
      print(role, 0);
    }
    for (std::int64_t block = 0; block < model_.config.blocks; ++block) {
      for (const bipo::Role role : bipo::block_roles(model_.config, block)) {
        print(role, block);
      }
    }
  }

 private:
  void print(bipo::Role role, std::int64_t block) const {
    const at::Tensor weight =
        model_.weights->read(role, block, bipo::slice_of(model_.config, shard_, role, block));
    bipo::testing::print_tensor(prefix_ + bipo::tensor_place(model_.config, role, block).name,
                                weight);
  }

  const bipo::ModelFiles& model_;
  bipo::ShardPlan shard_;
  std::string prefix_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4 && argc != 5) {
    std::cerr << "usage: dump_weights MODEL TP RANK|all [ADAPTER]\n";
    return 2;
  }
  try {
    const bipo::ModelFiles model = bipo::open_model(argv[1], argc == 5 ? argv[4] : "");
    std::cout << config_json(model.config).dump() << '\n';
    const std::int64_t ranks = std::atoll(argv[2]);
    if (std::string(argv[3]) != "all") {
      Dump(model, ranks, std::atoll(argv[3]), "").print();
      return 0;
    }
    for (std::int64_t tp = 1; tp <= ranks; ++tp) {
      for (std::int64_t rank = 0; rank < tp; ++rank) {
        Dump(model, tp, rank, std::to_string(tp) + "/" + std::to_string(rank) + "/").print();
      }
    }
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
