#include "tests/cuda_sim/simulated_gpu.h"

#include <ATen/ATen.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <map>
#include <stdexcept>
#include <utility>

#include "engine/core/status.h"
#include "engine/gpu/gpu_runner.h"
#include "tests/cuda_sim/recording.h"
#include "tests/unit/gpu/gpu_under_test.h"

namespace kvcrush::testing {

namespace {

std::atomic<int> g_copies_to_failure = 0;
std::atomic<int> g_recordings_to_failure = 0;
std::atomic<int> g_recorded_graphs = 0;
std::atomic<int> g_started_graphs = 0;

struct SimulatedGraph final : GpuGraph {
  void launch() override {
    for (const auto& one : launches) one();
    ++g_started_graphs;
  }
  cuda_sim::Recording launches;
};

class SimulatedRuntime final : public GpuRuntime {
 public:
  at::Device device() const override { return at::kCPU; }
  void enter() override {}
  cuda::Stream stream() const override { return nullptr; }
  int num_processors() const override { return 4; }
  at::Tensor host_buffer(std::int64_t bytes) const override { return at::empty({bytes}, at::kByte); }
  void copy_to_device(void* target, const void* source, std::size_t bytes) override {
    if (g_copies_to_failure > 0 && --g_copies_to_failure == 0)
      throw std::runtime_error("copy to the GPU: an illegal memory access was encountered");
    KVCRUSH_CHECK(!cuda_sim::is_recording());
    std::memcpy(target, source, bytes);
  }
  void mark(int /*mark*/) override {}
  void wait_for(int /*mark*/) override {}
  int note_time() override {
    int note = 0;
    while (times_.contains(note)) ++note;
    times_[note] = std::chrono::steady_clock::now();
    return note;
  }
  std::optional<double> seconds_between(int earlier, int later) override {
    return std::chrono::duration<double>(times_.at(later) - times_.at(earlier)).count();
  }
  void give_back(int note) override { KVCRUSH_CHECK(times_.erase(note) == 1); }
  // As a graph does, a recorded product holds addresses, not tensors.
  void matmul(const at::Tensor& x, const at::Tensor& w, at::Tensor& out) override {
    const auto at_address = [](const at::Tensor& t) {
      return [address = t.data_ptr(), sizes = t.sizes().vec(), strides = t.strides().vec(),
              options = t.options()] { return at::from_blob(address, sizes, strides, options); };
    };
    cuda_sim::start([x = at_address(x), w = at_address(w), out = at_address(out)] {
      out().copy_(at::matmul(x().to(at::kFloat), w().to(at::kFloat).t()));
    });
  }
  std::unique_ptr<GpuGraph> record(const std::function<void()>& work) override {
    if (g_recordings_to_failure > 0 && --g_recordings_to_failure == 0)
      throw std::runtime_error("recording a graph: operation not permitted");
    auto graph = std::make_unique<SimulatedGraph>();
    cuda_sim::record_into(&graph->launches);
    try {
      work();
    } catch (...) {
      cuda_sim::record_into(nullptr);
      throw;
    }
    cuda_sim::record_into(nullptr);
    ++g_recorded_graphs;
    return graph;
  }
  // As late as may be.
  at::Tensor fetch(const at::Tensor& values) override {
    at::Tensor host = at::empty_like(values);
    copies_.push_back([host, values] { at::Tensor(host).copy_(values); });
    return host;
  }
  at::Tensor send(const at::Tensor& fetched) override {
    wait_for_copies();
    return fetched.clone();
  }
  void wait_for_copies() override {
    for (const auto& copy : std::exchange(copies_, {})) copy();
  }
  at::Tensor to_host(const at::Tensor& values) override { return values; }

 private:
  std::vector<std::function<void()>> copies_;
  std::map<int, std::chrono::steady_clock::time_point> times_;  // of notes in use
};

class SimulatedBackend final : public GpuBackend {
 public:
  std::uint64_t free_bytes(const std::string& device) const override {
    if (device != "cuda" && device != "cuda:0") throw std::runtime_error("there is no " + device);
    return std::uint64_t{1} << 31;
  }
  std::unique_ptr<ModelExecutor> make_executor(const GpuExecutorSpec& spec) const override {
    GpuExecutorSpec small = spec;
    small.prune_workspace_bytes = 1;  // a layer at a time
    return make_gpu_runner(small, std::make_unique<SimulatedRuntime>());
  }
};

}  // namespace

void fail_copy(int n) {
  g_copies_to_failure = n;
}
void fail_recording(int n) {
  g_recordings_to_failure = n;
}
GraphCounts graph_counts() {
  return {.recorded = g_recorded_graphs, .started = g_started_graphs};
}

const GpuBackend& gpu_under_test() {
  static const SimulatedBackend backend;
  return backend;
}

}  // namespace kvcrush::testing
