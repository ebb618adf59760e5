#include "server/trace_context.h"

#include <gtest/gtest.h>

namespace kvcrush {
namespace {

constexpr const char* kParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

TEST(TraceContext, TakesAValidParentApart) {
  const std::string parent = parse_traceparent(kParent);
  EXPECT_EQ(parent, kParent);
  EXPECT_EQ(trace_id_of(parent), "0af7651916cd43dd8448eb211c80319c");
  EXPECT_EQ(span_id_of(parent), "b7ad6b7169203331");
  EXPECT_EQ(trace_flags_of(parent), "01");
}

TEST(TraceContext, MalformedParentsAreIgnored) {
  for (const char* wrong : {
           "", "00",
           "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",        // no flags
           "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",      // short flags
           "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",    // version 00 ends here
           "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-ab",  // likewise
           "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",     // upper case
           "00-0af7651916cd43dd8448eb211c80319c-B7AD6B7169203331-01",
           "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0G",
           "00-00000000000000000000000000000000-b7ad6b7169203331-01",  // no trace
           "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",  // no span
           "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",  // not a version
           "0x-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
           "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
           " 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
           "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.x",  // later versions go on with a dash
       }) {
    EXPECT_EQ(parse_traceparent(wrong), "") << wrong;
  }
}

TEST(TraceContext, LaterVersionsAreReadAsFarAsOursGoes) {
  EXPECT_EQ(parse_traceparent("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), kParent);
  EXPECT_EQ(parse_traceparent("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-later"), kParent);
}

TEST(TraceContext, UnknownFlagsAreNotPassedOn) {
  EXPECT_EQ(trace_flags_of(parse_traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff")),
            "03");
  EXPECT_EQ(trace_flags_of(parse_traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0a")),
            "02");
  EXPECT_EQ(trace_flags_of(parse_traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")),
            "00");
}

TEST(TraceContext, StateIsOneListOfWhatMayBeSentBack) {
  EXPECT_EQ(join_tracestate({}), "");
  EXPECT_EQ(join_tracestate({"a=1", "b=2, c=~"}), "a=1,b=2, c=~");
  for (const std::string_view odd :
       {"a=1,\tb=2", "a=\x01", "a=\x1f", "a=\x7f", "a=\x80", "a=\xff", "\xc3\xa4=1"}) {
    EXPECT_EQ(join_tracestate({odd}), "") << odd;
    EXPECT_EQ(join_tracestate({"a=1", odd}), "") << odd;
    EXPECT_EQ(join_tracestate({odd, "a=1"}), "") << odd;
  }
  EXPECT_EQ(join_tracestate({std::string_view("a=\0", 3)}), "");
}

}  // namespace
}  // namespace kvcrush
