// How options are declared: a flag, its variable and its place in the help. For config*.cpp alone.
#pragma once

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <charconv>
#include <string>
#include <string_view>

#include "engine/core/status.h"
#include "kvcrush/v1/inference.pb.h"
#include "server/limits.h"
#include "server/security_options.h"

namespace kvcrush {

inline std::string environment_name(std::string name) {
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return c == '-' ? '_' : static_cast<char>(std::toupper(c)); });
  return "KVCRUSH_" + name;
}

// False: `text` is not a number, or more than one.
template <typename T>
bool parse_whole(std::string_view text, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

template <typename T>
CLI::Option* add(CLI::App& app, const char* group, const std::string& name, T& value,
                 const std::string& help) {
  return app.add_option("--" + name, value, help)
      ->group(group)
      ->envname(environment_name(name))
      ->capture_default_str();
}

// Who may connect and call.
void add_security_options(CLI::App& app, const char* group, SecurityOptions& options);

// Every --default-* option of compression; only what is named is set in `given`, which outlives the parse.
void add_compression_defaults(CLI::App& app, const char* group, v1::KvCompression& given);

// Limits that are spelled differently from how ServerLimits stores them.
struct RawLimits {
  std::string max_metadata_bytes = "16KiB";
  std::string max_unread_bytes = "1MiB";
};
// Both outlive the parse.
void add_limits(CLI::App& app, ServerLimits& limits, RawLimits& raw);
Status apply_limits(const RawLimits& raw, ServerLimits& limits);

}  // namespace kvcrush
