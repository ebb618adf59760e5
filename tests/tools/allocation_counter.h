// Counts heap allocations of the whole program, so that a test can prove that a hot path makes none.
// Link allocation_counter.cpp: it replaces operator new.
#pragma once

namespace kvcrush {

int num_allocations();

}  // namespace kvcrush
