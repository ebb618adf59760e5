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

float bf16_to_float(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}
float f16_to_float(std::uint16_t bits) {
  const float sign = (bits & 0x8000) != 0 ? -1.0F : 1.0F;
  const int exponent = bits >> 10 & 31;
  const int mantissa = bits & 1023;
  if (exponent == 31) return mantissa != 0 ? std::numeric_limits<float>::quiet_NaN() : sign * HUGE_VALF;
  return sign * (exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -24)
                               : std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25));
}
std::uint16_t float_to_bf16(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  if (std::isnan(x)) return 0x7fff;
  return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
std::uint16_t float_to_f16(float x) {
  const auto sign = static_cast<std::uint16_t>(std::signbit(x) ? 0x8000 : 0);
  const float magnitude = std::fabs(x);
  if (std::isnan(x)) return 0x7fff;
  if (magnitude >= 65520.0F) return sign | 0x7c00;
  int exponent = magnitude == 0 ? -14 : std::max(std::ilogb(magnitude), -14);
  auto mantissa = static_cast<int>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
  if (mantissa == 2048) mantissa = 1024, ++exponent;
  return sign | static_cast<std::uint16_t>(mantissa < 1024 ? mantissa : (exponent + 14) * 1024 + mantissa);
}

void load_matrix(unsigned* registers, int count, const void* row, bool transpose) {
  if (reinterpret_cast<std::uintptr_t>(row) % 16 != 0)
    throw std::logic_error("ldmatrix: a row that is not aligned to 16");
  std::memcpy(own_words(), &row, sizeof(row));
  meet_warp(kAllLanes, Collective::kLoadMatrix);
  const unsigned self = lane();
  for (int i = 0; i < count; ++i) {
    unsigned pair = 0;
    for (unsigned half = 0; half < 2; ++half) {
      unsigned r = self / 4;
      unsigned c = self % 4 * 2 + half;
      if (transpose) std::swap(r, c);
      const std::uint16_t* elements = nullptr;
      std::memcpy(&elements, words_of(static_cast<unsigned>(i) * 8 + r), sizeof(elements));
      pair |= static_cast<unsigned>(elements[c]) << (16 * half);
    }
    registers[i] = pair;
  }
}

void mma_16816(float* c, const unsigned* a, const unsigned* b, bool bf16) {
  std::uint64_t* words = own_words();
  for (int i = 0; i < 4; ++i) words[i] = a[i];
  for (int i = 0; i < 2; ++i) words[4 + i] = b[i];
  meet_warp(kAllLanes, Collective::kMma);
  const auto element = [bf16](unsigned owner, int word, unsigned half) {
    const auto bits = static_cast<std::uint16_t>(words_of(owner)[word] >> (16 * half));
    return bf16 ? bf16_to_float(bits) : f16_to_float(bits);
  };
  const unsigned self = lane();
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = self / 4 + i / 2 * 8;
    const unsigned column = self % 4 * 2 + i % 2;
    float sum = 0;
    for (unsigned k = 0; k < 16; ++k) {
      const int a_word = static_cast<int>(row / 8 + k / 8 * 2);
      const int b_word = 4 + static_cast<int>(k / 8);
      sum += element(row % 8 * 4 + k % 8 / 2, a_word, k % 2) * element(column * 4 + k % 8 / 2, b_word, k % 2);
    }
    c[i] += sum;
  }
}

}  // namespace kvcrush::cuda_sim

namespace {

using namespace kvcrush::cuda_sim;  // NOLINT(google-build-using-namespace)

template <class Fold>
void fold_lanes(unsigned mask, std::uint64_t value, Collective what, const Fold& fold) {
  own_words()[0] = value;
  meet_warp(mask, what);
  for (unsigned i = 0; i < kWarp; ++i) {
    if ((mask >> i & 1) != 0) fold(i, words_of(i)[0]);
  }
}

template <class T, class Fold>
T reduce(unsigned mask, T value, T start, const Fold& fold) {
  fold_lanes(mask, static_cast<std::uint32_t>(value), Collective::kVote,
             [&](unsigned, std::uint64_t other) { start = fold(start, static_cast<T>(other)); });
  return start;
}

}  // namespace

unsigned __ballot_sync(unsigned mask, int predicate) {
  unsigned votes = 0;
  fold_lanes(mask, predicate != 0 ? 1 : 0, Collective::kVote,
             [&](unsigned lane, std::uint64_t vote) { votes |= static_cast<unsigned>(vote) << lane; });
  return votes;
}
unsigned __match_any_sync(unsigned mask, std::uint64_t value) {
  unsigned same = 0;
  fold_lanes(mask, value, Collective::kMatch,
             [&](unsigned lane, std::uint64_t other) { same |= (other == value ? 1U : 0U) << lane; });
  return same;
}
int __reduce_add_sync(unsigned mask, int value) {
  return reduce(mask, value, 0, [](int a, int b) { return a + b; });
}
unsigned __reduce_add_sync(unsigned mask, unsigned value) {
  return reduce(mask, value, 0U, [](unsigned a, unsigned b) { return a + b; });
}
int __reduce_max_sync(unsigned mask, int value) {
  return reduce(mask, value, INT32_MIN, [](int a, int b) { return std::max(a, b); });
}
unsigned __reduce_max_sync(unsigned mask, unsigned value) {
  return reduce(mask, value, 0U, [](unsigned a, unsigned b) { return std::max(a, b); });
}
int __reduce_min_sync(unsigned mask, int value) {
  return reduce(mask, value, INT32_MAX, [](int a, int b) { return std::min(a, b); });
}
