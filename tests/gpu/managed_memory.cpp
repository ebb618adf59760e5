// Kernel tests keep their data where the host can read it. Here `new` and CPU tensors are in managed memory,
// so the same tests run on a GPU: with CUDA_LAUNCH_BLOCKING=1, for they read results without waiting.
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>
#include <pthread.h>

#include <cstdio>
#include <cstdlib>
#include <memory_resource>
#include <new>

namespace {

class ManagedMemory final : public std::pmr::memory_resource {
  void* do_allocate(std::size_t bytes, std::size_t /*alignment*/) override {
    void* memory = nullptr;
    const cudaError_t error = cudaMallocManaged(&memory, bytes);
    if (error == cudaSuccess) return memory;
    std::fprintf(stderr, "managed memory: %s\n", cudaGetErrorString(error));
    std::abort();
  }
  void do_deallocate(void* memory, std::size_t /*bytes*/, std::size_t /*alignment*/) override {
    cudaFree(memory);
  }
  bool do_is_equal(const memory_resource& other) const noexcept override { return this == &other; }
};

// Never destroyed: memory is given back until the very end of the program.
std::pmr::memory_resource& pool() {
  alignas(ManagedMemory) static std::byte managed[sizeof(ManagedMemory)];
  alignas(std::pmr::synchronized_pool_resource) static std::byte
      pools[sizeof(std::pmr::synchronized_pool_resource)];
  static auto* const resource = new (pools) std::pmr::synchronized_pool_resource(
      {.max_blocks_per_chunk = 0, .largest_required_pool_block = 1 << 20}, new (managed) ManagedMemory);
  return *resource;
}

constexpr std::size_t kHeaderBytes = 64;  // the size, and alignment for what follows

void* take(std::size_t bytes) {
  auto* block = static_cast<std::byte*>(pool().allocate(bytes + kHeaderBytes, kHeaderBytes));
  *reinterpret_cast<std::size_t*>(block) = bytes + kHeaderBytes;
  return block + kHeaderBytes;
}

void give_back(void* memory) {
  if (memory == nullptr) return;
  std::byte* block = static_cast<std::byte*>(memory) - kHeaderBytes;
  pool().deallocate(block, *reinterpret_cast<std::size_t*>(block), kHeaderBytes);
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

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
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
  return result;
}
