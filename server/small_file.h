// Files of settings that are read whole.
#pragma once

#include <string>

#include "engine/core/status.h"

namespace kvcrush {

struct NamedFile {
  std::string option;  // for messages: "--tls-cert"
  std::string path;
};

// `--tls-cert is "a.pem": why`, INVALID_ARGUMENT.
Status refused_file(const NamedFile& file, const std::string& why);

// At most 1 MiB.
Result<std::string> read_small_file(const NamedFile& file);

}  // namespace kvcrush
