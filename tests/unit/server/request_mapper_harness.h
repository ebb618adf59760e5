// Requests that are mapped, or refused in words.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <utility>

#include "server/request_mapper.h"
#include "tests/unit/server/test_models.h"

namespace kvcrush::test {

inline v1::GenerateRequest text_request(const std::string& text = "hello") {
  v1::GenerateRequest request;
  request.set_text(text);
  return request;
}

inline MappedRequest map_good(const v1::GenerateRequest& request,
                              const MapperContext& context = mapper_context()) {
  Result<MappedRequest> mapped = map_generate_request(request, context);
  EXPECT_TRUE(mapped.ok()) << mapped.status().message();
  return mapped.ok() ? std::move(mapped).value() : MappedRequest();
}

inline void expect_refused(const v1::GenerateRequest& request, const std::string& start,
                           const std::string& allowed = "allowed",
                           StatusCode code = StatusCode::kInvalidArgument) {
  static const MapperContext context = mapper_context();
  const Result<MappedRequest> mapped = map_generate_request(request, context);
  ASSERT_FALSE(mapped.ok()) << "expected: " << start;
  EXPECT_EQ(mapped.status().code(), code);
  EXPECT_TRUE(mapped.status().message().starts_with(start)) << mapped.status().message();
  EXPECT_NE(mapped.status().message().find(allowed), std::string::npos) << mapped.status().message();
}

}  // namespace kvcrush::test
