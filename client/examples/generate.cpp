// The README's example as a program: streams a completion whose KV cache is pruned to a quarter.
//   build/cpu-release/client/example_generate [HOST:PORT]
#include <iostream>

#include "client/kvcrush_client.h"

int main(int argc, char** argv) {
  auto client = kvcrush::client::Client::connect(argc > 1 ? argv[1] : "127.0.0.1:50051");
  if (!client.ok()) {
    std::cerr << client.status().to_string() << '\n';
    return 1;
  }
  kvcrush::v1::GenerateRequest request;
  request.set_text("The capital of France is");
  request.mutable_sampling()->set_temperature(0);
  request.mutable_sampling()->set_max_tokens(32);
  request.mutable_compression()->set_policy(kvcrush::v1::BASE_POLICY_SNAPKV);
  request.mutable_compression()->set_budget_fraction(0.25);
  const auto status = client->generate(request, [](const kvcrush::v1::GenerateResponse& chunk) {
    std::cout << chunk.text() << std::flush;
    return true;  // false ends the request
  });
  std::cout << '\n';
  if (!status.ok()) std::cerr << status.to_string() << '\n';
  return status.ok() ? 0 : 1;
}
