// A training on the simulated device that is killed again and again, and the run file that it
// leaves.  A program of its own: libtorch refuses backward passes on a device in the child of a
// process that has made one, so that here the children alone train.
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "experiments/progress/progress.hpp"
#include "experiments/runs/run_file.hpp"
#include "experiments/training/run_observer.hpp"
#include "tests/experiments/sample_run.hpp"
#include "tests/support/model_variations.hpp"
#include "tests/support/simulated_device.hpp"
#include "tests/support/training_world.hpp"
#include "trainer/cache/activation_cache.hpp"
#include "trainer/loop/training.hpp"

namespace bipo::testing {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kLayer = 1;
constexpr std::int64_t kNever = -1;

// When a process kills itself.
struct Death {
  std::int64_t at_step = kNever;  // once its update is done, before it is saved
  std::int64_t in_save = kNever;  // of this process, from 1: once the new file is written, before
                                  // it replaces the old one
};

// Passes everything on to the run's own observer.
class MortalObserver final : public TrainingObserver {
 public:
  MortalObserver(RunObserver& run, const Death& death) : run_(run), death_(death) {}

  void on_step(const StepRow& row) override {
    run_.on_step(row);
    if (row.step == death_.at_step) {
      std::raise(SIGKILL);
    }
  }
  void on_evaluation(const std::vector<EvalRow>& rows) override { run_.on_evaluation(rows); }
  void on_failure(const std::string& reason) override { run_.on_failure(reason); }
  void save(const TrainingRecord& record, RunStatus status) override { run_.save(record, status); }
  bool stop_requested() const override { return run_.stop_requested(); }

 private:
  RunObserver& run_;
  Death death_;
};

RunAttributes attributes_of(const ModelConfig& config) {
  RunAttributes attributes = sample_attributes();
  attributes.layer = kLayer;
  attributes.hidden_size = config.hidden;
  return attributes;
}

// Trains two epochs of three steps into a run file, or goes on from it; saves after every step.
void train_into(const fs::path& out, const Death& death) {
  at::set_num_threads(1);
  CacheSettings cache_settings;
  cache_settings.layers = {kLayer};
  const FilledWorld world(llama_config(), at::kFloat, simulated_device(), cache_settings);

  TrainingSettings settings = training_settings(2, 11, 0.05, 0.1, SignRule::kBatch);
  settings.save_every = 0;
  std::ostringstream shown;
  ProgressDisplay display(shown, {false,
                                  [] {
                                    return TerminalSize{80, 24};
                                  },
                                  [] { return std::chrono::steady_clock::time_point(); }});
  RunObserver::Context context;
  context.out = out;
  context.attributes = attributes_of(world.config);
  context.total_steps = 6;
  context.steps_per_epoch = 3;
  context.epochs = 2;
  context.batch_size = 4;
  context.train_pairs = 11;
  context.residual_norm = 1;
  // A save asks twice: before it writes, and before it replaces.
  context.may_replace = [questions = std::int64_t{0}, death]() mutable {
    if (++questions == 2 * death.in_save) {
      std::raise(SIGKILL);
    }
    return true;
  };
  context.found = version_of(out);
  context.rescue_dir = out.parent_path();
  context.is_alone = true;
  RunObserver run(std::move(context), display);
  MortalObserver observer(run, death);
  TrainingRecord record = fs::exists(out) ? TrainingRecord(read_run_to_continue(out))
                                          : starting_record(world.config.hidden, 11);
  train(world.decoder, world.cache, &world.cache, kLayer, {{settings, record, observer}},
        world.ranks);
}

// Returns the status of a child that does so, as waitpid() gives it.
int status_of_training(const fs::path& out, const Death& death) {
  const pid_t child = ::fork();
  if (child == 0) {
    try {
      train_into(out, death);
      std::_Exit(EXIT_SUCCESS);
    } catch (const std::exception& error) {
      std::fprintf(stderr, "the training failed: %s\n", error.what());
      std::_Exit(EXIT_FAILURE);
    }
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return status;
}

// All that a run leaves but for durations.
std::vector<double> numbers_of(const RunRecord& run) {
  std::vector<double> numbers;
  for (const StepRow& row : run.steps) {
    numbers.insert(numbers.end(),
                   {static_cast<double>(row.step), row.lr, row.loss, row.margin, row.accuracy,
                    static_cast<double>(row.sign), row.grad_norm, row.vector_norm, row.tokens});
  }
  for (const EvalRow& row : run.evals) {
    numbers.insert(numbers.end(), {static_cast<double>(row.step), row.multiplier, row.loss,
                                   row.margin, row.accuracy, row.chosen_logp, row.rejected_logp});
  }
  for (const SavedVector& vector : run.vectors) {
    numbers.push_back(static_cast<double>(vector.step));
    numbers.insert(numbers.end(), vector.value.begin(), vector.value.end());
  }
  for (const CheckpointPart& part : kCheckpointParts) {
    const std::vector<float>& values = run.checkpoint.*part.member;
    numbers.insert(numbers.end(), values.begin(), values.end());
  }
  return numbers;
}

TEST(DeviceKills, LeaveARunThatResumesToTheSameBits) {
  const fs::path directory =
      fs::path(::testing::TempDir()) / ("bipo-device-kills-" + std::to_string(::getpid()));
  fs::create_directories(directory);
  const fs::path whole = directory / "whole.h5";
  EXPECT_EQ(status_of_training(whole, {}), 0);

  const fs::path killed = directory / "killed.h5";
  struct Killing {
    Death death;
    std::int64_t step;  // in the file that is left
  };
  for (const auto& [death, step] :
       {Killing{{.at_step = 0}, 0}, Killing{{.in_save = 2}, 0}, Killing{{.at_step = 3}, 3},
        Killing{{.in_save = 1}, 3}, Killing{{.at_step = 5}, 5}}) {
    const int status = status_of_training(killed, death);
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status;
    const RunRecord left = read_run_file(killed);
    EXPECT_EQ(left.checkpoint.step, step);
    EXPECT_EQ(left.attributes.status, RunStatus::kRunning);
  }
  EXPECT_EQ(status_of_training(killed, {}), 0);

  const RunRecord expected = read_run_file(whole);
  const RunRecord found = read_run_file(killed);
  EXPECT_EQ(expected.steps.size(), 6U);
  EXPECT_EQ(found.attributes.status, RunStatus::kComplete);
  EXPECT_EQ(numbers_of(found), numbers_of(expected));
  fs::remove_all(directory);
}

}  // namespace
}  // namespace bipo::testing
