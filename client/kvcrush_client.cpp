#include "client/kvcrush_client.h"

#include <grpcpp/grpcpp.h>

#include <condition_variable>
#include <limits>
#include <mutex>
#include <random>

#include "client/async_stream.h"
#include "kvcrush/v1/inference.grpc.pb.h"

namespace kvcrush::client {
namespace {

using Clock = std::chrono::system_clock;
using Deadline = std::optional<Clock::time_point>;

// In [0, 1), different in every process and thread.
double jitter() {
  thread_local std::mt19937_64 random(std::random_device{}());
  return std::uniform_real_distribution<double>(0, 1)(random);
}

// False: stop was requested before the time was over.
bool wait_for(std::chrono::milliseconds time, const std::stop_token& stop) {
  std::mutex mutex;
  std::condition_variable_any wake;
  std::unique_lock lock(mutex);
  wake.wait_for(lock, stop, time, [] { return false; });
  return !stop.stop_requested();
}

std::shared_ptr<grpc::Channel> make_channel(const std::string& target, const ClientOptions& options) {
  grpc::ChannelArguments arguments;
  // GenerateOnce with logprobs, or a chat of a whole context, can pass gRPC's default of 4 MiB.
  arguments.SetMaxReceiveMessageSize(std::numeric_limits<int>::max());
  if (!options.tls_server_name.empty()) arguments.SetSslTargetNameOverride(options.tls_server_name);
  if (options.own_connection) arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  const auto credentials = options.credentials ? options.credentials : grpc::InsecureChannelCredentials();
  return grpc::CreateCustomChannel(target, credentials, arguments);
}

// A channel does not say why it has no connection; a call that fails for it does ("Ssl handshake failed
// ...").
std::string why_unconnected(v1::Inference::Stub& stub) {
  grpc::ClientContext context;
  context.set_deadline(Clock::now() + std::chrono::milliseconds(100));
  v1::GetModelInfoResponse response;
  const auto status = stub.GetModelInfo(&context, v1::GetModelInfoRequest(), &response);
  return status.error_code() == grpc::StatusCode::UNAVAILABLE ? ": " + status.error_message() : "";
}

// Waits in slices so that a stop request is seen: the channel's wait itself cannot be interrupted.
Status wait_connected(grpc::Channel& channel, v1::Inference::Stub& stub, const std::string& target,
                      const ClientOptions& options, const std::stop_token& stop) {
  constexpr std::chrono::milliseconds kSlice{50};
  const auto deadline = Clock::now() + options.connect_timeout;
  do {
    if (stop.stop_requested()) return {Code::kCancelled, "cancelled while connecting to " + target};
    if (channel.WaitForConnected(std::min(deadline, Clock::now() + kSlice))) return {};
  } while (Clock::now() < deadline);
  return {Code::kUnavailable, "no server answers at " + target + " within " +
                                  std::to_string(options.connect_timeout.count()) + " ms" +
                                  why_unconnected(stub)};
}

}  // namespace

struct Client::Impl {
  std::unique_ptr<v1::Inference::Stub> stub;
  std::optional<std::chrono::milliseconds> call_timeout;
  CallHeaders headers;
  RetryOptions retry;

  Deadline deadline() const { return call_timeout ? Deadline(Clock::now() + *call_timeout) : std::nullopt; }

  void prepare(grpc::ClientContext& context, const Deadline& deadline) const {
    if (deadline) context.set_deadline(*deadline);
    add_headers(headers, context);
  }

  // `attempt(context, answered)` makes one try and says whether anything of an answer came.
  template <typename Attempt>
  Status with_retries(const std::stop_token& stop, Attempt&& attempt) const {
    const Deadline until = deadline();
    for (int tried = 1;; ++tried) {
      grpc::ClientContext context;
      prepare(context, until);
      const std::stop_callback cancel(stop, [&context] { context.TryCancel(); });
      bool answered = false;
      Status status = attempt(context, answered);
      if (status.ok() || answered) return status;
      const auto wait = retry_wait(retry, status, tried, jitter());
      if (!wait || (until && Clock::now() + *wait >= *until)) return status;
      if (!wait_for(*wait, stop)) return {Code::kCancelled, "cancelled while waiting to try again"};
    }
  }

  template <typename Request, typename Response>
  Result<Response> unary(grpc::Status (v1::Inference::Stub::*method)(grpc::ClientContext*, const Request&,
                                                                     Response*),
                         const Request& request, const std::stop_token& stop = {}) const {
    Response response;
    const auto status = with_retries(stop, [&](grpc::ClientContext& context, bool&) {
      return status_of((stub.get()->*method)(&context, request, &response), context);
    });
    if (!status.ok()) return status;
    return response;
  }

  Status stream(const v1::GenerateRequest& request, const OnChunk& on_chunk, grpc::ClientContext& context,
                bool& answered) const {
    const auto reader = stub->Generate(&context, request);
    v1::GenerateResponse chunk;
    bool refused = false;
    while (reader->Read(&chunk)) {
      answered = true;
      if (refused || on_chunk(chunk)) continue;
      refused = true;
      context.TryCancel();
    }
    auto status = status_of(reader->Finish(), context);
    // The cancel may lose the race against the server's last message; the caller's wish decides what is
    // reported.
    if (refused) return {Code::kCancelled, "cancelled by the chunk callback"};
    return status;
  }
};

Client::Client(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Client::Client(Client&&) noexcept = default;
Client& Client::operator=(Client&&) noexcept = default;
Client::~Client() = default;

Result<Client> Client::connect(const std::string& target, const ClientOptions& options,
                               const std::stop_token& stop) {
  auto checked = check_headers(options.headers);
  if (!checked.ok()) return checked;
  const auto channel = make_channel(target, options);
  auto impl = std::make_unique<Impl>();
  impl->stub = v1::Inference::NewStub(channel);
  impl->call_timeout = options.call_timeout;
  impl->headers = options.headers;
  impl->retry = options.retry;
  auto connected = wait_connected(*channel, *impl->stub, target, options, stop);
  if (!connected.ok()) return connected;
  return Client(std::move(impl));
}

Status Client::generate(const v1::GenerateRequest& request, const OnChunk& on_chunk,
                        const std::stop_token& stop) {
  return impl_->with_retries(stop, [&](grpc::ClientContext& context, bool& answered) {
    return impl_->stream(request, on_chunk, context, answered);
  });
}

void Client::start_generate(const v1::GenerateRequest& request, std::shared_ptr<StreamHandler> handler,
                            const CallOptions& options, const std::stop_token& stop) {
  CallHeaders headers = impl_->headers;
  if (options.tenant) headers.tenant = *options.tenant;
  const auto checked = check_headers(headers);
  if (!checked.ok()) return handler->on_end(checked);
  const Deadline deadline = options.deadline ? options.deadline : impl_->deadline();
  AsyncStream::start(*impl_->stub, request, std::move(handler), stop, [&](grpc::ClientContext& context) {
    if (deadline) context.set_deadline(*deadline);
    add_headers(headers, context);
  });
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
