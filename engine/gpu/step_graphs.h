// Decode steps as graphs: a step whose launches were all seen before is started as one piece of work, not as
// hundreds. What differs from step to step lies in memory at the same addresses.
#pragma once

#include <array>
#include <functional>
#include <list>
#include <memory>

#include "engine/gpu/gpu_runtime.h"

namespace kvcrush {

// Rows that a batch of `num_sequences` decodes is padded to, so that few graphs serve all batches: powers of
// two, then multiples of an eighth of one. At most `most_rows`.
int decode_bucket(int num_sequences, int most_rows);

// All that the launches of a step are told, but for what never changes.
struct StepKey {
  std::array<const void*, 9> addresses{};
  std::array<int, 9> numbers{};
  bool operator==(const StepKey&) const = default;
};

class StepGraphs {
 public:
  explicit StepGraphs(GpuRuntime& runtime) : runtime_(runtime) {}

  // Puts what `work` starts on the stream. The first time as it is: libraries may allocate when they meet a
  // shape. Throws what GpuRuntime::record() throws, once: from then on nothing is recorded any more.
  void run(const StepKey& key, const std::function<void()>& work);
  // Other addresses than those in keys have changed. Nothing that run() started is still running.
  void clear() { entries_.clear(); }

 private:
  struct Entry {
    StepKey key;
    std::unique_ptr<GpuGraph> graph;  // null: seen once
  };
  // A bucket takes a few: two turns of the staging, and a split of attention for each eighth of a doubling.
  static constexpr std::size_t kMostEntries = 128;

  GpuRuntime& runtime_;
  std::list<Entry> entries_;  // used last, first
  bool records_ = true;
};

}  // namespace kvcrush
