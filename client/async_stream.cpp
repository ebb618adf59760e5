#include "client/async_stream.h"

#include <charconv>
#include <cstdint>
#include <string_view>

namespace kvcrush::client {
namespace {

std::optional<std::chrono::milliseconds> retry_after(const grpc::ClientContext& context) {
  const auto& trailing = context.GetServerTrailingMetadata();
  const auto found = trailing.find("retry-after-ms");
  if (found == trailing.end()) return std::nullopt;
  const std::string_view text(found->second.data(), found->second.size());
  std::uint32_t wait_ms = 0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), wait_ms);
  if (error != std::errc() || rest != text.data() + text.size()) return std::nullopt;
  return std::chrono::milliseconds(wait_ms);
}

}  // namespace

Status status_of(const grpc::Status& status, const grpc::ClientContext& context) {
  if (status.ok()) return {};
  return {static_cast<Code>(status.error_code()), status.error_message(), retry_after(context)};
}

void AsyncStream::run(v1::Inference::Stub& stub, const std::stop_token& stop) {
  stub.async()->Generate(&context_, &request_, this);
  StartRead(&chunk_);
  // Before StartCall, after which OnDone may delete this; a cancel in between still ends the call.
  cancel_.emplace(stop, Cancel{&context_});
  StartCall();
}

void AsyncStream::OnReadDone(bool ok) {
  if (!ok) return;  // OnDone follows
  handler_->on_chunk(chunk_);
  chunk_.Clear();
  StartRead(&chunk_);
}

void AsyncStream::OnDone(const grpc::Status& status) {
  cancel_.reset();
  const auto ended = status_of(status, context_);
  const auto handler = std::move(handler_);
  delete this;
  handler->on_end(ended);
}

}  // namespace kvcrush::client
