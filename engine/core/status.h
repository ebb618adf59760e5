// Expected failures travel as values: Status, or Result<T> where there is something to return.
// Broken invariants use KVCRUSH_CHECK and end the process; exceptions never cross a module's wall.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace kvcrush {

// Names and meanings follow the gRPC status codes, so that the server maps them one to one.
enum class StatusCode {
  kOk,
  kInvalidArgument,
  kNotFound,
  kAlreadyExists,
  kResourceExhausted,
  kFailedPrecondition,
  kUnavailable,
  kDeadlineExceeded,
  kCancelled,
  kUnimplemented,
  kInternal,
  kPermissionDenied,
  kUnauthenticated,
};

std::string_view to_string(StatusCode code);

class [[nodiscard]] Status {
 public:
  Status() = default;  // ok
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

inline Status invalid_argument(std::string message) {
  return {StatusCode::kInvalidArgument, std::move(message)};
}
inline Status not_found(std::string message) {
  return {StatusCode::kNotFound, std::move(message)};
}
inline Status internal_error(std::string message) {
  return {StatusCode::kInternal, std::move(message)};
}

// A value or the reason why there is none. Reading the value of a failed Result is a broken invariant.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}         // NOLINT(google-explicit-constructor)
  Result(Status status) : state_(std::move(status)) {}  // NOLINT(google-explicit-constructor)

  bool ok() const { return std::holds_alternative<T>(state_); }
  Status status() const { return ok() ? Status() : std::get<Status>(state_); }
  T& value() & { return std::get<T>(state_); }
  const T& value() const& { return std::get<T>(state_); }
  T&& value() && { return std::get<T>(std::move(state_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  std::variant<T, Status> state_;
};

namespace detail {
[[noreturn]] void check_failed(const char* condition, const char* file, int line);
}

#define KVCRUSH_CHECK(condition) \
  ((condition) ? static_cast<void>(0) : ::kvcrush::detail::check_failed(#condition, __FILE__, __LINE__))

// Returns the status from the enclosing function when `expression` failed.
#define KVCRUSH_RETURN_IF_ERROR(expression)                                                           \
  do {                                                                                                \
    if (::kvcrush::Status kvcrush_status = (expression); !kvcrush_status.ok()) return kvcrush_status; \
  } while (false)

}  // namespace kvcrush
