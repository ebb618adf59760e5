// What a finished sample tells about itself, in words.
#pragma once

#include <iosfwd>
#include <string>

#include "kvcrush/v1/inference.pb.h"

namespace kvcrush::cli {

// Mean time between tokens after the first, in ms; 0 with fewer than two tokens.
double ms_per_token(const v1::Usage& usage);
// "12 to 14, mean 13.0 per layer"
std::string describe(const v1::LayerTokens& tokens);
std::string describe(v1::FinishReason reason);  // "stop", "length", "abort"
std::string describe(v1::BasePolicy policy);    // "off", "snapkv", ...
std::string describe(v1::KvDtype dtype);        // "f32", "int4", ...

// Line breaks and tabs shown as \\n and \\t, so that the text stays on its line.
std::string printable(const std::string& text);

// Usage and compression, a few lines.
void print_summary(std::ostream& out, const v1::FinishInfo& finish);
// One line per token: log-probability and text, then the likeliest.
void print_logprobs(std::ostream& out,
                    const google::protobuf::RepeatedPtrField<v1::PositionLogprobs>& positions);
// The message as one line of JSON, fields named as in the proto file.
std::string to_json_line(const google::protobuf::Message& message);

}  // namespace kvcrush::cli
