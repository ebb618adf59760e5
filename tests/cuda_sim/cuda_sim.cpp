#include "tests/cuda_sim/cuda_sim.h"

#include <boost/context/fiber.hpp>
#include <boost/context/pooled_fixedsize_stack.hpp>

#include <array>
#include <deque>
#include <exception>
#include <limits>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

thread_local uint3 threadIdx;
thread_local uint3 blockIdx;
thread_local dim3 blockDim;
thread_local dim3 gridDim;

namespace kvcrush::cuda_sim {

namespace {

constexpr std::size_t kStackBytes = 64 << 10;
constexpr int kWords = 16;

struct PendingCopy {
  void* target;
  const void* source;
  std::size_t bytes;
};

enum class State { kRunnable, kAtWarp, kAtBlock, kDone };

struct Thread {
  boost::context::fiber fiber;
  boost::context::fiber scheduler;
  State state = State::kRunnable;
  uint3 index{};
  unsigned number = 0;  // in the block
  unsigned mask = 0;    // at a warp's collective
  Collective what = Collective::kSync;
  std::array<std::array<std::uint64_t, kWords>, 2> words{};  // of two collectives in turn
  unsigned parity = 0;
  std::deque<std::vector<PendingCopy>> copies{{}};  // groups, the open one last
};

boost::context::pooled_fixedsize_stack& stacks() {
  static thread_local boost::context::pooled_fixedsize_stack pool(kStackBytes);
  return pool;
}

// One block at a time.
class Block {
 public:
  Block(dim3 shape, std::size_t shared_bytes, const std::function<void()>& body, std::uint64_t seed)
      : threads_(static_cast<std::size_t>(shape.x) * shape.y * shape.z),
        shared_((shared_bytes + 127) / 128 * 128 + 128),
        random_(seed) {
    std::fill(shared_.begin(), shared_.end(), std::byte{0xff});
    for (unsigned i = 0; i < threads_.size(); ++i) {
      Thread& thread = threads_[i];
      thread.number = i;
      thread.index = {i % shape.x, i / shape.x % shape.y, i / (shape.x * shape.y)};
      thread.fiber = boost::context::fiber(std::allocator_arg, stacks(),
                                           [this, &thread, &body](boost::context::fiber&& scheduler) {
                                             thread.scheduler = std::move(scheduler);
                                             try {
                                               body();
                                             } catch (const std::exception&) {
                                               error_ = std::current_exception();
                                             }
                                             thread.state = State::kDone;
                                             return std::move(thread.scheduler);
                                           });
    }
  }

  void run();
  std::byte* shared() {
    const auto address = reinterpret_cast<std::uintptr_t>(shared_.data());
    return shared_.data() + (128 - address % 128) % 128;
  }
  Thread& current() { return *current_; }
  Thread& in_warp_of(const Thread& thread, unsigned lane) {
    return threads_.at(thread.number / kWarp * kWarp + lane);
  }
  void wait(State state) {
    Thread& thread = *current_;
    thread.state = state;
    thread.scheduler = std::move(thread.scheduler).resume();
  }
  int predicate_sum = 0;

 private:
  bool release();
  bool release_warps();
  bool release_block();
  [[noreturn]] void fail(const std::string& why) const {
    throw std::logic_error("simulated block (" + std::to_string(blockIdx.x) + ", " +
                           std::to_string(blockIdx.y) + ", " + std::to_string(blockIdx.z) + "): " + why);
  }

  std::vector<Thread> threads_;
  std::vector<std::byte> shared_;
  std::mt19937_64 random_;
  Thread* current_ = nullptr;
  std::exception_ptr error_;
};

thread_local Block* running_block = nullptr;
thread_local Recording* recording = nullptr;
thread_local std::uint64_t launches = 0;

void Block::run() {
  std::vector<unsigned> order(threads_.size());
  std::iota(order.begin(), order.end(), 0U);
  do {
    std::shuffle(order.begin(), order.end(), random_);
    for (const unsigned i : order) {
      if (threads_[i].state != State::kRunnable) continue;
      current_ = &threads_[i];
      threadIdx = current_->index;
      threads_[i].fiber = std::move(threads_[i].fiber).resume();
      if (error_) std::rethrow_exception(error_);
    }
  } while (release());
}

// False: all are done.
bool Block::release() {
  const bool warps = release_warps();
  const bool block = release_block();
  if (warps || block) return true;
  for (const Thread& thread : threads_) {
    if (thread.state == State::kDone) continue;
    fail("thread " + std::to_string(thread.number) + " waits for " +
         (thread.state == State::kAtBlock ? "the block" : "lanes of its warp") + " that never arrive");
  }
  return false;
}

bool Block::release_warps() {
  bool released = false;
  for (Thread& thread : threads_) {
    if (thread.state != State::kAtWarp) continue;
    bool all = true;
    for (unsigned lane = 0; lane < kWarp && all; ++lane) {
      if ((thread.mask >> lane & 1) == 0) continue;
      if (thread.number / kWarp * kWarp + lane >= threads_.size())
        fail("the mask names lanes the block has not");
      const Thread& other = in_warp_of(thread, lane);
      if (other.state == State::kDone) fail("the mask names a lane that has returned");
      if (other.state == State::kAtWarp && (other.mask != thread.mask || other.what != thread.what))
        fail("lanes of one warp meet at different operations, or with different masks");
      all = other.state == State::kAtWarp;
    }
    if (!all) continue;
    const unsigned mask = thread.mask;
    for (unsigned lane = 0; lane < kWarp; ++lane) {
      if ((mask >> lane & 1) == 0) continue;
      Thread& other = in_warp_of(thread, lane);
      other.state = State::kRunnable;
      other.parity ^= 1;
    }
    released = true;
  }
  return released;
}

bool Block::release_block() {
  bool any = false;
  bool left = false;
  for (const Thread& thread : threads_) {
    any = any || thread.state == State::kAtBlock;
    left = left || thread.state == State::kDone;
    if (thread.state == State::kRunnable || thread.state == State::kAtWarp) return false;
  }
  if (any && left) fail("some threads returned before __syncthreads()");
  if (!any) return false;
  for (Thread& thread : threads_) thread.state = State::kRunnable;
  return true;
}

}  // namespace

void run(dim3 grid, dim3 block, std::size_t dynamic_shared_bytes, const std::function<void()>& body) {
  if (block.x * block.y * block.z > 1024 || grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 ||
      grid.z > 65535 || dynamic_shared_bytes > (227U << 10))
    throw std::logic_error("a launch that no GPU takes");
  gridDim = grid;
  blockDim = block;
  const std::uint64_t launch = ++launches;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = {x, y, z};
        Block one(block, dynamic_shared_bytes, body, launch * 1000003 + (z * grid.y + y) * grid.x + x);
        running_block = &one;
        one.run();
      }
    }
  }
  running_block = nullptr;
}

void record_into(Recording* to) {
  recording = to;
}
bool is_recording() {
  return recording != nullptr;
}
void start(std::function<void()> launch) {
  if (recording != nullptr) {
    recording->push_back(std::move(launch));
  } else {
    launch();
  }
}

std::byte* dynamic_shared() {
  return running_block->shared();
}
unsigned lane() {
  return running_block->current().number % kWarp;
}
std::uint64_t* own_words() {
  Thread& thread = running_block->current();
  return thread.words[thread.parity].data();
}
const std::uint64_t* words_of(unsigned lane) {
  const Thread& other = running_block->in_warp_of(running_block->current(), lane);
  return other.words[running_block->current().parity ^ 1].data();
}
void meet_warp(unsigned mask, Collective what) {
  Thread& thread = running_block->current();
  if ((mask >> (thread.number % kWarp) & 1) == 0) throw std::logic_error("a lane outside its own mask");
  thread.mask = mask;
  thread.what = what;
  running_block->wait(State::kAtWarp);
  threadIdx = thread.index;
}
void meet_block() {
  Thread& thread = running_block->current();
  running_block->wait(State::kAtBlock);
  threadIdx = thread.index;
}
int block_sum(int value) {
  meet_block();
  running_block->predicate_sum = 0;
  meet_block();
  running_block->predicate_sum += value;
  meet_block();
  return running_block->predicate_sum;
}

void copy_later(void* target, const void* source, std::size_t bytes) {
  if (reinterpret_cast<std::uintptr_t>(target) % bytes != 0 ||
      reinterpret_cast<std::uintptr_t>(source) % bytes != 0)
    throw std::logic_error("a copy that is not aligned to its size");
  std::memset(target, 0xff, bytes);
  running_block->current().copies.back().push_back({target, source, bytes});
}
void close_copy_group() {
  running_block->current().copies.emplace_back();
}
void wait_for_copies(int groups_still_in_flight) {
  auto& groups = running_block->current().copies;
  while (static_cast<int>(groups.size()) - 1 > groups_still_in_flight) {
    for (const PendingCopy& copy : groups.front()) {
      if (copy.source == nullptr) {
        std::memset(copy.target, 0, copy.bytes);
      } else {
        std::memcpy(copy.target, copy.source, copy.bytes);
      }
    }
    groups.pop_front();
  }
}

}  // namespace kvcrush::cuda_sim
