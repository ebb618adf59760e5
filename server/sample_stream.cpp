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
      decoder_(tokenizer_, rules.stop, /*skip_special_tokens=*/true, rules.begins_text),
      index_(index),
      applied_(std::move(applied)) {}

bool SampleStream::absorb(const TokenEvent& event) {
  if (stopped_ || finished()) return false;
  ++num_tokens_;
  Chunk& chunk = open_chunk();
  chunk.message.add_token_ids(event.token);
  grow(chunk, sizeof(TokenId) + append_logprobs(event, chunk.message));
  if (event.is_end_token) return false;
  const std::string text = decoder_.push(event.token, num_tokens_ >= rules_.min_tokens);
  chunk.message.mutable_text()->append(text);
  grow(chunk, text.size());
  stopped_ = decoder_.stop_match().has_value();
  return stopped_;
}

void SampleStream::absorb(const FinishEvent& event) {
  if (finished()) return;
  Chunk& chunk = open_chunk();
  const std::string text = decoder_.flush();
  chunk.message.mutable_text()->append(text);
  FinishEvent seen = event;
  if (!score_) seen.completion_tokens = num_tokens_;
  v1::FinishInfo& info = *chunk.message.mutable_finish();
  if (decoder_.stop_match()) {
    seen.reason = FinishReason::kStop;
    info.set_stop_match(*decoder_.stop_match());
  }
  fill_finish_info(seen, applied_, info);
  grow(chunk, text.size() + info.SpaceUsedLong());
  // The engine stops both clocks at once for a sample that never left the queue.
  end_ = {.reason = seen.reason, .in_queue = seen.queue_ms >= seen.total_ms, .total_ms = seen.total_ms};
}

v1::GenerateResponse SampleStream::take_chunk() {
  Chunk chunk = std::move(chunks_.front());
  chunks_.pop_front();
  unread_bytes_ -= chunk.num_bytes;
  return std::move(chunk.message);
}

void SampleStream::drop_chunks() {
  chunks_.clear();
  unread_bytes_ = 0;
}

SampleStream::Chunk& SampleStream::open_chunk() {
  const bool full = chunks_.empty() || chunks_.back().message.text().size() >= kFullChunkTextBytes ||
                    chunks_.back().message.token_ids_size() >= kFullChunkTokens;
  if (full) {
    chunks_.emplace_back().message.set_index(index_);
    grow(chunks_.back(), sizeof(Chunk));
  }
  return chunks_.back();
}

void SampleStream::grow(Chunk& chunk, std::size_t num_bytes) {
  chunk.num_bytes += num_bytes;
  unread_bytes_ += num_bytes;
}

std::size_t SampleStream::append_logprobs(const TokenEvent& event, v1::GenerateResponse& chunk) const {
  if (!event.logprob) return 0;
  const auto fill = [this](const LogprobEntry& entry, v1::TokenLogprob& out) {
    out.set_token_id(entry.token);
    out.set_token(replace_broken_utf8(tokenizer_->token_bytes(entry.token)));
    out.set_logprob(entry.logprob);
  };
  v1::PositionLogprobs& position = *chunk.add_logprobs();
  fill(*event.logprob, *position.mutable_sampled());
  for (const LogprobEntry& entry : event.top_logprobs) fill(entry, *position.add_top());
  return position.SpaceUsedLong();
}

}  // namespace kvcrush
