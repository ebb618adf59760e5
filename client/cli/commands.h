// The commands of `kvcrush`, one file each. add_* declares options on `app` and sets `chosen` when the
// command is picked.
#pragma once

#include <CLI/CLI.hpp>

#include "client/cli/connection.h"
#include "client/cli/interrupt.h"

namespace kvcrush::cli {

void add_generate_command(CLI::App& app, const ServerOptions& server, Interrupt& interrupt, Command& chosen);
void add_chat_command(CLI::App& app, const ServerOptions& server, Interrupt& interrupt, Command& chosen);
void add_compare_command(CLI::App& app, const ServerOptions& server, Interrupt& interrupt, Command& chosen);
void add_score_command(CLI::App& app, const ServerOptions& server, Interrupt& interrupt, Command& chosen);
void add_bench_command(CLI::App& app, const ServerOptions& server, Interrupt& interrupt, Command& chosen);
void add_top_command(CLI::App& app, const ServerOptions& server, Interrupt& interrupt, Command& chosen);
void add_inspect_command(CLI::App& app, Command& chosen);  // asks no server
// info, stats, tokenize and abort.
void add_info_commands(CLI::App& app, const ServerOptions& server, Interrupt& interrupt, Command& chosen);

}  // namespace kvcrush::cli
