// What tests of an overloaded server share: metadata, metrics, and clients that hardly take anything in.
#pragma once

#include <string>
#include <thread>

#include "tests/unit/server/grpc_harness.h"
#include "tests/unit/server/http_client.h"

namespace kvcrush::test {

inline constexpr int kServing = 1;  // as GrpcTest::health() gives it
inline constexpr int kNotServing = 2;

class OverloadTest : public GrpcTest {
 protected:
  // A Generate call to its end; `context` keeps the metadata.
  StreamResult generate(grpc::ClientContext& context, const v1::GenerateRequest& wanted) {
    patient(context);
    return read_all(*stub_->Generate(&context, wanted));
  }

  // What the trailing metadata holds under `key`; -1: not exactly one number.
  static int trailing_ms(const grpc::ClientContext& context, const std::string& key) {
    const auto& metadata = context.GetServerTrailingMetadata();
    if (metadata.count(key) != 1) return -1;
    const grpc::string_ref value = metadata.find(key)->second;
    return std::stoi(std::string(value.data(), value.size()));
  }

  static int hint_ms(const grpc::ClientContext& context) {
    const int hint = trailing_ms(context, "retry-after-ms");
    EXPECT_EQ(trailing_ms(context, "grpc-retry-pushback-ms"), hint);
    return hint;
  }

  static std::string initial(const grpc::ClientContext& context, const std::string& key) {
    const auto& metadata = context.GetServerInitialMetadata();
    const auto found = metadata.find(key);
    return found == metadata.end() ? "" : std::string(found->second.data(), found->second.size());
  }

  std::string metrics() { return http_ask(server_->http_port(), "GET", "/metrics").body; }
  bool has_metric(const std::string& line) { return metrics().find("\n" + line + "\n") != std::string::npos; }

  template <typename Condition>
  static bool eventually(Condition condition) {
    const auto end = std::chrono::steady_clock::now() + kPatience;
    while (!condition()) {
      if (std::chrono::steady_clock::now() > end) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return true;
  }

  // 16 MB in bursts, as steps would bring it: far more than a connection takes in before the client reads.
  void flood(const std::string& id) {
    for (int i = 0; i < 4000; ++i) {
      backend_->token(id, kPageToken);
      if (i % 200 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }

  // A connection that takes in next to nothing before the client reads.
  void connect_with_small_window() {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 1024);
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    channel_ = grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(server_->grpc_port()),
                                         grpc::InsecureChannelCredentials(), arguments);
    stub_ = v1::Inference::NewStub(channel_);
  }

  static ServerConfig with_http() {
    ServerConfig config = server_config();
    config.http_listen = "127.0.0.1:0";
    return config;
  }
};

}  // namespace kvcrush::test
