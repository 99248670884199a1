#include "launcher/bench/machine_peak.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CachingDeviceAllocator.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "trainer/model/operators/operators.hpp"
#include "trainer/model/sharding/sharding.hpp"

namespace bipo {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kFewestRounds = 5;
constexpr double kProductSeconds = 0.6;
constexpr double kCopySeconds = 0.3;
constexpr std::int64_t kCopyBytes = std::int64_t{128} << 20;

void wait_for(c10::Device device) {
  if (device.is_cuda()) {
    at::detail::getCUDAHooks().deviceSynchronize(device.index());
  }
}

template <typename Work>
double seconds_of(c10::Device device, const Work& work) {
  wait_for(device);
  const auto begin = Clock::now();
  work();
  wait_for(device);
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// One product with a weight, in place, and its best time.
struct Product {
  at::Tensor left;
  at::Tensor right;
  at::Tensor result;
  double best = std::numeric_limits<double>::infinity();

  double operations() const {
    return 2 * static_cast<double>(left.size(0) * left.size(1) * right.size(1));
  }
};

// Adds the products with `weight` [out, in], both ways.
void add_products(std::vector<Product>& products, const at::Tensor& weight, std::int64_t tokens) {
  const auto options = weight.options();
  products.push_back({at::randn({tokens, weight.size(1)}, options), weight.t(),
                      at::empty({tokens, weight.size(0)}, options)});
  products.push_back({at::randn({tokens, weight.size(0)}, options), weight,
                      at::empty({tokens, weight.size(1)}, options)});
}

std::vector<Product> products_of_block(const ModelConfig& config, const ShardPlan& shard,
                                       std::int64_t tokens, c10::ScalarType type,
                                       c10::Device device) {
  const std::int64_t width = shard.heads.size() * config.head_size;
  const std::int64_t kv_width = shard.kv_heads.size() * config.head_size;
  const std::vector<std::pair<std::int64_t, std::int64_t>> shapes = {
      {width + 2 * kv_width, config.hidden},
      {config.hidden, width},
      {2 * shard.intermediate.size(), config.hidden},
      {config.hidden, shard.intermediate.size()}};
  std::vector<Product> products;
  for (const auto& [rows, columns] : shapes) {
    const at::Tensor weight = make_frozen_weight(at::randn({rows, columns}), type, device).matrix;
    add_products(products, weight, tokens);
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
      products_of_block(config, plan_shard(config, tp, tp_rank), tokens, type, device);
  const auto begin = Clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(Clock::now() - begin).count(); };
  for (int round = 0; round < kFewestRounds || elapsed() < kProductSeconds; ++round) {
    for (Product& product : products) {
      const double seconds =
          seconds_of(device, [&] { at::mm_out(product.result, product.left, product.right); });
      product.best = std::min(product.best, seconds);
    }
  }
  double operations = 0;
  double seconds = 0;
  for (const Product& product : products) {
    operations += product.operations();
    seconds += product.best;
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
  if (!device.is_cuda()) {
    return peak_resident_bytes();
  }
  using c10::CachingAllocator::StatType;
  const auto statistics = c10::getDeviceAllocator(device.type())->getDeviceStats(device.index());
  return static_cast<std::uint64_t>(
      statistics.reserved_bytes[static_cast<std::size_t>(StatType::AGGREGATE)].peak);
}

void reset_peak_memory(c10::Device device) {
  if (device.is_cuda()) {
    c10::getDeviceAllocator(device.type())->resetPeakStats(device.index());
    return;
  }
  // If the kernel refuses, the peak is the program's since its start.
  constexpr int kPeakResidentSize = 5;
  std::ofstream("/proc/self/clear_refs") << kPeakResidentSize;
}

}  // namespace bipo
