#include "trainer/model/recurrence/delta_rule.hpp"

#include <ATen/ATen.h>
#include <ATen/core/ivalue.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <numeric>
#include <utility>

#include "collectives/profile.hpp"
#include "trainer/model/operators/operators.hpp"
#include "trainer/model/operators/upload.hpp"
#include "trainer/model/recurrence/cpu_delta_rule.hpp"

namespace bipo {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr double kLengthEpsilon = 1e-6;

// Kept by a fused call's node in the autograd graph, beside tensors.
struct KeptRecurrence final : torch::CustomClassHolder {
  KeptRecurrence(SharedDeltaHeads kept_heads, SharedRecurrence kept_layout)
      : heads(std::move(kept_heads)), layout(std::move(kept_layout)) {}

  SharedDeltaHeads heads;  // null for a convolution
  SharedRecurrence layout;
};

using KeptRecurrencePointer = c10::intrusive_ptr<KeptRecurrence>;

KeptRecurrencePointer kept_recurrence(AutogradContext* context) {
  return c10::static_intrusive_pointer_cast<KeptRecurrence>(
      context->saved_data.at("recurrence").toCapsule());
}

struct FusedConvolution : torch::autograd::Function<FusedConvolution> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            const KeptRecurrencePointer& kept) {
    const WorkTimer timer(Work::kRecurrence);
    context->save_for_backward({x, weight});
    context->saved_data["recurrence"] = c10::IValue::make_capsule(kept);
    return convolve(x, weight, kept->layout->taps);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const WorkTimer timer(Work::kRecurrence);
    const auto saved = context->get_saved_variables();
    return {convolve_backward(saved[0], saved[1], kept_recurrence(context)->layout->taps,
                              gradients[0].contiguous()),
            at::Tensor(), at::Tensor()};
  }
};

struct FusedDeltaRule : torch::autograd::Function<FusedDeltaRule> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& mixed,
                            const at::Tensor& decays, const at::Tensor& steps,
                            const KeptRecurrencePointer& kept) {
    const WorkTimer timer(Work::kRecurrence);
    const DeltaMemory memory = run_delta_rule({mixed, decays, steps}, *kept->heads, *kept->layout);
    context->save_for_backward({mixed, decays, steps, memory.corrections, memory.states});
    context->saved_data["recurrence"] = c10::IValue::make_capsule(kept);
    return memory.result;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const WorkTimer timer(Work::kRecurrence);
    const auto saved = context->get_saved_variables();
    const KeptRecurrencePointer kept = kept_recurrence(context);
    const DeltaOperands found =
        delta_rule_backward({saved[0], saved[1], saved[2]}, {at::Tensor(), saved[3], saved[4]},
                            gradients[0].contiguous(), *kept->heads, *kept->layout);
    return {found.mixed, found.decays, found.steps, at::Tensor()};
  }
};

// Whether the loops for the CPU take x, which may be columns of a wider matrix.
bool runs_fused_in_columns(const at::Tensor& x) {
  return x.is_cpu() && x.scalar_type() == at::kFloat && x.stride(1) == 1;
}

// Returns x with a row of zeros after the last.
at::Tensor with_zero_row(const at::Tensor& x) {
  return at::cat({x, at::zeros({1, x.size(1)}, x.options())});
}

// For any device and type: composed of tensor operations that autograd knows.  `rows`: [n, W], the
// number of rows of x where a tap sees none.
at::Tensor composed_convolution(const at::Tensor& x, const at::Tensor& weight,
                                const at::Tensor& rows) {
  const at::Tensor padded = with_zero_row(x.narrow(1, 0, weight.size(1)));
  at::Tensor sum;
  for (std::int64_t tap = 0; tap < weight.size(0); ++tap) {
    const at::Tensor part = padded.index_select(0, rows.select(1, tap)) * weight.select(0, tap);
    sum = sum.defined() ? sum + part : part;
  }
  return at::silu(sum);
}

at::Tensor unit_vectors(const at::Tensor& x) {
  return x * at::rsqrt((x * x).sum(-1, /*keepdim=*/true) + kLengthEpsilon);
}

// Operands of the chunks of one depth: [n, Hv, c, ...].
struct DepthOperands {
  at::Tensor queries;
  at::Tensor keys;
  at::Tensor values;
  at::Tensor decays;
  at::Tensor steps;
};

struct DepthResult {
  at::Tensor rows;    // [n c, Hv V]
  at::Tensor states;  // [n, Hv, K, V] after the chunks
};

// The chunks of one depth at once; `before` [n, Hv, K, V] may be undefined: zeros.
DepthResult run_depth(const DepthOperands& x, const at::Tensor& before) {
  const at::Tensor sums = x.decays.cumsum(-1);  // [n, Hv, c]
  const at::Tensor differences = sums.unsqueeze(-1) - sums.unsqueeze(-2);
  const std::int64_t rows = sums.size(-1);
  const at::Tensor seen = at::ones({rows, rows}, sums.options().dtype(at::kBool)).tril();
  const at::Tensor decays =
      at::exp(differences.masked_fill(seen.logical_not(), 0.0)) * seen.to(sums.scalar_type());
  const at::Tensor from_start = sums.exp().unsqueeze(-1);
  const at::Tensor to_end = (sums.narrow(-1, rows - 1, 1) - sums).exp().unsqueeze(-1);
  const at::Tensor steps = x.steps.unsqueeze(-1);
  const at::Tensor transposed = x.keys.transpose(-2, -1);
  const at::Tensor lower = (at::matmul(x.keys, transposed) * decays * steps).tril(-1);
  at::Tensor target = x.values;
  if (before.defined()) {
    target = target - at::matmul(x.keys, before) * from_start;
  }
  const at::Tensor system = lower + at::eye(rows, lower.options());
  const at::Tensor corrections = at::linalg_solve_triangular(
      system, target * steps, /*upper=*/false, /*left=*/true, /*unitriangular=*/true);
  at::Tensor result = at::matmul(at::matmul(x.queries, transposed) * decays, corrections);
  at::Tensor after = at::matmul((x.keys * to_end).transpose(-2, -1), corrections);
  if (before.defined()) {
    result = result + at::matmul(x.queries, before) * from_start;
    after = after + before * from_start.narrow(-2, rows - 1, 1);
  }
  return {result.transpose(1, 2).reshape({-1, result.size(1) * result.size(3)}), after};
}

struct ComposedResult {
  at::Tensor rows;                 // [T, Hv V]
  std::vector<at::Tensor> states;  // by depth
};

// `initial` [trees, Hv, K, V], with which the trees' first chunks begin, may be undefined: zeros.
ComposedResult composed_delta_rule(const DeltaOperands& operands, const DeltaHeads& heads,
                                   const RecurrentLayout& layout, const at::Tensor& initial) {
  const at::Tensor mixed = with_zero_row(operands.mixed);
  const at::Tensor decays = with_zero_row(operands.decays);
  const at::Tensor steps = with_zero_row(operands.steps);
  const double scale = 1 / std::sqrt(static_cast<double>(heads.key_size));
  ComposedResult result;
  std::vector<at::Tensor> rows;
  at::Tensor before = initial;
  for (const PaddedChunks& depth : layout.depths) {
    if (depth.parents.defined()) {
      before = result.states.back().index_select(0, depth.parents);
    }
    const std::int64_t chunks =
        before.defined() ? before.size(0) : static_cast<std::int64_t>(layout.trees.size());
    const auto in_slots = [&](const at::Tensor& x) {
      return x.index_select(0, depth.row_of_slot).view({chunks, -1, x.size(1)});
    };
    const at::Tensor slots = in_slots(mixed);
    const auto by_head = [&](std::int64_t first, std::int64_t columns, std::int64_t size) {
      return slots.narrow(2, first, columns)
          .reshape({chunks, slots.size(1), -1, size})
          .transpose(1, 2);
    };
    const std::int64_t width = heads.key_columns();
    const auto of_values = [&](std::int64_t first) {
      return unit_vectors(by_head(first, width, heads.key_size))
          .index_select(1, heads.key_head_table);
    };
    DepthResult found =
        run_depth({of_values(0) * scale, of_values(width),
                   by_head(2 * width, heads.value_columns(), heads.value_size),
                   in_slots(decays).transpose(1, 2), in_slots(steps).transpose(1, 2)},
                  before);
    rows.push_back(std::move(found.rows));
    result.states.push_back(std::move(found.states));
  }
  result.rows = at::cat(rows).index_select(0, layout.slot_of_row);
  return result;
}

// Returns the states after the trees of chunks that all follow one another, [trees, Hv, K, V].
at::Tensor final_states(const ComposedResult& result, const RecurrentLayout& layout) {
  std::vector<at::Tensor> states;
  std::vector<std::int64_t> taken(result.states.size(), 0);  // of the chunks of each depth
  for (const Range& tree : layout.trees) {
    const auto depth = static_cast<std::size_t>(tree.size()) - 1;
    states.push_back(result.states[depth][taken[depth]]);
    for (std::size_t d = 0; d <= depth; ++d) {
      ++taken[d];
    }
  }
  return at::stack(states);
}

// Returns those of `all` regions [R, ...] with which the parts begin, [P, ...].
at::Tensor beginnings(const at::Tensor& all, const CachedRecurrence& layout) {
  const at::Tensor found = all.index_select(0, layout.origins);
  std::vector<std::int64_t> shape(static_cast<std::size_t>(all.dim()), 1);
  shape.front() = -1;
  // What was in a region before may be anything.
  return found.masked_fill_(layout.is_new.view(shape), 0);
}

}  // namespace

void set_head_tables(DeltaHeads& heads, at::Device device) {
  const auto options = at::device(device).dtype(at::kLong);
  heads.key_head_table = uploaded(at::tensor(heads.key_head_of_value, at::kLong), options);
  std::vector<std::int64_t> first_value(static_cast<std::size_t>(heads.key_heads) + 1);
  for (const std::int64_t key_head : heads.key_head_of_value) {
    ++first_value[static_cast<std::size_t>(key_head) + 1];
  }
  std::partial_sum(first_value.begin(), first_value.end(), first_value.begin());
  heads.first_value_table = uploaded(at::tensor(first_value, at::kLong), options);
}

at::Tensor short_convolution(const at::Tensor& x, const at::Tensor& weight,
                             const SharedRecurrence& layout) {
  if (runs_fused_in_columns(x)) {
    return FusedConvolution::apply(x, weight, c10::make_intrusive<KeptRecurrence>(nullptr, layout));
  }
  const WorkTimer timer(Work::kRecurrence);
  return composed_convolution(x, weight, layout->taps.padded);
}

at::Tensor gated_delta_rule(const DeltaOperands& operands, const SharedDeltaHeads& heads,
                            const SharedRecurrence& layout) {
  if (runs_fused(operands.mixed)) {
    return FusedDeltaRule::apply(operands.mixed, operands.decays, operands.steps,
                                 c10::make_intrusive<KeptRecurrence>(heads, layout));
  }
  const WorkTimer timer(Work::kRecurrence);
  return composed_delta_rule(operands, *heads, *layout, at::Tensor()).rows;
}

DeltaRates cached_rates(const at::Tensor& x, const at::Tensor& y, const at::Tensor& bias,
                        const at::Tensor& scale) {
  const WorkTimer timer(Work::kRecurrence);
  if (runs_fused_in_columns(x) && runs_fused_in_columns(y)) {
    return rates_by_row(x, y, bias, scale);
  }
  return {scale * at::softplus(x + bias), at::sigmoid(y)};
}

at::Tensor cached_convolution(const at::Tensor& x, const at::Tensor& weight,
                              const CachedRecurrence& layout, const KeptStates& kept) {
  const WorkTimer timer(Work::kRecurrence);
  const std::int64_t columns = weight.size(1);
  const at::Tensor rows =
      at::cat({beginnings(kept.windows, layout).view({-1, columns}), x.narrow(1, 0, columns)});
  kept.windows.index_copy_(0, layout.regions,
                           rows.index_select(0, layout.kept)
                               .view({layout.regions.size(0), kept.windows.size(1), columns}));
  if (runs_fused(rows)) {
    return convolve(rows, weight, layout.taps);
  }
  return composed_convolution(rows, weight, layout.taps.padded);
}

at::Tensor cached_delta_rule(const DeltaOperands& operands, const DeltaHeads& heads,
                             const CachedRecurrence& layout, const KeptStates& kept) {
  const WorkTimer timer(Work::kRecurrence);
  if (!runs_fused(operands.mixed)) {
    const ComposedResult result =
        composed_delta_rule(operands, heads, layout.layout, beginnings(kept.states, layout));
    kept.states.index_copy_(0, layout.regions, final_states(result, layout.layout));
    return result.rows;
  }
  std::vector<SteppedPart> stepped;
  for (const CachedRecurrence::Part& part : layout.parts) {
    const at::Tensor state = kept.states[part.region];
    if (part.origin < 0) {
      state.zero_();
    } else if (part.origin != part.region) {
      state.copy_(kept.states[part.origin]);
    }
    stepped.push_back({part.rows, state.mutable_data_ptr<float>()});
  }
  return step_through(operands, heads, stepped);
}

}  // namespace bipo
