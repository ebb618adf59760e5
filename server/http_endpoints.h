// Plain HTTP for Prometheus and for whoever keeps the process alive: /metrics, /healthz, /readyz; GET and
// HEAD only.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "engine/core/status.h"

namespace kvcrush {

class HttpEndpoints {
 public:
  struct Sources {
    std::function<std::string()> metrics;           // text exposition format
    std::function<std::string()> not_ready_reason;  // empty: ready
  };

  // UNAVAILABLE when `address` (host:port, port 0: any free one) cannot be listened on.
  static Result<std::unique_ptr<HttpEndpoints>> listen(const std::string& address, const Sources& sources);
  ~HttpEndpoints();
  HttpEndpoints(const HttpEndpoints&) = delete;
  HttpEndpoints& operator=(const HttpEndpoints&) = delete;

  int port() const;

 private:
  struct Impl;
  explicit HttpEndpoints(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvcrush
