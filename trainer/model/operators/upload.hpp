// Brings numbers from the host to the device without waiting for the device.
#pragma once

#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <c10/core/TensorOptions.h>

#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

namespace bipo {

// Returns `host` in the given type on the given device.  From pinned memory, which libtorch keeps
// until the copy has ended, so that the device copies when it comes to that.
inline at::Tensor uploaded(const at::Tensor& host, at::TensorOptions options) {
  if (options.device().is_cpu()) {
    return host.to(options);
  }
  const at::ScalarType type = c10::typeMetaToScalarType(options.dtype());
  return host.to(type).contiguous().pin_memory().to(options.device(), type, /*non_blocking=*/true);
}

// Tables that go to the device in one copy.
class Upload {
 public:
  // send() makes `target`, which must live until then, a tensor of `values`.
  void add(const std::vector<std::int64_t>& values, at::Tensor& target) {
    add(at::tensor(values, at::kLong), target);
  }

  // Likewise of a tensor's type and shape.
  void add(const at::Tensor& host, at::Tensor& target) {
    tables_.push_back({host.contiguous(), &target});
  }

  void send(at::Device device) {
    if (device.is_cpu()) {
      for (const Table& table : tables_) {
        *table.target = table.host;
      }
    } else {
      bind(image().to(device, at::kByte, /*non_blocking=*/true));
    }
    tables_.clear();
  }

  // What send() does off the CPU, in parts, so that tables can go to memory that is there already:
  // returns the bytes of all tables, in pinned memory; makes every target a view of `sent`, a copy
  // of them on the device.
  at::Tensor image() const {
    std::int64_t total = 0;
    for (const Table& table : tables_) {
      total += padded_bytes(table.host);
    }
    const at::Tensor host =
        at::empty({total}, at::TensorOptions().dtype(at::kByte).pinned_memory(total > 0));
    std::uint8_t* next = host.mutable_data_ptr<std::uint8_t>();
    for (const Table& table : tables_) {
      if (table.host.numel() > 0) {  // else it has no address
        std::memcpy(next, table.host.const_data_ptr(), table.host.nbytes());
      }
      next += padded_bytes(table.host);
    }
    return host;
  }

  void bind(const at::Tensor& sent) const {
    std::int64_t begin = 0;
    for (const Table& table : tables_) {
      *table.target = sent.narrow(0, begin, static_cast<std::int64_t>(table.host.nbytes()))
                          .view(table.host.scalar_type())
                          .view(table.host.sizes());
      begin += padded_bytes(table.host);
    }
  }

  // Returns types and shapes of the tables: where they are equal, images are laid out alike.
  std::vector<std::int64_t> shapes() const {
    std::vector<std::int64_t> all;
    for (const Table& table : tables_) {
      all.insert(all.end(), {static_cast<std::int64_t>(table.host.scalar_type()),
                             static_cast<std::int64_t>(table.host.dim())});
      all.insert(all.end(), table.host.sizes().begin(), table.host.sizes().end());
    }
    return all;
  }

 private:
  struct Table {
    at::Tensor host;
    at::Tensor* target;
  };

  // Every table begins where kernels may read 16 bytes at once.
  static std::int64_t padded_bytes(const at::Tensor& table) {
    constexpr std::int64_t kAlignment = 16;
    const auto bytes = static_cast<std::int64_t>(table.nbytes());
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }

  std::vector<Table> tables_;
};

}  // namespace bipo
