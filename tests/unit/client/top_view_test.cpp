#include "client/cli/top_view.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "client/cli/text_width.h"

namespace kvcrush::cli {
namespace {

v1::GetStatsResponse stats_with(int num_requests) {
  v1::GetStatsResponse stats;
  stats.set_requests_running(num_requests);
  stats.set_requests_waiting(3);
  stats.set_blocks_used(512);
  stats.set_blocks_total(2048);
  stats.set_kv_bytes_used(64 << 20);
  stats.set_kv_bytes_saved(192 << 20);
  stats.set_prompt_tokens(1'234'567);
  stats.set_generation_tokens(89'012);
  stats.set_preemptions(4);
  stats.set_uptime_s(3723);
  stats.set_queue_tokens(4321);
  stats.set_prefix_queried_tokens(1'000'000);
  stats.set_prefix_hit_tokens(875'000);
  stats.set_prefix_cache_blocks(1200);
  stats.set_swap_bytes_used(32 << 20);
  for (int i = 0; i < num_requests; ++i) {
    auto& request = *stats.add_requests();
    request.set_request_id("request-" + std::to_string(i));
    request.set_state(i == 0 ? "prefill" : "decode");
    request.set_prompt_tokens(1000 + i);
    request.set_completion_tokens(i);
    request.set_blocks(100 + i);
    request.set_age_ms(1000.0 * (num_requests - i));
  }
  return stats;
}

const TopSource kSource{"127.0.0.1:50051", "tiny", "cpu"};

std::string text_of(const TopFrame& frame) {
  std::string text;
  for (const auto& line : frame.lines) text += line + '\n';
  return text;
}

TEST(TopRates, AreDifferencesPerSecondOfTheServersClock) {
  const auto before = stats_with(1);
  auto after = before;
  after.set_uptime_s(before.uptime_s() + 2);
  after.set_prompt_tokens(before.prompt_tokens() + 100);
  after.set_generation_tokens(before.generation_tokens() + 50);
  after.set_tokens_evicted(300);
  after.set_blocks_freed_by_pruning(7);
  after.set_preemptions(before.preemptions() + 1);
  const auto rates = rates_between(before, after);
  ASSERT_TRUE(rates.has_value());
  EXPECT_DOUBLE_EQ(rates->prompt_tokens_per_s, 50);
  EXPECT_DOUBLE_EQ(rates->generated_tokens_per_s, 25);
  EXPECT_DOUBLE_EQ(rates->evicted_tokens_per_s, 150);
  EXPECT_DOUBLE_EQ(rates->freed_blocks_per_s, 3.5);
  EXPECT_DOUBLE_EQ(rates->preemptions_per_s, 0.5);
  EXPECT_FALSE(rates_between(after, before)) << "a server that has started anew";
  EXPECT_FALSE(rates_between(before, before));
}

TEST(TopView, ShowsEveryFigureOnAWideScreen) {
  const TopRates rates{123.45, 67.89, 1500, 12, 0.25};
  const auto frame = render_top(kSource, stats_with(2), rates, TopOrder::kBlocks, 120, 0);
  const std::vector<std::string> expected = {
      "kvcrush top  127.0.0.1:50051  tiny on cpu  up 1:02:03",
      "requests   2 running, 3 waiting with 4,321 prompt tokens",
      "tokens/s   123.5 prompt, 67.9 generated; so far 1,234,567 and 89,012",
      "KV blocks  [#############.....................................] 512 of 2,048 (25.0 %), 64.00 MiB",
      "saved      192.00 MiB, 75.0 % of what a full cache would take",
      "pruning    1500.0 tokens evicted/s, 12.0 blocks freed/s",
      "preempted  0.2/s; so far 4; 32.00 MiB swapped out",
      "prefixes   87.5 % of prompt tokens found so far; 1,200 blocks to begin with",
      "",
  };
  ASSERT_GE(frame.lines.size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_EQ(frame.lines[i], expected[i]);
  ASSERT_EQ(frame.lines.size(), 12U);
  EXPECT_EQ(frame.table_header, 9U);
  EXPECT_TRUE(frame.lines[9].starts_with("request ")) << frame.lines[9];
  EXPECT_TRUE(frame.lines[10].starts_with("request-1 ")) << "most blocks first";
  EXPECT_NE(frame.lines[10].find("decode"), std::string::npos);
  EXPECT_TRUE(frame.lines[11].ends_with("prefill     1,000         0      100      2.0")) << frame.lines[11];
}

TEST(TopView, ShowsWhatTenantsHoldOnceOneHasAName) {
  auto stats = stats_with(3);
  stats.mutable_requests(0)->set_tenant("alpha");
  stats.mutable_requests(2)->set_tenant("alpha");
  auto frame = render_top(kSource, stats, std::nullopt, TopOrder::kBlocks, 120, 0);
  EXPECT_EQ(frame.lines[8], "tenants    alpha 2 (202 blocks), (none) 1 (101 blocks)");
  EXPECT_EQ(frame.table_header, 10U);
  stats.mutable_requests(1)->set_tenant("beta\033[2J");
  frame = render_top(kSource, stats, std::nullopt, TopOrder::kBlocks, 120, 0);
  EXPECT_EQ(frame.lines[8], "tenants    alpha 2 (202 blocks), beta?[2J 1 (101 blocks)");
}

TEST(TopView, WithoutRatesShowsADash) {
  const auto text = text_of(render_top(kSource, stats_with(1), std::nullopt, TopOrder::kBlocks, 120, 0));
  EXPECT_NE(text.find("tokens/s   - prompt, - generated"), std::string::npos) << text;
  EXPECT_EQ(text.find("nan"), std::string::npos);
}

TEST(TopView, SortsByAgeWhenAsked) {
  const auto frame = render_top(kSource, stats_with(3), std::nullopt, TopOrder::kAge, 80, 0);
  EXPECT_TRUE(frame.lines[10].starts_with("request-0 "));
  EXPECT_TRUE(frame.lines[12].starts_with("request-2 "));
}

TEST(TopView, FitsEveryWidthAndKeepsTheFigures) {
  auto stats = stats_with(30);
  stats.mutable_requests(0)->set_request_id(std::string(128, 'x'));
  stats.mutable_requests(1)->set_request_id("\xE6\xBC\xA2\xE5\xAD\x97-\xC3\xA9-" + std::string(60, 'y'));
  stats.mutable_requests(2)->set_index(3);
  const TopRates rates{123456.7, 98765.4, 1e6, 1e4, 12};
  for (int width = 60; width <= 200; ++width) {
    const auto frame = render_top({"a-long-host-name.example.org:50051", std::string(50, 'm'), "cuda:0"},
                                  stats, rates, TopOrder::kBlocks, width, 0);
    for (const auto& line : frame.lines) EXPECT_LE(text_columns(line), width) << line;
    ASSERT_EQ(frame.lines.size(), 40U);
    for (std::size_t i = frame.table_header; i < frame.lines.size(); ++i)
      EXPECT_EQ(text_columns(frame.lines[i]), width) << "rows fill the width: " << frame.lines[i];
    const auto text = text_of(frame);
    for (const char* words :
         {"30 running, 3 waiting", "512 of 2,048 (25.0 %)", "192.00 MiB", "98765.4 generated",
          "1000000.0 tokens evicted/s", "12.0/s", "request-2#3", "1,029"})
      EXPECT_NE(text.find(words), std::string::npos) << words << " at width " << width << "\n" << text;
  }
}

TEST(TopView, FitsTheHeightAndSaysHowManyAreNotShown) {
  const auto stats = stats_with(30);
  for (const int height : {12, 20, 39}) {
    const auto frame = render_top(kSource, stats, std::nullopt, TopOrder::kBlocks, 80, height);
    EXPECT_EQ(frame.lines.size(), static_cast<std::size_t>(height));
    EXPECT_EQ(frame.lines.back(), "and " + std::to_string(30 - (height - 11)) + " more");
  }
  EXPECT_EQ(render_top(kSource, stats, std::nullopt, TopOrder::kBlocks, 80, 40).lines.size(), 40U);
  EXPECT_EQ(render_top(kSource, stats, std::nullopt, TopOrder::kBlocks, 80, 5).lines.size(), 5U);
}

TEST(TopView, AnIdleServerHasNoTable) {
  const auto frame = render_top(kSource, v1::GetStatsResponse(), std::nullopt, TopOrder::kBlocks, 80, 24);
  EXPECT_EQ(frame.table_header, frame.lines.size());
  EXPECT_NE(text_of(frame).find("0 of 0 (0.0 %)"), std::string::npos);
}

TEST(TopView, OneLineForLogs) {
  const auto line = top_line(stats_with(2), TopRates{10, 20, 30, 40, 50});
  EXPECT_EQ(line,
            "up 1:02:03  2 running, 3 waiting  tokens/s 10.0 prompt, 20.0 generated  KV blocks 512 of 2,048 "
            "(25.0 %)  "
            "saved 192.00 MiB  evicted/s 30.0  preempted/s 50.0  prefix hits 87.5 %");
}

TEST(TextWidth, NeverCutsACharacter) {
  const std::string text =
      "a\xC3\xA9\xE6\xBC\xA2\xF0\x9F\x98\x80z";  // a, e acute, a wide ideograph, a wide smiley, z
  EXPECT_EQ(text_columns(text), 7);
  EXPECT_EQ(truncate(text, 7), text);
  EXPECT_EQ(truncate(text, 6), "a\xC3\xA9\xE6\xBC\xA2\xE2\x80\xA6") << "the smiley and the dots are three";
  EXPECT_EQ(truncate(text, 5), "a\xC3\xA9\xE6\xBC\xA2\xE2\x80\xA6");
  EXPECT_EQ(truncate(text, 4), "a\xC3\xA9\xE2\x80\xA6");
  EXPECT_EQ(truncate(text, 1), "\xE2\x80\xA6");
  EXPECT_EQ(truncate(text, 0), "");
  for (int columns = 0; columns < 10; ++columns) {
    EXPECT_LE(text_columns(truncate(text, columns)), columns);
    EXPECT_EQ(text_columns(fit_left(text, columns)), columns);
    EXPECT_EQ(text_columns(fit_right(text, columns)), columns);
  }
  EXPECT_EQ(fit_left("ab", 4), "ab  ");
  EXPECT_EQ(fit_right("ab", 4), "  ab");
}

TEST(TextWidth, MakesForeignTextHarmless) {
  EXPECT_EQ(truncate("a\033[2Jb\nc", 20), "a?[2Jb?c");
  EXPECT_EQ(truncate("\xFF\xC3(\xE6\xBC", 20), "?\?(\?\?");
  EXPECT_EQ(truncate("\xC2\x9B"
                     "31m",
                     20),
            "?31m")
      << "the C1 control sequence introducer";
}

}  // namespace
}  // namespace kvcrush::cli
