// Command-line options that fill a KvCompression. Only what is given is set; ranges are the server's to
// check.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "client/kvcrush_client.h"

namespace kvcrush::cli {

// "0.25" and "25%" are fractions of the prompt, "1024" is tokens per layer. False: neither.
bool parse_budget(std::string_view text, v1::KvCompression& compression);

// `message` is asked for the message to fill once an option is given, so that a request without one has none.
void add_compression_options(CLI::App& app, const std::function<v1::KvCompression&()>& message);
// `request` must outlive the parse.
void add_compression_options(CLI::App& app, v1::GenerateRequest& request);

// "policy=snapkv,budget=0.25,kv_dtype=int4": the options above by their names, without dashes in front.
client::Result<v1::KvCompression> parse_variant(const std::string& text);

struct Variants {
  std::vector<std::string> labels;  // as they were spelled
  std::vector<v1::KvCompression> parsed;
};
// --variant, once for each. `variants` must outlive the parse.
void add_variant_option(CLI::App& app, Variants& variants, const std::string& help);

}  // namespace kvcrush::cli
