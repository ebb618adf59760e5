#include "server/proto_convert.h"

#include <gtest/gtest.h>

namespace kvcrush {
namespace {

TEST(ProtoConvert, StatusCodesMapByName) {
  using Pair = std::pair<StatusCode, grpc::StatusCode>;
  for (const auto& [ours, theirs] :
       {Pair{StatusCode::kInvalidArgument, grpc::StatusCode::INVALID_ARGUMENT},
        Pair{StatusCode::kNotFound, grpc::StatusCode::NOT_FOUND},
        Pair{StatusCode::kAlreadyExists, grpc::StatusCode::ALREADY_EXISTS},
        Pair{StatusCode::kResourceExhausted, grpc::StatusCode::RESOURCE_EXHAUSTED},
        Pair{StatusCode::kFailedPrecondition, grpc::StatusCode::FAILED_PRECONDITION},
        Pair{StatusCode::kUnavailable, grpc::StatusCode::UNAVAILABLE},
        Pair{StatusCode::kDeadlineExceeded, grpc::StatusCode::DEADLINE_EXCEEDED},
        Pair{StatusCode::kCancelled, grpc::StatusCode::CANCELLED},
        Pair{StatusCode::kUnimplemented, grpc::StatusCode::UNIMPLEMENTED},
        Pair{StatusCode::kInternal, grpc::StatusCode::INTERNAL},
        Pair{StatusCode::kPermissionDenied, grpc::StatusCode::PERMISSION_DENIED},
        Pair{StatusCode::kUnauthenticated, grpc::StatusCode::UNAUTHENTICATED}}) {
    const grpc::Status status = to_grpc_status({ours, "why"});
    EXPECT_EQ(status.error_code(), theirs);
    EXPECT_EQ(status.error_message(), "why");
  }
  EXPECT_TRUE(to_grpc_status({}).ok());
}

TEST(ProtoConvert, LongMessagesAreCutBetweenCharacters) {
  std::string text;
  while (text.size() < 5000) text += "\xE2\x82\xAC";
  const std::string cut = to_grpc_status(invalid_argument(text)).error_message();
  EXPECT_LE(cut.size(), 2051u);
  EXPECT_EQ((cut.size() - 3) % 3, 0u);
  EXPECT_TRUE(cut.ends_with("\xAC..."));
}

TEST(ProtoConvert, FinishEventFillsEveryField) {
  FinishEvent event;
  event.reason = FinishReason::kAbort;
  event.prompt_tokens = 1;
  event.completion_tokens = 2;
  event.queue_ms = 3;
  event.time_to_first_token_ms = 4;
  event.total_ms = 5;
  event.preemptions = 6;
  event.drafted_tokens = 8;
  event.accepted_draft_tokens = 7;
  event.compression = {.enabled = true,
                       .pruned = true,
                       .budget_tokens = 7,
                       .tokens_kept = {1, 2.5, 3},
                       .tokens_evicted = {4, 5.5, 6},
                       .windows = {.num_layers = 12,
                                   .tokens_cached = {13, 14, 15},
                                   .tokens_evicted = {16, 17, 18},
                                   .tokens_dropped = {19, 20, 21}},
                       .kv_bytes_before = 8,
                       .kv_bytes_after = 9,
                       .blocks_freed = 10,
                       .prune_count = 11,
                       .lookahead_tokens = 8,
                       .lookahead_tokens_used = 5,
                       .prune_ms = 6,
                       .score_ms = 1,
                       .select_ms = 2,
                       .compact_ms = 3,
                       .kv_bytes_full_16bit = 24,
                       .kv_bytes_held = 16,
                       .note = "why"};
  v1::KvCompression applied;
  applied.set_kv_dtype(v1::KV_DTYPE_INT4);
  v1::FinishInfo info;
  fill_finish_info(event, applied, info);
  EXPECT_EQ(info.reason(), v1::FINISH_REASON_ABORT);
  EXPECT_EQ(info.usage().prompt_tokens(), 1);
  EXPECT_EQ(info.usage().completion_tokens(), 2);
  EXPECT_EQ(info.usage().queue_ms(), 3);
  EXPECT_EQ(info.usage().time_to_first_token_ms(), 4);
  EXPECT_EQ(info.usage().total_ms(), 5);
  EXPECT_EQ(info.usage().preemptions(), 6);
  EXPECT_EQ(info.usage().drafted_tokens(), 8);
  EXPECT_EQ(info.usage().accepted_draft_tokens(), 7);
  const v1::CompressionReport& report = info.compression();
  EXPECT_TRUE(report.enabled() && report.pruned());
  EXPECT_EQ(report.budget_tokens(), 7);
  EXPECT_EQ(report.tokens_kept().mean(), 2.5);
  EXPECT_EQ(report.tokens_evicted().max(), 6);
  EXPECT_EQ(report.windows().num_layers(), 12);
  EXPECT_EQ(report.windows().tokens_cached().min(), 13);
  EXPECT_EQ(report.windows().tokens_evicted().max(), 18);
  EXPECT_EQ(report.windows().tokens_dropped().mean(), 20);
  EXPECT_EQ(report.kv_bytes_before(), 8);
  EXPECT_EQ(report.kv_bytes_after(), 9);
  EXPECT_EQ(report.blocks_freed(), 10);
  EXPECT_EQ(report.prune_count(), 11);
  EXPECT_EQ(report.lookahead_tokens(), 8);
  EXPECT_EQ(report.lookahead_tokens_used(), 5);
  EXPECT_EQ(report.prune_ms(), 6);
  EXPECT_EQ(report.score_ms() + report.select_ms() + report.compact_ms(), 6);
  EXPECT_EQ(report.kv_bytes_full_16bit(), 24);
  EXPECT_EQ(report.compression_ratio(), 1.5);
  EXPECT_EQ(report.note(), "why");
  EXPECT_EQ(report.applied().kv_dtype(), v1::KV_DTYPE_INT4);
  // A field added to the message needs to be filled too.
  EXPECT_EQ(v1::CompressionReport::descriptor()->field_count(), 20);
}

}  // namespace
}  // namespace kvcrush
