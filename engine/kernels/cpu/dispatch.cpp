#include <array>
#include <cstdlib>
#include <cstring>

#include "engine/kernels/cpu/cpu_kernels.h"

namespace kvcrush::cpu {

extern const KernelTable kernel_table_generic;
extern const KernelTable kernel_table_avx2;
extern const KernelTable kernel_table_avx512;

namespace {

bool machine_runs(const KernelTable& table) {
  __builtin_cpu_init();
  if (&table == &kernel_table_avx512) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
  }
  if (&table == &kernel_table_avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return true;
}

constexpr std::array kTables = {&kernel_table_avx512, &kernel_table_avx2,
                                &kernel_table_generic};  // best first

const KernelTable& best() {
  // For tests and for comparing instruction sets on one machine; a set that the machine lacks is ignored.
  if (const char* wanted = std::getenv("KVCRUSH_CPU_ISA")) {
    if (const KernelTable* table = cpu_kernels_for(wanted)) return *table;
  }
  for (const KernelTable* table : kTables) {
    if (machine_runs(*table)) return *table;
  }
  return kernel_table_generic;
}

}  // namespace

const KernelTable& cpu_kernels() {
  static const KernelTable& table = best();
  return table;
}

const KernelTable* cpu_kernels_for(const char* isa) {
  for (const KernelTable* table : kTables) {
    if (std::strcmp(table->isa, isa) == 0) return machine_runs(*table) ? table : nullptr;
  }
  return nullptr;
}

}  // namespace kvcrush::cpu
