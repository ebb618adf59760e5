#include "tests/tools/model_driver.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "engine/engine_options.h"
#include "engine/executor_factory.h"
#include "engine/kernels/parallel.h"
#include "engine/scheduler/scheduler.h"

namespace kvcrush::testing {

ModelDriver::ModelDriver(std::shared_ptr<const ModelFile> model, const EngineConfig& config)
    : model_(std::move(model)), config_(config) {
  set_num_kernel_threads(config_.num_threads);
  const ModelConfig& shape = model_->config;
  const KvLayout layout{.num_kv_heads = shape.num_kv_heads, .head_dim = shape.head_dim};
  for (const Status& status : {check_config(config_), check_heads(shape)})
    if (!status.ok()) throw std::runtime_error(status.message());
  limits_ = value_or_throw(derive_limits(shape, config_, layout, KvDtype::kF32));
  executor_ = make_executor(model_, config_, limits_, layout, "cpu");
  pool_ = std::make_unique<BlockPool>(static_cast<int>(limits_.num_blocks));
  prefixes_ = std::make_unique<PrefixCache>(*pool_, shape.num_layers);
}

std::unique_ptr<Sequence> ModelDriver::make_sequence(const LogitsJob& job, SequenceId id) {
  const ModelConfig& shape = model_->config;
  auto sequence = std::make_unique<Sequence>(
      SequenceCache(*pool_, shape.num_layers, make_kv_format(KvDtype::kF32, shape.head_dim)));
  sequence->id = id;
  if (job.decode_from) {
    sequence->token_ids.assign(job.ids.begin(), job.ids.begin() + *job.decode_from);
    sequence->num_prompt_tokens = *job.decode_from;
  } else {
    // Scored as a continuation of its first token. The last token of one is not computed: one more is needed.
    sequence->kind = SequenceKind::kScore;
    sequence->token_ids = job.ids;
    sequence->token_ids.push_back(job.ids.back());
    sequence->num_prompt_tokens = 1;
  }
  return sequence;
}

std::vector<std::vector<float>> ModelDriver::run(const std::vector<LogitsJob>& jobs, int max_batch_tokens) {
  max_batch_tokens = std::min(max_batch_tokens, config_.max_batch_tokens);
  const SchedulerConfig steps{
      .max_batch_tokens = max_batch_tokens,
      .max_running_sequences = std::min(max_batch_tokens, config_.max_running_sequences)};
  Scheduler scheduler(steps, *pool_, *prefixes_);
  std::vector<std::vector<float>> rows(jobs.size());
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    if (jobs[i].ids.empty() || jobs[i].decode_from.value_or(1) < 1 ||
        jobs[i].decode_from.value_or(1) > static_cast<int>(jobs[i].ids.size()))
      throw std::runtime_error("a sequence needs ids, and decode_from within them");
    scheduler.add(make_sequence(jobs[i], static_cast<SequenceId>(i)));
  }
  while (!scheduler.idle()) {
    const StepPlan plan = scheduler.plan();
    if (plan.chunks.empty()) throw std::runtime_error("the pool is too small for these sequences");
    if (!plan.preemptions.empty()) throw std::runtime_error("the pool is too small: preempted");
    const at::Tensor logits = executor_->run(plan);
    const float* row = logits.defined() ? logits.const_data_ptr<float>() : nullptr;
    for (const ScheduledChunk& chunk : plan.chunks) {
      Sequence& sequence = *chunk.sequence;
      const LogitsJob& job = jobs[chunk.sequence_id];
      sequence.num_computed_tokens += chunk.num_tokens;
      const float* end = row + std::int64_t{chunk.num_logit_rows} * model_->config.vocab_size;
      rows[chunk.sequence_id].insert(rows[chunk.sequence_id].end(), row, end);
      row = end;
      if (chunk.settling) executor_->settle(sequence, chunk.settling);
      if (sequence.num_computed_tokens == static_cast<int>(job.ids.size())) {
        scheduler.remove(chunk.sequence_id);
        executor_->forget(chunk.sequence_id, /*for_good=*/true);
      } else if (job.decode_from && sequence.num_uncomputed_tokens() == 0) {
        sequence.token_ids.push_back(job.ids[sequence.token_ids.size()]);
      }
    }
  }
  return rows;
}

}  // namespace kvcrush::testing
