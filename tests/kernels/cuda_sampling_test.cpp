// The GPU's sampler, run by the simulator, against the CPU's.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <utility>
#include <vector>

#include "tests/kernels/cuda_sampling_fixture.h"

namespace kvcrush {
namespace {

using testing::coarse_logits;
using testing::count_differences;
using testing::kInf;
using testing::kNan;
using testing::params_of;
using testing::random_logits;
using testing::sample_on_gpu;
using testing::SampledRow;
using testing::see;
using testing::some_tokens;
using testing::to_size;

std::vector<SamplingParams> truncations() {
  std::vector<SamplingParams> all;
  for (const int top_k : {0, 1, 7, 50, 700}) {
    for (const float top_p : {1.0F, 0.95F, 0.5F, 0.999F}) {
      for (const float min_p : {0.0F, 0.05F}) {
        all.push_back(params_of(1, {top_k, top_p, min_p}));
      }
    }
  }
  return all;
}

TEST(CudaSampling, GreedyIsTheCpus) {
  for (const int vocab_size : {1, 3, 64, 129, 2050, 20000}) {
    std::vector<SampledRow> batch;
    for (std::uint64_t i = 0; i < 12; ++i) {
      SampledRow row{.logits = i % 2 == 0 ? coarse_logits(vocab_size, 1, i) : random_logits(vocab_size, 1, i),
                     .params = params_of(0, {})};
      if (i % 4 >= 2) row.banned = some_tokens(vocab_size, 10, i);
      batch.push_back(row);
    }
    EXPECT_EQ(count_differences(batch, vocab_size % 3), 0);
  }
}

// Draws whose uniform lies closer to a boundary between two tokens than sums and exponentials are exact may
// differ: with weights good to 1e-6 and thousands of tokens, that is less than one draw in a thousand.
constexpr double kDrawTolerance = 0.003;

TEST(CudaSampling, DrawsAreTheCpus) {
  int rows = 0;
  int differences = 0;
  for (const int vocab_size : {1, 2, 5, 33, 130, 1000, 3001}) {
    std::vector<SampledRow> batch;
    for (const SamplingParams& truncation : truncations()) {
      for (const float temperature : {0.3F, 1.0F, 4.0F}) {
        const auto i = static_cast<std::uint64_t>(batch.size());
        SampledRow row{
            .logits = i % 3 == 0 ? coarse_logits(vocab_size, 3, i) : random_logits(vocab_size, 3, i),
            .params = truncation,
            .seed = i,
            .step = static_cast<int>(i * 7)};
        row.params.temperature = temperature;
        batch.push_back(row);
      }
    }
    rows += static_cast<int>(batch.size());
    differences += count_differences(batch, vocab_size % 4);
  }
  EXPECT_LE(differences, rows * kDrawTolerance) << "of " << rows;
}

std::uint64_t undo_shift(std::uint64_t mixed, int shift) {
  std::uint64_t x = mixed;
  for (int i = 0; i < 64; i += shift) x = mixed ^ (x >> shift);
  return x;
}

std::uint64_t inverse_splitmix64(std::uint64_t mixed) {
  const auto inverse = [](std::uint64_t odd) {
    std::uint64_t x = odd;  // three bits are right; each round doubles them
    for (int i = 0; i < 5; ++i) x *= 2 - odd * x;
    return x;
  };
  std::uint64_t z = undo_shift(mixed, 31) * inverse(0x94D049BB133111EBU);
  z = undo_shift(z, 27) * inverse(0xBF58476D1CE4E5B9U);
  return undo_shift(z, 30) - 0x9E3779B97F4A7C15U;
}

// Weights of one or nothing, and uniforms on the boundaries between them: no rounding anywhere.
TEST(CudaSampling, BoundariesAreTheCpus) {
  for (const std::vector<float>& logits :
       {std::vector<float>{0, 0, 0, 0}, std::vector<float>{-kInf, 1, -kInf, 1, -200},
        std::vector<float>(1024, -3.0F)}) {
    for (const Truncation& truncation : {Truncation{}, Truncation{.top_k = 2}, Truncation{.top_p = 0.5F},
                                         Truncation{.top_k = 512, .top_p = 0.25F}}) {
      for (const double uniform :
           {0.0, 0.25, 0.5, 0.75, std::nextafter(0.5, 0.0), std::nextafter(1.0, 0.0)}) {
        constexpr int kStep = 5;
        const auto bits = static_cast<std::uint64_t>(std::ldexp(uniform, 53)) << 11;
        const SampledRow row{.logits = logits,
                             .params = params_of(1, truncation),
                             .seed = inverse_splitmix64(inverse_splitmix64(bits) - kStep),
                             .step = kStep};
        EXPECT_EQ(count_differences({row}), 0) << "uniform " << uniform;
      }
    }
  }
}

TEST(CudaSampling, PenaltiesBansAndLogprobs) {
  std::vector<SampledRow> batch;
  for (std::uint64_t i = 0; i < 200; ++i) {
    constexpr int kVocab = 700;
    SampledRow row{.logits = coarse_logits(kVocab, 2, i),
                   .params = params_of(i % 2 == 0 ? 0.0F : 0.8F, {.top_k = i % 3 == 0 ? 40 : 0}),
                   .seed = i,
                   .step = static_cast<int>(i)};
    row.params.repetition_penalty = i % 5 == 0 ? 1.0F : 1.3F;
    row.params.presence_penalty = i % 7 == 0 ? 0.0F : 0.7F;
    row.params.frequency_penalty = i % 11 == 0 ? 0.0F : -0.3F;
    if (i % 4 != 0) row.params.num_logprobs = static_cast<int>(i % 21);
    row.banned = some_tokens(kVocab, static_cast<int>(i % 30), i + 1);
    row.banned.insert(row.banned.end(), {-1, kVocab, 1 << 30});
    row.prompt = some_tokens(kVocab, 300, i + 2);
    row.output = some_tokens(kVocab / 4, static_cast<int>(i), i + 3);
    batch.push_back(row);
  }
  EXPECT_LE(count_differences(batch), 1);
}

// Each token that was seen is the choice once; every other table is full.
TEST(CudaSampling, LogprobsOfPenalisedTokens) {
  std::vector<SampledRow> batch;
  const std::vector<TokenId> prompt = some_tokens(500, 60, 3);
  for (const TokenId token : prompt) {
    SampledRow row{.logits = random_logits(500, 1, batch.size()), .params = params_of(0, {}, 0)};
    row.params.repetition_penalty = 1.5F;
    row.logits[to_size(token)] = 20;
    row.prompt = prompt;
    batch.insert(batch.end(), 2, row);
  }
  EXPECT_EQ(count_differences(batch), 0);
}

TEST(CudaSampling, LogprobsOfEveryShape) {
  for (const int vocab_size : {1, 7, 20, 300, 5003}) {
    std::vector<SampledRow> batch;
    for (const int num_logprobs : {0, 1, 5, 20}) {
      for (const float spread : {0.0F, 0.01F, 3.0F, 40.0F}) {
        SampledRow row{.logits = random_logits(vocab_size, spread, batch.size()), .params = params_of(0, {})};
        row.params.num_logprobs = num_logprobs;
        batch.push_back(row);
        row.logits = coarse_logits(vocab_size, spread, batch.size());
        row.banned = {0, static_cast<TokenId>(vocab_size / 2)};
        batch.push_back(row);
      }
    }
    EXPECT_EQ(count_differences(batch, 1), 0);
  }
}

TEST(CudaSampling, SurvivesNanInfinityAndExtremes) {
  const std::vector<std::vector<float>> rows = {
      {kNan, 1, kNan, 0.5F},      {kNan, kInf, 1, kInf},        {-kInf, 2, -kInf, 2},
      {-kInf, -kInf, kNan, kNan}, {kNan, kNan, kNan, kNan},     {-0.0F, 0.0F, -0.0F, -1},
      {-1e30F, 1e30F, 0, 1e30F},  {3e38F, -3e38F, 3e38F, kNan}, {1e-30F, 2e-30F, 0, -1e-30F},
      {kInf, -kInf, kNan, -5},    {-kInf, -kInf, -kInf, -3e38F}};
  std::vector<SampledRow> batch;
  for (const auto& logits : rows) {
    for (const float temperature : {0.0F, 1e-40F, 1.0F, 100.0F}) {
      for (const SamplingParams& truncation :
           {params_of(1, {}), params_of(1, {.top_k = 2}), params_of(1, {.top_p = 0.9F}),
            params_of(1, {.min_p = 1.0F}), params_of(1, {.top_k = 3, .top_p = 1e-30F})}) {
        for (const std::vector<TokenId>& banned :
             {std::vector<TokenId>{}, std::vector<TokenId>{1, 0}, std::vector<TokenId>{3, 2, 1, 0}}) {
          SampledRow row{.logits = logits, .params = truncation, .seed = batch.size(), .banned = banned};
          row.params.temperature = temperature;
          row.params.num_logprobs = 3;
          batch.push_back(row);
          row.params.presence_penalty = 0.5F;
          row.output = {2, 2};
          batch.push_back(row);
        }
      }
    }
  }
  EXPECT_EQ(count_differences(batch), 0);
}

// Rows on which the list in shared memory does not suffice: wide nuclei, equal logits in any number.
TEST(CudaSampling, FlatRowsAndManyTies) {
  std::vector<SampledRow> batch;
  const auto add = [&](std::vector<float> logits, const SamplingParams& params) {
    batch.push_back({.logits = std::move(logits), .params = params, .seed = batch.size() + 50});
  };
  constexpr int kVocab = 9001;
  for (const SamplingParams& params :
       {params_of(1, {.top_p = 0.5F}), params_of(1, {.top_p = 0.999F}), params_of(1, {.top_k = 6000}),
        params_of(1, {.top_k = 5000, .top_p = 0.7F, .min_p = 0.9F}), params_of(0, {}, 20)}) {
    add(std::vector<float>(kVocab, 1.5F), params);
    add(random_logits(kVocab, 0.3F, batch.size()), params);
    add(coarse_logits(kVocab, 0.3F, batch.size()), params);
    std::vector<float> outlier = coarse_logits(kVocab, 1e-5F, batch.size());
    outlier[4000] = 7;
    add(outlier, params);
    std::vector<float> mostly_impossible(kVocab, -kInf);
    for (int i = 100; i < 4000; i += 3) mostly_impossible[to_size(i)] = 1;
    add(mostly_impossible, params);
  }
  EXPECT_EQ(count_differences(batch), 0);
}

TEST(CudaSampling, LargestVocabulary) {
  std::vector<SampledRow> batch;
  for (const SamplingParams& params :
       {params_of(0, {}), params_of(1, {}, 20), params_of(1, {.top_k = 50, .top_p = 0.9F}),
        params_of(1.5F, {.top_p = 0.97F})}) {
    batch.push_back({.logits = random_logits(cuda::kMaxSampledVocab, 2.5F, batch.size()),
                     .params = params,
                     .seed = batch.size()});
  }
  EXPECT_EQ(count_differences(batch), 0);
}

// Threads run in another order each time.
TEST(CudaSampling, SameTokensEveryTime) {
  std::vector<SampledRow> batch;
  for (const SamplingParams& truncation : truncations())
    batch.push_back({.logits = random_logits(3000, 1, batch.size()), .params = truncation});
  const std::vector<SampleResult> first = sample_on_gpu(batch);
  const std::vector<SampleResult> second = sample_on_gpu(batch);
  for (std::size_t i = 0; i < batch.size(); ++i) EXPECT_EQ(first[i].token, second[i].token);
}

// Frequencies against the distribution that is asked for; 99.9 % quantiles, seeds are fixed.
TEST(CudaSampling, DrawsFollowTheDistribution) {
  const std::vector<double> skewed = {0.05, 0.4, 0.1, 0.3, 0.15};
  constexpr int kNumDraws = 3000;
  struct Case {
    SamplingParams params;
    std::vector<double> expected;
    double quantile;
  };
  const std::vector<double> likeliest_three = {0.0, 0.4 / 0.85, 0.0, 0.3 / 0.85, 0.15 / 0.85};
  for (const Case& c :
       {Case{params_of(1, {}), skewed, 18.47}, Case{params_of(1, {.top_k = 3}), likeliest_three, 13.82},
        Case{params_of(1, {.top_p = 0.8F}), likeliest_three, 13.82},
        Case{params_of(1, {.min_p = 0.3F}), likeliest_three, 13.82},
        Case{params_of(1, {.top_k = 4, .top_p = 0.8F, .min_p = 0.3F}), likeliest_three, 13.82}}) {
    std::vector<SampledRow> batch(kNumDraws, SampledRow{.logits = {}, .params = c.params, .seed = 77});
    for (std::size_t i = 0; i < batch.size(); ++i) {
      for (const double p : skewed) batch[i].logits.push_back(static_cast<float>(std::log(p)) + 3.0F);
      batch[i].step = static_cast<int>(i);
    }
    std::vector<int> counts(skewed.size());
    for (const SampleResult& result : sample_on_gpu(batch)) ++counts[to_size(result.token)];
    double chi_square = 0;
    for (std::size_t i = 0; i < skewed.size(); ++i) {
      const double expected = c.expected[i] * kNumDraws;
      if (expected == 0) {
        EXPECT_EQ(counts[i], 0);
      } else {
        chi_square += (counts[i] - expected) * (counts[i] - expected) / expected;
      }
    }
    EXPECT_LT(chi_square, c.quantile);
  }
}

TEST(CudaSampling, TablesHoldWhatWasSeen) {
  for (const int vocab_size : {3, 200, 100000}) {
    SampledRow row;
    row.prompt = some_tokens(vocab_size, 900, 1);
    row.output = some_tokens(vocab_size, 700, 2);
    row.output.insert(row.output.end(), {-1, 2, -5, 2});
    std::map<TokenId, int> expected;
    for (const TokenId token : row.prompt) expected.try_emplace(token, 0);
    for (const TokenId token : row.output) {
      if (token >= 0) ++expected[token];
    }
    for (const bool spare : {true, false}) {
      std::map<TokenId, int> held;
      for (const cuda::SeenToken& slot : see(row, spare)) {
        if (slot.key == 0) continue;
        EXPECT_TRUE(held.emplace(slot.key - 1, slot.output_count).second);
      }
      EXPECT_EQ(held, expected);
    }
  }
}

}  // namespace
}  // namespace kvcrush
