#include "trainer/model/recurrence/device_delta_net.hpp"

#include <ATen/ATen.h>
#include <ATen/core/ivalue.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <cstdint>
#include <utility>

#include "collectives/profile.hpp"
#include "trainer/model/device_kernels/device_kernels.cuh"
#include "trainer/model/operators/kernel_launch.hpp"
#include "trainer/model/operators/operators.hpp"

namespace bipo {
namespace {

namespace dk = device_kernels;

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

static_assert(sizeof(dk::Chunk) == 7 * sizeof(std::int64_t));

// What the backward pass needs beside the inputs; the names are those of the kernels' arguments.
struct NetMemory {
  at::Tensor mixed;   // [T, C]
  at::Tensor sums;    // [T, Hv] float64
  at::Tensor steps;   // [T, Hv]
  at::Tensor starts;  // [T, Hv]
  at::Tensor ends;    // [T, Hv]
  at::Tensor pairs;   // [T, Hv, 2, width]
  at::Tensor errors;  // [T, Hv, V]
  at::Tensor states;  // [states, Hv, K, V]
  at::Tensor result;  // [T, Hv, V]
  at::Tensor scale;   // [rows of y, Hv]
};

// One call of the net, forward or backward.
class NetCall {
 public:
  // `gates` [rows of y, Hv V] may be columns of a wider matrix; `rows` undefined: all.
  NetCall(const DeviceDeltaNet& net, const at::Tensor& projected, const at::Tensor& gates,
          const at::Tensor& rows)
      : net_(net),
        heads_(*net.heads),
        chunks_(*net.layout->compiled),
        projected_(projected),
        gates_(gates),
        rows_(rows),
        type_(projected.scalar_type()),
        tokens_(projected.size(0)),
        key_heads_(heads_.key_heads),
        value_heads_(heads_.value_heads()) {}

  at::Tensor forward(NetMemory& memory) const {
    allocate(memory);
    mix(memory);
    rates(memory);
    const dk::DeltaRule rule = delta_rule(memory);
    run_kernel("delta_pairs", {type_, tokens_ * value_heads_, chunks_.width}, rule,
               {&memory.mixed, &memory.sums, &chunks_.table, &chunks_.chunk_of_row,
                &heads_.key_head_table},
               {&memory.pairs});
    for (const at::Tensor& parts : chunks_.parts) {
      const dk::DeltaScan scan{rule, indices(parts), target(memory.result)};
      run_kernel("delta_scan", {type_, parts.size(0) * value_heads_, heads_.value_size}, scan,
                 {&memory.mixed, &memory.sums, &memory.steps, &memory.starts, &memory.ends,
                  &memory.pairs, &chunks_.table, &heads_.key_head_table, &parts},
                 {&memory.errors, &memory.states, &memory.result});
    }
    return gated(memory);
  }

  // Returns the gradient by the projected columns; the one by gates that are none of them goes to
  // `d_gates`.
  at::Tensor backward(const NetMemory& memory, const at::Tensor& gradient,
                      at::Tensor* d_gates) const {
    const auto inputs =
        net_.narrow ? projected_.options().dtype(at::kBFloat16) : projected_.options();
    const at::Tensor d_projected = at::empty(projected_.sizes(), inputs);
    if (d_gates != nullptr) {
      *d_gates = at::empty(gates_.sizes(), inputs);
    }
    const at::Tensor d_result =
        gated_backward(memory, gradient, d_gates == nullptr ? d_projected : *d_gates,
                       d_gates == nullptr ? projected_.size(1) - heads_.value_columns() : 0);
    rule_backward(memory, d_result, d_projected);
    return d_projected;
  }

 private:
  at::Tensor empty(at::IntArrayRef shape) const { return at::empty(shape, projected_.options()); }

  void allocate(NetMemory& memory) const {
    const std::int64_t size = heads_.value_size;
    memory.mixed = empty({tokens_, heads_.columns()});
    memory.sums = at::empty({tokens_, value_heads_}, projected_.options().dtype(at::kDouble));
    memory.steps = empty({tokens_, value_heads_});
    memory.starts = empty({tokens_, value_heads_});
    memory.ends = empty({tokens_, value_heads_});
    memory.pairs = empty({tokens_, value_heads_, 2, chunks_.width});
    memory.errors = empty({tokens_, value_heads_, size});
    memory.states = empty({net_.layout->states, value_heads_, heads_.key_size, size});
    memory.result = empty({tokens_, value_heads_, size});
  }

  dk::DeltaSizes sizes() const {
    return {checked(key_heads_), checked(value_heads_), checked(heads_.key_size),
            checked(heads_.value_size)};
  }

  dk::ShortConvolution convolution() const {
    return {elements(projected_),
            elements(net_.taps),
            indices(net_.layout->taps.padded),
            projected_.stride(0),
            tokens_,
            checked(net_.layout->taps.taps),
            1 / std::sqrt(static_cast<double>(heads_.key_size)),
            sizes()};
  }

  // A block for each head of a row's mixed columns.
  Grid mixed_grid() const {
    return {type_, tokens_ * (2 * key_heads_ + value_heads_),
            std::max(heads_.key_size, heads_.value_size)};
  }

  at::Tensor steps_columns() const { return projected_.narrow(1, heads_.columns(), value_heads_); }
  at::Tensor decays_columns() const {
    return projected_.narrow(1, heads_.columns() + value_heads_, value_heads_);
  }

  const dk::Chunk* chunk_table() const {
    return static_cast<const dk::Chunk*>(elements(chunks_.table));
  }

  void mix(const NetMemory& memory) const {
    const dk::DeltaMix call{convolution(), target(memory.mixed)};
    run_kernel("delta_mix", mixed_grid(), call,
               {&projected_, &net_.taps, &net_.layout->taps.padded}, {&memory.mixed});
  }

  void rates(const NetMemory& memory) const {
    const at::Tensor steps = steps_columns();
    const at::Tensor decays = decays_columns();
    const dk::DeltaRates call{
        elements(decays),     elements(steps),       elements(net_.decay_bias),
        elements(net_.decay), chunk_table(),         static_cast<double*>(target(memory.sums)),
        target(memory.steps), target(memory.starts), target(memory.ends),
        projected_.stride(0), checked(value_heads_)};
    run_kernel("delta_rates", {type_, chunks_.table.size(0), value_heads_}, call,
               {&projected_, &net_.decay_bias, &net_.decay, &chunks_.table},
               {&memory.sums, &memory.steps, &memory.starts, &memory.ends});
  }

  dk::DeltaRule delta_rule(const NetMemory& memory) const {
    return {elements(memory.mixed),
            static_cast<const double*>(elements(memory.sums)),
            elements(memory.steps),
            elements(memory.starts),
            elements(memory.ends),
            target(memory.pairs),
            target(memory.errors),
            target(memory.states),
            chunk_table(),
            indices(chunks_.chunk_of_row),
            indices(heads_.key_head_table),
            sizes(),
            checked(chunks_.width)};
  }

  std::int64_t rows_of_y() const { return rows_.defined() ? rows_.size(0) : tokens_; }

  at::Tensor gated(NetMemory& memory) const {
    const std::int64_t rows = rows_of_y();
    memory.scale = empty({rows, value_heads_});
    const at::Tensor y =
        at::empty({rows, heads_.value_columns()},
                  net_.narrow ? projected_.options().dtype(at::kBFloat16) : projected_.options());
    const dk::GatedNorm call{elements(memory.result),
                             indices(rows_),
                             elements(gates_),
                             elements(net_.norm),
                             target(y),
                             target(memory.scale),
                             gates_.stride(0),
                             checked(value_heads_),
                             checked(heads_.value_size),
                             net_.epsilon,
                             net_.narrow};
    run_kernel("gated_norm", {type_, rows * value_heads_, heads_.value_size}, call,
               {&memory.result, &rows_, &gates_, &net_.norm}, {&y, &memory.scale});
    return y;
  }

  at::Tensor gated_backward(const NetMemory& memory, const at::Tensor& gradient,
                            const at::Tensor& d_gates, std::int64_t column) const {
    const at::Tensor dy = in_type_of(projected_, gradient);
    const at::Tensor d_result = rows_.defined()
                                    ? at::zeros(memory.result.sizes(), memory.result.options())
                                    : at::empty(memory.result.sizes(), memory.result.options());
    const dk::GatedNormBackward call{
        elements(memory.result),    indices(rows_),    elements(gates_), elements(net_.norm),
        elements(memory.scale),     elements(dy),      target(d_result), target(d_gates),
        gates_.stride(0),           d_gates.stride(0), column,           checked(value_heads_),
        checked(heads_.value_size), net_.narrow};
    run_kernel("gated_norm_backward", {type_, rows_of_y() * value_heads_, heads_.value_size}, call,
               {&memory.result, &rows_, &gates_, &net_.norm, &memory.scale, &dy},
               {&d_result, &d_gates});
    return d_result;
  }

  void rule_backward(const NetMemory& memory, const at::Tensor& d_result,
                     const at::Tensor& d_projected) const {
    const at::Tensor d_errors = at::empty_like(memory.errors);
    const at::Tensor d_heads = empty({tokens_, value_heads_, 3, heads_.key_size});
    const at::Tensor d_sums = at::empty_like(memory.steps);
    const at::Tensor d_steps = at::empty_like(memory.steps);
    run_back(memory, d_result, d_errors, d_heads, d_sums, d_steps);
    rates_backward(memory, d_sums, d_steps, d_projected);
    mix_backward(memory, d_heads, d_errors, d_projected);
  }

  // The parts that follow others first.
  void run_back(const NetMemory& memory, const at::Tensor& d_result, const at::Tensor& d_errors,
                const at::Tensor& d_heads, const at::Tensor& d_sums,
                const at::Tensor& d_steps) const {
    const at::Tensor d_after = at::empty_like(memory.states);
    const at::Tensor d_before =
        empty({chunks_.followers, value_heads_, heads_.key_size, heads_.value_size});
    const at::Tensor d_pairs = at::empty_like(memory.pairs);
    dk::DeltaRuleBackward call{delta_rule(memory), nullptr,          indices(chunks_.children),
                               elements(d_result), target(d_errors), target(d_after),
                               target(d_before),   target(d_pairs),  target(d_heads),
                               target(d_sums),     target(d_steps)};
    for (auto parts = chunks_.parts.rbegin(); parts != chunks_.parts.rend(); ++parts) {
      call.parts = indices(*parts);
      run_kernel("delta_scan_backward", {type_, parts->size(0) * value_heads_, heads_.value_size},
                 call,
                 {&memory.mixed, &memory.steps, &memory.starts, &memory.ends, &memory.pairs,
                  &chunks_.table, &chunks_.children, &heads_.key_head_table, &*parts, &d_result},
                 {&d_errors, &d_after, &d_before});
    }
    const KernelReads reads = {
        &memory.mixed,          &memory.sums,   &memory.steps,  &memory.starts,        &memory.ends,
        &memory.errors,         &memory.states, &chunks_.table, &chunks_.chunk_of_row, &d_result,
        &heads_.key_head_table, &d_errors,      &d_after};
    run_kernel("delta_pairs_backward", {type_, tokens_ * value_heads_, chunks_.width}, call, reads,
               {&d_pairs});
    KernelReads with_pairs = reads;
    with_pairs.back() = &d_pairs;
    run_kernel("delta_rows_backward",
               {type_, tokens_ * value_heads_, std::max(heads_.key_size, heads_.value_size)}, call,
               with_pairs, {&d_heads, &d_sums, &d_steps});
  }

  void rates_backward(const NetMemory& memory, const at::Tensor& d_sums, const at::Tensor& d_steps,
                      const at::Tensor& d_projected) const {
    const at::Tensor decays = decays_columns();
    const dk::DeltaRatesBackward call{elements(decays),
                                      elements(net_.decay_bias),
                                      elements(net_.decay),
                                      elements(memory.steps),
                                      chunk_table(),
                                      elements(d_sums),
                                      elements(d_steps),
                                      target(d_projected),
                                      projected_.stride(0),
                                      d_projected.stride(0),
                                      heads_.columns() + value_heads_,
                                      heads_.columns(),
                                      checked(value_heads_),
                                      net_.narrow};
    run_kernel("delta_rates_backward", {type_, chunks_.table.size(0), value_heads_}, call,
               {&projected_, &net_.decay_bias, &net_.decay, &memory.steps, &chunks_.table, &d_sums,
                &d_steps},
               {&d_projected});
  }

  void mix_backward(const NetMemory& memory, const at::Tensor& d_heads, const at::Tensor& d_errors,
                    const at::Tensor& d_projected) const {
    const at::Tensor d_convolved = at::empty_like(memory.mixed);
    const dk::DeltaMixBackward mixed{convolution(),
                                     elements(memory.steps),
                                     elements(d_heads),
                                     elements(d_errors),
                                     indices(heads_.first_value_table),
                                     target(d_convolved)};
    run_kernel("delta_mix_backward", mixed_grid(), mixed,
               {&projected_, &net_.taps, &net_.layout->taps.padded, &memory.steps, &d_heads,
                &d_errors, &heads_.first_value_table},
               {&d_convolved});
    const dk::TapsBackward taps{elements(net_.taps),
                                elements(d_convolved),
                                indices(chunks_.uses),
                                indices(chunks_.first_use),
                                target(d_projected),
                                d_projected.stride(0),
                                checked(heads_.columns()),
                                checked(net_.layout->taps.taps),
                                net_.narrow};
    run_kernel("taps_backward", {type_, tokens_, heads_.columns()}, taps,
               {&d_convolved, &net_.taps, &chunks_.uses, &chunks_.first_use}, {&d_projected});
  }

  const DeviceDeltaNet& net_;
  const DeltaHeads& heads_;
  const CompiledChunks& chunks_;
  at::Tensor projected_;
  at::Tensor gates_;
  at::Tensor rows_;
  at::ScalarType type_;
  std::int64_t tokens_;
  std::int64_t key_heads_;
  std::int64_t value_heads_;
};

// Kept by a call's node in the autograd graph, beside tensors.
struct KeptNet final : torch::CustomClassHolder {
  explicit KeptNet(DeviceDeltaNet kept) : net(std::move(kept)) {}

  DeviceDeltaNet net;
};

using KeptNetPointer = c10::intrusive_ptr<KeptNet>;

void keep_call(AutogradContext* context, const KeptNetPointer& kept, NetMemory memory,
               variable_list inputs) {
  inputs.insert(inputs.end(),
                {memory.mixed, memory.sums, memory.steps, memory.starts, memory.ends, memory.pairs,
                 memory.errors, memory.states, memory.result, memory.scale});
  context->save_for_backward(std::move(inputs));
  context->saved_data["net"] = c10::IValue::make_capsule(kept);
}

KeptNetPointer kept_net(AutogradContext* context) {
  return c10::static_intrusive_pointer_cast<KeptNet>(context->saved_data.at("net").toCapsule());
}

// What keep_call() kept behind so many inputs.
NetMemory kept_memory(const variable_list& saved, std::size_t inputs) {
  const auto at = [&](std::size_t i) { return saved.at(inputs + i); };
  return {at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7), at(8), at(9)};
}

// The gates, the last columns of what the input weight made.
at::Tensor gates_among(const at::Tensor& projected, const DeltaHeads& heads) {
  const std::int64_t count = heads.value_columns();
  return projected.narrow(1, projected.size(1) - count, count);
}

struct NetOfAllRows : torch::autograd::Function<NetOfAllRows> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& projected,
                            const KeptNetPointer& kept) {
    const WorkTimer timer(Work::kRecurrence);
    NetMemory memory;
    const at::Tensor y =
        NetCall(kept->net, projected, gates_among(projected, *kept->net.heads), at::Tensor())
            .forward(memory);
    keep_call(context, kept, memory, {projected});
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const WorkTimer timer(Work::kRecurrence);
    const auto saved = context->get_saved_variables();
    const KeptNetPointer kept = kept_net(context);
    const NetCall call(kept->net, saved[0], gates_among(saved[0], *kept->net.heads), at::Tensor());
    return {call.backward(kept_memory(saved, 1), gradients[0], nullptr), at::Tensor()};
  }
};

struct NetOfSomeRows : torch::autograd::Function<NetOfSomeRows> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& projected,
                            const at::Tensor& gates, const at::Tensor& rows,
                            const KeptNetPointer& kept) {
    const WorkTimer timer(Work::kRecurrence);
    NetMemory memory;
    const at::Tensor y = NetCall(kept->net, projected, gates, rows).forward(memory);
    keep_call(context, kept, memory, {projected, gates, rows});
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const WorkTimer timer(Work::kRecurrence);
    const auto saved = context->get_saved_variables();
    const KeptNetPointer kept = kept_net(context);
    at::Tensor d_gates;
    const at::Tensor d_projected = NetCall(kept->net, saved[0], saved[1], saved[2])
                                       .backward(kept_memory(saved, 3), gradients[0], &d_gates);
    return {d_projected, d_gates, at::Tensor(), at::Tensor()};
  }
};

at::Tensor with_gradient_of_any_type(at::Tensor y, const DeviceDeltaNet& net) {
  if (net.narrow) {
    accept_any_gradient(y);
  }
  return y;
}

}  // namespace

at::Tensor device_delta_net(const at::Tensor& projected, const DeviceDeltaNet& net) {
  return with_gradient_of_any_type(
      NetOfAllRows::apply(projected.contiguous(), c10::make_intrusive<KeptNet>(net)), net);
}

at::Tensor device_delta_net(const at::Tensor& projected, const at::Tensor& gates,
                            const at::Tensor& rows, const DeviceDeltaNet& net) {
  return with_gradient_of_any_type(NetOfSomeRows::apply(projected.contiguous(), gates.contiguous(),
                                                        rows, c10::make_intrusive<KeptNet>(net)),
                                   net);
}

}  // namespace bipo
