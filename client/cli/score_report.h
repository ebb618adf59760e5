// What a ScoreResponse says, in figures.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "client/cli/table.h"
#include "kvcrush/v1/inference.pb.h"

namespace kvcrush::cli {

struct ScoreSummary {
  double mean_logprob = 0;  // over all tokens of the continuation, nats
  double perplexity = 0;
  // Over the tokens after the first, which is predicted before anything is pruned. Unset: not compared.
  std::optional<double> mean_kl;    // nats
  std::optional<double> agreement;  // share of tokens whose likeliest candidate is the full cache's, 0 to 1
};

ScoreSummary summarise(const v1::VariantScore& variant);

// A row for the full cache where it was compared with, then one per variant; `labels` name them.
Table score_table(const v1::ScoreResponse& response, const std::vector<std::string>& labels);

}  // namespace kvcrush::cli
