#include "engine/kvcrush/params.h"

#include <algorithm>
#include <cmath>
#include <string>

namespace kvcrush {
namespace {

constexpr int kMaxSinkTokens = 1024;
constexpr int kMaxWindowTokens = 256;
constexpr int kMaxPoolKernelTokens = 63;

template <typename T>
Status refuse(const char* field, T value, const std::string& allowed) {
  return invalid_argument(std::string("compression.") + field + " is " + std::to_string(value) +
                          ", allowed: " + allowed);
}

Status check_range(const char* field, int value, int low, int high) {
  if (value >= low && value <= high) return {};
  return refuse(field, value, std::string("[") + std::to_string(low) + ", " + std::to_string(high) + "]");
}

Status check_budget(const CompressionParams& params) {
  if (params.budget_tokens.has_value() == params.budget_fraction.has_value()) {
    return invalid_argument(std::string("compression.budget: ") + (params.budget_tokens ? "both" : "none") +
                            " of budget_tokens and budget_fraction given, allowed: exactly one");
  }
  if (params.budget_fraction) {
    const double fraction = *params.budget_fraction;
    if (!(fraction > 0.0 && fraction <= 1.0)) return refuse("budget_fraction", fraction, "(0, 1]");
    return {};
  }
  const int num_fixed_tokens = params.num_sink_tokens + params.window_tokens;
  if (*params.budget_tokens <= num_fixed_tokens) {
    return refuse("budget_tokens", *params.budget_tokens,
                  std::string("> num_sink_tokens + window_tokens = ") +
                      std::to_string(params.num_sink_tokens) + " + " + std::to_string(params.window_tokens) +
                      " = " + std::to_string(num_fixed_tokens));
  }
  return {};
}

}  // namespace

Status validate(const CompressionParams& params) {
  KVCRUSH_RETURN_IF_ERROR(check_range("num_sink_tokens", params.num_sink_tokens, 0, kMaxSinkTokens));
  KVCRUSH_RETURN_IF_ERROR(check_range("window_tokens", params.window_tokens, 1, kMaxWindowTokens));
  if (params.pool_kernel_tokens < 1 || params.pool_kernel_tokens > kMaxPoolKernelTokens ||
      params.pool_kernel_tokens % 2 == 0) {
    return refuse("pool_kernel_tokens", params.pool_kernel_tokens,
                  std::string("odd, [1, ") + std::to_string(kMaxPoolKernelTokens) + "]");
  }
  if (!(params.representative_share >= 0.0 && params.representative_share <= 1.0)) {
    return refuse("representative_share", params.representative_share, "[0, 1]");
  }
  return check_budget(params);
}

int resolve_budget_tokens(const CompressionParams& params, int num_prompt_tokens) {
  if (params.budget_tokens) return *params.budget_tokens;
  KVCRUSH_CHECK(params.budget_fraction.has_value() && num_prompt_tokens >= 0);
  const double share_tokens = std::ceil(*params.budget_fraction * num_prompt_tokens);
  return std::max(static_cast<int>(share_tokens), params.num_sink_tokens + params.window_tokens + 1);
}

}  // namespace kvcrush
