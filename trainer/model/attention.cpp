#include "trainer/model/attention.hpp"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <limits>

namespace bipo {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// x [H, T, K]: the rows that `span` attends to, in order: its context, then itself.
at::Tensor visible_rows(const at::Tensor& x, const AttentionSpan& span) {
  if (span.context.empty()) {
    return x.narrow(1, span.rows.begin, span.rows.size());
  }
  std::vector<at::Tensor> parts;
  for (const Range& range : span.context) {
    parts.push_back(x.narrow(1, range.begin, range.size()));
  }
  parts.push_back(x.narrow(1, span.rows.begin, span.rows.size()));
  return at::cat(parts, 1);
}

// Adds `update` [H, visible rows, K] to the rows of x [H, T, K] it belongs to.
void add_to_visible_rows(const at::Tensor& x, const AttentionSpan& span, const at::Tensor& update) {
  std::int64_t offset = 0;
  const auto add = [&](const Range& range) {
    x.narrow(1, range.begin, range.size()).add_(update.narrow(1, offset, range.size()));
    offset += range.size();
  };
  for (const Range& range : span.context) {
    add(range);
  }
  add(span.rows);
}

// [H, n, visible] attention weights of one span; q is scaled.
at::Tensor span_weights(const at::Tensor& q, const at::Tensor& keys, const SequenceLayout& layout) {
  const auto rows = q.size(1);
  const at::Tensor scores = at::bmm(q, keys.transpose(1, 2));
  scores.narrow(2, keys.size(1) - rows, rows)
      .masked_fill_(layout.causal_mask.narrow(0, 0, rows).narrow(1, 0, rows),
                    -std::numeric_limits<double>::infinity());
  return at::softmax(scores, -1);
}

// Sums the query heads of each key/value head: [H, T, K] -> [T, Hkv, K].
at::Tensor sum_over_queries(const at::Tensor& x, const std::vector<std::int64_t>& kv_head_of_query,
                            std::int64_t kv_heads) {
  const at::Tensor sum = at::empty({x.size(1), kv_heads, x.size(2)}, x.options());
  std::int64_t first = 0;
  for (std::int64_t kv = 0; kv < kv_heads; ++kv) {
    std::int64_t end = first;
    while (end < x.size(0) && kv_head_of_query[static_cast<std::size_t>(end)] == kv) {
      ++end;
    }
    sum.select(1, kv).copy_(x.narrow(0, first, end - first).sum(0));
    first = end;
  }
  return sum;
}

struct PackedAttention : torch::autograd::Function<PackedAttention> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& k,
                            const at::Tensor& v, const std::vector<std::int64_t>& kv_head_of_query,
                            const SequenceLayout* layout, bool keep) {
    const double scale = 1 / std::sqrt(static_cast<double>(q.size(2)));
    const at::Tensor heads =
        at::tensor(kv_head_of_query, at::TensorOptions().dtype(at::kLong).device(q.device()));
    const at::Tensor queries = (q.transpose(0, 1) * scale).contiguous();  // [H, T, K]
    const at::Tensor keys = k.transpose(0, 1).index_select(0, heads);     // [H, T, K]
    const at::Tensor values = v.transpose(0, 1).index_select(0, heads);   // [H, T, K]
    const at::Tensor result = at::empty({q.size(0), q.size(1), q.size(2)}, q.options());
    variable_list saved{queries, keys, values};
    for (const AttentionSpan& span : layout->spans) {
      const at::Tensor weights = span_weights(queries.narrow(1, span.rows.begin, span.rows.size()),
                                              visible_rows(keys, span), *layout);
      result.narrow(0, span.rows.begin, span.rows.size())
          .copy_(at::bmm(weights, visible_rows(values, span)).transpose(0, 1));
      if (keep) {
        saved.push_back(weights);
      }
    }
    if (keep) {
      context->save_for_backward(std::move(saved));
      context->saved_data["layout"] = reinterpret_cast<std::int64_t>(layout);
      context->saved_data["kv_head_of_query"] = kv_head_of_query;
      context->saved_data["kv_heads"] = k.size(1);
      context->saved_data["scale"] = scale;
    }
    return result.flatten(1);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const auto& layout =
        *reinterpret_cast<const SequenceLayout*>(context->saved_data.at("layout").toInt());
    const at::Tensor& queries = saved[0];
    const at::Tensor& keys = saved[1];
    const at::Tensor& values = saved[2];
    const at::Tensor d_result = gradients[0]
                                    .view({queries.size(1), queries.size(0), queries.size(2)})
                                    .transpose(0, 1)
                                    .contiguous();
    const at::Tensor d_queries = at::empty_like(queries);
    const at::Tensor d_keys = at::zeros_like(keys);
    const at::Tensor d_values = at::zeros_like(values);
    for (std::size_t i = 0; i < layout.spans.size(); ++i) {
      const AttentionSpan& span = layout.spans[i];
      const at::Tensor& weights = saved[3 + i];
      const at::Tensor d_rows = d_result.narrow(1, span.rows.begin, span.rows.size());
      const at::Tensor span_queries = queries.narrow(1, span.rows.begin, span.rows.size());
      add_to_visible_rows(d_values, span, at::bmm(weights.transpose(1, 2), d_rows));
      const at::Tensor d_weights = at::bmm(d_rows, visible_rows(values, span).transpose(1, 2));
      const at::Tensor d_scores =
          at::_softmax_backward_data(d_weights, weights, -1, weights.scalar_type());
      d_queries.narrow(1, span.rows.begin, span.rows.size())
          .copy_(at::bmm(d_scores, visible_rows(keys, span)));
      add_to_visible_rows(d_keys, span, at::bmm(d_scores.transpose(1, 2), span_queries));
    }
    const auto kv_head_of_query = context->saved_data.at("kv_head_of_query").toIntVector();
    const auto kv_heads = context->saved_data.at("kv_heads").toInt();
    return {d_queries.mul_(context->saved_data.at("scale").toDouble()).transpose(0, 1),
            sum_over_queries(d_keys, kv_head_of_query, kv_heads),
            sum_over_queries(d_values, kv_head_of_query, kv_heads),
            at::Tensor(),
            at::Tensor(),
            at::Tensor()};
  }
};

}  // namespace

at::Tensor packed_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const std::vector<std::int64_t>& kv_head_of_query,
                            const SequenceLayout& layout) {
  const bool keep =
      at::GradMode::is_enabled() && (q.requires_grad() || k.requires_grad() || v.requires_grad());
  return PackedAttention::apply(q, k, v, kv_head_of_query, &layout, keep);
}

}  // namespace bipo
