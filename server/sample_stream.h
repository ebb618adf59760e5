// One sample on its way to the client: engine events in, chunks of text out. Knows nothing of gRPC calls or
// threads.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <utility>

#include "engine/core/token_stream.h"
#include "engine/tokenizer/incremental_decoder.h"
#include "kvcrush/v1/inference.pb.h"
#include "server/request_mapper.h"

namespace kvcrush {

class SampleStream {
 public:
  // `applied`: how its cache is kept, for the report at its end.
  SampleStream(std::shared_ptr<const Tokenizer> tokenizer, const TextRules& rules, int index,
               v1::KvCompression applied = {});

  // True when this token completed a stop string: the engine must be told to end the sample. Tokens after it
  // are ignored.
  bool absorb(const TokenEvent& event);
  void absorb(ScoreEvent event) { score_ = std::move(event); }
  void absorb(const FinishEvent& event);

  bool finished() const { return finish_reason_.has_value(); }
  // Why it ended, as the client sees it: a stop string that matched counts as kStop, however the engine ended
  // the sample.
  std::optional<FinishReason> finish_reason() const { return finish_reason_; }

  // Of a sample that scores a continuation; null before it has come.
  const ScoreEvent* score() const { return score_ ? &*score_ : nullptr; }

  // Something for the client has gathered since the last take_chunk(): tokens, text or the end.
  bool has_chunk() const { return !chunks_.empty(); }
  // The oldest part of it, small enough for any client's message limit; only the last part carries the end.
  v1::GenerateResponse take_chunk();

 private:
  v1::GenerateResponse& open_chunk();
  void append_logprobs(const TokenEvent& event, v1::GenerateResponse& chunk);

  std::shared_ptr<const Tokenizer> tokenizer_;
  TextRules rules_;
  IncrementalDecoder decoder_;
  int index_;
  v1::KvCompression applied_;
  int num_tokens_ = 0;  // delivered, up to and with the one that completed a stop string
  bool stopped_ = false;
  std::optional<ScoreEvent> score_;
  std::optional<FinishReason> finish_reason_;
  std::deque<v1::GenerateResponse> chunks_;
};

}  // namespace kvcrush
