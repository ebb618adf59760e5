#include "engine/scheduler/fair_queue.h"

#include <algorithm>
#include <cmath>

#include "engine/core/status.h"

namespace kvcrush {

namespace {

constexpr std::uint64_t kTurnsPerOldest = 8;

double weight_of(int priority) {
  return std::exp2(priority);
}

auto with_id(SequenceId id) {
  return [id](const std::unique_ptr<Sequence>& sequence) { return sequence->id == id; };
}

// Of those that wait for no trunk the first.
Sequence* first_ready(const std::deque<std::unique_ptr<Sequence>>& line) {
  const auto it = std::find_if(line.begin(), line.end(), [](const auto& s) { return !s->waits_for_trunk(); });
  return it == line.end() ? nullptr : it->get();
}

}  // namespace

bool FairQueue::Tenant::waits() const {
  return std::any_of(levels.begin(), levels.end(),
                     [](const auto& item) { return !item.second.sequences.empty(); });
}

// No credit from a pause: those that begin to wait are as far as the one served last.
FairQueue::Level& FairQueue::level_of(const Sequence& sequence) {
  Tenant& tenant = tenants_[sequence.tenant];
  if (!tenant.waits()) tenant.service = std::max(tenant.service, service_now_);
  Level& level = tenant.levels[sequence.priority];
  if (level.sequences.empty()) level.service = std::max(level.service, tenant.service_now);
  return level;
}

void FairQueue::push(std::unique_ptr<Sequence> sequence) {
  if (size_++ == 0) {  // nobody was kept waiting, so nobody is in debt
    for (const auto& [name, tenant] : tenants_) service_now_ = std::max(service_now_, tenant.service);
  }
  if (sequence->forks) {
    forks_.push_back(std::move(sequence));
    return;
  }
  Line& line = level_of(*sequence).sequences;
  line.push_back(std::move(sequence));
}

void FairQueue::push_front(std::unique_ptr<Sequence> sequence) {
  ++size_;
  if (sequence->forks) {
    const auto later = [id = sequence->id](const auto& other) { return other->id > id; };
    forks_.insert(std::find_if(forks_.begin(), forks_.end(), later), std::move(sequence));
    return;
  }
  Line& line = level_of(*sequence).sequences;
  line.push_front(std::move(sequence));
}

Sequence* FairQueue::front() const {
  if (Sequence* fork = first_ready(forks_)) return fork;
  return is_turn_of_oldest() ? oldest() : fairest();
}

bool FairQueue::is_turn_of_oldest() const {
  return num_turns_ % kTurnsPerOldest == kTurnsPerOldest - 1;
}

Sequence* FairQueue::oldest() const {
  Sequence* oldest = nullptr;
  for (const auto& [name, tenant] : tenants_) {
    for (const auto& [priority, level] : tenant.levels) {
      Sequence* first = first_ready(level.sequences);
      if (first != nullptr && (oldest == nullptr || first->id < oldest->id)) oldest = first;
    }
  }
  return oldest;
}

Sequence* FairQueue::fairest() const {
  Sequence* best = nullptr;
  double best_service = 0;
  for (const auto& [name, tenant] : tenants_) {
    Sequence* candidate = nullptr;
    double least = 0;
    for (const auto& [priority, level] : tenant.levels) {
      Sequence* first = first_ready(level.sequences);
      // Of the same service, the higher priority: levels ascend.
      if (first == nullptr || (candidate != nullptr && level.service > least)) continue;
      candidate = first;
      least = level.service;
    }
    if (candidate == nullptr) continue;
    const bool is_less = best == nullptr || tenant.service < best_service ||
                         (tenant.service == best_service && candidate->id < best->id);
    if (!is_less) continue;
    best = candidate;
    best_service = tenant.service;
  }
  return best;
}

std::unique_ptr<Sequence> FairQueue::take(const Sequence& sequence) {
  if (!sequence.forks) {
    const bool was_fair = !is_turn_of_oldest();
    ++num_turns_;
    Tenant& tenant = tenants_.at(sequence.tenant);
    if (was_fair) {
      service_now_ = std::max(service_now_, tenant.service);
      tenant.service_now = std::max(tenant.service_now, tenant.levels.at(sequence.priority).service);
    }
  }
  std::unique_ptr<Sequence> taken = remove(sequence.id);
  KVCRUSH_CHECK(taken != nullptr);
  return taken;
}

std::unique_ptr<Sequence> FairQueue::remove(SequenceId id) {
  const auto take_from = [&](Line& line) {
    const auto it = std::find_if(line.begin(), line.end(), with_id(id));
    if (it == line.end()) return std::unique_ptr<Sequence>();
    std::unique_ptr<Sequence> removed = std::move(*it);
    line.erase(it);
    --size_;
    return removed;
  };
  if (std::unique_ptr<Sequence> fork = take_from(forks_)) return fork;
  for (auto& [name, tenant] : tenants_) {
    for (auto& [priority, level] : tenant.levels) {
      if (std::unique_ptr<Sequence> removed = take_from(level.sequences)) return removed;
    }
  }
  return nullptr;
}

void FairQueue::charge(const Sequence& sequence, int num_tokens) {
  const auto [it, is_new] = tenants_.try_emplace(sequence.tenant);
  Tenant& tenant = it->second;
  if (is_new) tenant.service = service_now_;
  tenant.service += num_tokens / sequence.tenant_weight;
  tenant.levels[sequence.priority].service += num_tokens / weight_of(sequence.priority);
  if (tenants_.size() >= num_tenants_to_drop_at_) drop_idle_tenants();
}

// Those that nothing would be remembered of: neither waiting nor in debt.
void FairQueue::drop_idle_tenants() {
  std::erase_if(tenants_, [this](const auto& item) {
    return !item.second.waits() && item.second.service <= service_now_;
  });
  num_tenants_to_drop_at_ = std::max<std::size_t>(64, 2 * tenants_.size());
}

}  // namespace kvcrush
