// What tests may do to the simulated GPU.
#pragma once

namespace kvcrush::testing {

// The n-th copy to the device from now on fails, as a CUDA error does: it throws. 0: none.
void fail_copy(int n);

}  // namespace kvcrush::testing
