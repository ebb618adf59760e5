#include "engine/loader/stop_tokens.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

namespace kvcrush {
namespace {

struct Family {
  std::string name;
  std::string eos;                    // the tokenizer's
  std::vector<std::string> declared;  // eos_token_id of generation_config.json, or eot and eom of GGUF
  std::vector<std::string> others;    // special tokens that end nothing
  std::vector<std::string> stops;     // in order
};

TokenId id_of(const TokenizerSpec& spec, const std::string& token) {
  const auto found = std::find(spec.tokens.begin(), spec.tokens.end(), token);
  return found == spec.tokens.end() ? -1 : static_cast<TokenId>(found - spec.tokens.begin());
}

TokenizerSpec spec_of(const Family& family, TokenKind kind) {
  TokenizerSpec spec;
  spec.tokens = {"plain"};
  const auto add = [&spec](const std::string& token) {
    if (id_of(spec, token) < 0) spec.tokens.push_back(token);
  };
  std::for_each(family.others.begin(), family.others.end(), add);
  std::for_each(family.stops.begin(), family.stops.end(), add);
  spec.kinds.assign(spec.tokens.size(), kind);
  spec.kinds[0] = TokenKind::kNormal;
  spec.eos_id = id_of(spec, family.eos);
  return spec;
}

std::vector<std::string> stops_of(const Family& family, TokenKind kind) {
  TokenizerSpec spec = spec_of(family, kind);
  std::vector<TokenId> declared;
  for (const std::string& token : family.declared) declared.push_back(id_of(spec, token));
  EXPECT_TRUE(set_stop_ids(declared, "model", spec).ok());
  std::vector<std::string> stops;
  for (const TokenId id : spec.stop_ids) stops.push_back(spec.tokens[static_cast<std::size_t>(id)]);
  return stops;
}

const std::vector<Family> kFamilies = {
    {"llama-2, mistral", "</s>", {"</s>"}, {"<s>", "<unk>", "[INST]"}, {"</s>"}},
    {"llama-3.1",
     "<|eot_id|>",
     {"<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"},
     {"<|begin_of_text|>", "<|start_header_id|>", "<|python_tag|>"},
     {"<|eot_id|>", "<|end_of_text|>", "<|eom_id|>"}},
    {"qwen",
     "<|im_end|>",
     {"<|im_end|>", "<|endoftext|>"},
     {"<|im_start|>"},
     {"<|im_end|>", "<|endoftext|>"}},
    {"gemma", "<eos>", {"<eos>", "<end_of_turn>"}, {"<bos>", "<start_of_turn>"}, {"<eos>", "<end_of_turn>"}},
    {"phi-3",
     "<|endoftext|>",
     {"<|endoftext|>", "<|assistant|>", "<|end|>"},
     {"<|user|>", "<|system|>"},
     {"<|endoftext|>", "<|assistant|>", "<|end|>"}},
    {"smollm", "<|im_end|>", {"<|im_end|>"}, {"<|im_start|>"}, {"<|im_end|>"}},
};

TEST(StopTokens, WhatTheModelsDeclareInTheirOrder) {
  for (const Family& family : kFamilies)
    EXPECT_EQ(stops_of(family, TokenKind::kControl), family.stops) << family.name;
}

// GGUF files name one id or two; the rest is known by its spelling.
TEST(StopTokens, EndsOfTurnAreKnownByTheirSpelling) {
  const auto stops = [](const std::string& eos, std::vector<std::string> special, TokenKind kind) {
    return stops_of({"", eos, {}, {}, std::move(special)}, kind);
  };
  for (const TokenKind kind : {TokenKind::kControl, TokenKind::kUserDefined}) {
    EXPECT_EQ(stops("<|eot_id|>", {"<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"}, kind),
              (std::vector<std::string>{"<|eot_id|>", "<|end_of_text|>", "<|eom_id|>"}));
    EXPECT_EQ(stops("<|endoftext|>", {"<|endoftext|>", "<|im_end|>"}, kind),
              (std::vector<std::string>{"<|endoftext|>", "<|im_end|>"}));
    EXPECT_EQ(stops("<eos>", {"<eos>", "<end_of_turn>"}, kind),
              (std::vector<std::string>{"<eos>", "<end_of_turn>"}));
    EXPECT_EQ(stops("<|endoftext|>", {"<|endoftext|>", "<|end|>"}, kind),
              (std::vector<std::string>{"<|endoftext|>", "<|end|>"}));
  }
  EXPECT_EQ(stops("</s>", {"</s>", "<|im_end|>"}, TokenKind::kNormal), (std::vector<std::string>{"</s>"}));
}

TEST(StopTokens, MoreThanCanBeLookedFor) {
  TokenizerSpec spec;
  spec.tokens.assign(100, "x");
  spec.kinds.assign(100, TokenKind::kControl);
  std::vector<TokenId> declared;
  for (TokenId id = 0; id < 70; ++id) declared.push_back(id);
  const Status status = set_stop_ids(declared, "model.gguf", spec);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("model.gguf"), std::string::npos);
}

}  // namespace
}  // namespace kvcrush
