// Attention: rotary embedding, a paged cache of keys and values, and softmax attention of ragged rows in one operator.
#pragma once

#include "ort_api.h"

namespace fathom {

const OrtCustomOp* attention_op();

}  // namespace fathom
