// Who makes a call, and what they may do: the one place from which the rest of the server knows it.
#pragma once

#include <memory>
#include <string>
#include <utility>

namespace kvcrush {

struct Caller {
  std::string tenant;              // whose request it is; empty: nobody said
  std::string token_name;          // empty: the server asks for no tokens
  double share = 1;                // its tenant's weight beside others that wait
  bool may_generate = true;        // Generate, GenerateOnce, Score, Tokenize, Detokenize
  bool sees_all_tenants = true;    // may list and abort requests of every tenant
  int max_tokens_per_request = 0;  // output tokens of all samples together; 0: no limit
};

inline bool may_see(const Caller& caller, const std::string& tenant) {
  return caller.sees_all_tenants || caller.tenant == tenant;
}

// A request that counts as running until the last copy of this goes. Empty: counts nowhere.
class RunningSlot {
 public:
  RunningSlot() = default;
  explicit RunningSlot(std::shared_ptr<void> count) : count_(std::move(count)) {}

 private:
  std::shared_ptr<void> count_;
};

// A call that was let in.
struct Admission {
  Caller caller;
  RunningSlot slot;  // of a request that runs, until it has ended
};

}  // namespace kvcrush
