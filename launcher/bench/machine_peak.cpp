#include "launcher/bench/machine_peak.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "collectives/device.hpp"
#include "collectives/foundation/errors.hpp"
#include "trainer/model/operators/cpu_products.hpp"
#include "trainer/model/operators/operators.hpp"
#include "trainer/model/sharding/sharding.hpp"

namespace bipo {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kFewestRounds = 5;
constexpr double kProductSeconds = 0.6;
constexpr double kCopySeconds = 0.3;
constexpr std::int64_t kCopyBytes = std::int64_t{128} << 20;

template <typename Work>
double seconds_of(c10::Device device, const Work& work) {
  synchronize_device(device);
  const auto begin = Clock::now();
  work();
  synchronize_device(device);
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// A product with a weight, how often the model has it, its operations and its best time.
struct Product {
  std::function<void()> compute;
  double count = 1;
  double operations = 0;
  double best = std::numeric_limits<double>::infinity();
};

// Adds the products with `weight` [out, in], both ways, as the model computes them.
void add_products(std::vector<Product>& products, const at::Tensor& weight, double count,
                  std::int64_t tokens) {
  const bool tiled = is_tiled_weight(weight);
  const auto options = tiled ? weight.options().dtype(at::kFloat) : weight.options();
  const at::Tensor x = at::randn({tokens, weight.size(1)}, options);
  const at::Tensor g = at::randn({tokens, weight.size(0)}, options);
  at::Tensor out = at::empty_like(g);
  at::Tensor dx = at::empty_like(x);
  const double operations = 2 * static_cast<double>(tokens * weight.numel());
  if (tiled) {
    products.push_back({[=] { tiled_linear(x, weight, at::Tensor()); }, count, operations});
    products.push_back(
        {[=] { add_tiled_product(g, weight, dx, /*overwrite=*/true); }, count, operations});
  } else {
    products.push_back({[=]() mutable { at::mm_out(out, x, weight.t()); }, count, operations});
    products.push_back({[=]() mutable { at::mm_out(dx, g, weight); }, count, operations});
  }
}

using Shape = std::pair<std::int64_t, std::int64_t>;  // rows, columns

std::vector<Shape> weights_of_block(const ModelConfig& config, const ShardPlan& shard,
                                    std::int64_t block) {
  const AttentionKind& kind = attention_of(config, block);
  std::vector<Shape> shapes = {{2 * shard.intermediate.size(), config.hidden},
                               {config.hidden, shard.intermediate.size()}};
  if (kind.is_recurrent) {
    const DeltaNetSizes& delta = config.delta_net.value();
    const std::int64_t keys = delta_key_part(delta, shard).size() * delta.key_size;
    const std::int64_t values = shard.delta_values.size() * delta.value_size;
    shapes.push_back({2 * (keys + values + shard.delta_values.size()), config.hidden});
    shapes.push_back({config.hidden, values});
    return shapes;
  }
  const std::int64_t head_size = head_size_of(config, kind);
  const std::int64_t width = shard.heads.size() * head_size;
  const std::int64_t kv_width = kv_part(config, shard, kind).size() * head_size;
  shapes.push_back({width + (kind.values_are_keys ? 1 : 2) * kv_width, config.hidden});
  shapes.push_back({config.hidden, width});
  if (config.gated_attention) {
    shapes.push_back({width, config.hidden});
  }
  return shapes;
}

std::vector<Product> products_of_blocks(const ModelConfig& config, const ShardPlan& shard,
                                        std::int64_t tokens, c10::ScalarType type,
                                        c10::Device device) {
  std::map<Shape, double> counts;
  for (std::int64_t block = 0; block < config.blocks; ++block) {
    for (const Shape& shape : weights_of_block(config, shard, block)) {
      ++counts[shape];
    }
  }
  std::vector<Product> products;
  for (const auto& [shape, count] : counts) {
    const at::Tensor weight =
        make_frozen_weight(at::randn({shape.first, shape.second}), type, device).matrix;
    add_products(products, weight, count, tokens);
  }
  return products;
}

// Reads the line "VmHWM:   123 kB" of the process's status.
std::uint64_t peak_resident_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string key; status >> key;) {
    std::uint64_t kibibytes = 0;
    if (key == "VmHWM:" && status >> kibibytes) {
      return kibibytes * 1024;
    }
    status.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  throw EnvironmentError("/proc/self/status: no VmHWM");
}

}  // namespace

double measure_product_rate(const ModelConfig& config, std::int64_t tp, std::int64_t tp_rank,
                            std::int64_t tokens, c10::ScalarType type, c10::Device device) {
  const at::NoGradGuard no_grad;
  std::vector<Product> products =
      products_of_blocks(config, plan_shard(config, tp, tp_rank), tokens, type, device);
  const auto begin = Clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(Clock::now() - begin).count(); };
  for (int round = 0; round < kFewestRounds || elapsed() < kProductSeconds; ++round) {
    for (Product& product : products) {
      const double seconds = seconds_of(device, product.compute);
      product.best = std::min(product.best, seconds);
    }
  }
  double operations = 0;
  double seconds = 0;
  for (const Product& product : products) {
    operations += product.count * product.operations;
    seconds += product.count * product.best;
  }
  return operations / seconds;
}

double measure_copy_rate(c10::Device device) {
  const auto options = at::TensorOptions().dtype(at::kByte).device(device);
  const at::Tensor from = at::ones({kCopyBytes}, options);
  const at::Tensor to = at::empty({kCopyBytes}, options);
  double best = std::numeric_limits<double>::infinity();
  const auto begin = Clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(Clock::now() - begin).count(); };
  for (int round = 0; round < kFewestRounds || elapsed() < kCopySeconds; ++round) {
    best = std::min(best, seconds_of(device, [&] { to.copy_(from); }));
  }
  return 2 * static_cast<double>(kCopyBytes) / best;
}

std::uint64_t peak_memory_bytes(c10::Device device) {
  return device.is_cpu() ? peak_resident_bytes() : peak_device_memory(device);
}

void reset_peak_memory(c10::Device device) {
  if (!device.is_cpu()) {
    reset_peak_device_memory(device);
    return;
  }
  // If the kernel refuses, the peak is the program's since its start.
  constexpr int kPeakResidentSize = 5;
  std::ofstream("/proc/self/clear_refs") << kPeakResidentSize;
}

}  // namespace bipo
