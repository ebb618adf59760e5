// What tests may do to the simulated GPU.
#pragma once

namespace kvcrush::testing {

// The n-th copy to the device from now on fails, as a CUDA error does: it throws. 0: none.
void fail_copy(int n);

// The n-th graph to be recorded from now on cannot be. 0: none.
void fail_recording(int n);

// Since the program began.
struct GraphCounts {
  int recorded = 0;
  int started = 0;
};
GraphCounts graph_counts();

}  // namespace kvcrush::testing
