// `kvcrush`: the command line of KVCrush Serve.
#include <CLI/CLI.hpp>
#include <cstdlib>

#include "client/cli/commands.h"

int main(int argc, char** argv) {
  using namespace kvcrush::cli;
  // What gRPC would log of a failed handshake, again and again, is in the error that the command prints.
  setenv("GRPC_VERBOSITY", "NONE", 0);
  Interrupt interrupt;
  CLI::App app("Client of KVCrush Serve", "kvcrush");
  app.set_version_flag("--version", std::string("kvcrush ") + KVCRUSH_VERSION);
  app.footer(
      "Exit codes: 0 success; 1 the server or the connection failed (code name and message on stderr);\n"
      "2 wrong usage; 130 interrupted. Ctrl-C cancels the request, a second one ends at once.");
  app.require_subcommand(1);
  app.fallthrough();  // connection options may stand after the command
  ServerOptions server;
  add_server_options(app, server);
  Command chosen;
  add_generate_command(app, server, interrupt, chosen);
  add_chat_command(app, server, interrupt, chosen);
  add_compare_command(app, server, interrupt, chosen);
  add_score_command(app, server, interrupt, chosen);
  add_bench_command(app, server, interrupt, chosen);
  add_top_command(app, server, interrupt, chosen);
  add_inspect_command(app, chosen);
  add_info_commands(app, server, interrupt, chosen);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kExitOk : kExitUsage;
  }
  return chosen();
}
