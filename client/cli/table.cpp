#include "client/cli/table.h"

#include <algorithm>
#include <iomanip>
#include <ostream>
#include <sstream>
#include <stdexcept>

namespace kvcrush::cli {

void Table::add_row(std::vector<std::string> cells) {
  if (cells.size() != rows_.front().size())
    throw std::logic_error("a table row needs one cell per header cell");
  rows_.push_back(std::move(cells));
}

void Table::print(std::ostream& out) const {
  std::vector<std::size_t> widths(rows_.front().size());
  for (const auto& row : rows_)
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  std::size_t total_width = 0;
  for (const auto width : widths) total_width += width + 2;
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    for (std::size_t i = 0; i < widths.size(); ++i)
      out << (i == 0 ? std::left : std::right) << std::setw(static_cast<int>(widths[i] + (i == 0 ? 0 : 2)))
          << rows_[r][i];
    out << '\n';
    if (r == 0) out << std::string(total_width - 2, '-') << '\n';
  }
}

std::string with_thousands(long long value) {
  std::string digits = std::to_string(value);
  const std::ptrdiff_t first = value < 0 ? 1 : 0;
  for (auto at = static_cast<std::ptrdiff_t>(digits.size()) - 3; at > first; at -= 3)
    digits.insert(static_cast<std::size_t>(at), 1, ',');
  return digits;
}

std::string fixed(double value, int decimals) {
  std::ostringstream out;
  out << std::fixed << std::setprecision(decimals) << value;
  return out.str();
}

std::string mib(long long bytes) {
  return fixed(static_cast<double>(bytes) / (1 << 20), 2);
}

}  // namespace kvcrush::cli
