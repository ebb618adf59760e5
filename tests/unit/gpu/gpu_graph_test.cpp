// Decode steps that start as graphs, against the same steps that do not.
#include "engine/gpu/step_graphs.h"
#include "tests/unit/gpu/gpu_engine_fixture.h"

namespace kvcrush {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)

TEST(DecodeBucket, HoldsTheBatchAndWastesAnEighthAtMost) {
  int buckets = 0;
  int last = 0;
  for (int count = 1; count <= 512; ++count) {
    const int bucket = decode_bucket(count, 1024);
    EXPECT_GE(bucket, count);
    EXPECT_GE(bucket, last);
    EXPECT_LE(bucket, count <= 8 ? 2 * count - 1 : std::max(count + 7, count * 9 / 8)) << count;
    EXPECT_EQ(decode_bucket(bucket, 1024), bucket);
    buckets += bucket > last ? 1 : 0;
    last = bucket;
  }
  EXPECT_LE(buckets, 40);
  EXPECT_EQ(decode_bucket(9, 11), 11);
}

class GpuGraphTest : public GpuEngineTest {
 protected:
  GpuGraphTest() { graphs_ = make_engine("cuda:0", "f32", /*cuda_graphs=*/true); }
  ~GpuGraphTest() override { expect_no_blocks_used(*graphs_); }

  // Sequences that come and go, observed in every way, with and without penalties.
  static std::vector<EngineRequest> requests() {
    std::vector<EngineRequest> all;
    for (int i = 0; i < 11; ++i) {
      const auto seed = static_cast<std::uint64_t>(i);
      EngineRequest request = greedy_request("g" + std::to_string(i),
                                             random_prompt(20 + 13 * i, kTinyVocab, 900 + seed), 6 + 5 * i);
      request.sampling.ignore_eos = true;
      request.sampling.num_logprobs = 1;
      request.sampling.frequency_penalty = i == 4 ? 0.2F : 0.0F;
      if (i % 3 == 1) request.cache_policies[0].compression = quarter(BasePolicy::kSnapKv);
      if (i % 5 == 2) request.cache_policies[0].compression = quarter(BasePolicy::kH2o);
      if (i == 6) request.cache_policies[0].kv_dtype = KvDtype::kInt8;
      all.push_back(std::move(request));
    }
    return all;
  }
  static std::vector<std::unique_ptr<Collector>> run_together(Engine& engine,
                                                              const std::vector<EngineRequest>& requests) {
    std::vector<std::unique_ptr<Collector>> collectors;
    for (const EngineRequest& request : requests) {
      collectors.push_back(std::make_unique<Collector>());
      EXPECT_TRUE(engine.submit(request, collectors.back()->stream()).ok());
    }
    for (const auto& collector : collectors) EXPECT_TRUE(collector->wait());
    return collectors;
  }
  // Tokens alike until texts part, where two tokens are as likely to rounding; log-probabilities until then.
  static void expect_alike(const std::vector<EngineRequest>& requests, Engine& expected, Engine& actual) {
    const auto one = run_together(expected, requests);
    const auto other = run_together(actual, requests);
    int same = 0;
    int all = 0;
    for (std::size_t i = 0; i < requests.size(); ++i) {
      const auto& expected_events = one[i]->events();
      const auto& events = other[i]->events();
      ASSERT_EQ(events.size(), expected_events.size()) << i;
      all += static_cast<int>(events.size());
      for (std::size_t t = 0; t < events.size() && events[t].token == expected_events[t].token; ++t, ++same)
        EXPECT_NEAR(events[t].logprob->logprob, expected_events[t].logprob->logprob, 0.05F) << i << ", " << t;
    }
    EXPECT_GE(same, all * 9 / 10) << "of " << all;
  }

  std::unique_ptr<Engine> graphs_;
};

TEST_F(GpuGraphTest, StepsOfAllKindsOfSequencesAreTheSame) {
  expect_alike(requests(), *gpu_, *graphs_);
  expect_alike(requests(), *gpu_, *graphs_);  // recorded by now
}

}  // namespace
}  // namespace kvcrush
