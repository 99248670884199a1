// Work of a device that is recorded once and then asked for by one call: a CUDA graph on CUDA.
#pragma once

#include <c10/core/Device.h>

#include <functional>
#include <memory>

namespace bipo {

class DeviceGraph {
 public:
  virtual ~DeviceGraph() = default;

  // Asks the device for all that was recorded, as the next work of its current stream.  It reads
  // and writes the same memory as it was recorded with, whatever that holds by now.
  virtual void replay() = 0;
};

// Records what is asked of the devices of one kind.
class GraphRecorder {
 public:
  virtual ~GraphRecorder() = default;

  // Runs `work`, whose operators leave nothing but memory: the device does what they ask in
  // replay() only.  Memory that was there before must live as long as the graph; what `work`
  // allocates and gives up belongs to the graphs of this recorder, in turn, so that a replay leaves
  // in none but its own tensors what was there.  `work` must have run before, on this thread and
  // with the same shapes, and what it reads must be valid: a recorder may try it.  In it are
  // errors: waiting for the device, reading elements, copies from and to the host, other streams.
  // Throws what `work` throws, and c10::Error where a device refuses the recording; what was asked
  // before stands in both cases.
  virtual std::unique_ptr<DeviceGraph> record(c10::Device device,
                                              const std::function<void()>& work) = 0;
};

// Makes `recorder` that of the devices of this kind; it must live on.  Null: CUDA's devices have
// their own (again), others none.
void register_recorder(c10::DeviceType type, GraphRecorder* recorder);

// Says for the process whether work is recorded at all; it is not before.
void choose_graphs(bool records);
bool records_graphs();

// Returns the recorder of `device`; null: it has none.
GraphRecorder* recorder_of(c10::Device device);

// Returns that of CUDA devices; null in a build without CUDA.
GraphRecorder* cuda_recorder();

}  // namespace bipo
