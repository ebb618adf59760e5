#include "tests/tools/model_driver.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <stdexcept>
#include <thread>
#include <utility>

#include "engine/engine_options.h"
#include "engine/executor_factory.h"
#include "engine/kernels/parallel.h"
#include "engine/pool_limits.h"
#include "engine/request_sequences.h"
#include "engine/scheduler/scheduler.h"

namespace kvcrush::testing {

ModelDriver::ModelDriver(std::shared_ptr<const ModelFile> model, const EngineConfig& config)
    : model_(std::move(model)), config_(config) {
  const int all_threads = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  set_num_kernel_threads(config_.num_threads == 0 ? all_threads : config_.num_threads);
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
  EngineRequest request;
  request.request_id = std::to_string(id);
  const int num_prompt_tokens = job.decode_from.value_or(1);
  request.prompt_token_ids.assign(job.ids.begin(), job.ids.begin() + num_prompt_tokens);
  if (job.decode_from) {
    request.sampling.max_tokens = std::max(1, static_cast<int>(job.ids.size()) - num_prompt_tokens);
  } else {
    // A score's logits are those after each token but the last, which is not computed: one more is needed.
    request.continuation_token_ids.assign(job.ids.begin() + num_prompt_tokens, job.ids.end());
    request.continuation_token_ids.push_back(job.ids.back());
  }
  const SequenceContext context{.pool = pool_.get(),
                                .model = &model_->config,
                                .model_stop_ids = &model_->tokenizer.stop_ids,
                                .default_dtype = KvDtype::kF32,
                                .max_context_tokens = limits_.max_context_tokens,
                                .first_id = id};
  return std::move(make_sequences(request, nullptr, Clock::now(), context).front());
}

bool ModelDriver::advance(const ScheduledChunk& chunk, const LogitsJob& job) {
  Sequence& sequence = *chunk.sequence;
  sequence.num_computed_tokens += chunk.num_tokens;
  sequence.cache.drop_past_windows(/*num_newest=*/0, model_->config.num_kv_heads);
  if (sequence.num_computed_tokens == static_cast<int>(job.ids.size())) return true;
  if (job.decode_from && sequence.num_uncomputed_tokens() == 0)
    sequence.token_ids.push_back(job.ids[sequence.token_ids.size()]);
  return false;
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
      const float* end = row + std::int64_t{chunk.num_logit_rows} * model_->config.vocab_size;
      rows[chunk.sequence_id].insert(rows[chunk.sequence_id].end(), row, end);
      row = end;
      if (!advance(chunk, jobs[chunk.sequence_id])) continue;
      scheduler.remove(chunk.sequence_id);
      executor_->forget(chunk.sequence_id, /*for_good=*/true);
    }
  }
  return rows;
}

}  // namespace kvcrush::testing
