// The plan of a sweep: its cells, the packs in which they train, and both as JSON and as text.
//
// Everything here is a pure function of the settings: never of the number of ranks, nor of what is
// done already.  Several jobs can therefore work on one sweep, and a restart finds the same packs.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace bipo {

// first, first + step, ... up to `last`, which is included where the steps meet it.
struct LayerRange {
  std::int64_t first = 0;
  std::int64_t last = 0;
  std::int64_t step = 1;
};

struct NamedModel {
  std::string name;
  std::filesystem::path directory;
};

struct NamedData {
  std::string name;
  std::filesystem::path train;
  std::filesystem::path test;  // empty: no held-out pairs
};

// The values that a sweep combines, each checked by itself (a known sign, lr and beta above 0).
struct SweepAxes {
  std::vector<NamedModel> models;
  std::vector<NamedData> data;
  std::vector<LayerRange> layers;  // empty: every layer of a model
  std::vector<std::uint64_t> seeds = {11};
  std::vector<double> lrs = {5e-4};
  std::vector<double> betas = {0.1};
  std::vector<std::string> signs = {"batch"};
  std::vector<std::int64_t> batch_sizes = {4};
  std::vector<std::int64_t> epochs = {20};
};

// One training run of the sweep.
struct Cell {
  std::string model;  // names of the axes
  std::string data;
  std::int64_t layer = 0;
  std::uint64_t seed = 0;
  double lr = 0;
  double beta = 0;
  std::string sign;
  std::int64_t batch_size = 0;
  std::int64_t epochs = 0;
  // Stem of the cell's file, e.g. smollm2-sycophancy-layer15-seed1-lr0.0005-beta0.1-signbatch-
  // batch4-epochs20: every axis, also those with one value, so that a later sweep over more values
  // gives the same cell the same name.  It contains dots: append the suffix, do not replace an
  // extension.
  std::string name;

  bool operator==(const Cell&) const = default;
};

// Cells that train together in the same matrix products: the unit of claim, checkpoint and resume.
struct Pack {
  std::vector<Cell> members;  // at least one; they differ in seed, lr, beta and sign only
  std::string name;           // a function of the members' names; a lone member's own

  bool operator==(const Pack&) const = default;
};

// Of a whole training run, in floating-point operations.
using CellCost = std::function<double(const Cell&)>;

// Everything that fixes a sweep's results.
struct SweepPlan {
  std::string settings;  // JSON object: what shapes the cells' results beside their axes
  std::optional<std::int64_t> vectors_per_pass;  // none: as many as products are efficient with
  std::vector<Cell> cells;
  std::vector<Pack> packs;
};

// schema_version that plan_to_json() writes and check_same_plan() reads.
inline constexpr std::int64_t kSweepPlanSchema = 1;

// The cartesian product of the axes for models of `blocks` blocks (one number per model of the
// axes), sorted by model, data, layer, seed, lr, beta, sign, batch size and epochs, in whatever
// order the values are listed.  Throws one UserError that names all there is to mend: layers a
// model does not have, ranges that hold nothing, values that come twice, axes without a value.
std::vector<Cell> expand(const SweepAxes& axes, const std::vector<std::int64_t>& blocks);

// The layers, ascending, that `ranges` name of one model of `blocks` blocks; all of them where
// there are no ranges.  Throws UserError as expand() does.
std::vector<std::int64_t> expand_layers(const std::vector<LayerRange>& ranges,
                                        const std::string& model, std::int64_t blocks);

// Cells that differ in seed, lr, beta and sign only go together, at most `most` (of any of them) in
// a pack, in packs as equal in size as possible.  Longest pack first, so that groups of ranks that
// take packs in turn end together.
std::vector<Pack> make_packs(const std::vector<Cell>& cells,
                             const std::function<std::int64_t(const Cell&)>& most,
                             const CellCost& cost);

// How many vectors one pass needs to hold `wanted_tokens`, from which on matrix products are
// efficient, when a vector's own micro-batch has `micro_batch_tokens`; at least 1.
std::int64_t choose_vectors_per_pass(std::int64_t micro_batch_tokens,
                                     std::int64_t wanted_tokens = 2048);

// The text of plan.json.
std::string plan_to_json(const SweepPlan& plan);

// Compares the text of an existing plan with that of the sweep to start.  Throws UserError, listing
// each difference, unless they are the same plan; `path` names the existing one.
void check_same_plan(const std::string& stored, const std::string& now, const std::string& path);

double pack_cost(const Pack& pack, const CellCost& cost);

// What --dry-run prints: the packs in the order in which they are taken, their cells, each one's
// cost and share of the sweep's, and the disk use at `bytes_per_cell`.
std::string describe_plan(const SweepPlan& plan, const CellCost& cost,
                          const std::function<std::uint64_t(const Cell&)>& bytes_of_cell);

}  // namespace bipo
