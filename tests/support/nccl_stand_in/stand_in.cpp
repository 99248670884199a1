#include "tests/support/nccl_stand_in/stand_in.hpp"

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

namespace {

using bipo::testing::stand_in::Ends;
using bipo::testing::stand_in::Faults;

struct Operation {
  std::string call;
  std::size_t count = 0;
  ncclDataType_t type = ncclFloat32;
  int detail = 0;                                       // reduction or root
  std::map<int, std::pair<const void*, void*>> memory;  // of the ranks that have asked for it
  bool failed = false;
  bool done = false;
};

// The ranks that share an id.
struct Group {
  int size = 0;
  int joined = 0;
  int finalizing = 0;
  std::vector<Operation> operations;  // in order
};

// All that follows belongs to the mutex.
std::mutex mutex;
Faults faults;
Ends all_ends;
std::vector<std::string> all_complaints;
std::map<int, Group> groups;
int next_group = 1;
bool everyone_fails = false;
bool streams_fail = false;
bool captures = false;

}  // namespace

struct StandInCommunicator {
  int group = 0;
  int rank = 0;
  int polls = 0;         // since the last call
  std::string pending;   // the call that is not accepted yet
  std::size_t next = 0;  // operation
  ncclResult_t error = ncclSuccess;
};

struct CUstream_st {
  int group = 0;  // of the last operation; 0: none
  std::size_t operation = 0;
};

struct CUevent_st {
  CUstream_st recorded;  // what the stream was asked for last
  int polls = 0;
};

namespace {

thread_local int own_rank = 0;
thread_local CUstream_st own_stream;
thread_local cudaError_t last_error = cudaSuccess;
thread_local cudaStreamCaptureMode capture_mode = cudaStreamCaptureModeGlobal;

void complain(const std::string& text) {
  all_complaints.push_back(text);
}

bool fails(const std::string& failing, const char* call, int rank) {
  return failing == call && rank == faults.failing_rank;
}

at::ScalarType type_of(ncclDataType_t type) {
  return type == ncclFloat32   ? at::kFloat
         : type == ncclFloat64 ? at::kDouble
         : type == ncclInt64   ? at::kLong
                               : at::kByte;
}

at::Tensor view(const void* memory, std::int64_t count, ncclDataType_t type) {
  return at::from_blob(const_cast<void*>(memory), {count},
                       at::TensorOptions().dtype(type_of(type)));
}

// Every rank's memory is there.
void perform(const Operation& op, int size) {
  const auto count = static_cast<std::int64_t>(op.count);
  if (op.call == "ncclAllReduce") {
    at::Tensor result = view(op.memory.at(0).first, count, op.type).clone();
    for (int rank = 1; rank < size; ++rank) {
      const at::Tensor other = view(op.memory.at(rank).first, count, op.type);
      result = op.detail == ncclSum   ? result + other
               : op.detail == ncclMax ? at::maximum(result, other)
                                      : at::minimum(result, other);
    }
    for (const auto& [rank, memory] : op.memory) {
      view(memory.second, count, op.type).copy_(result);
    }
  } else if (op.call == "ncclBroadcast") {
    const at::Tensor values = view(op.memory.at(op.detail).first, count, op.type).clone();
    for (const auto& [rank, memory] : op.memory) {
      view(memory.second, count, op.type).copy_(values);
    }
  } else {
    for (const auto& [rank, memory] : op.memory) {
      for (int other = 0; other < size; ++other) {
        view(memory.second, count * size, op.type)
            .narrow(0, other * count, count)
            .copy_(view(op.memory.at(other).first, count, op.type));
      }
    }
  }
}

// Whether the pending call waits for no rank any more.
bool all_have_come(const StandInCommunicator& c) {
  const Group& group = groups.at(c.group);
  if (c.pending == "ncclCommInitRankConfig") {
    return group.joined == group.size;
  }
  return c.pending != "ncclCommFinalize" || group.finalizing == group.size;
}

// Operations of a communicator are done in order.
bool is_done(const CUstream_st& stream) {
  const std::vector<Operation>& operations = groups.at(stream.group).operations;
  return std::all_of(operations.begin(),
                     operations.begin() + static_cast<std::ptrdiff_t>(stream.operation) + 1,
                     [](const Operation& op) { return op.done; });
}

ncclResult_t start(StandInCommunicator& c, const char* call) {
  if (!c.pending.empty()) {
    complain(std::string(call) + " before " + c.pending + " was accepted");
  }
  if (fails(faults.failing_call, call, c.rank)) {
    return ncclSystemError;
  }
  c.pending = call;
  c.polls = 0;
  return ncclInProgress;
}

ncclResult_t enqueue(const char* call, const void* from, void* to, std::size_t count,
                     ncclDataType_t type, int detail, ncclComm_t c, cudaStream_t stream) {
  const std::lock_guard lock(mutex);
  if (last_error != cudaSuccess) {  // libtorch asks for it behind each kernel
    complain("an event that is not ready is left as the last error");
  }
  const ncclResult_t started = start(*c, call);
  if (started != ncclInProgress) {
    return started;
  }
  Group& group = groups.at(c->group);
  const std::size_t index = c->next++;
  if (group.operations.size() <= index) {
    group.operations.resize(index + 1);
    group.operations[index].call = call;
    group.operations[index].count = count;
    group.operations[index].type = type;
    group.operations[index].detail = detail;
  }
  Operation& op = group.operations[index];
  if (op.call != call || op.count != count || op.type != type || op.detail != detail) {
    complain(std::string("rank ") + std::to_string(c->rank) + " calls " + call +
             " where another calls " + op.call);
    op.failed = true;
  }
  op.memory[c->rank] = {from, to};
  op.failed = op.failed || fails(faults.failing_later, call, c->rank);
  if (static_cast<int>(op.memory.size()) == group.size && !op.failed) {
    perform(op, group.size);
    op.done = true;
  }
  *stream = {c->group, index};
  return ncclInProgress;
}

}  // namespace

ncclResult_t ncclGetVersion(int* version) {
  const std::lock_guard lock(mutex);
  *version = faults.version;
  return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  const std::lock_guard lock(mutex);
  if (faults.failing_call == "ncclGetUniqueId") {
    return ncclSystemError;
  }
  std::memcpy(id->internal, &next_group, sizeof(next_group));
  ++next_group;
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* communicator, int size, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  const std::lock_guard lock(mutex);
  if (config->blocking != 0) {
    complain("a blocking communicator");
  }
  auto made = std::make_unique<StandInCommunicator>();
  std::memcpy(&made->group, id.internal, sizeof(made->group));
  made->rank = rank;
  const ncclResult_t started = start(*made, "ncclCommInitRankConfig");
  if (started != ncclInProgress) {
    return started;  // NCCL makes no communicator then
  }
  Group& group = groups[made->group];
  group.size = size;
  ++group.joined;
  ++all_ends.open;
  *communicator = made.release();
  return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t c, ncclResult_t* state) {
  const std::lock_guard lock(mutex);
  if (everyone_fails) {
    c->error = ncclRemoteError;
  }
  if (!c->pending.empty() && fails(faults.failing_later, c->pending.c_str(), c->rank)) {
    c->error = ncclRemoteError;
  }
  for (const Operation& op : groups.at(c->group).operations) {
    c->error = op.failed ? ncclRemoteError : c->error;
  }
  if (c->error == ncclSuccess && !c->pending.empty()) {
    if (++c->polls < faults.polls_until_accepted || !all_have_come(*c)) {
      *state = ncclInProgress;
      return ncclSuccess;
    }
    c->pending.clear();
  }
  *state = c->error;
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t c) {
  const std::lock_guard lock(mutex);
  const ncclResult_t started = start(*c, "ncclCommFinalize");
  if (started == ncclInProgress) {
    ++groups.at(c->group).finalizing;
    ++all_ends.finalized;
  }
  return started;
}

ncclResult_t ncclCommDestroy(ncclComm_t c) {
  const std::lock_guard lock(mutex);
  if (!c->pending.empty()) {
    complain("ncclCommDestroy before " + c->pending + " was accepted");
  }
  ++all_ends.destroyed;
  --all_ends.open;
  delete c;
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t c) {
  const std::lock_guard lock(mutex);
  for (Operation& op : groups.at(c->group).operations) {  // its caller may free the memory now
    op.failed = op.failed || (!op.done && op.memory.count(c->rank) > 0);
  }
  ++all_ends.aborted;
  --all_ends.open;
  delete c;
  return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
  return result == ncclSystemError   ? "system error"
         : result == ncclRemoteError ? "remote error"
                                     : "other error";
}

const char* ncclGetLastError(ncclComm_t) {
  return "stand-in";
}

ncclResult_t ncclAllReduce(const void* from, void* to, std::size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t communicator, cudaStream_t stream) {
  return enqueue("ncclAllReduce", from, to, count, type, op, communicator, stream);
}

ncclResult_t ncclBroadcast(const void* from, void* to, std::size_t count, ncclDataType_t type,
                           int root, ncclComm_t communicator, cudaStream_t stream) {
  return enqueue("ncclBroadcast", from, to, count, type, root, communicator, stream);
}

ncclResult_t ncclAllGather(const void* from, void* to, std::size_t count, ncclDataType_t type,
                           ncclComm_t communicator, cudaStream_t stream) {
  return enqueue("ncclAllGather", from, to, count, type, 0, communicator, stream);
}

cudaError_t cudaSetDevice(int) {
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  const std::lock_guard lock(mutex);
  if (flags != cudaEventDisableTiming) {
    complain("an event that takes the time");
  }
  *event = new CUevent_st;
  ++all_ends.events;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const std::lock_guard lock(mutex);
  *event = {*stream, 0};
  return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  const std::lock_guard lock(mutex);
  if (streams_fail) {
    return cudaErrorUnknown;
  }
  if (captures && capture_mode != cudaStreamCaptureModeRelaxed) {
    complain("an event is asked for, which ends another thread's capture");
  }
  const bool is_ready = (event->recorded.group == 0 || is_done(event->recorded)) &&
                        ++event->polls >= faults.polls_until_done;
  last_error = is_ready ? last_error : cudaErrorNotReady;
  return is_ready ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaGetLastError() {
  return std::exchange(last_error, cudaSuccess);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const std::lock_guard lock(mutex);
  --all_ends.events;
  delete event;
  return cudaSuccess;
}

const char* cudaGetErrorString(cudaError_t) {
  return "stand-in's error";
}

cudaError_t cudaDeviceGetPCIBusId(char* bus, int length, int device) {
  const std::lock_guard lock(mutex);
  const std::string text = "0000:0" + std::to_string(faults.same_bus ? 0 : device) + ":00.0";
  std::strncpy(bus, text.c_str(), static_cast<std::size_t>(length) - 1);
  return cudaSuccess;
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  *mode = std::exchange(capture_mode, *mode);
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* devices) {
  const std::lock_guard lock(mutex);
  *devices = faults.count_of_devices == cudaSuccess ? 1 : 0;
  last_error = faults.count_of_devices;
  return faults.count_of_devices;
}

cudaError_t cudaDriverGetVersion(int* version) {
  const std::lock_guard lock(mutex);
  *version = faults.driver;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}

namespace c10::cuda {

cudaStream_t getCurrentCUDAStream() {
  return &own_stream;
}

int current_device() {
  return own_rank;
}

}  // namespace c10::cuda

namespace bipo::testing::stand_in {
namespace {

void delete_memory(void* begin) {
  std::free(begin);
}

struct Allocator final : c10::Allocator {
  c10::DataPtr allocate(std::size_t bytes) override {
    void* begin = std::malloc(std::max<std::size_t>(bytes, 1));
    return {begin, begin, &delete_memory, c10::Device(c10::kCUDA, 0)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &delete_memory; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};

at::Tensor empty(c10::SymIntArrayRef size, std::optional<at::ScalarType> type,
                 std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>,
                 std::optional<at::MemoryFormat> format) {
  static Allocator allocator;
  return at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(size), &allocator,
                                   c10::DispatchKeySet(c10::DispatchKey::CUDA),
                                   type.value_or(at::kFloat), format);
}

at::Tensor& zero(at::Tensor& self) {
  std::memset(self.data_ptr(), 0, self.nbytes());
  return self;
}

// What a communicator itself does with tensors of CUDA.
TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  library.impl("empty.memory_format", &empty);
  library.impl("zero_", &zero);
}

}  // namespace

void begin(const Faults& wanted) {
  const std::lock_guard lock(mutex);
  faults = wanted;
  all_ends = {};
  all_complaints.clear();
  groups.clear();
  everyone_fails = false;
  streams_fail = false;
  captures = false;
}

void begin_capture() {
  const std::lock_guard lock(mutex);
  captures = true;
}

void set_rank(int rank) {
  own_rank = rank;
  own_stream = {};
}

void fail_everyone() {
  const std::lock_guard lock(mutex);
  everyone_fails = true;
}

void fail_streams() {
  const std::lock_guard lock(mutex);
  streams_fail = true;
}

Ends ends() {
  const std::lock_guard lock(mutex);
  return all_ends;
}

std::vector<std::string> complaints() {
  const std::lock_guard lock(mutex);
  return all_complaints;
}

at::Tensor on_cuda(const at::Tensor& host) {
  const at::Tensor device =
      at::empty(host.sizes(), host.options().device(at::Device(at::kCUDA, 0)));
  std::memcpy(device.data_ptr(), host.contiguous().const_data_ptr(), host.nbytes());
  return device;
}

at::Tensor on_host(const at::Tensor& cuda) {
  const auto has_ended = [] {
    const std::lock_guard lock(mutex);
    if (everyone_fails || own_stream.group == 0) {
      return true;
    }
    const std::vector<Operation>& operations = groups.at(own_stream.group).operations;
    return is_done(own_stream) || std::any_of(operations.begin(), operations.end(),
                                              [](const Operation& op) { return op.failed; });
  };
  while (!has_ended()) {
    std::this_thread::yield();
  }
  return as_it_is(cuda);
}

at::Tensor as_it_is(const at::Tensor& cuda) {
  const at::Tensor host = at::empty(cuda.sizes(), cuda.scalar_type());
  std::memcpy(host.data_ptr(), cuda.const_data_ptr(), cuda.nbytes());
  return host;
}

}  // namespace bipo::testing::stand_in
