#include "experiments/training/run_verdict.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "experiments/evaluation/statistics.hpp"
#include "experiments/runs/run_file.hpp"
#include "trainer/passes/pair_scores.hpp"

namespace bipo {
namespace {

constexpr double kShortShare = 0.005;
constexpr double kLongWarmup = 0.1;  // of the steps
constexpr std::uint64_t kSeed = 11;  // of the bootstrap

// Margin at +m less that at -m, pair by pair, in nats.
struct MarginChange {
  double multiplier = 0;
  std::vector<double> of_pairs;
};

// By multiplier and pair: how much likelier the chosen answer is than the rejected one.
using Preferences = std::map<double, std::map<std::int64_t, double>>;

std::optional<double> tested_multiplier(const Preferences& preferences) {
  const auto has_both = [&](double m) {
    return preferences.contains(m) && preferences.contains(-m);
  };
  if (has_both(1)) {
    return 1;
  }
  const auto largest =
      std::find_if(preferences.rbegin(), preferences.rend(),
                   [&](const auto& entry) { return entry.first > 0 && has_both(entry.first); });
  return largest == preferences.rend() ? std::nullopt : std::optional(largest->first);
}

std::optional<MarginChange> margin_change(const std::vector<EvalSampleRow>& samples,
                                          const VerdictSettings& settings) {
  Preferences preferences;
  for (const EvalSampleRow& sample : samples) {
    const AnswerTokens tokens = settings.tokens.empty()
                                    ? AnswerTokens{}
                                    : settings.tokens.at(static_cast<std::size_t>(sample.pair));
    const AnswerLogProbs answers =
        reduced(settings.objective, {sample.chosen_logp, sample.rejected_logp}, tokens);
    preferences[sample.multiplier][sample.pair] = answers.chosen - answers.rejected;
  }
  const std::optional<double> m = tested_multiplier(preferences);
  if (!m || preferences[*m].size() < 2) {
    return std::nullopt;
  }
  MarginChange change{*m, {}};
  for (const auto& [pair, plus] : preferences[*m]) {
    change.of_pairs.push_back(settings.objective.beta * (plus - preferences[-*m].at(pair)));
  }
  return change;
}

std::string shorter_warmup(const VerdictSettings& s) {
  const bool is_long =
      static_cast<double>(s.warmup_steps) > kLongWarmup * static_cast<double>(s.total_steps) + 1;
  return is_long ? fmt::format(" or a shorter --warmup (now {} of {} steps)", s.warmup_steps,
                               s.total_steps)
                 : "";
}

// What makes the vector longer.
std::string advice(const VerdictSettings& s) {
  return fmt::format("train again with a higher --lr (now {:g}{}), more --epochs (now {}){}", s.lr,
                     s.lr_unit == LrUnit::kAbsolute
                         ? "; --lr-unit residual makes it one for every model and layer"
                         : ", in residual units",
                     s.epochs, shorter_warmup(s));
}

// A layer's vector beside the residual stream there.
struct LayerShare {
  std::int64_t layer = 0;
  double share = 0;
};

std::vector<LayerShare> shares_of_layers(const TrainingRecord& record,
                                         const VerdictSettings& settings) {
  const std::vector<float> whole = whole_vector(record.checkpoint);
  std::vector<LayerShare> shares;
  for (std::size_t i = 0; i < settings.residual_norms.size(); ++i) {
    if (settings.residual_norms[i] > 0) {
      const std::size_t hidden = whole.size() / settings.layers.size();
      const double norm = vector_norm(std::span(whole).subspan(i * hidden, hidden));
      shares.push_back({settings.layers[i], norm / settings.residual_norms[i]});
    }
  }
  return shares;
}

// `shares`: of some of the run's `count` layers.
std::string lengths_text(const std::vector<LayerShare>& shares, std::size_t count) {
  if (count == 1) {
    return fmt::format("the vector's norm is {:.3g} % of the residual stream's",
                       100 * shares.front().share);
  }
  std::vector<std::int64_t> layers;
  std::vector<std::string> per_cent;
  for (const LayerShare& of_layer : shares) {
    layers.push_back(of_layer.layer);
    per_cent.push_back(fmt::format("{:.3g}", 100 * of_layer.share));
  }
  return shares.size() == 1
             ? fmt::format("the norm of layer {}'s vector is {} % of the residual stream's there",
                           layers.front(), per_cent.front())
             : fmt::format(
                   "the norms of the vectors of layers {} are {} % of the residual stream's there",
                   fmt::join(layers, ", "), fmt::join(per_cent, ", "));
}

// Says so where the file ends with another vector than the judged one, which is the last step's.
std::string of_last_step(const TrainingRecord& record) {
  if (record.vectors.empty() || record.vectors.back().step >= record.checkpoint.step) {
    return "";
  }
  return fmt::format(
      " (said of the vector of the last step; the file ends with that of epoch {}, the best)",
      record.vectors.back().epoch + 1);
}

}  // namespace

VerdictSettings verdict_settings(const TrainOptions& options,
                                 const std::vector<TokenPair>& held_out,
                                 std::vector<double> residual_norms, std::int64_t total_steps) {
  VerdictSettings settings;
  settings.layers = options.layer.blocks();
  settings.residual_norms = std::move(residual_norms);
  settings.objective = objective_of(options);
  if (settings.objective.reduction == Reduction::kMean) {
    std::transform(held_out.begin(), held_out.end(), std::back_inserter(settings.tokens),
                   answer_tokens);
  }
  settings.lr = options.lr;
  settings.lr_unit = options.lr_unit;
  settings.epochs = options.epochs;
  settings.warmup_steps = options.warmup_steps.value();
  settings.total_steps = total_steps;
  return settings;
}

std::string judge_run(const TrainingRecord& record, const VerdictSettings& settings) {
  std::vector<std::string> shown;
  std::vector<std::string> faults;
  if (const std::vector<LayerShare> all = shares_of_layers(record, settings); !all.empty()) {
    std::vector<LayerShare> too_short;
    std::copy_if(all.begin(), all.end(), std::back_inserter(too_short),
                 [](const LayerShare& of_layer) { return of_layer.share < kShortShare; });
    if (too_short.empty()) {
      shown.push_back(lengths_text(all, settings.layers.size()));
    } else {
      faults.push_back(fmt::format(
          "{}, below {:g} %", lengths_text(too_short, settings.layers.size()), 100 * kShortShare));
    }
  }
  const auto change = margin_change(record.eval_samples, settings);
  bool is_reversed = false;
  if (change) {
    const Interval mean = bootstrap_mean(change->of_pairs, kSeed);
    std::string difference = fmt::format(
        "the held-out margins at {:+g}v and {:+g}v differ by {:+.3g} nats (95 % interval {:+.3g} "
        "to "
        "{:+.3g}, {} pairs)",
        change->multiplier, -change->multiplier, mean.value, mean.low, mean.high,
        change->of_pairs.size());
    is_reversed = mean.high < 0;
    if (is_reversed) {
      faults.push_back(difference + ", the wrong way");
    } else if (mean.low > 0) {
      shown.push_back(std::move(difference));
    } else {
      faults.push_back(difference + ", which may be chance");
    }
  }
  if (!faults.empty()) {
    return fmt::format("{}{}{}; {}", kWeakVerdict, fmt::join(faults, ", and "),
                       of_last_step(record),
                       is_reversed && faults.size() == 1
                           ? "see with `bipo-dist data` whether --train and --test ask for the same"
                           : advice(settings));
  }
  if (!change) {
    shown.emplace_back("no held-out pairs at -v and +v say whether it steers");
  }
  return fmt::format("{}{}{}", change ? "steers: " : "untested: ", fmt::join(shown, ", "),
                     of_last_step(record));
}

}  // namespace bipo
