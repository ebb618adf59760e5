// A small text table: first column left-aligned, the others right-aligned.
#pragma once

#include <iosfwd>
#include <string>
#include <vector>

namespace kvcrush::cli {

class Table {
 public:
  explicit Table(std::vector<std::string> header) : rows_{std::move(header)} {}

  // As many cells as the header has.
  void add_row(std::vector<std::string> cells);
  void print(std::ostream& out) const;

 private:
  std::vector<std::vector<std::string>> rows_;  // the header first
};

// "1,234,567"
std::string with_thousands(long long value);
// Fixed notation with that many decimals.
std::string fixed(double value, int decimals);
// Bytes in MiB with two decimals.
std::string mib(long long bytes);

}  // namespace kvcrush::cli
