// Generates text under steering vectors: every prompt at every setting of multipliers, all in the
// same passes through the model.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "collectives/communicator.hpp"
#include "collectives/topology.hpp"
#include "datasets/tokenizer/token_id.hpp"
#include "experiments/generation/row_pool.hpp"
#include "experiments/generation/token_sampling.hpp"
#include "trainer/intervention/positions.hpp"
#include "trainer/intervention/site.hpp"
#include "trainer/model/decoder/decoder.hpp"
#include "trainer/passes/steering.hpp"

namespace bipo {

// P prompts at work together, S settings, M vectors.

struct GenerationSettings {
  std::vector<std::vector<double>> multipliers;  // [S][M]
  SteeredPositions positions = SteeredPositions::kAll;
  std::int64_t max_new_tokens = 200;
  std::vector<TokenId> stop_tokens;  // each ends a text
  SamplingSettings sampling;
  bool has_independent_rows = false;  // Decoder::has_independent_cached_rows() on all
};

struct GeneratedText {
  std::vector<TokenId> tokens;  // without the stop token
  double log_prob = 0;          // sum over `tokens`, under the steered model at temperature 1
  bool stopped = false;         // by a stop token; else by max_new_tokens or the model's context
};

// A prompt with its index among all prompts.
struct NumberedPrompt {
  std::int64_t number = 0;
  std::vector<TokenId> tokens;  // fewer than the model's context
  bool is_open = true;          // by its gate; vectors do not act on a closed one and its texts
};

struct PromptAnswers {
  std::int64_t number = 0;           // of the prompt
  std::vector<GeneratedText> texts;  // [S]
};

// What prompts that are at work together need of the caches.
struct GenerationRoom {
  std::int64_t prompts = 1;         // P
  std::int64_t shared_rows = 0;     // in each block that computes a prompt once for all settings
  std::int64_t shared_regions = 0;  // in which these rows are taken
  std::int64_t own_rows = 0;        // in each block that computes it at every setting; not fewer
  std::int64_t own_regions = 0;     // likewise
};

// Returns the room for any `at_once` of `prompts`.
GenerationRoom generation_room(const ModelConfig& config,
                               const std::vector<NumberedPrompt>& prompts, std::int64_t at_once,
                               const GenerationSettings& settings);

// Returns the blocks that compute a prompt once for all settings, where vectors act at `places`:
// all where no prompt is steered.
Range shared_blocks(std::int64_t blocks, const std::vector<SteeredPlace>& places,
                    const SteeredPositions& positions);

// Returns the bytes that keys and values take on a rank, with these shared blocks.
std::uint64_t generation_cache_bytes(const ModelConfig& config, const Topology& topology,
                                     const GenerationRoom& room, Range shared);

// Answers prompts, at most P at the same time, step by step.
//
// A prompt goes through the model once up to the lowest steered block, from there on at every
// setting; then its S texts grow together with those of other prompts, as rows of the same
// products.
//
// With independent rows a text has the same bits whatever else is computed beside it: a text that
// has ended leaves the products, and where all texts of a prompt have ended the next prompt that
// waits takes its place and its rows of the caches.  Tokens with which prompts that wait begin
// alike go through the model once.
//
// Without them prompts go in the groups that add() was given: the products keep the rows of all
// texts of a group until its last text ends, then the next group begins.  In float32 on a CPU a
// text then has the same bits for any multipliers of the other texts (otherwise attention is padded
// to the longest text that still grows); in a group of another size the last bits of its logits may
// differ.
class TextGenerator {
 public:
  // Called for every chosen token.
  using OnToken = std::function<void(std::int64_t prompt, std::int64_t setting, TokenId token)>;

  // The model must be loaded whole.  Everything that is referred to must outlive the generator.
  TextGenerator(const Decoder& decoder, const SteeringVectors& vectors,
                const GenerationSettings& settings, const GenerationRoom& room, OnToken on_token);
  TextGenerator(const TextGenerator&) = delete;
  TextGenerator& operator=(const TextGenerator&) = delete;
  ~TextGenerator();

  // Lets at most P prompts wait, as one group.  Local.
  void add(std::vector<NumberedPrompt> group);

  // Returns the number of prompts that wait or that have texts that grow.
  std::int64_t unfinished() const;

  // Runs the prompts that wait if there is room for any, and chooses the first token of their
  // texts; otherwise computes one more token of every text that grows.  Returns the prompts whose
  // last text has ended in this step.  Collective over: tp
  std::vector<PromptAnswers> step();

 private:
  struct Region;
  struct Beginning;
  struct Answering;
  struct Passage;
  struct Row {
    Answering* answering;
    std::size_t setting;
  };

  std::size_t settings() const { return settings_.multipliers.size(); }

  std::vector<Answering*> place_waiting();
  bool place(NumberedPrompt& prompt);
  std::size_t worthy_beginning(const NumberedPrompt& prompt) const;
  std::shared_ptr<Beginning> make_beginning(const NumberedPrompt& prompt, std::size_t length);
  std::unique_ptr<Answering> lay_out(const NumberedPrompt& prompt,
                                     const std::shared_ptr<Beginning>& beginning);
  void begin(const std::vector<Answering*>& begun);
  void grow();
  std::vector<PromptAnswers> take_answered();

  at::Tensor run_passages(const std::vector<Passage>& passages);
  at::Tensor run_together(const std::vector<Passage>& passages);
  at::Tensor run_own(const std::vector<Passage>& passages, const at::Tensor& h);
  at::Tensor run_steered(const at::Tensor& h, Range blocks, const CachedLayout& layout,
                         const DecoderCache& cache, const at::Tensor& coefficients) const;
  std::vector<bool> steered_rows(const NumberedPrompt& prompt) const;
  CachedLayout own_layout(const std::vector<CachedPart>& parts) const;
  at::Tensor coefficients_of(const std::vector<std::int64_t>& column_of_row) const;
  void choose_tokens(const std::vector<Row>& rows, const at::Tensor& output);

  const Decoder& decoder_;
  const SteeringVectors& vectors_;
  const GenerationSettings& settings_;
  OnToken on_token_;
  std::vector<SteeredPlace> places_;  // steered, ascending
  Range shared_;                      // blocks that compute a prompt once for all settings
  Range own_;                         // the other blocks
  std::int64_t most_prompts_;
  RowPool shared_rows_;
  RowPool own_rows_;
  DecoderCache shared_cache_;
  DecoderCache own_cache_;
  at::Tensor by_setting_;  // [M, S + 1]: of rows at each setting, and of those not steered
  std::deque<std::vector<NumberedPrompt>> waiting_;
  std::shared_ptr<Beginning> beginning_;             // of the prompts that begin next
  std::vector<std::unique_ptr<Answering>> at_work_;  // in the order in which they began
};

// Returns the answers of all replicas, in their order, on every rank; replicas may hold different
// numbers of answers.  Collective over: dp
std::vector<PromptAnswers> gather_answers(const std::vector<PromptAnswers>& mine,
                                          const GenerationSettings& settings, at::Device device,
                                          Communicator& dp);

}  // namespace bipo
