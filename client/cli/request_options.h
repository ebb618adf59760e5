// Command-line options that fill a GenerateRequest. Only what is given is set; ranges are the server's to
// check.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string_view>

#include "kvcrush/v1/inference.pb.h"

namespace kvcrush::cli {

// "0.25" and "25%" are fractions of the prompt, "1024" is tokens per layer. False: neither.
bool parse_budget(std::string_view text, v1::KvCompression& compression);

// `request` must outlive the parse.
void add_sampling_options(CLI::App& app, v1::GenerateRequest& request);
void add_compression_options(CLI::App& app, v1::GenerateRequest& request);

}  // namespace kvcrush::cli
