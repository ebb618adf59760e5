// One prompt with the full KV cache and with KVCrush: what is put side by side.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "client/cli/table.h"
#include "kvcrush/v1/inference.pb.h"

namespace kvcrush::cli {

struct RunRecord {
  std::string text;
  v1::FinishInfo finish;
};

struct TextDifference {
  std::size_t offset = 0;  // Unicode characters from the start that are the same
  std::string shared;      // the last words before it
  std::string first;       // what each text has from there, a few words
  std::string second;
};

// Where two UTF-8 texts part; unset: they are identical.
std::optional<TextDifference> first_difference(std::string_view first, std::string_view second);

// Pool bytes that a sequence of so many tokens holds without pruning.
long long full_kv_bytes(const v1::GetModelInfoResponse& model, long long num_tokens);

Table comparison_table(const v1::GetModelInfoResponse& model, const RunRecord& full, const RunRecord& pruned);
// "identical", or the offset with the words around it.
std::string describe(const std::optional<TextDifference>& difference);

}  // namespace kvcrush::cli
