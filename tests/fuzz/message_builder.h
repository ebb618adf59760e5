// Builds any protobuf message out of an input: which fields, and values of every kind. Unlike bytes off the
// wire it is always a message that parses, so mutations get past the parser.
#pragma once

#include <google/protobuf/message.h>

#include "tests/fuzz/fuzz_input.h"

namespace kvcrush::fuzz {

void fill_message(google::protobuf::Message& message, FuzzInput& input);

}  // namespace kvcrush::fuzz
