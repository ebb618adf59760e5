#include "engine/scoring.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "engine/core/status.h"

namespace kvcrush {

namespace {

// Logits are only read.
at::Tensor view(const float* rows, int num_rows, int vocab_size) {
  return at::from_blob(const_cast<float*>(rows), {num_rows, vocab_size}, at::kFloat);
}

}  // namespace

void keep_trunk_rows(Sequence& trunk, const float* rows, int first_predicted, int num_rows, int vocab_size) {
  if (num_rows == 0) return;
  ForkGroup& group = *trunk.group;
  const auto width = static_cast<std::size_t>(vocab_size);
  if (first_predicted == 0) group.prompt_logits.assign(rows, rows + width);
  if (!group.compares) return;
  group.full_log_probs.resize(
      (static_cast<std::size_t>(first_predicted) + static_cast<std::size_t>(num_rows)) * width);
  float* target = group.full_log_probs.data() + static_cast<std::size_t>(first_predicted) * width;
  at::Tensor kept = at::from_blob(target, {num_rows, vocab_size}, at::kFloat);
  kept.copy_(at::log_softmax(view(rows, num_rows, vocab_size), -1));
}

void score_rows(Sequence& sequence, const float* rows, int num_rows, int vocab_size) {
  if (num_rows == 0) return;
  ScoreProgress& score = sequence.score;
  const int first = static_cast<int>(score.logprobs.size());
  KVCRUSH_CHECK(first + num_rows <= sequence.num_output_tokens());
  const at::Tensor log_probs = at::log_softmax(view(rows, num_rows, vocab_size), -1);
  const float* data = log_probs.const_data_ptr<float>();
  const TokenId* tokens = sequence.token_ids.data() + sequence.num_prompt_tokens + first;
  for (int i = 0; i < num_rows; ++i)
    score.logprobs.push_back(data[static_cast<std::int64_t>(i) * vocab_size + tokens[i]]);
  if (sequence.group == nullptr || !sequence.group->compares) return;

  const std::vector<float>& full = sequence.group->full_log_probs;
  KVCRUSH_CHECK(full.size() >= (static_cast<std::size_t>(first) + static_cast<std::size_t>(num_rows)) *
                                   static_cast<std::size_t>(vocab_size));
  const at::Tensor reference =
      view(full.data() + static_cast<std::int64_t>(first) * vocab_size, num_rows, vocab_size);
  const at::Tensor divergences = (reference.exp() * (reference - log_probs)).sum(-1, false, at::kDouble);
  const at::Tensor agrees = reference.argmax(-1).eq(log_probs.argmax(-1));
  for (int i = 0; i < num_rows; ++i) {
    const auto divergence = static_cast<float>(divergences.const_data_ptr<double>()[i]);
    // Rounding may leave a hair below zero where the two are equal. NaN stays NaN.
    score.kl_divergences.push_back(divergence < 0 ? 0 : divergence);
    score.top1_agrees.push_back(agrees.const_data_ptr<bool>()[i]);
  }
}

}  // namespace kvcrush
