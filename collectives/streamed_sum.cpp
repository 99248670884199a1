#include "collectives/streamed_sum.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "collectives/foundation/errors.hpp"

namespace bipo {
namespace {

constexpr int kDigitBits = 32;
// The lowest highest place: its third place is still a normal float64, as is its reciprocal.
constexpr std::int64_t kLowestTop = -28;
constexpr std::int64_t kElementsOfATask = 1 << 15;

// Returns the place of the highest digit of a positive number.
std::int64_t place_of_digit(double magnitude) {
  int exponent = 0;
  std::frexp(magnitude, &exponent);  // magnitude < 2^exponent
  const int highest_bit = exponent - 1;
  return highest_bit >= 0 ? highest_bit / kDigitBits
                          : -((-highest_bit + kDigitBits - 1) / kDigitBits);
}

}  // namespace

StreamedSum::StreamedSum(std::int64_t n)
    : n_(n), top_(kLowestTop), digits_(at::zeros({kPlaces, n}, at::kLong)) {
}

void StreamedSum::add(const std::vector<double>& values) {
  if (static_cast<std::int64_t>(values.size()) != n_) {
    throw BugError(fmt::format("streamed sum: {} elements are added to {}", values.size(), n_));
  }
  double largest = 0;
  for (const double value : values) {
    if (std::isfinite(value)) {
      largest = std::max(largest, std::abs(value));
    }
  }
  if (largest == 0) {
    return;
  }
  raise(place_of_digit(largest));
  std::array<double, kPlaces> units{};  // 2^(32 place)
  std::array<double, kPlaces> per_unit{};
  for (std::int64_t k = 0; k < kPlaces; ++k) {
    const int exponent = static_cast<int>(kDigitBits * (top_ - k));
    units[static_cast<std::size_t>(k)] = std::ldexp(1.0, exponent);
    per_unit[static_cast<std::size_t>(k)] = std::ldexp(1.0, -exponent);
  }
  std::int64_t* const digits = digits_.mutable_data_ptr<std::int64_t>();
  at::parallel_for(0, n_, kElementsOfATask, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      double rest = values[static_cast<std::size_t>(i)];
      if (!std::isfinite(rest)) {
        continue;
      }
      for (std::int64_t k = 0; k < kPlaces; ++k) {
        const auto place = static_cast<std::size_t>(k);
        const double digit = std::trunc(rest * per_unit[place]);  // exact, as what follows
        rest -= digit * units[place];
        digits[k * n_ + i] += static_cast<std::int64_t>(digit);
      }
    }
  });
}

at::Tensor StreamedSum::total(at::Device device, Communicator& group) {
  const at::Tensor top = at::full({1}, top_, at::kLong).to(device);
  group.all_reduce(top, ReduceOp::kMax);
  raise(top.cpu().item<std::int64_t>());
  // A group that moves host memory would otherwise change this rank's own part.
  const at::Tensor digits = digits_.clone().to(device);
  group.all_reduce(digits, ReduceOp::kSum);
  const at::Tensor places = digits.cpu().to(at::kDouble);
  at::Tensor sum = at::zeros({n_}, at::kDouble);
  for (std::int64_t k = 0; k < kPlaces; ++k) {
    sum = sum + places[k] * std::ldexp(1.0, static_cast<int>(kDigitBits * (top_ - k)));
  }
  return sum;
}

// Moves the digits to lower rows, so that `top` is the first row's place; drops what has none.
void StreamedSum::raise(std::int64_t top) {
  const std::int64_t by = std::min(top - top_, kPlaces);
  if (by <= 0) {
    return;
  }
  for (std::int64_t k = kPlaces - 1; k >= 0; --k) {
    if (k >= by) {
      digits_[k].copy_(digits_[k - by]);
    } else {
      digits_[k].zero_();
    }
  }
  top_ = top;
}

}  // namespace bipo
