#include "engine/tokenizer/nfc.h"

#include <utf8proc.h>

#include <algorithm>
#include <vector>

#include "engine/core/status.h"
#include "engine/tokenizer/utf8.h"

namespace kvcrush {
namespace {

constexpr std::uint32_t kFirstChanging = 0x300;  // below, nothing composes and nothing is replaced
constexpr std::size_t kMaxDecomposed = 32;  // of one code point; Unicode's longest is 4 without compatibility

bool is_composed_for_sure(std::string_view text) {
  for (std::size_t offset = 0; offset < text.size();) {
    const utf8::Step step = utf8::next(text, offset);
    if (step.code_point >= kFirstChanging) return false;
    offset += step.num_bytes;
  }
  return true;
}

std::vector<utf8proc_int32_t> decompose(std::string_view text) {
  std::vector<utf8proc_int32_t> code_points;
  code_points.reserve(text.size());
  for (std::size_t offset = 0; offset < text.size();) {
    const utf8::Step step = utf8::next(text, offset);
    offset += step.num_bytes;
    utf8proc_int32_t parts[kMaxDecomposed];
    int last_boundary_class = 0;
    const utf8proc_ssize_t count =
        utf8proc_decompose_char(static_cast<utf8proc_int32_t>(step.code_point), parts, kMaxDecomposed,
                                UTF8PROC_DECOMPOSE, &last_boundary_class);
    KVCRUSH_CHECK(count >= 0 && count <= static_cast<utf8proc_ssize_t>(kMaxDecomposed));
    code_points.insert(code_points.end(), parts, parts + count);
  }
  return code_points;
}

// The library would sort by swapping neighbours, in quadratic time for long runs of marks.
void sort_marks(std::vector<utf8proc_int32_t>& code_points) {
  const auto mark_class = [](utf8proc_int32_t code_point) {
    return utf8proc_get_property(code_point)->combining_class;
  };
  for (auto begin = code_points.begin(); begin != code_points.end();) {
    if (mark_class(*begin) == 0) {
      ++begin;
      continue;
    }
    const auto end =
        std::find_if(begin, code_points.end(), [&](auto code_point) { return mark_class(code_point) == 0; });
    std::stable_sort(begin, end, [&](auto a, auto b) { return mark_class(a) < mark_class(b); });
    begin = end;
  }
}

}  // namespace

std::optional<std::string> compose_nfc(std::string_view text) {
  if (is_composed_for_sure(text)) return std::nullopt;
  std::vector<utf8proc_int32_t> code_points = decompose(text);
  sort_marks(code_points);
  const utf8proc_ssize_t length =
      utf8proc_normalize_utf32(code_points.data(), static_cast<utf8proc_ssize_t>(code_points.size()),
                               static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  KVCRUSH_CHECK(length >= 0);
  code_points.resize(static_cast<std::size_t>(length));
  std::string composed;
  composed.reserve(text.size());
  for (const utf8proc_int32_t code_point : code_points)
    utf8::append(composed, static_cast<std::uint32_t>(code_point));
  return composed;
}

}  // namespace kvcrush
