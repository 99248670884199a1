#include "collectives/topology.hpp"

#include <fmt/format.h>

#include "collectives/foundation/errors.hpp"

namespace bipo {

Topology::Topology(int world, int rank, int tp, std::optional<int> dp, int cells)
    : world_(world), rank_(rank), cells_(cells), dp_(dp.value_or(0)), tp_(tp) {
  if (world < 1 || rank < 0 || rank >= world) {
    throw BugError(fmt::format("topology: rank {} of {}", rank, world));
  }
  if (tp < 1 || cells < 1 || (dp && *dp < 1)) {
    throw UserError(
        fmt::format("--tp {} --dp {}: every factor of world = cells x dp x tp must be at least 1",
                    tp, dp ? std::to_string(*dp) : "auto"));
  }
  if (!dp) {
    if (world % (cells * tp) != 0) {
      throw UserError(
          fmt::format("{} ranks cannot be arranged: world = cells x dp x tp gives {} = {} x dp x "
                      "{}, and {} is not a multiple of {}; start a multiple of {} ranks or change "
                      "--tp",
                      world, world, cells, tp, world, cells * tp, cells * tp));
    }
    dp_ = world / (cells * tp);
  }
  if (cells_ * dp_ * tp_ != world) {
    throw UserError(
        fmt::format("{} ranks cannot be arranged: world = cells x dp x tp needs {} x {} x {} = {}, "
                    "but {} ranks were started; start {} ranks or change --dp or --tp",
                    world, cells_, dp_, tp_, cells_ * dp_ * tp_, world, cells_ * dp_ * tp_));
  }
}

std::string Topology::to_string() const {
  return fmt::format("{} rank{} = {} cell{} x {} dp x {} tp", world_, world_ == 1 ? "" : "s",
                     cells_, cells_ == 1 ? "" : "s", dp_, tp_);
}

}  // namespace bipo
