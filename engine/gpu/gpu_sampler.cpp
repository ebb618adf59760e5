#include "engine/gpu/gpu_sampler.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>

#include "engine/core/status.h"

namespace kvcrush {

namespace {

// Of a row's answer, 4 bytes each: token, its log-probability, the likeliest tokens, theirs.
constexpr std::int64_t kAnswerWords = 2 + 2 * cuda::kMaxTopLogprobs;

// As they come back: all tokens, all log-probabilities, and so on.
struct Answers {
  const TokenId* tokens;
  const float* logprobs;
  const TokenId* top_tokens;
  const float* top_logprobs;

  SampleResult result(std::size_t row, const SamplingParams& sampling, int vocab_size) const {
    SampleResult result;
    result.valid = tokens[row] >= 0;
    result.token = result.valid ? tokens[row] : cuda::no_number(tokens[row]);
    if (!sampling.num_logprobs) return result;
    result.logprob = LogprobEntry{result.token, logprobs[row]};
    const int count = std::min(*sampling.num_logprobs, vocab_size);
    for (int i = 0; i < count; ++i) {
      const std::size_t place = row * cuda::kMaxTopLogprobs + static_cast<std::size_t>(i);
      result.top_logprobs.push_back({top_tokens[place], top_logprobs[place]});
    }
    return result;
  }
};

}  // namespace

GpuSampler::GpuSampler(int vocab_size, GpuRuntime& runtime) : vocab_size_(vocab_size), runtime_(runtime) {
  if (vocab_size > cuda::kMaxSampledVocab)
    throw std::runtime_error("the vocabulary has " + std::to_string(vocab_size) +
                             " tokens; allowed on a GPU: " + std::to_string(cuda::kMaxSampledVocab));
}

cuda::SeenTokens GpuSampler::observe(const Sequence& sequence, Staging& staging,
                                     std::vector<cuda::SeenUpdate>& updates) {
  Seen& seen = seen_[sequence.id];
  if (!seen.slots.defined()) {
    const int most = std::min(vocab_size_, sequence.num_prompt_tokens + sequence.sampling.max_tokens);
    const int capacity = cuda::seen_tokens_capacity(most);
    seen.slots =
        at::zeros({static_cast<std::int64_t>(capacity) * static_cast<std::int64_t>(sizeof(cuda::SeenToken))},
                  at::TensorOptions(at::kByte).device(runtime_.device()));
    seen.table = {static_cast<cuda::SeenToken*>(seen.slots.data_ptr()), capacity};
  }
  const std::span<const TokenId> tokens(sequence.token_ids);
  const auto add = [&](int first, int last, bool in_output) {
    if (first >= last) return;
    const auto part = tokens.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(last - first));
    updates.push_back({seen.table, staging.add(part), last - first, in_output});
  };
  // The prompt counts for the repetition penalty alone.
  if (sequence.sampling.repetition_penalty != 1.0F)
    add(seen.num_observed, sequence.num_prompt_tokens, /*in_output=*/false);
  add(std::max(seen.num_observed, sequence.num_prompt_tokens), sequence.num_tokens(), /*in_output=*/true);
  seen.num_observed = sequence.num_tokens();
  return seen.table;
}

std::vector<SampleResult> GpuSampler::sample(std::span<const SampleJob> jobs, const at::Tensor& logits,
                                             Staging& staging) {
  std::vector<cuda::SeenUpdate> updates;
  std::vector<cuda::SampleRow> rows;
  int max_tokens = 0;
  for (const SampleJob& job : jobs) {
    KVCRUSH_CHECK(job.row == static_cast<int>(rows.size()));
    const SamplingParams& sampling = job.sequence->sampling;
    rows.push_back({.temperature = sampling.temperature,
                    .top_k = sampling.top_k,
                    .top_p = sampling.top_p,
                    .min_p = sampling.min_p,
                    .repetition_penalty = sampling.repetition_penalty,
                    .presence_penalty = sampling.presence_penalty,
                    .frequency_penalty = sampling.frequency_penalty,
                    .num_logprobs = sampling.num_logprobs.value_or(-1),
                    .stream_key = job.stream_key,
                    .step = job.step,
                    .num_banned = static_cast<int>(job.banned.size()),
                    .banned = staging.add(job.banned),
                    .seen = {}});
    if (sampling.penalises()) rows.back().seen = observe(*job.sequence, staging, updates);
  }
  for (const cuda::SeenUpdate& update : updates) max_tokens = std::max(max_tokens, update.num_tokens);
  const cuda::SeenUpdate* device_updates = staging.add(updates);
  const auto count = static_cast<std::int64_t>(rows.size());
  at::Tensor answers =
      at::empty({count * kAnswerWords}, at::TensorOptions(at::kInt).device(runtime_.device()));
  auto* words = answers.data_ptr<std::int32_t>();
  const auto places = [count](auto* base) {
    return std::array{base, base + count, base + 2 * count, base + (2 + cuda::kMaxTopLogprobs) * count};
  };
  const auto device = places(words);
  const cuda::SampleCall call{.logits = logits.data_ptr<float>(),
                              .logits_stride = logits.stride(0),
                              .vocab_size = vocab_size_,
                              .num_rows = static_cast<int>(count),
                              .rows = staging.add(rows),
                              .tokens = device[0],
                              .logprobs = reinterpret_cast<float*>(device[1]),
                              .top_tokens = device[2],
                              .top_logprobs = reinterpret_cast<float*>(device[3])};
  staging.upload();
  if (!updates.empty())
    cuda::observe_tokens(device_updates, static_cast<int>(updates.size()), max_tokens, runtime_.stream());
  cuda::sample_tokens(call, runtime_.stream());
  // Where nobody asks for log-probabilities the tokens alone come back.
  const bool asks =
      std::any_of(rows.begin(), rows.end(), [](const auto& row) { return row.num_logprobs >= 0; });
  const at::Tensor host = runtime_.to_host(asks ? answers : answers.narrow(0, 0, count));
  const auto on_host = places(host.const_data_ptr<std::int32_t>());
  const Answers read{on_host[0], reinterpret_cast<const float*>(on_host[1]), on_host[2],
                     reinterpret_cast<const float*>(on_host[3])};
  std::vector<SampleResult> results;
  for (std::size_t i = 0; i < jobs.size(); ++i)
    results.push_back(read.result(i, jobs[i].sequence->sampling, vocab_size_));
  return results;
}

}  // namespace kvcrush
