// What tests of compaction share, whichever device does it.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

#include "engine/kernels/cpu/kv_blocks.h"
#include "tests/kernels/kernel_fixture.h"

namespace kvcrush::testing {

// Query heads do not matter here.
inline constexpr HeadLayout kHeads{9, 3, 64};

inline void rewrite_all_heads(const KvStorage& kv, const cpu::CachedLayer& from, const cpu::CachedLayer& to,
                              const std::vector<int>& sources) {
  std::vector<float> scratch(cpu::attention_scratch_floats());
  std::vector<std::byte> staging(cpu::head_bytes(kv.cpu_pool()));
  const bool per_head = sources.size() > static_cast<std::size_t>(to.num_cached);
  for (int h = 0; h < kv.layout().num_kv_heads; ++h) {
    cpu::rewrite_head(kv.cpu_pool(), from, to, h, sources.data() + (per_head ? h * to.num_cached : 0),
                      scratch.data(), staging.data());
  }
}

// `kept` of `num_cached` slots, the last `num_tail` always among them, one set per head or one for all.
inline std::vector<int> random_sources(int num_cached, int kept, int num_tail, int num_sets,
                                       std::uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::vector<int> sources;
  for (int set = 0; set < num_sets; ++set) {
    std::vector<int> slots(static_cast<std::size_t>(num_cached - num_tail));
    std::iota(slots.begin(), slots.end(), 0);
    std::shuffle(slots.begin(), slots.end(), engine);
    slots.resize(static_cast<std::size_t>(kept - num_tail));
    std::sort(slots.begin(), slots.end());
    for (int i = num_cached - num_tail; i < num_cached; ++i) slots.push_back(i);
    sources.insert(sources.end(), slots.begin(), slots.end());
  }
  return sources;
}

// Prunes in place again and again; what is left has the bits that it had at first. rewrite(kv, from, to,
// sources).
template <class Rewrite>
void expect_no_drift(KvDtype dtype, const Rewrite& rewrite) {
  PagedCase paged(kHeads, dtype, {{400, 0}}, 7);
  cpu::CachedLayer cache = paged.sequences[0].cache;
  const auto [first_k, first_v] = reference::read_cached(cache, paged.kv);
  std::vector<std::int64_t> origin(400);
  std::iota(origin.begin(), origin.end(), 0);
  for (int round = 0; round < 8; ++round) {
    const int tail = cache.num_cached - cache.num_packed;
    const int fixed = is_quantised(dtype) ? tail : 0;
    const int kept = fixed + (cache.num_cached - fixed) * 9 / 10;
    const std::vector<int> sources = random_sources(cache.num_cached, kept, fixed, 1, 50 + round);
    cpu::CachedLayer to = cache;
    to.num_cached = kept;
    to.num_packed = is_quantised(dtype) ? kept - tail : 0;
    rewrite(paged.kv, cache, to, sources);
    std::vector<std::int64_t> next;
    for (const int source : sources) next.push_back(origin[static_cast<std::size_t>(source)]);
    origin = next;
    cache = to;
  }
  const at::Tensor index = at::tensor(at::ArrayRef<std::int64_t>(origin), at::kLong);
  const auto [k, v] = reference::read_cached(cache, paged.kv);
  EXPECT_TRUE(at::equal(k, first_k.index_select(1, index)));
  EXPECT_TRUE(at::equal(v, first_v.index_select(1, index)));
}

}  // namespace kvcrush::testing
