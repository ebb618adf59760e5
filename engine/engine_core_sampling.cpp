// From a step's logits to tokens: sampling, on whichever device, and the checking of drafts.
#include <ATen/ATen.h>

#include <algorithm>

#include "engine/engine_core.h"
#include "engine/kernels/parallel.h"
#include "engine/loader/model_file.h"
#include "engine/scoring.h"

namespace kvcrush {

namespace {

bool contains(const std::vector<TokenId>& ids, TokenId token) {
  return std::find(ids.begin(), ids.end(), token) != ids.end();
}

// What a sequence wanted of a step's logits.
struct Rows {
  Sequence* sequence;
  float* first;
  int count;
  int end_token;  // of the chunk
  bool starts_lookahead;
  int num_branches;
  int num_drafts;
  bool is_lookahead() const { return num_branches > 0; }
  bool samples() const {
    return sequence->kind == SequenceKind::kSample && !is_lookahead() && end_token >= sequence->num_tokens();
  }
  // More comes of them than a token, which the sampler checks by itself.
  bool outlasts_the_step() const {
    return starts_lookahead || is_lookahead() || sequence->kind != SequenceKind::kSample;
  }
  std::span<const float> all(int vocab_size) const {
    return {first, static_cast<std::size_t>(count) * static_cast<std::size_t>(vocab_size)};
  }
};

std::vector<Rows> rows_of(const StepPlan& plan, const at::Tensor& logits, int vocab_size) {
  std::vector<Rows> rows;
  float* next = logits.defined() ? logits.data_ptr<float>() : nullptr;
  for (const ScheduledChunk& chunk : plan.chunks) {
    if (chunk.num_logit_rows == 0) continue;
    rows.push_back({chunk.sequence, next, chunk.num_logit_rows, chunk.first_token + chunk.num_tokens,
                    chunk.starts_lookahead, chunk.num_branches, chunk.num_drafts});
    next += static_cast<std::int64_t>(chunk.num_logit_rows) * vocab_size;
  }
  return rows;
}

}  // namespace

std::span<const TokenId> EngineCore::banned_tokens(const Sequence& sequence, int num_output_tokens) {
  if (num_output_tokens >= sequence.sampling.min_tokens) return {};
  return sequence.end_token_ids;
}

SampleResult EngineCore::sample(const Sequence& sequence, std::span<float> logits) {
  const int step = sequence.num_output_tokens();
  return samplers_.at(sequence.id).sample(logits, step, banned_tokens(sequence, step));
}

template <typename SampleRow>
void EngineCore::check_drafts(Sequence& sequence, int num_drafts, const SampleRow& sample_row) {
  const std::vector<TokenId> drafts = std::exchange(sequence.drafts, {});
  const bool looked_up = sequence.drafts_are_looked_up;
  if (looked_up) {
    sequence.num_drafted_tokens += num_drafts;
    num_step_drafts_ += num_drafts;
  }
  sequence.num_computed_tokens -= num_drafts;
  for (int i = 0; i <= num_drafts; ++i) {
    SampleResult sampled = sample_row(i);
    const bool right =
        i < num_drafts && sampled.valid && sampled.token == drafts[static_cast<std::size_t>(i)];
    if (right && looked_up) {
      ++sequence.num_accepted_drafts;
      ++num_step_accepted_drafts_;
    }
    // Before the token is taken: with an end token the sequence is gone, and its report tells what it held.
    const bool goes_on = right && !contains(sequence.end_token_ids, sampled.token);
    if (!goes_on && i < num_drafts) sequence.cache.drop_newest(num_drafts - i);
    if (!apply(sequence, std::move(sampled)) || !goes_on) return;
    ++sequence.num_computed_tokens;
    if (!looked_up) ++sequence.compression_outcome.lookahead_tokens_used;
  }
}

bool EngineCore::sample_on_device(const StepPlan& plan, const at::Tensor& logits) {
  if (!executor_->samples() || !logits.defined()) return false;
  std::vector<SampleJob> jobs;
  for (const ScheduledChunk& chunk : plan.chunks) {
    if (chunk.num_logit_rows == 0) continue;
    const Sequence& sequence = *chunk.sequence;
    if (sequence.kind != SequenceKind::kSample || chunk.starts_lookahead || chunk.is_lookahead())
      return false;
    // Penalties count the drafts before, and the device's tables know only of tokens that were taken.
    if (chunk.num_drafts > 0 && sequence.sampling.penalises()) return false;
    for (int i = 0; i < chunk.num_logit_rows; ++i) {
      const int step = sequence.num_output_tokens() + i;
      jobs.push_back({.sequence = chunk.sequence,
                      .row = static_cast<int>(jobs.size()),
                      .step = step,
                      .stream_key = samplers_.at(chunk.sequence_id).stream_key(),
                      .banned = banned_tokens(sequence, step)});
    }
  }
  std::vector<SampleResult> sampled = executor_->sample(jobs, logits);
  auto next = sampled.begin();
  for (const ScheduledChunk& chunk : plan.chunks) {
    if (chunk.num_logit_rows == 0) continue;
    check_drafts(*chunk.sequence, chunk.num_drafts, [next](int i) { return std::move(next[i]); });
    next += chunk.num_logit_rows;
  }
  return true;
}

void EngineCore::use_logits(const StepPlan& plan, const at::Tensor& device_logits) {
  if (sample_on_device(plan, device_logits)) return;
  const at::Tensor logits = device_logits.defined() ? executor_->to_host(device_logits) : device_logits;
  const int vocab_size = model_->config.vocab_size;
  std::vector<Rows> wanted = rows_of(plan, logits, vocab_size);
  std::erase_if(wanted, [&](const Rows& rows) {
    if (!rows.outlasts_the_step() || !has_nan(rows.all(vocab_size))) return false;
    fail_invalid(*rows.sequence);
    return true;
  });
  // Before sampling, which works in place; trunks first, for scores of the same step may be compared with
  // theirs.
  for (const Rows& rows : wanted) {
    const std::span<const float> last_row(rows.first, static_cast<std::size_t>(vocab_size));
    if (rows.starts_lookahead) rows.sequence->lookahead.choose_first(last_row);
    for (int b = 0; b < rows.num_branches; ++b)
      rows.sequence->lookahead.choose(
          b, rows.sequence->num_computed_tokens - rows.sequence->num_prompt_tokens,
          {rows.first + b * static_cast<std::ptrdiff_t>(vocab_size), static_cast<std::size_t>(vocab_size)});
    if (rows.sequence->kind != SequenceKind::kTrunk || rows.is_lookahead()) continue;
    keep_trunk_rows(*rows.sequence, rows.first,
                    rows.end_token - rows.count - rows.sequence->num_prompt_tokens + 1, rows.count,
                    vocab_size);
  }
  std::vector<SampleResult> sampled(wanted.size());
  parallel_for(static_cast<std::int64_t>(wanted.size()), [&](std::int64_t i, int) {
    const Rows& rows = wanted[static_cast<std::size_t>(i)];
    if (rows.sequence->kind == SequenceKind::kScore && !rows.is_lookahead())
      score_rows(*rows.sequence, rows.first, rows.count, vocab_size);
    if (rows.samples() && rows.num_drafts == 0)
      sampled[static_cast<std::size_t>(i)] =
          sample(*rows.sequence, {rows.first, static_cast<std::size_t>(vocab_size)});
  });
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const Rows& rows = wanted[i];
    if (!rows.samples()) continue;
    check_drafts(*rows.sequence, rows.num_drafts, [&](int row) {
      if (rows.num_drafts == 0) return std::move(sampled[i]);
      return sample(*rows.sequence, {rows.first + static_cast<std::ptrdiff_t>(row) * vocab_size,
                                     static_cast<std::size_t>(vocab_size)});
    });
  }
}

bool EngineCore::apply(Sequence& sequence, SampleResult sampled) {
  if (!sampled.valid) {
    fail_invalid(sequence);
    return false;
  }
  const Clock::time_point now = Clock::now();
  const bool is_first = !sequence.first_token_at.has_value();
  observer_.on_token(tag_of(sequence), is_first,
                     seconds_between(is_first ? sequence.arrived_at : sequence.last_token_at, now));
  if (is_first) sequence.first_token_at = now;
  sequence.last_token_at = now;

  sequence.token_ids.push_back(sampled.token);
  samplers_.at(sequence.id).observe_output(sampled.token);
  const bool is_end = contains(sequence.end_token_ids, sampled.token);
  TokenEvent event;
  event.index = sequence.index;
  event.token = sampled.token;
  event.is_end_token = is_end;
  event.logprob = sampled.logprob;
  event.top_logprobs = std::move(sampled.top_logprobs);
  emit(sequence, std::move(event));
  if (is_end) {
    finish_sequence(sequence.id, FinishReason::kStop);
    return false;
  }
  if (sequence.num_output_tokens() >= sequence.sampling.max_tokens) {
    finish_sequence(sequence.id, FinishReason::kLength);
    return false;
  }
  return true;
}

}  // namespace kvcrush
