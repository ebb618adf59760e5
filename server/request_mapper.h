// From the wire to a checked request. Past this point only validated values exist.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/core/status.h"
#include "engine/engine.h"
#include "engine/tokenizer/chat_abilities.h"
#include "engine/tokenizer/chat_template.h"
#include "engine/tokenizer/tokenizer.h"
#include "kvcrush/v1/inference.pb.h"
#include "server/caller.h"
#include "server/compression_mapper.h"

namespace kvcrush {

struct RequestDefaults {
  int max_tokens = 256;
  CompressionDefaults compression;
};

struct MapperContext {
  std::shared_ptr<const Tokenizer> tokenizer;
  std::shared_ptr<const ChatTemplate> chat_template;  // null: chat is answered with FAILED_PRECONDITION
  ChatAbilities chat_abilities;
  std::string no_chat_reason;
  EngineLimits limits;
  std::function<int(int num_prompt_tokens, const CachePolicy&)> max_new_tokens;
  RequestDefaults defaults;
};

// What the server itself needs to turn a sample's tokens into text.
struct TextRules {
  std::vector<std::string> stop;  // strings that end the text
  int min_tokens = 0;             // stop strings completed earlier do not count
  bool begins_text = false;       // an answer in a chat, a text of its own: not what goes on after a prompt
};

struct MappedRequest {
  EngineRequest engine;
  TextRules text;
  std::vector<v1::KvCompression> applied;  // one per sample: how its cache is kept, every field
  Admission admission;                     // who asked for it; the service's to fill in
  std::string traceparent;  // the call's, not the message's (trace_context.h); the service sets it
};

struct TokenizedPrompt {
  std::vector<TokenId> token_ids;
  std::string rendered;  // chat only
};

// INVALID_ARGUMENT names field, value and allowed range; FAILED_PRECONDITION: chat without a template.
Result<MappedRequest> map_generate_request(const v1::GenerateRequest& request, const MapperContext& context);
// The same for Score: one sample per variant, nothing is sampled.
Result<MappedRequest> map_score_request(const v1::ScoreRequest& request, const MapperContext& context);

// chat_mapper.cpp
Result<TokenizedPrompt> tokenize_chat(const v1::ChatMessages& chat, const MapperContext& context);

// 128 random bits as 32 hex digits.
std::string random_request_id();

}  // namespace kvcrush
