#include "trainer/loop/device_step.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <utility>

#include "collectives/exact_sum.hpp"
#include "collectives/self_communicator.hpp"
#include "trainer/model/operators/upload.hpp"
#include "trainer/passes/pair_scores.hpp"
#include "trainer/passes/steering.hpp"

namespace bipo {
namespace {

at::TensorOptions doubles_on_host() {
  return at::TensorOptions().dtype(at::kDouble);
}

bool has_one_sign(const MicroBatch& micro_batch, std::int64_t sign) {
  return std::all_of(micro_batch.places.begin(), micro_batch.places.end(),
                     [&](const PairPlace& place) { return place.sign == sign; });
}

// Whether the loss is BiPO's own, -log sigma of the margin.
bool is_plain(const Objective& objective) {
  return has_sigmoid(objective.kind) && uses_reference(objective.kind) &&
         objective.label_smoothing == 0 && objective.reduction == Reduction::kSum;
}

bool is_plain(const MicroBatch& micro_batch) {
  return std::all_of(micro_batch.places.begin(), micro_batch.places.end(),
                     [](const PairPlace& place) { return is_plain(place.objective); });
}

// Columns of `Tables::forms`: see DeviceStep::general_weights().
std::array<double, 6> form_of(const Objective& objective) {
  const double smoothing = objective.label_smoothing;
  switch (objective.kind) {
    case ObjectiveKind::kIpo:
      return {0, 0, 0, 1, 1 / objective.beta, 1 / (2 * objective.beta)};
    case ObjectiveKind::kSft:
      return {};
    default:
      return {1 - smoothing,
              smoothing,
              objective.kind == ObjectiveKind::kSimpo ? objective.simpo_gamma : 0,
              0,
              0,
              0};
  }
}

}  // namespace

std::uint64_t DeviceStep::Tables::bytes() const {
  std::uint64_t bytes = bytes_of(packed.layout);
  for (const at::Tensor& table :
       {packed.ids, packed.row_of_target, packed.targets, coefficients, targets_of_item,
        item_of_target, direction_of_target, offset, rows_of_figures}) {
    bytes += table.nbytes();
  }
  if (forms.defined()) {
    bytes += forms.nbytes() + loss_of_target.nbytes();
  }
  return bytes + (rows.defined() ? rows.nbytes() : 0);
}

DeviceStep::DeviceStep(const Decoder& decoder, const ActivationCache& cache, std::int64_t layer,
                       const Ranks& ranks, bool repeats)
    : decoder_(decoder),
      cache_(cache),
      layer_(layer),
      ranks_(ranks),
      repeats_(repeats),
      rows_on_device_(cache.rows_on_device(decoder, layer)),
      copies_(decoder.device()),
      table_bytes_left_(std::min(kMostTableBytes, free_device_memory(decoder.device()) / 16)) {
}

void DeviceStep::begin(const at::Tensor& vectors) {
  vectors_ = uploaded(vectors, residual_options(decoder_));
  found_.clear();
}

void DeviceStep::add(const MicroBatch& micro_batch, const MicroBatch* next) {
  if (!next_ || next_->micro_batch != micro_batch) {
    next_ = prepare(micro_batch);
  }
  const Prepared prepared = *std::exchange(next_, std::nullopt);
  const Tables& tables = *prepared.tables;
  // h + (-c) v = h + c (-v): the derivative by -v under the sign +1 is that by v under -1, but for
  // the sign of the loss's derivative, which is left out, too.
  const at::Tensor vectors = prepared.sign > 0 ? vectors_.detach() : vectors_.neg();
  vectors.set_requires_grad(true);
  const at::Tensor log_probs = target_log_probs(decoder_, tables.packed, hidden_of(prepared),
                                                {layer_, tables.coefficients, vectors});
  Found& found = found_.emplace_back();
  log_probs.backward(backward_weights(prepared, log_probs.detach(), found));
  found.gradient = vectors.grad();
  found.rows = ranks_.dp->size() == 1 ? tables.rows_on_host : tables.rows_of_figures;
  if (next != nullptr) {
    next_ = prepare(*next);
  }
}

DeviceStep::Prepared DeviceStep::prepare(const MicroBatch& micro_batch) {
  Prepared prepared{micro_batch, 1, {}, {}};
  if (repeats_ && has_one_sign(micro_batch, -1) && is_plain(micro_batch)) {
    // Its tables are those of the other sign.
    MicroBatch other = micro_batch;
    for (PairPlace& place : other.places) {
      place.sign = 1;
    }
    prepared.sign = -1;
    prepared.tables = tables_of(other);
  } else {
    prepared.tables = tables_of(micro_batch);
  }
  if (!rows_on_device_.defined() && cache_.keeps_activations()) {
    prepared.hidden = send_activations(prepared.tables->packed);
  }
  return prepared;
}

std::shared_ptr<const DeviceStep::Tables> DeviceStep::tables_of(const MicroBatch& micro_batch) {
  const auto kept = kept_tables_.find(micro_batch);
  if (kept != kept_tables_.end()) {
    return kept->second;
  }
  std::shared_ptr<const Tables> tables = make_tables(micro_batch);
  if (const std::uint64_t bytes = tables->bytes(); repeats_ && bytes <= table_bytes_left_) {
    table_bytes_left_ -= bytes;
    kept_tables_.emplace(micro_batch, tables);
  }
  return tables;
}

std::shared_ptr<const DeviceStep::Tables> DeviceStep::make_tables(
    const MicroBatch& micro_batch) const {
  auto tables = std::make_shared<Tables>();
  std::vector<PackItem> items;
  for (const PairPlace& place : micro_batch.places) {
    items.push_back({place.pair, {place.member, place.sign, place.factor}});
  }
  const auto add_tables = [&](const PackedPairs& packed, Upload& upload) {
    std::vector<std::int64_t> targets_of_item;
    std::vector<std::int64_t> item_of_target;
    std::vector<double> direction_of_target;
    std::vector<double> offset;
    std::vector<double> forms;  // [P, 6]
    std::vector<double> loss_of_target;
    std::vector<std::int64_t> rows_of_figures;
    std::int64_t last = -1;
    AnswerLogProbs share;  // of a log-probability in what the item's objective takes of its answer
    for (const std::int64_t answer : packed.answer_of_target) {  // chosen, then rejected
      const std::int64_t item = answer / 2;
      const PairPlace& place = micro_batch.places[static_cast<std::size_t>(item)];
      const Objective& objective = place.objective;
      const double direction = static_cast<double>(place.sign) * objective.beta;
      if (item != last) {
        const auto pair = static_cast<std::size_t>(place.pair);
        const AnswerTokens tokens = answer_tokens(cache_.pairs()[pair]);
        share = reduced(objective, {1, 1}, tokens);
        targets_of_item.push_back(0);
        offset.push_back(0);
        if (uses_reference(objective.kind)) {
          const AnswerLogProbs reference =
              reduced(objective, cache_.reference(layer_)[pair], tokens);
          offset.back() = -direction * (reference.chosen - reference.rejected);
        }
        const std::array<double, 6> form = form_of(objective);
        forms.insert(forms.end(), form.begin(), form.end());
        rows_of_figures.push_back(place.row);
      }
      last = item;
      ++targets_of_item.back();
      item_of_target.push_back(static_cast<std::int64_t>(offset.size()) - 1);
      const bool is_chosen = answer % 2 == 0;
      const double own = is_chosen ? share.chosen : share.rejected;
      direction_of_target.push_back(own * (is_chosen ? direction : -direction));
      const bool is_trained = is_chosen == (place.sign > 0);
      loss_of_target.push_back(objective.kind == ObjectiveKind::kSft && is_trained ? -own : 0.0);
    }
    upload.add(targets_of_item, tables->targets_of_item);
    upload.add(item_of_target, tables->item_of_target);
    upload.add(at::tensor(direction_of_target, at::kDouble), tables->direction_of_target);
    upload.add(at::tensor(offset, at::kDouble), tables->offset);
    if (!is_plain(micro_batch)) {
      upload.add(at::tensor(forms, at::kDouble).view({-1, 6}).t().contiguous(), tables->forms);
      upload.add(at::tensor(loss_of_target, at::kDouble), tables->loss_of_target);
    }
    tables->rows_on_host = at::tensor(rows_of_figures, at::kLong);
    upload.add(tables->rows_on_host, tables->rows_of_figures);
    upload.add(steering_coefficients(packed, micro_batch.members, decoder_.residual_type()),
               tables->coefficients);
    if (rows_on_device_.defined()) {
      upload.add(cache_.kept_rows(packed), tables->rows);
    }
  };
  tables->packed = pack_pairs(cache_.pairs(), items, decoder_, add_tables);
  return tables;
}

// In the kept type, which has fewer bytes where it is narrower.
Arrival DeviceStep::send_activations(const PackedPairs& packed) const {
  const at::Tensor& kept = cache_.kept_activations(layer_);
  at::Tensor rows = at::empty({packed.tokens(), kept.size(1)}, kept.options().pinned_memory(true));
  at::index_select_out(rows, kept, 0, at::tensor(cache_.kept_rows(packed), at::kLong));
  return copies_.send(rows);
}

at::Tensor DeviceStep::hidden_of(const Prepared& prepared) const {
  if (rows_on_device_.defined()) {
    return rows_on_device_.index_select(0, prepared.tables->rows).to(decoder_.residual_type());
  }
  return prepared.hidden ? prepared.hidden->receive().to(decoder_.residual_type())
                         : cache_.activations(decoder_, prepared.tables->packed, layer_);
}

// Returns the derivative of the summed losses by `log_probs` [R]; keeps the figures.  As in
// pair_objective(), in float64: minus the loss is log sigmoid(margin), whose exponential less one
// is minus sigmoid(-margin).
at::Tensor DeviceStep::backward_weights(const Prepared& prepared, const at::Tensor& log_probs,
                                        Found& found) {
  const Tables& tables = *prepared.tables;
  const at::Tensor of_items =
      at::segment_reduce(log_probs * tables.direction_of_target, "sum", tables.targets_of_item, {},
                         {}, /*axis=*/0, /*unsafe=*/true, /*initial=*/0);
  found.margin = of_items.add_(tables.offset);
  if (tables.forms.defined()) {
    return general_weights(tables, log_probs, found);
  }
  if (prepared.sign < 0) {
    found.margin.neg_();
  }
  found.log_score = at::log_sigmoid(found.margin);
  at::Tensor weights = at::empty_like(log_probs);
  at::mul_out(weights, at::expm1(found.log_score).index_select(0, tables.item_of_target),
              tables.direction_of_target);
  return weights;
}

// The same for any objective.  With the rows a, e, gamma, i, k, l of `forms`, the margin m and what
// the loss has of log-probabilities alone, L:
//   loss   a (-log sigma(m - gamma)) + e (-log sigma(gamma - m)) + i (k m - l)^2 + L
at::Tensor DeviceStep::general_weights(const Tables& tables, const at::Tensor& log_probs,
                                       Found& found) {
  const at::Tensor shifted = found.margin - tables.forms[2];
  const at::Tensor ahead = at::log_sigmoid(shifted);
  const at::Tensor behind = at::log_sigmoid(-shifted);
  const at::Tensor distance = tables.forms[4] * found.margin - tables.forms[5];
  const at::Tensor alone =
      at::segment_reduce(log_probs * tables.loss_of_target, "sum", tables.targets_of_item, {}, {},
                         /*axis=*/0, /*unsafe=*/true, /*initial=*/0);
  found.log_score = tables.forms[0] * ahead + tables.forms[1] * behind -
                    tables.forms[3] * distance * distance - alone;
  const at::Tensor slope = tables.forms[0] * at::expm1(ahead) -
                           tables.forms[1] * at::expm1(behind) +
                           2 * tables.forms[3] * tables.forms[4] * distance;
  return (slope.index_select(0, tables.item_of_target) * tables.direction_of_target +
          tables.loss_of_target)
      .to(log_probs.scalar_type());
}

DeviceStep::Result DeviceStep::finish(std::int64_t micro_batches, std::int64_t rows) {
  const std::int64_t members = vectors_.size(0);
  const std::int64_t hidden = vectors_.size(1);
  std::vector<at::Tensor> parts;
  const bool is_alone = ranks_.dp->size() == 1;
  if (is_alone) {
    for (const Found& found : found_) {
      parts.insert(parts.end(),
                   {found.gradient.to(at::kDouble).view({-1}), found.margin, found.log_score});
    }
  } else {
    std::vector<at::Tensor> gradients;
    for (const Found& found : found_) {
      gradients.push_back(found.gradient);
    }
    const at::Tensor contributions = gradients.empty()
                                         ? at::empty({0, members, hidden}, vectors_.options())
                                         : at::stack(gradients);
    parts.push_back(exact_sums(contributions, micro_batches, *ranks_.dp).view({-1}));
    const at::Tensor figures = at::zeros({2, rows}, parts.front().options());
    for (const Found& found : found_) {
      figures.index_copy_(1, found.rows, at::stack({found.margin, found.log_score}));
    }
    // Every element is other than 0 on one replica at most: the sum is exact in any order.
    ranks_.dp->all_reduce(figures, ReduceOp::kSum);
    parts.push_back(figures.view({-1}));
  }
  const at::Tensor all = at::cat(parts);
  // The tp ranks' values may differ in the last bits; what is derived from them must not.
  ranks_.tp->broadcast(all, 0);
  const at::Tensor read = all.cpu();  // the one wait of the step
  if (is_alone) {
    return sum_on_host(read, micro_batches, rows);
  }
  return {read.narrow(0, 0, members * hidden).view({members, hidden}),
          read.narrow(0, members * hidden, 2 * rows).view({2, rows})};
}

// `read`: of each micro-batch, its gradients and figures.
DeviceStep::Result DeviceStep::sum_on_host(const at::Tensor& read, std::int64_t micro_batches,
                                           std::int64_t rows) const {
  const std::int64_t members = vectors_.size(0);
  const std::int64_t hidden = vectors_.size(1);
  Result result{at::empty({members, hidden}, doubles_on_host()),
                at::zeros({2, rows}, doubles_on_host())};
  std::vector<std::vector<at::Tensor>> terms(static_cast<std::size_t>(members));
  std::int64_t next = 0;
  const auto take = [&](std::int64_t count) {
    return read.narrow(0, std::exchange(next, next + count), count);
  };
  for (const Found& found : found_) {
    for (std::vector<at::Tensor>& of_member : terms) {
      of_member.push_back(take(hidden));
    }
    for (std::int64_t kind = 0; kind < 2; ++kind) {
      result.figures.select(0, kind).index_copy_(0, found.rows, take(found.rows.numel()));
    }
  }
  SelfCommunicator alone;
  for (std::int64_t m = 0; m < members; ++m) {
    result.gradients.select(0, m).copy_(
        exact_sum(terms[static_cast<std::size_t>(m)], hidden, at::kCPU, micro_batches, alone));
  }
  return result;
}

}  // namespace bipo
