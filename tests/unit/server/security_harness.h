// A server with bearer tokens, and callers who have them.
#pragma once

#include <iomanip>
#include <sstream>
#include <thread>

#include "tests/unit/server/grpc_harness.h"
#include "tests/unit/server/test_certificates.h"

namespace kvcrush::test {

inline std::string hex_sha256(const std::string& token) {
  std::ostringstream hex;
  hex << std::hex << std::setfill('0');
  for (const unsigned char byte : sha256(token)) hex << std::setw(2) << static_cast<int>(byte);
  return hex.str();
}

// The token of an entry is its name with "-secret" behind.
inline std::string entry(const std::string& name, const std::string& rest = "") {
  return R"({"name": ")" + name + R"(", "sha256": ")" + hex_sha256(name + "-secret") + "\"" + rest + "}";
}

class Security : public GrpcTest {
 protected:
  void start_with_tokens(const std::string& entries) {
    write_tokens(entries);
    ServerConfig config = server_config();
    config.security.auth_tokens = path_;
    start(config);
  }
  void write_tokens(const std::string& entries) { write_file(path_, R"({"tokens": [)" + entries + "]}"); }

  static std::unique_ptr<grpc::ClientContext> as(const std::string& name) {
    auto context = std::make_unique<grpc::ClientContext>();
    patient(*context);
    context->AddMetadata("authorization", "Bearer " + name + "-secret");
    return context;
  }

  // A generation that is running.
  struct Running {
    std::unique_ptr<grpc::ClientContext> context;
    std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>> reader;
  };
  Running run(const std::string& name, const std::string& id) {
    Running running{as(name), nullptr};
    running.reader = stub_->Generate(running.context.get(), request(id));
    EXPECT_TRUE(backend_->wait_live(id));
    return running;
  }
  void end(Running& running, const std::string& id) {
    static_cast<void>(backend_->finish(id, FinishReason::kStop, std::nullopt));
    EXPECT_TRUE(read_all(*running.reader).status.ok());
  }

  grpc::Status info(grpc::ClientContext& context) {
    v1::GetModelInfoResponse response;
    return stub_->GetModelInfo(&context, {}, &response);
  }
  grpc::Status abort(const std::string& name, const std::string& id) {
    v1::AbortRequest request;
    request.set_request_id(id);
    v1::AbortResponse response;
    return stub_->Abort(as(name).get(), request, &response);
  }
  std::vector<std::string> listed(const std::string& name) {
    v1::GetStatsResponse stats;
    EXPECT_TRUE(stub_->GetStats(as(name).get(), {}, &stats).ok());
    std::vector<std::string> ids;
    for (const v1::RunningRequest& request : stats.requests()) ids.push_back(request.request_id());
    return ids;
  }
  static int hint_ms(const grpc::ClientContext& context) {
    const auto& metadata = context.GetServerTrailingMetadata();
    if (metadata.count("retry-after-ms") != 1) return -1;
    const grpc::string_ref value = metadata.find("retry-after-ms")->second;
    return std::stoi(std::string(value.data(), value.size()));
  }
  bool shows(const std::string& metric) {
    return server_->render_metrics().find("\n" + metric + "\n") != std::string::npos;
  }
  template <typename Condition>
  static bool eventually(Condition condition) {
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (!condition()) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    return true;
  }

  const std::string path_ = ::testing::TempDir() + "kvcrush_tokens.json";
};

}  // namespace kvcrush::test
