#include "server/auth_tokens.h"

#include <absl/time/time.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>
#include <set>

namespace kvcrush {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kMaxNameCharacters = 64;
constexpr std::string_view kScopes = "\"generate\", \"admin\"";

// One entry of "tokens". A field that nobody knows stops the file: a misspelt "expires" must not mean
// "never".
class EntryReader {
 public:
  EntryReader(const Json& entry, std::size_t index)
      : entry_(entry), where_(fmt::format("tokens[{}]", index)) {}

  Result<AuthToken> read() {
    if (!entry_.is_object()) return invalid_argument(where_ + " is no object");
    KVCRUSH_RETURN_IF_ERROR(check_fields());
    AuthToken token;
    KVCRUSH_RETURN_IF_ERROR(read_name("name", token.name));
    KVCRUSH_RETURN_IF_ERROR(read_digest(token.digest));
    token.tenant = token.name;
    if (entry_.contains("tenant")) KVCRUSH_RETURN_IF_ERROR(read_name("tenant", token.tenant));
    KVCRUSH_RETURN_IF_ERROR(read_expiry(token.expires_at));
    KVCRUSH_RETURN_IF_ERROR(read_scopes(token));
    KVCRUSH_RETURN_IF_ERROR(read_share(token.share));
    TokenLimits& limits = token.limits;
    KVCRUSH_RETURN_IF_ERROR(read_limit("max_concurrent_requests", limits.max_concurrent_requests));
    KVCRUSH_RETURN_IF_ERROR(read_limit("max_requests_per_minute", limits.max_requests_per_minute));
    KVCRUSH_RETURN_IF_ERROR(read_limit("max_tokens_per_request", limits.max_tokens_per_request));
    return token;
  }

 private:
  Status bad(std::string_view field, std::string_view problem) const {
    return invalid_argument(fmt::format("{}.{} {}", where_, field, problem));
  }

  Status check_fields() const {
    static const std::set<std::string_view> known = {"name",
                                                     "sha256",
                                                     "tenant",
                                                     "expires",
                                                     "scopes",
                                                     "share",
                                                     "max_concurrent_requests",
                                                     "max_requests_per_minute",
                                                     "max_tokens_per_request"};
    for (const auto& [field, value] : entry_.items()) {
      if (!known.contains(field))
        return bad(field.substr(0, kMaxNameCharacters), "is unknown, allowed: the documented fields");
    }
    return {};
  }

  Status read_name(const char* field, std::string& out) const {
    const auto found = entry_.find(field);
    if (found != entry_.end() && found->is_string()) out = found->get<std::string>();
    if (is_tenant_name(out) && found != entry_.end() && found->is_string()) return {};
    return bad(field, "is missing or wrong, allowed: 1 to 64 characters of [A-Za-z0-9._-]");
  }

  Status read_digest(Sha256& out) const {
    const auto found = entry_.find("sha256");
    const std::string hex = found != entry_.end() && found->is_string() ? found->get<std::string>() : "";
    const bool good = hex.size() == 2 * out.size() && std::all_of(hex.begin(), hex.end(), [](char c) {
                        return std::isxdigit(static_cast<unsigned char>(c)) != 0;
                      });
    if (!good) {
      return bad("sha256",
                 fmt::format("is {} characters long or no hexadecimal, allowed: 64 hexadecimal digits "
                             "(the token's hash, not the token)",
                             hex.size()));
    }
    for (std::size_t i = 0; i < out.size(); ++i)
      out[i] = static_cast<unsigned char>(std::stoul(hex.substr(2 * i, 2), nullptr, 16));
    return {};
  }

  Status read_expiry(std::optional<std::chrono::system_clock::time_point>& out) const {
    const auto found = entry_.find("expires");
    if (found == entry_.end()) return {};
    absl::Time time;
    std::string error;
    if (!found->is_string() ||
        !absl::ParseTime(absl::RFC3339_full, found->get<std::string>(), &time, &error) ||
        time == absl::InfiniteFuture() || time == absl::InfinitePast()) {
      return bad("expires", "is no time, allowed: RFC 3339, as 2027-01-31T00:00:00Z");
    }
    out = absl::ToChronoTime(time);
    return {};
  }

  Status read_scopes(AuthToken& token) const {
    const auto found = entry_.find("scopes");
    if (found == entry_.end()) return {};
    token.may_generate = false;
    const Status refused =
        bad("scopes", fmt::format("is wrong, allowed: an array of at least one of {}", kScopes));
    if (!found->is_array() || found->empty()) return refused;
    for (const Json& scope : *found) {
      if (scope == "generate") {
        token.may_generate = true;
      } else if (scope == "admin") {
        token.is_admin = true;
      } else {
        return refused;
      }
    }
    return {};
  }

  Status read_share(double& out) const {
    constexpr double kMost = 1000;
    const auto found = entry_.find("share");
    if (found == entry_.end()) return {};
    if (!found->is_number() || !(found->get<double>() >= 1 / kMost) || found->get<double>() > kMost)
      return bad("share", fmt::format("is wrong, allowed: a number in [{}, {}]", 1 / kMost, kMost));
    out = found->get<double>();
    return {};
  }

  Status read_limit(const char* field, int& out) const {
    constexpr std::int64_t kMost = 1 << 30;
    const auto found = entry_.find(field);
    if (found == entry_.end()) return {};
    const bool good =
        found->is_number_integer() && found->get<std::int64_t>() >= 1 && found->get<std::int64_t>() <= kMost;
    if (!good) return bad(field, fmt::format("is wrong, allowed: a whole number in [1, {}]", kMost));
    out = found->get<int>();
    return {};
  }

  const Json& entry_;
  const std::string where_;
};

bool is_name_char(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '.' || c == '_' || c == '-';
}

}  // namespace

Sha256 sha256(std::string_view bytes) {
  Sha256 digest{};
  unsigned size = 0;
  KVCRUSH_CHECK(EVP_Digest(bytes.data(), bytes.size(), digest.data(), &size, EVP_sha256(), nullptr) == 1);
  return digest;
}

int compare_in_constant_time(const void* a, const void* b, std::size_t num_bytes) {
  return CRYPTO_memcmp(a, b, num_bytes);
}

bool is_tenant_name(std::string_view name) {
  return !name.empty() && name.size() <= kMaxNameCharacters &&
         std::all_of(name.begin(), name.end(), is_name_char);
}

Result<TokenSet> TokenSet::parse(const std::string& json) {
  // The parser's own message would show what stands at the place.
  const Json file = Json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (file.is_discarded()) return invalid_argument("is no JSON");
  if (!file.is_object() || file.size() != 1 || !file.contains("tokens") || !file["tokens"].is_array())
    return invalid_argument(R"(is no object with the one field "tokens", an array)");
  TokenSet set;
  std::set<std::string> names;
  std::set<Sha256> digests;
  for (const Json& entry : file["tokens"]) {
    const std::size_t index = set.tokens_.size();
    Result<AuthToken> token = EntryReader(entry, index).read();
    KVCRUSH_RETURN_IF_ERROR(token.status());
    if (!names.insert(token->name).second)
      return invalid_argument(fmt::format("tokens[{}].name is \"{}\", which is taken", index, token->name));
    if (!digests.insert(token->digest).second)
      return invalid_argument(fmt::format("tokens[{}].sha256 is that of another entry", index));
    set.tokens_.push_back(std::move(token).value());
  }
  return set;
}

const AuthToken* TokenSet::find(std::string_view token, DigestCompare compare) const {
  const Sha256 digest = sha256(token);
  const AuthToken* found = nullptr;
  for (const AuthToken& known : tokens_) {
    if (compare(known.digest.data(), digest.data(), digest.size()) == 0) found = &known;
  }
  return found;
}

const AuthToken* TokenSet::by_name(std::string_view name) const {
  const auto found =
      std::find_if(tokens_.begin(), tokens_.end(), [name](const AuthToken& t) { return t.name == name; });
  return found == tokens_.end() ? nullptr : &*found;
}

}  // namespace kvcrush
