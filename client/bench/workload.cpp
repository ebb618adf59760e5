#include "client/bench/workload.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string_view>

#include "client/bench/arrivals.h"

namespace kvcrush::bench {
namespace {

client::Status invalid(const std::string& message) {
  return {client::Code::kInvalidArgument, message};
}

// Independent choices of one request; the prompts' streams come after them.
enum Stream : std::uint64_t { kPromptLength, kOutputLength, kTenant, kPrompt, kStreamsOfARequest };
constexpr std::uint64_t kSharedPrefixStream = ~std::uint64_t{0};

std::uint64_t stream_of(std::int64_t number, Stream stream) {
  return static_cast<std::uint64_t>(number) * kStreamsOfARequest + stream;
}

// SplitMix64's finaliser: neighbouring streams get unrelated generators.
std::mt19937_64 generator(std::uint64_t seed, std::uint64_t stream) {
  std::uint64_t z = seed * 0xD1342543DE82EF95U + (stream + 1) * 0x9E3779B97F4A7C15U;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
  return std::mt19937_64(z ^ (z >> 31));
}

int draw(std::mt19937_64& random, const TokenRange& range) {
  return range.min + static_cast<int>(uniform(random) * (range.max - range.min + 1));
}

std::string to_string(const TokenRange& range) {
  return std::to_string(range.min) + (range.min == range.max ? "" : ":" + std::to_string(range.max));
}

client::Status check(const WorkloadOptions& options, const v1::GetModelInfoResponse& model) {
  if (!options.prompts.empty()) return {};  // the server tells which of the texts do not fit
  const int context = model.max_context_tokens();
  if (options.prompt_tokens.max + options.output_tokens.max > context)
    return invalid("--prompt-tokens " + to_string(options.prompt_tokens) + " and --output-tokens " +
                   to_string(options.output_tokens) + " do not fit the model's context of " +
                   std::to_string(context) + " tokens");
  if (options.shared_prefix_tokens >= options.prompt_tokens.min && options.shared_prefix_tokens > 0)
    return invalid("--shared-prefix-tokens is " + std::to_string(options.shared_prefix_tokens) +
                   ", allowed: less than the shortest prompt, " + std::to_string(options.prompt_tokens.min));
  return {};
}

template <typename T>
bool parse(std::string_view text, T& value) {
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && rest == text.data() + text.size();
}

}  // namespace

client::Result<TokenRange> parse_token_range(const std::string& text) {
  const auto colon = text.find(':');
  TokenRange range;
  const bool first = parse(std::string_view(text).substr(0, colon), range.min);
  range.max = range.min;
  const bool second =
      colon == std::string::npos || parse(std::string_view(text).substr(colon + 1), range.max);
  if (!first || !second || range.min < 1 || range.max < range.min)
    return invalid("'" + text +
                   "' is neither a number of tokens (500) nor a range of them (100:500), from 1 on");
  return range;
}

client::Result<std::vector<Share>> parse_shares(const std::string& text) {
  std::vector<Share> shares;
  std::istringstream parts(text);
  for (std::string part; std::getline(parts, part, ',');) {
    const auto colon = part.rfind(':');
    Share share{.name = part.substr(0, colon)};
    if (colon != std::string::npos && (!parse(std::string_view(part).substr(colon + 1), share.weight) ||
                                       !(share.weight > 0 && share.weight < 1e9)))
      return invalid("'" + part + "' has no weight above 0; wanted: NAME:WEIGHT,NAME:WEIGHT,...");
    const auto checked = client::check_headers({.tenant = share.name});
    if (!checked.ok()) return checked;
    if (share.name.empty()) return invalid("'" + text + "' has an empty name; wanted: NAME:WEIGHT,...");
    shares.push_back(std::move(share));
  }
  if (shares.empty()) return invalid("no name given; wanted: NAME:WEIGHT,NAME:WEIGHT,...");
  return shares;
}

client::Result<Workload> Workload::make(WorkloadOptions options, const v1::GetModelInfoResponse& model) {
  const auto checked = check(options, model);
  if (!checked.ok()) return checked;
  return Workload(std::move(options), model);
}

Workload::Workload(WorkloadOptions options, const v1::GetModelInfoResponse& model)
    : options_(std::move(options)),
      id_prefix_("bench-" + std::to_string(getpid()) + "-"),
      vocab_size_(model.vocab_size()),
      special_ids_(model.stop_token_ids().begin(), model.stop_token_ids().end()) {
  special_ids_.push_back(model.bos_token_id());
  shared_prefix_ = random_ids(kSharedPrefixStream, options_.shared_prefix_tokens);
}

std::vector<std::int32_t> Workload::random_ids(std::uint64_t stream, int count) const {
  std::mt19937_64 random = generator(options_.seed, stream);
  std::vector<std::int32_t> ids;
  ids.reserve(static_cast<std::size_t>(count));
  const bool avoid = vocab_size_ > static_cast<int>(special_ids_.size());
  while (ids.size() < static_cast<std::size_t>(count)) {
    const auto id = static_cast<std::int32_t>(uniform(random) * vocab_size_);
    const bool special = std::find(special_ids_.begin(), special_ids_.end(), id) != special_ids_.end();
    if (!(special && avoid)) ids.push_back(id);
  }
  return ids;
}

v1::GenerateRequest Workload::request(std::int64_t number) const {
  v1::GenerateRequest request = options_.base;
  request.set_request_id(id_prefix_ + std::to_string(number));
  if (options_.prompts.empty()) {
    auto lengths = generator(options_.seed, stream_of(number, kPromptLength));
    auto& ids = *request.mutable_token_ids()->mutable_ids();
    ids.Assign(shared_prefix_.begin(), shared_prefix_.end());
    const auto own = random_ids(stream_of(number, kPrompt),
                                draw(lengths, options_.prompt_tokens) - options_.shared_prefix_tokens);
    ids.Add(own.begin(), own.end());
  } else {
    request.set_text(options_.prompts[static_cast<std::size_t>(number) % options_.prompts.size()]);
  }
  auto lengths = generator(options_.seed, stream_of(number, kOutputLength));
  request.mutable_sampling()->set_max_tokens(draw(lengths, options_.output_tokens));
  request.mutable_sampling()->set_ignore_eos(true);
  return request;
}

int Workload::tenant(std::int64_t number) const {
  double sum = 0;
  for (const Share& share : options_.tenants) sum += share.weight;
  auto random = generator(options_.seed, stream_of(number, kTenant));
  double left = uniform(random) * sum;
  const int last = static_cast<int>(options_.tenants.size()) - 1;
  int index = 0;
  while (index < last && (left -= options_.tenants[static_cast<std::size_t>(index)].weight) >= 0) ++index;
  return index;
}

client::Result<std::vector<std::string>> parse_prompt_lines(const std::string& path,
                                                            const std::string& text) {
  std::vector<std::string> prompts;
  std::istringstream lines(text);
  int number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    if (line.empty()) continue;
    if (line.front() == '"') {
      const auto json = nlohmann::json::parse(line, nullptr, false);
      if (!json.is_string())
        return invalid(path + ":" + std::to_string(number) + ": starts with a quote and is no JSON string");
      line = json.get<std::string>();
    }
    prompts.push_back(std::move(line));
  }
  if (prompts.empty()) return invalid("'" + path + "' holds no prompt; wanted: one a line");
  return prompts;
}

}  // namespace kvcrush::bench
