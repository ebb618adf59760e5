#include "client/kvcrush_client.h"

#include <grpcpp/grpcpp.h>

#include <array>
#include <limits>
#include <string_view>

#include "kvcrush/v1/inference.grpc.pb.h"

namespace kvcrush::client {
namespace {

using Clock = std::chrono::system_clock;

Status from_grpc(const grpc::Status& status) {
  return {static_cast<Code>(status.error_code()), status.error_message()};
}

// Waits in slices so that a stop request is seen: the channel's wait itself cannot be interrupted.
Status wait_connected(grpc::Channel& channel, const std::string& target, const ClientOptions& options,
                      const std::stop_token& stop) {
  constexpr std::chrono::milliseconds kSlice{50};
  const auto deadline = Clock::now() + options.connect_timeout;
  do {
    if (stop.stop_requested()) return {Code::kCancelled, "cancelled while connecting to " + target};
    if (channel.WaitForConnected(std::min(deadline, Clock::now() + kSlice))) return {};
  } while (Clock::now() < deadline);
  return {Code::kUnavailable, "no server answers at " + target + " within " +
                                  std::to_string(options.connect_timeout.count()) + " ms"};
}

}  // namespace

std::string to_string(Code code) {
  static constexpr std::array<std::string_view, 17> kNames = {
      "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
      "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
      "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
      "DATA_LOSS", "UNAUTHENTICATED"};
  const int number = static_cast<int>(code);
  if (number < 0 || number >= static_cast<int>(kNames.size())) return "CODE_" + std::to_string(number);
  return std::string(kNames[static_cast<std::size_t>(number)]);
}

std::string Status::to_string() const {
  return ok() || message.empty() ? client::to_string(code) : client::to_string(code) + ": " + message;
}

struct Client::Impl {
  std::unique_ptr<v1::Inference::Stub> stub;
  std::optional<std::chrono::milliseconds> call_timeout;

  void prepare(grpc::ClientContext& context) const {
    if (call_timeout) context.set_deadline(Clock::now() + *call_timeout);
  }

  template <typename Request, typename Response>
  Result<Response> unary(grpc::Status (v1::Inference::Stub::*method)(grpc::ClientContext*, const Request&,
                                                                     Response*),
                         const Request& request, const std::stop_token& stop = {}) const {
    grpc::ClientContext context;
    prepare(context);
    const std::stop_callback cancel(stop, [&context] { context.TryCancel(); });
    Response response;
    const auto status = from_grpc((stub.get()->*method)(&context, request, &response));
    if (!status.ok()) return status;
    return response;
  }
};

Client::Client(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Client::Client(Client&&) noexcept = default;
Client& Client::operator=(Client&&) noexcept = default;
Client::~Client() = default;

Result<Client> Client::connect(const std::string& target, const ClientOptions& options,
                               const std::stop_token& stop) {
  grpc::ChannelArguments arguments;
  // GenerateOnce with logprobs, or a chat of a whole context, can pass gRPC's default of 4 MiB.
  arguments.SetMaxReceiveMessageSize(std::numeric_limits<int>::max());
  const auto credentials = options.credentials ? options.credentials : grpc::InsecureChannelCredentials();
  const auto channel = grpc::CreateCustomChannel(target, credentials, arguments);
  auto connected = wait_connected(*channel, target, options, stop);
  if (!connected.ok()) return connected;
  auto impl = std::make_unique<Impl>();
  impl->stub = v1::Inference::NewStub(channel);
  impl->call_timeout = options.call_timeout;
  return Client(std::move(impl));
}

Status Client::generate(const v1::GenerateRequest& request, const OnChunk& on_chunk,
                        const std::stop_token& stop) {
  grpc::ClientContext context;
  impl_->prepare(context);
  const std::stop_callback cancel(stop, [&context] { context.TryCancel(); });
  const auto reader = impl_->stub->Generate(&context, request);
  v1::GenerateResponse chunk;
  bool refused = false;
  while (reader->Read(&chunk)) {
    if (refused || on_chunk(chunk)) continue;
    refused = true;
    context.TryCancel();
  }
  auto status = from_grpc(reader->Finish());
  // The cancel may lose the race against the server's last message; the caller's wish decides what is
  // reported.
  if (refused) return {Code::kCancelled, "cancelled by the chunk callback"};
  return status;
}

Result<v1::GenerateOnceResponse> Client::generate_once(const v1::GenerateRequest& request,
                                                       const std::stop_token& stop) {
  return impl_->unary(&v1::Inference::Stub::GenerateOnce, request, stop);
}

Result<v1::ScoreResponse> Client::score(const v1::ScoreRequest& request, const std::stop_token& stop) {
  return impl_->unary(&v1::Inference::Stub::Score, request, stop);
}

Result<v1::TokenizeResponse> Client::tokenize(const v1::TokenizeRequest& request) {
  return impl_->unary(&v1::Inference::Stub::Tokenize, request);
}

Result<v1::DetokenizeResponse> Client::detokenize(const v1::DetokenizeRequest& request) {
  return impl_->unary(&v1::Inference::Stub::Detokenize, request);
}

Result<v1::GetModelInfoResponse> Client::model_info() {
  return impl_->unary(&v1::Inference::Stub::GetModelInfo, v1::GetModelInfoRequest());
}

Result<v1::GetStatsResponse> Client::stats() {
  return impl_->unary(&v1::Inference::Stub::GetStats, v1::GetStatsRequest());
}

Status Client::abort(const std::string& request_id) {
  v1::AbortRequest request;
  request.set_request_id(request_id);
  return impl_->unary(&v1::Inference::Stub::Abort, request).status();
}

}  // namespace kvcrush::client
