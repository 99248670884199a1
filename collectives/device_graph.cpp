#include "collectives/device_graph.hpp"

#include <array>
#include <atomic>
#include <cstddef>

namespace bipo {
namespace {

struct Recorders {
  std::array<std::atomic<GraphRecorder*>, c10::COMPILE_TIME_MAX_DEVICE_TYPES> of_type{};
  std::atomic<bool> chosen{false};
};

// A function's, because recorders may be registered before main().
Recorders& recorders() {
  static Recorders all;
  return all;
}

}  // namespace

void register_recorder(c10::DeviceType type, GraphRecorder* recorder) {
  recorders().of_type.at(static_cast<std::size_t>(type)) = recorder;
}

void choose_graphs(bool records) {
  recorders().chosen = records;
}

bool records_graphs() {
  return recorders().chosen;
}

GraphRecorder* recorder_of(c10::Device device) {
  GraphRecorder* const registered = recorders().of_type.at(static_cast<std::size_t>(device.type()));
  return registered == nullptr && device.is_cuda() ? cuda_recorder() : registered;
}

}  // namespace bipo
