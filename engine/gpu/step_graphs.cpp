#include "engine/gpu/step_graphs.h"

#include <algorithm>
#include <bit>

namespace kvcrush {

int decode_bucket(int num_sequences, int most_rows) {
  const auto count = static_cast<unsigned>(num_sequences);
  const unsigned step = count <= 8 ? std::bit_ceil(count) : std::max(8U, std::bit_floor(count) / 8);
  return std::min(static_cast<int>((count + step - 1) / step * step), most_rows);
}

void StepGraphs::run(const StepKey& key, const std::function<void()>& work) {
  if (!records_) return work();
  const auto it =
      std::find_if(entries_.begin(), entries_.end(), [&](const Entry& entry) { return entry.key == key; });
  if (it == entries_.end()) {
    if (entries_.size() == kMostEntries) entries_.pop_back();
    entries_.push_front({key, nullptr});
    return work();
  }
  entries_.splice(entries_.begin(), entries_, it);
  Entry& entry = entries_.front();
  if (entry.graph == nullptr) {
    records_ = false;
    entry.graph = runtime_.record(work);
    records_ = true;
  }
  entry.graph->launch();
}

}  // namespace kvcrush
