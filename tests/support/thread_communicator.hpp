// Ranks as threads of one process.
#pragma once

#include <ATen/ops/maximum.h>
#include <ATen/ops/minimum.h>

#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <string_view>
#include <thread>
#include <vector>

#include "collectives/communicator.hpp"
#include "collectives/foundation/errors.hpp"

namespace bipo {

// A barrier that a failing rank can break, and one slot per rank for the tensor that it shares.
class Meeting {
 public:
  explicit Meeting(int size) : shown_(size), size_(size) {}

  void wait() {
    std::unique_lock lock(mutex_);
    const auto round = round_;
    if (++waiting_ == size_) {
      waiting_ = 0;
      ++round_;
      everyone_here_.notify_all();
    } else {
      everyone_here_.wait(lock, [&] { return round_ != round || broken_; });
    }
    if (broken_) {
      throw EnvironmentError("threads: another rank of the group failed");
    }
  }

  void break_up() {
    const std::lock_guard lock(mutex_);
    broken_ = true;
    everyone_here_.notify_all();
  }

  at::Tensor& shown(int rank) { return shown_[static_cast<std::size_t>(rank)]; }

 private:
  std::mutex mutex_;
  std::condition_variable everyone_here_;
  std::vector<at::Tensor> shown_;
  int size_;
  int waiting_ = 0;
  long round_ = 0;
  bool broken_ = false;
};

class ThreadCommunicator final : public Communicator {
 public:
  ThreadCommunicator(Meeting& meeting, int rank, int size)
      : meeting_(meeting), rank_(rank), size_(size) {}

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::string_view backend() const override { return "threads"; }
  void barrier() override { meeting_.wait(); }

 protected:
  void do_all_reduce(const at::Tensor& tensor, ReduceOp op) override {
    meeting_.shown(rank_) = tensor.clone();
    meeting_.wait();
    at::Tensor result = meeting_.shown(0).clone();
    for (int other = 1; other < size_; ++other) {
      const at::Tensor& value = meeting_.shown(other);
      switch (op) {
        case ReduceOp::kSum:
          result.add_(value);
          break;
        case ReduceOp::kMax:
          result = at::maximum(result, value);
          break;
        case ReduceOp::kMin:
          result = at::minimum(result, value);
          break;
      }
    }
    meeting_.wait();
    tensor.copy_(result);
  }

  void do_broadcast(const at::Tensor& tensor, int root) override {
    meeting_.shown(rank_) = tensor;
    meeting_.wait();
    if (rank_ != root) {
      tensor.copy_(meeting_.shown(root));
    }
    meeting_.wait();
  }

  void do_all_gather(const at::Tensor& tensor, const at::Tensor& gathered) override {
    meeting_.shown(rank_) = tensor;
    meeting_.wait();
    for (int other = 0; other < size_; ++other) {
      gathered.select(0, other).copy_(meeting_.shown(other));
    }
    meeting_.wait();
  }

  bool moves_memory_of(const at::Device& device) const override { return device.is_cpu(); }

 private:
  Meeting& meeting_;
  int rank_;
  int size_;
};

// Runs `body` on `size` threads, each with a Communicator of its own rank; returns when all have
// ended.  Rethrows the first exception; a rank that throws releases the others, which get an
// EnvironmentError from the collective in which they wait.  Reductions add in rank order.
inline void run_as_threads(int size, const std::function<void(Communicator&)>& body) {
  Meeting meeting(size);
  std::mutex first_failure_mutex;
  std::exception_ptr first_failure;
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      ThreadCommunicator communicator(meeting, rank, size);
      try {
        body(communicator);
      } catch (...) {
        {
          const std::lock_guard lock(first_failure_mutex);
          if (!first_failure) {
            first_failure = std::current_exception();
          }
        }
        meeting.break_up();
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  if (first_failure) {
    std::rethrow_exception(first_failure);
  }
}

}  // namespace bipo
