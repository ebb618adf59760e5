// Which requests are being answered, by id. An id stays taken until nothing will touch the engine on its
// behalf any more, so that a late cancellation can never hit a later request of the same name.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "server/caller.h"

namespace kvcrush {

class GenerateSession;

class LiveRequests {
 public:
  // False: the id is taken, by whichever tenant.
  bool try_add(const std::string& request_id, const std::string& tenant,
               const std::weak_ptr<GenerateSession>& session);
  void remove(const std::string& request_id);
  // Null where the caller may not know of it, as if there were none.
  std::shared_ptr<GenerateSession> find(const std::string& request_id, const Caller& caller) const;
  std::vector<std::shared_ptr<GenerateSession>> snapshot() const;

 private:
  struct Entry {
    std::string tenant;
    std::weak_ptr<GenerateSession> session;
  };

  mutable std::mutex mutex_;
  std::unordered_map<std::string, Entry> sessions_;  // guarded by mutex_
};

}  // namespace kvcrush
