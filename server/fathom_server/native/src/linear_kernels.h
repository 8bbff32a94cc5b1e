// What Linear's kernels compute, and the memory they read: the same at every instruction set.
//
// A matrix [K, N] is packed in panels of 32 columns. A panel is a run of blocks (one, of all K, where there is one scale
// a column); a block is
//   32 float32 scales, 32 uint8 zero points and 32 bytes of nothing (only where the matrix has zero points), its codes.
// Codes are unsigned. With 8 bits, 128 bytes hold 4 values of k for 32 columns: [k / 4][column][k % 4]; with 4 bits they
// hold 8: the low halves of the bytes are k 0 ... 3, the high ones k 4 ... 7. Everything starts at a multiple of 64 bytes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "isa.h"

namespace fathom {

constexpr int64_t kPanelColumns = 32;
constexpr int64_t kStepBytes = 128;
constexpr int64_t kBandRows = 192;

enum class Activation { none, silu, gelu, gelu_tanh };

// Sizes of a node's matrices.
struct LinearShape {
    int64_t K;
    int64_t N;
    int64_t bits;        // 8 or 4
    int64_t block;       // values of k with one scale; K rounded up to 4 where there is one a column
    int64_t blocks;      // of a column
    bool whole_columns;  // one block, summed in integers to its end
    int64_t stride;      // bytes of a row of quantised activations: block * blocks rounded up to 64
    int64_t panels;
};

struct PackedMatrix {
    const uint8_t* data = nullptr;
    int64_t panel_bytes = 0;
    int64_t block_bytes = 0;
    bool zero_points = false;  // else 128 with 8 bits, 8 with 4
};

// How T rows are divided into tiles of nearly the same size, at most as many rows as a kernel's registers hold.
struct Tiling {
    int64_t rows;
    int64_t tiles;

    Tiling(int64_t count, int64_t most) : rows(count), tiles((count + most - 1) / most) {}
    int64_t begin(int64_t tile) const { return tile * rows / tiles; }
    int64_t of(int64_t row) const { return ((row + 1) * tiles - 1) / rows; }
};

// T rows of activations in 8 bits. A tile of R rows lies where its first row would, interleaved by 4 values of k:
// [stride / 4, R, 4], so that its kernel needs one pointer.
struct QuantizedRows {
    int8_t* codes;    // [T, stride] in all
    float* scales;    // [blocks, T]; NaN where a value was not finite: its codes are zero
    int32_t* totals;  // [blocks, T] sums of the codes
};

struct PrepareTask {
    const LinearShape* shape;
    const Tiling* tiling;
    const float* x;            // [T, K]
    const float* delta;        // [T, K] or null
    const float* norm_weight;  // [K] or null
    float epsilon;
    float* residual;  // [T, K] or null
    QuantizedRows rows;
};

struct ProductTask {
    const LinearShape* shape;
    const Tiling* tiling;
    QuantizedRows rows;
    PackedMatrix weight, up;  // up.data null where there is no gate
    const float* bias;        // [N] or null
    const float* up_bias;
    Activation activation;
    float* y;  // [T, N]
};

struct LinearKernels {
    // Sums, norm and quantisation of rows begin ... end-1; `values` is room for `stride` floats.
    void (*prepare)(const PrepareTask& task, int64_t begin, int64_t end, float* values);
    // y of panels first ... last-1 in tiles begin ... end-1, of at most kBandRows rows.
    void (*product)(const ProductTask& task, int64_t first, int64_t last, int64_t begin, int64_t end);
    // The most rows of a tile, with one scale a column and with blocks.
    int64_t column_tile_rows, block_tile_rows;
};

namespace generic {
extern const LinearKernels kLinearKernels;
}
namespace avx2 {
extern const LinearKernels kLinearKernels;
}
namespace avxvnni {
extern const LinearKernels kLinearKernels;
}
namespace avx512vnni {
extern const LinearKernels kLinearKernels;
}

}  // namespace fathom
