#include <spdlog/fmt/fmt.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string_view>
#include <utility>

#include "server/config.h"
#include "server/config_options.h"

namespace kvcrush {
namespace {

// The request's field names mean nothing to who starts the server.
constexpr std::pair<std::string_view, std::string_view> kOptionOfField[] = {
    {"compression.policy", "--default-policy"},
    {"compression.preset", "--default-preset"},
    {"compression.target_compression", "--default-target-compression"},
    {"compression.budget_tokens", "--default-budget"},
    {"compression.budget_fraction", "--default-budget"},
    {"compression.representative_share", "--default-representative-share"},
    {"compression.anchor", "--default-anchor"},
    {"compression.granularity", "--default-granularity"},
    {"compression.token_sets", "--default-token-sets"},
    {"compression.pick", "--default-pick"},
    {"compression.num_sink_tokens", "--default-sink-tokens"},
    {"compression.window_tokens", "--default-window-tokens"},
    {"compression.observed_queries", "--default-observed-queries"},
    {"compression.lookahead_branches", "--default-lookahead-branches"},
    {"compression.lookahead_tokens", "--default-lookahead-tokens"},
    {"compression.pool_shape", "--default-pool-shape"},
    {"compression.layer_weight", "--default-layer-weight"},
    {"compression.pool_kernel_tokens", "--default-pool-kernel-tokens"},
    {"compression.value_norm", "--default-value-norm"},
    {"compression.layer_budgets", "--default-layer-budgets"},
    {"compression.signature_heads", "--default-signature-heads"},
};

std::string as_option(const std::string& message) {
  for (const auto& [field, option] : kOptionOfField) {
    if (message.starts_with(field)) return std::string(option) + message.substr(field.size());
  }
  return message;
}

// Declares options that write straight into the message, so that what nobody named stays unset.
class Declaration {
 public:
  Declaration(CLI::App& app, const char* group) : app_(app), group_(group) {}

  template <typename T>
  void value(const std::string& name, std::function<void(const T&)> set, const std::string& help,
             const std::string& shown_default) const {
    finish(app_.add_option_function<T>("--" + name, std::move(set), help), name, shown_default);
  }

  template <typename E>
  void choice(const std::string& name, const std::map<std::string, E>& words, std::function<void(E)> set,
              const std::string& help, const std::string& shown_default) const {
    const auto apply = [words, set = std::move(set)](const std::string& word) { set(words.at(word)); };
    CLI::Option* option = app_.add_option_function<std::string>("--" + name, apply, help);
    finish(option->check(CLI::IsMember(words).description("")), name, shown_default);
  }

 private:
  void finish(CLI::Option* option, const std::string& name, const std::string& shown_default) const {
    option->group(group_)->envname(environment_name(name))->default_str(shown_default);
  }

  CLI::App& app_;
  const char* group_;
};

void add_whether_to_prune(const Declaration& declare, v1::KvCompression& given) {
  declare.choice<v1::BasePolicy>(
      "default-policy",
      {{"off", v1::BASE_POLICY_OFF},
       {"snapkv", v1::BASE_POLICY_SNAPKV},
       {"h2o", v1::BASE_POLICY_H2O},
       {"tova", v1::BASE_POLICY_TOVA},
       {"streaming", v1::BASE_POLICY_STREAMING},
       {"knorm", v1::BASE_POLICY_KNORM},
       {"keydiff", v1::BASE_POLICY_KEYDIFF}},
      [&given](v1::BasePolicy v) { given.set_policy(v); },
      "KV pruning of a request that names no policy: off, snapkv, h2o, tova, streaming, knorm or keydiff",
      "off");
  declare.value<int>(
      "default-target-compression", [&given](const int& v) { given.set_target_compression(v); },
      "Instead of all others here but --default-prune-when: 2, 4, 8 or 16 times fewer KV bytes than a full "
      "16-bit cache, for requests that name no policy",
      "none");
  declare.choice<v1::Preset>(
      "default-preset", {{"default", v1::PRESET_DEFAULT}, {"paper", v1::PRESET_PAPER}},
      [&given](v1::Preset v) { given.set_preset(v); },
      "Where the fields below take their values from: default (what measured best) or paper", "default");
  declare.value<std::string>(
      "default-budget",
      [&given](const std::string& text) {
        if (const Status status = parse_budget(text, given); !status.ok())
          throw CLI::ValidationError(status.message());
      },
      "What each layer keeps: a number with a decimal point is a share of the prompt's tokens, (0, 1]; a "
      "whole number is tokens",
      "0.25");
  declare.choice<v1::PruneWhen>(
      "default-prune-when",
      {{"after-prompt", v1::PRUNE_WHEN_AFTER_PROMPT}, {"during-prefill", v1::PRUNE_WHEN_DURING_PREFILL}},
      [&given](v1::PruneWhen v) { given.set_when(v); },
      "after-prompt, or during-prefill so that a prompt longer than the pool can be served", "after-prompt");
}

void add_representatives(const Declaration& declare, v1::KvCompression& given) {
  declare.value<double>(
      "default-representative-share", [&given](const double& v) { given.set_representative_share(v); },
      "Share of the free budget for KVCrush representatives, [0, 1]; 0: the base policy alone",
      "the preset's");
  declare.choice<v1::Anchor>(
      "default-anchor",
      {{"random", v1::ANCHOR_RANDOM},
       {"zeros", v1::ANCHOR_ZEROS},
       {"ones", v1::ANCHOR_ONES},
       {"mean", v1::ANCHOR_MEAN},
       {"alternating", v1::ANCHOR_ALTERNATING}},
      [&given](v1::Anchor v) { given.set_anchor(v); },
      "KVCrush's anchor: random, zeros, ones, mean or alternating", "the preset's");
  declare.choice<v1::RepresentativePick>(
      "default-pick", {{"first", v1::REPRESENTATIVE_PICK_FIRST}, {"best", v1::REPRESENTATIVE_PICK_BEST}},
      [&given](v1::RepresentativePick v) { given.set_pick(v); },
      "Which token stands for its group: first or best", "the preset's");
  declare.choice<v1::SignatureHeads>(
      "default-signature-heads", {{"query", v1::SIGNATURE_HEADS_QUERY}, {"kv", v1::SIGNATURE_HEADS_KV}},
      [&given](v1::SignatureHeads v) { given.set_signature_heads(v); },
      "A bit of the signature per query head or per KV head: query or kv", "the preset's");
}

void add_selection(const Declaration& declare, v1::KvCompression& given) {
  declare.choice<v1::TokenSets>(
      "default-token-sets",
      {{"per-layer", v1::TOKEN_SETS_PER_LAYER}, {"per-kv-head", v1::TOKEN_SETS_PER_KV_HEAD}},
      [&given](v1::TokenSets v) { given.set_token_sets(v); },
      "Whose tokens are chosen together: per-layer or per-kv-head", "the preset's");
  declare.choice<v1::Granularity>(
      "default-granularity", {{"token", v1::GRANULARITY_TOKEN}, {"block", v1::GRANULARITY_BLOCK}},
      [&given](v1::Granularity v) { given.set_granularity(v); },
      "What is kept or evicted as one: token, or block of 16 neighbouring tokens", "the preset's");
  declare.choice<v1::LayerBudgets>(
      "default-layer-budgets",
      {{"uniform", v1::LAYER_BUDGETS_UNIFORM},
       {"pyramid", v1::LAYER_BUDGETS_PYRAMID},
       {"rising", v1::LAYER_BUDGETS_RISING}},
      [&given](v1::LayerBudgets v) { given.set_layer_budgets(v); },
      "uniform; pyramid: more tokens in early layers than in late ones; rising: the reverse", "the preset's");
  const auto tokens = [&](const char* name, void (v1::KvCompression::*set)(std::int32_t), const char* help) {
    declare.value<std::int32_t>(
        name, [&given, set](const std::int32_t& v) { (given.*set)(v); }, help, "the preset's");
  };
  tokens("default-sink-tokens", &v1::KvCompression::set_num_sink_tokens,
         "First tokens that always stay, [0, 1024]");
  tokens("default-window-tokens", &v1::KvCompression::set_window_tokens,
         "Last tokens that always stay, [1, 256]");
  tokens("default-observed-queries", &v1::KvCompression::set_observed_queries,
         "How many of the window's last queries snapkv asks, [1, window]");
  tokens("default-lookahead-tokens", &v1::KvCompression::set_lookahead_tokens,
         "Likeliest next tokens whose queries snapkv asks too, [0, 64]");
  tokens("default-lookahead-branches", &v1::KvCompression::set_lookahead_branches,
         "Continuations of so many tokens each, [1, 4]");
  tokens("default-pool-kernel-tokens", &v1::KvCompression::set_pool_kernel_tokens,
         "Width of the pool over attention scores in tokens, odd, [1, 63]");
  declare.choice<v1::PoolShape>(
      "default-pool-shape", {{"max", v1::POOL_SHAPE_MAX}, {"gaussian", v1::POOL_SHAPE_GAUSSIAN}},
      [&given](v1::PoolShape v) { given.set_pool_shape(v); },
      "How the pool spreads scores: max, or gaussian for a mean weighted by nearness", "the preset's");
  declare.value<bool>(
      "default-value-norm", [&given](const bool& v) { given.set_value_norm(v); },
      "true or false: attention times the norm of the token's value; for policies that read attention",
      "the preset's");
  declare.value<double>(
      "default-layer-weight", [&given](const double& v) { given.set_layer_weight(v); },
      "With per-kv-head sets: weight of the layer's mean importance beside the head's own, [0, 4]",
      "the preset's");
}

}  // namespace

void add_compression_defaults(CLI::App& app, const char* group, v1::KvCompression& given) {
  const Declaration declare(app, group);
  add_whether_to_prune(declare, given);
  add_representatives(declare, given);
  add_selection(declare, given);
}

Status parse_budget(const std::string& text, v1::KvCompression& compression) {
  Status refused = invalid_argument(fmt::format(
      "--default-budget is \"{}\", allowed: a share with a decimal point in (0, 1], or whole tokens >= 1",
      text));
  if (text.find('.') == std::string::npos) {
    int tokens = 0;
    if (!parse_whole(text, tokens) || tokens < 1) return refused;
    compression.set_budget_tokens(tokens);
    return {};
  }
  double fraction = 0;
  if (!parse_whole(text, fraction) || !(fraction > 0.0 && fraction <= 1.0)) return refused;
  compression.set_budget_fraction(fraction);
  return {};
}

Result<CompressionDefaults> resolve_compression(const v1::KvCompression& given, const std::string& kv_dtype) {
  const Result<KvDtype> engine_dtype = parse_kv_dtype(kv_dtype);
  KVCRUSH_RETURN_IF_ERROR(engine_dtype.status());
  Result<CompressionDefaults> defaults = compression_defaults(given, *engine_dtype);
  if (!defaults.ok()) return invalid_argument(as_option(defaults.status().message()));
  return defaults;
}

}  // namespace kvcrush
