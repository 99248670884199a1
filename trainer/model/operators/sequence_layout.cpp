#include "trainer/model/operators/sequence_layout.hpp"

#include <ATen/ATen.h>

#include <algorithm>

namespace bipo {
namespace {

std::int64_t key_count(const QuerySpan& span) {
  return context_size(span) + span.visible + span.queries.size() - 1;
}

}  // namespace

std::int64_t context_size(const QuerySpan& span) {
  std::int64_t count = 0;
  for (const Range& range : span.context) {
    count += range.size();
  }
  return count;
}

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
      // Slots without a query repeat the first one: a softmax over no key would not be a number.
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

}  // namespace bipo
