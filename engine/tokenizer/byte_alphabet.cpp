#include "engine/tokenizer/byte_alphabet.h"

#include <array>
#include <cstdint>

#include "engine/tokenizer/utf8.h"

namespace kvcrush {
namespace {

constexpr std::uint32_t kFirstStandIn = 0x100;
constexpr std::uint32_t kAlphabetEnd = 0x100 + 68;  // 68 bytes have no printable Latin-1 form of their own

struct Alphabet {
  std::array<std::uint32_t, 256> code_point_of_byte{};
  std::array<std::int16_t, kAlphabetEnd> byte_of_code_point{};  // -1: not in the alphabet

  Alphabet() {
    byte_of_code_point.fill(-1);
    std::uint32_t stand_in = kFirstStandIn;
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
      const bool printable =
          (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || (byte >= 0xAE);
      const std::uint32_t code_point = printable ? byte : stand_in++;
      code_point_of_byte[byte] = code_point;
      byte_of_code_point[code_point] = static_cast<std::int16_t>(byte);
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet instance;
  return instance;
}

}  // namespace

std::optional<std::string> bytes_from_alphabet(std::string_view spelling) {
  std::string bytes;
  for (std::size_t offset = 0; offset < spelling.size();) {
    const utf8::Step step = utf8::next(spelling, offset);
    if (step.form != utf8::Form::kValid || step.code_point >= kAlphabetEnd) return std::nullopt;
    const int byte = alphabet().byte_of_code_point[step.code_point];
    if (byte < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(byte));
    offset += step.num_bytes;
  }
  return bytes;
}

std::string alphabet_from_bytes(std::string_view bytes) {
  std::string spelling;
  for (const char byte : bytes) {
    utf8::append(spelling, alphabet().code_point_of_byte[static_cast<std::uint8_t>(byte)]);
  }
  return spelling;
}

}  // namespace kvcrush
