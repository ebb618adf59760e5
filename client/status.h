// How a call ended: a gRPC status, or a value.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <utility>
#include <variant>

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
  std::string message = {};
  // How long the server asks to wait before the next try (`retry-after-ms` in the trailing metadata).
  std::optional<std::chrono::milliseconds> retry_after = {};

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

}  // namespace kvcrush::client
