#include "engine/loader/sentencepiece_model.h"

#include <array>
#include <cstdint>
#include <string_view>

#include "engine/core/readable.h"
#include "engine/loader/protobuf_reader.h"

namespace kvcrush {
namespace {

// Numbers of fields in sentencepiece_model.proto, which is the format's definition.
namespace model_field {
constexpr std::uint32_t kPiece = 1, kTrainer = 2, kNormalizer = 3, kDenormalizer = 5;
}
namespace piece_field {
constexpr std::uint32_t kText = 1, kScore = 2, kType = 3;
}
namespace trainer_field {
constexpr std::uint32_t kModelType = 3, kSpaceAsSuffix = 24, kUnknownId = 40, kBosId = 41, kEosId = 42,
                        kPaddingId = 43;
}
namespace normalizer_field {
constexpr std::uint32_t kName = 1, kCharsmap = 2, kDummyPrefix = 3, kRemoveSpaces = 4, kEscapeSpaces = 5;
}

// With the format's defaults.
struct Trainer {
  std::int64_t model_type = 1;
  bool space_as_suffix = false;
  std::int64_t unknown_id = 0;
  std::int64_t bos_id = 1;
  std::int64_t eos_id = 2;
  std::int64_t padding_id = -1;
};
struct Normalizer {
  std::string_view name;
  std::size_t charsmap_bytes = 0;
  bool dummy_prefix = true;
  bool remove_spaces = true;
  bool escape_spaces = true;
};

Status read_piece(std::span<const std::byte> bytes, const std::string& source, TokenizerSpec& spec) {
  constexpr std::array kKinds = {TokenKind::kNormal,      TokenKind::kUnknown, TokenKind::kControl,
                                 TokenKind::kUserDefined, TokenKind::kUnused,  TokenKind::kByte};
  std::string_view text;
  float score = 0;
  std::int64_t type = 1;
  ProtobufReader piece(bytes, source);
  while (piece.next()) {
    if (piece.number() == piece_field::kText) text = piece.text();
    if (piece.number() == piece_field::kScore) score = piece.number_f32();
    if (piece.number() == piece_field::kType) type = piece.integer();
  }
  if (!piece.status().ok()) return piece.status();
  const std::string where = source + ": piece " + std::to_string(spec.tokens.size());
  if (text.empty()) return invalid_argument(where + " has no text");
  if (type < 1 || type > static_cast<std::int64_t>(kKinds.size())) {
    return invalid_argument(where + " is of type " + std::to_string(type) + "; known: 1 to 6");
  }
  const auto id = static_cast<TokenId>(spec.tokens.size());
  spec.tokens.emplace_back(text);
  spec.scores.push_back(score);
  spec.kinds.push_back(kKinds[static_cast<std::size_t>(type - 1)]);
  if (spec.kinds.back() == TokenKind::kUserDefined) spec.added_rules[id].normalized = true;
  return {};
}

Status read_trainer(std::span<const std::byte> bytes, const std::string& source, Trainer& trainer) {
  ProtobufReader fields(bytes, source);
  // Ids are of 32 bits, negative ones written with 64.
  const auto id = [&] { return static_cast<std::int64_t>(static_cast<std::int32_t>(fields.integer())); };
  while (fields.next()) {
    if (fields.number() == trainer_field::kModelType) trainer.model_type = fields.integer();
    if (fields.number() == trainer_field::kSpaceAsSuffix) trainer.space_as_suffix = fields.integer() != 0;
    if (fields.number() == trainer_field::kUnknownId) trainer.unknown_id = id();
    if (fields.number() == trainer_field::kBosId) trainer.bos_id = id();
    if (fields.number() == trainer_field::kEosId) trainer.eos_id = id();
    if (fields.number() == trainer_field::kPaddingId) trainer.padding_id = id();
  }
  return fields.status();
}

Status read_normalizer(std::span<const std::byte> bytes, const std::string& source, Normalizer& normalizer) {
  ProtobufReader fields(bytes, source);
  while (fields.next()) {
    if (fields.number() == normalizer_field::kName) normalizer.name = fields.text();
    if (fields.number() == normalizer_field::kCharsmap) normalizer.charsmap_bytes = fields.message().size();
    if (fields.number() == normalizer_field::kDummyPrefix) normalizer.dummy_prefix = fields.integer() != 0;
    if (fields.number() == normalizer_field::kRemoveSpaces) normalizer.remove_spaces = fields.integer() != 0;
    if (fields.number() == normalizer_field::kEscapeSpaces) normalizer.escape_spaces = fields.integer() != 0;
  }
  return fields.status();
}

Status use_trainer(const Trainer& trainer, const std::string& source, TokenizerSpec& spec) {
  const std::string where = source + ": trainer_spec: ";
  if (trainer.model_type != 1 && trainer.model_type != 2) {
    return invalid_argument(where + "model_type is " + std::to_string(trainer.model_type) +
                            "; supported: 1 (unigram), 2 (BPE)");
  }
  spec.model = trainer.model_type == 1 ? "t5" : "llama";
  if (trainer.space_as_suffix) {
    return invalid_argument(where + "treat_whitespace_as_suffix is true; supported: false");
  }
  const std::pair<std::int64_t, TokenId*> ids[] = {{trainer.unknown_id, &spec.unknown_id},
                                                   {trainer.bos_id, &spec.bos_id},
                                                   {trainer.eos_id, &spec.eos_id},
                                                   {trainer.padding_id, &spec.padding_id}};
  for (const auto& [id, target] : ids) {
    if (id >= static_cast<std::int64_t>(spec.tokens.size())) {
      return invalid_argument(where + "id " + std::to_string(id) + " is beyond the " +
                              std::to_string(spec.tokens.size()) + " pieces");
    }
    *target = id < 0 ? -1 : static_cast<TokenId>(id);
  }
  return {};
}

Status use_normalizer(const Normalizer& normalizer, const std::string& source, TokenizerSpec& spec) {
  const std::string where = source + ": normalizer_spec: ";
  if (normalizer.charsmap_bytes > 0) {
    return invalid_argument(where + "normalisation " + in_quotes(normalizer.name) + " by a table of " +
                            std::to_string(normalizer.charsmap_bytes) +
                            " bytes (precompiled_charsmap) is not supported; supported: 'identity'");
  }
  if (normalizer.remove_spaces) {
    return invalid_argument(where + "remove_extra_whitespaces is true; supported: false");
  }
  if (!normalizer.escape_spaces) {
    return invalid_argument(where + "escape_whitespaces is false; supported: true");
  }
  spec.space_prefix = normalizer.dummy_prefix ? SpacePrefix::kAlways : SpacePrefix::kNone;
  spec.strip_first_space = normalizer.dummy_prefix;
  return {};
}

Status refuse_denormalizer(std::span<const std::byte> bytes, const std::string& source) {
  Normalizer denormalizer;
  KVCRUSH_RETURN_IF_ERROR(read_normalizer(bytes, source, denormalizer));
  if (denormalizer.charsmap_bytes == 0) return {};
  return invalid_argument(source + ": denormalizer_spec has a precompiled_charsmap; it is not supported");
}

}  // namespace

Result<TokenizerSpec> parse_sentencepiece_model(std::span<const std::byte> bytes, int vocab_size,
                                                const std::string& source) {
  TokenizerSpec spec;
  spec.fuse_unknown = true;
  Trainer trainer;
  Normalizer normalizer;
  const auto read_part = [&](std::uint32_t number, std::span<const std::byte> part) -> Status {
    if (number == model_field::kTrainer) return read_trainer(part, source, trainer);
    if (number == model_field::kNormalizer) return read_normalizer(part, source, normalizer);
    if (number == model_field::kDenormalizer) return refuse_denormalizer(part, source);
    if (spec.tokens.size() < static_cast<std::size_t>(vocab_size)) return read_piece(part, source, spec);
    return invalid_argument(source + ": has more pieces than the vocabulary size, " +
                            std::to_string(vocab_size));
  };
  ProtobufReader model(bytes, source);
  while (model.next()) {
    const std::uint32_t number = model.number();
    const bool known = number == model_field::kPiece || number == model_field::kTrainer ||
                       number == model_field::kNormalizer || number == model_field::kDenormalizer;
    if (!known) continue;
    const std::span<const std::byte> part = model.message();
    if (!model.status().ok()) break;
    KVCRUSH_RETURN_IF_ERROR(read_part(number, part));
  }
  if (!model.status().ok()) return model.status();
  if (spec.tokens.empty()) return invalid_argument(source + ": has no pieces");
  KVCRUSH_RETURN_IF_ERROR(use_trainer(trainer, source, spec));
  KVCRUSH_RETURN_IF_ERROR(use_normalizer(normalizer, source, spec));
  return spec;
}

}  // namespace kvcrush
