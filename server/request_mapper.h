// From the wire to a checked request. Past this point only validated values exist.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/core/status.h"
#include "engine/engine.h"
#include "engine/tokenizer/chat_template.h"
#include "engine/tokenizer/tokenizer.h"
#include "kvcrush/v1/inference.pb.h"

namespace kvcrush {

struct RequestDefaults {
  int max_tokens = 256;
  bool compress = false;          // for requests that name no policy
  CompressionParams compression;  // for every field that a request leaves out
};

struct MapperContext {
  std::shared_ptr<const Tokenizer> tokenizer;
  std::shared_ptr<const ChatTemplate> chat_template;  // null: chat is answered with FAILED_PRECONDITION
  std::string no_chat_reason;
  EngineLimits limits;
  std::function<int(int num_prompt_tokens, const std::optional<CompressionParams>&)> max_new_tokens;
  RequestDefaults defaults;
};

// What the server itself needs to turn a sample's tokens into text.
struct TextRules {
  std::vector<std::string> stop;  // strings that end the text
  int min_tokens = 0;             // stop strings completed earlier do not count
};

struct MappedRequest {
  EngineRequest engine;
  TextRules text;
};

struct TokenizedPrompt {
  std::vector<TokenId> token_ids;
  std::string rendered;  // chat only
};

// INVALID_ARGUMENT names field, value and allowed range; FAILED_PRECONDITION: chat without a template.
Result<MappedRequest> map_generate_request(const v1::GenerateRequest& request, const MapperContext& context);

Result<TokenizedPrompt> tokenize_chat(const v1::ChatMessages& chat, const MapperContext& context);

// 128 random bits as 32 hex digits.
std::string random_request_id();

}  // namespace kvcrush
