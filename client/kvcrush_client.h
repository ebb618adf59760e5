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
#include <utility>
#include <variant>

#include "kvcrush/v1/inference.pb.h"

namespace grpc {
class ChannelCredentials;
}

namespace kvcrush::client {

// The gRPC status codes, with their numbers.
enum class Code {
  kOk = 0,
  kCancelled = 1,
  kUnknown = 2,
  kInvalidArgument = 3,
  kDeadlineExceeded = 4,
  kNotFound = 5,
  kAlreadyExists = 6,
  kPermissionDenied = 7,
  kResourceExhausted = 8,
  kFailedPrecondition = 9,
  kAborted = 10,
  kOutOfRange = 11,
  kUnimplemented = 12,
  kInternal = 13,
  kUnavailable = 14,
  kDataLoss = 15,
  kUnauthenticated = 16,
};

// "INVALID_ARGUMENT"; "CODE_99" for a number that gRPC does not define.
std::string to_string(Code code);

struct [[nodiscard]] Status {
  Code code = Code::kOk;
  std::string message;

  bool ok() const { return code == Code::kOk; }
  std::string to_string() const;  // "NOT_FOUND: no request named x"; "OK"
};

// A value or the Status that says why there is none. Reading the value of a failed Result throws
// std::bad_variant_access.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}         // NOLINT(google-explicit-constructor)
  Result(Status status) : state_(std::move(status)) {}  // NOLINT(google-explicit-constructor)

  bool ok() const { return std::holds_alternative<T>(state_); }
  Status status() const { return ok() ? Status{} : std::get<Status>(state_); }
  T& operator*() { return std::get<T>(state_); }
  const T& operator*() const { return std::get<T>(state_); }
  T* operator->() { return &std::get<T>(state_); }
  const T* operator->() const { return &std::get<T>(state_); }

 private:
  std::variant<T, Status> state_;
};

struct ClientOptions {
  std::chrono::milliseconds connect_timeout{5000};        // how long connect() waits for the server
  std::optional<std::chrono::milliseconds> call_timeout;  // deadline of every call; unset: none
  std::shared_ptr<grpc::ChannelCredentials> credentials;  // unset: no encryption
};

// Called for each chunk in order, on the calling thread. Returning false cancels the request.
using OnChunk = std::function<bool(const v1::GenerateResponse&)>;

class Client {
 public:
  // target: "HOST:PORT" or any gRPC name. UNAVAILABLE when nobody answers within connect_timeout, CANCELLED
  // when `stop` was requested first.
  static Result<Client> connect(const std::string& target, const ClientOptions& options = {},
                                const std::stop_token& stop = {});

  Client(Client&&) noexcept;
  Client& operator=(Client&&) noexcept;
  ~Client();

  // Blocks until the stream ends. `stop` cancels from any thread: the server frees the request's KV blocks
  // and the call returns CANCELLED.
  Status generate(const v1::GenerateRequest& request, const OnChunk& on_chunk,
                  const std::stop_token& stop = {});
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
