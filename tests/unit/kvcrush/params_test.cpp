#include "engine/kvcrush/params.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>

namespace kvcrush {
namespace {

CompressionParams valid_params() {
  CompressionParams params;
  params.budget_tokens = 256;
  return params;
}

void expect_refused(const std::function<void(CompressionParams&)>& change, const std::string& field,
                    const std::string& allowed) {
  CompressionParams params = valid_params();
  change(params);
  const Status status = validate(params);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << field;
  EXPECT_NE(status.message().find("compression." + field), std::string::npos) << status.message();
  EXPECT_NE(status.message().find(allowed), std::string::npos) << status.message();
}

void expect_accepted(const std::function<void(CompressionParams&)>& change) {
  CompressionParams params = valid_params();
  change(params);
  const Status status = validate(params);
  EXPECT_TRUE(status.ok()) << status.message();
}

TEST(CompressionParams, AcceptsTheEndsOfEveryRange) {
  expect_accepted([](auto&) {});
  expect_accepted([](auto& p) { p.num_sink_tokens = 0, p.window_tokens = 1, p.budget_tokens = 2; });
  expect_accepted([](auto& p) { p.num_sink_tokens = 1024, p.window_tokens = 256, p.budget_tokens = 1281; });
  expect_accepted([](auto& p) { p.pool_kernel_tokens = 1, p.representative_share = 0.0; });
  expect_accepted([](auto& p) { p.pool_kernel_tokens = 63, p.representative_share = 1.0; });
  expect_accepted([](auto& p) { p.budget_tokens.reset(), p.budget_fraction = 1.0; });
  expect_accepted([](auto& p) { p.budget_tokens.reset(), p.budget_fraction = 1e-9; });
}

TEST(CompressionParams, NamesFieldValueAndRange) {
  expect_refused([](auto& p) { p.num_sink_tokens = -1; }, "num_sink_tokens is -1", "[0, 1024]");
  expect_refused([](auto& p) { p.num_sink_tokens = 1025; }, "num_sink_tokens is 1025", "[0, 1024]");
  expect_refused([](auto& p) { p.window_tokens = 0; }, "window_tokens is 0", "[1, 256]");
  expect_refused([](auto& p) { p.window_tokens = 257; }, "window_tokens is 257", "[1, 256]");
  expect_refused([](auto& p) { p.pool_kernel_tokens = 8; }, "pool_kernel_tokens is 8", "odd, [1, 63]");
  expect_refused([](auto& p) { p.pool_kernel_tokens = -1; }, "pool_kernel_tokens is -1", "odd, [1, 63]");
  expect_refused([](auto& p) { p.pool_kernel_tokens = 65; }, "pool_kernel_tokens is 65", "odd, [1, 63]");
  expect_refused([](auto& p) { p.representative_share = 1.5; }, "representative_share is 1.5", "[0, 1]");
  expect_refused([](auto& p) { p.representative_share = -0.1; }, "representative_share is -0.1", "[0, 1]");
  expect_refused([](auto& p) { p.budget_tokens.reset(), p.budget_fraction = 0.0; }, "budget_fraction is 0",
                 "(0, 1]");
  expect_refused([](auto& p) { p.budget_tokens.reset(), p.budget_fraction = 1.01; },
                 "budget_fraction is 1.01", "(0, 1]");
}

TEST(CompressionParams, RefusesNan) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  expect_refused([=](auto& p) { p.representative_share = nan; }, "representative_share is nan", "[0, 1]");
  expect_refused([=](auto& p) { p.budget_tokens.reset(), p.budget_fraction = nan; }, "budget_fraction is nan",
                 "(0, 1]");
}

TEST(CompressionParams, WantsExactlyOneBudget) {
  expect_refused([](auto& p) { p.budget_fraction = 0.5; }, "budget: both", "exactly one");
  expect_refused([](auto& p) { p.budget_tokens.reset(); }, "budget: none", "exactly one");
}

TEST(CompressionParams, BudgetTokensMustExceedSinksAndWindow) {
  expect_refused([](auto& p) { p.budget_tokens = 36; }, "budget_tokens is 36",
                 "> num_sink_tokens + window_tokens");
  expect_refused([](auto& p) { p.budget_tokens = -5; }, "budget_tokens is -5", "= 36");
  expect_accepted([](auto& p) { p.budget_tokens = 37; });
}

TEST(CompressionParams, ResolvesBudgets) {
  CompressionParams params = valid_params();
  EXPECT_EQ(resolve_budget_tokens(params, 10), 256);
  params.budget_tokens.reset();
  params.budget_fraction = 0.25;
  EXPECT_EQ(resolve_budget_tokens(params, 1000), 250);
  EXPECT_EQ(resolve_budget_tokens(params, 1001), 251);
  EXPECT_EQ(resolve_budget_tokens(params, 10), 37);  // 4 sinks + 32 window + 1
  params.budget_fraction = 1.0;
  EXPECT_EQ(resolve_budget_tokens(params, 8192), 8192);
}

}  // namespace
}  // namespace kvcrush
