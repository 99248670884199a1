#include "trainer/model/operators/sequence_layout.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <bit>
#include <iterator>
#include <limits>
#include <numeric>
#include <utility>

#include "trainer/model/device_kernels/kernel_runner.hpp"
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

// Returns which places hold each of `rows` rows, given each place's row: all of them, those of row
// 0 first, and where those of each row begin.
std::pair<std::vector<std::int64_t>, std::vector<std::int64_t>> places_by_row(
    const std::vector<std::int64_t>& row_of_place, std::int64_t rows) {
  std::vector<std::int64_t> first(static_cast<std::size_t>(rows) + 1);
  for (const std::int64_t row : row_of_place) {
    ++first[static_cast<std::size_t>(row) + 1];
  }
  std::partial_sum(first.begin(), first.end(), first.begin());
  std::vector<std::int64_t> next = first;
  std::vector<std::int64_t> places(row_of_place.size());
  for (std::size_t place = 0; place < places.size(); ++place) {
    std::int64_t& at = next[static_cast<std::size_t>(row_of_place[place])];
    places[static_cast<std::size_t>(at++)] = static_cast<std::int64_t>(place);
  }
  return {places, first};
}

// Returns the smallest one that is not below `size`.
std::int64_t power_of_2(std::int64_t size) {
  return static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(size)));
}

// Adds the tables of flash attention over `rows` rows to `upload`.  `rounds`: with spans of no
// query, and keys of no span, behind the others.
void add_joined(const std::vector<QuerySpan>& spans, std::int64_t rows, bool rounds, Upload& upload,
                JoinedSpans& joined) {
  std::vector<std::int64_t> row_of_key;
  std::vector<std::int32_t> query_bounds = {0};
  std::vector<std::int32_t> key_bounds = {0};
  for (const QuerySpan& span : spans) {
    // The window of the first query holds the last ones only of all that come before.
    const std::int64_t all = key_count(span);
    const std::int64_t seen =
        span.window == 0 ? all : std::min(all, span.window + span.queries.size() - 1);
    std::int64_t skipped = all - seen;
    const auto add = [&](const Range& range) {
      const std::int64_t skip = std::min(skipped, range.size());
      skipped -= skip;
      for (std::int64_t row = range.begin + skip; row < range.end; ++row) {
        row_of_key.push_back(row);
      }
    };
    std::for_each(span.context.begin(), span.context.end(), add);
    add({span.own.begin, span.own.begin + span.visible + span.queries.size() - 1});
    joined.window = span.window;
    joined.most_queries = std::max(joined.most_queries, span.queries.size());
    joined.most_keys = std::max(joined.most_keys, seen);
    query_bounds.push_back(static_cast<std::int32_t>(span.queries.end));
    key_bounds.push_back(static_cast<std::int32_t>(row_of_key.size()));
  }
  auto [places, first] = places_by_row(row_of_key, rows);
  if (rounds) {
    const auto bounds = static_cast<std::size_t>(1 + rounded_size(std::ssize(spans)));
    query_bounds.resize(bounds, query_bounds.back());
    key_bounds.resize(bounds, key_bounds.back());
    row_of_key.resize(std::bit_ceil(row_of_key.size()));
    places.resize(row_of_key.size());
    joined.most_queries = power_of_2(joined.most_queries);
    joined.most_keys = power_of_2(joined.most_keys);
  }
  upload.add(row_of_key, joined.row_of_key);
  upload.add(places, joined.keys_by_row);
  upload.add(first, joined.first_key);
  upload.add(at::tensor(query_bounds, at::kInt), joined.query_bounds);
  upload.add(at::tensor(key_bounds, at::kInt), joined.key_bounds);
}

// The tables of one kind of attention under way to the device.
struct SpanTables {
  std::int64_t spans = 0;
  std::int64_t most_queries = 0;
  std::int64_t most_keys = 0;
  PaddedSpans padded;
  JoinedSpans joined;
  at::Tensor keys_seen;   // [S q] int64
  at::Tensor first_seen;  // [S q] int64
};

// `keys`: the number of rows that spans name, 0 where no gradient is needed.  `rounds`: with slots
// that hold nothing, and slots in no key's list, behind the others.
void add_tables(const std::vector<QuerySpan>& spans, std::int64_t keys, bool rounds, Upload& upload,
                SpanTables& tables) {
  tables.spans = std::ssize(spans);
  for (const QuerySpan& span : spans) {
    tables.most_queries = std::max(tables.most_queries, span.queries.size());
    tables.most_keys = std::max(tables.most_keys, key_count(span));
  }
  if (rounds) {
    tables.spans = rounded_size(tables.spans);
    tables.most_queries = rounded_size(tables.most_queries);
    tables.most_keys = rounded_size(tables.most_keys);
  }
  std::vector<std::int64_t> query_of_slot;
  std::vector<std::int64_t> key_of_slot;
  std::vector<std::int64_t> slot_of_query;
  std::vector<std::int64_t> keys_seen;
  std::vector<std::int64_t> first_seen;
  std::vector<std::vector<std::int64_t>> slots_of_key(static_cast<std::size_t>(keys));
  const auto add_key = [&](std::int64_t row) {
    if (keys > 0) {
      slots_of_key[static_cast<std::size_t>(row)].push_back(
          static_cast<std::int64_t>(key_of_slot.size()));
    }
    key_of_slot.push_back(row);
  };
  for (const QuerySpan& span : spans) {
    const std::int64_t before = context_size(span);
    for (std::int64_t i = 0; i < tables.most_queries; ++i) {
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
    const std::size_t wanted = key_of_slot.size() + static_cast<std::size_t>(tables.most_keys);
    for (const Range& range : span.context) {
      for (std::int64_t row = range.begin; row < range.end; ++row) {
        add_key(row);
      }
    }
    for (std::int64_t i = 0; i < span.visible + span.queries.size() - 1; ++i) {
      add_key(span.own.begin + i);
    }
    key_of_slot.resize(wanted, span.own.begin);
  }
  // Spans of no query: row 0 sees itself, and nothing reads that.
  const auto query_slots = static_cast<std::size_t>(tables.spans * tables.most_queries);
  query_of_slot.resize(query_slots, 0);
  keys_seen.resize(query_slots, 1);
  first_seen.resize(query_slots, 0);
  key_of_slot.resize(static_cast<std::size_t>(tables.spans * tables.most_keys), 0);
  std::vector<std::int64_t> slots_by_key;
  std::vector<std::int64_t> slots_per_key;
  std::vector<std::int64_t> first_slot = {0};
  for (const std::vector<std::int64_t>& slots : slots_of_key) {
    slots_by_key.insert(slots_by_key.end(), slots.begin(), slots.end());
    slots_per_key.push_back(static_cast<std::int64_t>(slots.size()));
    first_slot.push_back(static_cast<std::int64_t>(slots_by_key.size()));
  }
  if (rounds) {
    slots_by_key.resize(std::bit_ceil(slots_by_key.size()));
  }
  upload.add(query_of_slot, tables.padded.query_of_slot);
  upload.add(key_of_slot, tables.padded.key_of_slot);
  upload.add(slot_of_query, tables.padded.slot_of_query);
  upload.add(slots_by_key, tables.padded.slots_by_key);
  upload.add(slots_per_key, tables.padded.slots_per_key);
  upload.add(first_slot, tables.padded.first_slot);
  upload.add(keys_seen, tables.keys_seen);
  upload.add(first_seen, tables.first_seen);
}

// Rows of a part whose recurrence is computed together: the products with the state, which they
// share, take most operations, and those among the rows, which grow with their number, few.
constexpr std::int64_t kChunkRows = 64;

// Returns the chunks of `parts`, their states and trees.
RecurrentLayout chunked(const std::vector<SequencePart>& parts) {
  RecurrentLayout layout;
  std::vector<std::size_t> last;                             // chunk of each part
  std::vector<std::size_t> depths;                           // of the parts
  std::vector<std::pair<std::size_t, std::size_t>> follows;  // chunks that follow others
  for (const SequencePart& part : parts) {
    std::optional<std::size_t> before;
    std::size_t depth = 0;
    if (!part.context.empty()) {
      const auto parent = std::find_if(parts.begin(), parts.end(), [&](const SequencePart& other) {
        return other.rows == part.context.back();
      });
      before = last.at(static_cast<std::size_t>(parent - parts.begin()));
      depth = depths.at(static_cast<std::size_t>(parent - parts.begin())) + 1;
    } else {
      const auto first = static_cast<std::int64_t>(layout.chunks.size());
      layout.trees.push_back({first, first});
    }
    const auto first_chunk = static_cast<std::int64_t>(layout.chunks.size());
    for (std::int64_t row = part.rows.begin; row < part.rows.end; row += kChunkRows) {
      if (before) {
        follows.emplace_back(layout.chunks.size(), *before);
      }
      before = layout.chunks.size();
      layout.chunks.push_back({{row, std::min(row + kChunkRows, part.rows.end)}});
    }
    layout.trees.back().end = static_cast<std::int64_t>(layout.chunks.size());
    last.push_back(*before);
    depths.push_back(depth);
    layout.parts.resize(std::max(layout.parts.size(), depth + 1));
    layout.parts[depth].push_back({first_chunk, layout.trees.back().end});
  }
  for (const auto& [chunk, parent] : follows) {
    std::int64_t& state = layout.chunks[parent].to;
    if (state < 0) {
      state = layout.states++;
    }
    layout.chunks[chunk].from = state;
  }
  return layout;
}

TapRows tap_rows(const std::vector<SequencePart>& parts, std::int64_t taps) {
  TapRows result{taps, {}, {}};
  for (const SequencePart& part : parts) {
    std::vector<std::int64_t> sequence(static_cast<std::size_t>(taps - 1), -1);
    const auto append = [&](const Range& range) {
      for (std::int64_t row = range.begin; row < range.end; ++row) {
        sequence.push_back(row);
      }
    };
    std::for_each(part.context.begin(), part.context.end(), append);
    const auto first = static_cast<std::ptrdiff_t>(sequence.size());
    append(part.rows);
    for (std::ptrdiff_t i = 0; i < part.rows.size(); ++i) {
      const auto end = sequence.begin() + first + i + 1;
      result.rows.insert(result.rows.end(), end - taps, end);
    }
  }
  return result;
}

// Adds the table for tensor operations to `upload`; a tap without a row sees row `none`.
void add_taps(TapRows& taps, std::int64_t none, Upload& upload) {
  std::vector<std::int64_t> rows = taps.rows;
  std::replace(rows.begin(), rows.end(), std::int64_t{-1}, none);
  upload.add(at::tensor(rows, at::kLong).view({-1, taps.taps}), taps.padded);
}

// Likewise the tables of chunks of `rows` rows together.
void pad_chunks(RecurrentLayout& layout, std::int64_t rows, Upload& upload) {
  std::vector<std::pair<std::size_t, std::int64_t>> place_of_state(
      static_cast<std::size_t>(layout.states));  // its depth, and its place there
  std::vector<std::vector<const StateChunk*>> by_depth;
  std::vector<std::vector<std::int64_t>> parents;
  for (const StateChunk& chunk : layout.chunks) {
    std::size_t depth = 0;
    std::int64_t parent = 0;
    if (chunk.from >= 0) {
      const auto& place = place_of_state[static_cast<std::size_t>(chunk.from)];
      depth = place.first + 1;
      parent = place.second;
    }
    by_depth.resize(std::max(by_depth.size(), depth + 1));
    parents.resize(by_depth.size());
    if (chunk.to >= 0) {
      place_of_state[static_cast<std::size_t>(chunk.to)] = {
          depth, static_cast<std::int64_t>(by_depth[depth].size())};
    }
    by_depth[depth].push_back(&chunk);
    parents[depth].push_back(parent);
  }
  layout.depths.resize(by_depth.size());
  std::vector<std::int64_t> slot_of_row(static_cast<std::size_t>(rows));
  std::int64_t slots = 0;
  for (std::size_t depth = 0; depth < by_depth.size(); ++depth) {
    std::int64_t longest = 0;
    for (const StateChunk* chunk : by_depth[depth]) {
      longest = std::max(longest, chunk->rows.size());
    }
    std::vector<std::int64_t> row_of_slot;
    for (const StateChunk* chunk : by_depth[depth]) {
      for (std::int64_t i = 0; i < longest; ++i, ++slots) {
        const bool real = i < chunk->rows.size();
        row_of_slot.push_back(real ? chunk->rows.begin + i : rows);
        if (real) {
          slot_of_row[static_cast<std::size_t>(chunk->rows.begin + i)] = slots;
        }
      }
    }
    upload.add(row_of_slot, layout.depths[depth].row_of_slot);
    if (depth > 0) {
      upload.add(parents[depth], layout.depths[depth].parents);
    }
  }
  upload.add(slot_of_row, layout.slot_of_row);
}

// Likewise the tables of our own kernels; those of the taps are there already.
void compile_chunks(const RecurrentLayout& layout, std::int64_t rows, Upload& upload,
                    CompiledChunks& compiled) {
  std::vector<std::vector<std::int64_t>> followers(static_cast<std::size_t>(layout.states));
  std::vector<std::int64_t> number_of_chunk;
  std::vector<std::int64_t> chunk_of_row;
  for (std::size_t c = 0; c < layout.chunks.size(); ++c) {
    const StateChunk& chunk = layout.chunks[c];
    number_of_chunk.push_back(chunk.from < 0 ? -1 : compiled.followers++);
    if (chunk.from >= 0) {
      followers[static_cast<std::size_t>(chunk.from)].push_back(number_of_chunk.back());
    }
    compiled.width = std::max(compiled.width, chunk.rows.size());
    chunk_of_row.insert(chunk_of_row.end(), static_cast<std::size_t>(chunk.rows.size()),
                        static_cast<std::int64_t>(c));
  }
  std::vector<std::int64_t> table;
  std::vector<std::int64_t> children;
  for (std::size_t c = 0; c < layout.chunks.size(); ++c) {
    const StateChunk& chunk = layout.chunks[c];
    const auto first_child = static_cast<std::int64_t>(children.size());
    if (chunk.to >= 0) {
      const auto& own = followers[static_cast<std::size_t>(chunk.to)];
      children.insert(children.end(), own.begin(), own.end());
    }
    table.insert(table.end(),
                 {chunk.rows.begin, chunk.rows.end, chunk.from, chunk.to, number_of_chunk[c],
                  first_child, static_cast<std::int64_t>(children.size())});
  }
  std::vector<std::int64_t> row_of_use = layout.taps.rows;
  std::replace(row_of_use.begin(), row_of_use.end(), std::int64_t{-1}, rows);
  const auto [uses, first_use] = places_by_row(row_of_use, rows + 1);
  upload.add(at::tensor(table, at::kLong).view({-1, 7}), compiled.table);
  upload.add(chunk_of_row, compiled.chunk_of_row);
  upload.add(children, compiled.children);
  upload.add(uses, compiled.uses);
  upload.add(first_use, compiled.first_use);
  compiled.parts.resize(layout.parts.size());
  for (std::size_t depth = 0; depth < layout.parts.size(); ++depth) {
    std::vector<std::int64_t> bounds;
    for (const Range& part : layout.parts[depth]) {
      bounds.insert(bounds.end(), {part.begin, part.end});
    }
    upload.add(at::tensor(bounds, at::kLong).view({-1, 2}), compiled.parts[depth]);
  }
}

// Sets the layout of a recurrence over `parts`, with its tables in `upload`; these are there when
// it is sent, until when the layout must not move.
void lay_out(const std::vector<SequencePart>& parts, std::int64_t taps, RecurrenceTables tables,
             Upload& upload, RecurrentLayout& layout) {
  layout = chunked(parts);
  layout.taps = tap_rows(parts, taps);
  if (tables == RecurrenceTables::kNone) {
    return;
  }
  const std::int64_t rows = parts.empty() ? 0 : parts.back().rows.end;
  add_taps(layout.taps, rows, upload);
  if (tables == RecurrenceTables::kCompiled) {
    compile_chunks(layout, rows, upload, layout.compiled.emplace());
  } else {
    pad_chunks(layout, rows, upload);
  }
}

// The region whose state a part begins with; -1: it begins with zeros.
std::int64_t origin_of(const CachedPart& part) {
  return part.own.size() > part.rows.size() ? part.region : part.region_before;
}

// The same for new rows that follow those in a cache.
void lay_out(const std::vector<CachedPart>& parts, std::int64_t taps, RecurrenceTables tables,
             Upload& upload, CachedRecurrence& layout) {
  const std::int64_t before = taps - 1;
  const auto count = static_cast<std::int64_t>(parts.size());
  layout.taps.taps = taps;
  std::vector<std::int64_t> regions;
  std::vector<std::int64_t> origins;
  std::vector<std::int64_t> is_new;
  std::vector<std::int64_t> kept;
  std::vector<SequencePart> sequences;
  for (const CachedPart& part : parts) {
    const std::int64_t origin = origin_of(part);
    std::vector<std::int64_t> sequence;
    for (std::int64_t i = 0; i < before; ++i) {
      sequence.push_back(static_cast<std::int64_t>(regions.size()) * before + i);
    }
    for (std::int64_t row = part.rows.begin; row < part.rows.end; ++row) {
      sequence.push_back(count * before + row);
      layout.taps.rows.insert(layout.taps.rows.end(), sequence.end() - taps, sequence.end());
    }
    kept.insert(kept.end(), sequence.end() - before, sequence.end());
    layout.parts.push_back({part.rows, part.region, origin});
    sequences.push_back({part.rows, {}});
    regions.push_back(part.region);
    origins.push_back(std::max<std::int64_t>(origin, 0));
    is_new.push_back(origin < 0 ? 1 : 0);
  }
  upload.add(regions, layout.regions);
  upload.add(origins, layout.origins);
  upload.add(at::tensor(is_new, at::kLong).to(at::kBool), layout.is_new);
  upload.add(kept, layout.kept);
  if (tables != RecurrenceTables::kNone) {
    layout.layout = chunked(sequences);
    pad_chunks(layout.layout, parts.empty() ? 0 : parts.back().rows.end, upload);
    add_taps(layout.taps, 0, upload);  // none is without a row
  }
}

// Sets what both halves of a head are turned by.
template <class Spans>
void set_turns(const QuerySet& set, Spans& spans) {
  spans.cos = at::cat({set.cos, set.cos}, -1).unsqueeze(1);
  spans.sin = at::cat({-set.sin, set.sin}, -1).unsqueeze(1);
}

// Returns the padded spans of `tables`, which are on the device, for the rows of `set`.
PaddedSpans padded_spans(SpanTables tables, const QuerySet& set) {
  PaddedSpans padded = std::move(tables.padded);
  // Attention on a GPU wants rows that begin at multiples of so many elements, else it copies them.
  constexpr std::int64_t kRowMultiple = 16;
  const std::int64_t width = (tables.most_keys + kRowMultiple - 1) / kRowMultiple * kRowMultiple;
  const auto by_query = [&](const at::Tensor& values) {
    return values.view({tables.spans, 1, tables.most_queries, 1});
  };
  const at::Tensor columns = at::arange(width, tables.keys_seen.options());
  const at::Tensor seen =
      columns.lt(by_query(tables.keys_seen)).logical_and_(columns.ge(by_query(tables.first_seen)));
  padded.bias = at::zeros(seen.sizes(), set.cos.options())
                    .masked_fill_(seen.logical_not_(), -std::numeric_limits<double>::infinity())
                    .narrow(-1, 0, tables.most_keys);
  set_turns(set, padded);
  return padded;
}

// The host knows it; the device would have to be waited for.
std::int64_t last_of(const std::vector<std::int64_t>& positions) {
  return positions.empty() ? -1 : *std::max_element(positions.begin(), positions.end());
}

// The padded tables serve attention without the fused operators, which need none.
bool needs_padding(at::ScalarType type, at::Device device) {
  return !device.is_cpu() || type != at::kFloat;
}

RecurrenceTables recurrence_tables(at::ScalarType type, at::Device device) {
  return !needs_padding(type, device)     ? RecurrenceTables::kNone
         : kernels_for(device) != nullptr ? RecurrenceTables::kCompiled
                                          : RecurrenceTables::kPadded;
}

}  // namespace

struct LayoutBuilder::UnsentTables {
  std::int64_t last = -1;  // position
  at::Tensor answer_rows;
  at::Tensor places;                          // [T] float32: positions
  std::vector<std::array<QuerySet, 2>> sets;  // by kind: all rows; those that predict
  std::vector<std::array<SpanTables, 2>> tables;
  std::shared_ptr<const RecurrentLayout> recurrent;
};

std::int64_t rounded_size(std::int64_t size) {
  std::int64_t step = 1;
  while (size > 8 * step) {
    step *= 2;
  }
  return (size + step - 1) / step * step;
}

std::int64_t context_size(const QuerySpan& span) {
  std::int64_t count = 0;
  for (const Range& range : span.context) {
    count += range.size();
  }
  return count;
}

namespace {

std::uint64_t bytes_of(const RecurrentLayout& layout) {
  std::uint64_t bytes = layout.taps.padded.nbytes();
  for (const PaddedChunks& chunks : layout.depths) {
    bytes += chunks.row_of_slot.nbytes() + (chunks.parents.defined() ? chunks.parents.nbytes() : 0);
  }
  if (!layout.compiled) {
    return bytes + layout.slot_of_row.nbytes();
  }
  const CompiledChunks& compiled = *layout.compiled;
  for (const at::Tensor& bounds : compiled.parts) {
    bytes += bounds.nbytes();
  }
  for (const at::Tensor& tensor : {compiled.table, compiled.chunk_of_row, compiled.children,
                                   compiled.uses, compiled.first_use}) {
    bytes += tensor.nbytes();
  }
  return bytes;
}

}  // namespace

std::uint64_t bytes_of(const SequenceLayout& layout) {
  std::uint64_t bytes = layout.answer_rows.nbytes();
  if (layout.recurrent && layout.recurrent->taps.padded.defined()) {
    bytes += bytes_of(*layout.recurrent);
  }
  for (const AttentionLayout& kind : layout.kinds) {
    if (!kind.all) {
      continue;
    }
    for (const auto& set : {kind.all, kind.answers}) {
      bytes += set->cos.nbytes() + set->sin.nbytes();
      if (set->padded) {
        const PaddedSpans& padded = *set->padded;
        for (const at::Tensor& tensor :
             {padded.query_of_slot, padded.key_of_slot, padded.slot_of_query, padded.slots_by_key,
              padded.slots_per_key, padded.first_slot, padded.bias, padded.cos, padded.sin}) {
          bytes += tensor.nbytes();
        }
      }
      if (set->joined) {
        const JoinedSpans& joined = *set->joined;
        for (const at::Tensor& tensor :
             {joined.row_of_key, joined.keys_by_row, joined.first_key, joined.query_bounds,
              joined.key_bounds, joined.cos, joined.sin}) {
          bytes += tensor.nbytes();
        }
      }
    }
  }
  return bytes;
}

template <class Part>
typename RecurrenceOf<Part>::Layout recurrence_over(const std::vector<Part>& parts,
                                                    std::int64_t taps, RecurrenceTables tables,
                                                    at::Device device) {
  typename RecurrenceOf<Part>::Layout layout;
  Upload upload;
  lay_out(parts, taps, tables, upload, layout);
  upload.send(device);
  return layout;
}

template RecurrentLayout recurrence_over(const std::vector<SequencePart>&, std::int64_t,
                                         RecurrenceTables, at::Device);
template CachedRecurrence recurrence_over(const std::vector<CachedPart>&, std::int64_t,
                                          RecurrenceTables, at::Device);

LayoutBuilder::LayoutBuilder(const ModelConfig& config, at::ScalarType type, at::Device device,
                             std::vector<bool> joins)
    : taps_(config.delta_net ? config.delta_net->taps : 0), type_(type), device_(device) {
  for (const AttentionKind& attention : config.attention_kinds) {
    // Pairs of elements that do not turn keep the angle 0 and the factor 1.
    const std::int64_t head_size = head_size_of(config, attention);
    const at::Tensor frequencies = at::zeros({head_size / 2});
    const at::Tensor factors = at::ones({head_size / 2});
    if (attention.rotary) {
      const RotaryEmbedding& rotary = config.rotary.at(*attention.rotary);
      const at::Tensor turning = inverse_frequencies(rotary, head_size);
      frequencies.narrow(0, 0, turning.size(0)).copy_(turning);
      factors.narrow(0, 0, turning.size(0)).fill_(rotary.factor);
    }
    kinds_.push_back({frequencies.to(device), factors.to(device), attention.window});
    kinds_.back().is_recurrent = attention.is_recurrent;
    kinds_.back().joins = !joins.empty() && joins.at(kinds_.size() - 1);
    if (attention.rotary) {
      const RotaryEmbedding& rotary = config.rotary.at(*attention.rotary);
      kinds_.back().query_growth = rotary.query_growth;
      kinds_.back().query_context = rotary.query_context;
    }
  }
}

bool LayoutBuilder::scales_queries(std::int64_t last, const Kind& kind) {
  return kind.query_growth != 0 && static_cast<double>(last) >= kind.query_context;
}

// Returns 1 + b ln(1 + floor(p / C)) [n, 1] for positions [n], the last of which is `last`;
// undefined where all are below C.
at::Tensor LayoutBuilder::scale_of_queries(const at::Tensor& positions, std::int64_t last,
                                           const Kind& kind) const {
  if (!scales_queries(last, kind)) {
    return {};
  }
  const at::Tensor steps = at::floor(positions / kind.query_context);
  return (1 + kind.query_growth * at::log(1 + steps)).to(type_).unsqueeze(1);
}

void LayoutBuilder::set_angles(const at::Tensor& positions, std::int64_t last, const Kind& kind,
                               QuerySet& set) const {
  const at::Tensor angles = at::outer(positions, kind.frequencies);
  set.cos = angles.cos().mul_(kind.factors).to(type_);
  set.sin = angles.sin().mul_(kind.factors).to(type_);
  set.query_scale = scale_of_queries(positions, last, kind);
}

SequenceLayout LayoutBuilder::packed(const std::vector<std::int64_t>& positions,
                                     const std::vector<SequencePart>& parts,
                                     const std::vector<std::int64_t>& answer_rows,
                                     Upload upload) const {
  const UnsentLayout layout = begin(positions, parts, answer_rows, upload);
  upload.send(device_);
  return layout.finish();
}

UnsentLayout LayoutBuilder::begin(const std::vector<std::int64_t>& positions,
                                  const std::vector<SequencePart>& parts,
                                  const std::vector<std::int64_t>& answer_rows, Upload& upload,
                                  bool rounds) const {
  const bool pads = needs_padding(type_, device_);
  const auto keys = static_cast<std::int64_t>(positions.size());
  const auto unsent = std::make_shared<UnsentTables>();
  unsent->last = last_of(positions);
  unsent->sets.resize(kinds_.size());
  unsent->tables.resize(kinds_.size());
  upload.add(answer_rows, unsent->answer_rows);
  upload.add(at::tensor(positions, at::kFloat), unsent->places);
  UnsentLayout layout;
  for (std::size_t kind = 0; kind < kinds_.size(); ++kind) {
    if (kinds_[kind].is_recurrent) {
      continue;
    }
    const bool grows = scales_queries(unsent->last, kinds_[kind]);
    layout.constants.push_back(grows ? 1 : 0);
    for (const std::size_t part : {0, 1}) {
      QuerySet& set = unsent->sets[kind][part];
      SpanTables& tables = unsent->tables[kind][part];
      set.spans = query_spans(parts, part == 0 ? nullptr : &answer_rows, kinds_[kind].window);
      if (kinds_[kind].joins) {
        add_joined(set.spans, keys, rounds, upload, tables.joined);
      } else if (pads) {
        add_tables(set.spans, keys, rounds, upload, tables);
      }
      layout.constants.insert(layout.constants.end(),
                              {tables.spans, tables.most_queries, tables.most_keys,
                               tables.joined.most_queries, tables.joined.most_keys});
    }
  }
  if (taps_ > 0) {
    const auto recurrent = std::make_shared<RecurrentLayout>();
    lay_out(parts, taps_, recurrence_tables(type_, device_), upload, *recurrent);
    unsent->recurrent = recurrent;
  }
  layout.finish = [this, unsent] { return finished(*unsent); };
  return layout;
}

SequenceLayout LayoutBuilder::finished(const UnsentTables& tables) const {
  SequenceLayout layout;
  layout.answer_rows = tables.answer_rows;
  layout.recurrent = tables.recurrent;
  for (std::size_t kind = 0; kind < kinds_.size(); ++kind) {
    if (kinds_[kind].is_recurrent) {
      layout.kinds.emplace_back();
      continue;
    }
    auto [all, answers] = tables.sets[kind];
    set_angles(tables.places, tables.last, kinds_[kind], all);
    answers.cos = all.cos.index_select(0, layout.answer_rows);
    answers.sin = all.sin.index_select(0, layout.answer_rows);
    if (all.query_scale.defined()) {
      answers.query_scale = all.query_scale.index_select(0, layout.answer_rows);
    }
    const std::array<QuerySet*, 2> sets = {&all, &answers};
    for (const std::size_t part : {0, 1}) {
      QuerySet& set = *sets[part];
      if (kinds_[kind].joins) {
        set.joined = tables.tables[kind][part].joined;
        set_turns(set, *set.joined);
      } else if (needs_padding(type_, device_)) {
        set.padded = padded_spans(tables.tables[kind][part], set);
      }
    }
    layout.kinds.push_back({std::make_shared<QuerySet>(std::move(all)),
                            std::make_shared<QuerySet>(std::move(answers))});
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
  const bool pads = needs_padding(type_, device_);
  CachedLayout layout;
  at::Tensor turns;
  Upload upload;
  upload.add(places, layout.places);
  upload.add(at::tensor(positions, at::kFloat), turns);
  layout.kinds.resize(kinds_.size());
  std::vector<SpanTables> tables(kinds_.size());
  for (std::size_t kind = 0; kind < kinds_.size(); ++kind) {
    if (kinds_[kind].is_recurrent) {
      continue;
    }
    QuerySet& rows = layout.kinds[kind];
    rows.spans = spans;
    for (QuerySpan& span : rows.spans) {
      span.window = kinds_[kind].window;
    }
    if (pads) {
      add_tables(rows.spans, /*keys=*/0, /*rounds=*/false, upload, tables[kind]);
    }
  }
  if (taps_ > 0) {
    const auto recurrent = std::make_shared<CachedRecurrence>();
    lay_out(parts, taps_, recurrence_tables(type_, device_), upload, *recurrent);
    layout.recurrent = recurrent;
  }
  upload.send(device_);
  for (std::size_t kind = 0; kind < kinds_.size(); ++kind) {
    if (kinds_[kind].is_recurrent) {
      continue;
    }
    set_angles(turns, last_of(positions), kinds_[kind], layout.kinds[kind]);
    if (pads) {
      layout.kinds[kind].padded = padded_spans(std::move(tables[kind]), layout.kinds[kind]);
    }
  }
  return layout;
}

}  // namespace bipo
