// C++ client of KVCrush Serve: one Client per server, usable from several threads at once.
//
//   auto client = kvcrush::client::Client::connect("127.0.0.1:50051");
//   if (!client.ok()) return fail(client.status().to_string());
//   kvcrush::v1::GenerateRequest request;
//   request.set_text("The capital of France is");
//   request.mutable_sampling()->set_temperature(0);
//   request.mutable_compression()->set_policy(kvcrush::v1::BASE_POLICY_SNAPKV);
//   request.mutable_compression()->set_budget_fraction(0.25);
//   const auto status = client->generate(request, [](const kvcrush::v1::GenerateResponse& chunk) {
//     std::cout << chunk.text() << std::flush;
//     return true;  // false ends the request
//   });
//
// The messages are the API itself (proto/kvcrush/v1/inference.proto): every field's unit, range and default
// is told there.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>

#include "client/call_headers.h"
#include "client/credentials.h"
#include "client/retry.h"
#include "client/status.h"
#include "kvcrush/v1/inference.pb.h"

namespace kvcrush::client {

struct ClientOptions {
  std::chrono::milliseconds connect_timeout{5000};  // how long connect() waits for the server
  std::optional<std::chrono::milliseconds> call_timeout =
      {};  // of every call, its retries included; unset: none
  std::shared_ptr<grpc::ChannelCredentials> credentials = {};  // see tls_credentials; unset: no encryption
  std::string tls_server_name = {};  // the name the server's certificate must have; empty: the target's host
  CallHeaders headers = {};          // of every call
  // Only before anything of an answer has come. Covers every call but start_generate.
  RetryOptions retry = {};
  bool own_connection = false;  // clients with the same target and credentials share one otherwise
};

// Of one call of start_generate.
struct CallOptions {
  std::optional<std::chrono::system_clock::time_point> deadline = {};
  std::optional<std::string> tenant = {};  // instead of the client's
};

// Called for each chunk in order, on the calling thread. Returning false cancels the request.
using OnChunk = std::function<bool(const v1::GenerateResponse&)>;

// What comes of start_generate. The functions run one at a time, on gRPC's few threads: they must not block.
class StreamHandler {
 public:
  virtual ~StreamHandler() = default;
  virtual void on_chunk(const v1::GenerateResponse& chunk) = 0;
  virtual void on_end(const Status& status) = 0;  // once, as the last
};

class Client {
 public:
  // target: "HOST:PORT" or any gRPC name. UNAVAILABLE when nobody answers within connect_timeout (with what
  // gRPC tells of the reason), CANCELLED when `stop` was requested first, INVALID_ARGUMENT for headers that
  // no call can carry.
  static Result<Client> connect(const std::string& target, const ClientOptions& options = {},
                                const std::stop_token& stop = {});

  Client(Client&&) noexcept;
  Client& operator=(Client&&) noexcept;
  ~Client();

  // Blocks until the stream ends. `stop` cancels from any thread: the server frees the request's KV blocks
  // and the call returns CANCELLED.
  Status generate(const v1::GenerateRequest& request, const OnChunk& on_chunk,
                  const std::stop_token& stop = {});
  // The same without a thread of its own: returns at once and tells `handler`, which lives at least until its
  // on_end is over. For thousands of streams at a time.
  void start_generate(const v1::GenerateRequest& request, std::shared_ptr<StreamHandler> handler,
                      const CallOptions& options = {}, const std::stop_token& stop = {});
  Result<v1::GenerateOnceResponse> generate_once(const v1::GenerateRequest& request,
                                                 const std::stop_token& stop = {});
  // What compressions of a prompt's KV cache cost on a known continuation: one result per variant. `stop` as
  // above.
  Result<v1::ScoreResponse> score(const v1::ScoreRequest& request, const std::stop_token& stop = {});
  Result<v1::TokenizeResponse> tokenize(const v1::TokenizeRequest& request);
  Result<v1::DetokenizeResponse> detokenize(const v1::DetokenizeRequest& request);
  Result<v1::GetModelInfoResponse> model_info();
  Result<v1::GetStatsResponse> stats();
  // NOT_FOUND: no running or waiting request has this id.
  Status abort(const std::string& request_id);

 private:
  struct Impl;
  explicit Client(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

}  // namespace kvcrush::client
