// The lines about a model itself: a new one is a row in facts_of.
#pragma once

#include <string>
#include <vector>

#include "client/inspect/inspection.h"
#include "engine/loader/model_reading.h"

namespace kvcrush::inspect {

// Only what is known: of a model that is not supported that may be little. `chat_template`: "yes", "none" or
// "not understood".
std::vector<Fact> facts_of(const ModelReading& reading, const std::string& chat_template);

}  // namespace kvcrush::inspect
