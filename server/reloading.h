// A value made from files, and made again when their contents change. What cannot be used leaves the old
// value in force.
//
// Contents are compared, not times: files that are copied, renamed into place or reached through a link to a
// folder that is swapped (as Kubernetes mounts secrets) all count as changed when their bytes did.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/core/status.h"
#include "server/small_file.h"

namespace kvcrush {

template <typename T>
class Reloading {
 public:
  using Make = std::function<Result<T>(const std::vector<std::string>& contents)>;
  // OK with the new value, or why the old one stays.
  using Report = std::function<void(const Status& status, const T& in_force)>;

  Reloading(std::vector<NamedFile> files, Make make, Report report)
      : files_(std::move(files)), make_(std::move(make)), report_(std::move(report)) {}

  // Once, before poll(). Nothing is in force when it fails.
  Status load() {
    Result<Contents> contents = read_all();
    KVCRUSH_RETURN_IF_ERROR(contents.status());
    Result<T> made = make_(*contents);
    KVCRUSH_RETURN_IF_ERROR(made.status());
    take(std::move(contents).value(), std::move(made).value());
    return {};
  }

  // From one thread. A failure is reported when a second look finds the same one: files that belong together
  // are seldom written at the same instant.
  void poll() {
    Result<Contents> contents = read_all();
    if (contents.ok() && *contents == in_force_) {
      failure_.reset();
      return;
    }
    Result<T> made = contents.ok() ? make_(*contents) : Result<T>(contents.status());
    if (made.ok()) {
      take(std::move(contents).value(), std::move(made).value());
      report_({}, *current());
      return;
    }
    note(made.status());
  }

  // Null before load(). Any thread.
  std::shared_ptr<const T> current() const {
    std::lock_guard lock(mutex_);
    return current_;
  }

 private:
  using Contents = std::vector<std::string>;
  struct Failure {
    std::string message;
    bool reported = false;
  };

  Result<Contents> read_all() const {
    Contents contents;
    for (const NamedFile& file : files_) {
      Result<std::string> text = read_small_file(file);
      KVCRUSH_RETURN_IF_ERROR(text.status());
      contents.push_back(std::move(text).value());
    }
    return contents;
  }

  void take(Contents contents, T value) {
    in_force_ = std::move(contents);
    failure_.reset();
    auto shared = std::make_shared<const T>(std::move(value));
    std::lock_guard lock(mutex_);
    current_ = std::move(shared);
  }

  void note(const Status& status) {
    if (!failure_ || failure_->message != status.message()) {
      failure_ = Failure{status.message()};
      return;
    }
    if (std::exchange(failure_->reported, true)) return;
    report_(status, *current());
  }

  const std::vector<NamedFile> files_;
  const Make make_;
  const Report report_;
  Contents in_force_;
  std::optional<Failure> failure_;
  mutable std::mutex mutex_;
  std::shared_ptr<const T> current_;  // guarded by mutex_
};

}  // namespace kvcrush
