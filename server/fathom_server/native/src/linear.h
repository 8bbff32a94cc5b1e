// Linear: norm, quantised matrix product, bias, gate and activation of a decoder's projections in one operator.
#pragma once

#include "ort_api.h"

namespace fathom {

const OrtCustomOp* linear_op();

}  // namespace fathom
