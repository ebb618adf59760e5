#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <map>

#include "client/cli/commands.h"
#include "client/cli/screen.h"
#include "client/cli/top_view.h"

namespace kvcrush::cli {
namespace {

struct TopOptions {
  double interval_s = 1;
  TopOrder order = TopOrder::kBlocks;
  bool once = false;
};

std::chrono::duration<double> seconds(const TopOptions& options) {
  return std::chrono::duration<double>(options.interval_s);
}

// The server's answers, and what changed from one to the next.
class Watch {
 public:
  explicit Watch(client::Client& client) : client_(client) {}

  client::Status update() {
    auto answer = client_.stats();
    if (!answer.ok()) return answer.status();
    rates_ = latest_ ? rates_between(*latest_, *answer) : std::nullopt;
    latest_ = std::move(*answer);
    return {};
  }

  const std::optional<v1::GetStatsResponse>& latest() const { return latest_; }
  const std::optional<TopRates>& rates() const { return rates_; }

 private:
  client::Client& client_;
  std::optional<v1::GetStatsResponse> latest_;
  std::optional<TopRates> rates_;
};

// A server that restarts comes back; anything else stays as it is.
bool may_pass(const client::Status& status) {
  return status.code == client::Code::kUnavailable || status.code == client::Code::kDeadlineExceeded;
}

int page_width() {
  constexpr int kDefault = 100;
  const char* columns = std::getenv("COLUMNS");
  const int width = columns == nullptr ? 0 : std::atoi(columns);
  return width > 0 ? width : kDefault;
}

// Rates need two answers.
int show_once(Watch& watch, const TopSource& source, const TopOptions& options, const std::stop_token& stop) {
  for (const bool first : {true, false}) {
    const auto status = watch.update();
    if (!status.ok()) return fail(status, stop);
    if (first && !wait_for(seconds(options), stop)) return kExitInterrupted;
  }
  const auto frame = render_top(source, *watch.latest(), watch.rates(), options.order, page_width(), 0);
  for (const std::string& line : frame.lines) std::cout << line << '\n';
  return kExitOk;
}

int show_lines(Watch& watch, const TopOptions& options, const std::stop_token& stop) {
  do {
    const auto status = watch.update();
    if (status.ok())
      std::cout << top_line(*watch.latest(), watch.rates()) << std::endl;
    else if (may_pass(status))
      std::cerr << "kvcrush: " << status.to_string() << std::endl;
    else
      return fail(status, stop);
  } while (wait_for(seconds(options), stop));
  return kExitInterrupted;
}

int show_screen(Watch& watch, const TopSource& source, TopOptions options, const std::stop_token& stop) {
  client::Status status;
  {
    Screen screen(stop);
    bool refresh = true;
    while (!stop.stop_requested()) {
      if (refresh) status = watch.update();
      if (!status.ok() && !may_pass(status)) break;
      const ScreenSize size = screen.size();
      TopFrame frame{{"q: quit  b: by blocks  a: by age"}, 1};
      if (watch.latest())
        frame = render_top(source, *watch.latest(), watch.rates(), options.order, size.columns, size.rows);
      if (!status.ok()) frame.lines.front() = "no answer: " + status.to_string().substr(0, 60);
      screen.draw(frame.lines, frame.table_header);
      const auto key = screen.wait_key(seconds(options), stop);
      if (key == 'q') return kExitOk;
      if (key == 'b') options.order = TopOrder::kBlocks;
      if (key == 'a') options.order = TopOrder::kAge;
      refresh = !key;
    }
  }
  return stop.stop_requested() ? kExitInterrupted : fail(status, stop);
}

int run_top(const TopOptions& options, const ServerOptions& server, Interrupt& interrupt) {
  const auto stop = interrupt.arm();
  // Calls that end soon, so that a server that hangs cannot hold up Ctrl-C or q.
  constexpr double kCallSeconds = 2;
  ServerOptions quick = server;
  quick.timeout_s = std::min(server.timeout_s.value_or(kCallSeconds), kCallSeconds);
  quick.retries = 0;
  auto client = connect(quick, stop);
  if (!client.ok()) return fail(client.status(), stop);
  const auto model = client->model_info();
  if (!model.ok()) return fail(model.status(), stop);
  const TopSource source{server.target, model->model_name(), model->device()};
  Watch watch(*client);
  if (options.once) return show_once(watch, source, options, stop);
  if (!Screen::available()) return show_lines(watch, options, stop);
  return show_screen(watch, source, options, stop);
}

}  // namespace

void add_top_command(CLI::App& app, const ServerOptions& server, Interrupt& interrupt, Command& chosen) {
  auto* command = app.add_subcommand(
      "top",
      "Watch the server: load, KV cache and requests; on a terminal q ends, b and a sort by blocks and age");
  const auto options = std::make_shared<TopOptions>();
  command->add_option("--interval", options->interval_s, "Seconds between two looks")
      ->check(CLI::Range(0.1, 3600.0))
      ->capture_default_str();
  const std::map<std::string, TopOrder> orders = {{"blocks", TopOrder::kBlocks}, {"age", TopOrder::kAge}};
  command
      ->add_option_function<std::string>(
          "--sort", [orders, o = options.get()](const std::string& word) { o->order = orders.at(word); },
          "Which requests come first: those of the most blocks, or the oldest (default blocks)")
      ->check(CLI::IsMember(orders).description(""))
      ->type_name("blocks|age");
  command->add_flag("--once", options->once, "Look twice, an interval apart, print one page and end");
  command->callback([=, &server, &interrupt, &chosen] {
    chosen = [=, &server, &interrupt] { return run_top(*options, server, interrupt); };
  });
}

}  // namespace kvcrush::cli
