#include "server/proto_convert.h"

#include <spdlog/fmt/fmt.h>

#include <array>
#include <string_view>
#include <utility>

namespace kvcrush {
namespace {

constexpr std::size_t kMaxStatusBytes = 2048;

constexpr std::array<std::pair<v1::Anchor, AnchorKind>, 5> kAnchors{{
    {v1::ANCHOR_RANDOM, AnchorKind::kRandom},
    {v1::ANCHOR_ZEROS, AnchorKind::kZeros},
    {v1::ANCHOR_ONES, AnchorKind::kOnes},
    {v1::ANCHOR_MEAN, AnchorKind::kMean},
    {v1::ANCHOR_ALTERNATING, AnchorKind::kAlternating},
}};
constexpr std::array<std::pair<v1::Granularity, Granularity>, 1> kGranularities{{
    {v1::GRANULARITY_TOKEN, Granularity::kToken},
}};
constexpr std::array<std::pair<v1::TokenSets, TokenSets>, 2> kTokenSets{{
    {v1::TOKEN_SETS_PER_LAYER, TokenSets::kPerLayer},
    {v1::TOKEN_SETS_PER_KV_HEAD, TokenSets::kPerKvHead},
}};
constexpr std::array<std::pair<v1::RepresentativePick, RepresentativePick>, 2> kPicks{{
    {v1::REPRESENTATIVE_PICK_FIRST, RepresentativePick::kFirst},
    {v1::REPRESENTATIVE_PICK_BEST, RepresentativePick::kBest},
}};
constexpr std::array<std::pair<v1::PruneWhen, PruneWhen>, 2> kPruneWhens{{
    {v1::PRUNE_WHEN_AFTER_PROMPT, PruneWhen::kAfterPrompt},
    {v1::PRUNE_WHEN_DURING_PREFILL, PruneWhen::kDuringPrefill},
}};

// Number 0, UNSPECIFIED, leaves `ours` as it is.
template <typename Wire, typename Ours, std::size_t N>
Status map_enum(std::string_view field, Wire wire, const std::array<std::pair<Wire, Ours>, N>& table,
                Ours& ours) {
  if (static_cast<int>(wire) == 0) return {};
  for (const auto& [theirs, mine] : table) {
    if (theirs == wire) {
      ours = mine;
      return {};
    }
  }
  return invalid_argument(fmt::format("compression.{} is {}, allowed: [0, {}]", field, static_cast<int>(wire),
                                      static_cast<int>(N)));
}

template <typename Wire, typename Ours, std::size_t N>
Wire wire_enum(Ours ours, const std::array<std::pair<Wire, Ours>, N>& table) {
  for (const auto& [theirs, mine] : table) {
    if (mine == ours) return theirs;
  }
  return static_cast<Wire>(0);
}

bool has_fields_beside_policy(const v1::KvCompression& wire) {
  v1::KvCompression without = wire;
  without.clear_policy();
  return without.ByteSizeLong() > 0;
}

Result<CompressionParams> overlay(const v1::KvCompression& wire, CompressionParams params) {
  if (wire.budget_case() == v1::KvCompression::kBudgetTokens) {
    params.budget_tokens = wire.budget_tokens();
    params.budget_fraction.reset();
  } else if (wire.budget_case() == v1::KvCompression::kBudgetFraction) {
    params.budget_fraction = wire.budget_fraction();
    params.budget_tokens.reset();
  }
  if (wire.has_representative_share()) params.representative_share = wire.representative_share();
  if (wire.has_num_sink_tokens()) params.num_sink_tokens = wire.num_sink_tokens();
  if (wire.has_window_tokens()) params.window_tokens = wire.window_tokens();
  if (wire.has_pool_kernel_tokens()) params.pool_kernel_tokens = wire.pool_kernel_tokens();
  if (wire.has_seed()) params.seed = wire.seed();
  KVCRUSH_RETURN_IF_ERROR(map_enum("anchor", wire.anchor(), kAnchors, params.anchor));
  KVCRUSH_RETURN_IF_ERROR(map_enum("granularity", wire.granularity(), kGranularities, params.granularity));
  KVCRUSH_RETURN_IF_ERROR(map_enum("token_sets", wire.token_sets(), kTokenSets, params.token_sets));
  KVCRUSH_RETURN_IF_ERROR(map_enum("pick", wire.pick(), kPicks, params.pick));
  KVCRUSH_RETURN_IF_ERROR(map_enum("when", wire.when(), kPruneWhens, params.when));
  KVCRUSH_RETURN_IF_ERROR(validate(params));
  return params;
}

grpc::StatusCode to_grpc_code(StatusCode code) {
  switch (code) {
    case StatusCode::kOk:
      return grpc::StatusCode::OK;
    case StatusCode::kInvalidArgument:
      return grpc::StatusCode::INVALID_ARGUMENT;
    case StatusCode::kNotFound:
      return grpc::StatusCode::NOT_FOUND;
    case StatusCode::kAlreadyExists:
      return grpc::StatusCode::ALREADY_EXISTS;
    case StatusCode::kResourceExhausted:
      return grpc::StatusCode::RESOURCE_EXHAUSTED;
    case StatusCode::kFailedPrecondition:
      return grpc::StatusCode::FAILED_PRECONDITION;
    case StatusCode::kUnavailable:
      return grpc::StatusCode::UNAVAILABLE;
    case StatusCode::kDeadlineExceeded:
      return grpc::StatusCode::DEADLINE_EXCEEDED;
    case StatusCode::kCancelled:
      return grpc::StatusCode::CANCELLED;
    case StatusCode::kUnimplemented:
      return grpc::StatusCode::UNIMPLEMENTED;
    case StatusCode::kInternal:
      return grpc::StatusCode::INTERNAL;
  }
  return grpc::StatusCode::INTERNAL;
}

void fill_spread(const LayerSpread& spread, v1::LayerTokens& out) {
  out.set_min(spread.min);
  out.set_mean(spread.mean);
  out.set_max(spread.max);
}

void fill_report(const CompressionOutcome& outcome, v1::CompressionReport& report) {
  report.set_enabled(outcome.enabled);
  report.set_pruned(outcome.pruned);
  report.set_budget_tokens(outcome.budget_tokens);
  fill_spread(outcome.tokens_kept, *report.mutable_tokens_kept());
  fill_spread(outcome.tokens_evicted, *report.mutable_tokens_evicted());
  report.set_kv_bytes_before(outcome.kv_bytes_before);
  report.set_kv_bytes_after(outcome.kv_bytes_after);
  report.set_blocks_freed(outcome.blocks_freed);
  report.set_prune_count(outcome.prune_count);
  report.set_prune_ms(outcome.score_ms + outcome.select_ms + outcome.compact_ms);
  report.set_score_ms(outcome.score_ms);
  report.set_select_ms(outcome.select_ms);
  report.set_compact_ms(outcome.compact_ms);
}

}  // namespace

grpc::Status to_grpc_status(const Status& status) {
  if (status.ok()) return grpc::Status::OK;
  std::string message = status.message();
  if (message.size() > kMaxStatusBytes) {
    std::size_t end = kMaxStatusBytes;
    while (end > 0 && (static_cast<unsigned char>(message[end]) & 0xC0u) == 0x80u) --end;
    message = message.substr(0, end) + "...";
  }
  return {to_grpc_code(status.code()), message};
}

v1::FinishReason to_proto(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return v1::FINISH_REASON_STOP;
    case FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    case FinishReason::kAbort:
    case FinishReason::kError:  // the status says INTERNAL
      return v1::FINISH_REASON_ABORT;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

v1::KvCompression to_proto(const CompressionParams& params) {
  v1::KvCompression wire;
  wire.set_policy(v1::BASE_POLICY_SNAPKV);
  if (params.budget_tokens) wire.set_budget_tokens(*params.budget_tokens);
  if (params.budget_fraction) wire.set_budget_fraction(*params.budget_fraction);
  wire.set_representative_share(params.representative_share);
  wire.set_anchor(wire_enum(params.anchor, kAnchors));
  wire.set_granularity(wire_enum(params.granularity, kGranularities));
  wire.set_token_sets(wire_enum(params.token_sets, kTokenSets));
  wire.set_pick(wire_enum(params.pick, kPicks));
  wire.set_num_sink_tokens(params.num_sink_tokens);
  wire.set_window_tokens(params.window_tokens);
  wire.set_pool_kernel_tokens(params.pool_kernel_tokens);
  wire.set_seed(params.seed);
  wire.set_when(wire_enum(params.when, kPruneWhens));
  return wire;
}

void fill_finish_info(const FinishEvent& event, v1::FinishInfo& info) {
  info.set_reason(to_proto(event.reason));
  v1::Usage& usage = *info.mutable_usage();
  usage.set_prompt_tokens(event.prompt_tokens);
  usage.set_completion_tokens(event.completion_tokens);
  usage.set_queue_ms(event.queue_ms);
  usage.set_time_to_first_token_ms(event.time_to_first_token_ms);
  usage.set_total_ms(event.total_ms);
  usage.set_preemptions(event.preemptions);
  fill_report(event.compression, *info.mutable_compression());
}

Result<std::optional<CompressionParams>> map_compression(const v1::KvCompression* wire,
                                                         bool compress_by_default,
                                                         const CompressionParams& defaults) {
  using Mapped = std::optional<CompressionParams>;
  if (wire == nullptr) return compress_by_default ? Mapped(defaults) : Mapped();
  switch (wire->policy()) {
    case v1::BASE_POLICY_OFF:
      return Mapped();
    case v1::BASE_POLICY_SNAPKV:
      break;
    case v1::BASE_POLICY_UNSPECIFIED:
      if (compress_by_default) break;
      if (!has_fields_beside_policy(*wire)) return Mapped();
      return invalid_argument(
          "compression.policy is BASE_POLICY_UNSPECIFIED and this server's default is off, allowed beside "
          "other "
          "compression fields: BASE_POLICY_SNAPKV, BASE_POLICY_OFF");
    default:
      return invalid_argument(
          fmt::format("compression.policy is {}, allowed: [0, 2]", static_cast<int>(wire->policy())));
  }
  Result<CompressionParams> params = overlay(*wire, defaults);
  KVCRUSH_RETURN_IF_ERROR(params.status());
  return Mapped(std::move(params).value());
}

}  // namespace kvcrush
