#include "experiments/evaluation_run/evaluation_measures.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "experiments/evaluation/choice_scores.hpp"
#include "experiments/evaluation/evaluation_tables.hpp"
#include "experiments/evaluation/multiplier_choice.hpp"
#include "trainer/passes/continuation_scores.hpp"

namespace bipo {
namespace {

std::int64_t tokens_of(const std::vector<Continuations>& items) {
  std::size_t tokens = 0;
  for (const Continuations& item : items) {
    tokens += item.prompt.size();
    for (const auto& answer : item.answers) {
      tokens += answer.size();
    }
  }
  return static_cast<std::int64_t>(tokens);
}

std::int64_t tokens_of(const std::vector<PromptTokens>& prompts) {
  std::size_t tokens = 0;
  for (const PromptTokens& prompt : prompts) {
    tokens += prompt.ids.size();
  }
  return static_cast<std::int64_t>(tokens);
}

class Measurement {
 public:
  Measurement(const EvaluationJob& job, const Decoder& decoder, const Ranks& ranks,
              ProgressDisplay& display)
      : job_(job),
        decoder_(decoder),
        ranks_(ranks),
        display_(display),
        vectors_(job.plan.vectors, decoder),
        of_directions_(job.plan.coefficients.begin(),
                       job.plan.coefficients.begin() +
                           static_cast<std::ptrdiff_t>(job.plan.direction_settings)) {}

  Evaluation run() {
    all_tokens_ = count_tokens();
    measure_pairs();
    for (const ChoiceQuestions& questions : job_.choices) {
      measure_choices(questions);
    }
    measure_reference_text();
    measure_generations();
    measure_neutral_prompts();
    if (is_root()) {
      evaluation_.judge_scores = job_.judge_scores;
      evaluation_.judge = summarize_judge(job_.judge_scores, seed());
      evaluation_.judge_scale = job_.options.judge_scale;
    }
    return std::move(evaluation_);
  }

 private:
  // Only the root fills tables: every rank has all scores, but intervals take a while.
  bool is_root() const { return ranks_.world->rank() == 0; }
  std::uint64_t seed() const { return job_.options.seed; }
  MarginSettings margin_settings() const { return {job_.options.beta, seed()}; }

  // Tokens under every setting: what the time of the evaluation is about proportional to.
  std::int64_t count_tokens() const {
    const auto settings = static_cast<std::int64_t>(of_directions_.size());
    std::int64_t tokens =
        tokens_of(items_of(job_.pairs)) * static_cast<std::int64_t>(job_.plan.coefficients.size());
    for (const ChoiceQuestions& questions : job_.choices) {
      tokens += settings * tokens_of(items_of(questions));
    }
    return tokens + tokens_of(job_.generation_tokens.items) +
           settings * (tokens_of(job_.reference_text) + tokens_of(job_.neutral_prompts));
  }

  // `tokens` under every setting; `what` names the measure.
  ScoringContext context(const std::string& what, std::int64_t tokens) {
    const std::int64_t before = tokens_done_;
    tokens_done_ += tokens;
    display_.share("evaluate", before, all_tokens_, what);
    const auto progress = [this, what, before, tokens](std::int64_t done, std::int64_t total) {
      display_.share("evaluate", before + tokens * done / total, all_tokens_, what);
    };
    return {decoder_, ranks_, job_.options.batch_size, progress};
  }

  ContinuationScores score(const std::vector<Continuations>& items,
                           const std::vector<std::vector<double>>& coefficients,
                           const std::string& what) {
    const std::int64_t tokens = tokens_of(items) * static_cast<std::int64_t>(coefficients.size());
    const ScoringContext scoring = context(what, tokens);
    std::vector<PromptTokens> prompts;
    for (const Continuations& item : items) {
      prompts.push_back({item.prompt, item.where});
    }
    return score_continuations(scoring, items, vectors_,
                               settings_of(scoring, prompts, coefficients, what));
  }

  // Decides the gates of `prompts`, if there is one, and says how many are open.
  SteeringSettings settings_of(const ScoringContext& scoring,
                               const std::vector<PromptTokens>& prompts,
                               const std::vector<std::vector<double>>& coefficients,
                               const std::string& what) {
    SteeringSettings settings{coefficients, *job_.options.positions};
    if (job_.gate && steers(coefficients)) {
      settings.is_open =
          open_gates({decoder_, ranks_, scoring.group_size, {}}, prompts, *job_.gate);
      if (is_root()) {
        display_.message(fmt::format(
            "{}: the gate is open for {} of {} prompts", what,
            std::count(settings.is_open.begin(), settings.is_open.end(), true), prompts.size()));
      }
    }
    return settings;
  }

  // Calls `add` with every direction, multiplier and index of the setting, further draws left out.
  template <typename Add>
  void for_each_point(const Add& add) const {
    for (const Direction& direction : job_.plan.directions) {
      if (direction.is_further_draw) {
        continue;
      }
      for (std::size_t m = 0; m < direction.settings.size(); ++m) {
        add(direction.name, job_.options.multipliers[m], direction.settings[m]);
      }
    }
  }

  void measure_pairs() {
    if (job_.pairs.empty()) {
      return;
    }
    const ContinuationScores scores =
        score(items_of(job_.pairs), job_.plan.coefficients, "held-out pairs");
    if (!is_root()) {
      return;
    }
    std::vector<std::vector<PairLogProbs>> pairs(scores.size());
    for (std::size_t s = 0; s < scores.size(); ++s) {
      for (const auto& answers : scores[s]) {
        pairs[s].push_back(
            {answers[0].log_prob, answers[1].log_prob, answers[0].tokens, answers[1].tokens});
      }
    }
    for (const Direction& direction : job_.plan.directions) {
      DirectionScores of_direction{direction.name, direction.norm, job_.options.multipliers, {}};
      for (const std::size_t setting : direction.settings) {
        of_direction.pairs.push_back(pairs[setting]);
      }
      add_direction(evaluation_, of_direction, pairs.front(), margin_settings());
      if (!job_.choosing_pairs.empty() && !direction.is_further_draw) {
        add_chosen(evaluation_, of_direction, pairs.front(), job_.choosing_pairs, seed());
      }
    }
    for (std::size_t pair = 0; pair < job_.choosing_pairs.size(); ++pair) {
      evaluation_.choosing_pairs.push_back(
          {static_cast<std::int64_t>(pair), job_.choosing_pairs[pair] ? 1 : 0});
    }
    for (const GridPoint& point : job_.plan.grid) {
      add_grid_samples(evaluation_, point.multiplier_1, point.multiplier_2, pairs[point.setting]);
      evaluation_.grid.push_back(grid_row(point.multiplier_1, point.multiplier_2,
                                          pairs[point.setting], pairs.front(), margin_settings()));
    }
  }

  void measure_choices(const ChoiceQuestions& questions) {
    const std::vector<Continuations> items = items_of(questions);
    const std::string kind(choice_kind_name(questions.set.kind));
    const ContinuationScores scores = score(items, of_directions_, kind + " questions");
    if (!is_root()) {
      return;
    }
    for_each_point([&](const std::string& direction, double multiplier, std::size_t setting) {
      std::vector<ChoiceScore> of_items;
      std::vector<std::string> subjects;
      for (std::size_t i = 0; i < items.size(); ++i) {
        const ChoiceItem& item = questions.set.items[questions.items[i].item];
        std::vector<double> log_probs;
        for (const AnswerScore& answer : scores[setting][i]) {
          log_probs.push_back(answer.log_prob);
        }
        of_items.push_back(score_choices(item, log_probs));
        evaluation_.choice_items.push_back({questions.set.name, kind, direction, multiplier,
                                            static_cast<std::int64_t>(questions.items[i].item),
                                            of_items.back().correct ? 1 : 0,
                                            of_items.back().probability});
        subjects.push_back(item.subject);
      }
      const ChoiceSummary summary = summarize_choices(of_items, subjects, seed());
      evaluation_.choices.push_back({questions.set.name, kind, direction, multiplier, summary.items,
                                     summary.accuracy, summary.probability,
                                     summary.macro_accuracy});
    });
  }

  void measure_reference_text() {
    if (job_.reference_text.empty()) {
      return;
    }
    const ContinuationScores scores = score(job_.reference_text, of_directions_, "reference text");
    if (!is_root()) {
      return;
    }
    for_each_point([&](const std::string& direction, double multiplier, std::size_t setting) {
      std::vector<TokenSum> pieces;
      for (const auto& answers : scores[setting]) {
        pieces.push_back({answers.front().log_prob, answers.front().tokens});
      }
      evaluation_.costs.push_back(
          perplexity_row({"perplexity_reference_text", direction, multiplier}, pieces, seed()));
    });
  }

  // Scores generations with the unsteered model, whatever multiplier they were made at.
  void measure_generations() {
    if (job_.generations.empty()) {
      return;
    }
    const std::vector<std::vector<double>> unsteered = {job_.plan.coefficients.front()};
    const ContinuationScores scores = score(job_.generation_tokens.items, unsteered, "generations");
    if (!is_root()) {
      return;
    }
    std::map<double, std::vector<TokenSum>> texts;
    for (std::size_t i = 0; i < job_.generation_tokens.items.size(); ++i) {
      const Generation& generation = job_.generations[job_.generation_tokens.rows[i]];
      const AnswerScore& text = scores.front()[i].front();
      texts[generation.multiplier].push_back({text.log_prob, text.tokens});
    }
    for (const auto& [multiplier, sums] : texts) {
      evaluation_.costs.push_back(
          perplexity_row({"perplexity_of_generations", "vector", multiplier}, sums, seed()));
    }
    for (CostRow& row : text_rows(job_.generations, seed())) {
      evaluation_.costs.push_back(std::move(row));
    }
  }

  void measure_neutral_prompts() {
    if (job_.neutral_prompts.empty()) {
      return;
    }
    const std::int64_t tokens =
        tokens_of(job_.neutral_prompts) * static_cast<std::int64_t>(of_directions_.size());
    const ScoringContext scoring = context("neutral prompts", tokens);
    const auto divergences = prompt_divergences(
        scoring, job_.neutral_prompts, vectors_,
        settings_of(scoring, job_.neutral_prompts, of_directions_, "neutral prompts"));
    if (!is_root()) {
      return;
    }
    for_each_point([&](const std::string& direction, double multiplier, std::size_t setting) {
      std::vector<TokenSum> prompts;
      for (const PromptDivergence& prompt : divergences[setting]) {
        prompts.push_back({prompt.sum, prompt.positions});
      }
      evaluation_.costs.push_back(
          mean_per_token_row({"kl_neutral", direction, multiplier}, prompts, seed()));
    });
  }

  const EvaluationJob& job_;
  const Decoder& decoder_;
  const Ranks& ranks_;
  ProgressDisplay& display_;
  SteeringVectors vectors_;
  std::vector<std::vector<double>> of_directions_;  // settings outside the grid
  std::int64_t all_tokens_ = 0;
  std::int64_t tokens_done_ = 0;  // when the present measure ends
  Evaluation evaluation_;
};

}  // namespace

std::vector<Continuations> items_of(const std::vector<TokenPair>& pairs) {
  std::vector<Continuations> items;
  for (const TokenPair& pair : pairs) {
    items.push_back({pair.prompt,
                     {pair.chosen, pair.rejected},
                     pair.where,
                     {pair.chosen_scored, pair.rejected_scored}});
  }
  return items;
}

std::vector<Continuations> items_of(const ChoiceQuestions& questions) {
  std::vector<Continuations> items;
  for (const TokenizedChoice& item : questions.items) {
    items.push_back(item.tokens);
  }
  return items;
}

bool steers(const std::vector<std::vector<double>>& coefficients) {
  return std::any_of(coefficients.begin(), coefficients.end(), [](const auto& of_setting) {
    return std::any_of(of_setting.begin(), of_setting.end(),
                       [](double coefficient) { return coefficient != 0; });
  });
}

Evaluation measure(const EvaluationJob& job, const Decoder& decoder, const Ranks& ranks,
                   ProgressDisplay& display) {
  return Measurement(job, decoder, ranks, display).run();
}

}  // namespace bipo
