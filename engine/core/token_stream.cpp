#include "engine/core/token_stream.h"

#include <utility>

namespace kvcrush {

void TokenStream::push(StreamEvent event) {
  bool was_empty = false;
  {
    std::lock_guard lock(mutex_);
    was_empty = events_.empty();
    events_.push_back(std::move(event));
  }
  if (was_empty && on_ready_) on_ready_();
}

std::deque<StreamEvent> TokenStream::take() {
  std::lock_guard lock(mutex_);
  return std::exchange(events_, {});
}

}  // namespace kvcrush
