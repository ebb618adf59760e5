// A call's deadline on the clock that the engine uses.
#pragma once

#include <grpc/support/time.h>
#include <grpcpp/server_context.h>

#include <chrono>
#include <optional>

#include "engine/core/status.h"

namespace kvcrush {

using SteadyTime = std::chrono::steady_clock::time_point;

// `deadline` and `now` are of one clock. nullopt: there is none, or one years away, past what a clock of
// nanoseconds may hold.
std::optional<SteadyTime> to_steady(gpr_timespec deadline, gpr_timespec now, SteadyTime steady_now);
std::optional<SteadyTime> deadline_of(const grpc::CallbackServerContext& context);

// DEADLINE_EXCEEDED when it has passed: nobody waits for the answer.
Status check_deadline(std::optional<SteadyTime> deadline, SteadyTime now);

// Whether a call that was cancelled `now` ran into its deadline rather than being given up. Clients round the
// timeout up to three digits before they send it, so their own clock ends a call up to a hundredth earlier.
bool is_over_deadline(std::optional<SteadyTime> deadline, SteadyTime arrived_at, SteadyTime now);

}  // namespace kvcrush
