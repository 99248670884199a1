#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <optional>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "collectives/streamed_sum.hpp"
#include "trainer/extraction/methods.hpp"
#include "trainer/extraction/ordered_sums.hpp"
#include "trainer/extraction/principal_component.hpp"
#include "trainer/extraction/share_sums.hpp"

namespace bipo {
namespace {

// Differences whose products are added in float64 before they join the exact sum.
constexpr std::size_t kDifferencesAtOnce = 64;

class PcaStatistics final : public LayerStatistics {
 public:
  explicit PcaStatistics(const LayerPass& pass)
      : pass_(pass), differences_(pass), products_(triangle_size(pass.hidden)) {}

  void add(std::int64_t /*pair*/, std::int64_t share, const at::Tensor& chosen,
           const at::Tensor& rejected) override {
    if (share != last_share_ || waiting_.size() == kDifferencesAtOnce) {
      add_products();  // which differences go together depends on the pairs alone
      last_share_ = share;
    }
    const at::Tensor difference = (chosen - rejected).cpu().contiguous();
    differences_.add(share, difference);
    const double* values = difference.const_data_ptr<double>();
    waiting_.emplace_back(values, values + pass_.hidden);
  }

  at::Tensor direction(double /*residual_unit*/) override {
    add_products();
    const at::Tensor sum = agreed(differences_.total());
    if (!at::isfinite(sum).all().item<bool>()) {
      return at::full({pass_.hidden}, std::numeric_limits<double>::quiet_NaN(), at::kDouble);
    }
    const at::Tensor products = agreed(products_.total(pass_.device, *pass_.ranks->dp));
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
  // Adds the products of the waiting differences to the sum.
  void add_products() {
    if (waiting_.empty()) {
      return;
    }
    const std::int64_t n = pass_.hidden;
    std::vector<double> triangle(static_cast<std::size_t>(triangle_size(n)), 0);
    at::parallel_for(0, n, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        double* const row = triangle.data() + triangle_row(i, n);
        for (const std::vector<double>& difference : waiting_) {
          const double* const from_diagonal = difference.data() + i;
          for (std::int64_t j = 0; j < n - i; ++j) {
            row[j] += *from_diagonal * from_diagonal[j];
          }
        }
      }
    });
    products_.add(triangle);
    waiting_.clear();
  }

  // The tp ranks' activations may differ in the last bits; all take the first one's sums.
  at::Tensor agreed(const at::Tensor& sum) const {
    const at::Tensor shared = sum.to(pass_.device);
    pass_.ranks->tp->broadcast(shared, 0);
    return shared.cpu().contiguous();
  }

  LayerPass pass_;
  ShareSums differences_;
  StreamedSum products_;  // the upper triangle of the sum of difference difference^T
  std::int64_t last_share_ = -1;
  std::vector<std::vector<double>> waiting_;  // of the last share
};

}  // namespace

MakeStatistics pca_statistics() {
  return [](const LayerPass& pass) { return std::make_unique<PcaStatistics>(pass); };
}

std::uint64_t pca_bytes(std::int64_t hidden) {
  constexpr std::uint64_t kBytesOfAnElement = 24 + 2 * sizeof(double);  // digits, terms, sum
  return static_cast<std::uint64_t>(triangle_size(hidden)) * kBytesOfAnElement;
}

}  // namespace bipo
