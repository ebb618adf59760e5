#include "tests/unit/server/test_models.h"

#include <gtest/gtest.h>

namespace kvcrush::test {
namespace {

std::string utf8_of(unsigned code_point) {
  if (code_point < 0x80) return std::string(1, static_cast<char>(code_point));
  return {static_cast<char>(0xC0u | (code_point >> 6)), static_cast<char>(0x80u | (code_point & 0x3Fu))};
}

// GPT-2 writes printable bytes as themselves and the others, in order, from U+0100 on.
std::string spelling_of_byte(unsigned byte, unsigned& next_code_point) {
  const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  return utf8_of(printable ? byte : next_code_point++);
}

}  // namespace

std::shared_ptr<const Tokenizer> byte_tokenizer() {
  TokenizerSpec spec;
  spec.model = "gpt2";
  spec.pre_tokenizer = "gpt-2";
  unsigned next_code_point = 0x100;
  for (unsigned byte = 0; byte < 256; ++byte) spec.tokens.push_back(spelling_of_byte(byte, next_code_point));
  spec.tokens.emplace_back("<|end|>");
  spec.tokens.emplace_back(kPageBytes, 'x');
  spec.kinds.assign(kVocabSize, TokenKind::kNormal);
  spec.kinds[kEndToken] = TokenKind::kControl;
  spec.eos_id = kEndToken;
  spec.stop_ids = {kEndToken};
  Result<std::shared_ptr<const Tokenizer>> tokenizer = Tokenizer::create(spec);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  return tokenizer.value();
}

std::shared_ptr<const ChatTemplate> plain_template() {
  auto parsed = ChatTemplate::parse(
      "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}{% endfor %}");
  EXPECT_TRUE(parsed.ok()) << parsed.status().message();
  return parsed.value();
}

MapperContext mapper_context() {
  MapperContext context;
  context.tokenizer = byte_tokenizer();
  context.chat_template = plain_template();
  context.limits.max_context_tokens = 100;
  context.limits.max_cached_tokens = 50;
  context.max_new_tokens = [](int num_prompt_tokens, const CachePolicy& policy) {
    return (policy.compression ? 100 : 50) - num_prompt_tokens;
  };
  context.defaults.max_tokens = 20;
  context.defaults.compression = compression_defaults({}, KvDtype::kF32).value();
  return context;
}

}  // namespace kvcrush::test
