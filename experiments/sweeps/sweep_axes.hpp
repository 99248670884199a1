// The values that a sweep combines.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace bipo {

// The layers first, first + step, ... up to `last`, which is included where a step meets it; or,
// where `joint` has any, these layers as one value: a cell trains a vector for each of them
// jointly.
struct LayerRange {
  std::int64_t first = 0;
  std::int64_t last = 0;
  std::int64_t step = 1;
  std::vector<std::int64_t> joint = {};  // ascending, of which `first` is the lowest
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

// Each value is checked by itself (a known sign, lr and beta above 0).
struct SweepAxes {
  std::vector<NamedModel> models;
  std::vector<NamedData> data;
  std::vector<LayerRange> layers;  // empty: every layer of a model
  std::vector<std::uint64_t> seeds = {11};
  std::vector<double> lrs = {3e-3};
  std::vector<double> betas = {0.1};
  std::vector<std::string> objectives = {"bipo"};
  std::vector<double> label_smoothings = {0};
  std::vector<double> simpo_gammas = {0.5};
  std::vector<std::string> reductions = {"auto"};  // the objective's own, or sum or mean
  std::vector<std::string> positions = {"all"};    // as to_string() writes them
  std::vector<std::string> signs = {"batch"};
  std::vector<std::int64_t> batch_sizes = {4};
  std::vector<std::int64_t> epochs = {3};
  // Settings of a run as the options read them; empty: one value for all cells, which is among the
  // settings that they share.
  std::vector<std::string> norms;
  std::vector<std::string> schedules;
  std::vector<std::string> inits;
  std::vector<std::string> factors;
};

}  // namespace bipo
