// Who makes a call, and what they may do: the one place from which the rest of the server knows it.
#pragma once

#include <string>

namespace kvcrush {

struct Caller {
  std::string tenant;              // whose request it is; empty: nobody said
  std::string token_name;          // empty: the server asks for no tokens
  bool may_generate = true;        // Generate, GenerateOnce, Score, Tokenize, Detokenize
  bool sees_all_tenants = true;    // may list and abort requests of every tenant
  int max_tokens_per_request = 0;  // output tokens of all samples together; 0: no limit
};

inline bool may_see(const Caller& caller, const std::string& tenant) {
  return caller.sees_all_tenants || caller.tenant == tenant;
}

}  // namespace kvcrush
