// Sequences that wait, in the order of their turns: weighted fair queueing in two levels. Whoever has had the
// least service in proportion to its weight comes first: among tenants, and among the priorities of one
// tenant, where each step of priority doubles the weight. Service is tokens computed. Nobody starves:
// everybody who waits is ahead of all others sooner or later, since only theirs is counted on. Who comes back
// after a pause has no credit from it.
//
// Among sequences of one tenant and priority: those that were preempted, then those that arrived first. Forks
// stand apart from all that: they go on with work already begun, and their trunk holds blocks until they
// have.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/scheduler/sequence.h"

namespace kvcrush {

class FairQueue {
 public:
  void push(std::unique_ptr<Sequence> sequence);        // it has just arrived
  void push_front(std::unique_ptr<Sequence> sequence);  // it was preempted
  // Whose turn it is: forks of trunks that are ready, then the choice among those that wait for no trunk.
  // Null: nobody can go on now.
  Sequence* front() const;
  std::unique_ptr<Sequence> take(const Sequence& sequence);
  std::unique_ptr<Sequence> remove(SequenceId id);  // null: not here
  void charge(const Sequence& sequence, int num_tokens);

  bool empty() const { return size_ == 0; }
  int size() const { return size_; }
  // Calls visit(Sequence&) for all, in no particular order.
  template <typename Visit>
  void for_each(const Visit& visit) const {
    for (const auto& sequence : forks_) visit(*sequence);
    for (const auto& [name, tenant] : tenants_) {
      for (const auto& [priority, level] : tenant.levels) {
        for (const auto& sequence : level.sequences) visit(*sequence);
      }
    }
  }

 private:
  using Line = std::deque<std::unique_ptr<Sequence>>;
  struct Level {
    double service = 0;  // tokens over weight
    Line sequences;
  };
  struct Tenant {
    double service = 0;
    double service_now = 0;       // of the level whose turn came last
    std::map<int, Level> levels;  // by priority
    bool waits() const;
  };

  bool is_turn_of_oldest() const;
  Sequence* oldest() const;
  Sequence* fairest() const;
  Level& level_of(const Sequence& sequence);  // with the service of one that waits
  void drop_idle_tenants();

  std::map<std::string, Tenant> tenants_;  // those that wait, and those in debt
  Line forks_;                             // ascending id
  int size_ = 0;
  std::uint64_t num_turns_ = 0;
  double service_now_ = 0;  // of the tenant whose turn came last
  std::size_t num_tenants_to_drop_at_ = 64;
};

}  // namespace kvcrush
