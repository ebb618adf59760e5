#include "client/cli/request_options.h"

#include <functional>
#include <string>
#include <vector>

namespace kvcrush::cli {
namespace {

constexpr const char* kSamplingGroup = "Sampling";

// One scalar option that writes straight into the message.
template <typename T>
void add_value(CLI::App& app, const char* name, std::function<void(const T&)> set, const char* help) {
  app.add_option_function<T>(name, std::move(set), help)->group(kSamplingGroup);
}

void add_switch(CLI::App& app, const char* name, std::function<void()> set, const char* help) {
  app.add_flag_callback(name, std::move(set), help)->group(kSamplingGroup);
}

void add_scheduling_options(CLI::App& app, v1::GenerateRequest& request) {
  constexpr const char* kGroup = "Scheduling";
  app.add_option_function<std::int32_t>(
         "--priority", [&request](const std::int32_t& v) { request.set_priority(v); },
         "Among your tenant's requests, [-4, 4]: each step doubles the share while others wait (default 0)")
      ->group(kGroup);
  app.add_flag_callback(
         "--bypass-prefix-cache", [&request] { request.mutable_prefix_cache()->set_bypass(true); },
         "Compute the whole prompt, and leave nothing of it to others")
      ->group(kGroup);
  app.add_option_function<std::string>(
         "--cache-salt", [&request](const std::string& v) { request.mutable_prefix_cache()->set_salt(v); },
         "Share prompts' beginnings only with requests of the same salt")
      ->group(kGroup);
}

}  // namespace

void add_speculation_options(CLI::App& app, v1::GenerateRequest& request) {
  app.add_option_function<std::int32_t>(
         "--lookup-tokens",
         [&request](const std::int32_t& v) { request.mutable_speculation()->set_lookup_tokens(v); },
         "Guess up to so many tokens a step from earlier occurrences of the newest ones, [0, 64]: the same "
         "answer "
         "in fewer steps where it quotes its prompt; 0 = off (default 0)")
      ->group("Speculation");
}

void add_sampling_options(CLI::App& app, v1::GenerateRequest& request) {
  auto* s = request.mutable_sampling();
  const auto real = [&](const char* name, void (v1::SamplingParams::*set)(float), const char* help) {
    add_value<float>(
        app, name, [=](const float& v) { (s->*set)(v); }, help);
  };
  const auto whole = [&](const char* name, void (v1::SamplingParams::*set)(std::int32_t), const char* help) {
    add_value<std::int32_t>(
        app, name, [=](const std::int32_t& v) { (s->*set)(v); }, help);
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
      app, "--seed", [=](const std::uint64_t& v) { s->set_seed(v); },
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
  add_scheduling_options(app, request);
  add_speculation_options(app, request);
}

}  // namespace kvcrush::cli
