#include "trainer/model/operators/compiled_operators.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "trainer/model/device_kernels/device_kernels.cuh"
#include "trainer/model/device_kernels/kernel_runner.hpp"
#include "trainer/model/operators/kernel_launch.hpp"

namespace bipo {
namespace {

namespace dk = device_kernels;

static_assert(static_cast<int>(Activation::kSilu) == dk::kSilu &&
              static_cast<int>(Activation::kGelu) == dk::kGelu &&
              static_cast<int>(Activation::kGeluTanh) == dk::kGeluTanh);

// Returns a new tensor of x's shape, narrow or of its type.
at::Tensor empty_result(const at::Tensor& x, bool narrow) {
  return at::empty(x.sizes(), narrow ? x.options().dtype(at::kBFloat16) : x.options());
}

at::ScalarType sum_type(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// Returns whether the rows of x [T, C] may be read in place: each is dense.
bool has_dense_rows(const at::Tensor& x) {
  return x.size(1) <= 1 || x.stride(1) == 1;
}

}  // namespace

bool runs_compiled(const at::Tensor& x) {
  return kernels_for(x.device()) != nullptr;
}

Normed compiled_norm(const at::Tensor& x, const CompiledNorm& norm) {
  const at::Tensor rows = x.contiguous();
  const at::Tensor residual = norm.residual.defined() ? norm.residual.contiguous() : at::Tensor();
  const auto statistic = rows.options().dtype(sum_type(x));
  Normed result;
  result.y = empty_result(rows, norm.narrow);
  result.scale = at::empty({x.size(0), 1}, statistic);
  if (norm.centred) {
    result.mean = at::empty_like(result.scale);
  }
  const dk::Norm arguments{elements(rows),      elements(norm.shift), elements(norm.weight),
                           elements(norm.bias), elements(residual),   target(result.y),
                           target(result.mean), target(result.scale), checked(x.size(1)),
                           norm.epsilon,        norm.factor,          norm.narrow};
  run_kernel("norm", rows, x.size(1), arguments,
             {&rows, &norm.shift, &norm.weight, &norm.bias, &residual},
             {&result.y, &result.mean, &result.scale});
  return result;
}

at::Tensor compiled_norm_backward(const at::Tensor& x, const CompiledNorm& norm,
                                  const Normed& normed, const at::Tensor& gradient) {
  const at::Tensor rows = x.contiguous();
  const at::Tensor dy = in_type_of(x, gradient);
  const at::Tensor dx = at::empty_like(rows);
  const dk::NormBackward arguments{elements(rows),
                                   elements(norm.shift),
                                   elements(norm.weight),
                                   elements(normed.mean),
                                   elements(normed.scale),
                                   elements(dy),
                                   target(dx),
                                   checked(x.size(1)),
                                   norm.factor};
  run_kernel("norm_backward", rows, x.size(1), arguments,
             {&rows, &norm.shift, &norm.weight, &normed.mean, &normed.scale, &dy}, {&dx});
  return dx;
}

at::Tensor compiled_add_onto(const at::Tensor& residual, const at::Tensor& x,
                             const at::Tensor& shift, double factor) {
  const at::Tensor rows = x.contiguous();
  const at::Tensor stream = residual.contiguous();
  const at::Tensor y = at::empty_like(stream);
  const dk::AddOnto arguments{elements(stream), elements(rows),     elements(shift),
                              target(y),        checked(x.size(1)), factor};
  run_kernel("add_onto", rows, x.size(1), arguments, {&stream, &rows, &shift}, {&y});
  return y;
}

at::Tensor compiled_gated_unit(const at::Tensor& gate_up, Activation activation, bool narrow) {
  const at::Tensor rows = gate_up.contiguous();
  const std::int64_t columns = gate_up.size(1) / 2;
  const at::Tensor y = empty_result(rows.narrow(1, 0, columns), narrow);
  const dk::GatedUnit arguments{elements(rows), target(y), checked(columns),
                                static_cast<int>(activation), narrow};
  run_kernel("gated_unit", rows, columns, arguments, {&rows}, {&y});
  return y;
}

at::Tensor compiled_gated_unit_backward(const at::Tensor& gate_up, const at::Tensor& gradient,
                                        Activation activation, bool narrow) {
  const at::Tensor rows = gate_up.contiguous();
  const at::Tensor dy = in_type_of(gate_up, gradient);
  const std::int64_t columns = gate_up.size(1) / 2;
  const at::Tensor dx = empty_result(rows, narrow);
  const dk::GatedUnitBackward arguments{
      elements(rows), elements(dy), target(dx), checked(columns), static_cast<int>(activation),
      narrow};
  run_kernel("gated_unit_backward", rows, columns, arguments, {&rows, &dy}, {&dx});
  return dx;
}

at::Tensor compiled_plain_unit(const at::Tensor& x, const at::Tensor& shift, Activation activation,
                               bool narrow) {
  const at::Tensor rows = x.contiguous();
  const at::Tensor y = empty_result(rows, narrow);
  const dk::PlainUnit arguments{
      elements(rows), elements(shift), target(y), checked(x.size(1)), static_cast<int>(activation),
      narrow};
  run_kernel("plain_unit", rows, x.size(1), arguments, {&rows, &shift}, {&y});
  return y;
}

at::Tensor compiled_plain_unit_backward(const at::Tensor& x, const at::Tensor& shift,
                                        const at::Tensor& gradient, Activation activation,
                                        bool narrow) {
  const at::Tensor rows = x.contiguous();
  const at::Tensor dy = in_type_of(x, gradient);
  const at::Tensor dx = empty_result(rows, narrow);
  const dk::PlainUnitBackward arguments{
      elements(rows), elements(shift),    elements(dy),
      target(dx),     checked(x.size(1)), static_cast<int>(activation),
      narrow};
  run_kernel("plain_unit_backward", rows, x.size(1), arguments, {&rows, &shift, &dy}, {&dx});
  return dx;
}

namespace {

dk::Heads heads_arguments(const at::Tensor& x, const HeadCounts& heads, const at::Tensor& cos,
                          const at::Tensor& sin, const HeadTransforms& operands) {
  return {elements(x),
          elements(operands.bias),
          elements(operands.query_norm),
          elements(operands.key_norm),
          elements(operands.value_norm),
          elements(operands.query_factor),
          elements(cos),
          elements(sin),
          x.defined() ? x.stride(0) : 0,
          checked(heads.queries),
          checked(heads.keys),
          checked(heads.values),
          checked(cos.size(-1)),
          operands.epsilon,
          operands.together,
          heads.shares_keys};
}

// The grid of the blocks that compute `values` heads of values beside the others.
Grid heads_grid(at::ScalarType type, std::int64_t rows, const HeadCounts& heads,
                std::int64_t values, std::int64_t size, const HeadTransforms& operands) {
  if (!operands.together) {
    return {type, rows * (heads.queries + heads.keys + values), size};
  }
  return {type, rows * (values > 0 ? 3 : 2), std::max({heads.queries, heads.keys, values}) * size};
}

dk::SlotStrides slot_strides(const at::Tensor& x) {
  return {x.stride(0), x.stride(1), x.stride(2)};
}

// Returns x [S, heads, slots, K], or a copy whose heads are dense.
at::Tensor with_dense_heads(const at::Tensor& x) {
  return x.stride(3) == 1 ? x : x.contiguous();
}

int is_narrow(const at::Tensor& x, at::ScalarType type) {
  return x.defined() && x.scalar_type() != type ? 1 : 0;
}

// Returns a gradient [T, heads, K] whose rows are dense, as rows of any distance.
at::Tensor with_dense_rows(const at::Tensor& x) {
  if (!x.defined() || (x.stride(2) == 1 && x.stride(1) == x.size(2))) {
    return x;
  }
  return x.contiguous();
}

}  // namespace

TurnedHeads compiled_turn(const at::Tensor& x, const HeadCounts& heads, const at::Tensor& cos,
                          const at::Tensor& sin, const HeadTransforms& operands, bool narrow) {
  const at::Tensor rows = has_dense_rows(x) ? x : x.contiguous();
  const std::int64_t size = cos.size(-1);
  const auto options = narrow ? x.options().dtype(at::kBFloat16) : x.options();
  const auto heads_of = [&](std::int64_t count) {
    return at::empty({x.size(0), count, size}, options);
  };
  TurnedHeads result{heads_of(heads.queries), {}, {}, {}};
  if (narrow) {
    result.keys_and_values = heads_of(heads.keys + heads.values);
    result.keys = result.keys_and_values.narrow(1, 0, heads.keys);
    result.values = result.keys_and_values.narrow(1, heads.keys, heads.values);
  } else {
    result.keys = heads_of(heads.keys);
    result.values = heads_of(heads.values);
  }
  const dk::Turn arguments{heads_arguments(rows, heads, cos, sin, operands),
                           target(result.queries),
                           target(result.keys),
                           target(result.values),
                           result.keys.stride(0),
                           result.values.stride(0),
                           is_narrow(result.queries, x.scalar_type())};
  run_kernel("turn", heads_grid(x.scalar_type(), x.size(0), heads, heads.values, size, operands),
             arguments,
             {&rows, &operands.bias, &operands.query_norm, &operands.key_norm, &operands.value_norm,
              &operands.query_factor, &cos, &sin},
             {&result.queries, &result.keys, &result.values});
  return result;
}

at::Tensor compiled_turn_back(const TurnedHeads& gradients, const HeadCounts& heads,
                              const at::Tensor& cos, const at::Tensor& sin,
                              const HeadTransforms& operands, const at::Tensor& x, bool narrow) {
  const at::ScalarType type = cos.scalar_type();
  const at::Tensor dq = gradients.queries.defined() ? gradients.queries.contiguous() : at::Tensor();
  const at::Tensor dk_ = with_dense_rows(gradients.keys);
  const at::Tensor dv = with_dense_rows(gradients.values);
  const at::Tensor rows = !operands.has_norms() ? at::Tensor()
                          : has_dense_rows(x)   ? x
                                                : x.contiguous();
  const std::int64_t size = cos.size(-1);
  const at::Tensor dx = at::empty({cos.size(0), heads.in_row() * size},
                                  narrow ? cos.options().dtype(at::kBFloat16) : cos.options());
  const dk::TurnBack arguments{heads_arguments(rows, heads, cos, sin, operands),
                               elements(dq),
                               elements(dk_),
                               elements(dv),
                               target(dx),
                               dk_.defined() ? dk_.stride(0) : 0,
                               dv.defined() ? dv.stride(0) : 0,
                               is_narrow(dq, type),
                               is_narrow(dk_.defined() ? dk_ : dv, type),
                               is_narrow(dx, type)};
  run_kernel(
      "turn_back",
      heads_grid(type, cos.size(0), heads, heads.shares_keys ? 0 : heads.values, size, operands),
      arguments,
      {&cos, &sin, &rows, &operands.bias, &operands.query_norm, &operands.key_norm,
       &operands.value_norm, &operands.query_factor, &dq, &dk_, &dv},
      {&dx});
  return dx;
}

at::Tensor compiled_to_slots(const at::Tensor& x, const SlotTables& tables, at::ScalarType type) {
  const auto& [row_of_slot, slot_of_row, head_of, spans, by_slot] = tables;
  const at::Tensor rows = x.stride(2) == 1 ? x : x.contiguous();
  const std::int64_t heads = head_of.defined() ? head_of.size(0) : x.size(1);
  const std::int64_t slots = spans == 0 ? 0 : row_of_slot.size(0) / spans;
  std::vector<std::int64_t> shape = {spans, heads, slots, x.size(2)};
  if (by_slot) {
    std::swap(shape[1], shape[2]);
  }
  const at::Tensor y = at::empty(shape, x.options().dtype(type));
  const dk::ToSlots arguments{elements(rows),
                              indices(row_of_slot),
                              indices(slot_of_row),
                              indices(head_of),
                              target(y),
                              rows.stride(0),
                              rows.stride(1),
                              checked(heads),
                              checked(slots),
                              checked(x.size(2)),
                              by_slot,
                              is_narrow(rows, type)};
  run_kernel("to_slots", {type, spans * heads * slots, x.size(2)}, arguments,
             {&rows, &row_of_slot, &slot_of_row, &head_of}, {&y});
  return by_slot ? y.transpose(1, 2) : y;
}

at::Tensor compiled_from_slots(const at::Tensor& x, const at::Tensor& slot_of_row, bool narrow) {
  const at::Tensor slots = with_dense_heads(x);
  const at::Tensor y = at::empty({slot_of_row.size(0), x.size(1), x.size(3)},
                                 narrow ? x.options().dtype(at::kBFloat16) : x.options());
  const dk::FromSlots arguments{
      elements(slots),    indices(slot_of_row), target(y),          slot_strides(slots),
      checked(x.size(1)), checked(x.size(2)),   checked(x.size(3)), is_narrow(y, x.scalar_type())};
  run_kernel("from_slots", {x.scalar_type(), slot_of_row.size(0) * x.size(1), x.size(3)}, arguments,
             {&slots, &slot_of_row}, {&y});
  return y;
}

void compiled_sum_slots(const at::Tensor& x, const at::Tensor& slots_by_row,
                        const at::Tensor& first_slot, const at::Tensor& first_head,
                        const at::Tensor& sums) {
  const at::Tensor slots = with_dense_heads(x);
  const dk::SumSlots arguments{elements(slots),
                               indices(slots_by_row),
                               indices(first_slot),
                               indices(first_head),
                               target(sums),
                               slot_strides(slots),
                               sums.stride(0),
                               checked(sums.size(1)),
                               checked(x.size(2)),
                               checked(x.size(3)),
                               is_narrow(x, sums.scalar_type())};
  run_kernel("sum_slots", {sums.scalar_type(), sums.size(0) * sums.size(1), x.size(3)}, arguments,
             {&slots, &slots_by_row, &first_slot, &first_head}, {&sums});
}

at::Tensor compiled_capped_softmax(const at::Tensor& scores, const at::Tensor& bias, double scale,
                                   double cap) {
  const at::Tensor dense = scores.contiguous();
  const at::Tensor weights = at::empty_like(dense);
  const dk::CappedSoftmax arguments{elements(dense),
                                    elements(bias),
                                    target(weights),
                                    bias.stride(2),
                                    checked(scores.size(1)),
                                    checked(scores.size(2)),
                                    checked(scores.size(3)),
                                    scale,
                                    cap};
  run_kernel(
      "capped_softmax",
      {scores.scalar_type(), scores.size(0) * scores.size(1) * scores.size(2), scores.size(3)},
      arguments, {&dense, &bias}, {&weights});
  return weights;
}

void compiled_capped_softmax_backward(const at::Tensor& scores, const at::Tensor& weights,
                                      double scale, double cap, const at::Tensor& d) {
  const at::Tensor dense = scores.contiguous();
  const dk::CappedSoftmaxBackward arguments{
      elements(dense), elements(weights), target(d), checked(scores.size(3)), scale, cap};
  run_kernel(
      "capped_softmax_backward",
      {scores.scalar_type(), scores.size(0) * scores.size(1) * scores.size(2), scores.size(3)},
      arguments, {&dense, &weights}, {&d});
}

}  // namespace bipo
