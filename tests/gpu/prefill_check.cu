// The Hopper prefill kernel on this machine's GPU, without torch: how wgmma reads its operands, results
// against a plain kernel, and speed. Run it under `timeout`: a barrier that nobody completes is a program
// that never ends. usage: gpu_prefill_check [probe] [check] [speed]     (all where none is named)
#include <cstring>
#include <string>

#include "tests/gpu/prefill_check_probe.cuh"
#include "tests/gpu/prefill_check_problem.cuh"

namespace kvcrush::prefill_check {
namespace {

template <class Activation>
bool check(const char* name, const Heads& heads, const std::vector<TestSequence>& shapes,
           float query_factor = 1, int row_step = 1) {
  return Problem<Activation>(heads, shapes, query_factor).check(name, prefill_sm90, kPrefillRows, row_step);
}

bool check_all() {
  constexpr KvDtype k8 = KvDtype::kInt8;
  constexpr KvDtype k4 = KvDtype::kInt4;
  constexpr KvDtype k16 = KvDtype::kF16;
  int wrong = 0;
  const auto expect = [&](bool right) { wrong += right ? 0 : 1; };
  expect(check<float>("128, group 4, f32", {128, 2, 4}, {{1, 1}, {17, 17}, {128, 128}, {300, 41}, {129, 1}}));
  expect(check<BF16>("128, group 4, bf16, long", {128, 2, 4}, {{5000, 700}, {2049, 2049}}, 1, 3));
  expect(check<F16>("128, group 1, f16", {128, 4, 1}, {{333, 200}, {65, 64}, {64, 64}, {1, 1}}));
  expect(check<float>("128, group 3, f32", {128, 3, 3}, {{1000, 130}, {95, 95}}));
  expect(check<F16>("128, group 8, f16", {128, 1, 8}, {{129, 33}, {4097, 50}, {16, 16}}));
  expect(check<F16>("64, group 4, f16", {64, 2, 4}, {{700, 700}, {31, 31}, {1500, 64}}));
  expect(check<float>("64, group 3, f32", {64, 3, 3}, {{259, 77}, {4999, 30}}));
  expect(check<BF16>("64, group 8, bf16", {64, 1, 8}, {{129, 33}, {900, 300}}));
  expect(check<float>("64, group 1, f32", {64, 2, 1}, {{640, 300}}));
  expect(check<float>("128, steep scores", {128, 2, 4}, {{900, 260}, {300, 300}}, 6));
  expect(check<float>("128, int8", {128, 2, 4},
                      {{2000, 100, k8, 1895}, {40, 20, k8, 0}, {500, 64, k8, 392}, {600, 70, k8, 402}}));
  expect(check<float>("128, int4", {128, 2, 4},
                      {{2000, 100, k4, 1895}, {300, 20, k4, 240}, {500, 64, k4, 376}, {600, 70, k4, 367}}));
  expect(check<BF16>("128, int4, long, group 8", {128, 1, 8}, {{5000, 300, k4, 4320}}, 1, 2));
  expect(check<F16>("64, int8", {64, 2, 4}, {{1000, 64, k8, 931}, {200, 200, k8, 0}, {129, 9, k8, 104}}));
  expect(check<float>("64, int4", {64, 2, 3}, {{1000, 64, k4, 931}, {264, 24, k4, 128}, {150, 33, k4, 117}}));
  expect(check<float>("128, f16, int8 and int4 at once", {128, 2, 4},
                      {{300, 41, k16}, {700, 50, k8, 600}, {900, 33, k4, 850}, {90, 90, k4, 0}}));
  expect(
      check<float>("128, branches", {128, 2, 4},
                   {{212, 3, k16, 0, 3, 12}, {412, 60, k16, 0, 3, 12}, {12, 12, k16, 0, 3, 12}, {300, 30}}));
  expect(check<float>("128, branches, int4", {128, 2, 4},
                      {{412, 60, k4, 349, 3, 12}, {260, 3, k4, 243, 4, 12}}));
  expect(check<F16>("64, branches, group 8", {64, 2, 8}, {{140, 24, k16, 0, 3, 12}}));
  std::printf("%s: %d of the checks went wrong\n\n", wrong == 0 ? "PASS" : "FAIL", wrong);
  return wrong == 0;
}

// Each speed with a look at whether what was timed is right.
bool measure() {
  const Heads heads{128, 8, 4};
  bool right = true;
  const auto report = [&](const std::string& what, const TestSequence& shape, int row_step) {
    Problem<BF16> problem(heads, {shape});
    right &= problem.check(what.c_str(), prefill_sm90, kPrefillRows, row_step);
    const double flops = 4.0 * 32 * 128 * shape.num_queries * (shape.num_cached - shape.num_queries / 2.0);
    const float ms = problem.time(prefill_sm90, kPrefillRows);
    std::printf("    %.3f ms, %.0f TFLOP/s\n", ms, flops / ms / 1e9);
    std::fflush(stdout);
  };
  for (const int tokens : {2048, 8192, 32768})
    report(std::to_string(tokens) + " tokens", {tokens, tokens}, tokens / 16 - 1);
  report("2048 queries over 32768 tokens", {32768, 2048}, 127);
  report("2048 queries over 8192 tokens, f16", {8192, 2048}, 127);
  for (const KvDtype dtype : {KvDtype::kInt8, KvDtype::kInt4})
    report("2048 queries over 8192 tokens, " + std::string(to_string(dtype)),
           {8192, 2048, dtype, 8192 - 2048 - 64}, 127);
  std::printf("%s\n", right ? "PASS: all that was timed is right" : "FAIL: what was timed is wrong");
  return right;
}

}  // namespace
}  // namespace kvcrush::prefill_check

int main(int argc, char** argv) {
  using namespace kvcrush::prefill_check;
  const auto wanted = [&](const char* part) {
    for (int i = 1; i < argc; ++i) {
      if (std::strcmp(argv[i], part) == 0) return true;
    }
    return argc == 1;
  };
  cudaDeviceProp device{};
  must(cudaGetDeviceProperties(&device, 0), "device");
  std::printf("%s, %d multiprocessors; kernel serves it: %s\n\n", device.name, device.multiProcessorCount,
              kvcrush::cuda::prefill_sm90_serves(128, kvcrush::KvDtype::kInt4) ? "yes" : "no");
  bool right = true;
  if (wanted("probe")) {
    const ProbeData data;
    right &= probe<kvcrush::cuda::Swizzle::k32>(data);
    right &= probe<kvcrush::cuda::Swizzle::k128>(data);
    std::printf("%s: the kernel's reading of descriptors\n\n", right ? "PASS" : "FAIL");
  }
  if (wanted("check")) right &= check_all();
  if (wanted("speed")) right &= measure();
  return right ? 0 : 1;
}
