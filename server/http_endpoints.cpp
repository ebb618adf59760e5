#include "server/http_endpoints.h"

#include <CivetServer.h>
#include <dlfcn.h>
#include <pthread.h>
#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <cstddef>
#include <mutex>
#include <string_view>
#include <utility>
#include <vector>

namespace kvcrush {
namespace {

struct Page {
  int status = 200;
  std::string content_type = "text/plain; charset=utf-8";
  std::string body;
};

std::string_view reason_phrase(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 405:
      return "Method Not Allowed";
    default:
      return "Service Unavailable";
  }
}

// Everything on one path: the page for GET, its head for HEAD, 405 for the rest.
class PageHandler final : public CivetHandler {
 public:
  explicit PageHandler(std::function<Page()> page) : page_(std::move(page)) {}

  bool handleGet(CivetServer*, mg_connection* connection) override { return send(connection, page_(), true); }
  bool handleHead(CivetServer*, mg_connection* connection) override {
    return send(connection, page_(), false);
  }
  bool handlePost(CivetServer*, mg_connection* connection) override { return refuse(connection); }
  bool handlePut(CivetServer*, mg_connection* connection) override { return refuse(connection); }
  bool handleDelete(CivetServer*, mg_connection* connection) override { return refuse(connection); }
  bool handleOptions(CivetServer*, mg_connection* connection) override { return refuse(connection); }
  bool handlePatch(CivetServer*, mg_connection* connection) override { return refuse(connection); }

 private:
  using CivetHandler::handleDelete;
  using CivetHandler::handleGet;
  using CivetHandler::handleHead;
  using CivetHandler::handleOptions;
  using CivetHandler::handlePatch;
  using CivetHandler::handlePost;
  using CivetHandler::handlePut;

  static bool refuse(mg_connection* connection) {
    return send(connection, {405, "text/plain", "GET or HEAD\n"}, true);
  }

  static bool send(mg_connection* connection, const Page& page, bool with_body) {
    const std::string head = fmt::format(
        "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{}Cache-Control: "
        "no-store\r\nConnection: close\r\n\r\n",
        page.status, reason_phrase(page.status), page.content_type, page.body.size(),
        page.status == 405 ? "Allow: GET, HEAD\r\n" : "");
    mg_write(connection, head.data(), head.size());
    if (with_body) mg_write(connection, page.body.data(), page.body.size());
    return true;
  }

  std::function<Page()> page_;
};

// Why civetweb did not start: what it throws does not say. Once started it is not listened to, for clients
// could make it talk.
class StartLog {
 public:
  StartLog() {
    callbacks_.log_message = [](const mg_connection* connection, const char* message) {
      const auto* server = static_cast<const CivetServer*>(mg_get_user_data(mg_get_context(connection)));
      static_cast<const StartLog*>(server->getUserContext())->add(message);
      return 1;  // logged
    };
  }

  const CivetCallbacks* callbacks() const { return &callbacks_; }
  void close() const {
    std::lock_guard lock(mutex_);
    closed_ = true;
  }
  std::string text() const {
    std::lock_guard lock(mutex_);
    return text_;
  }

 private:
  void add(const char* message) const {
    std::lock_guard lock(mutex_);
    if (!closed_) text_.append(text_.empty() ? "" : "; ").append(message);
  }

  CivetCallbacks callbacks_;
  mutable std::mutex mutex_;
  mutable bool closed_ = false;  // guarded by mutex_
  mutable std::string text_;     // guarded by mutex_
};

}  // namespace

struct HttpEndpoints::Impl {
  Impl(const std::vector<std::string>& options, const Sources& sources,
       std::shared_ptr<const StartLog> start_log)
      : metrics([render = sources.metrics] {
          return Page{200, "text/plain; version=0.0.4; charset=utf-8", render()};
        }),
        health([] {
          return Page{200, "text/plain; charset=utf-8", "ok\n"};
        }),
        ready([reason_of = sources.not_ready_reason] {
          const std::string reason = reason_of();
          return reason.empty() ? Page{200, "text/plain; charset=utf-8", "ready\n"}
                                : Page{503, "text/plain; charset=utf-8", reason + "\n"};
        }),
        log(std::move(start_log)),
        server(options, log->callbacks(), log.get()) {
    log->close();
    server.addHandler("/metrics$", metrics);
    server.addHandler("/healthz$", health);
    server.addHandler("/readyz$", ready);
  }

  PageHandler metrics;
  PageHandler health;
  PageHandler ready;
  std::shared_ptr<const StartLog> log;
  CivetServer server;  // last: stops before the handlers go
};

Result<std::unique_ptr<HttpEndpoints>> HttpEndpoints::listen(const std::string& address,
                                                             const Sources& sources) {
  const std::vector<std::string> options{"listening_ports",    address, "num_threads",       "4",
                                         "request_timeout_ms", "5000",  "enable_keep_alive", "no"};
  const auto log = std::make_shared<const StartLog>();
  try {
    return std::unique_ptr<HttpEndpoints>(new HttpEndpoints(std::make_unique<Impl>(options, sources, log)));
  } catch (const std::exception& error) {
    const std::string reason = log->text();
    return Status(StatusCode::kUnavailable, fmt::format("cannot listen on {} for HTTP: {}", address,
                                                        reason.empty() ? error.what() : reason));
  }
}

HttpEndpoints::HttpEndpoints(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HttpEndpoints::~HttpEndpoints() = default;

int HttpEndpoints::port() const {
  const std::vector<int> ports = impl_->server.getListeningPorts();
  return ports.empty() ? 0 : ports.front();
}

}  // namespace kvcrush

// Stands before libc's own in this process, for civetweb: it asks for stacks of 100 KiB and has no option for
// more. glibc takes the thread-local storage of all libraries that are loaded at the start out of a thread's
// stack; cuBLAS and its kin have more than that, and so not one thread could be created.
extern "C" int pthread_attr_setstacksize(pthread_attr_t* attributes, std::size_t stack_bytes) {
  constexpr std::size_t kLeastStackBytes = 1 << 20;  // address space; memory only where it is used
  using SetStackSize = int (*)(pthread_attr_t*, std::size_t);
  static const auto set_stack_size =
      reinterpret_cast<SetStackSize>(dlsym(RTLD_NEXT, "pthread_attr_setstacksize"));
  return set_stack_size(attributes, std::max(stack_bytes, kLeastStackBytes));
}
