#include "client/bench/load_generator.h"

#include <algorithm>
#include <utility>

#include "client/bench/percentiles.h"

namespace kvcrush::bench {
namespace {

constexpr std::size_t kRecentRequests = 256;
constexpr double kLongestWaitSeconds = 3600;  // a wait that no event ends; only a bound, the loop goes on

}  // namespace

// One request with all its tries.
class LoadGenerator::Call final : public client::StreamHandler,
                                  public std::enable_shared_from_this<LoadGenerator::Call> {
 public:
  Call(LoadGenerator& load, std::int64_t number) : load_(load), request(load.workload_.request(number)) {
    record.number = number;
  }

  void on_chunk(const v1::GenerateResponse& chunk) override {
    const double now = load_.now_s();
    if (chunk.token_ids_size() > 0) {
      record.arrivals.push_back({now, chunk.token_ids_size()});
      if (record.arrivals.size() == 1) load_.note_first_token(*record.ttft_ms());
    }
    if (!chunk.has_finish()) return;
    record.prompt_tokens = chunk.finish().usage().prompt_tokens();
    record.server_queue_ms = chunk.finish().usage().queue_ms();
  }

  void on_end(const client::Status& status) override {
    record.end_s = load_.now_s();
    load_.end(shared_from_this(), status);
  }

 private:
  LoadGenerator& load_;

 public:
  const v1::GenerateRequest request;
  RequestRecord record;
};

LoadGenerator::LoadGenerator(std::vector<client::Client>& clients, const Workload& workload,
                             const LoadPlan& plan)
    : clients_(clients), workload_(workload), plan_(plan), jitter_(plan.seed) {
  if (!plan.rate_per_s) return;
  arrivals_.emplace(*plan.rate_per_s, plan.seed);
  next_arrival_s_ = arrivals_->next_s();
}

double LoadGenerator::now_s() const {
  return std::chrono::duration<double>(Clock::now() - started_at_).count();
}

LoadGenerator::Clock::time_point LoadGenerator::at(double since_start_s) const {
  return started_at_ + std::chrono::ceil<Clock::duration>(std::chrono::duration<double>(since_start_s));
}

LoadResult LoadGenerator::run(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  for (;;) {
    if (stop.stop_requested()) give_up(lock, true);
    const double now = now_s();
    const auto due = take_due(now);
    if (!due.empty()) {
      lock.unlock();
      for (const auto& call : due) start(call);
      lock.lock();
      continue;
    }
    if (!more_to_start(now) && counts_.in_flight == 0) return result();
    const auto wake_s = next_event_s(now);
    if (wake_s && now >= *wake_s && !more_to_start(now)) {
      give_up(lock, false);
      continue;
    }
    const auto woken = [this] { return std::exchange(changed_, false); };
    if (given_up_s_)
      wake_.wait(lock, woken);  // cancelled calls end soon, and `stop` has nothing to add
    else
      wake_.wait_until(lock, stop, at(wake_s.value_or(now + kLongestWaitSeconds)), woken);
  }
}

bool LoadGenerator::more_to_start(double now) const {
  if (given_up_s_) return false;
  if (plan_.num_requests) return counts_.num_measured < *plan_.num_requests;
  return (arrivals_ ? next_arrival_s_ : now) < plan_.warmup_s + plan_.duration_s;
}

// When something is to be done though no call ends: an arrival, a retry, or patience is over.
std::optional<double> LoadGenerator::next_event_s(double now) const {
  if (given_up_s_) return std::nullopt;
  std::optional<double> next;
  const auto consider = [&next](double when_s) { next = next ? std::min(*next, when_s) : when_s; };
  if (!retries_.empty()) consider(retries_.begin()->first);
  if (more_to_start(now)) {
    if (arrivals_)
      consider(next_arrival_s_);
    else if (!plan_.num_requests)
      consider(plan_.warmup_s + plan_.duration_s);
    return next;
  }
  consider((plan_.num_requests ? last_start_s_ : plan_.warmup_s + plan_.duration_s) + plan_.grace_s);
  return next;
}

std::vector<LoadGenerator::CallPtr> LoadGenerator::take_due(double now) {
  std::vector<CallPtr> due;
  while (!retries_.empty() && retries_.begin()->first <= now) {
    due.push_back(std::move(retries_.begin()->second));
    retries_.erase(retries_.begin());
  }
  while (more_to_start(now)) {
    if (arrivals_ ? next_arrival_s_ > now : counts_.in_flight >= plan_.concurrency) break;
    due.push_back(new_call(arrivals_ ? next_arrival_s_ : now));
    if (arrivals_) next_arrival_s_ = arrivals_->next_s();
  }
  return due;
}

LoadGenerator::CallPtr LoadGenerator::new_call(double due_s) {
  auto call = std::make_shared<Call>(*this, counts_.num_started++);
  RequestRecord& record = call->record;
  record.due_s = due_s;
  record.tenant = workload_.tenant(record.number);
  record.warmup = due_s < plan_.warmup_s;
  if (!record.warmup) ++counts_.num_measured;
  ++counts_.in_flight;
  last_start_s_ = due_s;
  return call;
}

void LoadGenerator::start(const CallPtr& call) {
  RequestRecord& record = call->record;
  const double now = now_s();
  if (record.retries == 0) record.sent_s = now;
  client::CallOptions options;
  if (plan_.timeout_s) {
    const std::chrono::duration<double> left(record.due_s + *plan_.timeout_s - now);
    options.deadline =
        std::chrono::system_clock::now() + std::chrono::ceil<std::chrono::system_clock::duration>(left);
  }
  const auto& tenants = workload_.options().tenants;
  if (!tenants.empty()) options.tenant = tenants[static_cast<std::size_t>(record.tenant)].name;
  const auto turn = static_cast<std::size_t>(record.number) % clients_.size();
  clients_[turn].start_generate(call->request, call, options, cancel_.get_token());
}

void LoadGenerator::note_first_token(double ttft_ms) {
  const std::lock_guard lock(mutex_);
  recent_ttft_ms_.push_back(ttft_ms);
  if (recent_ttft_ms_.size() > kRecentRequests) recent_ttft_ms_.pop_front();
}

void LoadGenerator::end(const CallPtr& call, const client::Status& status) {
  RequestRecord& record = call->record;
  const std::lock_guard lock(mutex_);
  changed_ = true;
  record.code = status.code;
  record.outcome = status.ok() ? Outcome::kOk : Outcome::kFailed;
  if (given_up_s_ && status.code == client::Code::kCancelled) record.outcome = Outcome::kCutOff;
  if (!given_up_s_ && record.arrivals.empty()) {
    const auto wait = client::retry_wait(plan_.retry, status, record.retries + 1, uniform(jitter_));
    const double again_s = record.end_s + (wait ? std::chrono::duration<double>(*wait).count() : 0);
    if (wait && (!plan_.timeout_s || again_s < record.due_s + *plan_.timeout_s)) {
      ++record.retries;
      retries_.emplace(again_s, call);
      wake_.notify_all();
      return;
    }
  }
  keep_record(call);
  wake_.notify_all();
}

void LoadGenerator::keep_record(const CallPtr& call) {
  --counts_.in_flight;
  if (call->record.outcome == Outcome::kOk) ++counts_.num_ok;
  if (call->record.outcome == Outcome::kFailed) ++counts_.num_failed;
  records_.push_back(std::move(call->record));
}

void LoadGenerator::give_up(std::unique_lock<std::mutex>& lock, bool asked) {
  if (given_up_s_) return;
  given_up_s_ = now_s();
  interrupted_ = asked;
  for (const auto& [due_s, call] : std::exchange(retries_, {})) {
    call->record.outcome = Outcome::kCutOff;
    call->record.end_s = *given_up_s_;
    keep_record(call);
  }
  lock.unlock();
  cancel_.request_stop();
  lock.lock();
}

LoadResult LoadGenerator::result() {
  LoadResult result;
  result.records = std::move(records_);
  result.interrupted = interrupted_;
  result.measure_from_s = plan_.warmup_s;
  result.measure_to_s = plan_.warmup_s + plan_.duration_s;
  if (plan_.num_requests) {
    result.measure_to_s = plan_.warmup_s;
    for (const auto& record : result.records)
      if (!record.warmup) result.measure_to_s = std::max(result.measure_to_s, record.end_s);
  }
  if (interrupted_)
    result.measure_to_s = std::max(plan_.warmup_s, std::min(result.measure_to_s, *given_up_s_));
  return result;
}

LiveCounts LoadGenerator::live() const {
  const std::lock_guard lock(mutex_);
  LiveCounts counts = counts_;
  counts.elapsed_s = now_s();
  std::vector<double> recent(recent_ttft_ms_.begin(), recent_ttft_ms_.end());
  if (!recent.empty()) counts.recent_ttft_p50_ms = percentile(recent, 0.5);
  return counts;
}

}  // namespace kvcrush::bench
