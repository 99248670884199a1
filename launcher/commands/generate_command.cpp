// The command `generate`: writes answers under vectors, at several multipliers at once.
#include <fmt/format.h>

#include <memory>

#include "experiments/generation_run/generation_job.hpp"
#include "experiments/generation_run/generation_loop.hpp"
#include "experiments/job/job.hpp"
#include "experiments/job/whole_model.hpp"
#include "experiments/progress/stop_signals.hpp"
#include "launcher/commands/commands.hpp"

namespace bipo {

int run_generate_command(const GenerateOptions& options, Session& session) {
  Job job(session, options);
  const GenerationJob prepared = job.prepare(
      [&] { return prepare_generation(options, job.begin_utc(), session); }, "the answers to make");
  const Ranks ranks = job.begin(prepared.model.computation, {}, prepared.warnings, prepared.notes);
  std::unique_ptr<Decoder> decoder;
  session.together([&] { decoder = load_whole_model(prepared.model, ranks); });
  stop_when_asked();
  const GenerationOutcome outcome = generate(prepared, *decoder, ranks, job);
  const bool is_complete = outcome.prompts == prepared.prompt_count();
  if (job.is_root()) {
    job.display().message(fmt::format(
        "{} answers, {} tokens in {:.1f} s, {:.1f} tokens/s",
        outcome.prompts * static_cast<std::int64_t>(options.multipliers.size()), outcome.tokens,
        outcome.seconds, static_cast<double>(outcome.tokens) / outcome.seconds));
    if (!options.out.empty()) {
      fmt::print("{}: {}\n", is_complete ? "answers" : "interrupted; answers so far",
                 options.out.string());
    }
  }
  return is_complete ? kExitDone : kExitInterrupted;
}

}  // namespace bipo
