#include "collectives/mpi_communicator.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "collectives/foundation/errors.hpp"

namespace bipo {
namespace {

MPI_Datatype mpi_type(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return MPI_FLOAT;
    case at::kDouble:
      return MPI_DOUBLE;
    case at::kLong:
      return MPI_INT64_T;
    case at::kByte:
      return MPI_UINT8_T;
    default:
      throw BugError(fmt::format("MPI communicator: no type for {}", c10::toString(type)));
  }
}

MPI_Op mpi_op(ReduceOp op) {
  switch (op) {
    case ReduceOp::kSum:
      return MPI_SUM;
    case ReduceOp::kMax:
      return MPI_MAX;
    case ReduceOp::kMin:
      return MPI_MIN;
  }
  throw BugError("MPI communicator: unknown reduction");
}

// Returns the ranks in MPI_COMM_WORLD of a group's members, in the group's order.
std::vector<int> world_ranks(MPI_Comm communicator, int size) {
  MPI_Group group = MPI_GROUP_NULL;
  MPI_Group world = MPI_GROUP_NULL;
  BIPO_MPI(MPI_Comm_group(communicator, &group));
  BIPO_MPI(MPI_Comm_group(MPI_COMM_WORLD, &world));
  std::vector<int> ranks(static_cast<std::size_t>(size));
  std::vector<int> in_world(ranks.size());
  std::iota(ranks.begin(), ranks.end(), 0);
  BIPO_MPI(MPI_Group_translate_ranks(group, size, ranks.data(), world, in_world.data()));
  BIPO_MPI(MPI_Group_free(&world));
  BIPO_MPI(MPI_Group_free(&group));
  return in_world;
}

// Calls piece(data, count) until the tensor is done: MPI counts are ints.
template <typename Piece>
void in_pieces(const at::Tensor& tensor, const Piece& piece) {
  constexpr std::int64_t kLargest = std::numeric_limits<int>::max() / 2;
  auto* data = static_cast<std::byte*>(tensor.data_ptr());
  const std::int64_t width = tensor.element_size();
  for (std::int64_t begin = 0; begin < tensor.numel(); begin += kLargest) {
    const std::int64_t count = std::min(kLargest, tensor.numel() - begin);
    piece(data + begin * width, static_cast<int>(count));
  }
}

}  // namespace

void check_mpi(int code, const char* call) {
  if (code == MPI_SUCCESS) {
    return;
  }
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw EnvironmentError(fmt::format("MPI: {} (in {})", std::string(text, text + length), call));
}

MpiCommunicator::MpiCommunicator(MPI_Comm communicator, Watch* watch)
    : communicator_(communicator) {
  BIPO_MPI(MPI_Comm_set_errhandler(communicator_, MPI_ERRORS_RETURN));
  BIPO_MPI(MPI_Comm_rank(communicator_, &rank_));
  BIPO_MPI(MPI_Comm_size(communicator_, &size_));
  if (watch != nullptr) {
    watch_with(*watch);
  }
}

void MpiCommunicator::watch_with(Watch& watch) {
  group_ = watch.add_group(members());
  watch_ = &watch;
}

std::vector<int> MpiCommunicator::members() const {
  return world_ranks(communicator_, size_);
}

MpiCommunicator::~MpiCommunicator() {
  int finalized = 0;
  MPI_Finalized(&finalized);
  // MPI_Comm_free is collective: while an exception unwinds this rank, the others may never call
  // it.
  if (finalized == 0 && std::uncaught_exceptions() == 0) {
    const Waiting waiting(watch_, group_, "the end of a communicator");
    MPI_Comm_free(&communicator_);
  }
  if (watch_ != nullptr) {
    watch_->forget(group_);
  }
}

void MpiCommunicator::barrier() {
  const Waiting waiting(watch_, group_, "a barrier");
  BIPO_MPI(MPI_Barrier(communicator_));
}

void MpiCommunicator::do_all_reduce(const at::Tensor& tensor, ReduceOp op) {
  const MPI_Datatype type = mpi_type(tensor.scalar_type());
  const Waiting waiting(watch_, group_, "an all-reduce");
  in_pieces(tensor, [&](void* data, int count) {
    BIPO_MPI(MPI_Allreduce(MPI_IN_PLACE, data, count, type, mpi_op(op), communicator_));
  });
}

void MpiCommunicator::do_broadcast(const at::Tensor& tensor, int root) {
  const MPI_Datatype type = mpi_type(tensor.scalar_type());
  const Waiting waiting(watch_, group_, "a broadcast");
  in_pieces(tensor, [&](void* data, int count) {
    BIPO_MPI(MPI_Bcast(data, count, type, root, communicator_));
  });
}

void MpiCommunicator::do_all_gather(const at::Tensor& tensor, const at::Tensor& gathered) {
  if (tensor.numel() > std::numeric_limits<int>::max()) {
    throw BugError(fmt::format("MPI all_gather of {} elements a rank", tensor.numel()));
  }
  const MPI_Datatype type = mpi_type(tensor.scalar_type());
  const int count = static_cast<int>(tensor.numel());
  const Waiting waiting(watch_, group_, "an all-gather");
  BIPO_MPI(MPI_Allgather(tensor.data_ptr(), count, type, gathered.data_ptr(), count, type,
                         communicator_));
}

bool MpiCommunicator::moves_memory_of(const at::Device& device) const {
  return device.is_cpu();
}

}  // namespace bipo
