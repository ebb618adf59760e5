// Log-probabilities of continuation tokens from rows of logits.
#pragma once

#include "engine/scheduler/sequence.h"

namespace kvcrush {

// Rows of logits [num_rows, vocab_size] of a trunk, the first of which predicts token `first_predicted` of
// the continuation: kept for its children.
void keep_trunk_rows(Sequence& trunk, const float* rows, int first_predicted, int num_rows, int vocab_size);

// The same of a scored sequence: appended to sequence.score, compared with the trunk's where its group
// compares.
void score_rows(Sequence& sequence, const float* rows, int num_rows, int vocab_size);

}  // namespace kvcrush
