// A call's deadline on the clock that the engine uses.
#pragma once

#include <grpcpp/server_context.h>

#include <chrono>
#include <optional>

#include "engine/core/status.h"

namespace kvcrush {

using SteadyTime = std::chrono::steady_clock::time_point;

// nullopt: it has none, or one so far away that no clock holds it.
std::optional<SteadyTime> to_steady(std::chrono::system_clock::time_point deadline,
                                    std::chrono::system_clock::time_point system_now, SteadyTime steady_now);
std::optional<SteadyTime> deadline_of(const grpc::CallbackServerContext& context);

// DEADLINE_EXCEEDED when it has passed: nobody waits for the answer.
Status check_deadline(std::optional<SteadyTime> deadline, SteadyTime now);

// Whether a call that was cancelled `now` ran into its deadline rather than being given up. Clients round the
// timeout up to three digits before they send it, so their own clock ends a call up to a hundredth earlier.
bool is_over_deadline(std::optional<SteadyTime> deadline, SteadyTime arrived_at, SteadyTime now);

}  // namespace kvcrush
