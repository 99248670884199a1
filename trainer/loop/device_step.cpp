#include "trainer/loop/device_step.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <utility>

#include "collectives/exact_sum.hpp"
#include "collectives/foundation/errors.hpp"
#include "collectives/profile.hpp"
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
  const bool is_bipo =
      objective.kind == ObjectiveKind::kBipo || objective.kind == ObjectiveKind::kDpo;
  return is_bipo && objective.label_smoothing == 0 && objective.reduction == Reduction::kSum;
}

bool is_plain(const MicroBatch& micro_batch) {
  return std::all_of(micro_batch.places.begin(), micro_batch.places.end(),
                     [](const PairPlace& place) { return is_plain(place.objective); });
}

// Columns of `Tables::forms`.
std::array<double, 6> columns_of(const PairForm& form) {
  return {form.sigmoid, form.smoothed, form.gamma, form.square, form.scale, form.shift};
}

bool any_of(const std::vector<double>& values) {
  return std::any_of(values.begin(), values.end(), [](double value) { return value != 0; });
}

}  // namespace

std::string graph_obstacle(const ModelConfig& config, at::Device device, std::int64_t tp,
                           bool keeps_activations) {
  if (tp > 1) {
    return "ranks of --tp exchange rows in a pass";
  }
  if (config.delta_net) {
    return "the model has recurrent blocks, whose shapes are many";
  }
  if (!keeps_activations) {
    return "activations are not kept, and their pass would have to be recorded as well";
  }
  return recorder_of(device) == nullptr ? "the device has none" : "";
}

std::uint64_t DeviceStep::Tables::bytes() const {
  // The layout has what followed from the tables, too; graphs make it anew.
  return sent.nbytes() + (packed().layout.answer_rows.defined() ? bytes_of(packed().layout) : 0);
}

void DeviceStep::Tables::take(const at::Tensor& bytes) const {
  pairs->upload.bind(bytes);
  pairs->finish();
}

DeviceStep::DeviceStep(const Decoder& decoder, const ActivationCache& cache,
                       const SteeredLayers& layers, const Ranks& ranks, bool repeats)
    : decoder_(decoder),
      cache_(cache),
      layers_(layers),
      ranks_(ranks),
      repeats_(repeats),
      rows_on_device_(cache.rows_on_device(decoder, layers.lowest())),
      copies_(decoder.device()),
      table_bytes_left_(std::min(kMostTableBytes, free_device_memory(decoder.device()) / 16)),
      recorder_(records_graphs() && graph_obstacle(decoder.config(), decoder.device(),
                                                   ranks.tp->size(), cache.keeps_activations())
                                        .empty()
                    ? recorder_of(decoder.device())
                    : nullptr) {
}

void DeviceStep::begin(const at::Tensor& vectors) {
  found_.clear();
  if (recorder_ == nullptr) {
    vectors_ = uploaded(vectors, residual_options(decoder_));
    return;
  }
  at::Tensor& fixed = fixed_vectors_[vectors.size(0)];
  if (!fixed.defined()) {
    fixed = at::empty(vectors.sizes(), residual_options(decoder_));
  }
  fixed.copy_(vectors.to(fixed.scalar_type()).contiguous().pin_memory(), /*non_blocking=*/true);
  vectors_ = fixed;
}

void DeviceStep::add(const MicroBatch& micro_batch, const MicroBatch* next) {
  if (!next_ || next_->micro_batch != micro_batch) {
    next_ = prepare(micro_batch);
  }
  const Prepared prepared = *std::exchange(next_, std::nullopt);
  Found& found = found_.emplace_back(recorder_ != nullptr
                                         ? run_rounded(prepared)
                                         : forward_and_backward(prepared, hidden_of(prepared)));
  found.rows =
      ranks_.dp->size() == 1 ? prepared.tables->rows_on_host : prepared.tables->rows_of_figures;
  if (next != nullptr) {
    next_ = prepare(*next);
  }
}

// From the activations [T, D] of the residual type.
DeviceStep::Found DeviceStep::forward_and_backward(const Prepared& prepared,
                                                   const at::Tensor& hidden) const {
  const Tables& tables = *prepared.tables;
  // h + (-c) v = h + c (-v): the derivative by -v under the sign +1 is that by v under -1, but for
  // the sign of the loss's derivative, which is left out, too.
  const at::Tensor vectors = prepared.sign > 0 ? vectors_.detach() : vectors_.neg();
  vectors.set_requires_grad(true);
  const at::Tensor log_probs = target_log_probs(
      decoder_, tables.packed(), hidden, {layers_, tables.coefficients, vectors, tables.shares});
  Found found;
  log_probs.backward(backward_weights(prepared, log_probs.detach(), found));
  found.gradient = vectors.grad();
  return found;
}

// The same as one tensor in float64: the gradient [M S D], margins [P'] and minus losses [P'],
// where P' are the items with the one that fills the batch up.
at::Tensor DeviceStep::results_of(const Prepared& prepared, const at::Tensor& hidden) const {
  const Found found = forward_and_backward(prepared, hidden.to(decoder_.residual_type()));
  return at::cat({found.gradient.to(at::kDouble).view({-1}), found.margin, found.log_score});
}

// Runs a micro-batch that is filled up: by its graph where there is one.
DeviceStep::Found DeviceStep::run_rounded(const Prepared& prepared) {
  const Tables& tables = *prepared.tables;
  Recorded* const recorded = recorded_for(prepared);
  at::Tensor results;
  if (recorded == nullptr) {
    tables.take(tables.sent);
    results = results_of(prepared, hidden_of(prepared));
  } else {
    recorded->tables.copy_(tables.sent);
    if (recorded->hidden.defined()) {
      recorded->hidden.copy_(prepared.hidden->receive());
    }
    recorded->graph->replay();
    results = recorded->results.clone();  // graphs share memory: the next one's replay may use it
    tables.pairs->upload.bind(tables.sent);
  }
  tables.pairs->packed.layout = SequenceLayout();  // which is made of the tables every time
  const std::int64_t items = tables.rows_on_host.numel();
  const std::int64_t of_gradient = vectors_.numel();
  Found found;
  found.gradient = results.narrow(0, 0, of_gradient).view(vectors_.sizes());
  found.margin = results.narrow(0, of_gradient, items);
  found.log_score = results.narrow(0, of_gradient + items + 1, items);
  return found;
}

// Returns the graph of the micro-batch's shape, recording it where the shape has come once before;
// null: it is to run without one.
DeviceStep::Recorded* DeviceStep::recorded_for(const Prepared& prepared) {
  if (!records_ || is_profiled()) {  // a profile waits for the device again and again
    return nullptr;
  }
  Shape shape = prepared.tables->pairs->upload.shapes();
  const std::vector<std::int64_t>& constants = prepared.tables->pairs->layout.constants;
  shape.insert(shape.end(), constants.begin(), constants.end());
  shape.push_back(prepared.sign);
  for (const at::Tensor& table : {prepared.tables->argument_of_target,
                                  prepared.tables->complement_of_target, prepared.tables->shares}) {
    shape.push_back(table.defined() ? 1 : 0);
  }
  const auto found = recorded_.find(shape);
  if (found == recorded_.end()) {
    if (recorded_.size() < kMostShapes) {
      recorded_.try_emplace(std::move(shape));
    }
    return nullptr;
  }
  Recorded& recorded = found->second;
  if (recorded.graph == nullptr && (graphs_ == kMostGraphs || !record(prepared, recorded))) {
    return nullptr;
  }
  return &recorded;
}

// Returns whether it could be recorded.  A failure, for want of memory above all, ends recording:
// what has no graph runs all the same.
bool DeviceStep::record(const Prepared& prepared, Recorded& recorded) {
  // The graphs' memory is their own: what libtorch keeps of earlier passes is no use to them.
  release_unused_device_memory(decoder_.device());
  const auto end = [&](const std::string& why) {
    records_ = false;
    recorded = Recorded();
    failure_ = fmt::format(
        "--cuda-graphs: recording a graph failed; the run goes on with the {} that it has: {}",
        graphs_, why);
    return false;
  };
  try {
    const Tables& tables = *prepared.tables;
    recorded.tables = tables.sent.clone();
    if (prepared.hidden) {
      recorded.hidden = prepared.hidden->receive().clone();
    }
    recorded.graph = recorder_->record(decoder_.device(), [&] {
      tables.take(recorded.tables);
      recorded.results =
          results_of(prepared, recorded.hidden.defined() ? recorded.hidden : hidden_of(prepared));
    });
    ++graphs_;
    return true;
  } catch (const c10::Error& error) {
    return end(error.what_without_backtrace());
  } catch (const EnvironmentError& error) {  // of our own kernels' launches
    return end(error.what());
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
    prepared.hidden = send_activations(prepared.tables->packed());
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
    items.push_back({place.pair, steering_choice(place.member, place.sign, place.factor,
                                                 place.positions, place.objective.kind)});
  }
  const auto add_tables = [&](const PackedPairs& packed, Upload& upload) {
    std::vector<std::int64_t> targets_of_item;
    std::vector<std::int64_t> item_of_target;
    std::vector<double> direction_of_target;
    std::vector<double> offset;
    std::vector<double> forms;  // [P, 6]
    std::vector<double> loss_of_target;
    std::vector<double> argument_of_target;
    std::vector<double> complement_of_target;
    std::vector<std::int64_t> rows_of_figures;
    std::int64_t last = -1;
    PairForm form;                                               // of the item
    for (const std::int64_t answer : packed.answer_of_target) {  // chosen, then rejected
      const std::int64_t item = answer / 2;
      if (item == std::ssize(micro_batch.places)) {
        break;  // the others fill the batch up
      }
      if (item != last) {
        const PairPlace& place = micro_batch.places[static_cast<std::size_t>(item)];
        const auto pair = static_cast<std::size_t>(place.pair);
        form = pair_form(place.objective,
                         uses_reference(place.objective.kind)
                             ? cache_.reference(layers_.lowest())[pair]
                             : AnswerLogProbs{},
                         answer_tokens(cache_.pairs()[pair]), static_cast<double>(place.sign));
        targets_of_item.push_back(0);
        offset.push_back(form.offset);
        const std::array<double, 6> columns = columns_of(form);
        forms.insert(forms.end(), columns.begin(), columns.end());
        rows_of_figures.push_back(place.row);
      }
      last = item;
      ++targets_of_item.back();
      item_of_target.push_back(static_cast<std::int64_t>(offset.size()) - 1);
      const auto own = [&](const AnswerLogProbs& by_answer) {
        return answer % 2 == 0 ? by_answer.chosen : by_answer.rejected;
      };
      direction_of_target.push_back(own(form.margin));
      loss_of_target.push_back(own(form.plain));
      argument_of_target.push_back(own(form.argument));
      complement_of_target.push_back(own(form.complement));
    }
    if (recorder_ != nullptr) {  // an item whose loss has no weight
      const std::size_t targets = packed.answer_of_target.size();
      targets_of_item.push_back(static_cast<std::int64_t>(targets - item_of_target.size()));
      item_of_target.resize(targets, std::ssize(offset));
      offset.push_back(0);
      forms.resize(forms.size() + 6);
      direction_of_target.resize(targets);
      loss_of_target.resize(targets);
      argument_of_target.resize(targets);
      complement_of_target.resize(targets);
    }
    upload.add(targets_of_item, tables->targets_of_item);
    upload.add(item_of_target, tables->item_of_target);
    upload.add(at::tensor(direction_of_target, at::kDouble), tables->direction_of_target);
    upload.add(at::tensor(offset, at::kDouble), tables->offset);
    if (!is_plain(micro_batch)) {
      upload.add(at::tensor(forms, at::kDouble).view({-1, 6}).t().contiguous(), tables->forms);
      upload.add(at::tensor(loss_of_target, at::kDouble), tables->loss_of_target);
    }
    if (any_of(argument_of_target)) {
      upload.add(at::tensor(argument_of_target, at::kDouble), tables->argument_of_target);
    }
    if (any_of(complement_of_target)) {
      upload.add(at::tensor(complement_of_target, at::kDouble), tables->complement_of_target);
    }
    tables->rows_on_host = at::tensor(rows_of_figures, at::kLong);
    upload.add(tables->rows_on_host, tables->rows_of_figures);
    upload.add(steering_coefficients(packed, micro_batch.members, decoder_.residual_type()),
               tables->coefficients);
    if (const at::Tensor shares =
            projection_shares(packed, micro_batch.members, decoder_.residual_type());
        shares.defined()) {
      upload.add(shares, tables->shares);
    }
    if (rows_on_device_.defined()) {
      upload.add(cache_.kept_rows(packed), tables->rows);
    }
  };
  tables->pairs =
      pack_unsent(cache_.pairs(), items, decoder_, add_tables, /*rounds=*/recorder_ != nullptr);
  tables->sent = tables->pairs->upload.image().to(decoder_.device(), at::kByte,
                                                  /*non_blocking=*/true);
  if (recorder_ == nullptr) {
    tables->take(tables->sent);
    tables->pairs->upload = Upload();  // they stay there
  }
  return tables;
}

// In the kept type, which has fewer bytes where it is narrower.
Arrival DeviceStep::send_activations(const PackedPairs& packed) const {
  const at::Tensor& kept = cache_.kept_activations(layers_.lowest());
  at::Tensor rows = at::empty({packed.tokens(), kept.size(1)}, kept.options().pinned_memory(true));
  at::index_select_out(rows, kept, 0, at::tensor(cache_.kept_rows(packed), at::kLong));
  return copies_.send(rows);
}

at::Tensor DeviceStep::hidden_of(const Prepared& prepared) const {
  if (rows_on_device_.defined()) {
    return rows_on_device_.index_select(0, prepared.tables->rows).to(decoder_.residual_type());
  }
  return prepared.hidden
             ? prepared.hidden->receive().to(decoder_.residual_type())
             : cache_.activations(decoder_, prepared.tables->packed(), layers_.lowest());
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

// The same for any objective, by its PairForm.
at::Tensor DeviceStep::general_weights(const Tables& tables, const at::Tensor& log_probs,
                                       Found& found) {
  const auto by_item = [&](const at::Tensor& of_targets) {
    return at::segment_reduce(of_targets, "sum", tables.targets_of_item, {}, {},
                              /*axis=*/0, /*unsafe=*/true, /*initial=*/0);
  };
  at::Tensor argument = found.margin - tables.forms[2];
  at::Tensor by_argument = tables.direction_of_target;  // its slope by the log-probabilities
  if (tables.argument_of_target.defined()) {
    argument = argument + by_item(log_probs * tables.argument_of_target);
    by_argument = by_argument + tables.argument_of_target;
  }
  const at::Tensor ahead = at::log_sigmoid(argument);
  const at::Tensor behind = at::log_sigmoid(-argument);
  const at::Tensor distance = tables.forms[4] * found.margin - tables.forms[5];
  at::Tensor alone = log_probs * tables.loss_of_target;
  at::Tensor weights = tables.loss_of_target;
  if (tables.complement_of_target.defined()) {
    // As complement() has it.
    const at::Tensor exact = log_probs.to(at::kDouble);
    const at::Tensor bounded = exact.clamp_max(kMostLogProb);
    const at::Tensor slope = at::expm1(-bounded).reciprocal().neg();
    const at::Tensor value =
        at::log(-at::expm1(bounded)) + slope * (exact - kMostLogProb).clamp_min(0);
    alone = alone + value * tables.complement_of_target;
    weights = weights + slope * tables.complement_of_target;
  }
  found.log_score = tables.forms[0] * ahead + tables.forms[1] * behind -
                    tables.forms[3] * distance * distance - by_item(alone);
  const at::Tensor by_sigmoid =
      tables.forms[0] * at::expm1(ahead) - tables.forms[1] * at::expm1(behind);
  const at::Tensor by_square = 2 * tables.forms[3] * tables.forms[4] * distance;
  const auto of_item = [&](const at::Tensor& slopes) {
    return slopes.index_select(0, tables.item_of_target);
  };
  weights = weights + (tables.argument_of_target.defined()
                           ? of_item(by_sigmoid) * by_argument +
                                 of_item(by_square) * tables.direction_of_target
                           : of_item(by_sigmoid + by_square) * tables.direction_of_target);
  return weights.to(log_probs.scalar_type());
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
      gradients.push_back(found.gradient.to(vectors_.scalar_type()));
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
