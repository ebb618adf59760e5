#include "engine/loader/stop_tokens.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace kvcrush {
namespace {

constexpr std::array<std::string_view, 7> kTurnEnds = {
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|endoftext|>", "<|end_of_text|>", "<end_of_turn>", "<|end|>"};
constexpr std::size_t kMaxStopIds = 64;

}  // namespace

Status set_stop_ids(std::span<const TokenId> declared, const std::string& source, TokenizerSpec& spec) {
  spec.stop_ids.clear();
  const auto add = [&](TokenId id) {
    if (id < 0 || spec.stop_ids.size() > kMaxStopIds) return;
    if (std::find(spec.stop_ids.begin(), spec.stop_ids.end(), id) == spec.stop_ids.end())
      spec.stop_ids.push_back(id);
  };
  add(spec.eos_id);
  std::for_each(declared.begin(), declared.end(), add);
  for (std::size_t i = 0; i < spec.tokens.size(); ++i) {
    if (spec.kinds[i] != TokenKind::kControl && spec.kinds[i] != TokenKind::kUserDefined) continue;
    if (std::find(kTurnEnds.begin(), kTurnEnds.end(), spec.tokens[i]) == kTurnEnds.end()) continue;
    spec.kinds[i] = TokenKind::kControl;  // Gemma's vocabulary calls its markers user-defined
    add(static_cast<TokenId>(i));
  }
  if (spec.stop_ids.size() <= kMaxStopIds) return {};
  return invalid_argument(source + ": more than " + std::to_string(kMaxStopIds) + " tokens end a turn");
}

}  // namespace kvcrush
