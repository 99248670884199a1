#include "collectives/device.hpp"

#include <ATen/Context.h>
#include <ATen/DeviceAccelerator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

namespace bipo {

std::optional<c10::DeviceType> accelerator_type() {
  return at::accelerator::getAccelerator(/*checked=*/false);
}

int accelerator_count() {
  return accelerator_type() ? at::accelerator::deviceCount() : 0;
}

std::string message_of(const c10::Error& error) {
  std::string message = error.what_without_backtrace();
  if (dynamic_cast<const c10::OutOfMemoryError*>(&error) != nullptr) {
    message +=
        "; give less to one pass through the model (--micro-batch, or --batch-size where there is "
        "none) or more ranks to a replica (--tp): bipo-dist plan says what a run takes";
  }
  return message;
}

void select_device(c10::Device device) {
  if (!device.is_cpu()) {
    at::globalContext().lazyInitDevice(device.type());
    c10::impl::VirtualGuardImpl(device.type()).setDevice(device);
  }
}

void synchronize_device(c10::Device device) {
  if (!device.is_cpu()) {
    c10::impl::VirtualGuardImpl(device.type()).synchronizeDevice(device.index());
  }
}

void release_unused_device_memory(c10::Device device) {
  if (!device.is_cpu()) {
    c10::getDeviceAllocator(device.type())->emptyCache();
  }
}

void reset_peak_device_memory(c10::Device device) {
  if (!device.is_cpu()) {
    c10::getDeviceAllocator(device.type())->resetPeakStats(device.index());
  }
}

at::Tensor Arrival::receive() const {
  const c10::Device device = tensor_.device();
  const c10::Stream current = c10::impl::VirtualGuardImpl(device.type()).getStream(device);
  sent_->block(current);
  // Its memory belongs to the copying stream, which must not use it again before this one has.
  c10::getDeviceAllocator(device.type())->recordStream(tensor_.storage().data_ptr(), current);
  return tensor_;
}

CopyStream::CopyStream(c10::Device device)
    : stream_(c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device)) {
}

Arrival CopyStream::send(const at::Tensor& pinned) const {
  const c10::StreamGuard guard(stream_);
  Arrival arrival;
  arrival.tensor_ = pinned.to(stream_.device(), pinned.scalar_type(), /*non_blocking=*/true);
  const auto sent = std::make_shared<c10::Event>(stream_.device_type());
  sent->record(stream_);
  arrival.sent_ = sent;
  return arrival;
}

std::uint64_t free_device_memory(c10::Device device) {
  return c10::getDeviceAllocator(device.type())->getMemoryInfo(device.index()).first;
}

std::uint64_t peak_device_memory(c10::Device device) {
  using c10::CachingAllocator::StatType;
  const auto statistics = c10::getDeviceAllocator(device.type())->getDeviceStats(device.index());
  return static_cast<std::uint64_t>(
      statistics.reserved_bytes[static_cast<std::size_t>(StatType::AGGREGATE)].peak);
}

}  // namespace bipo
