#include "server/prompt_log.h"

#include <algorithm>
#include <span>

#include "server/logging.h"
#include "server/request_parts.h"

namespace kvcrush {

void log_prompt(const MappedRequest& request, const Tokenizer& tokenizer) {
  constexpr std::size_t kMostTokens = 256;
  constexpr std::size_t kMostBytes = 1024;
  const std::vector<TokenId>& ids = request.engine.prompt_token_ids;
  const std::span<const TokenId> first(ids.data(), std::min(ids.size(), kMostTokens));
  const std::string text = tokenizer.decode(first, /*skip_special_tokens=*/false);
  LogLine(spdlog::level::info, "prompt")
      .with("request_id", request.engine.request_id)
      .with("cut", ids.size() > kMostTokens || text.size() > kMostBytes)
      .with("text", text.substr(0, kMostBytes));
}

std::string loggable_id(const std::string& request_id) {
  return request_id.empty() || map_request_id(request_id).ok() ? request_id : "(not an id)";
}

std::string loggable_reason(const Status& status) {
  constexpr std::string_view kTemplate = "chat: chat template: ";
  if (status.message().starts_with(kTemplate)) return "chat: the chat template refused the messages";
  return status.message();
}

}  // namespace kvcrush
