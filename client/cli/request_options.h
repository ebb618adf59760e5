// Command-line options that fill SamplingParams and say how a request is scheduled and sped up. Only what is
// given is set; ranges are the server's to check.
#pragma once

#include <CLI/CLI.hpp>

#include "kvcrush/v1/inference.pb.h"

namespace kvcrush::cli {

// `request` must outlive the parse.
void add_sampling_options(CLI::App& app, v1::GenerateRequest& request);
// Of them, those for Speculation alone.
void add_speculation_options(CLI::App& app, v1::GenerateRequest& request);

}  // namespace kvcrush::cli
