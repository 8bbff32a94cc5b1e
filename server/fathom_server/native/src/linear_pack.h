// From the tensors of the graph to the panels that Linear's kernels read.
#pragma once

#include <memory>

#include "linear_kernels.h"

namespace fathom {

// A matrix as the graph holds it. With one scale a column: int8 [K, N] and float32 [N]. In blocks, as in
// com.microsoft.MatMulNBits: uint8 [N, blocks, block * bits / 8], float32 [N, blocks], zero points uint8 [N, blocks]
// (two to a byte with 4 bits, a row padded to whole bytes) or null.
struct SourceMatrix {
    const void* codes;
    const float* scales;
    const uint8_t* zero_points;
};

struct OwnedMatrix {
    std::shared_ptr<uint8_t> memory;
    PackedMatrix packed;
};

OwnedMatrix pack(const LinearShape& shape, const SourceMatrix& source);

}  // namespace fathom
