#include "client/cli/run_report.h"

#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <cctype>
#include <iomanip>
#include <ostream>
#include <string_view>

#include "client/cli/table.h"

namespace kvcrush::cli {
namespace {

// "snapkv, int4" of what was applied, whatever of it the server told.
std::string applied_in_words(const v1::KvCompression& applied) {
  std::string words = describe(applied.policy());
  if (applied.kv_dtype() != v1::KV_DTYPE_UNSPECIFIED) words += ", " + describe(applied.kv_dtype());
  return words;
}

void print_pruning(std::ostream& out, const v1::CompressionReport& report) {
  if (!report.enabled()) {
    out << "compression: off";
    if (report.applied().kv_dtype() != v1::KV_DTYPE_UNSPECIFIED)
      out << ", " << describe(report.applied().kv_dtype());
    out << '\n';
    return;
  }
  out << "compression: ";
  if (report.has_applied()) out << applied_in_words(report.applied()) << "; ";
  if (!report.pruned()) {
    out << "nothing pruned, the sequence stayed within " << report.budget_tokens() << " tokens\n";
    return;
  }
  out << "budget " << report.budget_tokens() << " tokens; kept " << describe(report.tokens_kept())
      << "; evicted " << describe(report.tokens_evicted()) << '\n'
      << "KV cache:    " << mib(report.kv_bytes_before()) << " MiB -> " << mib(report.kv_bytes_after())
      << " MiB, " << with_thousands(report.blocks_freed()) << " blocks freed, " << report.prune_count()
      << " prunes";
  if (report.prune_ms() > 0) {
    out << " in " << fixed(report.prune_ms(), 2) << " ms (score " << fixed(report.score_ms(), 2)
        << ", select " << fixed(report.select_ms(), 2) << ", compact " << fixed(report.compact_ms(), 2)
        << ")";
  }
  out << '\n';
  if (report.lookahead_tokens() > 0)
    out << "lookahead:   " << report.lookahead_tokens() << " tokens before the first prune, "
        << report.lookahead_tokens_used() << " of them came out the same\n";
}

void print_windows(std::ostream& out, const v1::WindowLayers& windows) {
  if (windows.num_layers() == 0) return;
  out << "windows:     " << windows.num_layers() << " layers with a sliding window hold "
      << describe(windows.tokens_cached()) << " tokens; " << describe(windows.tokens_dropped())
      << " went past it, " << describe(windows.tokens_evicted()) << " were pruned\n";
}

void print_compression(std::ostream& out, const v1::CompressionReport& report) {
  print_pruning(out, report);
  print_windows(out, report.windows());
  if (report.compression_ratio() > 0)
    out << "KV bytes:    a full 16-bit cache of this text (" << mib(report.kv_bytes_full_16bit())
        << " MiB) is " << fixed(report.compression_ratio(), 2) << "x what it held at its end\n";
  if (!report.note().empty()) out << "note:        " << printable(report.note()) << '\n';
}

std::string lower_without(const std::string& name, std::size_t prefix_bytes) {
  std::string word = name.substr(std::min(prefix_bytes, name.size()));
  std::transform(word.begin(), word.end(), word.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return word;
}

}  // namespace

std::string printable(const std::string& text) {
  std::string shown;
  for (const char c : text) {
    if (c == '\n')
      shown += "\\n";
    else if (c == '\t')
      shown += "\\t";
    else
      shown += c;
  }
  return shown;
}

double ms_per_token(const v1::Usage& usage) {
  if (usage.completion_tokens() < 2) return 0;
  return (usage.total_ms() - usage.time_to_first_token_ms()) / (usage.completion_tokens() - 1);
}

std::string describe(const v1::LayerTokens& tokens) {
  if (tokens.min() == tokens.max()) return with_thousands(tokens.min()) + " per layer";
  return with_thousands(tokens.min()) + " to " + with_thousands(tokens.max()) + ", mean " +
         fixed(tokens.mean(), 1) + " per layer";
}

std::string describe(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_STOP:
      return "stop";
    case v1::FINISH_REASON_LENGTH:
      return "length";
    case v1::FINISH_REASON_ABORT:
      return "abort";
    default:
      return "unknown";
  }
}

std::string describe(v1::BasePolicy policy) {
  return lower_without(v1::BasePolicy_Name(policy), std::string_view("BASE_POLICY_").size());
}

std::string describe(v1::KvDtype dtype) {
  return lower_without(v1::KvDtype_Name(dtype), std::string_view("KV_DTYPE_").size());
}

void print_summary(std::ostream& out, const v1::FinishInfo& finish) {
  const auto& usage = finish.usage();
  const int cached = usage.cached_prompt_tokens();
  out << "finish:      " << describe(finish.reason());
  if (!finish.stop_match().empty()) out << " (" << printable(finish.stop_match()) << ")";
  out << '\n'
      << "tokens:      " << usage.prompt_tokens() << " prompt"
      << (cached > 0 ? " (" + std::to_string(cached) + " from the prefix cache)" : "") << ", "
      << usage.completion_tokens() << " generated\n"
      << "time:        " << fixed(usage.queue_ms(), 1) << " ms queued, first token after "
      << fixed(usage.time_to_first_token_ms(), 1) << " ms, " << fixed(ms_per_token(usage), 2)
      << " ms per token, " << fixed(usage.total_ms(), 1) << " ms in all";
  if (usage.preemptions() > 0) out << ", " << usage.preemptions() << " preemptions";
  out << '\n';
  if (usage.drafted_tokens() > 0)
    out << "drafts:      " << usage.drafted_tokens() << " by prompt lookup, " << usage.accepted_draft_tokens()
        << " of them right\n";
  print_compression(out, finish.compression());
}

void print_logprobs(std::ostream& out,
                    const google::protobuf::RepeatedPtrField<v1::PositionLogprobs>& positions) {
  const auto print = [&out](const v1::TokenLogprob& entry) {
    out << std::setw(9) << std::right << fixed(entry.logprob(), 4) << " '" << printable(entry.token())
        << '\'';
  };
  for (const auto& position : positions) {
    print(position.sampled());
    if (position.top_size() > 0) out << "  |";
    for (const auto& entry : position.top()) print(entry);
    out << '\n';
  }
}

std::string to_json_line(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = true;
  std::string json;
  const auto status = google::protobuf::util::MessageToJsonString(message, &json, options);
  return status.ok() ? json : "{}";
}

}  // namespace kvcrush::cli
