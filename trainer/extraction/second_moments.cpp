#include "trainer/extraction/second_moments.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "trainer/extraction/principal_component.hpp"

namespace bipo {
namespace {

// Vectors whose products are added in float64 before they join the exact sum.
constexpr std::size_t kVectorsAtOnce = 64;

}  // namespace

SecondMoments::SecondMoments(const LayerPass& pass)
    : pass_(pass), products_(triangle_size(pass.hidden)) {
}

void SecondMoments::add(std::int64_t share, const at::Tensor& vector) {
  if (share != last_share_ || waiting_.size() == kVectorsAtOnce) {
    add_products();  // which vectors go together depends on the data alone
    last_share_ = share;
  }
  const double* values = vector.const_data_ptr<double>();
  waiting_.emplace_back(values, values + pass_.hidden);
}

at::Tensor SecondMoments::total() {
  add_products();
  return first_of_replica(products_.total(pass_.device, *pass_.ranks->dp), pass_);
}

void SecondMoments::add_products() {
  if (waiting_.empty()) {
    return;
  }
  const std::int64_t n = pass_.hidden;
  std::vector<double> triangle(static_cast<std::size_t>(triangle_size(n)), 0);
  at::parallel_for(0, n, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      double* const row = triangle.data() + triangle_row(i, n);
      for (const std::vector<double>& vector : waiting_) {
        const double* const from_diagonal = vector.data() + i;
        for (std::int64_t j = 0; j < n - i; ++j) {
          row[j] += *from_diagonal * from_diagonal[j];
        }
      }
    }
  });
  products_.add(triangle);
  waiting_.clear();
}

std::uint64_t second_moments_bytes(std::int64_t hidden) {
  constexpr std::uint64_t kBytesOfAnElement = 24 + 2 * sizeof(double);  // digits, terms, sum
  return static_cast<std::uint64_t>(triangle_size(hidden)) * kBytesOfAnElement;
}

at::Tensor first_of_replica(const at::Tensor& sum, const LayerPass& pass) {
  const at::Tensor shared = sum.to(pass.device);
  pass.ranks->tp->broadcast(shared, 0);
  return shared.cpu().contiguous();
}

}  // namespace bipo
