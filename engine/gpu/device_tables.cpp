#include "engine/gpu/device_tables.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace kvcrush {

void DeviceTables::follow(const Sequence& sequence) {
  Table& table = tables_[sequence.id];
  int longest = 0;
  for (int layer = 0; layer < num_layers_; ++layer)
    longest = std::max(longest, static_cast<int>(sequence.cache.layer(layer).blocks().size()));
  if (longest > table.capacity) {
    table.capacity = std::max({kLeastCapacity, longest, table.capacity * 2});
    table.blocks =
        at::empty({num_layers_, table.capacity}, at::TensorOptions(at::kInt).device(runtime_.device()));
    table.layers.assign(static_cast<std::size_t>(num_layers_), Mirror{});
  }
  std::int32_t* row = table.capacity == 0 ? nullptr : table.blocks.data_ptr<std::int32_t>();
  for (int layer = 0; layer < num_layers_; ++layer, row += table.capacity) {
    const BlockTable& blocks = sequence.cache.layer(layer);
    const auto size = static_cast<int>(blocks.blocks().size());
    if (size == 0) continue;
    Mirror& mirror = table.layers[static_cast<std::size_t>(layer)];
    if (mirror.revision != blocks.revision()) mirror = {blocks.revision(), 0};
    for (int i = mirror.num_blocks; i < size; ++i)
      updates_.push_back({row + i, blocks.blocks()[static_cast<std::size_t>(i)]});
    mirror.num_blocks = size;
  }
}

cpu::CachedLayer DeviceTables::cached(const Sequence& sequence, int layer) const {
  return tables_.at(sequence.id).cached(sequence, layer);
}

int DeviceTables::fill_layers(const Sequence& sequence, const cpu::AttentionSequence& paged,
                              cpu::AttentionSequence* layers, std::size_t stride) const {
  const Table& table = tables_.at(sequence.id);
  cpu::AttentionSequence own = paged;
  int longest = 0;
  int most_cached = 0;
  for (int layer = 0; layer < num_layers_; ++layer, layers += stride) {
    own.cache = table.cached(sequence, layer);
    *layers = own;
    if (own.cache.num_cached <= most_cached) continue;
    most_cached = own.cache.num_cached;
    longest = layer;
  }
  return longest;
}

cpu::CachedLayer DeviceTables::Table::cached(const Sequence& sequence, int layer) const {
  cpu::CachedLayer result = sequence.cache.layer(layer).cached();
  result.blocks = capacity == 0
                      ? nullptr
                      : blocks.const_data_ptr<std::int32_t>() + static_cast<std::int64_t>(layer) * capacity;
  if (placed.empty() || !placed[static_cast<std::size_t>(layer)].positions.defined()) return result;
  const Placed& own = placed[static_cast<std::size_t>(layer)];
  const auto num_slots = static_cast<int>(own.positions.size(1));
  const int num_dropped = sequence.cache.layer(layer).num_gone_tokens() - own.num_gone;
  if (num_dropped >= num_slots) return result;
  result.window.num_placed = num_slots - num_dropped;
  result.window.positions = own.positions.const_data_ptr<std::int32_t>() + num_dropped;
  result.window.positions_stride = num_slots;
  return result;
}

void DeviceTables::place(const Sequence& sequence, int layer, at::Tensor positions) {
  std::vector<Placed>& placed = tables_.at(sequence.id).placed;
  placed.resize(static_cast<std::size_t>(num_layers_));
  placed[static_cast<std::size_t>(layer)] = {std::move(positions),
                                             sequence.cache.layer(layer).num_gone_tokens()};
}

void DeviceTables::flush(Staging& staging) {
  num_sent_ = static_cast<int>(updates_.size());
  device_updates_ = staging.add(updates_);
  updates_.clear();
}

void DeviceTables::apply() {
  if (num_sent_ > 0) cuda::update_tables(device_updates_, num_sent_, runtime_.stream());
}

}  // namespace kvcrush
