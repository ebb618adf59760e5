// Small things that the host works out for a step and kernels read: collected in pinned memory, sent in one
// copy. Device addresses are known as soon as something is added, so that structs may point at each other.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

#include "engine/gpu/gpu_runtime.h"

namespace kvcrush {

class Staging {
 public:
  explicit Staging(GpuRuntime& runtime) : runtime_(runtime) {}

  // Starts over. Waits where the device may still be reading what was sent two starts ago.
  void start();
  // Its address on the device, once upload() was called.
  template <class T>
  T* add(std::span<const T> values) {
    static_assert(std::is_trivially_copyable_v<T>);
    return static_cast<T*>(add_bytes(values.data(), values.size_bytes()));
  }
  template <class T>
  T* add(const std::vector<T>& values) {
    return add(std::span<const T>(values));
  }
  // The same for values that the caller writes to their place on the host before upload().
  template <class T>
  struct Room {
    T* host;
    T* device;
  };
  template <class T>
  Room<T> room_for(std::size_t count) {
    static_assert(std::is_trivially_copyable_v<T>);
    const Room<void> room = make_room(count * sizeof(T));
    return {static_cast<T*>(room.host), static_cast<T*>(room.device)};
  }
  void upload();

 private:
  struct Chunk {
    at::Tensor host;
    at::Tensor device;
    std::size_t used = 0;
  };
  void* add_bytes(const void* bytes, std::size_t size);
  Room<void> make_room(std::size_t size);
  Chunk make_chunk(std::size_t bytes) const;

  static constexpr int kTurns = 2;  // the host fills one while the device reads the other
  GpuRuntime& runtime_;
  std::array<std::vector<Chunk>, kTurns> turns_;
  std::array<bool, kTurns> in_use_{};
  int turn_ = 0;
};

}  // namespace kvcrush
