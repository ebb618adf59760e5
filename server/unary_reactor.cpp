#include "server/unary_reactor.h"

#include <utility>

namespace kvcrush {

void UnaryReactor::deliver() {
  grpc::Status status;
  {
    std::lock_guard lock(mutex_);
    if (closed_ || !(client_gone_ || all_finished())) return;
    status = final_status();
    if (status.ok()) status = answer();
    close();
    answer_leaves();
  }
  Finish(status);
}

void UnaryReactor::OnDone() {
  forget_context();
  const std::shared_ptr<UnaryReactor> last = std::move(self_);
}

}  // namespace kvcrush
