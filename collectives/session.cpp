#include "collectives/session.hpp"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <iostream>
#include <optional>
#include <thread>
#include <utility>

#include "collectives/device.hpp"
#include "collectives/foundation/errors.hpp"
#include "collectives/mpi_communicator.hpp"
#include "collectives/nccl_communicator.hpp"
#include "collectives/self_communicator.hpp"

namespace bipo {
namespace {

// Seconds within which a rank answers another at the start.
constexpr double kPatience = 5;

cpu_set_t allowed_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) {
    CPU_SET(0, &set);
  }
  return set;
}

void yield_when_oversubscribed() {
  const char* local_size = std::getenv("OMPI_COMM_WORLD_LOCAL_SIZE");
  const cpu_set_t cores = allowed_cores();
  if (local_size != nullptr && std::atoi(local_size) > CPU_COUNT(&cores)) {
    setenv("OMPI_MCA_mpi_yield_when_idle", "1", /*overwrite=*/0);
  }
}

// Takes ownership of `group`.
std::unique_ptr<Communicator> wrap(MPI_Comm group, Watch* watch) {
  int size = 0;
  BIPO_MPI(MPI_Comm_size(group, &size));
  if (size == 1) {
    BIPO_MPI(MPI_Comm_free(&group));
    return std::make_unique<SelfCommunicator>();
  }
  return std::make_unique<MpiCommunicator>(group, watch);
}

std::unique_ptr<Communicator> split(MPI_Comm world, int color, int key, Watch* watch) {
  MPI_Comm group = MPI_COMM_NULL;
  BIPO_MPI(MPI_Comm_split(world, color, key, &group));
  return wrap(group, watch);
}

// Groups the ranks of this host that have the same `color`.
std::unique_ptr<Communicator> split_by_node(MPI_Comm world, int color, int key, Watch* watch) {
  MPI_Comm node = MPI_COMM_NULL;
  BIPO_MPI(MPI_Comm_split_type(world, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node));
  auto group = split(node, color, key, watch);
  BIPO_MPI(MPI_Comm_free(&node));
  return group;
}

std::string processor_name() {
  char name[MPI_MAX_PROCESSOR_NAME] = {};
  int length = 0;
  BIPO_MPI(MPI_Get_processor_name(name, &length));
  return {name, name + length};
}

at::Tensor to_tensor(const std::string& text) {
  at::Tensor bytes = at::empty({static_cast<std::int64_t>(text.size())}, at::kByte);
  std::copy(text.begin(), text.end(), bytes.data_ptr<std::uint8_t>());
  return bytes;
}

std::string to_string(const at::Tensor& bytes) {
  const auto* data = bytes.data_ptr<std::uint8_t>();
  return {data, data + bytes.numel()};
}

std::string broadcast_text(Communicator& group, std::string text, int root) {
  const at::Tensor length = at::full({1}, static_cast<std::int64_t>(text.size()), at::kLong);
  group.broadcast(length, root);
  text.resize(static_cast<std::size_t>(length.item<std::int64_t>()));
  const at::Tensor bytes = to_tensor(text);
  group.broadcast(bytes, root);
  return to_string(bytes);
}

// Gives the launcher time to read what this rank has said last: mpirun drops what is still in the
// pipe when it ends the ranks of an aborted job.
void let_last_words_through() {
  constexpr std::chrono::milliseconds kReading(300);
  std::this_thread::sleep_for(kReading);
}

}  // namespace

struct Session::Impl {
  // Initialises MPI and finds the ranks and hosts.
  void start_mpi();
  // Lets the watch ask the other ranks, and makes the world known to it.
  void let_ranks_meet();
  // Ends all ranks from the watch's thread, while the main thread waits in MPI.
  void end_job() const;

  std::atomic<bool> can_abort = false;
  std::unique_ptr<Watch> watch;  // null: one rank; the communicators use it
  std::unique_ptr<MpiCommunicator> world;
  MPI_Comm world_handle = MPI_COMM_NULL;
  int local_rank = 0;
  int local_size = 1;
  int node_cores = 1;
  std::string host;
  std::vector<std::string> hosts;
};

void Session::Impl::start_mpi() {
  int provided = MPI_THREAD_SINGLE;
  BIPO_MPI(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided));
  if (provided < MPI_THREAD_FUNNELED) {
    throw EnvironmentError("MPI: this installation does not provide MPI_THREAD_FUNNELED");
  }
  BIPO_MPI(MPI_Comm_dup(MPI_COMM_WORLD, &world_handle));
  world = std::make_unique<MpiCommunicator>(world_handle, nullptr);
  can_abort = true;

  MPI_Comm node = MPI_COMM_NULL;
  BIPO_MPI(
      MPI_Comm_split_type(world_handle, MPI_COMM_TYPE_SHARED, world->rank(), MPI_INFO_NULL, &node));
  BIPO_MPI(MPI_Comm_rank(node, &local_rank));
  BIPO_MPI(MPI_Comm_size(node, &local_size));
  cpu_set_t cores = allowed_cores();
  BIPO_MPI(MPI_Allreduce(MPI_IN_PLACE, &cores, sizeof(cores), MPI_BYTE, MPI_BOR, node));
  node_cores = CPU_COUNT(&cores);
  BIPO_MPI(MPI_Comm_free(&node));

  host = processor_name();
  for (int root = 0; root < world->size(); ++root) {
    const std::string name = broadcast_text(*world, host, root);
    if (std::find(hosts.begin(), hosts.end(), name) == hosts.end()) {
      hosts.push_back(name);
    }
  }
}

void Session::Impl::let_ranks_meet() {
  const at::Tensor secret = at::empty({static_cast<std::int64_t>(sizeof(JobSecret))}, at::kByte);
  const JobSecret own_secret = random_secret();
  std::memcpy(secret.data_ptr(), own_secret.data(), own_secret.size());
  world->broadcast(secret, 0);
  JobSecret shared{};
  std::memcpy(shared.data(), secret.data_ptr(), shared.size());

  const PeerAddress own = watch->open(host, hosts.size() == 1);
  const at::Tensor bytes = at::empty({static_cast<std::int64_t>(sizeof(own))}, at::kByte);
  std::memcpy(bytes.data_ptr(), &own, sizeof(own));
  const at::Tensor all = world->all_gather(bytes);
  std::vector<PeerAddress> peers(static_cast<std::size_t>(world->size()));
  std::memcpy(peers.data(), all.data_ptr(), peers.size() * sizeof(PeerAddress));
  watch->meet(std::move(peers), world->rank(), shared);

  if (!holds_on_all(watch->answered(kPatience), *world)) {
    watch->judge_by_time_alone();
    if (world->rank() == 0) {
      std::cerr << "bipo-dist: warning: the ranks do not hear each other over UDP, so that one at "
                   "work is not told from a stopped one: a rank that waits for longer than "
                   "--timeout ends the job\n"
                << std::flush;
    }
  }
  world->watch_with(*watch);
}

void Session::Impl::end_job() const {
  // MPI may not answer any more; the launcher ends the others of a job in which a rank fails.
  std::thread([] {
    std::this_thread::sleep_for(std::chrono::seconds(5));
    ::_exit(kExitFailure);
  }).detach();
  let_last_words_through();
  if (can_abort) {
    MPI_Abort(world_handle, kExitFailure);
  }
  ::_exit(kExitFailure);
}

Session::Session(WatchSettings watch) : impl_(std::make_unique<Impl>()) {
  yield_when_oversubscribed();
  impl_->watch = std::make_unique<Watch>(watch, [impl = impl_.get()] { impl->end_job(); });
  const int all = impl_->watch->add_group({});
  {
    const Waiting waiting(impl_->watch.get(), all, "MPI_Init");
    impl_->start_mpi();
    if (size() > 1) {
      impl_->let_ranks_meet();
    }
  }
  impl_->watch->forget(all);
  if (size() == 1) {
    impl_->watch.reset();
  }
}

Session::~Session() {
  if (std::uncaught_exceptions() > 0) {
    return;
  }
  const int group = impl_->world->watched_group();
  impl_->world.reset();
  impl_->can_abort = false;
  const Waiting waiting(impl_->watch.get(), group, "MPI_Finalize");
  MPI_Finalize();
}

int Session::rank() const {
  return impl_->world->rank();
}

int Session::size() const {
  return impl_->world->size();
}

int Session::local_rank() const {
  return impl_->local_rank;
}

int Session::local_size() const {
  return impl_->local_size;
}

int Session::node_cores() const {
  return impl_->node_cores;
}

const std::vector<std::string>& Session::hosts() const {
  return impl_->hosts;
}

void Session::together(const std::function<void()>& work) {
  together(work, *impl_->world);
}

void Session::together(const std::function<void()>& work, Communicator& group) {
  std::string failure;
  int exit_code = kExitDone;
  bool is_environment = true;
  try {
    work();
  } catch (const UserError& error) {
    failure = error.what();
    exit_code = kExitBadInput;
  } catch (const BugError& error) {
    failure = fmt::format("internal error: {}", error.what());
    exit_code = kExitFailure;
    is_environment = false;
  } catch (const c10::Error& error) {
    failure = message_of(error);
    exit_code = kExitFailure;
  } catch (const std::exception& error) {
    failure = error.what();
    exit_code = kExitFailure;
  }
  const bool failed = exit_code != kExitDone;
  const at::Tensor first = at::full({1}, failed ? group.rank() : group.size(), at::kLong);
  group.all_reduce(first, ReduceOp::kMin);
  const int reporter = static_cast<int>(first.item<std::int64_t>());
  if (reporter == group.size()) {
    return;
  }
  if (group.rank() == reporter && rank() != 0) {
    failure = fmt::format("rank {} on {}: {}", rank(), impl_->host, failure);
  }
  failure = broadcast_text(group, failure, reporter);
  const at::Tensor kind = at::full({2}, exit_code, at::kLong);
  kind[1] = is_environment ? 1 : 0;
  group.broadcast(kind, reporter);
  throw AgreedFailure(failure, static_cast<int>(kind[0].item<std::int64_t>()),
                      kind[1].item<std::int64_t>() != 0);
}

void Session::expect_same(std::uint64_t value, const std::string& what) {
  const at::Tensor mine = at::full({1}, static_cast<std::int64_t>(value), at::kLong);
  const at::Tensor all = impl_->world->all_gather(mine);
  for (int other = 1; other < size(); ++other) {
    if (!all[other].equal(all[0])) {
      throw AgreedFailure(fmt::format("ranks 0 and {} do not agree on {}; make sure that all nodes "
                                      "see the same files and devices",
                                      other, what),
                          kExitBadInput);
    }
  }
}

std::string Session::from_first(std::string text) {
  return broadcast_text(*impl_->world, std::move(text), 0);
}

void Session::wait_for_all(const std::function<void()>& meanwhile) {
  const Waiting waiting(impl_->watch.get(), impl_->world->watched_group(),
                        "the wait for all ranks");
  MPI_Request request = MPI_REQUEST_NULL;
  BIPO_MPI(MPI_Ibarrier(impl_->world_handle, &request));
  int done = 0;
  while (true) {
    BIPO_MPI(MPI_Test(&request, &done, MPI_STATUS_IGNORE));
    if (done != 0) {
      return;
    }
    meanwhile();
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

Ranks Session::make_ranks(const Topology& topology, c10::Device device) {
  Watch* watch = impl_->watch.get();
  std::optional<Waiting> waiting(std::in_place, watch, impl_->world->watched_group(),
                                 "the making of groups");
  Ranks ranks{topology, split(impl_->world_handle, topology.cell(), rank(), watch),
              split_by_node(impl_->world_handle, topology.cell(), rank(), watch),
              split(impl_->world_handle, topology.dp_color(), rank(), watch),
              split(impl_->world_handle, topology.tp_color(), rank(), watch)};
  waiting.reset();
  if (device.is_cuda()) {  // NCCL moves the memory of no other kind
    const std::string shared = find_shared_device(*ranks.world);
    together([&] {
      if (!shared.empty()) {
        throw UserError(shared);
      }
    });
    for (auto* group : {&ranks.dp, &ranks.tp}) {
      if ((*group)->size() > 1) {
        const auto& host_group = dynamic_cast<const MpiCommunicator&>(**group);
        *group = make_nccl_communicator(**group, watch, host_group.members());
      }
    }
  }
  return ranks;
}

void Session::abort(int exit_code) {
  let_last_words_through();
  MPI_Abort(impl_->world_handle, exit_code);
  std::abort();  // MPI_Abort does not return
}

}  // namespace bipo
