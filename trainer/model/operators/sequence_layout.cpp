#include "trainer/model/operators/sequence_layout.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

#include "trainer/model/operators/operators.hpp"
#include "trainer/model/operators/rotary_tables.hpp"

namespace bipo {
namespace {

std::int64_t key_count(const QuerySpan& span) {
  return context_size(span) + span.visible + span.queries.size() - 1;
}

// Returns the spans of the queries `answer_rows` (ascending), or of all rows where it is null, over
// `parts`, which cover [0, T) in order.
std::vector<QuerySpan> query_spans(const std::vector<SequencePart>& parts,
                                   const std::vector<std::int64_t>* answer_rows,
                                   std::int64_t window) {
  std::vector<QuerySpan> spans;
  if (answer_rows == nullptr) {
    for (const SequencePart& part : parts) {
      spans.push_back({part.rows, part.rows, 1, part.context, window});
    }
    return spans;
  }
  std::size_t next = 0;
  for (const SequencePart& part : parts) {
    while (next < answer_rows->size() && (*answer_rows)[next] < part.rows.end) {
      const std::size_t first = next;
      do {
        ++next;
      } while (next < answer_rows->size() && (*answer_rows)[next] < part.rows.end &&
               (*answer_rows)[next] == (*answer_rows)[next - 1] + 1);
      spans.push_back({{static_cast<std::int64_t>(first), static_cast<std::int64_t>(next)},
                       part.rows,
                       (*answer_rows)[first] - part.rows.begin + 1,
                       part.context,
                       window});
    }
  }
  return spans;
}

PaddedSpans pad_spans(const std::vector<QuerySpan>& spans, at::Device device) {
  std::int64_t most_queries = 0;
  std::int64_t most_keys = 0;
  for (const QuerySpan& span : spans) {
    most_queries = std::max(most_queries, span.queries.size());
    most_keys = std::max(most_keys, key_count(span));
  }
  std::vector<std::int64_t> query_of_slot;
  std::vector<std::int64_t> key_of_slot;
  std::vector<std::int64_t> slot_of_query;
  std::vector<std::int64_t> keys_seen;
  std::vector<std::int64_t> first_seen;
  for (const QuerySpan& span : spans) {
    const std::int64_t before = context_size(span);
    for (std::int64_t i = 0; i < most_queries; ++i) {
      const bool real = i < span.queries.size();
      if (real) {
        slot_of_query.push_back(static_cast<std::int64_t>(query_of_slot.size()));
      }
      // Slots without a query repeat the first one: a softmax over no keys is NaN.
      query_of_slot.push_back(span.queries.begin + (real ? i : 0));
      keys_seen.push_back(before + span.visible + (real ? i : 0));
      first_seen.push_back(
          span.window == 0 ? 0 : std::max<std::int64_t>(0, keys_seen.back() - span.window));
    }
    const std::size_t wanted = key_of_slot.size() + static_cast<std::size_t>(most_keys);
    for (const Range& range : span.context) {
      for (std::int64_t row = range.begin; row < range.end; ++row) {
        key_of_slot.push_back(row);
      }
    }
    for (std::int64_t i = 0; i < span.visible + span.queries.size() - 1; ++i) {
      key_of_slot.push_back(span.own.begin + i);
    }
    key_of_slot.resize(wanted, span.own.begin);
  }
  const auto on_device = [&](const std::vector<std::int64_t>& values) {
    return at::tensor(values, at::kLong).to(device);
  };
  const auto count = static_cast<std::int64_t>(spans.size());
  const auto by_query = [&](const std::vector<std::int64_t>& values) {
    return on_device(values).view({count, 1, most_queries, 1});
  };
  const at::Tensor ends = by_query(keys_seen);
  const at::Tensor columns = at::arange(most_keys, ends.options());
  return {on_device(query_of_slot), on_device(key_of_slot),
          columns.lt(ends).logical_and_(columns.ge(by_query(first_seen))),
          on_device(slot_of_query)};
}

// The padded tables serve attention without the fused operators.
QuerySet padded_if_needed(QuerySet set, at::Device device) {
  if (!runs_fused(set.cos)) {
    set.padded = pad_spans(set.spans, device);
  }
  return set;
}

}  // namespace

std::int64_t context_size(const QuerySpan& span) {
  std::int64_t count = 0;
  for (const Range& range : span.context) {
    count += range.size();
  }
  return count;
}

LayoutBuilder::LayoutBuilder(const ModelConfig& config, at::ScalarType type, at::Device device)
    : type_(type), device_(device) {
  for (const AttentionKind& attention : config.attention_kinds) {
    // Pairs of elements that do not turn keep the angle 0 and the factor 1.
    const at::Tensor frequencies = at::zeros({config.head_size / 2});
    const at::Tensor factors = at::ones({config.head_size / 2});
    if (attention.rotary) {
      const RotaryEmbedding& rotary = config.rotary.at(*attention.rotary);
      const at::Tensor turning = inverse_frequencies(rotary, config.head_size);
      frequencies.narrow(0, 0, turning.size(0)).copy_(turning);
      factors.narrow(0, 0, turning.size(0)).fill_(rotary.factor);
    }
    kinds_.push_back({frequencies.to(device), factors.to(device), attention.window});
  }
}

// Returns the angles of rows at `positions` [n] (float32), without spans.
QuerySet LayoutBuilder::at_positions(const at::Tensor& positions, const Kind& kind) const {
  const at::Tensor angles = at::outer(positions, kind.frequencies);
  return {{},
          angles.cos().mul_(kind.factors).to(type_),
          angles.sin().mul_(kind.factors).to(type_),
          std::nullopt};
}

SequenceLayout LayoutBuilder::packed(const std::vector<std::int64_t>& positions,
                                     const std::vector<SequencePart>& parts,
                                     const std::vector<std::int64_t>& answer_rows) const {
  SequenceLayout layout;
  layout.answer_rows = at::tensor(answer_rows, at::kLong).to(device_);
  const at::Tensor places = at::tensor(positions, at::kLong).to(device_).to(at::kFloat);
  for (const Kind& kind : kinds_) {
    QuerySet all = at_positions(places, kind);
    QuerySet answers{query_spans(parts, &answer_rows, kind.window),
                     all.cos.index_select(0, layout.answer_rows),
                     all.sin.index_select(0, layout.answer_rows), std::nullopt};
    all.spans = query_spans(parts, nullptr, kind.window);
    layout.kinds.push_back(
        {std::make_shared<QuerySet>(padded_if_needed(std::move(all), device_)),
         std::make_shared<QuerySet>(padded_if_needed(std::move(answers), device_))});
  }
  return layout;
}

CachedLayout LayoutBuilder::cached(const std::vector<CachedPart>& parts) const {
  std::vector<std::int64_t> positions;
  std::vector<std::int64_t> places;
  std::vector<QuerySpan> spans;
  for (const CachedPart& part : parts) {
    QuerySpan& span = spans.emplace_back(
        QuerySpan{part.rows, part.own, part.own.size() - part.rows.size() + 1, part.context, 0});
    const std::int64_t first = context_size(span) + span.visible - 1;
    for (std::int64_t i = 0; i < part.rows.size(); ++i) {
      positions.push_back(first + i);
      places.push_back(part.own.end - part.rows.size() + i);
    }
  }
  CachedLayout layout;
  layout.places = at::tensor(places, at::kLong).to(device_);
  const at::Tensor on_device = at::tensor(positions, at::kLong).to(device_).to(at::kFloat);
  for (const Kind& kind : kinds_) {
    QuerySet rows = at_positions(on_device, kind);
    rows.spans = spans;
    for (QuerySpan& span : rows.spans) {
      span.window = kind.window;
    }
    layout.kinds.push_back(padded_if_needed(std::move(rows), device_));
  }
  return layout;
}

}  // namespace bipo
