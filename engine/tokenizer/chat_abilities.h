// What a chat template makes of a conversation, found out by trying.
#pragma once

#include "engine/tokenizer/chat_template.h"

namespace kvcrush {

struct ChatAbilities {
  bool system = true;  // accepts a system message and shows it
  bool tools = true;   // shows the tools of a prompt
};

// Where a template refuses every trial it is not known, and stays true: requests will tell.
ChatAbilities find_chat_abilities(const ChatTemplate& chat_template);

}  // namespace kvcrush
