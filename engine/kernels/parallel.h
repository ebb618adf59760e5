// Threads for CPU kernels, over OpenMP: the library libtorch brings anyway.
#pragma once

#include <cstdint>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace kvcrush {

// Threads of the calling process' kernels; the engine sets it once, before the first kernel.
void set_num_kernel_threads(int num_threads);
int num_kernel_threads();

// Calls body(index, thread) for every index in [0, count), thread in [0, num_kernel_threads()). Bodies must
// not throw.
template <typename Body>
void parallel_for(std::int64_t count, const Body& body) {
#ifdef _OPENMP
  if (count > 1 && num_kernel_threads() > 1) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(num_kernel_threads())
    for (std::int64_t i = 0; i < count; ++i) body(i, omp_get_thread_num());
    return;
  }
#endif
  for (std::int64_t i = 0; i < count; ++i) body(i, 0);
}

}  // namespace kvcrush
