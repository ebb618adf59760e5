// What the log may say of a request's text: nothing, unless --log-prompts asks for it.
#pragma once

#include <string>

#include "engine/core/status.h"
#include "server/request_mapper.h"

namespace kvcrush {

// For --log-prompts: the beginning of the prompt, as the model sees it.
void log_prompt(const MappedRequest& request, const Tokenizer& tokenizer);

// The id where it is one; a refused one is free text.
std::string loggable_id(const std::string& request_id);

// A chat template's own complaint may quote the message that it complains about.
std::string loggable_reason(const Status& status);

}  // namespace kvcrush
