#include "client/cli/comparison.h"

#include <algorithm>
#include <cmath>

#include "client/cli/run_report.h"

namespace kvcrush::cli {
namespace {

constexpr std::size_t kContextBytes = 40;

bool is_continuation(char byte) {
  return (static_cast<unsigned char>(byte) & 0xC0) == 0x80;
}

// Moves `at` forward to the next start of a character, so that no character is shown cut.
std::size_t next_character(std::string_view text, std::size_t at) {
  while (at < text.size() && is_continuation(text[at])) ++at;
  return std::min(at, text.size());
}

std::string one_line(std::string_view text) {
  std::string line(text);
  std::replace_if(
      line.begin(), line.end(), [](char c) { return c == '\n' || c == '\r' || c == '\t'; }, ' ');
  return line;
}

std::string words_from(std::string_view text, std::size_t at) {
  if (at >= text.size()) return "(end of text)";
  const std::size_t end = next_character(text, std::min(at + kContextBytes, text.size()));
  return one_line(text.substr(at, end - at)) + (end < text.size() ? "..." : "");
}

std::string kept_in_words(const RunRecord& run) {
  const auto& report = run.finish.compression();
  return report.pruned() ? describe(report.tokens_kept()) : "all";
}

// The last token generated is never fed back, so it has no place in the cache.
long long cached_tokens(const v1::Usage& usage) {
  return usage.prompt_tokens() + std::max(usage.completion_tokens() - 1, 0);
}

// Pool bytes at the end; a server that tells no ratio stores all in the pool's own dtype.
long long held_bytes(const v1::GetModelInfoResponse& model, const RunRecord& run) {
  const auto& report = run.finish.compression();
  if (report.pruned()) return report.kv_bytes_after();
  if (report.compression_ratio() > 0)
    return std::llround(static_cast<double>(report.kv_bytes_full_16bit()) / report.compression_ratio());
  return full_kv_bytes(model, cached_tokens(run.finish.usage()));
}

std::string dtype_in_words(const v1::GetModelInfoResponse& model, const RunRecord& run) {
  const auto dtype = run.finish.compression().applied().kv_dtype();
  return dtype == v1::KV_DTYPE_UNSPECIFIED ? model.kv_dtype() : describe(dtype);
}

std::string ratio_in_words(const v1::CompressionReport& report) {
  return report.compression_ratio() > 0 ? fixed(report.compression_ratio(), 2) + "x" : "-";
}

std::string ratio(double value, double base) {
  return base > 0 ? fixed(value / base, 2) + "x" : "-";
}

}  // namespace

std::optional<TextDifference> first_difference(std::string_view first, std::string_view second) {
  const auto [a, b] = std::mismatch(first.begin(), first.end(), second.begin(), second.end());
  if (a == first.end() && b == second.end()) return std::nullopt;
  auto at = static_cast<std::size_t>(a - first.begin());
  const auto cut = [](std::string_view text, std::size_t i) {
    return i < text.size() && is_continuation(text[i]);
  };
  while (at > 0 && (cut(first, at) || cut(second, at))) --at;
  const std::string_view same = first.substr(0, at);
  const std::size_t from = next_character(same, at > kContextBytes ? at - kContextBytes : 0);
  TextDifference difference;
  difference.offset =
      static_cast<std::size_t>(std::count_if(same.begin(), same.end(), std::not_fn(is_continuation)));
  difference.shared = (from > 0 ? "..." : "") + one_line(same.substr(from));
  difference.first = words_from(first, at);
  difference.second = words_from(second, at);
  return difference;
}

long long full_kv_bytes(const v1::GetModelInfoResponse& model, long long num_tokens) {
  const long long block_tokens = std::max(model.block_size_tokens(), 1);
  return (num_tokens + block_tokens - 1) / block_tokens * model.num_layers() * model.block_bytes();
}

Table comparison_table(const v1::GetModelInfoResponse& model, const RunRecord& full,
                       const RunRecord& pruned) {
  const auto& a = full.finish.usage();
  const auto& b = pruned.finish.usage();
  const auto& report = pruned.finish.compression();
  const long long full_bytes = held_bytes(model, full);
  const long long after = held_bytes(model, pruned);
  const long long before = report.pruned() ? report.kv_bytes_before() : after;
  const auto row = [](double x, double y, int decimals) {
    return std::vector<std::string>{fixed(x, decimals), fixed(y, decimals), ratio(y, x)};
  };
  Table table({"", "full cache", "KVCrush", "ratio"});
  const auto add = [&table](const char* name, std::vector<std::string> cells) {
    cells.insert(cells.begin(), name);
    table.add_row(std::move(cells));
  };
  add("prompt tokens", {with_thousands(a.prompt_tokens()), with_thousands(b.prompt_tokens()), ""});
  add("generated tokens", {with_thousands(a.completion_tokens()), with_thousands(b.completion_tokens()), ""});
  add("KV dtype", {dtype_in_words(model, full), dtype_in_words(model, pruned), ""});
  add("KV cache before pruning, MiB", {mib(full_bytes), mib(before), ""});
  add("KV cache after pruning, MiB",
      {mib(full_bytes), mib(after), ratio(static_cast<double>(after), static_cast<double>(full_bytes))});
  add("full 16-bit cache over bytes at the end",
      {ratio_in_words(full.finish.compression()), ratio_in_words(report), ""});
  add("tokens kept in a layer", {"all", kept_in_words(pruned), ""});
  add("KV blocks freed", {"0", with_thousands(report.blocks_freed()), ""});
  add("time to first token, ms", row(a.time_to_first_token_ms(), b.time_to_first_token_ms(), 0));
  add("time per further token, ms", row(ms_per_token(a), ms_per_token(b), 2));
  add("of it scoring and pruning, ms in all", {"0", fixed(report.prune_ms(), 2), ""});
  return table;
}

std::string describe(const std::optional<TextDifference>& difference) {
  if (!difference) return "identical";
  return "the texts part after " + std::to_string(difference->offset) + " characters: \"" +
         difference->shared + "\"\n  full cache: \"" + difference->first + "\"\n  KVCrush:    \"" +
         difference->second + "\"";
}

}  // namespace kvcrush::cli
