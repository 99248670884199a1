#include "experiments/generation_run/generation_room.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <string>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "datasets/batches/batch_plan.hpp"
#include "datasets/batches/prefix_packs.hpp"
#include "experiments/generation/generation.hpp"
#include "experiments/job/gate_room.hpp"
#include "experiments/progress/progress.hpp"
#include "trainer/cost/fitting_size.hpp"
#include "trainer/cost/forward_memory.hpp"
#include "trainer/intervention/site.hpp"

namespace bipo {
namespace {

class TextRoom {
 public:
  explicit TextRoom(const GenerationJob& job)
      : job_(job),
        settings_(std::ssize(job.settings.multipliers)),
        bytes_(element_bytes(job.model.computation)) {
    std::vector<SteeredPlace> places;
    for (const VectorInUse& vector : job.vectors) {
      places.push_back(vector.stored.place());
    }
    shared_ = shared_blocks(config().blocks, places, job.settings.positions);
  }

  // Bytes of keys and values of so many prompts at work together.
  double kept(std::int64_t batch) const {
    const GenerationRoom room = generation_room(config(), job_.tokens, batch, job_.settings);
    return static_cast<double>(
        generation_cache_bytes(config(), job_.model.computation.topology, room, shared_));
  }

  // Bytes that their passes hold on a device at least; 0 on a CPU.
  double work(std::int64_t batch) const {
    if (job_.model.computation.device.is_cpu()) {
      return 0;
    }
    LargestPass shared{shared_};
    LargestPass own{{shared_.end, config().blocks}};
    LargestPass texts{{0, config().blocks}};
    std::int64_t most_texts = 0;
    for (const std::vector<std::int64_t>& group :
         consecutive_groups(std::ssize(job_.tokens), batch)) {
      add_prompts(group, shared, own);
      add_texts(group, texts);
      most_texts = std::max(most_texts, settings_ * std::ssize(group));
    }
    return std::max({shared.bytes, own.bytes, texts.bytes,
                     least_logits_bytes(config(), tp(), static_cast<double>(most_texts))});
  }

  // Bytes that the pass which decides their gates holds there at least, before any are kept.
  double gates(std::int64_t batch) const {
    if (!job_.gate) {
      return 0;
    }
    std::vector<std::int64_t> lengths;
    for (std::int64_t prompt = 0; prompt < std::ssize(job_.tokens); ++prompt) {
      lengths.push_back(length_of(prompt));
    }
    return least_gate_bytes(job_.model, *job_.gate, lengths, batch);
  }

  double at_work(std::int64_t batch) const { return kept(batch) + work(batch); }
  double all(std::int64_t batch) const { return std::max(gates(batch), at_work(batch)); }

 private:
  const ModelConfig& config() const { return job_.model.files.config; }
  std::int64_t tp() const { return job_.model.computation.topology.tp(); }

  std::int64_t length_of(std::int64_t prompt) const {
    return std::ssize(job_.tokens[static_cast<std::size_t>(prompt)].tokens);
  }

  // The pass through some blocks that takes most.
  struct LargestPass {
    Range blocks;
    SeenPasses<BlockRows> seen = {};
    double bytes = 0;
  };

  // Sequences attend to rows of a cache, never by flash attention.
  void add(const BlockRows& rows, LargestPass& largest) const {
    if (!largest.seen.add(rows)) {
      return;
    }
    const std::vector<double> least =
        least_block_bytes(config(), tp(), bytes_, rows, /*flash=*/false);
    for (std::int64_t block = largest.blocks.begin; block < largest.blocks.end; ++block) {
      largest.bytes = std::max(largest.bytes, least[static_cast<std::size_t>(block)]);
    }
  }

  // Adds the packs of prompts with these lengths; returns the lengths in each.
  std::vector<std::vector<std::int64_t>> add_packs(const std::vector<std::int64_t>& lengths,
                                                   LargestPass& largest) const {
    std::vector<std::vector<std::int64_t>> packs = device_packs(lengths, kTokensPerDevicePack);
    for (std::vector<std::int64_t>& pack : packs) {
      BlockRows rows;
      for (std::int64_t& item : pack) {
        item = lengths[static_cast<std::size_t>(item)];
        rows.add_sequence(static_cast<double>(item));
      }
      add(rows, largest);
    }
    return packs;
  }

  // Prompts go through the shared blocks in packs, through the others those of each pack at every
  // setting, in packs again.
  void add_prompts(const std::vector<std::int64_t>& group, LargestPass& shared,
                   LargestPass& own) const {
    std::vector<std::int64_t> lengths;
    for (const std::int64_t prompt : group) {
      lengths.push_back(length_of(prompt));
    }
    for (const std::vector<std::int64_t>& pack : add_packs(lengths, shared)) {
      std::vector<std::int64_t> at_settings;
      for (const std::int64_t length : pack) {
        at_settings.insert(at_settings.end(), static_cast<std::size_t>(settings_), length);
      }
      add_packs(at_settings, own);
    }
  }

  // One more token of each text: the second, unless all texts are over with the first; where
  // nothing stops a text, the last.
  void add_texts(const std::vector<std::int64_t>& group, LargestPass& largest) const {
    std::int64_t longest = 0;
    for (const std::int64_t prompt : group) {
      const std::int64_t limit =
          std::min(job_.settings.max_new_tokens, config().context - length_of(prompt));
      if (limit > 1) {
        const std::int64_t grown = job_.settings.stop_tokens.empty() ? limit - 1 : 1;
        longest = std::max(longest, length_of(prompt) + grown);
      }
    }
    if (longest > 0) {
      const auto texts = static_cast<double>(settings_ * std::ssize(group));
      add({texts, texts, 1, static_cast<double>(longest)}, largest);
    }
  }

  const GenerationJob& job_;
  std::int64_t settings_;
  ElementBytes bytes_;
  Range shared_;
};

}  // namespace

void require_generation_room(const GenerationJob& job, std::uint64_t left) {
  const TextRoom room(job);
  const auto available = static_cast<double>(left);
  const std::int64_t given = job.batch;
  const auto has_room = [&](std::int64_t batch) { return room.all(batch) <= available; };
  if (has_room(given)) {
    return;
  }
  const std::int64_t fits = largest_fitting_size(given, has_room);
  const bool has_conceptors =
      std::any_of(job.vectors.begin(), job.vectors.end(),
                  [](const VectorInUse& vector) { return vector.is_conceptor(); });
  const std::string beside = has_conceptors ? "the weights and the conceptors" : "the weights";
  const std::string remedy =
      fits > 0 ? fmt::format("use --batch-size {}{}, ", fits, fits > 1 ? " or less" : "")
               : std::string("not even one prompt has room; use shorter ones, ");
  const char* const narrow =
      job.model.computation.product_type == c10::kBFloat16 ? "" : "use --dtype bf16, ";
  const std::int64_t prompts = std::min(given, job.prompt_count());
  if (room.at_work(given) <= available) {
    throw UserError(fmt::format(
        "--gate: the pass over {} prompts that decides their gates takes at least {} per rank, but "
        "{} are free beside {}; {}{}or raise --tp",
        prompts, gib_text(room.gates(given)), gib_text(available), beside, remedy, narrow));
  }
  const double work = room.work(given);
  throw UserError(fmt::format(
      "keys and values of {} prompts at {} multipliers take {} per rank{}, but {} are free beside "
      "{}; {}lower --max-new-tokens, {}or raise --tp",
      prompts, job.settings.multipliers.size(), gib_text(room.kept(given)),
      work > 0 ? fmt::format(", and passes over them at least {}", gib_text(work)) : "",
      gib_text(available), beside, remedy, narrow));
}

}  // namespace bipo
