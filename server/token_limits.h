// What the holders of tokens have running, and how often they may still call.
#pragma once

#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>

#include "server/auth_tokens.h"
#include "server/caller.h"
#include "server/security_metrics.h"

namespace kvcrush {

using SteadyTime = std::chrono::steady_clock::time_point;

// Holds `per_minute` calls when full, and fills up again within a minute.
class TokenBucket {
 public:
  // Takes one call, or says how long until there is one.
  std::optional<std::chrono::milliseconds> take(int per_minute, SteadyTime now);

 private:
  std::optional<double> level_;  // unset: full
  SteadyTime filled_at_;
};

struct LimitRefusal {
  TokenLimit limit;
  int allowed;
  std::chrono::milliseconds retry_after;
};

// Thread-safe. Counts go on when the token file is read again.
class TokenUsage {
 public:
  // One more call of the token's holder. With `slot` it also counts as running, until the slot goes.
  std::optional<LimitRefusal> enter(const AuthToken& token, SteadyTime now, RunningSlot* slot);
  // Forgets tokens that `set` has not.
  void keep_only(const TokenSet& set);

 private:
  struct Usage {
    TokenBucket bucket;
    std::shared_ptr<int> marker = std::make_shared<int>();  // each running request holds a reference
    int running() const { return static_cast<int>(marker.use_count()) - 1; }
  };

  std::mutex mutex_;
  std::unordered_map<std::string, Usage> by_name_;  // guarded by mutex_
};

}  // namespace kvcrush
