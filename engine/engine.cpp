#include "engine/engine.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <future>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "engine/engine_core.h"
#include "engine/engine_options.h"
#include "engine/executor_factory.h"
#include "engine/faults.h"
#include "engine/kernels/parallel.h"
#include "engine/loader/model_file.h"
#include "engine/model/weights.h"
#include "engine/pool_limits.h"
#include "engine/request_checks.h"
#include "engine/request_sequences.h"

namespace kvcrush {

// The loop thread and the mailbox through which everybody else talks to it.
class Engine::Impl {
 public:
  Impl(std::shared_ptr<const ModelFile> model, EngineConfig config, EngineLimits limits, KvDtype dtype,
       std::unique_ptr<ModelExecutor> executor, bool on_gpu, EngineObserver& observer)
      : model_(std::move(model)),
        config_(std::move(config)),
        limits_(limits),
        dtype_(dtype),
        core_(model_, config_, limits_, dtype, std::move(executor), observer),
        on_gpu_(on_gpu),
        stats_{core_.totals(), {}},
        thread_([this] { loop(); }) {}

  ~Impl() {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    thread_.join();
  }

  Status submit(EngineRequest request, std::shared_ptr<TokenStream> stream);
  Status finish(const std::string& request_id, FinishReason reason, std::optional<int> index);
  int max_new_tokens(int num_prompt_tokens, const CachePolicy& policy) const;
  void begin_drain() {
    std::lock_guard lock(mutex_);
    draining_ = true;
  }
  bool wait_idle(std::chrono::milliseconds timeout) {
    std::unique_lock lock(mutex_);
    return idle_.wait_for(lock, timeout, [this] { return live_.empty(); });
  }
  EngineStats stats() const {
    std::lock_guard lock(mutex_);
    return stats_;
  }
  const EngineLimits& limits() const { return limits_; }
  const ModelConfig& model_config() const { return model_->config; }

 private:
  struct Arrival {
    EngineRequest request;
    std::shared_ptr<TokenStream> stream;
    Clock::time_point arrived_at;
  };
  struct Ending {
    std::string request_id;
    FinishReason reason;
    std::optional<int> index;
  };
  // In the order of sending: an ending must not meet a later request that reuses the id.
  using Mail = std::vector<std::variant<Arrival, Ending>>;

  void loop();
  void deliver(const Mail& mail);
  void settle();

  const std::shared_ptr<const ModelFile> model_;
  const EngineConfig config_;
  const EngineLimits limits_;
  const KvDtype dtype_;
  EngineCore core_;  // the loop thread's alone, once it runs

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable idle_;
  // Guarded by mutex_:
  Mail inbox_;
  std::map<std::string, int> live_;  // request id → samples that have not finished
  // Samples in the inbox or waiting, and the prompt tokens they have to compute: what the queue's bounds are
  // about.
  QueueLoad queued_;
  bool draining_ = false;
  bool stopping_ = false;
  bool on_gpu_ = false;
  EngineStats stats_;
  Clock::time_point described_at_;

  std::thread thread_;  // last: it uses everything above
};

Status Engine::Impl::submit(EngineRequest request, std::shared_ptr<TokenStream> stream) {
  KVCRUSH_CHECK(!request.prompt_token_ids.empty() && request.num_samples > 0 && stream != nullptr);
  KVCRUSH_CHECK(request.cache_policies.size() == 1 ||
                request.cache_policies.size() == static_cast<std::size_t>(request.num_samples));
  KVCRUSH_RETURN_IF_ERROR(check_room(request, {model_->config, limits_, dtype_, on_gpu_}));
  {
    std::lock_guard lock(mutex_);
    if (draining_ || stopping_) return {StatusCode::kUnavailable, "the server is shutting down"};
    if (live_.contains(request.request_id)) {
      return {StatusCode::kAlreadyExists,
              "request_id is '" + request.request_id + "', which is running already"};
    }
    KVCRUSH_RETURN_IF_ERROR(check_queue(request, config_, queued_, Clock::now()));
    live_[request.request_id] = request.num_samples;
    queued_.samples += request.num_samples;
    queued_.tokens += static_cast<std::int64_t>(request.prompt_token_ids.size());
    inbox_.emplace_back(Arrival{std::move(request), std::move(stream), Clock::now()});
  }
  wake_.notify_one();
  return {};
}

Status Engine::Impl::finish(const std::string& request_id, FinishReason reason, std::optional<int> index) {
  {
    std::lock_guard lock(mutex_);
    if (!live_.contains(request_id))
      return not_found("request_id is '" + request_id + "'; no such request is running");
    inbox_.emplace_back(Ending{request_id, reason, index});
  }
  wake_.notify_one();
  return {};
}

int Engine::Impl::max_new_tokens(int num_prompt_tokens, const CachePolicy& policy) const {
  return kvcrush::max_new_tokens(policy, model_->config, dtype_, limits_.max_context_tokens,
                                 static_cast<int>(limits_.num_blocks), num_prompt_tokens);
}

void Engine::Impl::loop() {
  while (true) {
    Mail mail;
    {
      std::unique_lock lock(mutex_);
      if (core_.idle()) wake_.wait(lock, [this] { return stopping_ || !inbox_.empty(); });
      if (stopping_) break;
      mail = std::exchange(inbox_, {});
    }
    deliver(mail);
    core_.expire(Clock::now());
    core_.step();
    settle();
    if (core_.prune()) settle();
  }
  Mail rest;
  {
    std::lock_guard lock(mutex_);
    rest = std::exchange(inbox_, {});
  }
  deliver(rest);
  core_.finish_all(FinishReason::kAbort);
  settle();
}

void Engine::Impl::deliver(const Mail& mail) {
  for (const auto& item : mail) {
    if (const auto* arrival = std::get_if<Arrival>(&item)) {
      core_.add(arrival->request, arrival->stream, arrival->arrived_at);
    } else {
      const auto& ending = std::get<Ending>(item);
      core_.finish(ending.request_id, ending.index, ending.reason);
    }
  }
}

// Publishes what the step changed to the threads outside; clients are told last, when ids, blocks and
// statistics agree.
void Engine::Impl::settle() {
  std::vector<OutgoingEvent> events = core_.take_events();
  constexpr std::chrono::milliseconds kDescribeInterval{50};  // copies strings: not every step
  const Clock::time_point now = Clock::now();
  bool none_live = false;
  {
    std::lock_guard lock(mutex_);
    for (const OutgoingEvent& outgoing : events) {
      if (outgoing.finished_request_id.empty()) continue;
      const auto it = live_.find(outgoing.finished_request_id);
      if (--it->second == 0) live_.erase(it);
    }
    static_cast<EngineTotals&>(stats_) = core_.totals();
    queued_.samples = stats_.num_waiting;
    queued_.tokens = stats_.num_waiting_tokens;
    for (const auto& item : inbox_) {
      const auto* arrival = std::get_if<Arrival>(&item);
      if (arrival == nullptr) continue;
      queued_.samples += arrival->request.num_samples;
      queued_.tokens += static_cast<std::int64_t>(arrival->request.prompt_token_ids.size());
    }
    none_live = live_.empty();
    if (none_live || now - described_at_ >= kDescribeInterval) {
      stats_.sequences = core_.describe_sequences();
      described_at_ = now;
    }
  }
  for (OutgoingEvent& outgoing : events) outgoing.stream->push(std::move(outgoing.event));
  if (none_live) idle_.notify_all();
}

bool keeps_weights_quantized(const ModelFile& model) {
  return keeps_quantized(model);
}

Result<std::unique_ptr<Engine>> Engine::create(std::shared_ptr<const ModelFile> model,
                                               const EngineConfig& config, EngineObserver& observer) {
  KVCRUSH_CHECK(model != nullptr);
  KVCRUSH_RETURN_IF_ERROR(check_config(config));
  const Result<std::string> device = resolve_device(config.device);
  if (!device.ok()) return device.status();
  KVCRUSH_RETURN_IF_ERROR(check_device_options(config, *device));
  const Result<std::string> weight_dtype = resolve_weight_dtype(config.weight_dtype, *device);
  if (!weight_dtype.ok()) return weight_dtype.status();
  EngineConfig resolved = config;
  resolved.weight_dtype = *weight_dtype;
  const Result<KvDtype> dtype = parse_kv_dtype(config.kv_dtype);
  if (!dtype.ok()) return dtype.status();
  const Result<FaultPlan> faults = parse_faults(config.faults);
  KVCRUSH_RETURN_IF_ERROR(faults.status());
  KVCRUSH_RETURN_IF_ERROR(check_heads(model->config));
  const KvLayout layout{.num_kv_heads = model->config.num_kv_heads, .head_dim = model->config.head_dim};
  const bool on_gpu = *device != "cpu";
  const Result<EngineConfig> sized =
      on_gpu && config.fills_gpu ? fill_gpu(*model, resolved, *device) : resolved;
  if (!sized.ok()) return sized.status();
  const Result<EngineLimits> limits = derive_limits(model->config, *sized, layout, *dtype);
  if (!limits.ok()) return limits.status();
  const unsigned cores = std::max(1U, std::thread::hardware_concurrency());
  set_num_kernel_threads(config.num_threads == 0 ? static_cast<int>(cores) : config.num_threads);
  // ATen only moves small things here; a second pool of threads would fight with ours.
  at::set_num_threads(1);
  try {
    // On a thread of its own: OpenMP keeps the workers of every thread that ever had some, and where there
    // are more of them than cores it lets the loop thread's sleep between two kernels, which costs more than
    // many kernels.
    std::unique_ptr<ModelExecutor> executor =
        std::async(std::launch::async, [&] {
          return with_faults(make_executor(model, *sized, *limits, layout, *device), *faults);
        }).get();
    return std::unique_ptr<Engine>(new Engine(std::make_unique<Impl>(
        std::move(model), *sized, *limits, *dtype, std::move(executor), on_gpu, observer)));
  } catch (const std::exception& error) {
    return Status(StatusCode::kResourceExhausted, std::string("cannot set up the engine: ") + error.what());
  }
}

Engine::Engine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Engine::~Engine() = default;

Status Engine::submit(EngineRequest request, std::shared_ptr<TokenStream> stream) {
  return impl_->submit(std::move(request), std::move(stream));
}
Status Engine::finish(const std::string& request_id, FinishReason reason, std::optional<int> index) {
  return impl_->finish(request_id, reason, index);
}
int Engine::max_new_tokens(int num_prompt_tokens, const CachePolicy& policy) const {
  return impl_->max_new_tokens(num_prompt_tokens, policy);
}
void Engine::begin_drain() {
  impl_->begin_drain();
}
bool Engine::wait_idle(std::chrono::milliseconds timeout) {
  return impl_->wait_idle(timeout);
}
EngineStats Engine::stats() const {
  return impl_->stats();
}
const EngineLimits& Engine::limits() const {
  return impl_->limits();
}
const ModelConfig& Engine::model_config() const {
  return impl_->model_config();
}

}  // namespace kvcrush
