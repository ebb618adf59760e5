// Bearer tokens as the file of --auth-tokens has them: hashed, with what their holders may do.
//
// A token is expected to be long and random (`openssl rand -hex 32`), so one round of SHA-256 keeps it: slow
// hashes are for secrets that can be guessed, and would cost every call.
#pragma once

#include <array>
#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/status.h"

namespace kvcrush {

using Sha256 = std::array<unsigned char, 32>;
Sha256 sha256(std::string_view bytes);

struct TokenLimits {  // 0: none
  int max_concurrent_requests = 0;
  int max_requests_per_minute = 0;
  int max_tokens_per_request = 0;
};

struct AuthToken {
  std::string name;  // for logs; never the token itself
  Sha256 digest{};
  std::string tenant;
  std::optional<std::chrono::system_clock::time_point> expires_at;
  bool may_generate = true;
  bool is_admin = false;
  double share = 1;  // of the server, beside other tenants' that wait
  TokenLimits limits;

  bool expired(std::chrono::system_clock::time_point now) const { return expires_at && now >= *expires_at; }
};

// 0 when equal, in a time that does not depend on the bytes. A test counts its calls.
using DigestCompare = int (*)(const void*, const void*, std::size_t);
int compare_in_constant_time(const void* a, const void* b, std::size_t num_bytes);

class TokenSet {
 public:
  // INVALID_ARGUMENT says which entry and field; no message holds a token or its hash.
  static Result<TokenSet> parse(const std::string& json);

  // The token's entry, expired or not; null: unknown. Compares with every entry, whichever matches.
  const AuthToken* find(std::string_view token, DigestCompare compare = compare_in_constant_time) const;
  const AuthToken* by_name(std::string_view name) const;
  std::size_t size() const { return tokens_.size(); }

 private:
  std::vector<AuthToken> tokens_;
};

// [A-Za-z0-9._-], 1 to 64 characters: names of tokens and tenants.
bool is_tenant_name(std::string_view name);

}  // namespace kvcrush
