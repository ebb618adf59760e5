#include "server/live_requests.h"

#include <utility>

#include "server/generate_session.h"

namespace kvcrush {

bool LiveRequests::try_add(const std::string& request_id, const std::weak_ptr<GenerateSession>& session) {
  std::lock_guard lock(mutex_);
  return sessions_.try_emplace(request_id, session).second;
}

void LiveRequests::remove(const std::string& request_id) {
  std::lock_guard lock(mutex_);
  sessions_.erase(request_id);
}

std::vector<std::shared_ptr<GenerateSession>> LiveRequests::snapshot() const {
  std::vector<std::shared_ptr<GenerateSession>> sessions;
  std::lock_guard lock(mutex_);
  for (const auto& [id, weak] : sessions_) {
    if (std::shared_ptr<GenerateSession> session = weak.lock()) sessions.push_back(session);
  }
  return sessions;
}

}  // namespace kvcrush
