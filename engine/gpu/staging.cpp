#include "engine/gpu/staging.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace kvcrush {

namespace {

constexpr std::size_t kAlignment = 16;
constexpr std::size_t kLeastChunkBytes = 1 << 20;

}  // namespace

Staging::Chunk Staging::make_chunk(std::size_t bytes) const {
  const auto size = static_cast<std::int64_t>(bytes);
  return {runtime_.host_buffer(size),
          at::empty({size}, at::TensorOptions(at::kByte).device(runtime_.device())), 0};
}

void Staging::start() {
  turn_ = (turn_ + 1) % kTurns;
  if (in_use_[static_cast<std::size_t>(turn_)]) runtime_.wait_for(turn_);
  in_use_[static_cast<std::size_t>(turn_)] = false;
  std::vector<Chunk>& chunks = turns_[static_cast<std::size_t>(turn_)];
  std::size_t total = 0;
  for (Chunk& chunk : chunks) total += static_cast<std::size_t>(chunk.host.numel());
  if (chunks.size() > 1) {  // one that holds as much
    chunks.clear();
    chunks.push_back(make_chunk(total));
  }
  if (!chunks.empty()) chunks.front().used = 0;
}

Staging::Room<void> Staging::make_room(std::size_t size) {
  std::vector<Chunk>& chunks = turns_[static_cast<std::size_t>(turn_)];
  const std::size_t room = (size + kAlignment - 1) / kAlignment * kAlignment;
  if (chunks.empty() || chunks.back().used + room > static_cast<std::size_t>(chunks.back().host.numel()))
    chunks.push_back(make_chunk(std::max(2 * room, kLeastChunkBytes)));
  Chunk& chunk = chunks.back();
  const Room<void> place{chunk.host.data_ptr<std::uint8_t>() + chunk.used,
                         chunk.device.data_ptr<std::uint8_t>() + chunk.used};
  chunk.used += room;
  return place;
}

void* Staging::add_bytes(const void* bytes, std::size_t size) {
  const Room<void> room = make_room(size);
  if (size > 0) std::memcpy(room.host, bytes, size);
  return room.device;
}

void Staging::upload() {
  for (const Chunk& chunk : turns_[static_cast<std::size_t>(turn_)]) {
    if (chunk.used == 0) continue;
    runtime_.copy_to_device(chunk.device.data_ptr(), chunk.host.const_data_ptr(), chunk.used);
  }
  in_use_[static_cast<std::size_t>(turn_)] = true;
  runtime_.mark(turn_);
}

}  // namespace kvcrush
