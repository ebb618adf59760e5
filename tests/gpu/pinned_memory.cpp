// Kernel tests keep their data where the host can read it. Here `new`, CPU tensors and the stack are in
// pinned memory, which kernels reach under the host's own addresses, so the same tests run on a GPU: with
// CUDA_LAUNCH_BLOCKING=1, for they read results without waiting. Not managed memory: pages that move while
// the driver copies from a stack among them can hang the GPU.
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>
#include <pthread.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory_resource>
#include <new>

namespace {

class PinnedMemory final : public std::pmr::memory_resource {
  void* do_allocate(std::size_t bytes, std::size_t /*alignment*/) override {
    void* memory = nullptr;
    const cudaError_t error = cudaHostAlloc(&memory, bytes, cudaHostAllocPortable | cudaHostAllocMapped);
    if (error == cudaSuccess) return memory;
    std::fprintf(stderr, "pinned memory: %s\n", cudaGetErrorString(error));
    std::abort();
  }
  void do_deallocate(void* memory, std::size_t /*bytes*/, std::size_t /*alignment*/) override {
    cudaFreeHost(memory);
  }
  bool do_is_equal(const memory_resource& other) const noexcept override { return this == &other; }
};

// Never destroyed: memory is given back until the very end of the program.
std::pmr::memory_resource& pool() {
  alignas(PinnedMemory) static std::byte pinned[sizeof(PinnedMemory)];
  alignas(std::pmr::synchronized_pool_resource) static std::byte
      pools[sizeof(std::pmr::synchronized_pool_resource)];
  static auto* const resource = new (pools) std::pmr::synchronized_pool_resource(
      {.max_blocks_per_chunk = 0, .largest_required_pool_block = 4 << 20}, new (pinned) PinnedMemory);
  return *resource;
}

struct Header {
  std::size_t bytes;
  bool pinned;
};
constexpr std::size_t kHeaderBytes = 64;  // and alignment for what follows

// Nothing is pinned before: compute-sanitizer wants to be there first when CUDA starts.
std::atomic<bool> in_main = false;

void* take(std::size_t bytes) {
  thread_local bool pinning = false;  // what the driver allocates meanwhile is its own affair
  const Header header{bytes + kHeaderBytes, in_main && !pinning};
  std::byte* block = nullptr;
  if (header.pinned) {
    pinning = true;
    block = static_cast<std::byte*>(pool().allocate(header.bytes, kHeaderBytes));
    pinning = false;
  } else {
    block = static_cast<std::byte*>(std::malloc(header.bytes));
  }
  new (block) Header(header);
  return block + kHeaderBytes;
}

void give_back(void* memory) {
  if (memory == nullptr) return;
  std::byte* block = static_cast<std::byte*>(memory) - kHeaderBytes;
  const Header header = *reinterpret_cast<Header*>(block);
  header.pinned ? pool().deallocate(block, header.bytes, kHeaderBytes) : std::free(block);
}

class TensorAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    void* memory = take(bytes);
    return {memory, memory, &give_back, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &give_back; }
  void copy_data(void* target, const void* source, std::size_t bytes) const override {
    default_copy_data(target, source, bytes);
  }
};

[[maybe_unused]] const bool registered = [] {
  static TensorAllocator allocator;
  c10::SetCPUAllocator(&allocator, /*priority=*/100);
  return true;
}();

}  // namespace

void* operator new(std::size_t bytes) {
  return take(bytes);
}
void* operator new[](std::size_t bytes) {
  return take(bytes);
}
void operator delete(void* memory) noexcept {
  give_back(memory);
}
void operator delete[](void* memory) noexcept {
  give_back(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  give_back(memory);
}
void operator delete[](void* memory, std::size_t) noexcept {
  give_back(memory);
}

namespace {

// Says which test broke the GPU's context: everything after it would fail too.
class ErrorWatch final : public ::testing::EmptyTestEventListener {
  void OnTestEnd(const ::testing::TestInfo& test) override {
    const cudaError_t error = cudaDeviceSynchronize();
    if (error == cudaSuccess) return;
    std::printf("[  FAILED  ] %s.%s left the GPU with: %s\n", test.test_suite_name(), test.name(),
                cudaGetErrorString(error));
    std::fflush(stdout);
    std::_Exit(1);
  }
};

}  // namespace

int main(int argc, char** argv) {
  in_main = true;
  ::testing::InitGoogleTest(&argc, argv);
  ::testing::UnitTest::GetInstance()->listeners().Append(new ErrorWatch);
  constexpr std::size_t kStackBytes = 64 << 20;
  void* const stack = pool().allocate(kStackBytes, 4096);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstack(&attributes, stack, kStackBytes);
  static int result = 1;
  pthread_t tests{};
  const auto run = [](void*) -> void* {
    result = RUN_ALL_TESTS();
    return nullptr;
  };
  if (pthread_create(&tests, &attributes, run, nullptr) != 0) return 1;
  pthread_join(tests, nullptr);
  std::fflush(stdout);
  std::_Exit(result);  // what libraries give back after the driver has gone is not worth the crash
}
