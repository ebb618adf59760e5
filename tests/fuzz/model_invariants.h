// What holds for every file: it is refused with a message that can be read, or what it yields is sound.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "engine/loader/config_check.h"
#include "engine/loader/model_file.h"
#include "engine/loader/weight_type.h"
#include "engine/tokenizer/chat_template.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/utf8.h"

namespace kvcrush::fuzz {

inline constexpr std::size_t kMaxMessageBytes = 2000;

// Whatever the file holds, the message goes to a log: bounded, and nothing that a terminal would obey.
inline void check_refusal(const Status& status) {
  KVCRUSH_CHECK(status.code() == StatusCode::kInvalidArgument || status.code() == StatusCode::kNotFound);
  KVCRUSH_CHECK(!status.message().empty() && status.message().size() <= kMaxMessageBytes);
  KVCRUSH_CHECK(!utf8::first_error(status.message()));
  for (const char c : status.message()) KVCRUSH_CHECK(static_cast<unsigned char>(c) >= 0x20 && c != 0x7F);
}

// `file`: where the view's bytes must lie; empty: not known.
inline void check_view(const WeightView& view, std::span<const std::byte> file) {
  const auto num_bytes = checked_num_bytes(view.dtype, view.shape);
  KVCRUSH_CHECK(num_bytes && static_cast<std::uint64_t>(*num_bytes) == view.bytes.size());
  if (!file.empty()) {
    KVCRUSH_CHECK(view.bytes.data() >= file.data());
    KVCRUSH_CHECK(view.bytes.data() + view.bytes.size() <= file.data() + file.size());
  }
  std::vector<float> values(static_cast<std::size_t>(view.num_elements()));
  read_f32(view, values);
}

inline void check_id(TokenId id, std::size_t num_tokens) {
  KVCRUSH_CHECK(id >= -1 && id < static_cast<std::int64_t>(num_tokens));
}

// A spec that a loader made is consistent; the tokenizer may still refuse its merges.
inline void check_tokenizer(const TokenizerSpec& spec) {
  const std::size_t num_tokens = spec.tokens.size();
  KVCRUSH_CHECK(num_tokens > 0 && spec.kinds.size() == num_tokens);
  for (const TokenId id : {spec.bos_id, spec.eos_id, spec.unknown_id, spec.padding_id})
    check_id(id, num_tokens);
  for (const TokenId id : spec.stop_ids) KVCRUSH_CHECK(id >= 0 && id < static_cast<TokenId>(num_tokens));
  const auto tokenizer = Tokenizer::create(spec);
  if (!tokenizer.ok()) return check_refusal(tokenizer.status());
  const auto ids = (*tokenizer)->encode("a b ab <|im_end|> 12 \u00E4\n");
  KVCRUSH_CHECK(ids.ok());
  static_cast<void>((*tokenizer)->decode(*ids, false));
  if (!spec.chat_template.empty()) static_cast<void>(ChatTemplate::parse(spec.chat_template).ok());
}

inline void check_model(const ModelFile& model, std::span<const std::byte> file) {
  KVCRUSH_CHECK(check_config(model.config, "config").ok());
  std::uint64_t num_bytes = 0;
  for (const auto& [name, view] : model.weights) {
    check_view(view, file);
    num_bytes += view.bytes.size();
  }
  KVCRUSH_CHECK(num_bytes == model.weight_bytes && num_bytes > 0);
  KVCRUSH_CHECK(static_cast<int>(model.tokenizer.tokens.size()) <= model.config.vocab_size);
  check_tokenizer(model.tokenizer);
}

}  // namespace kvcrush::fuzz
