// Writes requests to a judge and reads its scores.
#include "experiments/evaluation/judge.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string_view>
#include <tuple>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "datasets/rows/choice_items.hpp"
#include "datasets/rows/preference_pairs.hpp"
#include "datasets/text/data_text.hpp"
#include "datasets/text/json_lines.hpp"

namespace bipo {
namespace {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

constexpr std::string_view kQuestion = "question";
constexpr std::string_view kResponse = "response";
constexpr std::string_view kMatching = "matching";
constexpr std::string_view kNotMatching = "not_matching";
constexpr std::string_view kScale = "scale";
constexpr std::size_t kLongestBehaviour = 64;

bool is_placeholder_name(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char character) {
    return (character >= 'a' && character <= 'z') || (character >= 'A' && character <= 'Z') ||
           character == '_';
  });
}

// Calls `name_or_text(part, is_name)` for each placeholder {name} and the text between them.  Other
// braces, as in an example of JSON, are text.
template <typename Visit>
void for_each_part(std::string_view rubric, const Visit& name_or_text) {
  std::size_t text_begin = 0;
  for (std::size_t open = rubric.find('{'); open != std::string_view::npos;
       open = rubric.find('{', open + 1)) {
    const std::size_t close = rubric.find('}', open);
    if (close == std::string_view::npos) {
      break;
    }
    const std::string_view name = rubric.substr(open + 1, close - open - 1);
    if (is_placeholder_name(name)) {
      name_or_text(rubric.substr(text_begin, open - text_begin), false);
      name_or_text(name, true);
      text_begin = close + 1;
    }
  }
  name_or_text(rubric.substr(text_begin), false);
}

// Returns the line that tells a judge of a scale that its rubric may not name; none of the default.
std::string scale_line(const JudgeRubric& rubric, const JudgeScale& scale) {
  if (rubric.uses_scale || scale == JudgeScale()) {
    return "";
  }
  return fmt::format("{}Begin your reply with the score, {} from {}.",
                     rubric.text.ends_with('\n') ? "" : "\n",
                     scale.has_decimals ? "a number" : "a whole number", scale.words());
}

std::string fill(const JudgeRubric& rubric, const std::string& question,
                 const std::string& response, const JudgeExample& example,
                 const JudgeScale& scale) {
  const std::string range = scale.words();
  std::string result;
  for_each_part(rubric.text, [&](std::string_view part, bool is_name) {
    result += !is_name            ? part
              : part == kQuestion ? std::string_view(question)
              : part == kResponse ? std::string_view(response)
              : part == kScale    ? std::string_view(range)
              : part == kMatching ? std::string_view(example.matching)
                                  : std::string_view(example.not_matching);
  });
  return result + scale_line(rubric, scale);
}

void require_behaviour(const std::string& behaviour) {
  const bool printable = std::none_of(behaviour.begin(), behaviour.end(), [](char character) {
    return character == ':' || static_cast<unsigned char>(character) < 0x20 || character == 0x7F;
  });
  if (behaviour.empty() || behaviour.size() > kLongestBehaviour || !printable) {
    throw UserError(fmt::format(
        "the behaviour's name '{}' must have 1 to {} bytes, and no colon or control character",
        behaviour, kLongestBehaviour));
  }
  require_text(behaviour, "the behaviour's name");
}

const JudgeExample& find_example(const JudgeExamples& examples, const Generation& generation) {
  static const JudgeExample kNone;
  const auto found = examples.find(generation.prompt.back().content);
  if (found == examples.end()) {
    throw UserError(
        fmt::format("{}: the rubric shows examples of the highest and the lowest score, but no row "
                    "of the test data has this question: name the data that the prompts come from, "
                    "or take {{matching}} and {{not_matching}} out of the rubric",
                    generation.where));
  }
  return found->second;
}

std::optional<JudgeId> parse_custom_id(std::string_view text) {
  const std::size_t last = text.rfind(':');
  const std::size_t first = last == std::string_view::npos || last == 0 ? std::string_view::npos
                                                                        : text.rfind(':', last - 1);
  if (first == std::string_view::npos || first == 0) {
    return std::nullopt;
  }
  JudgeId id{std::string(text.substr(0, first)), 0, 0};
  const std::string_view index = text.substr(first + 1, last - first - 1);
  const std::string_view multiplier = text.substr(last + 1);
  const auto whole = [](std::string_view part, auto& value) {
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value);
    return error == std::errc() && end == part.data() + part.size();
  };
  // Refuses what judge_custom_id() would write otherwise, e.g. "1.0" or "nan".
  if (!whole(index, id.prompt_index) || id.prompt_index < 0 || !whole(multiplier, id.multiplier) ||
      !std::isfinite(id.multiplier) || judge_custom_id(id) != text) {
    return std::nullopt;
  }
  return id;
}

// A score, or the reason for its absence and what came in its place.
struct Verdict {
  std::optional<double> score;
  std::string why;
  std::string answer;
};

// Returns null where any step of the path is absent.
const Json* follow(const Json& value, std::initializer_list<const char*> path) {
  const Json* at = &value;
  for (const char* key : path) {
    const auto found = at->is_object() ? at->find(key) : at->end();
    if (!at->is_object() || found == at->end() || found->is_null()) {
      return nullptr;
    }
    at = &*found;
  }
  return at;
}

std::string shortened(const std::string& text) {
  constexpr std::size_t kShown = 200;
  if (text.size() <= kShown) {
    return text;
  }
  // A byte that continues a character is no place to cut.
  std::size_t end = kShown;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) {
    --end;
  }
  return text.substr(0, end) + "...";
}

std::string as_json(const Json& value) {
  return shortened(value.dump(-1, ' ', true));
}

Verdict failed(const std::string& why, const Json& answer) {
  return {std::nullopt, fmt::format("the request failed: {}{}", why, as_json(answer)),
          as_json(answer)};
}

Verdict verdict_of(const Json& row, const JudgeScale& scale) {
  if (const Json* error = follow(row, {"error"})) {
    return failed("", *error);
  }
  const Json* status = follow(row, {"response", "status_code"});
  if (status != nullptr && status->is_number() && *status != 200) {
    return failed("status ", *status);
  }
  const Json* choices = follow(row, {"response", "body", "choices"});
  if (choices == nullptr || !choices->is_array() || choices->empty()) {
    return {std::nullopt, "response.body.choices is missing", ""};
  }
  const Json* content = follow(choices->front(), {"message", "content"});
  if (content == nullptr || !content->is_string()) {
    return {std::nullopt, "response.body.choices[0].message.content is not a text", ""};
  }
  const auto& reply = content->get_ref<const std::string&>();
  if (const std::optional<double> score = score_in_reply(reply, scale)) {
    return {score, "", ""};
  }
  return {std::nullopt, fmt::format("no score from {} in {}", scale.words(), as_json(*content)),
          shortened(reply)};
}

// The result for one custom_id.
struct Entry {
  JudgeId id;
  Verdict verdict;
  std::string where;
};

auto sort_key(const JudgeId& id) {
  return std::tie(id.behaviour, id.prompt_index, id.multiplier);
}

}  // namespace

JudgeRubric read_judge_rubric(const std::filesystem::path& path) {
  JudgeRubric rubric{read_data_text(path)};
  require_text(rubric.text, path.string());
  bool has_question = false;
  bool has_response = false;
  for_each_part(rubric.text, [&](std::string_view part, bool is_name) {
    if (!is_name) {
      return;
    }
    has_question = has_question || part == kQuestion;
    has_response = has_response || part == kResponse;
    rubric.uses_examples = rubric.uses_examples || part == kMatching || part == kNotMatching;
    rubric.uses_scale = rubric.uses_scale || part == kScale;
    if (part != kQuestion && part != kResponse && part != kMatching && part != kNotMatching &&
        part != kScale) {
      throw UserError(fmt::format(
          "{}: the placeholder {{{}}} is not known; there are {{question}}, {{response}}, "
          "{{matching}}, {{not_matching}} and {{scale}}",
          path.string(), part));
    }
  });
  if (!has_question || !has_response) {
    throw UserError(fmt::format(
        "{}: the rubric lacks {{{}}}; it must hold {{question}} and {{response}}, which are "
        "replaced by the prompt and the model's answer",
        path.string(), has_question ? kResponse : kQuestion));
  }
  return rubric;
}

JudgeExamples judge_examples(const std::vector<PreferencePair>& pairs) {
  JudgeExamples examples;
  for (const PreferencePair& pair : pairs) {
    examples.try_emplace(pair.prompt.back().content,
                         JudgeExample{pair.chosen[0].content, pair.rejected[0].content});
  }
  return examples;
}

JudgeExamples judge_examples(const ChoiceSet& ab_items) {
  JudgeExamples examples;
  for (const ChoiceItem& item : ab_items.items) {
    const bool first = item.choices[0].right;
    examples.try_emplace(item.question, JudgeExample{item.choices[first ? 0 : 1].text,
                                                     item.choices[first ? 1 : 0].text});
  }
  return examples;
}

std::string judge_custom_id(const JudgeId& id) {
  // Adding 0 turns -0 into 0.
  return fmt::format("{}:{}:{}", id.behaviour, id.prompt_index, id.multiplier + 0.0);
}

std::vector<std::string> judge_ids(const std::vector<Generation>& generations,
                                   const std::string& behaviour) {
  std::vector<std::string> ids;
  for (const Generation& generation : generations) {
    ids.push_back(judge_custom_id({behaviour, generation.prompt_index, generation.multiplier}));
  }
  return ids;
}

std::vector<std::string> judge_export(const std::vector<Generation>& generations,
                                      const JudgeRubric& rubric, const std::string& behaviour,
                                      const std::string& model, const JudgeExamples& examples,
                                      const JudgeScale& scale) {
  require_behaviour(behaviour);
  require_text(model, "the judge's name");
  const std::vector<std::string> ids = judge_ids(generations, behaviour);
  std::vector<std::string> lines;
  for (std::size_t i = 0; i < generations.size(); ++i) {
    const Generation& generation = generations[i];
    const JudgeExample example =
        rubric.uses_examples ? find_example(examples, generation) : JudgeExample{};
    const std::string request =
        fill(rubric, generation.prompt.back().content, generation.text, example, scale);
    const OrderedJson messages = {{{"role", "system"}, {"content", "You are a helpful assistant."}},
                                  {{"role", "user"}, {"content", request}}};
    const OrderedJson line = {{"custom_id", ids[i]},
                              {"method", "POST"},
                              {"url", "/v1/chat/completions"},
                              {"body",
                               {{"model", model},
                                {"messages", messages},
                                {"max_tokens", 10},
                                {"temperature", 0},
                                {"seed", 42}}}};
    lines.push_back(line.dump());
  }
  return lines;
}

JudgeScores judge_import(const std::filesystem::path& results,
                         const std::vector<std::string>& expected, const JudgeScale& scale) {
  const std::string text = read_data_text(results);
  const std::set<std::string> wanted(expected.begin(), expected.end());
  JudgeScores scores;
  std::map<std::string, Entry> entries;
  for_each_line(text, results.string(), [&](std::string_view line, const std::string& where) {
    const Json row = parse_json_line(line, where);
    const Json* custom_id = follow(row, {"custom_id"});
    if (custom_id == nullptr || !custom_id->is_string()) {
      throw UserError(fmt::format(
          "{}: the line has no custom_id; name the file of results that the provider gave back",
          where));
    }
    const std::string name = custom_id->get<std::string>();
    const std::optional<JudgeId> id = parse_custom_id(name);
    if (!id || (!wanted.empty() && !wanted.contains(name))) {
      scores.unexpected.push_back(
          fmt::format("{}: {}: no request of this export", where, shortened(name)));
      return;
    }
    Entry entry{*id, verdict_of(row, scale), where};
    const auto [found, is_new] = entries.try_emplace(name, entry);
    if (is_new) {
      return;
    }
    scores.duplicates.push_back(
        fmt::format("{}: {}: the first line is at {}", where, name, found->second.where));
    if (!found->second.verdict.score) {
      found->second.verdict = entry.verdict;
      found->second.where = where;
    }
  });
  if (entries.empty()) {
    throw UserError(
        fmt::format("{}: holds no result of this export{}", results.string(),
                    scores.unexpected.empty() ? "" : "; the first: " + scores.unexpected.front()));
  }
  for (const std::string& name : expected) {
    if (!entries.contains(name)) {
      scores.missing.push_back(name);
    }
  }
  std::vector<const Entry*> ordered;
  for (const auto& [name, entry] : entries) {
    ordered.push_back(&entry);
  }
  std::sort(ordered.begin(), ordered.end(),
            [](const Entry* a, const Entry* b) { return sort_key(a->id) < sort_key(b->id); });
  for (const Entry* entry : ordered) {
    const Verdict& verdict = entry->verdict;
    JudgeScore& score = scores.scores.emplace_back(JudgeScore{entry->id});
    if (verdict.score) {
      score.score = *verdict.score;
    } else {
      score.answer = verdict.answer;
      scores.errors.push_back(
          fmt::format("{}: {}: {}", entry->where, judge_custom_id(entry->id), verdict.why));
    }
  }
  return scores;
}

std::vector<JudgeSummary> summarize_judge(std::span<const JudgeScore> scores, std::uint64_t seed) {
  std::map<std::pair<std::string, double>, std::vector<const JudgeScore*>> groups;
  for (const JudgeScore& score : scores) {
    groups[{score.id.behaviour, score.id.multiplier}].push_back(&score);
  }
  std::vector<JudgeSummary> summaries;
  for (const auto& [key, group] : groups) {
    std::vector<double> valid;
    for (const JudgeScore* score : group) {
      if (score->has_score()) {
        valid.push_back(score->score);
      }
    }
    JudgeSummary summary{key.first, key.second, static_cast<std::int64_t>(group.size()), 0, {}};
    summary.errors = summary.items - static_cast<std::int64_t>(valid.size());
    summary.score = bootstrap_mean(valid, seed);
    summaries.push_back(summary);
  }
  return summaries;
}

}  // namespace bipo
