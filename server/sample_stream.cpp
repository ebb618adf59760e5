#include "server/sample_stream.h"

#include <utility>

#include "server/proto_convert.h"

namespace kvcrush {
namespace {

// gRPC clients take messages of 4 MB by default; with 20 logprobs a token is about 1 kB.
constexpr std::size_t kFullChunkTextBytes = 256 * 1024;
constexpr int kFullChunkTokens = 1024;

}  // namespace

SampleStream::SampleStream(std::shared_ptr<const Tokenizer> tokenizer, const TextRules& rules, int index,
                           v1::KvCompression applied)
    : tokenizer_(std::move(tokenizer)),
      rules_(rules),
      decoder_(tokenizer_, rules.stop, /*skip_special_tokens=*/true),
      index_(index),
      applied_(std::move(applied)) {}

bool SampleStream::absorb(const TokenEvent& event) {
  if (stopped_ || finished()) return false;
  ++num_tokens_;
  v1::GenerateResponse& chunk = open_chunk();
  chunk.add_token_ids(event.token);
  append_logprobs(event, chunk);
  if (event.is_end_token) return false;
  chunk.mutable_text()->append(decoder_.push(event.token, num_tokens_ >= rules_.min_tokens));
  stopped_ = decoder_.stop_match().has_value();
  return stopped_;
}

void SampleStream::absorb(const FinishEvent& event) {
  if (finished()) return;
  v1::GenerateResponse& chunk = open_chunk();
  chunk.mutable_text()->append(decoder_.flush());
  FinishEvent seen = event;
  if (!score_) seen.completion_tokens = num_tokens_;
  v1::FinishInfo& info = *chunk.mutable_finish();
  if (decoder_.stop_match()) {
    seen.reason = FinishReason::kStop;
    info.set_stop_match(*decoder_.stop_match());
  }
  fill_finish_info(seen, applied_, info);
  finish_reason_ = seen.reason;
}

v1::GenerateResponse SampleStream::take_chunk() {
  v1::GenerateResponse chunk = std::move(chunks_.front());
  chunks_.pop_front();
  return chunk;
}

v1::GenerateResponse& SampleStream::open_chunk() {
  const bool full = chunks_.empty() || chunks_.back().text().size() >= kFullChunkTextBytes ||
                    chunks_.back().token_ids_size() >= kFullChunkTokens;
  if (full) chunks_.emplace_back().set_index(index_);
  return chunks_.back();
}

void SampleStream::append_logprobs(const TokenEvent& event, v1::GenerateResponse& chunk) {
  if (!event.logprob) return;
  const auto fill = [this](const LogprobEntry& entry, v1::TokenLogprob& out) {
    out.set_token_id(entry.token);
    out.set_token(replace_broken_utf8(tokenizer_->token_bytes(entry.token)));
    out.set_logprob(entry.logprob);
  };
  v1::PositionLogprobs& position = *chunk.add_logprobs();
  fill(*event.logprob, *position.mutable_sampled());
  for (const LogprobEntry& entry : event.top_logprobs) fill(entry, *position.add_top());
}

}  // namespace kvcrush
