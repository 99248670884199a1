// A run record whose every number is a simple function of its index, for the tests of the run file.
#pragma once

#include <cmath>
#include <limits>
#include <string>

#include "experiments/runs/run_file.hpp"

namespace bipo {

// D of the sample.
inline constexpr std::int64_t kSampleHidden = 6;

inline std::vector<float> sample_hidden(float first) {
  std::vector<float> values(kSampleHidden);
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = first + 0.25F * static_cast<float>(i);
  }
  return values;
}

inline RunAttributes sample_attributes() {
  RunAttributes attributes;
  attributes.config =
      R"({"lr":0.0005,"sign":"batch","system-prompt":"Sois bref, s'il te pla\u00eet."})";
  attributes.program_version = "0.1.0";
  attributes.git_commit = "0123456789abcdef";
  attributes.created_utc = "2026-01-02T03:04:05Z";
  attributes.model = "models/größe";
  attributes.layer = 15;
  attributes.hidden_size = kSampleHidden;
  attributes.world_size = 4;
  attributes.dp = 2;
  attributes.tp = 2;
  attributes.backend = "mpi";
  attributes.dtype = "fp32";
  attributes.hosts = "node1,node2";
  return attributes;
}

// Two steps to an epoch, one vector and three evaluations at the end of each.
inline RunRecord sample_run(std::int64_t steps) {
  RunRecord record;
  record.attributes = sample_attributes();
  for (std::int64_t i = 0; i < steps; ++i) {
    const double x = static_cast<double>(i);
    StepRow row;
    row.step = i;
    row.epoch = static_cast<std::int32_t>(i / 2);
    row.lr = 5e-4 * (x + 1);
    row.loss = 0.75 - 0.125 * x;
    row.margin = 0.5 * x;
    row.accuracy = i % 2 == 0 ? 0.25 : 0.75;
    row.sign = static_cast<std::int8_t>(i % 3 - 1);
    row.grad_norm = 1.5 + x;
    row.vector_norm = 2.25 * x;
    row.tokens = 100 + x;
    row.seconds = 0.5;
    record.steps.push_back(row);
    if (i % 2 == 0) {
      continue;
    }
    record.vectors.push_back({sample_hidden(static_cast<float>(i)), i + 1, row.epoch});
    record.eval_samples.clear();
    for (const double multiplier : {-1.0, 0.0, 1.5}) {
      for (std::int64_t pair = 0; pair < 2; ++pair) {
        record.eval_samples.push_back({i + 1, row.epoch, multiplier, pair, -10 + multiplier, -12});
      }
      record.evals.push_back({i + 1, row.epoch, multiplier, 50, 0.7 - 0.1 * multiplier,
                              2 * multiplier, 0.5 + 0.2 * multiplier, -10 + multiplier, -12});
    }
  }
  record.checkpoint.vector = sample_hidden(10);
  record.checkpoint.exp_avg = sample_hidden(20);
  record.checkpoint.exp_avg_sq = sample_hidden(30);
  record.checkpoint.step = steps;
  record.checkpoint.seed = std::numeric_limits<std::uint64_t>::max() - 1;
  return record;
}

}  // namespace bipo
