#include "engine/model/window_slots.h"

#include <memory>

namespace kvcrush {

std::vector<int> unseen_slots(const BlockTable& table, int num_kv_heads) {
  std::vector<int> slots;
  if (table.window_tokens() == 0) return slots;
  const cpu::CachedLayer layer = table.cached();
  for (int h = 0; h < num_kv_heads; ++h) slots.push_back(cpu::first_in_window(layer, h, layer.num_cached));
  return slots;
}

CompressionParams window_params(const CompressionParams& params, const BlockTable& table) {
  CompressionParams own = params;
  const bool moved_on = table.num_gone_tokens() + table.num_cached_tokens() >= table.window_tokens();
  if (table.window_tokens() > 0 && moved_on && params.granularity == Granularity::kToken)
    own.num_sink_tokens = 0;
  return own;
}

BlockTable::Positions positions_after(const BlockTable& table, const LayerPrunePlan& plan, int num_kv_heads) {
  if (table.window_tokens() == 0 || plan.num_tokens_after == plan.num_tokens_before) return table.positions();
  const cpu::SlidingWindow window = table.cached().window;
  auto after = std::make_shared<BlockTable::SlotPositions>();
  after->num_slots = plan.num_tokens_after;
  after->of_heads.reserve(static_cast<std::size_t>(num_kv_heads) * plan.num_tokens_after);
  for (int h = 0; h < num_kv_heads; ++h) {
    const std::ptrdiff_t set = plan.num_sets == 1 ? 0 : h;
    const int* slots = plan.kept_slots.data() + set * plan.num_tokens_after;
    for (int i = 0; i < plan.num_tokens_after; ++i)
      after->of_heads.push_back(cpu::position_of(window, h, slots[i]));
  }
  return after;
}

}  // namespace kvcrush
