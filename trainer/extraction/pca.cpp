#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <optional>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "trainer/extraction/methods.hpp"
#include "trainer/extraction/ordered_sums.hpp"
#include "trainer/extraction/principal_component.hpp"
#include "trainer/extraction/second_moments.hpp"
#include "trainer/extraction/share_sums.hpp"

namespace bipo {
namespace {

class PcaStatistics final : public LayerStatistics {
 public:
  explicit PcaStatistics(const LayerPass& pass)
      : pass_(pass), differences_(pass), products_(pass) {}

  void add(std::int64_t /*pair*/, std::int64_t share, const at::Tensor& chosen,
           const at::Tensor& rejected) override {
    const at::Tensor difference = (chosen - rejected).cpu().contiguous();
    differences_.add(share, difference);
    products_.add(share, difference);
  }

  at::Tensor direction(double /*residual_unit*/) override {
    const at::Tensor sum = first_of_replica(differences_.total(), pass_);
    if (!at::isfinite(sum).all().item<bool>()) {
      return at::full({pass_.hidden}, std::numeric_limits<double>::quiet_NaN(), at::kDouble);
    }
    const at::Tensor products = products_.total();
    const std::optional<std::vector<double>> component =
        principal_component(products.const_data_ptr<double>(), pass_.hidden);
    if (!component) {
      throw AgreedFailure(
          fmt::format("layer {}: no principal component stands out of the differences, so that "
                      "--method pca has no direction; try --method caa",
                      pass_.layer),
          kExitFailure);
    }
    const double along = ordered_dot(component->data(), sum.const_data_ptr<double>(), pass_.hidden);
    const at::Tensor found = at::empty({pass_.hidden}, at::kDouble);
    std::transform(component->begin(), component->end(), found.mutable_data_ptr<double>(),
                   [&](double value) { return along < 0 ? -value : value; });
    return found;
  }

 private:
  LayerPass pass_;
  ShareSums differences_;
  SecondMoments products_;
};

}  // namespace

MakeStatistics pca_statistics() {
  return [](const LayerPass& pass) { return std::make_unique<PcaStatistics>(pass); };
}

}  // namespace bipo
