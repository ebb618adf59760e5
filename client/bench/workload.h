// What the requests of a bench ask for: request number i is a function of the options, the seed and i.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "client/kvcrush_client.h"

namespace kvcrush::bench {

// Uniform, both ends included.
struct TokenRange {
  int min = 0;
  int max = 0;
};

// "500" or "100:500". INVALID_ARGUMENT: neither, below 1, or the wrong way round.
client::Result<TokenRange> parse_token_range(const std::string& text);

// One of several that requests are spread over, in proportion to the weights.
struct Share {
  std::string name;
  double weight = 1;
};

// "gold:3,free:1"; a name alone has weight 1. INVALID_ARGUMENT names the part that is neither.
client::Result<std::vector<Share>> parse_shares(const std::string& text);

struct WorkloadOptions {
  TokenRange prompt_tokens{256, 256};     // of random ids
  TokenRange output_tokens{128, 128};     // exactly so many: the model's end tokens do not count
  int shared_prefix_tokens = 0;           // of prompt_tokens, the same in all requests
  std::vector<std::string> prompts = {};  // where not empty: these texts in turn, instead of random ids
  std::vector<Share> tenants = {};        // empty: the client's
  std::uint64_t seed = 0;
  v1::GenerateRequest base = {};  // compression and sampling of every request
};

class Workload {
 public:
  // INVALID_ARGUMENT: the lengths do not fit each other or the model's context.
  static client::Result<Workload> make(WorkloadOptions options, const v1::GetModelInfoResponse& model);

  v1::GenerateRequest request(std::int64_t number) const;
  // Index into options().tenants; 0 without tenants.
  int tenant(std::int64_t number) const;
  const WorkloadOptions& options() const { return options_; }

 private:
  Workload(WorkloadOptions options, const v1::GetModelInfoResponse& model);

  std::vector<std::int32_t> random_ids(std::uint64_t stream, int count) const;

  WorkloadOptions options_;
  std::string id_prefix_;
  int vocab_size_;
  std::vector<std::int32_t> special_ids_;  // ids that random prompts do without
  std::vector<std::int32_t> shared_prefix_;
};

// One prompt a line; a line that starts with a quote is a JSON string, so that prompts may hold line breaks.
// INVALID_ARGUMENT names the file and the line.
client::Result<std::vector<std::string>> parse_prompt_lines(const std::string& path, const std::string& text);

}  // namespace kvcrush::bench
