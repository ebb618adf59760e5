// GenerateRequest and ScoreRequest on their way from the wire to a checked request. The input's first byte
// says which, whether the rest is wire format or builds a message, and which defaults the server has.
#include <google/protobuf/stubs/logging.h>
#include <google/protobuf/util/message_differencer.h>

#include <array>
#include <string>

#include "server/compression_fields.h"
#include "server/request_mapper.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/message_builder.h"
#include "tests/unit/tokenizer/small_vocabulary.h"

namespace kvcrush::fuzz {
namespace {

constexpr int kMaxContextTokens = 400;
constexpr int kMaxCachedTokens = 200;

MapperContext make_context(const v1::KvCompression& given) {
  TokenizerSpec spec = test::small_spec({{"a", "b"}, {" ", " "}}, {"<|end|>"});
  spec.eos_id = static_cast<TokenId>(spec.tokens.size()) - 1;
  spec.stop_ids = {spec.eos_id};
  MapperContext context;
  context.tokenizer = Tokenizer::create(std::move(spec)).value();
  context.chat_template =
      ChatTemplate::parse(
          "{% for message in messages %}{% if message.role == 'no' %}{{ raise_exception(message.content) }}"
          "{% endif %}{{ message['role'] ~ ': ' ~ message['content'] ~ message.tool_calls ~ '<|end|>' }}{% "
          "endfor %}"
          "{{ tools|tojson ~ a if tools }}{{ '<|end|>' if add_generation_prompt }}")
          .value();
  context.limits.max_context_tokens = kMaxContextTokens;
  context.limits.max_cached_tokens = kMaxCachedTokens;
  context.max_new_tokens = [](int num_prompt_tokens, const CachePolicy& policy) {
    return (policy.compression ? kMaxContextTokens : kMaxCachedTokens) - num_prompt_tokens;
  };
  context.defaults.max_tokens = 20;
  context.defaults.compression = compression_defaults(given, KvDtype::kF16).value();
  return context;
}

// Servers with different defaults: off, a policy, another one, a target.
const MapperContext& context_of(std::size_t choice) {
  static const std::array<MapperContext, 4> contexts = [] {
    v1::KvCompression policy;
    policy.set_policy(v1::BASE_POLICY_SNAPKV);
    policy.set_budget_fraction(0.5);
    policy.set_kv_dtype(v1::KV_DTYPE_INT8);
    v1::KvCompression streaming;
    streaming.set_policy(v1::BASE_POLICY_STREAMING);
    streaming.set_budget_tokens(64);
    v1::KvCompression target;
    target.set_target_compression(8);
    return std::array{make_context({}), make_context(policy), make_context(streaming), make_context(target)};
  }();
  return contexts[choice % contexts.size()];
}

void check_refusal(const Status& status) {
  KVCRUSH_CHECK(status.code() == StatusCode::kInvalidArgument);
  KVCRUSH_CHECK(!status.message().empty());
  const bool by_template = status.message().starts_with("chat: ");
  KVCRUSH_CHECK(by_template || status.message().find("allowed") != std::string::npos ||
                status.message().find("not valid UTF-8") != std::string::npos);
}

// What a report shows asks for the same again.
void check_applied(const v1::KvCompression& applied, const MapperContext& context) {
  const bool pruned = applied.policy() != v1::BASE_POLICY_OFF;
  if (pruned && applied.budget_case() == v1::KvCompression::BUDGET_NOT_SET)
    return;  // a target: goes by bytes
  const Result<CachePolicy> again = map_compression(applied, context.defaults.compression);
  KVCRUSH_CHECK(again.ok());
  const v1::KvCompression shown = to_proto(*again, context.defaults.compression.engine_dtype);
  KVCRUSH_CHECK(google::protobuf::util::MessageDifferencer::Equals(shown, applied));
}

void check_tokens(const std::vector<TokenId>& ids, const MapperContext& context) {
  for (const TokenId id : ids) KVCRUSH_CHECK(id >= 0 && id < context.tokenizer->vocab_size());
}

void check_mapped(const MappedRequest& mapped, const MapperContext& context) {
  const EngineRequest& engine = mapped.engine;
  KVCRUSH_CHECK(!engine.request_id.empty() && engine.request_id.size() <= 128);
  const auto num_prompt_tokens = static_cast<int>(engine.prompt_token_ids.size());
  KVCRUSH_CHECK(num_prompt_tokens >= 1 && num_prompt_tokens < kMaxContextTokens);
  check_tokens(engine.prompt_token_ids, context);
  KVCRUSH_CHECK(validate(engine.sampling, context.tokenizer->vocab_size()).ok());
  KVCRUSH_CHECK(num_prompt_tokens + engine.sampling.max_tokens <= kMaxContextTokens);
  KVCRUSH_CHECK(engine.num_samples >= 1 && engine.num_samples <= 256);
  KVCRUSH_CHECK(engine.lookup_tokens >= 0 && engine.lookup_tokens <= kMaxLookupTokens);
  const auto num_samples = static_cast<std::size_t>(engine.num_samples);
  KVCRUSH_CHECK(engine.cache_policies.size() == 1 || engine.cache_policies.size() == num_samples);
  for (const CachePolicy& policy : engine.cache_policies) {
    KVCRUSH_CHECK(context.max_new_tokens(num_prompt_tokens, policy) >= engine.sampling.max_tokens);
    if (policy.compression) KVCRUSH_CHECK(validate(*policy.compression).ok());
  }
  KVCRUSH_CHECK(mapped.applied.size() == num_samples);
  for (const v1::KvCompression& applied : mapped.applied) check_applied(applied, context);
  KVCRUSH_CHECK(mapped.text.stop.size() <= 16);
  for (const std::string& stop : mapped.text.stop) KVCRUSH_CHECK(!stop.empty() && stop.size() <= 256);
}

void map_one(const v1::GenerateRequest& request, const MapperContext& context) {
  const Result<MappedRequest> mapped = map_generate_request(request, context);
  if (!mapped.ok()) return check_refusal(mapped.status());
  check_mapped(*mapped, context);
  KVCRUSH_CHECK(mapped->engine.continuation_token_ids.empty());
}

void map_one(const v1::ScoreRequest& request, const MapperContext& context) {
  const Result<MappedRequest> mapped = map_score_request(request, context);
  if (!mapped.ok()) return check_refusal(mapped.status());
  check_mapped(*mapped, context);
  const std::size_t num_tokens = mapped->engine.continuation_token_ids.size();
  KVCRUSH_CHECK(num_tokens >= 2);
  KVCRUSH_CHECK(!mapped->engine.compare_to_full ||
                num_tokens <= static_cast<std::size_t>(kMaxComparedTokens));
  check_tokens(mapped->engine.continuation_token_ids, context);
}

template <typename Request>
void read_and_map(FuzzInput& input, bool wire_format, const MapperContext& context) {
  Request request;
  if (wire_format) {
    const std::string_view bytes = input.rest();
    if (!request.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return;
  } else {
    fill_message(request, input);
    Request parsed;  // what a server would see of it
    KVCRUSH_CHECK(parsed.ParseFromString(request.SerializeAsString()));
    request = std::move(parsed);
  }
  map_one(request, context);
}

}  // namespace
}  // namespace kvcrush::fuzz

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kvcrush;
  // It would write a line for every text that is not UTF-8.
  [[maybe_unused]] static auto* const log_handler = google::protobuf::SetLogHandler(nullptr);
  fuzz::FuzzInput input(data, size);
  const auto choice = input.number<std::uint8_t>();
  const MapperContext& context = fuzz::context_of(choice >> 2);
  const bool wire_format = (choice & 2) != 0;
  if ((choice & 1) != 0) {
    fuzz::read_and_map<v1::ScoreRequest>(input, wire_format, context);
  } else {
    fuzz::read_and_map<v1::GenerateRequest>(input, wire_format, context);
  }
  return 0;
}
