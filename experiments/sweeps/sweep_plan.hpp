// The plan of a sweep: its cells, and the packs in which they train.
//
// Everything here is a pure function of the settings and depends neither on the number of ranks nor
// on what is done already.  Several jobs can therefore work on one sweep, and a restart finds the
// same packs.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "experiments/sweeps/sweep_axes.hpp"
#include "trainer/intervention/layers.hpp"

namespace bipo {

// One training run of the sweep.
struct Cell {
  std::string model;  // names of the axes
  std::string data;
  std::int64_t layer = 0;  // of several that are trained jointly the lowest, see joint_layers
  std::uint64_t seed = 0;
  double lr = 0;
  double beta = 0;
  std::string sign;
  std::int64_t batch_size = 0;
  std::int64_t epochs = 0;
  // Stem of the cell's file, e.g. smollm2-sycophancy-layer15-seed1-lr0.0005-beta0.1-signbatch-
  // batch4-epochs20: every axis, including those with one value, so that a later sweep over more
  // values gives the same cell the same name; those of the objective where it is not BiPO's own
  // form: ...-epochs20-objectivesimpo-gamma0.5-reductionmean, -positionsfirst2last2 where the
  // vector is not added at all tokens, and those of the settings that are axes where they are not
  // the usual ones: ...-normmax3pct-factors0.5+1.  It contains dots: append the suffix, do not
  // replace an extension.
  std::string name;
  // The objective and the positions; names and plans leave out these usual values.
  std::string objective = "bipo";
  double label_smoothing = 0;
  double simpo_gamma = 0.5;  // so where the objective has none
  std::string reduction = "sum";
  std::string positions = "all";  // where the vector is added
  // Settings that are axes, likewise; a sweep without such an axis has them among its settings.
  std::string norm = "free";
  std::string schedule = "cosine";
  std::string init = "zero";
  std::string factors = "1";
  // All layers of a cell that trains several jointly, "10+15+20", which its name has behind
  // "layer", too; empty: `layer` alone.
  std::string joint_layers = {};

  bool operator==(const Cell&) const = default;
};

// Settings of a run that may be axes, by their names in files.
inline constexpr std::pair<const char*, std::string Cell::*> kSettingAxes[] = {
    {"norm", &Cell::norm},
    {"schedule", &Cell::schedule},
    {"init", &Cell::init},
    {"factors", &Cell::factors},
    {"joint_layers", &Cell::joint_layers}};

// Returns the layers that the cell steers.  Throws UserError where joint_layers is no list of
// layers that begins with `layer` and ascends.
SteeredLayers steered_layers(const Cell& cell);

// Cells that train together in the same matrix products: the unit of claim, checkpoint and resume.
struct Pack {
  // At least one; of one model, data set, layer (or layers), batch size and epochs.
  std::vector<Cell> members;
  std::string name;  // a function of the members' names; a lone member's own

  bool operator==(const Pack&) const = default;
};

// Returns the floating-point operations of a whole training run.
using CellCost = std::function<double(const Cell&)>;

// Everything that determines a sweep's results.
struct SweepPlan {
  std::string settings;  // JSON object: what shapes the cells' results beside their axes
  std::optional<std::int64_t> vectors_per_pass;  // none: as many as products are efficient with
  std::vector<Cell> cells;
  std::vector<Pack> packs;
};

// Returns the cartesian product of the axes for models of `blocks` blocks (one number for each
// model of the axes), sorted by model, data, layer, seed, lr, beta, objective (with its smoothing,
// gamma and reduction), positions, sign, batch size, epochs, norm, schedule, init and factors,
// whatever the order of the values.  Where an objective does not use an axis, it has one cell for
// all its values: DPO the sign plus, RePS both, all but SimPO the gamma 0.5.  Throws UserError for
// a name of no objective or reduction.  Throws one UserError that names every problem: layers that
// a model does not have, empty ranges, repeated values, axes without a value.
std::vector<Cell> expand(const SweepAxes& axes, const std::vector<std::int64_t>& blocks);

// Returns the layers in `ranges`, ascending, for one model of `blocks` blocks; all of them where
// there are no ranges.  Throws UserError as expand() does, and for joint layers.
std::vector<std::int64_t> expand_layers(const std::vector<LayerRange>& ranges,
                                        const std::string& model, std::int64_t blocks);

// Packs cells of one model, data set, layer, batch size and number of epochs, at most `most` (for
// any of them) in a pack, with sizes as equal as possible.  Longest pack first, so that groups of
// ranks that take packs in turn end together.
std::vector<Pack> make_packs(const std::vector<Cell>& cells,
                             const std::function<std::int64_t(const Cell&)>& most,
                             const CellCost& cost);

// Sorts packs as make_packs() does; those of equal cost keep their order.
void sort_longest_first(std::vector<Pack>& packs, const CellCost& cost);

// Returns whether the members are what make_packs() packs, and the name is that of these members.
bool is_well_formed(const Pack& pack);

// Returns how many vectors one pass needs to hold `wanted_tokens`, above which matrix products are
// efficient, when a vector's own micro-batch has `micro_batch_tokens`; at least 1.
std::int64_t choose_vectors_per_pass(std::int64_t micro_batch_tokens,
                                     std::int64_t wanted_tokens = 2048);

double pack_cost(const Pack& pack, const CellCost& cost);

// Returns what --dry-run prints: the packs in the order in which they are taken, their cells, their
// cost and share of the sweep's cost, and their disk use.
std::string describe_plan(const SweepPlan& plan, const CellCost& cost,
                          const std::function<std::uint64_t(const Cell&)>& bytes_of_cell);

// Returns the same for programs, as an object: cells (their number), operations and disk_bytes of
// the sweep, and packs, each with its order from 1, its own figures and its cells.
nlohmann::ordered_json plan_as_json(const SweepPlan& plan, const CellCost& cost,
                                    const std::function<std::uint64_t(const Cell&)>& bytes_of_cell);

}  // namespace bipo
