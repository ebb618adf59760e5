#include "client/cli/top_view.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "client/cli/table.h"
#include "client/cli/text_width.h"

namespace kvcrush::cli {
namespace {

constexpr int kMinWidth = 40;

std::string rate(const std::optional<TopRates>& rates, double TopRates::*which) {
  return rates ? fixed((*rates).*which, 1) : "-";
}

std::string duration_words(double seconds) {
  const auto whole = static_cast<long long>(seconds);
  const auto two = [](long long value) { return (value < 10 ? "0" : "") + std::to_string(value); };
  const std::string clock =
      std::to_string(whole / 3600 % 24) + ":" + two(whole / 60 % 60) + ":" + two(whole % 60);
  return whole < 86400 ? clock : std::to_string(whole / 86400) + " d " + clock;
}

double share(long long part, long long whole) {
  return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0;
}

std::string bar(double part, int width) {
  const int full = std::clamp(static_cast<int>(std::lround(part * width)), 0, width);
  return "[" + std::string(static_cast<std::size_t>(full), '#') +
         std::string(static_cast<std::size_t>(width - full), '.') + "]";
}

std::string blocks_words(const v1::GetStatsResponse& stats) {
  return with_thousands(stats.blocks_used()) + " of " + with_thousands(stats.blocks_total()) + " (" +
         fixed(share(stats.blocks_used(), stats.blocks_total()) * 100, 1) + " %)";
}

std::string saved_words(const v1::GetStatsResponse& stats) {
  return mib(stats.kv_bytes_saved()) + " MiB, " +
         fixed(share(stats.kv_bytes_saved(), stats.kv_bytes_used() + stats.kv_bytes_saved()) * 100, 1) +
         " % of what a full cache would take";
}

std::string prefix_share(const v1::GetStatsResponse& stats) {
  return fixed(share(stats.prefix_hit_tokens(), stats.prefix_queried_tokens()) * 100, 1) + " %";
}

// Who holds and waits for how much, most blocks first. Empty: nobody has said a name.
std::string tenants_line(const v1::GetStatsResponse& stats) {
  struct Load {
    long long requests = 0;
    long long blocks = 0;
  };
  std::map<std::string, Load> loads;
  for (const auto& request : stats.requests()) {
    Load& load = loads[request.tenant()];
    ++load.requests;
    load.blocks += request.blocks();
  }
  if (loads.empty() || (loads.size() == 1 && loads.contains(""))) return {};
  std::vector<std::pair<std::string, Load>> sorted(loads.begin(), loads.end());
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const auto& a, const auto& b) { return a.second.blocks > b.second.blocks; });
  std::string line;
  for (const auto& [tenant, load] : sorted) {
    line += (line.empty() ? "tenants    " : ", ") + (tenant.empty() ? "(none)" : tenant) + " " +
            with_thousands(load.requests) + " (" + with_thousands(load.blocks) + " blocks)";
  }
  return line;
}

std::vector<std::string> summary_lines(const TopSource& source, const v1::GetStatsResponse& stats,
                                       const std::optional<TopRates>& rates, int width) {
  constexpr int kBarMargin = 45;  // what stands beside the bar at its longest
  std::vector<std::string> lines = {
      "kvcrush top  " + source.target + "  " + source.model + " on " + source.device + "  up " +
          duration_words(stats.uptime_s()),
      "requests   " + with_thousands(stats.requests_running()) + " running, " +
          with_thousands(stats.requests_waiting()) + " waiting with " + with_thousands(stats.queue_tokens()) +
          " prompt tokens",
      "tokens/s   " + rate(rates, &TopRates::prompt_tokens_per_s) + " prompt, " +
          rate(rates, &TopRates::generated_tokens_per_s) + " generated; so far " +
          with_thousands(stats.prompt_tokens()) + " and " + with_thousands(stats.generation_tokens()),
      "KV blocks  " +
          bar(share(stats.blocks_used(), stats.blocks_total()), std::clamp(width - kBarMargin, 8, 50)) + " " +
          blocks_words(stats) + ", " + mib(stats.kv_bytes_used()) + " MiB",
      "saved      " + saved_words(stats),
      "pruning    " + rate(rates, &TopRates::evicted_tokens_per_s) + " tokens evicted/s, " +
          rate(rates, &TopRates::freed_blocks_per_s) + " blocks freed/s",
      "preempted  " + rate(rates, &TopRates::preemptions_per_s) + "/s; so far " +
          with_thousands(stats.preemptions()) + "; " + mib(stats.swap_bytes_used()) + " MiB swapped out",
      "prefixes   " + prefix_share(stats) + " of prompt tokens found so far; " +
          with_thousands(stats.prefix_cache_blocks()) + " blocks to begin with",
  };
  if (std::string tenants = tenants_line(stats); !tenants.empty()) lines.push_back(std::move(tenants));
  lines.emplace_back();
  return lines;
}

std::vector<const v1::RunningRequest*> sorted(const v1::GetStatsResponse& stats, TopOrder order) {
  std::vector<const v1::RunningRequest*> requests;
  for (const auto& request : stats.requests()) requests.push_back(&request);
  std::stable_sort(requests.begin(), requests.end(),
                   [order](const v1::RunningRequest* a, const v1::RunningRequest* b) {
                     if (order == TopOrder::kBlocks && a->blocks() != b->blocks())
                       return a->blocks() > b->blocks();
                     return a->age_ms() > b->age_ms();
                   });
  return requests;
}

// The id takes what the figures leave.
std::string table_row(const std::string& id, const std::vector<std::string>& cells, int width) {
  static constexpr int kWidths[] = {7, 9, 9, 8, 8};
  std::string row;
  int used = 0;
  for (std::size_t i = 0; i < cells.size(); ++i) {
    row += i == 0 ? " " + fit_left(cells[i], kWidths[i]) : " " + fit_right(cells[i], kWidths[i]);
    used += 1 + kWidths[i];
  }
  return fit_left(id, width - used) + row;
}

std::string request_row(const v1::RunningRequest& request, int width) {
  const std::string sample = request.index() > 0 ? "#" + std::to_string(request.index()) : "";
  return table_row(
      request.request_id() + sample,
      {request.state(), with_thousands(request.prompt_tokens()), with_thousands(request.completion_tokens()),
       with_thousands(request.blocks()), fixed(request.age_ms() / 1000, 1)},
      width);
}

}  // namespace

std::optional<TopRates> rates_between(const v1::GetStatsResponse& before, const v1::GetStatsResponse& after) {
  const double seconds = after.uptime_s() - before.uptime_s();
  if (seconds <= 0) return std::nullopt;
  const auto rate_of = [&](auto total) {
    return static_cast<double>((after.*total)() - (before.*total)()) / seconds;
  };
  using S = v1::GetStatsResponse;
  return TopRates{rate_of(&S::prompt_tokens), rate_of(&S::generation_tokens), rate_of(&S::tokens_evicted),
                  rate_of(&S::blocks_freed_by_pruning), rate_of(&S::preemptions)};
}

TopFrame render_top(const TopSource& source, const v1::GetStatsResponse& stats,
                    const std::optional<TopRates>& rates, TopOrder order, int width, int height) {
  width = std::max(width, kMinWidth);
  TopFrame frame{.lines = summary_lines(source, stats, rates, width)};
  frame.table_header = frame.lines.size();
  const auto requests = sorted(stats, order);
  if (!requests.empty()) {
    frame.lines.push_back(table_row("request", {"state", "prompt", "output", "blocks", "age s"}, width));
    const auto top = frame.lines.size();
    std::size_t shown = requests.size();
    const auto rows = static_cast<std::size_t>(std::max(height, 0));
    if (height > 0 && top + shown > rows) shown = rows > top + 1 ? rows - top - 1 : 0;
    for (std::size_t i = 0; i < shown; ++i) frame.lines.push_back(request_row(*requests[i], width));
    if (shown < requests.size())
      frame.lines.push_back("and " + with_thousands(static_cast<long long>(requests.size() - shown)) +
                            " more");
  }
  if (height > 0 && frame.lines.size() > static_cast<std::size_t>(height))
    frame.lines.resize(static_cast<std::size_t>(height));
  for (std::string& line : frame.lines) line = truncate(line, width);
  return frame;
}

std::string top_line(const v1::GetStatsResponse& stats, const std::optional<TopRates>& rates) {
  return "up " + duration_words(stats.uptime_s()) + "  " + with_thousands(stats.requests_running()) +
         " running, " + with_thousands(stats.requests_waiting()) + " waiting  tokens/s " +
         rate(rates, &TopRates::prompt_tokens_per_s) + " prompt, " +
         rate(rates, &TopRates::generated_tokens_per_s) + " generated  KV blocks " + blocks_words(stats) +
         "  saved " + mib(stats.kv_bytes_saved()) + " MiB  evicted/s " +
         rate(rates, &TopRates::evicted_tokens_per_s) + "  preempted/s " +
         rate(rates, &TopRates::preemptions_per_s) + "  prefix hits " + prefix_share(stats);
}

}  // namespace kvcrush::cli
