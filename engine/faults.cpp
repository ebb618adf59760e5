#include "engine/faults.h"

#include <ATen/ATen.h>

#include <charconv>
#include <chrono>
#include <limits>
#include <new>
#include <sstream>
#include <stdexcept>
#include <thread>
#include <utility>

#include "engine/core/splitmix64.h"
#include "engine/model/model_executor.h"

namespace kvcrush {

namespace {

class FaultyExecutor final : public ModelExecutor {
 public:
  FaultyExecutor(std::unique_ptr<ModelExecutor> executor, const FaultPlan& plan)
      : executor_(std::move(executor)), plan_(plan) {}

  at::Tensor run(const StepPlan& plan) override {
    if (happens(plan_.stall_share)) std::this_thread::sleep_for(std::chrono::milliseconds(plan_.stall_ms));
    if (happens(plan_.memory_share)) throw std::bad_alloc();
    at::Tensor logits = executor_->run(plan);
    if (happens(plan_.exception_share)) throw std::runtime_error("injected fault: a kernel failed");
    for (std::int64_t row = 0; logits.defined() && row < logits.size(0); ++row) {
      if (happens(plan_.nan_share)) logits[row].fill_(std::numeric_limits<float>::quiet_NaN());
    }
    return logits;
  }
  at::Tensor to_host(const at::Tensor& logits) override { return executor_->to_host(logits); }
  bool samples() const override { return executor_->samples(); }
  std::vector<SampleResult> sample(std::span<const SampleJob> jobs, const at::Tensor& logits) override {
    return executor_->sample(jobs, logits);
  }
  const std::vector<PruneReport>& fork_reports() const override { return executor_->fork_reports(); }
  PruneReport settle(Sequence& sequence, const Settling& settling) override {
    return executor_->settle(sequence, settling);
  }
  std::vector<PruneTime> take_prune_times() override { return executor_->take_prune_times(); }
  void swap_out(SequenceId id, std::span<const BlockId> blocks) override { executor_->swap_out(id, blocks); }
  void swap_in(SequenceId id, std::span<const BlockId> blocks) override { executor_->swap_in(id, blocks); }
  std::optional<double> seconds_per_swapped_block() const override {
    return executor_->seconds_per_swapped_block();
  }
  void expect_children(SequenceId trunk, const ObservationNeeds& needs) override {
    executor_->expect_children(trunk, needs);
  }
  void forget(SequenceId id, bool for_good) override { executor_->forget(id, for_good); }

 private:
  bool happens(double share) {
    constexpr double kUnit = 1.0 / static_cast<double>(std::uint64_t{1} << 53);
    return share > 0 && static_cast<double>(splitmix64(plan_.seed + draws_++) >> 11) * kUnit < share;
  }

  std::unique_ptr<ModelExecutor> executor_;
  FaultPlan plan_;
  std::uint64_t draws_ = 0;
};

template <typename Number>
bool parse_number(const std::string& text, Number& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size();
}

bool set_fault(const std::string& name, const std::string& value, FaultPlan& plan) {
  const auto share = [&](double& field) { return parse_number(value, field) && field >= 0 && field <= 1; };
  if (name == "nan") return share(plan.nan_share);
  if (name == "exception") return share(plan.exception_share);
  if (name == "memory") return share(plan.memory_share);
  if (name == "stall") return share(plan.stall_share);
  if (name == "stall-ms") return parse_number(value, plan.stall_ms) && plan.stall_ms >= 0;
  return name == "seed" && parse_number(value, plan.seed);
}

}  // namespace

Result<FaultPlan> parse_faults(const std::string& text) {
  FaultPlan plan;
  std::istringstream parts(text);
  for (std::string part; std::getline(parts, part, ',');) {
    const std::size_t equals = part.find('=');
    if (equals != std::string::npos && set_fault(part.substr(0, equals), part.substr(equals + 1), plan))
      continue;
    return invalid_argument(
        "faults has '" + part +
        "'; allowed: nan=, exception=, memory= and stall= with a share in [0, 1], stall-ms= and "
        "seed= with a whole number");
  }
  return plan;
}

std::unique_ptr<ModelExecutor> with_faults(std::unique_ptr<ModelExecutor> executor, const FaultPlan& plan) {
  return plan.any() ? std::make_unique<FaultyExecutor>(std::move(executor), plan) : std::move(executor);
}

}  // namespace kvcrush
