#include "tests/support/flash_reference.hpp"

#include <ATen/ATen.h>
#include <c10/util/BFloat16.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace bipo::testing {
namespace {

double rounded(double x) {
  return static_cast<float>(c10::BFloat16(static_cast<float>(x)));
}

// x [rows, heads, K] in float64.
class Rows {
 public:
  explicit Rows(const at::Tensor& x)
      : values_(x.to(at::kDouble).contiguous()),
        data_(values_.mutable_data_ptr<double>()),
        heads_(x.size(1)),
        size_(x.size(2)) {}

  double* at(std::int64_t row, std::int64_t head) const {
    return data_ + (row * heads_ + head) * size_;
  }
  const at::Tensor& values() const { return values_; }

 private:
  at::Tensor values_;
  double* data_;
  std::int64_t heads_;
  std::int64_t size_;
};

double dot(const double* a, const double* b, std::int64_t size) {
  double sum = 0;
  for (std::int64_t i = 0; i < size; ++i) {
    sum += a[i] * b[i];
  }
  return sum;
}

void add(double factor, const double* x, std::int64_t size, double* to) {
  for (std::int64_t i = 0; i < size; ++i) {
    to[i] += factor * x[i];
  }
}

// Calls work(query row, head, first key row, end of key rows) for every query and head.
template <class Work>
void for_each_query(const FlashOperands& x, const Work& work) {
  const auto* queries = x.query_bounds.const_data_ptr<std::int32_t>();
  const auto* keys = x.key_bounds.const_data_ptr<std::int32_t>();
  for (std::int64_t s = 0; s + 1 < x.query_bounds.size(0); ++s) {
    for (std::int64_t row = queries[s]; row < queries[s + 1]; ++row) {
      const std::int64_t end = keys[s + 1] - (queries[s + 1] - 1 - row);
      const std::int64_t seen = x.window_left < 0 ? end - keys[s] : x.window_left + 1;
      const std::int64_t first = std::max<std::int64_t>(keys[s], end - seen);
      for (std::int64_t head = 0; head < x.q.size(1); ++head) {
        work(row, head, first, std::max(first, end));
      }
    }
  }
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> flash_forward(const FlashOperands& x) {
  const std::int64_t size = x.q.size(2);
  const std::int64_t group = x.q.size(1) / x.k.size(1);
  const Rows q(x.q);
  const Rows k(x.k);
  const Rows v(x.v);
  const Rows result(at::zeros(x.q.sizes(), at::kDouble));
  const at::Tensor log_sums =
      at::full({x.q.size(1), x.q.size(0)}, std::numeric_limits<float>::infinity(), at::kFloat);
  for_each_query(x, [&](std::int64_t row, std::int64_t head, std::int64_t first, std::int64_t end) {
    std::vector<double> scores;
    double most = -std::numeric_limits<double>::infinity();
    for (std::int64_t key = first; key < end; ++key) {
      scores.push_back(x.scale * dot(q.at(row, head), k.at(key, head / group), size));
      most = std::max(most, scores.back());
    }
    double sum = 0;
    for (std::int64_t key = first; key < end; ++key) {
      const double weight = std::exp(scores[static_cast<std::size_t>(key - first)] - most);
      sum += weight;
      add(rounded(weight), v.at(key, head / group), size, result.at(row, head));
    }
    if (first < end) {
      for (std::int64_t i = 0; i < size; ++i) {
        result.at(row, head)[i] /= sum;
      }
      log_sums[head][row] = most + std::log(sum);
    }
  });
  return {result.values().to(at::kBFloat16), log_sums};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> flash_backward(const FlashOperands& x,
                                                              const at::Tensor& result,
                                                              const at::Tensor& log_sums,
                                                              const at::Tensor& d_result) {
  const std::int64_t size = x.q.size(2);
  const std::int64_t heads = x.q.size(1);
  const std::int64_t kv_heads = x.k.size(1);
  const std::int64_t group = heads / kv_heads;
  const Rows q(x.q);
  const Rows k(x.k);
  const Rows v(x.v);
  const Rows out(result);
  const Rows d(d_result);
  const Rows dq(at::zeros(x.q.sizes(), at::kDouble));
  // For each query head, as the kernels have them.
  const Rows dk(at::zeros({x.k.size(0), heads, size}, at::kDouble));
  const Rows dv(at::zeros({x.k.size(0), heads, size}, at::kDouble));
  const auto sums = log_sums.accessor<float, 2>();
  for_each_query(x, [&](std::int64_t row, std::int64_t head, std::int64_t first, std::int64_t end) {
    const double mean = dot(d.at(row, head), out.at(row, head), size);
    for (std::int64_t key = first; key < end; ++key) {
      const std::int64_t kv = head / group;
      const double weight =
          std::exp(x.scale * dot(q.at(row, head), k.at(key, kv), size) - sums[head][row]);
      const double d_score = weight * (dot(d.at(row, head), v.at(key, kv), size) - mean);
      add(rounded(weight), d.at(row, head), size, dv.at(key, head));
      add(rounded(d_score) * x.scale, k.at(key, kv), size, dq.at(row, head));
      add(rounded(d_score) * x.scale, q.at(row, head), size, dk.at(key, head));
    }
  });
  const auto by_kv_head = [&](const Rows& expanded) {
    return expanded.values()
        .to(at::kBFloat16)
        .view({-1, kv_heads, group, size})
        .sum(2, /*keepdim=*/false, at::kFloat)
        .to(at::kBFloat16);
  };
  return {dq.values().to(at::kBFloat16), by_kv_head(dk), by_kv_head(dv)};
}

}  // namespace bipo::testing
