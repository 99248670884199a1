#include <ATen/ATen.h>

#include <limits>
#include <memory>

#include "trainer/extraction/methods.hpp"
#include "trainer/extraction/principal_component.hpp"
#include "trainer/extraction/second_moments.hpp"
#include "trainer/extraction/share_sums.hpp"

namespace bipo {
namespace {

class MomentStatistics final : public LayerStatistics {
 public:
  explicit MomentStatistics(const LayerPass& pass) : pass_(pass), sums_(pass), products_(pass) {}

  void add(std::int64_t /*pair*/, std::int64_t share, const at::Tensor& chosen,
           const at::Tensor& /*rejected*/) override {
    const at::Tensor row = chosen.cpu().contiguous();
    sums_.add(share, row);
    products_.add(share, row);
  }

  at::Tensor direction(double residual_unit) override {
    // The sums show what is not finite; the products, which are cut into digits, do not.
    if (!at::isfinite(first_of_replica(sums_.total(), pass_)).all().item<bool>()) {
      return at::full({triangle_size(pass_.hidden)}, std::numeric_limits<double>::quiet_NaN(),
                      at::kDouble);
    }
    const double unit = residual_unit > 0 ? residual_unit : 1;
    return products_.total() / (unit * unit * static_cast<double>(pass_.pairs));
  }

 private:
  LayerPass pass_;
  ShareSums sums_;
  SecondMoments products_;
};

}  // namespace

MakeStatistics moment_statistics() {
  return [](const LayerPass& pass) { return std::make_unique<MomentStatistics>(pass); };
}

}  // namespace bipo
