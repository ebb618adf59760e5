#include "engine/sampling/params.h"

#include <cstddef>
#include <string>

namespace kvcrush {
namespace {

constexpr std::size_t kMaxStopTokenIds = 64;
constexpr int kMaxLogprobs = 20;

template <typename T>
Status refuse(const std::string& field, T value, const std::string& allowed) {
  return invalid_argument(std::string("sampling.") + field + " is " + std::to_string(value) +
                          ", allowed: " + allowed);
}

// Written so that NaN is refused.
Status check_closed(const char* field, float value, float low, float high, const char* allowed) {
  if (value >= low && value <= high) return {};
  return refuse(field, value, allowed);
}

Status check_positive(const char* field, float value, float high, const char* allowed) {
  if (value > 0.0f && value <= high) return {};
  return refuse(field, value, allowed);
}

Status check_length_and_stops(const SamplingParams& params, int vocab_size) {
  if (params.max_tokens < 1) return refuse("max_tokens", params.max_tokens, ">= 1");
  if (params.min_tokens < 0 || params.min_tokens > params.max_tokens) {
    return refuse("min_tokens", params.min_tokens,
                  std::string("[0, max_tokens = ") + std::to_string(params.max_tokens) + "]");
  }
  if (params.stop_token_ids.size() > kMaxStopTokenIds) {
    return invalid_argument(std::string("sampling.stop_token_ids has ") +
                            std::to_string(params.stop_token_ids.size()) + " ids, allowed: at most " +
                            std::to_string(kMaxStopTokenIds));
  }
  for (std::size_t i = 0; i < params.stop_token_ids.size(); ++i) {
    const TokenId id = params.stop_token_ids[i];
    if (id < 0 || id >= vocab_size) {
      return refuse(std::string("stop_token_ids[") + std::to_string(i) + "]", id,
                    std::string("[0, vocab_size = ") + std::to_string(vocab_size) + ")");
    }
  }
  return {};
}

}  // namespace

Status validate(const SamplingParams& params, int vocab_size) {
  KVCRUSH_RETURN_IF_ERROR(check_closed("temperature", params.temperature, 0.0f, 100.0f, "[0, 100]"));
  if (params.top_k < 0) return refuse("top_k", params.top_k, ">= 0");
  KVCRUSH_RETURN_IF_ERROR(check_positive("top_p", params.top_p, 1.0f, "(0, 1]"));
  KVCRUSH_RETURN_IF_ERROR(check_closed("min_p", params.min_p, 0.0f, 1.0f, "[0, 1]"));
  KVCRUSH_RETURN_IF_ERROR(check_positive("repetition_penalty", params.repetition_penalty, 10.0f, "(0, 10]"));
  KVCRUSH_RETURN_IF_ERROR(check_closed("presence_penalty", params.presence_penalty, -2.0f, 2.0f, "[-2, 2]"));
  KVCRUSH_RETURN_IF_ERROR(
      check_closed("frequency_penalty", params.frequency_penalty, -2.0f, 2.0f, "[-2, 2]"));
  if (params.num_logprobs && (*params.num_logprobs < 0 || *params.num_logprobs > kMaxLogprobs)) {
    return refuse("num_logprobs", *params.num_logprobs,
                  std::string("[0, ") + std::to_string(kMaxLogprobs) + "]");
  }
  return check_length_and_stops(params, vocab_size);
}

}  // namespace kvcrush
