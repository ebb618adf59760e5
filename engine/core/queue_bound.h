// How a full queue says which of its bounds was reached: the server counts refusals by it.
#pragma once

#include <string_view>

namespace kvcrush {

// The words for what a queue holds, in the message of a RESOURCE_EXHAUSTED, one or the other.
inline constexpr std::string_view kWaitingSequences = "waiting sequences";
inline constexpr std::string_view kWaitingPromptTokens = "waiting prompt tokens";

}  // namespace kvcrush
