#include "client/cli/score_report.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "client/cli/run_report.h"

namespace kvcrush::cli {
namespace {

using Floats = google::protobuf::RepeatedField<float>;

double mean(Floats::const_iterator begin, Floats::const_iterator end) {
  return begin == end ? 0 : std::accumulate(begin, end, 0.0) / static_cast<double>(end - begin);
}

ScoreSummary summary_of(const Floats& logprobs) {
  ScoreSummary summary;
  summary.mean_logprob = mean(logprobs.begin(), logprobs.end());
  summary.perplexity = std::exp(-summary.mean_logprob);
  return summary;
}

std::string bytes_in_words(const v1::CompressionReport& report) {
  return report.compression_ratio() > 0 ? fixed(report.compression_ratio(), 2) + "x" : "-";
}

std::string kept_in_words(const v1::VariantScore& variant) {
  const auto& report = variant.compression();
  return report.pruned() ? with_thousands(std::llround(report.tokens_kept().mean())) : "all";
}

std::vector<std::string> row(const std::string& label, const ScoreSummary& summary) {
  return {label, fixed(summary.mean_logprob, 4), fixed(summary.perplexity, 3),
          summary.mean_kl ? fixed(*summary.mean_kl, 4) : "-",
          summary.agreement ? fixed(*summary.agreement * 100, 1) + " %" : "-"};
}

}  // namespace

ScoreSummary summarise(const v1::VariantScore& variant) {
  ScoreSummary summary = summary_of(variant.logprobs());
  const auto& kl = variant.kl_divergences();
  if (kl.size() > 1) summary.mean_kl = mean(kl.begin() + 1, kl.end());
  const auto& agrees = variant.top1_agrees();
  if (agrees.size() > 1) {
    summary.agreement = static_cast<double>(std::count(agrees.begin() + 1, agrees.end(), true)) /
                        static_cast<double>(agrees.size() - 1);
  }
  return summary;
}

Table score_table(const v1::ScoreResponse& response, const std::vector<std::string>& labels) {
  Table table({"variant", "mean logprob", "perplexity", "mean KL", "agreement", "tokens a layer", "bytes"});
  const auto add = [&table](std::vector<std::string> cells, const std::string& kept,
                            const std::string& bytes) {
    cells.push_back(kept);
    cells.push_back(bytes);
    table.add_row(std::move(cells));
  };
  if (!response.full_logprobs().empty())
    add(row("full cache", summary_of(response.full_logprobs())), "all", "");
  for (const auto& variant : response.variants()) {
    const auto index = static_cast<std::size_t>(variant.index());
    const std::string label = index < labels.size() ? labels[index] : "server's default";
    add(row(label, summarise(variant)), kept_in_words(variant), bytes_in_words(variant.compression()));
  }
  return table;
}

}  // namespace kvcrush::cli
