#include "client/cli/compression_options.h"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <map>
#include <optional>
#include <sstream>
#include <utility>

namespace kvcrush::cli {
namespace {

constexpr const char* kGroup = "KV compression";

using Message = std::function<v1::KvCompression&()>;

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
void add_value(CLI::App& app, const char* name, std::function<void(const T&)> set, const char* help) {
  app.add_option_function<T>(name, std::move(set), help)->group(kGroup);
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
      ->group(kGroup);
}

void add_whether_to_prune(CLI::App& app, const Message& message) {
  add_choice<v1::BasePolicy>(
      app, "--policy",
      {{"off", v1::BASE_POLICY_OFF},
       {"snapkv", v1::BASE_POLICY_SNAPKV},
       {"h2o", v1::BASE_POLICY_H2O},
       {"tova", v1::BASE_POLICY_TOVA},
       {"streaming", v1::BASE_POLICY_STREAMING},
       {"knorm", v1::BASE_POLICY_KNORM},
       {"keydiff", v1::BASE_POLICY_KEYDIFF}},
      [=](v1::BasePolicy v) { message().set_policy(v); }, "What ranks the tokens; off keeps all");
  app.add_option_function<std::string>(
         "--budget",
         [=](const std::string& text) {
           if (!parse_budget(text, message()))
             throw CLI::ValidationError("--budget",
                                        "'" + text + "' is neither a fraction (0.25, 25%) nor tokens (1024)");
         },
         "Tokens that stay: 0.25 or 25% of the prompt, or 1024 per layer")
      ->type_name("FRACTION|TOKENS")
      ->group(kGroup);
  add_choice<v1::KvDtype>(
      app, "--kv-dtype",
      {{"f32", v1::KV_DTYPE_F32},
       {"bf16", v1::KV_DTYPE_BF16},
       {"f16", v1::KV_DTYPE_F16},
       {"int8", v1::KV_DTYPE_INT8},
       {"int4", v1::KV_DTYPE_INT4}},
      [=](v1::KvDtype v) { message().set_kv_dtype(v); }, "How K and V are stored; also with --policy off");
  add_value<std::int32_t>(
      app, "--target-compression", [=](const std::int32_t& v) { message().set_target_compression(v); },
      "2, 4, 8 or 16 times fewer KV bytes than a full 16-bit cache: picks dtype, policy and budget");
  add_choice<v1::Preset>(
      app, "--preset", {{"default", v1::PRESET_DEFAULT}, {"paper", v1::PRESET_PAPER}},
      [=](v1::Preset v) { message().set_preset(v); }, "Where what is not given here comes from");
  add_choice<v1::PruneWhen>(
      app, "--when",
      {{"after-prompt", v1::PRUNE_WHEN_AFTER_PROMPT}, {"during-prefill", v1::PRUNE_WHEN_DURING_PREFILL}},
      [=](v1::PruneWhen v) { message().set_when(v); }, "When to prune");
}

void add_representatives(CLI::App& app, const Message& message) {
  add_value<double>(
      app, "--share", [=](const double& v) { message().set_representative_share(v); },
      "Share of the free budget for representatives, [0, 1]; 0 = base policy alone");
  add_choice<v1::Anchor>(
      app, "--anchor",
      {{"random", v1::ANCHOR_RANDOM},
       {"zeros", v1::ANCHOR_ZEROS},
       {"ones", v1::ANCHOR_ONES},
       {"mean", v1::ANCHOR_MEAN},
       {"alternating", v1::ANCHOR_ALTERNATING}},
      [=](v1::Anchor v) { message().set_anchor(v); }, "What signatures are compared with");
  add_choice<v1::RepresentativePick>(
      app, "--pick", {{"first", v1::REPRESENTATIVE_PICK_FIRST}, {"best", v1::REPRESENTATIVE_PICK_BEST}},
      [=](v1::RepresentativePick v) { message().set_pick(v); }, "Which token stands for its group");
  add_choice<v1::SignatureHeads>(
      app, "--signature-heads", {{"query", v1::SIGNATURE_HEADS_QUERY}, {"kv", v1::SIGNATURE_HEADS_KV}},
      [=](v1::SignatureHeads v) { message().set_signature_heads(v); }, "Whose choice is a signature's bit");
  add_value<std::uint64_t>(
      app, "--prune-seed", [=](const std::uint64_t& v) { message().set_seed(v); },
      "Seed of the random anchor");
}

void add_selection(CLI::App& app, const Message& message) {
  const auto whole = [&](const char* name, void (v1::KvCompression::*set)(std::int32_t), const char* help) {
    add_value<std::int32_t>(
        app, name, [=](const std::int32_t& v) { (message().*set)(v); }, help);
  };
  add_choice<v1::Granularity>(
      app, "--granularity", {{"token", v1::GRANULARITY_TOKEN}, {"block", v1::GRANULARITY_BLOCK}},
      [=](v1::Granularity v) { message().set_granularity(v); }, "What stays or goes as one");
  add_choice<v1::TokenSets>(
      app, "--token-sets",
      {{"per-layer", v1::TOKEN_SETS_PER_LAYER}, {"per-kv-head", v1::TOKEN_SETS_PER_KV_HEAD}},
      [=](v1::TokenSets v) { message().set_token_sets(v); }, "Who keeps the same tokens");
  add_choice<v1::LayerBudgets>(
      app, "--layer-budgets",
      {{"uniform", v1::LAYER_BUDGETS_UNIFORM},
       {"pyramid", v1::LAYER_BUDGETS_PYRAMID},
       {"rising", v1::LAYER_BUDGETS_RISING}},
      [=](v1::LayerBudgets v) { message().set_layer_budgets(v); }, "How the budget is spread over layers");
  whole("--sinks", &v1::KvCompression::set_num_sink_tokens, "First tokens, always kept, [0, 1024]");
  whole("--window", &v1::KvCompression::set_window_tokens, "Last tokens, always kept, [1, 256]");
  whole("--observed-queries", &v1::KvCompression::set_observed_queries,
        "How many of the window's last queries snapkv asks, [1, window]");
  whole("--lookahead", &v1::KvCompression::set_lookahead_tokens,
        "Likeliest next tokens whose queries snapkv asks too, [0, 64]");
  whole("--lookahead-branches", &v1::KvCompression::set_lookahead_branches,
        "Continuations of so many tokens each, [1, 4]");
  whole("--pool-kernel", &v1::KvCompression::set_pool_kernel_tokens,
        "Width of the pool over attention scores, odd, [1, 63]");
  add_choice<v1::PoolShape>(
      app, "--pool-shape", {{"max", v1::POOL_SHAPE_MAX}, {"gaussian", v1::POOL_SHAPE_GAUSSIAN}},
      [=](v1::PoolShape v) { message().set_pool_shape(v); }, "How the pool spreads scores");
  add_value<double>(
      app, "--layer-weight", [=](const double& v) { message().set_layer_weight(v); },
      "Weight of the layer's mean importance beside the head's own, [0, 4]; per-kv-head sets");
  app.add_flag_function(
         "--value-norm,!--no-value-norm", [=](std::int64_t count) { message().set_value_norm(count > 0); },
         "Attention times the norm of the token's value; policies that read attention")
      ->group(kGroup);
}

client::Status bad_variant(const std::string& text, const std::string& why) {
  return {client::Code::kInvalidArgument, "variant '" + text + "': " + why};
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

void add_compression_options(CLI::App& app, const Message& message) {
  add_whether_to_prune(app, message);
  add_selection(app, message);
  add_representatives(app, message);
}

void add_compression_options(CLI::App& app, v1::GenerateRequest& request) {
  add_compression_options(app, [&request]() -> v1::KvCompression& { return *request.mutable_compression(); });
}

client::Result<v1::KvCompression> parse_variant(const std::string& text) {
  std::vector<std::string> words;
  std::istringstream items(text);
  for (std::string item; std::getline(items, item, ',');) {
    const std::size_t name_end = std::min(item.find('='), item.size());
    if (name_end == 0 || item.front() == '-') return bad_variant(text, "wanted: name=value,name=value,...");
    std::replace(item.begin(), item.begin() + static_cast<std::ptrdiff_t>(name_end), '_', '-');
    words.push_back("--" + item);
  }
  std::reverse(words.begin(), words.end());  // CLI11 takes the words last first
  v1::KvCompression compression;
  CLI::App app;
  app.set_help_flag();
  add_compression_options(app, [&compression]() -> v1::KvCompression& { return compression; });
  try {
    app.parse(words);
  } catch (const CLI::ParseError& error) {
    return bad_variant(text, error.what());
  }
  return compression;
}

void add_variant_option(CLI::App& app, Variants& variants, const std::string& help) {
  app.add_option_function<std::vector<std::string>>(
         "--variant",
         [&variants](const std::vector<std::string>& texts) {
           for (const std::string& text : texts) {
             const auto parsed = parse_variant(text);
             if (!parsed.ok()) throw CLI::ValidationError("--variant", parsed.status().message);
             variants.labels.push_back(text);
             variants.parsed.push_back(*parsed);
           }
         },
         help)
      ->type_name("NAME=VALUE,...")
      ->allow_extra_args(false)
      ->group(kGroup);
}

}  // namespace kvcrush::cli
