#include "server/live_requests.h"

#include <utility>

#include "server/generate_session.h"

namespace kvcrush {

bool LiveRequests::try_add(const std::string& request_id, const std::string& tenant,
                           const std::weak_ptr<GenerateSession>& session) {
  std::lock_guard lock(mutex_);
  return sessions_.try_emplace(request_id, Entry{tenant, session}).second;
}

void LiveRequests::remove(const std::string& request_id) {
  std::lock_guard lock(mutex_);
  sessions_.erase(request_id);
}

std::shared_ptr<GenerateSession> LiveRequests::find(const std::string& request_id,
                                                    const Caller& caller) const {
  std::lock_guard lock(mutex_);
  const auto found = sessions_.find(request_id);
  if (found == sessions_.end() || !may_see(caller, found->second.tenant)) return nullptr;
  return found->second.session.lock();
}

std::vector<std::shared_ptr<GenerateSession>> LiveRequests::snapshot() const {
  std::vector<std::shared_ptr<GenerateSession>> sessions;
  std::lock_guard lock(mutex_);
  for (const auto& [id, entry] : sessions_) {
    if (std::shared_ptr<GenerateSession> session = entry.session.lock()) sessions.push_back(session);
  }
  return sessions;
}

}  // namespace kvcrush
