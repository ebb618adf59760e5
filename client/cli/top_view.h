// What `kvcrush top` shows, as lines of text: a function of the server's answers and the size of the screen.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "kvcrush/v1/inference.pb.h"

namespace kvcrush::cli {

// What went on between two answers of GetStats, per second of the server's own clock.
struct TopRates {
  double prompt_tokens_per_s = 0;  // counted when a request is taken on
  double generated_tokens_per_s = 0;
  double evicted_tokens_per_s = 0;
  double freed_blocks_per_s = 0;
  double preemptions_per_s = 0;
};

// Unset: no time has passed between them, or the server has started anew.
std::optional<TopRates> rates_between(const v1::GetStatsResponse& before, const v1::GetStatsResponse& after);

enum class TopOrder { kBlocks, kAge };  // largest first

struct TopSource {
  std::string target;
  std::string model;
  std::string device;
};

struct TopFrame {
  std::vector<std::string> lines;  // none wider than asked for
  std::size_t table_header = 0;    // index of the line to set off; lines.size(): none
};

// At most `height` lines (0: as many as there are requests) of at most `width` columns.
TopFrame render_top(const TopSource& source, const v1::GetStatsResponse& stats,
                    const std::optional<TopRates>& rates, TopOrder order, int width, int height);

// All but the requests on one line, for logs.
std::string top_line(const v1::GetStatsResponse& stats, const std::optional<TopRates>& rates);

}  // namespace kvcrush::cli
