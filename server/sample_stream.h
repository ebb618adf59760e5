// One sample on its way to the client: engine events in, chunks of text out. Knows nothing of gRPC calls or
// threads.
#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <optional>
#include <utility>

#include "engine/core/token_stream.h"
#include "engine/tokenizer/incremental_decoder.h"
#include "kvcrush/v1/inference.pb.h"
#include "server/request_mapper.h"

namespace kvcrush {

struct SampleEnd {
  FinishReason reason = FinishReason::kStop;
  bool in_queue = false;  // the engine never came to it
  double total_ms = 0;    // from its arrival
};

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

  bool finished() const { return end_.has_value(); }
  // How it ended, as the client sees it: a stop string that matched counts as kStop, however the engine ended
  // the sample.
  const std::optional<SampleEnd>& end() const { return end_; }

  // Of a sample that scores a continuation; null before it has come.
  const ScoreEvent* score() const { return score_ ? &*score_ : nullptr; }

  // Something for the client has gathered since the last take_chunk(): tokens, text or the end.
  bool has_chunk() const { return !chunks_.empty(); }
  // The oldest part of it, small enough for any client's message limit; only the last part carries the end.
  v1::GenerateResponse take_chunk();
  // Memory of all that has gathered: text, token ids, log-probabilities and the messages that hold them.
  std::size_t unread_bytes() const { return unread_bytes_; }
  void drop_chunks();  // nobody will take them

 private:
  struct Chunk {
    v1::GenerateResponse message;
    std::size_t num_bytes = 0;
  };

  Chunk& open_chunk();
  void grow(Chunk& chunk, std::size_t num_bytes);
  // The memory that they take.
  std::size_t append_logprobs(const TokenEvent& event, v1::GenerateResponse& chunk) const;

  std::shared_ptr<const Tokenizer> tokenizer_;
  TextRules rules_;
  IncrementalDecoder decoder_;
  int index_;
  v1::KvCompression applied_;
  int num_tokens_ = 0;  // delivered, up to and with the one that completed a stop string
  bool stopped_ = false;
  std::optional<ScoreEvent> score_;
  std::optional<SampleEnd> end_;
  std::deque<Chunk> chunks_;
  std::size_t unread_bytes_ = 0;
};

}  // namespace kvcrush
