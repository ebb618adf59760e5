#include <unistd.h>

#include <iostream>

#include "client/cli/chat_source.h"
#include "client/cli/commands.h"
#include "client/cli/compression_options.h"
#include "client/cli/request_options.h"
#include "client/cli/run_report.h"

namespace kvcrush::cli {
namespace {

struct ChatOptions {
  v1::GenerateRequest request;
  std::optional<std::string> system;
  ChatSettings settings;
};

class Conversation {
 public:
  Conversation(ChatOptions& options, client::Client& client, Interrupt& interrupt)
      : request_(options.request), system_(options.system), client_(client), interrupt_(interrupt) {
    reset();
  }

  void reset() {
    request_.mutable_chat()->clear_messages();
    if (system_) add_message("system", *system_);
  }

  // Asks, streams the answer and remembers both. A turn that fails or is interrupted is forgotten.
  client::Status say(const std::string& line) {
    add_message("user", line);
    std::string answer;
    const auto stop = interrupt_.arm();
    const auto status = client_.generate(
        request_,
        [&](const v1::GenerateResponse& chunk) {
          answer += chunk.text();
          std::cout << chunk.text() << std::flush;
          if (chunk.has_finish()) last_finish_ = chunk.finish();
          return true;
        },
        stop);
    interrupt_.disarm();
    std::cout << std::endl;
    if (status.ok())
      add_message("assistant", answer);
    else
      request_.mutable_chat()->mutable_messages()->RemoveLast();
    return stop.stop_requested() ? client::Status{} : status;
  }

  void print_stats() const {
    if (last_finish_)
      print_summary(std::cout, *last_finish_);
    else
      std::cout << "nothing generated yet\n";
  }

 private:
  void add_message(const char* role, const std::string& content) {
    auto* message = request_.mutable_chat()->add_messages();
    message->set_role(role);
    message->set_content(content);
  }

  v1::GenerateRequest& request_;
  std::optional<std::string> system_;
  client::Client& client_;
  Interrupt& interrupt_;
  std::optional<v1::FinishInfo> last_finish_;
};

bool read_line(std::string& line, bool terminal) {
  if (terminal) std::cout << "> " << std::flush;
  return static_cast<bool>(std::getline(std::cin, line));
}

// On a terminal an error is shown and the talk goes on; a script stops at the first one.
int run_chat(ChatOptions& options, const ServerOptions& server, Interrupt& interrupt) {
  const auto applied = apply_chat_settings(options.settings, *options.request.mutable_chat());
  if (!applied.ok()) return fail_usage(applied.message);
  auto client = connect(server);
  if (!client.ok()) return fail(client.status());
  const bool terminal = isatty(STDIN_FILENO) != 0;
  if (terminal)
    std::cout << "/reset forgets the conversation, /stats tells about the last answer, /quit ends\n";
  Conversation conversation(options, *client, interrupt);
  std::string line;
  while (read_line(line, terminal)) {
    if (line.empty()) continue;
    if (line == "/quit") break;
    if (line == "/reset") {
      conversation.reset();
    } else if (line == "/stats") {
      conversation.print_stats();
    } else if (line.front() == '/') {
      std::cerr << "kvcrush: unknown command '" << line << "'; known: /reset, /stats, /quit\n";
    } else if (const auto status = conversation.say(line); !status.ok()) {
      const int code = fail(status);
      if (!terminal) return code;
    }
  }
  return kExitOk;
}

}  // namespace

void add_chat_command(CLI::App& app, const ServerOptions& server, Interrupt& interrupt, Command& chosen) {
  auto* command = app.add_subcommand("chat", "Talk with the model; reads lines from the terminal or a pipe");
  const auto options = std::make_shared<ChatOptions>();
  command->add_option("--system", options->system, "System message");
  add_chat_settings(*command, options->settings);
  // It would have the model write the next line of the user.
  command->remove_option(command->get_option("--no-generation-prompt"));
  add_sampling_options(*command, options->request);
  // One answer per turn: a conversation cannot go on from several.
  command->remove_option(command->get_option("--n"));
  add_compression_options(*command, options->request);
  command->callback([=, &server, &interrupt, &chosen] {
    chosen = [=, &server, &interrupt] { return run_chat(*options, server, interrupt); };
  });
}

}  // namespace kvcrush::cli
