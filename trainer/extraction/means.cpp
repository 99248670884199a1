#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "trainer/extraction/methods.hpp"
#include "trainer/extraction/second_moments.hpp"
#include "trainer/extraction/share_sums.hpp"

namespace bipo {

namespace {

class MeanDifferenceStatistics final : public LayerStatistics {
 public:
  explicit MeanDifferenceStatistics(const LayerPass& pass) : pairs_(pass.pairs), sums_(pass) {}

  void add(std::int64_t /*pair*/, std::int64_t share, const at::Tensor& chosen,
           const at::Tensor& rejected) override {
    sums_.add(share, (chosen - rejected).cpu());
  }

  at::Tensor direction(double /*residual_unit*/) override {
    return sums_.total() / static_cast<double>(pairs_);
  }

 private:
  std::int64_t pairs_;
  ShareSums sums_;
};

// Jensen-Shannon divergence of the softmax of two rows [D].
double divergence(const at::Tensor& chosen, const at::Tensor& rejected) {
  const at::Tensor log_p = at::log_softmax(chosen, 0);
  const at::Tensor log_q = at::log_softmax(rejected, 0);
  const at::Tensor log_m = at::logaddexp(log_p, log_q) - std::log(2.0);
  const at::Tensor both = log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m);
  return both.sum().item<double>() / 2;
}

// The same pass, for sums of one number of each pair.
LayerPass of_numbers(LayerPass pass) {
  pass.hidden = 1;
  return pass;
}

class FreeformStatistics final : public LayerStatistics {
 public:
  explicit FreeformStatistics(const LayerPass& pass)
      : pass_(pass), differences_(pass), divergences_(of_numbers(pass)) {}

  void add(std::int64_t /*pair*/, std::int64_t share, const at::Tensor& chosen,
           const at::Tensor& rejected) override {
    differences_.add(share, (chosen - rejected).cpu());
    divergences_.add(share, at::full({1}, divergence(chosen.cpu(), rejected.cpu()), at::kDouble));
  }

  at::Tensor direction(double /*residual_unit*/) override {
    const auto pairs = static_cast<double>(pass_.pairs);
    divergence_ = first_of_replica(divergences_.total(), pass_)[0].item<double>() / pairs;
    return differences_.total() / pairs;
  }

  std::optional<double> figure() const override { return divergence_; }

 private:
  LayerPass pass_;
  ShareSums differences_;
  ShareSums divergences_;
  std::optional<double> divergence_;
};

class MeanCentringStatistics final : public LayerStatistics {
 public:
  MeanCentringStatistics(const LayerPass& pass, std::int64_t target_pairs)
      : target_pairs_(target_pairs),
        background_pairs_(pass.pairs - target_pairs),
        target_(pass),
        background_(pass) {}

  void add(std::int64_t pair, std::int64_t share, const at::Tensor& chosen,
           const at::Tensor& rejected) override {
    if (pair < target_pairs_) {
      target_.add(share, chosen.cpu());
    } else {
      background_.add(share, (chosen + rejected).cpu());
    }
  }

  at::Tensor direction(double /*residual_unit*/) override {
    const at::Tensor target = target_.total() / static_cast<double>(target_pairs_);
    return target - background_.total() / static_cast<double>(2 * background_pairs_);
  }

 private:
  std::int64_t target_pairs_;
  std::int64_t background_pairs_;
  ShareSums target_;
  ShareSums background_;
};

class KnownDirection final : public LayerStatistics {
 public:
  explicit KnownDirection(const std::vector<double>& direction)
      : direction_(at::empty({static_cast<std::int64_t>(direction.size())}, at::kDouble)) {
    std::copy(direction.begin(), direction.end(), direction_.mutable_data_ptr<double>());
  }

  void add(std::int64_t /*pair*/, std::int64_t /*share*/, const at::Tensor& /*chosen*/,
           const at::Tensor& /*rejected*/) override {}

  at::Tensor direction(double /*residual_unit*/) override { return direction_; }

 private:
  at::Tensor direction_;
};

}  // namespace

MakeStatistics freeform_statistics() {
  return [](const LayerPass& pass) { return std::make_unique<FreeformStatistics>(pass); };
}

MakeStatistics known_direction(std::vector<double> direction) {
  return [direction = std::move(direction)](const LayerPass&) {
    return std::make_unique<KnownDirection>(direction);
  };
}

MakeStatistics mean_centring_statistics(std::int64_t target_pairs) {
  return [target_pairs](const LayerPass& pass) {
    return std::make_unique<MeanCentringStatistics>(pass, target_pairs);
  };
}

MakeStatistics mean_difference_statistics() {
  return [](const LayerPass& pass) { return std::make_unique<MeanDifferenceStatistics>(pass); };
}

}  // namespace bipo
