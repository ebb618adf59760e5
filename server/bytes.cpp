#include "server/bytes.h"

#include <spdlog/fmt/fmt.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <fstream>
#include <limits>

namespace kvcrush {
namespace {

// The first number in `path`; 0 when it cannot be read ("max" in a cgroup file counts as unknown).
std::uint64_t read_number(const char* path) {
  std::ifstream file(path);
  std::uint64_t value = 0;
  return file >> value ? value : 0;
}

std::uint64_t mem_available_bytes() {
  std::ifstream meminfo("/proc/meminfo");
  std::string key;
  std::uint64_t kib = 0;
  std::string unit;
  while (meminfo >> key >> kib && std::getline(meminfo, unit)) {
    if (key == "MemAvailable:") return kib * 1024;
  }
  return 0;
}

}  // namespace

Result<std::uint64_t> parse_bytes(const std::string& option, const std::string& text) {
  const Status refused = invalid_argument(
      fmt::format("{} is \"{}\", allowed: a whole number of bytes with an optional suffix KiB, MiB, GiB, TiB "
                  "(1024) or KB, MB, GB, TB (1000)",
                  option, text));
  if (text.empty() || text.front() < '0' || text.front() > '9') return refused;
  try {
    std::string number = text;
    if (!CLI::AsSizeValue(/*kb_is_1000=*/true)(number).empty()) return refused;
    return std::uint64_t{std::stoull(number)};
  } catch (const std::exception&) {
    return refused;
  }
}

std::string format_bytes(std::uint64_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 1024.0 && unit + 1 < std::size(kUnits)) {
    value /= 1024.0;
    ++unit;
  }
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", value, kUnits[unit]);
}

std::uint64_t available_memory_bytes() {
  std::uint64_t available = mem_available_bytes();
  const std::uint64_t limit = read_number("/sys/fs/cgroup/memory.max");
  if (limit > 0) {
    const std::uint64_t used = read_number("/sys/fs/cgroup/memory.current");
    const std::uint64_t left = limit > used ? limit - used : 0;
    available = available == 0 ? left : std::min(available, left);
  }
  return available;
}

std::uint64_t resident_memory_bytes() {
  std::ifstream statm("/proc/self/statm");
  std::uint64_t total_pages = 0;
  std::uint64_t resident_pages = 0;
  if (!(statm >> total_pages >> resident_pages)) return 0;
  return resident_pages * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace kvcrush
