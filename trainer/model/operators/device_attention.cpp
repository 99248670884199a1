#include "trainer/model/operators/device_attention.hpp"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <mutex>
#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "collectives/profile.hpp"
#include "trainer/model/device_kernels/kernel_runner.hpp"
#include "trainer/model/operators/operators.hpp"

namespace bipo {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// --- heads ---------------------------------------------------------------------------------------

// Where turned heads go: into matrices of x's type for each kind; or, for flash attention, into
// bfloat16, with keys and values together.
enum class TurnedFor { kSlots, kFlash };

// x [n, heads.in_row() K] -> queries, keys and values [n, heads of the kind, K]; for flash
// attention queries, and keys and values [n, keys + values, K].
struct TurnDeviceHeads : torch::autograd::Function<TurnDeviceHeads> {
  static variable_list forward(AutogradContext* context, const at::Tensor& x,
                               const HeadCounts& heads, const at::Tensor& cos,
                               const at::Tensor& sin, const HeadTransforms& operands,
                               TurnedFor purpose, bool narrow) {
    context->set_materialize_grads(false);
    context->save_for_backward({cos, sin, operands.has_norms() ? x : at::Tensor(), operands.bias,
                                operands.query_norm, operands.key_norm, operands.value_norm,
                                operands.query_factor});
    context->saved_data["heads"] =
        std::vector<std::int64_t>{heads.queries, heads.keys, heads.values, heads.shares_keys};
    context->saved_data["epsilon"] = operands.epsilon;
    context->saved_data["together"] = operands.together;
    context->saved_data["narrow"] = narrow;
    const TurnedHeads turned =
        compiled_turn(x, heads, cos, sin, operands, purpose == TurnedFor::kFlash);
    return purpose == TurnedFor::kFlash ? variable_list{turned.queries, turned.keys_and_values}
                                        : variable_list{turned.queries, turned.keys, turned.values};
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const auto counts = context->saved_data.at("heads").toIntVector();
    const HeadCounts heads{counts[0], counts[1], counts[2], counts[3] != 0};
    const HeadTransforms operands{saved[3],
                                  saved[4],
                                  saved[5],
                                  saved[6],
                                  saved[7],
                                  context->saved_data.at("epsilon").toDouble(),
                                  context->saved_data.at("together").toBool()};
    TurnedHeads d{gradients[0], gradients[1], {}, {}};
    if (gradients.size() == 3) {
      d.values = gradients[2];
    } else if (gradients[1].defined()) {
      d.keys = gradients[1].narrow(1, 0, heads.keys);
      d.values = gradients[1].narrow(1, heads.keys, heads.values);
    }
    return {compiled_turn_back(d, heads, saved[0], saved[1], operands, saved[2],
                               context->saved_data.at("narrow").toBool()),
            at::Tensor(),
            at::Tensor(),
            at::Tensor(),
            at::Tensor(),
            at::Tensor(),
            at::Tensor()};
  }
};

// Returns the operands of so many heads from the first on, of which the first are queries.
HeadTransforms operands_of(const HeadTransforms& all, std::int64_t first, std::int64_t count,
                           std::int64_t head_size) {
  HeadTransforms part = all;
  if (part.bias.defined()) {
    part.bias = part.bias.narrow(0, first * head_size, count * head_size);
  }
  return part;
}

// --- slots ---------------------------------------------------------------------------------------

// x [n, H, K] -> [S, H, q, K].  Slots that repeat a query get no gradient, because nothing reads
// their result.
struct QueriesIntoSlots : torch::autograd::Function<QueriesIntoSlots> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x,
                            const at::Tensor& query_of_slot, const at::Tensor& slot_of_query,
                            std::int64_t spans, bool by_slot) {
    context->save_for_backward({slot_of_query});
    return compiled_to_slots(x, {.row_of_slot = query_of_slot, .spans = spans, .by_slot = by_slot},
                             x.scalar_type());
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    return {compiled_from_slots(gradients[0], context->get_saved_variables()[0]), at::Tensor(),
            at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

// x [T, Hkv, K] -> [S, H, k, K].  Slots without a key have no weight, hence no gradient.
struct KeysIntoSlots : torch::autograd::Function<KeysIntoSlots> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x,
                            const PaddedSpans& padded, const AttentionHeads& heads, bool by_slot) {
    context->save_for_backward({padded.slots_by_key, padded.first_slot, heads.first_query});
    context->saved_data["rows"] = x.size(0);
    return compiled_to_slots(x,
                             {.row_of_slot = padded.key_of_slot,
                              .head_of = heads.kv_index,
                              .spans = padded.bias.size(0),
                              .by_slot = by_slot},
                             x.scalar_type());
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor& d = gradients[0];
    const at::Tensor sums = at::empty(
        {context->saved_data.at("rows").toInt(), saved[2].size(0) - 1, d.size(3)}, d.options());
    compiled_sum_slots(d, saved[0], saved[1], saved[2], sums);
    return {sums, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

// x [S, H, q, K] -> [n, H K].
struct OutOfSlots : torch::autograd::Function<OutOfSlots> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x,
                            const at::Tensor& query_of_slot, const at::Tensor& slot_of_query,
                            bool by_slot, bool narrow) {
    context->save_for_backward({query_of_slot, slot_of_query});
    context->saved_data["spans"] = x.size(0);
    context->saved_data["heads"] = x.size(1);
    context->saved_data["by_slot"] = by_slot;
    context->saved_data["type"] = static_cast<std::int64_t>(x.scalar_type());
    return compiled_from_slots(x, slot_of_query, narrow).view({slot_of_query.size(0), -1});
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor& d = gradients[0];
    const at::Tensor by_head = d.reshape({d.size(0), context->saved_data.at("heads").toInt(), -1});
    return {compiled_to_slots(by_head,
                              {.row_of_slot = saved[0],
                               .slot_of_row = saved[1],
                               .spans = context->saved_data.at("spans").toInt(),
                               .by_slot = context->saved_data.at("by_slot").toBool()},
                              static_cast<at::ScalarType>(context->saved_data.at("type").toInt())),
            at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

// softmax(cap(s q k^T) + bias) v for dense q [S, H, q, K], k and v [S, H, k, K].
struct CappedAttention : torch::autograd::Function<CappedAttention> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& k,
                            const at::Tensor& v, const at::Tensor& bias, double scale, double cap) {
    const at::Tensor scores = at::bmm(by_head(q), by_head(k).transpose(1, 2))
                                  .view({q.size(0), q.size(1), q.size(2), k.size(2)});
    const at::Tensor weights = compiled_capped_softmax(scores, bias, scale, cap);
    context->save_for_backward({q, k, v, scores, weights});
    context->saved_data["scale"] = scale;
    context->saved_data["cap"] = cap;
    return at::bmm(by_head(weights), by_head(v)).view(q.sizes());
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const auto& [q, k, v, scores, weights] =
        std::tie(saved[0], saved[1], saved[2], saved[3], saved[4]);
    const at::Tensor d = by_head(gradients[0].contiguous());
    const at::Tensor dv = at::bmm(by_head(weights).transpose(1, 2), d);
    const at::Tensor d_scores = at::bmm(d, by_head(v).transpose(1, 2));
    compiled_capped_softmax_backward(scores, weights, context->saved_data.at("scale").toDouble(),
                                     context->saved_data.at("cap").toDouble(), d_scores);
    return {at::bmm(d_scores, by_head(k)).view(q.sizes()),
            at::bmm(d_scores.transpose(1, 2), by_head(q)).view(k.sizes()),
            dv.view(v.sizes()),
            at::Tensor(),
            at::Tensor(),
            at::Tensor()};
  }

  // x [S, H, n, m] -> [S H, n, m].
  static at::Tensor by_head(const at::Tensor& x) { return x.flatten(0, 1); }
};

// Turned queries [n, H, K], keys and values [T, Hkv, K] -> [n, H K].
at::Tensor attend_padded_rows(const at::Tensor& queries, const at::Tensor& keys,
                              const at::Tensor& values, const AttentionHeads& heads,
                              const PaddedSpans& padded) {
  // libtorch's attention wants rows of all heads, its products heads of all rows.
  const bool by_slot = heads.soft_cap == 0;
  const at::Tensor q = QueriesIntoSlots::apply(queries, padded.query_of_slot, padded.slot_of_query,
                                               padded.bias.size(0), by_slot);
  const at::Tensor k = KeysIntoSlots::apply(keys, padded, heads, by_slot);
  const at::Tensor v = KeysIntoSlots::apply(values, padded, heads, by_slot);
  const at::Tensor result =
      by_slot
          ? at::scaled_dot_product_attention(q, k, v, padded.bias, /*dropout_p=*/0,
                                             /*is_causal=*/false, heads.scale)
          : at::Tensor(CappedAttention::apply(q, k, v, padded.bias, heads.scale, heads.soft_cap));
  const at::Tensor attended =
      OutOfSlots::apply(result, padded.query_of_slot, padded.slot_of_query, by_slot, heads.narrow);
  accept_any_gradient(attended);
  return attended;
}

TurnedHeads turned_for_slots(const at::Tensor& x, const HeadCounts& counts,
                             const PaddedSpans& padded, const HeadTransforms& operands,
                             bool narrow) {
  const variable_list turned = TurnDeviceHeads::apply(x, counts, padded.cos, padded.sin, operands,
                                                      TurnedFor::kSlots, narrow);
  return {turned[0], turned[1], turned[2], {}};
}

// --- flash attention -----------------------------------------------------------------------------

// While any of them lives libtorch's deterministic kernels run: flash attention's backward pass
// then adds the parts of a query's gradient in a fixed order, instead of as they come.
class DeterministicKernels {
 public:
  DeterministicKernels() {
    const std::lock_guard lock(mutex_);
    if (users_++ == 0) {
      at::Context& context = at::globalContext();
      before_ = {context.deterministicAlgorithms(), context.deterministicAlgorithmsWarnOnly(),
                 context.deterministicFillUninitializedMemory()};
      set({true, false, false});
    }
  }
  ~DeterministicKernels() {
    const std::lock_guard lock(mutex_);
    if (--users_ == 0) {
      set(before_);
    }
  }
  DeterministicKernels(const DeterministicKernels&) = delete;
  DeterministicKernels& operator=(const DeterministicKernels&) = delete;

 private:
  struct Settings {
    bool on;
    bool warns_only;
    bool fills_memory;  // with NaN, a kernel for each new tensor
  };

  static void set(const Settings& settings) {
    at::Context& context = at::globalContext();
    context.setDeterministicAlgorithms(settings.on, settings.warns_only);
    context.setDeterministicFillUninitializedMemory(settings.fills_memory);
  }

  // The settings are the process's.
  static inline std::mutex mutex_;
  static inline int users_ = 0;
  static inline Settings before_{};
};

// What both passes give to libtorch.
struct FlashCall {
  std::int64_t most_queries;
  std::int64_t most_keys;
  double scale;
  std::optional<std::int64_t> window_left;  // keys before a query's own that it sees
};

FlashCall flash_call(const JoinedSpans& spans, double scale) {
  FlashCall call;
  // For spans of one query each libtorch has another forward pass, which wants all spans to have
  // one: a larger bound keeps it off.
  call.most_queries = std::max<std::int64_t>(2, spans.most_queries);
  call.most_keys = spans.most_keys;
  call.scale = scale;
  if (spans.window > 0) {
    call.window_left = spans.window - 1;
  }
  return call;
}

// Turned queries [n, H, K] and keys and values [T, 2 Hkv, K], bfloat16 -> [n, H K].  A span's last
// query sees its last key, the one before it the key before, and so on (causality is aligned at the
// bottom right), which is what a QuerySpan means.
struct FlashAttention : torch::autograd::Function<FlashAttention> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& kv,
                            const JoinedSpans& spans, double scale) {
    const WorkTimer timer(Work::kAttention);
    const FlashCall call = flash_call(spans, scale);
    const auto [keys, values] = gathered(kv, spans.row_of_key);
    const auto [out, log_sums, random, unused, mask] = at::_flash_attention_forward(
        q, keys, values, spans.query_bounds, spans.key_bounds, call.most_queries, call.most_keys,
        /*dropout_p=*/0, /*is_causal=*/true, /*return_debug_mask=*/false, call.scale,
        call.window_left);
    context->save_for_backward({q, kv, out, log_sums, random, unused, spans.row_of_key,
                                spans.keys_by_row, spans.first_key, spans.query_bounds,
                                spans.key_bounds});
    context->saved_data["most"] = std::vector<std::int64_t>{spans.most_queries, spans.most_keys};
    context->saved_data["window"] = spans.window;
    context->saved_data["scale"] = scale;
    return out.view({q.size(0), -1});
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const WorkTimer timer(Work::kAttention);
    const auto saved = context->get_saved_variables();
    const at::Tensor& q = saved[0];
    const at::Tensor& kv = saved[1];
    JoinedSpans spans;
    const auto most = context->saved_data.at("most").toIntVector();
    spans.most_queries = most[0];
    spans.most_keys = most[1];
    spans.window = context->saved_data.at("window").toInt();
    const FlashCall call = flash_call(spans, context->saved_data.at("scale").toDouble());
    const auto [keys, values] = gathered(kv, saved[6]);
    const at::Tensor d = gradients[0].to(q.scalar_type()).view(q.sizes());
    const DeterministicKernels deterministic;
    const auto [dq, dk, dv] = at::_flash_attention_backward(
        d, q, keys, values, saved[2], saved[3], saved[9], saved[10], call.most_queries,
        call.most_keys, /*dropout_p=*/0, /*is_causal=*/true, saved[4], saved[5], call.scale,
        call.window_left);
    const std::int64_t kv_heads = kv.size(1) / 2;
    const at::Tensor d_kv = at::empty(kv.sizes(), kv.options().dtype(at::kFloat));
    const auto sum = [&](const at::Tensor& of_keys, std::int64_t first) {
      compiled_sum_slots(of_keys.transpose(0, 1).unsqueeze(0), saved[7], saved[8], at::Tensor(),
                         d_kv.narrow(1, first, kv_heads));
    };
    sum(dk, 0);
    sum(dv, kv_heads);
    return {dq, d_kv, at::Tensor(), at::Tensor()};
  }

  // Returns the spans' keys and values [k, Hkv, K], which are not kept between the passes.
  static std::pair<at::Tensor, at::Tensor> gathered(const at::Tensor& kv, const at::Tensor& rows) {
    const at::Tensor both = kv.index_select(0, rows);
    const std::int64_t heads = kv.size(1) / 2;
    return {both.narrow(1, 0, heads), both.narrow(1, heads, heads)};
  }
};

at::Tensor attend_by_flash(const at::Tensor& q, const at::Tensor& kv, const JoinedSpans& spans,
                           const AttentionHeads& heads) {
  accept_any_gradient(kv);
  const at::Tensor attended = FlashAttention::apply(q, kv, spans, heads.scale);
  accept_any_gradient(attended);
  return attended;
}

}  // namespace

std::string flash_obstacle(const AttentionHeads& heads, std::int64_t largest_head) {
  if (heads.soft_cap != 0) {
    return "the model caps its attention scores";
  }
  constexpr std::int64_t kMultiple = 8;
  if (heads.head_size % kMultiple != 0 || heads.head_size > largest_head) {
    return fmt::format("the model's heads have {} numbers, where multiples of {} until {} will do",
                       heads.head_size, kMultiple, largest_head);
  }
  const std::int64_t group = heads.query_heads() / heads.kv_heads;
  for (std::int64_t head = 0; head < heads.query_heads(); ++head) {
    if (heads.query_heads() % heads.kv_heads != 0 ||
        heads.kv_head_of_query[static_cast<std::size_t>(head)] != head / group) {
      return "--tp divides the model's query heads such that those of a rank share their key heads "
             "unevenly";
    }
  }
  return "";
}

bool runs_flash_attention(const AttentionHeads& heads, at::ScalarType product_type,
                          at::Device device) {
  const std::int64_t largest_head = device.is_cpu() ? 0 : largest_flash_head(device);
  if (chosen_attention() == AttentionChoice::kComposed || product_type != at::kBFloat16 ||
      largest_head == 0) {
    return false;
  }
  const std::string reason = flash_obstacle(heads, largest_head);
  if (!reason.empty() && chosen_attention() == AttentionChoice::kFlash) {
    throw UserError(fmt::format("--attention flash: {}; --attention auto composes it", reason));
  }
  return reason.empty();
}

at::Tensor device_self_attention(const at::Tensor& qkv, const AttentionHeads& heads,
                                 const QuerySet& rows, const HeadTransforms& operands) {
  const HeadCounts counts{heads.query_heads(), heads.kv_heads, heads.kv_heads,
                          operands.shares_keys};
  if (rows.joined) {
    const variable_list turned = TurnDeviceHeads::apply(
        qkv, counts, rows.joined->cos, rows.joined->sin, operands, TurnedFor::kFlash, heads.narrow);
    return attend_by_flash(turned[0], turned[1], *rows.joined, heads);
  }
  const WorkTimer timer(Work::kAttention);
  const TurnedHeads turned = turned_for_slots(qkv, counts, *rows.padded, operands, heads.narrow);
  return attend_padded_rows(turned.queries, turned.keys, turned.values, heads, *rows.padded);
}

at::Tensor device_attention(const at::Tensor& q, const at::Tensor& kv, const AttentionHeads& heads,
                            const QuerySet& queries, const QuerySet& keys,
                            const HeadTransforms& operands) {
  const HeadCounts of_q{heads.query_heads(), 0, 0};
  const HeadCounts of_kv{0, heads.kv_heads, heads.kv_heads, operands.shares_keys};
  const HeadTransforms q_operands = operands_of(operands, 0, of_q.sum(), heads.head_size);
  const HeadTransforms kv_operands =
      operands_of(operands, of_q.sum(), of_kv.in_row(), heads.head_size);
  if (queries.joined) {
    const at::Tensor turned_q =
        TurnDeviceHeads::apply(q, of_q, queries.joined->cos, queries.joined->sin, q_operands,
                               TurnedFor::kFlash, heads.narrow)[0];
    const at::Tensor turned_kv =
        TurnDeviceHeads::apply(kv, of_kv, keys.joined->cos, keys.joined->sin, kv_operands,
                               TurnedFor::kFlash, heads.narrow)[1];
    return attend_by_flash(turned_q, turned_kv, *queries.joined, heads);
  }
  const WorkTimer timer(Work::kAttention);
  const TurnedHeads turned_q = turned_for_slots(q, of_q, *queries.padded, q_operands, heads.narrow);
  const TurnedHeads turned_kv =
      turned_for_slots(kv, of_kv, *keys.padded, kv_operands, heads.narrow);
  return attend_padded_rows(turned_q.queries, turned_kv.keys, turned_kv.values, heads,
                            *queries.padded);
}

at::Tensor device_cached_attention(const at::Tensor& q, const at::Tensor& kv,
                                   const AttentionHeads& heads, const QuerySet& rows,
                                   const at::Tensor& places, const KeptRows& kept,
                                   const HeadTransforms& operands) {
  const HeadCounts of_q{heads.query_heads(), 0, 0};
  const HeadCounts of_kv{0, heads.kv_heads, heads.kv_heads, operands.shares_keys};
  const TurnedHeads turned_q = turned_for_slots(
      q, of_q, *rows.padded, operands_of(operands, 0, of_q.sum(), heads.head_size), heads.narrow);
  const TurnedHeads turned_kv = turned_for_slots(
      kv, of_kv, *rows.padded, operands_of(operands, of_q.sum(), of_kv.in_row(), heads.head_size),
      heads.narrow);
  kept.keys.index_copy_(1, places, turned_kv.keys.transpose(0, 1));
  kept.values.index_copy_(1, places, turned_kv.values.transpose(0, 1));
  return attend_padded_rows(turned_q.queries, kept.keys.transpose(0, 1),
                            kept.values.transpose(0, 1), heads, *rows.padded);
}

}  // namespace bipo
