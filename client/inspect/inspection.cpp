#include "client/inspect/inspection.h"

#include <algorithm>

#include "client/cli/table.h"
#include "client/inspect/facts.h"
#include "engine/kvcrush/params.h"
#include "engine/loader/model_reading.h"
#include "engine/pool_limits.h"
#include "engine/scheduler/capacity.h"
#include "engine/tokenizer/chat_template.h"
#include "engine/tokenizer/tokenizer.h"

namespace kvcrush::inspect {
namespace {

CachePolicy pruned_policy(const Question& question) {
  CachePolicy policy;
  policy.compression = preset_params(Preset::kDefault, BasePolicy::kSnapKv);
  policy.compression->budget_fraction = question.budget_fraction;
  policy.compression->budget_tokens = question.budget_tokens;
  return policy;
}

// The same sums as the server's own.
Result<KvFigures> figures(const Question& question, const ModelConfig& model, KvDtype dtype) {
  const KvLayout layout{.num_kv_heads = model.num_kv_heads, .head_dim = model.head_dim};
  EngineConfig engine;
  engine.kv_memory_bytes = question.kv_memory_bytes;
  const Result<EngineLimits> limits = derive_limits(model, engine, layout, dtype);
  KVCRUSH_RETURN_IF_ERROR(limits.status());
  KvFigures found;
  found.dtype = to_string(dtype);
  found.tokens_per_block = limits->block_size_tokens;
  found.block_bytes = limits->block_bytes;
  found.num_blocks = limits->num_blocks;
  found.bytes_per_token =
      static_cast<double>(limits->block_bytes * model.num_layers) / limits->block_size_tokens;
  const auto fit = [&](const CachePolicy& policy, int num_tokens) {
    const CacheSchedule schedule(policy, make_kv_format(dtype, model.head_dim), num_tokens, model.num_layers,
                                 model.windows_within(limits->max_context_tokens));
    return sequences_that_fit(schedule, num_tokens, limits->num_blocks);
  };
  for (const int num_tokens : question.lengths) {
    Fit& row = found.fits.emplace_back();
    row.num_tokens = num_tokens;
    if (num_tokens > limits->max_context_tokens) continue;
    row.full = fit({}, num_tokens);
    row.pruned = fit(pruned_policy(question), num_tokens);
  }
  return found;
}

void add_kv(const Question& question, const ModelConfig& model, Inspection& inspection) {
  if (const Status status = check_heads(model); !status.ok()) {
    inspection.problems.push_back(status.message());
    return;
  }
  for (const std::string& name : question.kv_dtypes) {
    Result<KvFigures> found = figures(question, model, *parse_kv_dtype(name));
    if (!found.ok()) {  // of the memory or the context: the same whatever the dtype
      inspection.problems.push_back(found.status().message());
      return;
    }
    inspection.kv.push_back(std::move(*found));
  }
}

}  // namespace

std::string refusal(const Question& question) {
  for (const std::string& name : question.kv_dtypes)
    if (const Status status = parse_kv_dtype(name).status(); !status.ok()) return status.message();
  for (const int num_tokens : question.lengths)
    if (num_tokens < 1) return "tokens is " + std::to_string(num_tokens) + "; allowed: at least 1";
  return validate(*pruned_policy(question).compression).message();
}

Inspection inspect_model(const Question& question) {
  Inspection inspection;
  ModelReading reading = read_model(question.model);
  for (const Status& problem : reading.problems) inspection.problems.push_back(problem.message());
  inspection.path = reading.model.path;
  inspection.format = reading.format;
  for (const TensorTypeTotal& total : reading.types)
    inspection.types.push_back(
        {total.type, total.supported, total.num_tensors, total.num_elements, total.num_bytes});
  std::string chat = "none";
  if (!reading.model.tokenizer.chat_template.empty()) {
    const Status status = ChatTemplate::parse(reading.model.tokenizer.chat_template).status();
    chat = status.ok() ? "yes" : "not understood";
    if (!status.ok())
      inspection.notes.push_back("chat is not available: the template is not understood: " +
                                 status.message());
  }
  inspection.facts = facts_of(reading, chat);
  if (!reading.model.tokenizer.tokens.empty()) {
    const Status status = Tokenizer::create(std::move(reading.model.tokenizer)).status();
    if (!status.ok()) inspection.problems.push_back(inspection.path + ": " + status.message());
  }
  if (reading.has_config) add_kv(question, reading.model.config, inspection);
  return inspection;
}

}  // namespace kvcrush::inspect
