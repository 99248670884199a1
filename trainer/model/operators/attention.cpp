#include "trainer/model/operators/attention.hpp"

#include <ATen/ATen.h>
#include <ATen/core/ivalue.h>
#include <torch/csrc/autograd/custom_function.h>

#include <limits>
#include <utility>

#include "collectives/profile.hpp"
#include "trainer/model/operators/cpu_attention.hpp"
#include "trainer/model/operators/operators.hpp"

namespace bipo {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Turns x [n, heads, K] by the angles of its rows.
at::Tensor rotated(const at::Tensor& x, const QuerySet& rows) {
  const auto halves = x.chunk(2, -1);
  const at::Tensor cos = rows.cos.unsqueeze(1);
  const at::Tensor sin = rows.sin.unsqueeze(1);
  return at::cat({halves[0] * cos - halves[1] * sin, halves[1] * cos + halves[0] * sin}, -1);
}

// q [S, H, q, K], k and v [S, H, k, K] -> [S, H, q, K].
at::Tensor attend_padded(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                         const at::Tensor& mask, const AttentionHeads& heads) {
  if (heads.soft_cap == 0) {
    return at::scaled_dot_product_attention(q, k, v, mask, /*dropout_p=*/0, /*is_causal=*/false,
                                            heads.scale);
  }
  const at::Tensor scores = at::matmul(q * heads.scale, k.transpose(-2, -1));
  const at::Tensor capped = at::tanh(scores / heads.soft_cap) * heads.soft_cap;
  const at::Tensor seen =
      capped.masked_fill(mask.logical_not(), -std::numeric_limits<double>::infinity());
  return at::matmul(at::softmax(seen, -1), v);
}

// Views x [n, count K] as [n, count, K].
at::Tensor by_head(const at::Tensor& x, std::int64_t count, std::int64_t head_size) {
  return x.reshape({x.size(0), count, head_size});
}

// Rotated queries [n, H, K], rotated keys and values [T, Hkv, K] -> [n, H K].
at::Tensor attend_in_slots(const at::Tensor& queries, const at::Tensor& keys,
                           const at::Tensor& values, const AttentionHeads& heads,
                           const PaddedSpans& padded) {
  const std::int64_t spans = padded.mask.size(0);
  const at::Tensor head_index = at::tensor(heads.kv_head_of_query, at::kLong).to(queries.device());
  const auto in_slots = [&](const at::Tensor& x, const at::Tensor& row_of_slot) {
    return x.index_select(0, row_of_slot)
        .view({spans, -1, x.size(1), heads.head_size})
        .transpose(1, 2);
  };
  const at::Tensor result = attend_padded(
      in_slots(queries, padded.query_of_slot),
      in_slots(keys, padded.key_of_slot).index_select(1, head_index),
      in_slots(values, padded.key_of_slot).index_select(1, head_index), padded.mask, heads);
  return result.transpose(1, 2)
      .reshape({-1, heads.query_heads() * heads.head_size})
      .index_select(0, padded.slot_of_query);
}

// For any device and type: composed of tensor operations that autograd knows.
at::Tensor padded_attention(const at::Tensor& q, const at::Tensor& kv, const AttentionCall& call) {
  const WorkTimer timer(Work::kAttention);
  const AttentionHeads& heads = call.heads;
  const std::int64_t width = heads.kv_heads * heads.head_size;
  return attend_in_slots(
      rotated(by_head(q, heads.query_heads(), heads.head_size), call.queries),
      rotated(by_head(kv.narrow(1, 0, width), heads.kv_heads, heads.head_size), call.keys),
      by_head(kv.narrow(1, width, width), heads.kv_heads, heads.head_size), heads,
      *call.queries.padded);
}

Columns columns_of(const at::Tensor& x, std::int64_t first) {
  return {x.mutable_data_ptr<float>() + first, x.stride(0)};
}

std::int64_t query_columns(const AttentionHeads& heads) {
  return heads.query_heads() * heads.head_size;
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
                         columns_of(qkv, query_columns(*kept->heads)), {qkv});
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const KeptCallPointer kept = kept_call(context);
    const auto saved = context->get_saved_variables();
    const std::int64_t first_kv = query_columns(*kept->heads);
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

at::Tensor self_attention(const at::Tensor& qkv, const SharedHeads& heads,
                          const SharedQueries& rows) {
  if (runs_fused(qkv)) {
    return FusedSelfAttention::apply(qkv, c10::make_intrusive<KeptCall>(heads, rows, rows));
  }
  const std::int64_t width = query_columns(*heads);
  return padded_attention(qkv.narrow(1, 0, width), qkv.narrow(1, width, qkv.size(1) - width),
                          {*heads, *rows, *rows});
}

at::Tensor attention(const at::Tensor& q, const at::Tensor& kv, const SharedHeads& heads,
                     const SharedQueries& queries, const SharedQueries& keys) {
  if (runs_fused(q) && runs_fused(kv)) {
    return FusedAttention::apply(q, kv, c10::make_intrusive<KeptCall>(heads, queries, keys));
  }
  return padded_attention(q, kv, {*heads, *queries, *keys});
}

at::Tensor cached_attention(const at::Tensor& q, const at::Tensor& kv, const AttentionHeads& heads,
                            const QuerySet& rows, const at::Tensor& places, const KeptRows& kept) {
  const WorkTimer timer(Work::kAttention);
  if (!rows.padded) {
    keep_rows(columns_of(kv, 0), heads, rows, places.const_data_ptr<std::int64_t>(), kept);
    return attend_to_kept(columns_of(q, 0), heads, rows, kept);
  }
  const std::int64_t width = heads.kv_heads * heads.head_size;
  const auto new_rows = [&](std::int64_t first) {
    return by_head(kv.narrow(1, first, width), heads.kv_heads, heads.head_size);
  };
  kept.keys.index_copy_(1, places, rotated(new_rows(0), rows).transpose(0, 1));
  kept.values.index_copy_(1, places, new_rows(width).transpose(0, 1));
  return attend_in_slots(rotated(by_head(q, heads.query_heads(), heads.head_size), rows),
                         kept.keys.transpose(0, 1), kept.values.transpose(0, 1), heads,
                         *rows.padded);
}

}  // namespace bipo
