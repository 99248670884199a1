// The plan of a sweep: its cells, the packs in which they train, and both as JSON and as text.
//
// Everything here is a pure function of the settings: never of the number of ranks, nor of what is
// done already.  Several jobs can therefore work on one sweep, and a restart finds the same packs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace bipo {

// first, first + step, ... up to `last`, which is included where the steps meet it.
struct LayerRange {
  std::int64_t first = 0;
  std::int64_t last = 0;
  std::int64_t step = 1;
};

// The values that a sweep combines, each checked by itself (a known sign, lr and beta above 0).
struct SweepAxes {
  std::vector<LayerRange> layers;  // empty: every layer of the model
  std::vector<std::uint64_t> seeds;
  std::vector<double> lrs;
  std::vector<double> betas;
  std::vector<std::string> signs;
};

// One training run of the sweep.
struct Cell {
  std::int64_t layer = 0;
  std::uint64_t seed = 0;
  double lr = 0;
  double beta = 0;
  std::string sign;
  // Stem of the cell's file, e.g. layer15-seed1-lr0.0005-beta0.1-signbatch: every axis, also those
  // with one value, so that a later sweep over more values gives the same cell the same name.
  // It contains dots: append the suffix, do not replace an extension.
  std::string name;

  bool operator==(const Cell&) const = default;
};

// Cells that train together in the same matrix products: the unit of claim, checkpoint and resume.
struct Pack {
  std::vector<Cell> members;  // at least one, all of one layer
  std::string name;           // a function of the members' names; a lone member's own

  bool operator==(const Pack&) const = default;
};

// What an optimiser step costs, in units of one block on the same tokens.
struct StepCost {
  std::int64_t blocks = 0;  // of the model
  double head = 0;          // final norm and head on the answer rows; above 0
};

// Everything that fixes a sweep's results.
struct SweepPlan {
  std::string settings;  // JSON object: what all cells share and what shapes their results
  std::int64_t vectors_per_pass = 1;
  std::vector<Cell> cells;
  std::vector<Pack> packs;
};

// schema_version that plan_to_json() writes and check_same_plan() reads.
inline constexpr std::int64_t kSweepPlanSchema = 1;

// The cartesian product of the axes for a model of `blocks` blocks, sorted by layer, seed, lr, beta
// and sign, in whatever order the values are listed.  Throws one UserError that names all there is
// to mend: layers the model does not have, ranges that hold nothing, values that come twice, axes
// without a value.
std::vector<Cell> expand(const SweepAxes& axes, std::int64_t blocks);

// Cost of one of the cell's steps: the blocks after its layer and the head, for each pass of its
// sign rule.
double relative_cost(const Cell& cell, const StepCost& cost);

// Cells of one layer go together, at most `vectors_per_pass` of them, in packs as equal in size as
// possible.  Longest pack first, so that groups of ranks that take packs in turn end together.
std::vector<Pack> make_packs(const std::vector<Cell>& cells, std::int64_t vectors_per_pass,
                             const StepCost& cost);

// How many vectors one pass needs to hold `wanted_tokens`, from which on matrix products are
// efficient, when a vector's own micro-batch has `micro_batch_tokens`; at least 1.
std::int64_t choose_vectors_per_pass(std::int64_t micro_batch_tokens,
                                     std::int64_t wanted_tokens = 2048);

// The text of plan.json.
std::string plan_to_json(const SweepPlan& plan);

// Compares the text of an existing plan with that of the sweep to start.  Throws UserError, listing
// each difference, unless they are the same plan; `path` names the existing one.
void check_same_plan(const std::string& stored, const std::string& now, const std::string& path);

// What --dry-run prints: the packs in the order in which they are taken, their cells, each one's
// share of the sweep's cost, and the disk use at `bytes_per_cell`.
std::string describe_plan(const SweepPlan& plan, const StepCost& cost,
                          std::uint64_t bytes_per_cell);

}  // namespace bipo
