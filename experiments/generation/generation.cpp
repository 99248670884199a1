#include "experiments/generation/generation.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <numeric>
#include <optional>
#include <span>
#include <utility>

#include "collectives/foundation/errors.hpp"
#include "datasets/batches/prefix_packs.hpp"

namespace bipo {

// Rows of a cache that belong to one part of a sequence, how many of them are in use, and the part
// before it.
struct TextGenerator::Region {
  Region(TakenRegion region, const Region* before)
      : taken(std::move(region)),
        context(before != nullptr ? before->as_context() : std::vector<Range>{}),
        number_before(before != nullptr ? before->taken.number() : -1) {}

  // Takes the sequence's next `count` rows, as rows `first`... of a batch.
  CachedPart extend(std::int64_t first, std::int64_t count) {
    used += count;
    return {{first, first + count},
            {taken.rows().begin, taken.rows().begin + used},
            context,
            taken.number(),
            number_before};
  }

  // Returns the context of what follows the whole region.
  std::vector<Range> as_context() const {
    std::vector<Range> ranges = context;
    ranges.push_back(taken.rows());
    return ranges;
  }

  // The row of a text that has ended: it attends to itself alone.
  CachedPart idle(std::int64_t row) const {
    return {{row, row + 1}, {taken.rows().begin, taken.rows().begin + 1}, {}, taken.number(), -1};
  }

  TakenRegion taken;
  std::int64_t used = 0;
  std::vector<Range> context;      // rows of other regions that precede it
  std::int64_t number_before = 0;  // of the last of these regions; -1: none
};

// Tokens with which several prompts begin.
struct TextGenerator::Beginning {
  // `steered`: the prompt's rows.
  bool begins(const NumberedPrompt& prompt, const std::vector<bool>& steered) const {
    return tokens.size() < prompt.tokens.size() &&
           std::equal(tokens.begin(), tokens.end(), prompt.tokens.begin()) &&
           std::equal(is_steered.begin(), is_steered.end(), steered.begin());
  }

  std::vector<TokenId> tokens;
  std::vector<bool> is_steered;  // of them
  Region shared;                 // of the shared cache
  std::vector<Region> own;       // [S] of the other cache
};

// A prompt whose texts grow.  Prompt and text are separate regions in both caches, so that the
// order of sums over them does not depend on the vectors' layers.
struct TextGenerator::Answering {
  std::size_t first() const { return beginning ? beginning->tokens.size() : 0; }

  bool has_ended(std::size_t setting) const {
    return texts[setting].stopped ||
           static_cast<std::int64_t>(texts[setting].tokens.size()) >= limit;
  }

  bool has_ended() const {
    for (std::size_t setting = 0; setting < texts.size(); ++setting) {
      if (!has_ended(setting)) {
        return false;
      }
    }
    return true;
  }

  NumberedPrompt prompt;
  std::shared_ptr<Beginning>
      beginning;                     // may be null; its rows stay taken as long as they are used
  std::int64_t limit = 0;            // tokens of a text
  Region shared_prompt;              // the tokens after the beginning, in the shared cache
  std::vector<Region> shared_texts;  // [S] of the shared cache
  std::vector<Region> own_prompts;   // [S] of the other cache
  std::vector<Region> own_texts;     // [S] of the other cache
  std::vector<GeneratedText> texts;  // [S]
  bool is_returned = false;
};

// Tokens of a prompt that go through the model at all settings.
struct TextGenerator::Passage {
  std::int64_t size() const { return static_cast<std::int64_t>(tokens.size()); }

  std::span<const TokenId> tokens;
  std::vector<bool> is_steered;  // of them
  Region& shared;
  std::vector<Region>& own;  // [S]
};

namespace {

// Rows of prompts that go through the model together: enough for efficient products.
constexpr std::int64_t kPromptRowsAtOnce = 512;

std::int64_t text_limit(const ModelConfig& config, const GenerationSettings& settings,
                        const NumberedPrompt& prompt) {
  return std::min(settings.max_new_tokens,
                  config.context - static_cast<std::int64_t>(prompt.tokens.size()));
}

// Takes regions of pools, all of them or, in the end, none.
class Taking {
 public:
  // Returns a region of `count` rows; nothing where the pool has not as many.
  TakenRegion take(RowPool& pool, std::int64_t count) {
    const std::optional<CacheRegion> region = pool.take(count);
    has_all_ = has_all_ && region.has_value();
    return region ? TakenRegion(pool, *region) : TakenRegion();
  }

  bool has_all() const { return has_all_; }

 private:
  bool has_all_ = true;
};

// How many of the prompts that begin together go through the model in one pass.
enum class PromptPacks {
  kOne,  // one prompt: its rows' bits depend on what is beside them
  kRows,
  kPadded,  // on a device, whose prompts of a group are always the same ones
};

PromptPacks packs_of_prompts(const Decoder& decoder, const GenerationSettings& settings) {
  return settings.has_independent_rows ? PromptPacks::kRows
         : decoder.device().is_cpu()   ? PromptPacks::kOne
                                       : PromptPacks::kPadded;
}

// Calls work(begin, end) for ranges of `sizes`, the rows of prompts, that are packs, or of one
// element.
template <class Work>
void for_each_pack(const std::vector<std::int64_t>& sizes, PromptPacks packs, const Work& work) {
  std::size_t begin = 0;
  while (begin < sizes.size()) {
    std::size_t end = begin;
    std::int64_t sum = 0;
    std::int64_t longest = 0;
    const auto takes_next = [&] {
      if (end == sizes.size() || packs == PromptPacks::kOne) {
        return false;
      }
      return packs == PromptPacks::kRows
                 ? sum + sizes[end] <= kPromptRowsAtOnce
                 : fit_into_device_pack(static_cast<std::int64_t>(end - begin) + 1,
                                        std::max(longest, sizes[end]), kTokensPerDevicePack);
    };
    do {
      sum += sizes[end];
      longest = std::max(longest, sizes[end]);
      ++end;
    } while (takes_next());
    work(begin, end);
    begin = end;
  }
}

}  // namespace

TextGenerator::TextGenerator(const Decoder& decoder, const SteeringVectors& vectors,
                             const GenerationSettings& settings, const GenerationRoom& room,
                             OnToken on_token)
    : decoder_(decoder),
      vectors_(vectors),
      settings_(settings),
      on_token_(std::move(on_token)),
      places_(vectors.places()),
      most_prompts_(room.prompts),
      shared_rows_(room.shared_rows, room.shared_regions),
      own_rows_(room.own_rows, room.own_regions) {
  const std::int64_t blocks = decoder.config().blocks;
  shared_ = shared_blocks(blocks, places_, settings.positions);
  own_ = {shared_.end, blocks};
  shared_cache_ = decoder.make_cache(shared_, room.shared_rows, room.shared_regions);
  own_cache_ = decoder.make_cache(own_, room.own_rows, room.own_regions);
  std::vector<at::Tensor> columns;
  for (const std::vector<double>& multipliers : settings.multipliers) {
    columns.push_back(at::tensor(multipliers, at::kDouble).unsqueeze(1));
  }
  columns.push_back(at::zeros({vectors.count(), 1}, at::kDouble));
  by_setting_ = at::cat(columns, 1).to(residual_options(decoder));
}

TextGenerator::~TextGenerator() = default;

void TextGenerator::add(std::vector<NumberedPrompt> group) {
  if (!settings_.has_independent_rows) {
    waiting_.push_back(std::move(group));
    return;
  }
  for (NumberedPrompt& prompt : group) {
    waiting_.emplace_back().push_back(std::move(prompt));
  }
}

std::int64_t TextGenerator::unfinished() const {
  std::size_t count = 0;
  for (const std::vector<NumberedPrompt>& group : waiting_) {
    count += group.size();
  }
  return static_cast<std::int64_t>(count) +
         std::count_if(at_work_.begin(), at_work_.end(),
                       [](const auto& each) { return !each->is_returned; });
}

std::vector<PromptAnswers> TextGenerator::step() {
  const at::NoGradGuard no_grad;
  const std::vector<Answering*> begun = place_waiting();
  if (!begun.empty()) {
    begin(begun);
  } else if (!at_work_.empty()) {
    grow();
  }
  return take_answered();
}

// Lays out the prompts that wait as long as there is room; returns these.
std::vector<TextGenerator::Answering*> TextGenerator::place_waiting() {
  const std::size_t before = at_work_.size();
  const auto has_place = [&] {
    return settings_.has_independent_rows
               ? static_cast<std::int64_t>(at_work_.size()) < most_prompts_
               : at_work_.size() == before && before == 0;
  };
  while (!waiting_.empty() && has_place()) {
    std::vector<NumberedPrompt>& group = waiting_.front();
    if (!std::all_of(group.begin(), group.end(), [&](auto& prompt) { return place(prompt); })) {
      break;
    }
    waiting_.pop_front();
  }
  std::vector<Answering*> begun;
  for (std::size_t i = before; i < at_work_.size(); ++i) {
    begun.push_back(at_work_[i].get());
  }
  return begun;
}

// Lays out the first prompt that waits; returns whether there are rows for it.
bool TextGenerator::place(NumberedPrompt& prompt) {
  const bool fits = beginning_ && beginning_->begins(prompt, steered_rows(prompt));
  if (beginning_ && !fits && beginning_.use_count() == 1) {
    beginning_.reset();
  }
  const auto put = [&](const std::shared_ptr<Beginning>& beginning) {
    std::unique_ptr<Answering> answering = lay_out(prompt, beginning);
    if (!answering) {
      return false;
    }
    answering->prompt = std::move(prompt);
    at_work_.push_back(std::move(answering));
    return true;
  };
  if (const std::size_t length = worthy_beginning(prompt); length > 0) {
    const std::shared_ptr<Beginning> longer = make_beginning(prompt, length);
    if (longer && put(longer)) {
      beginning_ = longer;
      run_passages({{longer->tokens, longer->is_steered, longer->shared, longer->own}});
      return true;
    }
  }
  if (put(fits ? beginning_ : nullptr)) {
    return true;
  }
  if (!at_work_.empty()) {
    return false;
  }
  beginning_.reset();
  if (!put(nullptr)) {
    throw BugError("the rows of the caches do not suffice for one prompt");
  }
  return true;
}

// Returns the number of tokens with which the next prompts begin, where running these once for all
// of them saves more rows than it costs; otherwise 0.
std::size_t TextGenerator::worthy_beginning(const NumberedPrompt& prompt) const {
  const std::size_t count =
      std::min(waiting_.size(), static_cast<std::size_t>(std::max<std::int64_t>(1, most_prompts_)));
  // Without independent rows a sum over keys in two ranges may differ from that over one; the cap's
  // last bits depend on where a score stands among those computed together.
  if (!settings_.has_independent_rows || decoder_.config().attention_soft_cap != 0 || count < 2) {
    return 0;
  }
  const std::vector<bool> steered = steered_rows(prompt);
  std::size_t common = prompt.tokens.size() - 1;
  for (std::size_t i = 0; i < count; ++i) {
    const NumberedPrompt& waiting = waiting_[i].front();
    const std::vector<TokenId>& other = waiting.tokens;
    const auto most = static_cast<std::ptrdiff_t>(std::min(common, other.size() - 1));
    const auto end =
        std::mismatch(prompt.tokens.begin(), prompt.tokens.begin() + most, other.begin());
    const auto alike =
        std::mismatch(steered.begin(), steered.begin() + (end.first - prompt.tokens.begin()),
                      steered_rows(waiting).begin());
    common = static_cast<std::size_t>(alike.first - steered.begin());
  }
  const std::size_t known =
      beginning_ && beginning_->begins(prompt, steered) ? beginning_->tokens.size() : 0;
  return common > known && count * (common - known) > common ? common : 0;
}

// Returns the first `length` tokens of the prompt, not yet run; null where rows are lacking.
std::shared_ptr<TextGenerator::Beginning> TextGenerator::make_beginning(
    const NumberedPrompt& prompt, std::size_t length) {
  Taking taking;
  const auto rows = static_cast<std::int64_t>(length);
  Region shared(taking.take(shared_rows_, rows), nullptr);
  std::vector<Region> own;
  for (std::size_t s = 0; s < settings(); ++s) {
    own.emplace_back(taking.take(own_rows_, rows), nullptr);
  }
  if (!taking.has_all()) {
    return nullptr;
  }
  const auto end = prompt.tokens.begin() + static_cast<std::ptrdiff_t>(length);
  std::vector<bool> steered = steered_rows(prompt);
  steered.resize(length);
  return std::make_shared<Beginning>(Beginning{
      {prompt.tokens.begin(), end}, std::move(steered), std::move(shared), std::move(own)});
}

// Returns the prompt's rows, without the prompt; null where they are lacking.
std::unique_ptr<TextGenerator::Answering> TextGenerator::lay_out(
    const NumberedPrompt& prompt, const std::shared_ptr<Beginning>& beginning) {
  const auto before = static_cast<std::int64_t>(beginning ? beginning->tokens.size() : 0);
  const std::int64_t length = static_cast<std::int64_t>(prompt.tokens.size()) - before;
  const std::int64_t limit = text_limit(decoder_.config(), settings_, prompt);
  Taking taking;
  Region shared_prompt(taking.take(shared_rows_, length), beginning ? &beginning->shared : nullptr);
  auto answering = std::make_unique<Answering>(Answering{
      {}, beginning, limit, std::move(shared_prompt), {}, {}, {}, {}, /*is_returned=*/false});
  answering->texts.resize(settings());
  for (std::size_t s = 0; s < settings(); ++s) {
    answering->shared_texts.emplace_back(taking.take(shared_rows_, limit),
                                         &answering->shared_prompt);
    answering->own_prompts.emplace_back(taking.take(own_rows_, length),
                                        beginning ? &beginning->own[s] : nullptr);
    answering->own_texts.emplace_back(taking.take(own_rows_, limit),
                                      &answering->own_prompts.back());
  }
  return taking.has_all() ? std::move(answering) : nullptr;
}

void TextGenerator::begin(const std::vector<Answering*>& begun) {
  std::vector<Passage> passages;
  std::vector<Row> rows;
  for (Answering* each : begun) {
    const std::vector<bool> steered = steered_rows(each->prompt);
    const auto first = static_cast<std::ptrdiff_t>(each->first());
    passages.push_back({std::span<const TokenId>(each->prompt.tokens).subspan(each->first()),
                        {steered.begin() + first, steered.end()},
                        each->shared_prompt,
                        each->own_prompts});
    for (std::size_t s = 0; s < settings(); ++s) {
      rows.push_back({each, s});
    }
  }
  choose_tokens(rows, run_passages(passages));
}

// Returns the last block's output at the last token of every passage, [n S, D].
at::Tensor TextGenerator::run_passages(const std::vector<Passage>& passages) {
  std::vector<std::int64_t> sizes;
  for (const Passage& passage : passages) {
    sizes.push_back(passage.size());
  }
  std::vector<at::Tensor> last;
  const PromptPacks packs = packs_of_prompts(decoder_, settings_);
  for_each_pack(sizes, packs, [&](std::size_t begin, std::size_t end) {
    const auto at = [&](std::size_t i) {
      return passages.begin() + static_cast<std::ptrdiff_t>(i);
    };
    last.push_back(run_together({at(begin), at(end)}));
  });
  return at::cat(last);
}

// The same, in one pass through the shared blocks.
at::Tensor TextGenerator::run_together(const std::vector<Passage>& passages) {
  std::vector<TokenId> tokens;
  std::vector<CachedPart> parts;
  for (const Passage& passage : passages) {
    parts.push_back(
        passage.shared.extend(static_cast<std::int64_t>(tokens.size()), passage.size()));
    tokens.insert(tokens.end(), passage.tokens.begin(), passage.tokens.end());
  }
  const at::Tensor ids = at::tensor(tokens, at::kLong).to(decoder_.device());
  const at::Tensor h = decoder_.run_cached(decoder_.embed(ids), shared_,
                                           decoder_.cached_layout(parts), shared_cache_);
  if (settings_.positions.steers_prompts()) {
    return run_own(passages, h);
  }
  std::vector<at::Tensor> last;
  for (const CachedPart& part : parts) {
    last.push_back(
        h.narrow(0, part.rows.end - 1, 1).expand({static_cast<std::int64_t>(settings()), -1}));
  }
  return at::cat(last);
}

// Runs the blocks after the shared ones on the rows h of passages at each setting.
at::Tensor TextGenerator::run_own(const std::vector<Passage>& passages, const at::Tensor& h) {
  struct Item {
    const Passage& passage;
    at::Tensor h;
    std::size_t setting;
  };
  std::vector<Item> items;
  std::vector<std::int64_t> sizes;
  std::int64_t first = 0;
  for (const Passage& passage : passages) {
    for (std::size_t s = 0; s < settings(); ++s) {
      items.push_back({passage, h.narrow(0, first, passage.size()), s});
      sizes.push_back(passage.size());
    }
    first += passage.size();
  }
  std::vector<at::Tensor> last;
  const PromptPacks packs = packs_of_prompts(decoder_, settings_);
  for_each_pack(sizes, packs, [&](std::size_t begin, std::size_t end) {
    std::vector<at::Tensor> inputs;
    std::vector<CachedPart> parts;
    std::vector<std::int64_t> column_of_row;
    std::vector<std::int64_t> last_rows;
    for (const Item& item : std::span(items).subspan(begin, end - begin)) {
      inputs.push_back(item.h);
      parts.push_back(item.passage.own[item.setting].extend(
          static_cast<std::int64_t>(column_of_row.size()), item.passage.size()));
      for (const bool is_steered : item.passage.is_steered) {
        column_of_row.push_back(static_cast<std::int64_t>(is_steered ? item.setting : settings()));
      }
      last_rows.push_back(static_cast<std::int64_t>(column_of_row.size()) - 1);
    }
    const at::Tensor out = run_steered(at::cat(inputs), own_, own_layout(parts), own_cache_,
                                       coefficients_of(column_of_row));
    last.push_back(out.index_select(0, at::tensor(last_rows, at::kLong).to(decoder_.device())));
  });
  return at::cat(last);
}

// Runs `blocks` on the first one's input h, steered from there on.
at::Tensor TextGenerator::run_steered(const at::Tensor& h, Range blocks, const CachedLayout& layout,
                                      const DecoderCache& cache,
                                      const at::Tensor& coefficients) const {
  const auto run = [&](const at::Tensor& x, Range part, const ChangeMlpOutput& change) {
    return decoder_.run_cached(x, part, layout, cache, change);
  };
  const auto add = [&](const at::Tensor& x, const SteeredPlace& place) {
    return vectors_.steer(x, place, coefficients);
  };
  const ResidualStream steered = run_past_sites({h, blocks.begin}, places_, add, run);
  return run(steered.hidden, {steered.next_block, blocks.end}, nullptr);
}

CachedLayout TextGenerator::own_layout(const std::vector<CachedPart>& parts) const {
  return own_.size() > 0 ? decoder_.cached_layout(parts) : CachedLayout{};
}

// Returns the coefficients [M, n] of n rows, each at a setting, or with the number of settings not
// steered.
at::Tensor TextGenerator::coefficients_of(const std::vector<std::int64_t>& column_of_row) const {
  return by_setting_.index_select(1, at::tensor(column_of_row, at::kLong).to(decoder_.device()));
}

// Returns for each token of the prompt whether vectors act on its row.
std::vector<bool> TextGenerator::steered_rows(const NumberedPrompt& prompt) const {
  return steered_rows_of_prompt(static_cast<std::int64_t>(prompt.tokens.size()),
                                prompt.tokens.front(),
                                prompt.is_open ? settings_.positions : SteeredPositions::kNone);
}

void TextGenerator::grow() {
  std::vector<Row> rows;
  std::vector<std::int64_t> ids;
  std::vector<std::int64_t> column_of_row;
  std::vector<CachedPart> shared_parts;
  std::vector<CachedPart> own_parts;
  for (const std::unique_ptr<Answering>& each : at_work_) {
    for (std::size_t s = 0; s < settings(); ++s) {
      const bool grows = !each->has_ended(s);
      if (!grows && settings_.has_independent_rows) {
        continue;
      }
      const auto row = static_cast<std::int64_t>(rows.size());
      Region& shared = each->shared_texts[s];
      Region& own = each->own_texts[s];
      rows.push_back({each.get(), s});
      ids.push_back(grows ? each->texts[s].tokens.back() : 0);
      const bool is_steered = each->prompt.is_open && settings_.positions.steers_answers();
      column_of_row.push_back(static_cast<std::int64_t>(is_steered ? s : settings()));
      shared_parts.push_back(grows ? shared.extend(row, 1) : shared.idle(row));
      own_parts.push_back(grows ? own.extend(row, 1) : own.idle(row));
    }
  }
  const at::Tensor embedded = decoder_.embed(at::tensor(ids, at::kLong).to(decoder_.device()));
  const CachedLayout shared = decoder_.cached_layout(shared_parts);
  const at::Tensor coefficients = coefficients_of(column_of_row);
  if (!settings_.positions.steers_prompts()) {
    choose_tokens(rows, run_steered(embedded, shared_, shared, shared_cache_, coefficients));
    return;
  }
  choose_tokens(rows, run_steered(decoder_.run_cached(embedded, shared_, shared, shared_cache_),
                                  own_, own_layout(own_parts), own_cache_, coefficients));
}

// Chooses the next token of every row's text from the last block's output [n, D].  All tp ranks
// have the same logits and choose the same tokens.
void TextGenerator::choose_tokens(const std::vector<Row>& rows, const at::Tensor& output) {
  struct Choice {
    TokenId token = 0;
    double log_prob = 0;
  };
  const at::Tensor logits = decoder_.next_token_logits(output).to(at::kCPU, at::kFloat);
  std::vector<Choice> choices(rows.size());
  const auto count = static_cast<std::int64_t>(rows.size());
  at::parallel_for(0, count, 1, [&](std::int64_t begin, std::int64_t end) {
    const at::NoGradGuard no_grad;
    for (std::int64_t place = begin; place < end; ++place) {
      const auto [answering, setting] = rows[static_cast<std::size_t>(place)];
      if (answering->has_ended(setting)) {
        continue;
      }
      const GeneratedText& text = answering->texts[setting];
      const at::Tensor whole_row = logits.narrow(0, place, 1);
      const std::span<const float> own_logits(whole_row.const_data_ptr<float>(),
                                              static_cast<std::size_t>(logits.size(1)));
      std::span<const float> row_logits = own_logits;
      std::vector<float> penalised;
      if (settings_.sampling.repetition_penalty != 1) {
        penalised.assign(row_logits.begin(), row_logits.end());
        penalise_repetition(penalised, answering->prompt.tokens, text.tokens,
                            settings_.sampling.repetition_penalty);
        row_logits = penalised;
      }
      Choice& choice = choices[static_cast<std::size_t>(place)];
      choice.token = sample_token(
          row_logits, settings_.sampling,
          {static_cast<std::uint32_t>(answering->prompt.number),
           static_cast<std::uint32_t>(setting), static_cast<std::uint32_t>(text.tokens.size())});
      choice.log_prob = double{own_logits[static_cast<std::size_t>(choice.token)]} -
                        double{at::logsumexp(whole_row, {1}).item<float>()};
    }
  });
  for (std::size_t place = 0; place < rows.size(); ++place) {
    const auto [answering, setting] = rows[place];
    if (answering->has_ended(setting)) {
      continue;
    }
    const auto [token, log_prob] = choices[place];
    GeneratedText& text = answering->texts[setting];
    const auto& stop_tokens = settings_.stop_tokens;
    if (std::find(stop_tokens.begin(), stop_tokens.end(), token) != stop_tokens.end()) {
      text.stopped = true;
      continue;
    }
    text.tokens.push_back(token);
    text.log_prob += log_prob;
    on_token_(answering->prompt.number, static_cast<std::int64_t>(setting), token);
  }
}

// Returns the prompts whose last text has ended, and gives back the rows that nothing needs.
std::vector<PromptAnswers> TextGenerator::take_answered() {
  std::vector<PromptAnswers> answered;
  for (const std::unique_ptr<Answering>& each : at_work_) {
    if (!each->is_returned && each->has_ended()) {
      answered.push_back({each->prompt.number, each->texts});
      each->is_returned = true;
    }
  }
  const auto is_returned = [](const auto& each) { return each->is_returned; };
  if (settings_.has_independent_rows ||
      std::all_of(at_work_.begin(), at_work_.end(), is_returned)) {
    std::erase_if(at_work_, is_returned);
  }
  return answered;
}

GenerationRoom generation_room(const ModelConfig& config,
                               const std::vector<NumberedPrompt>& prompts, std::int64_t at_once,
                               const GenerationSettings& settings) {
  const auto count = static_cast<std::int64_t>(settings.multipliers.size());
  std::vector<std::int64_t> shared;
  std::vector<std::int64_t> own;
  for (const NumberedPrompt& prompt : prompts) {
    const auto length = static_cast<std::int64_t>(prompt.tokens.size());
    const std::int64_t limit = text_limit(config, settings, prompt);
    shared.push_back(length + count * limit);
    own.push_back(count * (length + limit));
  }
  const auto sum_of_largest = [&](std::vector<std::int64_t>& needs) {
    const auto most = std::min(at_once, static_cast<std::int64_t>(needs.size()));
    std::nth_element(needs.begin(), needs.begin() + most, needs.end(), std::greater<>());
    return std::accumulate(needs.begin(), needs.begin() + most, std::int64_t{0});
  };
  // A prompt has a beginning, which others may share, the rest, and its texts.  One beginning more
  // may wait for the next prompt.
  return {at_once, sum_of_largest(shared), at_once * (2 + count) + 1, sum_of_largest(own),
          at_once * 3 * count + count};
}

Range shared_blocks(std::int64_t blocks, const std::vector<SteeredPlace>& places,
                    const SteeredPositions& positions) {
  std::int64_t end = blocks;
  if (positions.steers_prompts()) {
    for (const SteeredPlace& place : places) {
      end = std::min(end, place.blocks_before());
    }
  }
  return {0, end};
}

std::uint64_t generation_cache_bytes(const ModelConfig& config, const Topology& topology,
                                     const GenerationRoom& room, Range shared) {
  const auto bytes = [&](Range blocks, std::int64_t rows, std::int64_t regions) {
    return Decoder::cache_bytes(config, topology.tp(), topology.tp_rank(), blocks, rows, regions);
  };
  return bytes(shared, room.shared_rows, room.shared_regions) +
         bytes({shared.end, config.blocks}, room.own_rows, room.own_regions);
}

std::vector<PromptAnswers> gather_answers(const std::vector<PromptAnswers>& mine,
                                          const GenerationSettings& settings, at::Device device,
                                          Communicator& dp) {
  // Replicas exchange tables of one size; a text is a row {1, prompt, stopped, log_prob, length,
  // tokens...}, its log_prob as the bits of a double.
  const auto texts_of_prompt = static_cast<std::int64_t>(settings.multipliers.size());
  const at::Tensor most =
      at::tensor({static_cast<std::int64_t>(mine.size()) * texts_of_prompt}, at::kLong).to(device);
  dp.all_reduce(most, ReduceOp::kMax);
  const at::Tensor table =
      at::zeros({most.item<std::int64_t>(), settings.max_new_tokens + 5}, at::kLong);
  auto* row = table.mutable_data_ptr<std::int64_t>();
  for (const PromptAnswers& answers : mine) {
    for (const GeneratedText& text : answers.texts) {
      std::int64_t* cell = row;
      *cell++ = 1;
      *cell++ = answers.number;
      *cell++ = text.stopped ? 1 : 0;
      *cell++ = std::bit_cast<std::int64_t>(text.log_prob);
      *cell++ = static_cast<std::int64_t>(text.tokens.size());
      std::copy(text.tokens.begin(), text.tokens.end(), cell);
      row += table.size(1);
    }
  }
  const at::Tensor rows = dp.all_gather(table.to(device)).cpu().view({-1, table.size(1)});
  std::vector<PromptAnswers> all;
  for (std::int64_t i = 0; i < rows.size(0); ++i) {
    const auto* cell = rows.const_data_ptr<std::int64_t>() + i * rows.size(1);
    if (cell[0] != 1) {
      continue;
    }
    if (all.empty() || all.back().number != cell[1]) {
      all.push_back({cell[1], {}});
    }
    all.back().texts.push_back(
        {{cell + 5, cell + 5 + cell[4]}, std::bit_cast<double>(cell[3]), cell[2] == 1});
  }
  return all;
}

}  // namespace bipo
