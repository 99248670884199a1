#include "trainer/model/operators/attention.hpp"

#include <ATen/ATen.h>
#include <ATen/core/ivalue.h>
#include <torch/csrc/autograd/custom_function.h>

#include <numeric>
#include <utility>
#include <vector>

#include "collectives/profile.hpp"
#include "trainer/model/operators/avx512_tiles.hpp"
#include "trainer/model/operators/compiled_operators.hpp"
#include "trainer/model/operators/cpu_attention.hpp"
#include "trainer/model/operators/device_attention.hpp"
#include "trainer/model/operators/operators.hpp"

namespace bipo {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor with_halves_swapped(const at::Tensor& x) {
  const auto halves = x.chunk(2, -1);
  return at::cat({halves[1], halves[0]}, -1);
}

// Turns x [n, heads, K] by the angles of its rows; the gradient is turned back.
struct Rotate : torch::autograd::Function<Rotate> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& cos,
                            const at::Tensor& sin) {
    context->save_for_backward({cos, sin});
    return at::addcmul(x * cos, with_halves_swapped(x), sin);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor& gradient = gradients[0];
    return {at::addcmul(gradient * saved[0], with_halves_swapped(gradient), saved[1], -1),
            at::Tensor(), at::Tensor()};
  }
};

// Queries, keys and values [n, heads of the kind, K].
struct Heads {
  at::Tensor queries;
  at::Tensor keys;
  at::Tensor values;
};

// Splits x [n, heads K] into heads; turns queries and keys by the angles of their rows.
Heads turned_heads(const at::Tensor& x, const HeadCounts& counts, const PaddedSpans& rows) {
  const std::int64_t turning = counts.queries + counts.keys;
  const std::int64_t size = rows.cos.size(-1);
  const auto heads = [&](std::int64_t first, std::int64_t count) {
    return x.narrow(1, first * size, count * size).reshape({x.size(0), count, size});
  };
  const at::Tensor turned = Rotate::apply(heads(0, turning), rows.cos, rows.sin);
  const auto part = [&](std::int64_t first, std::int64_t count) {
    return count == turning ? turned : turned.narrow(1, first, count);
  };
  return {part(0, counts.queries), part(counts.queries, counts.keys),
          heads(turning, counts.values)};
}

// The gradients of these gathers are gathers and sums in a fixed order, so that they are the same
// in every run: index_select()'s own adds in no order on a GPU.

// x [n, H, K] -> [S q, H, K].  Slots without a query get no gradient, because nothing reads their
// result.
struct QueriesInSlots : torch::autograd::Function<QueriesInSlots> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x,
                            const at::Tensor& query_of_slot, const at::Tensor& slot_of_query) {
    context->save_for_backward({slot_of_query});
    return x.index_select(0, query_of_slot);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    return {gradients[0].index_select(0, context->get_saved_variables()[0]), at::Tensor(),
            at::Tensor()};
  }
};

// x [S q, H K] -> [n, H K].
struct QueriesOfSlots : torch::autograd::Function<QueriesOfSlots> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x,
                            const at::Tensor& slot_of_query) {
    context->save_for_backward({slot_of_query});
    context->saved_data["slots"] = x.size(0);
    return x.index_select(0, slot_of_query);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const at::Tensor of_slots = at::zeros(
        {context->saved_data.at("slots").toInt(), gradients[0].size(1)}, gradients[0].options());
    return {of_slots.index_copy_(0, context->get_saved_variables()[0], gradients[0]), at::Tensor()};
  }
};

// x [T, Hkv, K] -> [S k, Hkv, K].  Slots without a key have no weight, hence no gradient.
struct KeysInSlots : torch::autograd::Function<KeysInSlots> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x,
                            const at::Tensor& key_of_slot, const at::Tensor& slots_by_key,
                            const at::Tensor& slots_per_key) {
    context->save_for_backward({slots_by_key, slots_per_key});
    return x.index_select(0, key_of_slot);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    return {at::segment_reduce(gradients[0].index_select(0, saved[0]), "sum", saved[1], {}, {},
                               /*axis=*/0, /*unsafe=*/true, /*initial=*/0),
            at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

// x [S, Hkv, k, K] -> [S, H, k, K].
struct PerQueryHead : torch::autograd::Function<PerQueryHead> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& index,
                            const at::Tensor& members) {
    context->save_for_backward({members});
    return x.index_select(1, index);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const at::Tensor& d = gradients[0];
    const at::Tensor members = context->get_saved_variables()[0];
    return {at::matmul(members, d.reshape({d.size(0), d.size(1), -1}))
                .view({d.size(0), members.size(0), d.size(2), d.size(3)}),
            at::Tensor(), at::Tensor()};
  }
};

// q [S, H, q, K], k and v [S, H, k, K] -> [S, H, q, K].
at::Tensor attend_padded(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                         const at::Tensor& bias, const AttentionHeads& heads) {
  if (heads.soft_cap == 0) {
    return at::scaled_dot_product_attention(q, k, v, bias, /*dropout_p=*/0, /*is_causal=*/false,
                                            heads.scale);
  }
  const at::Tensor scores = at::matmul(q * (heads.scale / heads.soft_cap), k.transpose(-2, -1));
  const at::Tensor seen = at::add(bias, at::tanh(scores), heads.soft_cap);
  return at::matmul(at::softmax(seen, -1), v);
}

// Rotated queries [n, H, K], rotated keys and values [T, Hkv, K] -> [n, H K].
at::Tensor attend_in_slots(const at::Tensor& queries, const at::Tensor& keys,
                           const at::Tensor& values, const AttentionHeads& heads,
                           const PaddedSpans& padded) {
  const std::int64_t spans = padded.bias.size(0);
  const auto by_span = [&](const at::Tensor& slots) {
    return slots.view({spans, -1, slots.size(1), heads.head_size}).transpose(1, 2);
  };
  const auto per_query_head = [&](const at::Tensor& x) {
    const at::Tensor slots = by_span(
        KeysInSlots::apply(x, padded.key_of_slot, padded.slots_by_key, padded.slots_per_key));
    return heads.kv_heads == heads.query_heads()
               ? slots
               : at::Tensor(PerQueryHead::apply(slots, heads.kv_index, heads.kv_members));
  };
  const at::Tensor result = attend_padded(
      by_span(QueriesInSlots::apply(queries, padded.query_of_slot, padded.slot_of_query)),
      per_query_head(keys), per_query_head(values), padded.bias, heads);
  return QueriesOfSlots::apply(
      result.transpose(1, 2).reshape({-1, heads.query_heads() * heads.head_size}),
      padded.slot_of_query);
}

// For any device and type: composed of tensor operations that autograd knows.
at::Tensor padded_attention(const at::Tensor& q, const at::Tensor& kv, const AttentionCall& call) {
  const WorkTimer timer(Work::kAttention);
  const AttentionHeads& heads = call.heads;
  const Heads of_q = turned_heads(q, {heads.query_heads(), 0, 0}, *call.queries.padded);
  const Heads of_kv = turned_heads(kv, {0, heads.kv_heads, heads.kv_heads}, *call.keys.padded);
  return attend_in_slots(of_q.queries, of_kv.keys, of_kv.values, heads, *call.queries.padded);
}

// The same where queries, keys and values are columns of one matrix: queries and keys turn
// together.
at::Tensor padded_self_attention(const at::Tensor& qkv, const AttentionHeads& heads,
                                 const PaddedSpans& rows) {
  const WorkTimer timer(Work::kAttention);
  const Heads turned =
      turned_heads(qkv, {heads.query_heads(), heads.kv_heads, heads.kv_heads}, rows);
  return attend_in_slots(turned.queries, turned.keys, turned.values, heads, rows);
}

Columns columns_of(const at::Tensor& x, std::int64_t first) {
  return {x.mutable_data_ptr<float>() + first, x.stride(0)};
}

// Kept by a fused call's node in the autograd graph, beside tensors.
struct KeptCall final : torch::CustomClassHolder {
  KeptCall(SharedHeads kept_heads, SharedQueries kept_queries, SharedQueries kept_keys)
      : heads(std::move(kept_heads)),
        queries(std::move(kept_queries)),
        keys(std::move(kept_keys)) {}

  AttentionCall call() const { return {*heads, *queries, *keys}; }

  SharedHeads heads;
  SharedQueries queries;
  SharedQueries keys;
};

using KeptCallPointer = c10::intrusive_ptr<KeptCall>;

// The fused operators differ only in where the columns of q and kv are; `operands` hold them.
at::Tensor fused_forward(AutogradContext* context, const KeptCallPointer& kept, Columns q,
                         Columns kv, variable_list operands) {
  const WorkTimer timer(Work::kAttention);
  const AttentionMemory memory = attend(q, kv, kept->call());
  operands.insert(operands.end(), {memory.queries, memory.keys, memory.log_sums});
  context->save_for_backward(std::move(operands));
  context->saved_data["call"] = c10::IValue::make_capsule(kept);
  return memory.result;
}

// `saved` ends with the memory's three tensors.
void fused_backward(const KeptCall& kept, const variable_list& saved, const at::Tensor& d_result,
                    Columns kv, AttentionGradients gradients) {
  const WorkTimer timer(Work::kAttention);
  const std::size_t first = saved.size() - 3;
  const AttentionMemory memory{at::Tensor(), saved[first], saved[first + 1], saved[first + 2]};
  attend_backward(memory, kv, d_result.contiguous(), kept.call(), gradients);
}

KeptCallPointer kept_call(AutogradContext* context) {
  return c10::static_intrusive_pointer_cast<KeptCall>(context->saved_data.at("call").toCapsule());
}

struct FusedSelfAttention : torch::autograd::Function<FusedSelfAttention> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& qkv,
                            const KeptCallPointer& kept) {
    return fused_forward(context, kept, columns_of(qkv, 0),
                         columns_of(qkv, kept->heads->query_width()), {qkv});
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const KeptCallPointer kept = kept_call(context);
    const auto saved = context->get_saved_variables();
    const std::int64_t first_kv = kept->heads->query_width();
    const at::Tensor d_qkv = at::empty_like(saved[0]);
    fused_backward(*kept, saved, gradients[0], columns_of(saved[0], first_kv),
                   {columns_of(d_qkv, 0), columns_of(d_qkv, first_kv)});
    return {d_qkv, at::Tensor()};
  }
};

struct FusedAttention : torch::autograd::Function<FusedAttention> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& kv,
                            const KeptCallPointer& kept) {
    return fused_forward(context, kept, columns_of(q, 0), columns_of(kv, 0), {q, kv});
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const KeptCallPointer kept = kept_call(context);
    const auto saved = context->get_saved_variables();
    const at::Tensor d_q = at::empty_like(saved[0]);
    const at::Tensor d_kv = at::empty_like(saved[1]);
    fused_backward(*kept, saved, gradients[0], columns_of(saved[1], 0),
                   {columns_of(d_q, 0), columns_of(d_kv, 0)});
    return {d_q, d_kv, at::Tensor()};
  }
};

}  // namespace

void set_head_tables(AttentionHeads& heads, at::TensorOptions residual) {
  const at::Tensor index = at::tensor(heads.kv_head_of_query, at::kLong);
  heads.kv_index = index.to(residual.device());
  heads.kv_members = at::arange(heads.kv_heads).unsqueeze(1).eq(index).to(residual);
  std::vector<std::int64_t> first_query(static_cast<std::size_t>(heads.kv_heads) + 1);
  for (const std::int64_t kv_head : heads.kv_head_of_query) {
    ++first_query[static_cast<std::size_t>(kv_head) + 1];
  }
  std::partial_sum(first_query.begin(), first_query.end(), first_query.begin());
  heads.first_query = at::tensor(first_query, at::kLong).to(residual.device());
}

at::Tensor self_attention(const at::Tensor& qkv, const SharedHeads& heads,
                          const SharedQueries& rows, const HeadTransforms& operands) {
  if (runs_compiled(qkv)) {
    return device_self_attention(qkv, *heads, *rows, operands);
  }
  if (runs_fused(qkv)) {
    return FusedSelfAttention::apply(qkv, c10::make_intrusive<KeptCall>(heads, rows, rows));
  }
  return padded_self_attention(qkv, *heads, *rows->padded);
}

at::Tensor attention(const at::Tensor& q, const at::Tensor& kv, const SharedHeads& heads,
                     const SharedQueries& queries, const SharedQueries& keys,
                     const HeadTransforms& operands) {
  if (runs_compiled(q)) {
    return device_attention(q, kv, *heads, *queries, *keys, operands);
  }
  if (runs_fused(q) && runs_fused(kv)) {
    return FusedAttention::apply(q, kv, c10::make_intrusive<KeptCall>(heads, queries, keys));
  }
  return padded_attention(q, kv, {*heads, *queries, *keys});
}

KeptRows make_kept_rows(const AttentionHeads& heads, std::int64_t rows,
                        const at::TensorOptions& options) {
  const at::Tensor values = at::empty({heads.kv_heads, rows, heads.head_size}, options);
  return {runs_fused(values) && tiles::runs_here() ? make_key_strips(heads, rows, options)
                                                   : at::empty_like(values),
          values};
}

at::Tensor cached_attention(const at::Tensor& q, const at::Tensor& kv, const AttentionHeads& heads,
                            const QuerySet& rows, const at::Tensor& places, const KeptRows& kept,
                            const HeadTransforms& operands) {
  const WorkTimer timer(Work::kAttention);
  if (runs_compiled(q)) {
    return device_cached_attention(q, kv, heads, rows, places, kept, operands);
  }
  if (!rows.padded) {
    keep_rows(columns_of(kv, 0), heads, rows, places.const_data_ptr<std::int64_t>(), kept);
    return attend_to_kept(columns_of(q, 0), heads, rows, kept);
  }
  const Heads of_q = turned_heads(q, {heads.query_heads(), 0, 0}, *rows.padded);
  const Heads of_kv = turned_heads(kv, {0, heads.kv_heads, heads.kv_heads}, *rows.padded);
  kept.keys.index_copy_(1, places, of_kv.keys.transpose(0, 1));
  kept.values.index_copy_(1, places, of_kv.values.transpose(0, 1));
  return attend_in_slots(of_q.queries, kept.keys.transpose(0, 1), kept.values.transpose(0, 1),
                         heads, *rows.padded);
}

}  // namespace bipo
