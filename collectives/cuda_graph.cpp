#include <ATen/core/CachingHostAllocator.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <map>
#include <utility>

#include "collectives/device_graph.hpp"

namespace bipo {
namespace {

// Where the graphs of a device are recorded: one stream and one pool of memory for all, because
// cuBLAS keeps a workspace for each stream, and the graphs run one after the other.
struct Place {
  c10::cuda::CUDAStream stream;
  c10::MempoolId_t pool;
  int graphs = 0;  // that live
};

class CudaGraph final : public DeviceGraph {
 public:
  explicit CudaGraph(Place& place) : place_(place) { ++place_.graphs; }
  ~CudaGraph() override { --place_.graphs; }
  CudaGraph(const CudaGraph&) = delete;
  CudaGraph& operator=(const CudaGraph&) = delete;

  void replay() override { graph_.replay(); }
  at::cuda::CUDAGraph& graph() { return graph_; }

 private:
  Place& place_;
  at::cuda::CUDAGraph graph_;
};

class CudaRecorder final : public GraphRecorder {
 public:
  std::unique_ptr<DeviceGraph> record(c10::Device device,
                                      const std::function<void()>& work) override {
    Place& place = place_on(device);
    if (place.graphs == 0) {
      // libtorch takes no pool again that its last graph has left, if something is still in it.
      place.pool = at::cuda::graph_pool_handle();
    }
    const c10::MempoolId_t pool = place.pool;
    auto recorded = std::make_unique<CudaGraph>(place);
    const c10::cuda::CUDAStreamGuard guard(place.stream);
    // Other threads, the watch over collectives among them, go on asking for their events.
    recorded->graph().capture_begin(pool, cudaStreamCaptureModeThreadLocal);
    try {
      work();
    } catch (...) {
      abandon(recorded->graph(), device, pool);
      throw;
    }
    try {
      recorded->graph().capture_end();
    } catch (...) {
      release(device, pool);
      throw;
    }
    return recorded;
  }

 private:
  Place& place_on(c10::Device device) {
    const auto found = places_.find(device.index());
    if (found != places_.end()) {
      return found->second;
    }
    const auto stream = c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device.index());
    return places_.emplace(device.index(), Place{stream, {}, 0}).first->second;
  }

  // Ends a recording whose work has thrown.  What broke it may have made it invalid, too.
  static void abandon(at::cuda::CUDAGraph& graph, c10::Device device, c10::MempoolId_t pool) {
    try {
      graph.capture_end();
    } catch (const c10::Error&) {
      release(device, pool);
    }
  }

  // Where CUDA refuses the end of a capture, libtorch leaves its allocators recording for a graph
  // that is about to go.
  static void release(c10::Device device, c10::MempoolId_t pool) {
    static_cast<void>(cudaGetLastError());  // else the next call would return it
    try {
      c10::cuda::CUDACachingAllocator::endAllocateToPool(device.index(), pool);
      at::getHostAllocator(at::kCUDA)->end_allocate_to_pool(pool);
      c10::cuda::CUDACachingAllocator::releasePool(device.index(), pool);
      at::getHostAllocator(at::kCUDA)->release_pool(pool);
    } catch (const c10::Error&) {  // they had ended, and the graph releases its memory itself
    }
  }

  std::map<c10::DeviceIndex, Place> places_;
};

}  // namespace

GraphRecorder* cuda_recorder() {
  static CudaRecorder recorder;
  return &recorder;
}

}  // namespace bipo
