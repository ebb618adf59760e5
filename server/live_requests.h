// Which requests are being answered, by id. An id stays taken until nothing will touch the engine on its
// behalf any more, so that a late cancellation can never hit a later request of the same name.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

namespace kvcrush {

class GenerateSession;

class LiveRequests {
 public:
  bool try_add(const std::string& request_id,
               const std::weak_ptr<GenerateSession>& session);  // false: the id is taken
  void remove(const std::string& request_id);
  std::vector<std::shared_ptr<GenerateSession>> snapshot() const;

 private:
  mutable std::mutex mutex_;
  std::unordered_map<std::string, std::weak_ptr<GenerateSession>> sessions_;  // guarded by mutex_
};

}  // namespace kvcrush
