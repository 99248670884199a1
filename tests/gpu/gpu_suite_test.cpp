// The trainer on a GPU, with libtorch's kernels and with our own: the CPU's numbers.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "collectives/device.hpp"
#include "tests/device/device_scenario.hpp"
#include "tests/support/graphs_in_use.hpp"
#include "tests/support/training_world.hpp"
#include "trainer/model/device_kernels/kernel_runner.hpp"

namespace bipo::testing {
namespace {

const at::Device kGpu(at::kCUDA, 0);
constexpr KernelChoice kChoices[] = {KernelChoice::kComposed, KernelChoice::kCompiled};

// Float32 sums in another order; float64 leaves room for what six steps make of its roundoff.
double tolerance_of(at::ScalarType type) {
  return type == at::kDouble ? 1e-6 : 1e-4;
}

class GpuValues : public ::testing::TestWithParam<ModelCase> {
 protected:
  void SetUp() override {
    ASSERT_GT(at::detail::getCUDAHooks().deviceCount(), 0)
        << "no CUDA device: these cases must only be run where one is (label gpu)";
    at::set_num_threads(1);
    select_device(kGpu);
  }
};

TEST_P(GpuValues, AreTheCpusKeptOrNot) {
  const ModelConfig config = GetParam().config();
  const RandomWeights weights(config);
  const Ranks ranks = lone_ranks();
  const auto on = [&](at::Device device, bool keeps_activations) {
    return run_everything({config, GetParam().type, device, keeps_activations}, weights, ranks);
  };
  const Values cpu = on(at::kCPU, true);
  for (const KernelChoice choice : kChoices) {
    SCOPED_TRACE(choose_kernels(choice, kGpu));
    for (const bool keeps_activations : {true, false}) {
      expect_near(on(kGpu, keeps_activations), cpu, tolerance_of(GetParam().type));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, GpuValues, ::testing::ValuesIn(all_model_cases()), name_of_case);

TEST(GpuBfloat16, GradientsAreAsFarFromFloat64AsTheCpus) {
  ASSERT_GT(at::detail::getCUDAHooks().deviceCount(), 0)
      << "no CUDA device: this case must only be run where one is (label gpu)";
  at::set_num_threads(1);
  select_device(kGpu);
  for (const auto& [name, config] :
       {std::pair("Llama", llama_config()), std::pair("Gemma", gemma_config()),
        std::pair("flash", flash_config()),
        std::pair("flash with windows", flash_window_config())}) {
    for (const KernelChoice choice : kChoices) {
      const std::string kernels = choose_kernels(choice, kGpu);
      const GradientErrors errors = gradient_errors(config, kGpu);
      std::printf(
          "%s: gradient's distance from float64 in roundoffs of bfloat16: CPU %.1f, GPU %.1f "
          "(%s)\n",
          name, errors.cpu, errors.device, kernels.c_str());
      EXPECT_LT(errors.device, 1.5 * errors.cpu) << name << ", " << kernels;
    }
  }
}

// The parts of a query's gradient are added in a fixed order.
TEST(GpuFlash, GradientsRepeatToTheBit) {
  ASSERT_GT(at::detail::getCUDAHooks().deviceCount(), 0)
      << "no CUDA device: this case must only be run where one is (label gpu)";
  select_device(kGpu);
  choose_kernels(KernelChoice::kCompiled, kGpu);
  ASSERT_GT(largest_flash_head(kGpu), 0) << "a GPU of compute capability below 8.0";
  choose_attention(AttentionChoice::kFlash, kGpu, at::kBFloat16);
  for (const ModelConfig& config : {flash_config(), flash_window_config()}) {
    const RandomWeights weights(config);
    const auto gradient = [&] {
      return first_gradient({config, at::kBFloat16, kGpu, true}, weights, 1);
    };
    const std::vector<double> first = gradient();
    for (int i = 0; i < 4; ++i) {
      EXPECT_EQ(gradient(), first);
    }
  }
  choose_attention(AttentionChoice::kAuto, kGpu, at::kBFloat16);
}

TEST(GpuGraphs, LeaveTheBitsOfTheirWork) {
  ASSERT_GT(at::detail::getCUDAHooks().deviceCount(), 0)
      << "no CUDA device: this case must only be run where one is (label gpu)";
  at::set_num_threads(1);
  select_device(kGpu);
  choose_kernels(KernelChoice::kCompiled, kGpu);
  const Ranks ranks = lone_ranks();
  for (const auto& [config, type] :
       {std::pair(llama_config(), at::kDouble), std::pair(gemma_config(), at::kFloat),
        std::pair(flash_window_config(), at::kBFloat16)}) {
    const RandomWeights weights(config);
    const Scenario scenario{config, type, kGpu, true};
    Values unrecorded;
    {
      const GraphsInUse graphs(kGpu, /*refuses=*/true);
      unrecorded = train_objectives(scenario, weights, ranks);
      EXPECT_GT(graphs.records(), 0);
    }
    const GraphsInUse graphs(kGpu);
    EXPECT_EQ(train_objectives(scenario, weights, ranks), unrecorded) << c10::toString(type);
    EXPECT_GT(graphs.graphs(), 0);
    EXPECT_EQ(graphs.graphs(), graphs.records());
    if (type != at::kBFloat16) {
      expect_near(unrecorded, train_objectives({config, type, at::kCPU, true}, weights, ranks),
                  tolerance_of(type));
    }
  }
}

}  // namespace
}  // namespace bipo::testing
