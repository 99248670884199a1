#include <ATen/ATen.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "trainer/extraction/methods.hpp"
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
