// Pruning in layers with a sliding window: which slots no later query sees, and where those that stay come
// from.
#pragma once

#include <vector>

#include "engine/kv_cache/block_table.h"
#include "engine/kvcrush/prune_plan.h"

namespace kvcrush {

// Of each KV head: the first slots that the next token's query does not see. Empty: the layer has no window.
std::vector<int> unseen_slots(const BlockTable& table, int num_kv_heads);
// The parameters as such a layer takes them: once the window has moved on, the text's first tokens are no
// sinks any more. (Block granularity counts them whatever they are.)
CompressionParams window_params(const CompressionParams& params, const BlockTable& table);
// Positions of the slots that `plan` keeps of the table's, which has not changed yet; null where they are
// neighbours, or the layer has no window.
BlockTable::Positions positions_after(const BlockTable& table, const LayerPrunePlan& plan, int num_kv_heads);

}  // namespace kvcrush
