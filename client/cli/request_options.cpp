#include "client/cli/request_options.h"

#include <charconv>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace kvcrush::cli {
namespace {

constexpr const char* kSamplingGroup = "Sampling";
constexpr const char* kCompressionGroup = "KV compression";

template <typename T>
std::optional<T> parse_number(std::string_view text) {
  T value{};
  const auto* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || rest != end) return std::nullopt;
  return value;
}

// One scalar option that writes straight into the message.
template <typename T>
void add_value(CLI::App& app, const char* group, const char* name, std::function<void(const T&)> set,
               const char* help) {
  app.add_option_function<T>(name, std::move(set), help)->group(group);
}

// One option whose value is a word out of `names`.
template <typename E>
void add_choice(CLI::App& app, const char* name, const std::map<std::string, E>& names,
                std::function<void(E)> set, const std::string& help) {
  std::string words;
  for (const auto& [word, value] : names) words += (words.empty() ? "" : "|") + word;
  const auto apply = [names, set = std::move(set)](const std::string& word) { set(names.at(word)); };
  app.add_option_function<std::string>(name, apply, help)
      ->check(CLI::IsMember(names).description(""))
      ->type_name(words)
      ->group(kCompressionGroup);
}

void add_switch(CLI::App& app, const char* name, std::function<void()> set, const char* help) {
  app.add_flag_callback(name, std::move(set), help)->group(kSamplingGroup);
}

}  // namespace

bool parse_budget(std::string_view text, v1::KvCompression& compression) {
  const bool percent = text.ends_with('%');
  if (percent) text.remove_suffix(1);
  if (percent || text.find('.') != std::string_view::npos) {
    const auto value = parse_number<double>(text);
    if (!value) return false;
    compression.set_budget_fraction(percent ? *value / 100 : *value);
    return true;
  }
  const auto tokens = parse_number<std::int32_t>(text);
  if (!tokens) return false;
  compression.set_budget_tokens(*tokens);
  return true;
}

void add_sampling_options(CLI::App& app, v1::GenerateRequest& request) {
  auto* s = request.mutable_sampling();
  const auto real = [&](const char* name, void (v1::SamplingParams::*set)(float), const char* help) {
    add_value<float>(
        app, kSamplingGroup, name, [=](const float& v) { (s->*set)(v); }, help);
  };
  const auto whole = [&](const char* name, void (v1::SamplingParams::*set)(std::int32_t), const char* help) {
    add_value<std::int32_t>(
        app, kSamplingGroup, name, [=](const std::int32_t& v) { (s->*set)(v); }, help);
  };
  using P = v1::SamplingParams;
  real("--temperature", &P::set_temperature, "0 = greedy, up to 100 (default 1)");
  whole("--top-k", &P::set_top_k, "Sample among the K likeliest; 0 = all (default 0)");
  real("--top-p", &P::set_top_p, "Sample among the likeliest that sum to P, (0, 1] (default 1)");
  real("--min-p", &P::set_min_p, "Drop tokens below P x the likeliest, [0, 1] (default 0)");
  real("--repetition-penalty", &P::set_repetition_penalty, "(0, 10]; 1 = off (default 1)");
  real("--presence-penalty", &P::set_presence_penalty, "[-2, 2] (default 0)");
  real("--frequency-penalty", &P::set_frequency_penalty, "[-2, 2] (default 0)");
  add_value<std::uint64_t>(
      app, kSamplingGroup, "--seed", [=](const std::uint64_t& v) { s->set_seed(v); },
      "Same seed, same text (default: random)");
  whole("--max-tokens", &P::set_max_tokens, "Tokens to generate at most (default: the server's)");
  whole("--min-tokens", &P::set_min_tokens, "Tokens before anything may end the text (default 0)");
  app.add_option_function<std::vector<std::string>>(
         "--stop",
         [=](const std::vector<std::string>& words) {
           s->mutable_stop()->Assign(words.begin(), words.end());
         },
         "End the text before this string; may be repeated")
      ->allow_extra_args(false)
      ->group(kSamplingGroup);
  app.add_option_function<std::vector<std::int32_t>>(
         "--stop-token-id",
         [=](const std::vector<std::int32_t>& ids) {
           s->mutable_stop_token_ids()->Assign(ids.begin(), ids.end());
         },
         "End the text at this token; may be repeated")
      ->allow_extra_args(false)
      ->group(kSamplingGroup);
  add_switch(
      app, "--ignore-eos", [=] { s->set_ignore_eos(true); }, "The model's end tokens do not end the text");
  whole("--logprobs", &P::set_logprobs, "Print log-probabilities with the K likeliest, [0, 20]");
  whole("--n", &P::set_n, "Samples, [1, 16]; sample i uses seed + i (default 1)");
}

void add_compression_options(CLI::App& app, v1::GenerateRequest& request) {
  // The message is made on first use: a request without one takes the server's default compression.
  const auto message = [&request]() -> v1::KvCompression& { return *request.mutable_compression(); };
  const auto whole = [&](const char* name, void (v1::KvCompression::*set)(std::int32_t), const char* help) {
    add_value<std::int32_t>(
        app, kCompressionGroup, name, [=](const std::int32_t& v) { (message().*set)(v); }, help);
  };
  add_choice<v1::BasePolicy>(
      app, "--policy", {{"off", v1::BASE_POLICY_OFF}, {"snapkv", v1::BASE_POLICY_SNAPKV}},
      [=](v1::BasePolicy v) { message().set_policy(v); }, "What ranks the tokens");
  app.add_option_function<std::string>(
         "--budget",
         [=](const std::string& text) {
           if (!parse_budget(text, message()))
             throw CLI::ValidationError("--budget",
                                        "'" + text + "' is neither a fraction (0.25, 25%) nor tokens (1024)");
         },
         "Tokens that stay: 0.25 or 25% of the prompt, or 1024 per layer")
      ->type_name("FRACTION|TOKENS")
      ->group(kCompressionGroup);
  add_value<double>(
      app, kCompressionGroup, "--share", [=](const double& v) { message().set_representative_share(v); },
      "Share of the free budget for representatives, [0, 1]; 0 = base policy alone");
  add_choice<v1::Anchor>(
      app, "--anchor",
      {{"random", v1::ANCHOR_RANDOM},
       {"zeros", v1::ANCHOR_ZEROS},
       {"ones", v1::ANCHOR_ONES},
       {"mean", v1::ANCHOR_MEAN},
       {"alternating", v1::ANCHOR_ALTERNATING}},
      [=](v1::Anchor v) { message().set_anchor(v); }, "What signatures are compared with");
  add_choice<v1::TokenSets>(
      app, "--token-sets",
      {{"per-layer", v1::TOKEN_SETS_PER_LAYER}, {"per-kv-head", v1::TOKEN_SETS_PER_KV_HEAD}},
      [=](v1::TokenSets v) { message().set_token_sets(v); }, "Who keeps the same tokens");
  add_choice<v1::RepresentativePick>(
      app, "--pick", {{"first", v1::REPRESENTATIVE_PICK_FIRST}, {"best", v1::REPRESENTATIVE_PICK_BEST}},
      [=](v1::RepresentativePick v) { message().set_pick(v); }, "Which token stands for its group");
  whole("--sinks", &v1::KvCompression::set_num_sink_tokens, "First tokens, always kept, [0, 1024]");
  whole("--window", &v1::KvCompression::set_window_tokens, "Last tokens, always kept and observed, [1, 256]");
  whole("--pool-kernel", &v1::KvCompression::set_pool_kernel_tokens, "Width of the max pool, odd, [1, 63]");
  add_value<std::uint64_t>(
      app, kCompressionGroup, "--prune-seed", [=](const std::uint64_t& v) { message().set_seed(v); },
      "Seed of the random anchor");
  add_choice<v1::PruneWhen>(
      app, "--when",
      {{"after-prompt", v1::PRUNE_WHEN_AFTER_PROMPT}, {"during-prefill", v1::PRUNE_WHEN_DURING_PREFILL}},
      [=](v1::PruneWhen v) { message().set_when(v); }, "When to prune");
}

}  // namespace kvcrush::cli
