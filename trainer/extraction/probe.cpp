#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "collectives/exact_sum.hpp"
#include "collectives/foundation/errors.hpp"
#include "trainer/extraction/methods.hpp"
#include "trainer/extraction/ordered_sums.hpp"

namespace bipo {
namespace {

constexpr double kGradientLeft = 1e-9;  // of the gradient at zero, where the search ends
constexpr int kMostNewtonSteps = 100;
constexpr int kMostProducts = 5000;  // of the Hessian and a vector, in one step
constexpr int kMostHalvings = 40;

double sigmoid(double x) {
  return x >= 0 ? 1 / (1 + std::exp(-x)) : std::exp(x) / (1 + std::exp(x));
}

// log(1 + exp(x))
double softplus(double x) {
  return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x)));
}

// Chosen and rejected take turns.
double label(std::size_t row) {
  return row % 2 == 0 ? 1 : -1;
}

// A logistic regression on the rows of all replicas, and what follows from it: its weights, or the
// mean of the chosen rows that it is confident of.
class ProbeStatistics final : public LayerStatistics {
 public:
  // No `confidence`: the weights.
  ProbeStatistics(const LayerPass& pass, double c, std::optional<double> confidence)
      : pass_(pass), c_(c), confidence_(confidence) {}

  void add(std::int64_t /*pair*/, std::int64_t share, const at::Tensor& chosen,
           const at::Tensor& rejected) override {
    if (share != last_share_) {
      shares_.emplace_back();
      const std::int64_t pairs = (pass_.pairs + pass_.shares - 1) / pass_.shares;  // at most
      shares_.back().reserve(static_cast<std::size_t>(2 * pairs * width()));
      last_share_ = share;
    }
    for (const at::Tensor* side : {&chosen, &rejected}) {
      const at::Tensor row = side->cpu().contiguous();
      const double* values = row.const_data_ptr<double>();
      std::vector<double>& rows = shares_.back();
      rows.insert(rows.end(), values, values + pass_.hidden);
      rows.push_back(1);  // what the intercept multiplies
    }
  }

  at::Tensor direction(double residual_unit) override {
    agree_within_replica();
    if (!center_and_scale(residual_unit)) {
      return at::full({pass_.hidden}, std::numeric_limits<double>::quiet_NaN(), at::kDouble);
    }
    std::vector<double> weights = minimise();
    if (confidence_) {
      return confident_mean(scores(weights));
    }
    weights.pop_back();
    const double length = std::sqrt(ordered_dot(weights, weights));
    const at::Tensor found = at::empty({pass_.hidden}, at::kDouble);
    std::transform(weights.begin(), weights.end(), found.mutable_data_ptr<double>(),
                   [&](double weight) { return length > 0 ? weight / length : 0; });
    return found;
  }

  std::optional<double> figure() const override { return confident_; }

 private:
  using Rows = std::vector<std::vector<double>>;  // a number for each row of each share

  std::int64_t width() const { return pass_.hidden + 1; }
  std::size_t rows_of(const std::vector<double>& share) const {
    return share.size() / static_cast<std::size_t>(width());
  }

  // The tp ranks' activations may differ in the last bits; what they do with them must not.
  void agree_within_replica() {
    if (pass_.ranks->tp->size() == 1) {
      return;
    }
    for (std::vector<double>& share : shares_) {
      const at::Tensor values = at::empty({static_cast<std::int64_t>(share.size())}, at::kDouble);
      std::copy(share.begin(), share.end(), values.mutable_data_ptr<double>());
      const at::Tensor agreed = values.to(pass_.device);
      pass_.ranks->tp->broadcast(agreed, 0);
      const at::Tensor on_host = agreed.cpu();
      std::copy_n(on_host.const_data_ptr<double>(), share.size(), share.begin());
    }
  }

  // Visits this replica's shares, several at once.
  template <typename Visit>
  void for_each_share(const Visit& visit) const {
    at::parallel_for(0, static_cast<std::int64_t>(shares_.size()), 1,
                     [&](std::int64_t begin, std::int64_t end) {
                       for (std::int64_t share = begin; share < end; ++share) {
                         visit(static_cast<std::size_t>(share));
                       }
                     });
  }

  // Returns the sum over all shares of all replicas of the terms [shares, n] of this one's.
  // Collective over: dp
  std::vector<double> sum_over_shares(const at::Tensor& terms) const {
    const at::Tensor sum =
        exact_sums(terms.unsqueeze(1).to(pass_.device), pass_.shares, *pass_.ranks->dp).cpu();
    const double* values = sum.const_data_ptr<double>();
    return {values, values + sum.numel()};
  }

  // Returns the sum over all rows of all replicas of factor * row.  Collective over: dp
  std::vector<double> weighted_sum(const Rows& factors) const {
    const at::Tensor terms =
        at::zeros({static_cast<std::int64_t>(shares_.size()), width()}, at::kDouble);
    double* const first = terms.mutable_data_ptr<double>();
    for_each_share([&](std::size_t share) {
      double* const sum = first + static_cast<std::int64_t>(share) * width();
      const double* row = shares_[share].data();
      for (const double factor : factors[share]) {
        for (std::int64_t i = 0; i < width(); ++i) {
          sum[i] += factor * row[i];
        }
        row += width();
      }
    });
    return sum_over_shares(terms);
  }

  // Calls make(share, row) for every row of this replica.
  template <typename Make>
  Rows of_rows(const Make& make) const {
    Rows made(shares_.size());
    for_each_share([&](std::size_t share) {
      made[share].resize(rows_of(shares_[share]));
      for (std::size_t row = 0; row < made[share].size(); ++row) {
        made[share][row] = make(share, row);
      }
    });
    return made;
  }

  // The products of every row and `weights`.
  Rows scores(const std::vector<double>& weights) const {
    return of_rows([&](std::size_t share, std::size_t row) {
      return ordered_dot(shares_[share].data() + static_cast<std::int64_t>(row) * width(),
                         weights.data(), width());
    });
  }

  // Returns false, on every replica, where a number is not finite.  Collective over: dp
  bool center_and_scale(double residual_unit) {
    std::vector<double> mean = weighted_sum(of_rows([](std::size_t, std::size_t) { return 1.0; }));
    unit_ = residual_unit > 0 ? residual_unit : 1;
    for (double& sum : mean) {
      sum /= static_cast<double>(2 * pass_.pairs);
      if (!std::isfinite(sum)) {
        return false;
      }
    }
    for_each_share([&](std::size_t share) {
      const std::size_t rows = rows_of(shares_[share]);
      for (std::size_t row = 0; row < rows; ++row) {
        double* const values = shares_[share].data() + static_cast<std::int64_t>(row) * width();
        for (std::int64_t i = 0; i < pass_.hidden; ++i) {
          values[i] = (values[i] - mean[static_cast<std::size_t>(i)]) / unit_;
        }
      }
    });
    center_ = std::move(mean);
    return true;
  }

  // Adds the slope of |w|^2 / 2, which leaves the intercept out.
  void add_penalty_slope(std::vector<double>& slope, const std::vector<double>& weights) const {
    for (std::size_t i = 0; i + 1 < slope.size(); ++i) {
      slope[i] += weights[i];
    }
  }

  // Collective over: dp
  double objective(const std::vector<double>& weights, const Rows& at_rows) const {
    const at::Tensor terms = at::zeros({static_cast<std::int64_t>(shares_.size()), 1}, at::kDouble);
    double* const sums = terms.mutable_data_ptr<double>();
    for_each_share([&](std::size_t share) {
      for (std::size_t row = 0; row < at_rows[share].size(); ++row) {
        sums[share] += softplus(-label(row) * at_rows[share][row]);
      }
    });
    const double squares = ordered_dot(weights.data(), weights.data(), pass_.hidden);
    return squares / 2 + c_ * sum_over_shares(terms)[0];
  }

  std::vector<double> gradient(const std::vector<double>& weights, const Rows& at_rows) const {
    std::vector<double> slope = weighted_sum(of_rows([&](std::size_t share, std::size_t row) {
      return -c_ * label(row) * sigmoid(-label(row) * at_rows[share][row]);
    }));
    add_penalty_slope(slope, weights);
    return slope;
  }

  // Solves H step = -gradient by conjugate gradients until the residual is `tolerance` of the
  // gradient.  Collective over: dp
  std::vector<double> newton_step(const std::vector<double>& gradient, const Rows& at_rows,
                                  double tolerance) const {
    const Rows curvature = of_rows([&](std::size_t share, std::size_t row) {
      return c_ * sigmoid(at_rows[share][row]) * sigmoid(-at_rows[share][row]);
    });
    std::vector<double> step(gradient.size(), 0);
    std::vector<double> residual(gradient.size(), 0);
    add_scaled(residual, -1, gradient);
    std::vector<double> search = residual;
    double squares = ordered_dot(residual, residual);
    const double enough = tolerance * tolerance * squares;
    for (int i = 0; i < kMostProducts && squares > enough; ++i) {
      const Rows along = scores(search);
      std::vector<double> product = weighted_sum(of_rows([&](std::size_t share, std::size_t row) {
        return curvature[share][row] * along[share][row];
      }));
      add_penalty_slope(product, search);
      const double bend = ordered_dot(search, product);
      if (!(bend > 0)) {
        break;  // flat within rounding
      }
      add_scaled(step, squares / bend, search);
      add_scaled(residual, -squares / bend, product);
      const double before = std::exchange(squares, ordered_dot(residual, residual));
      for (std::size_t j = 0; j < search.size(); ++j) {
        search[j] = residual[j] + squares / before * search[j];
      }
    }
    return step;
  }

  // Returns w and the intercept behind it.  Collective over: dp
  std::vector<double> minimise() const {
    std::vector<double> weights(static_cast<std::size_t>(width()), 0);
    Rows at_rows = scores(weights);
    double first = 0;
    for (int i = 0; i < kMostNewtonSteps; ++i) {
      const std::vector<double> slope = gradient(weights, at_rows);
      const double length = std::sqrt(ordered_dot(slope, slope));
      first = i == 0 ? length : first;
      if (length <= kGradientLeft * first) {
        return weights;
      }
      const std::vector<double> step =
          newton_step(slope, at_rows, std::min(0.1, std::sqrt(length / first)));
      if (!descend(weights, at_rows, slope, step)) {
        break;
      }
    }
    throw AgreedFailure(
        fmt::format("layer {}: the logistic regression of --method {} does not settle; a smaller "
                    "--probe-c makes it easier",
                    pass_.layer, confidence_ ? "confst" : "probe"),
        kExitFailure);
  }

  // Goes along `step`, half as far until the objective falls enough.  Returns whether it does.
  // Collective over: dp
  bool descend(std::vector<double>& weights, Rows& at_rows, const std::vector<double>& slope,
               const std::vector<double>& step) const {
    const double before = objective(weights, at_rows);
    const double fall = ordered_dot(slope, step);
    const Rows along = scores(step);
    double size = 1;
    for (int i = 0; i < kMostHalvings; ++i, size /= 2) {
      std::vector<double> moved = weights;
      add_scaled(moved, size, step);
      Rows there = of_rows([&](std::size_t share, std::size_t row) {
        return at_rows[share][row] + size * along[share][row];
      });
      // At the end the fall is below the rounding of the objective.
      if (objective(moved, there) <= before + 1e-4 * size * fall + 1e-13 * before) {
        weights = std::move(moved);
        at_rows = std::move(there);
        return true;
      }
    }
    return false;
  }

  // The mean of the chosen rows whose probability is high enough, as they were before
  // center_and_scale().  Collective over: dp
  at::Tensor confident_mean(const Rows& at_rows) {
    const std::vector<double> sum = weighted_sum(of_rows([&](std::size_t share, std::size_t row) {
      return label(row) > 0 && sigmoid(at_rows[share][row]) >= *confidence_ ? 1.0 : 0.0;
    }));
    const double count = sum.back();  // of what the intercept multiplies
    if (count == 0) {
      throw AgreedFailure(
          fmt::format("layer {}: the classifier of --method confst gives no chosen answer a "
                      "probability of {} or more; lower --confidence, or raise --probe-c",
                      pass_.layer, *confidence_),
          kExitFailure);
    }
    confident_ = count;
    const at::Tensor found = at::empty({pass_.hidden}, at::kDouble);
    double* const values = found.mutable_data_ptr<double>();
    for (std::int64_t i = 0; i < pass_.hidden; ++i) {
      const auto place = static_cast<std::size_t>(i);
      values[i] = center_[place] + unit_ * (sum[place] / count);
    }
    return found;
  }

  LayerPass pass_;
  double c_;
  std::optional<double> confidence_;
  std::optional<double> confident_;  // chosen rows
  double unit_ = 1;                  // of the rows
  std::vector<double> center_;       // that was taken from them
  std::int64_t last_share_ = -1;
  std::vector<std::vector<double>> shares_;  // of this replica, rows of width() one after the other
};

}  // namespace

MakeStatistics probe_statistics(double c) {
  return [c](const LayerPass& pass) {
    return std::make_unique<ProbeStatistics>(pass, c, /*confidence=*/std::nullopt);
  };
}

MakeStatistics confident_statistics(double c, double confidence) {
  return [c, confidence](const LayerPass& pass) {
    return std::make_unique<ProbeStatistics>(pass, c, confidence);
  };
}

std::uint64_t probe_bytes(std::int64_t hidden, std::int64_t pairs, int dp) {
  const auto replicas = static_cast<std::uint64_t>(dp);
  return (2 * static_cast<std::uint64_t>(pairs) + replicas - 1) / replicas *
         static_cast<std::uint64_t>(hidden + 1) * sizeof(double);
}

}  // namespace bipo
