// Has a test's training recorded as graphs.
#pragma once

#include <c10/util/Exception.h>

#include <atomic>
#include <functional>
#include <memory>

#include "collectives/device_graph.hpp"

namespace bipo::testing {

// While it lives, work on devices of this kind is recorded; or, if it `refuses`, each recording
// fails, so that all work runs as it comes.  One at a time.
class GraphsInUse : public GraphRecorder {
 public:
  explicit GraphsInUse(c10::Device device, bool refuses = false)
      : type_(device.type()), refuses_(refuses), recorder_(recorder_of(device)) {
    register_recorder(type_, this);
    choose_graphs(true);
  }
  ~GraphsInUse() override {
    choose_graphs(false);
    register_recorder(type_, recorder_);
  }
  GraphsInUse(const GraphsInUse&) = delete;
  GraphsInUse& operator=(const GraphsInUse&) = delete;

  std::unique_ptr<DeviceGraph> record(c10::Device device,
                                      const std::function<void()>& work) override {
    ++records_;
    TORCH_CHECK(!refuses_, "this recorder refuses");
    auto graph = recorder_->record(device, work);
    ++graphs_;
    return graph;
  }

  // How often it was asked to record, and did.
  int records() const { return records_; }
  int graphs() const { return graphs_; }

 private:
  c10::DeviceType type_;
  bool refuses_;
  GraphRecorder* recorder_;
  std::atomic<int> records_{0};
  std::atomic<int> graphs_{0};
};

}  // namespace bipo::testing
