#include "engine/kernels/parallel.h"

#include "engine/core/status.h"

namespace kvcrush {

namespace {
int g_num_threads = 1;
}

void set_num_kernel_threads(int num_threads) {
  KVCRUSH_CHECK(num_threads >= 1);
  g_num_threads = num_threads;
}

int num_kernel_threads() {
#ifdef _OPENMP
  return g_num_threads;
#else
  return 1;
#endif
}

}  // namespace kvcrush
