#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>

#include "engine/kernels/cpu/cpu_kernels.h"

namespace kvcrush::cpu {

extern const KernelTable kernel_table_generic;
extern const KernelTable kernel_table_avx2;
extern const KernelTable kernel_table_avx512;
extern const KernelTable kernel_table_avx512vnni;
extern const KernelTable kernel_table_amx;

namespace {

bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
}

// Whether the CPU has AMX and the kernel lets this process use its 8 KiB of registers: they are asked for
// once, for all threads.
bool may_use_amx() {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  constexpr unsigned kTileBf16Int8 = 1u << 22 | 1u << 24 | 1u << 25;
  constexpr unsigned kAvx512Bf16 = 1u << 5;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & kTileBf16Int8) != kTileBf16Int8) return false;
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d) == 0 || (a & kAvx512Bf16) == 0) return false;
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

bool machine_runs(const KernelTable& table) {
  __builtin_cpu_init();
  if (&table == &kernel_table_avx2) return has_avx2();
  if (&table == &kernel_table_avx512) return has_avx512();
  if (&table == &kernel_table_avx512vnni) return has_avx512() && __builtin_cpu_supports("avx512vnni");
  if (&table == &kernel_table_amx) {
    static const bool runs = has_avx512() && __builtin_cpu_supports("avx512vnni") && may_use_amx();
    return runs;
  }
  return true;
}

constexpr std::array kTables = {&kernel_table_amx, &kernel_table_avx512vnni, &kernel_table_avx512,
                                &kernel_table_avx2, &kernel_table_generic};  // best first

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
