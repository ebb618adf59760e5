// Runs selection cases from stdin until it closes, one answer on stdout after each (numbers in the machine's
// byte order):
//   request: Header, then float32 data; kSelect: scores [num_heads, num_candidates], otherwise probability
//   sums
//            [num_heads, num_tokens]
//   answer:  int32 number of words, then that many: kSelect, kPlan: kept slots [num_sets, kept]; kScores:
//   float32 scores
#include <cstdint>
#include <cstdio>
#include <span>
#include <vector>

#include "engine/core/status.h"
#include "engine/kvcrush/prune_plan.h"

namespace {

enum class Mode : std::int32_t { kSelect, kPlan, kScores };

struct Header {
  double representative_share;
  std::uint64_t seed;
  Mode mode;
  std::int32_t num_heads, num_kv_heads, first_head, num_tokens, budget_tokens, num_sink_tokens, window_tokens;
  std::int32_t num_queries, pool_kernel_tokens, layer, anchor, pick, token_sets;
  std::int32_t num_floats;
};

template <typename T>
void write_answer(std::span<const T> words) {
  const auto count = static_cast<std::int32_t>(words.size());
  std::fwrite(&count, sizeof(count), 1, stdout);
  std::fwrite(words.data(), sizeof(T), words.size(), stdout);
  std::fflush(stdout);
}

kvcrush::CompressionParams params_of(const Header& header) {
  kvcrush::CompressionParams params;
  params.budget_tokens = header.budget_tokens;
  params.representative_share = header.representative_share;
  params.anchor = static_cast<kvcrush::AnchorKind>(header.anchor);
  params.token_sets = static_cast<kvcrush::TokenSets>(header.token_sets);
  params.pick = static_cast<kvcrush::RepresentativePick>(header.pick);
  params.num_sink_tokens = header.num_sink_tokens;
  params.window_tokens = header.window_tokens;
  params.pool_kernel_tokens = header.pool_kernel_tokens;
  params.seed = header.seed;
  return params;
}

kvcrush::SelectionInput selection_of(const Header& header, std::span<const float> scores) {
  const kvcrush::CompressionParams params = params_of(header);
  return {.scores = scores,
          .num_heads = header.num_heads,
          .first_head = header.first_head,
          .num_tokens = header.num_tokens,
          .budget_tokens = header.budget_tokens,
          .num_sink_tokens = header.num_sink_tokens,
          .window_tokens = header.window_tokens,
          .representative_share = header.representative_share,
          .anchor = params.anchor,
          .pick = params.pick,
          .seed = header.seed,
          .layer = header.layer};
}

void answer_scores(const Header& header, std::span<const float> sums) {
  const int num_candidates = header.num_tokens - header.num_sink_tokens - header.window_tokens;
  std::vector<float> scores(static_cast<std::size_t>(header.num_heads) *
                            static_cast<std::size_t>(num_candidates));
  kvcrush::ScoreScratch scratch;
  kvcrush::snapkv_scores({sums, header.num_queries, header.num_heads, header.num_tokens},
                         {header.num_sink_tokens, header.window_tokens}, header.pool_kernel_tokens, scratch,
                         scores);
  write_answer(std::span<const float>(scores));
}

}  // namespace

int main() {
  // Scratch lives over all cases on purpose: leftovers of one case must not change the next.
  kvcrush::PruneScratch scratch;
  kvcrush::LayerPrunePlan plan;
  std::vector<float> data;
  Header header;
  while (std::fread(&header, sizeof(header), 1, stdin) == 1) {
    data.resize(static_cast<std::size_t>(header.num_floats));
    KVCRUSH_CHECK(std::fread(data.data(), sizeof(float), data.size(), stdin) == data.size());
    switch (header.mode) {
      case Mode::kSelect:
        write_answer(scratch.selector.select(selection_of(header, data)));
        break;
      case Mode::kPlan:
        KVCRUSH_CHECK(kvcrush::validate(params_of(header)).ok());
        kvcrush::plan_layer(params_of(header), header.budget_tokens, header.layer, data, header.num_queries,
                            header.num_heads, header.num_kv_heads, header.num_tokens, scratch, plan);
        write_answer(std::span<const int>(plan.kept_slots));
        break;
      case Mode::kScores:
        answer_scores(header, data);
        break;
    }
  }
  return 0;
}
