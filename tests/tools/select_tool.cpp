// Runs selection cases from stdin until it closes, one answer on stdout after each (numbers in the machine's
// byte order):
//   request: Header, then float32 data of three arrays one after the other, each as long as the header says:
//            kSelect: scores [num_heads, num_candidates], none, none;
//            kPlan, kScores: probability sums [num_heads, num_tokens], key scores [num_kv_heads, num_tokens],
//            value norms [num_heads, num_tokens]; empty where the policy does not read them;
//            kBudgets: none
//   answer:  int32 number of words, then that many: kSelect, kPlan: kept slots [num_sets, kept]; kScores:
//            float32 scores; kBudgets: least budget, then each layer's
#include <cstdint>
#include <cstdio>
#include <span>
#include <vector>

#include "engine/core/status.h"
#include "engine/kvcrush/importance.h"
#include "engine/kvcrush/prune_plan.h"

namespace {

enum class Mode : std::int32_t { kSelect, kPlan, kScores, kBudgets };

struct Header {
  double representative_share, layer_weight;
  std::uint64_t seed;
  Mode mode;
  std::int32_t num_heads, num_kv_heads, first_head, num_tokens, budget_tokens, num_sink_tokens, window_tokens;
  std::int32_t num_queries, pool_kernel_tokens, layer, num_layers;
  std::int32_t policy, anchor, pick, token_sets, granularity, signature_heads, layer_budgets, value_norm;
  std::int32_t pool_shape;
  std::int32_t num_first_floats, num_key_floats, num_norm_floats;
};

template <typename T>
void write_answer(std::span<const T> words) {
  const auto count = static_cast<std::int32_t>(words.size());
  std::fwrite(&count, sizeof(count), 1, stdout);
  std::fwrite(words.data(), sizeof(T), words.size(), stdout);
  std::fflush(stdout);
}

struct Arrays {
  std::vector<float> first, keys, norms;

  static void read_into(std::vector<float>& array, std::int32_t count) {
    array.resize(static_cast<std::size_t>(count));
    KVCRUSH_CHECK(std::fread(array.data(), sizeof(float), array.size(), stdin) == array.size());
  }
  void read(const Header& header) {
    read_into(first, header.num_first_floats);
    read_into(keys, header.num_key_floats);
    read_into(norms, header.num_norm_floats);
  }
};

kvcrush::CompressionParams params_of(const Header& header) {
  kvcrush::CompressionParams params;
  params.policy = static_cast<kvcrush::BasePolicy>(header.policy);
  params.budget_tokens = header.budget_tokens;
  params.representative_share = header.representative_share;
  params.anchor = static_cast<kvcrush::AnchorKind>(header.anchor);
  params.granularity = static_cast<kvcrush::Granularity>(header.granularity);
  params.token_sets = static_cast<kvcrush::TokenSets>(header.token_sets);
  params.pick = static_cast<kvcrush::RepresentativePick>(header.pick);
  params.num_sink_tokens = header.num_sink_tokens;
  params.window_tokens = header.window_tokens;
  params.observed_queries = 1;  // the observation says how many there were
  params.pool_kernel_tokens = header.pool_kernel_tokens;
  params.pool_shape = static_cast<kvcrush::PoolShape>(header.pool_shape);
  params.value_norm = header.value_norm != 0;
  params.layer_weight = header.layer_weight;
  params.seed = header.seed;
  params.layer_budgets = static_cast<kvcrush::LayerBudgets>(header.layer_budgets);
  params.signature_heads = static_cast<kvcrush::SignatureHeads>(header.signature_heads);
  return params;
}

kvcrush::LayerObservation observation_of(const Header& header, const Arrays& arrays) {
  return {.num_heads = header.num_heads,
          .num_kv_heads = header.num_kv_heads,
          .num_tokens = header.num_tokens,
          .probability_sums = arrays.first,
          .num_queries = header.num_queries,
          .key_scores = arrays.keys,
          .value_norms = arrays.norms};
}

void answer_select(const Header& header, std::span<const float> scores, kvcrush::PruneScratch& scratch) {
  const kvcrush::CompressionParams params = params_of(header);
  const bool shares_bits = params.signature_heads == kvcrush::SignatureHeads::kKv;
  std::vector<float> importance(scores.size() / static_cast<std::size_t>(header.num_heads));
  kvcrush::sum_over_heads(scores, header.num_heads, importance);
  const kvcrush::SelectionInput input{
      .importance = importance,
      .scores = scores,
      .num_heads = header.num_heads,
      .first_head = header.first_head,
      .heads_per_bit = shares_bits ? header.num_heads / header.num_kv_heads : 1,
      .num_tokens = header.num_tokens,
      .budget_tokens = header.budget_tokens,
      .num_sink_tokens = header.num_sink_tokens,
      .window_tokens = header.window_tokens,
      .representative_share = header.representative_share,
      .anchor = params.anchor,
      .pick = params.pick,
      .seed = header.seed,
      .layer = header.layer};
  const bool is_block = params.granularity == kvcrush::Granularity::kBlock;
  write_answer(is_block ? scratch.block_selector.select(input) : scratch.selector.select(input));
}

void answer_scores(const Header& header, const Arrays& arrays) {
  const int num_candidates = header.num_tokens - header.num_sink_tokens - header.window_tokens;
  std::vector<float> scores(static_cast<std::size_t>(header.num_heads) *
                            static_cast<std::size_t>(num_candidates));
  kvcrush::ScoreScratch scratch;
  kvcrush::token_scores(params_of(header), observation_of(header, arrays), scratch, scores);
  write_answer(std::span<const float>(scores));
}

void answer_budgets(const Header& header) {
  const kvcrush::CompressionParams params = params_of(header);
  std::vector<int> budgets = {kvcrush::min_budget_tokens(params)};
  for (int layer = 0; layer < header.num_layers; ++layer) {
    budgets.push_back(kvcrush::layer_budget_tokens(params, header.budget_tokens, layer, header.num_layers));
  }
  write_answer(std::span<const int>(budgets));
}

void answer_plan(const Header& header, const Arrays& arrays, kvcrush::PruneScratch& scratch,
                 kvcrush::LayerPrunePlan& plan) {
  const kvcrush::CompressionParams params = params_of(header);
  const kvcrush::Status status = kvcrush::validate(params);
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.message().c_str());
  KVCRUSH_CHECK(status.ok());
  const int budget_tokens =
      kvcrush::layer_budget_tokens(params, header.budget_tokens, header.layer, header.num_layers);
  kvcrush::plan_layer(params, budget_tokens, header.layer, observation_of(header, arrays), scratch, plan);
  write_answer(std::span<const int>(plan.kept_slots));
}

}  // namespace

int main() {
  // Scratch lives over all cases on purpose: leftovers of one case must not change the next.
  kvcrush::PruneScratch scratch;
  kvcrush::LayerPrunePlan plan;
  Arrays arrays;
  Header header;
  while (std::fread(&header, sizeof(header), 1, stdin) == 1) {
    arrays.read(header);
    switch (header.mode) {
      case Mode::kSelect:
        answer_select(header, arrays.first, scratch);
        break;
      case Mode::kPlan:
        answer_plan(header, arrays, scratch, plan);
        break;
      case Mode::kScores:
        answer_scores(header, arrays);
        break;
      case Mode::kBudgets:
        answer_budgets(header);
        break;
    }
  }
  return 0;
}
