#include "experiments/job/computation.hpp"

#include <ATen/Context.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "collectives/device.hpp"
#include "collectives/device_graph.hpp"
#include "collectives/foundation/errors.hpp"
#include "trainer/model/decoder/decoder.hpp"
#include "trainer/model/device_kernels/kernel_runner.hpp"
#include "trainer/model/operators/cpu_memory.hpp"
#include "trainer/model/operators/operators.hpp"

namespace bipo {
namespace {

// More ranks or threads than any machine has; a larger number is a typing error and would not fit
// an int.
constexpr std::int64_t kMostRanks = 1 << 20;

void check_counts(const MachineOptions& options) {
  const auto check = [](const char* name, std::int64_t value) {
    if (value > kMostRanks) {
      throw UserError(fmt::format("--{} {}: at most {}", name, value, kMostRanks));
    }
  };
  check("tp", options.tp);
  check("dp", options.dp.value_or(1));
  check("threads", options.threads.value_or(1));
}

// Must be called before a device is used: cuBLAS reads its variable then.
void use_deterministic_kernels() {
  setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
  at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
  // It would fill every new tensor with NaN, a kernel each, though all of them are written.
  at::globalContext().setDeterministicFillUninitializedMemory(false);
}

// Products of float32 are products of float32 on a GPU, whatever the environment says: images of
// containers set TORCH_ALLOW_TF32_CUBLAS_OVERRIDE.  Products of bfloat16 promise sums in float32,
// also where a GPU splits them.
void keep_product_precision() {
  at::globalContext().setAllowTF32CuBLAS(false);
  at::globalContext().setAllowTF32CuDNN(false);
  at::globalContext().setAllowBF16ReductionCuBLAS(false);
}

KernelChoice kernel_choice(Kernels kernels) {
  return kernels == Kernels::kAuto       ? KernelChoice::kAuto
         : kernels == Kernels::kComposed ? KernelChoice::kComposed
                                         : KernelChoice::kCompiled;
}

AttentionChoice attention_choice(Attention attention) {
  return attention == Attention::kAuto       ? AttentionChoice::kAuto
         : attention == Attention::kComposed ? AttentionChoice::kComposed
                                             : AttentionChoice::kFlash;
}

}  // namespace

Topology arrange_ranks(const MachineOptions& options, std::optional<int> default_dp,
                       const Session& session) {
  check_counts(options);
  const int tp = static_cast<int>(options.tp);
  const auto dp = options.dp ? std::optional(static_cast<int>(*options.dp)) : default_dp;
  const std::int64_t ranks_of_cell = std::int64_t{tp} * dp.value_or(1);
  const int cells =
      default_dp ? static_cast<int>(std::max<std::int64_t>(1, session.size() / ranks_of_cell)) : 1;
  return Topology(session.size(), session.rank(), tp, dp, cells);
}

Dtype effective_dtype(Dtype dtype, bool accelerated) {
  return dtype != Dtype::kAuto ? dtype : accelerated ? Dtype::kBf16 : Dtype::kFp32;
}

c10::ScalarType cache_type(Dtype cache_dtype) {
  return cache_dtype == Dtype::kBf16 ? c10::kBFloat16 : c10::kFloat;
}

namespace {

// Why packed rows do not attend by flash attention in some blocks of a model on a device; empty if
// all do.  Sets whether some do.
std::string reason_for_composed(const MachineOptions& options, const ModelConfig& config,
                                const Computation& computation, bool& some) {
  some = false;
  if (options.attention == Attention::kComposed) {
    return "as --attention asks for";
  }
  if (computation.dtype != Dtype::kBf16) {
    return "flash attention needs --dtype bf16";
  }
  if (kernels_for(computation.device) == nullptr) {
    return "flash attention needs our own kernels";
  }
  const std::int64_t largest_head = largest_flash_head(computation.device);
  if (largest_head == 0) {
    return "flash attention needs compute capability 8.0";
  }
  const Decoder::FlashFit fit = Decoder::flash_fit(config, computation.topology.tp(), largest_head);
  some = fit.some;
  return fit.obstacle;
}

// Sets what attention runs, and says it; the device allows what the options ask for.
void resolve_attention(const MachineOptions& options, const ModelConfig& config,
                       Computation& computation) {
  const std::string reason = reason_for_composed(options, config, computation, computation.flash);
  if (options.attention == Attention::kFlash && !reason.empty()) {
    throw UserError(
        fmt::format("--attention flash: {}; --attention auto composes it there", reason));
  }
  if (computation.flash) {
    computation.kernels += ", flash attention";
  }
  if (!reason.empty()) {
    computation.kernels += fmt::format(", composed attention{}: {}",
                                       computation.flash ? " in some blocks" : "", reason);
  }
}

}  // namespace

Computation choose_computation(const MachineOptions& options, const ModelConfig& config,
                               const Topology& topology, const Session& session) {
  use_compact_cpu_memory();
  keep_product_precision();
  if (options.deterministic) {
    use_deterministic_kernels();
  }
  Computation computation;
  computation.topology = topology;
  computation.device = choose_device(options.device, session.local_rank(), session.local_size());
  select_device(computation.device);
  computation.kernels = choose_kernels(kernel_choice(options.kernels), computation.device);
  const bool accelerated = !computation.device.is_cpu();
  computation.dtype = effective_dtype(options.dtype, accelerated);
  const bool bf16 = computation.dtype == Dtype::kBf16;
  computation.product_type = bf16 ? c10::kBFloat16 : c10::kFloat;
  choose_attention(attention_choice(options.attention), computation.device,
                   computation.product_type);
  choose_graphs(accelerated && options.cuda_graphs != CudaGraphs::kOff);
  if (accelerated) {
    resolve_attention(options, config, computation);
  }
  computation.kind = accelerated ? DeviceKind::kCuda : DeviceKind::kCpu;
  computation.emulated = bf16 && emulates_bfloat16(computation.device);
  computation.backend = topology.world() == 1 ? "self" : accelerated ? "nccl" : "mpi";
  computation.threads = choose_threads(options.threads, session.local_size(), session.node_cores());
  return computation;
}

ElementBytes element_bytes(const Computation& computation, bool bf16_cache) {
  return element_bytes(computation.product_type == c10::kBFloat16, computation.emulated,
                       keeps_float_head(computation.device), bf16_cache);
}

void resolve(const Computation& computation, MachineOptions& options) {
  options.dtype = computation.dtype;
  options.device = computation.kind;
  options.tp = computation.topology.tp();
  options.dp = computation.topology.dp();
  options.threads = computation.threads.threads;
}

}  // namespace bipo
