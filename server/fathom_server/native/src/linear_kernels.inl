// Linear's kernels, compiled once for each instruction set (FATHOM_LEVEL names it). Nothing of the standard library that
// is a template may be used here: the linker could give another level's copy to an older processor.
#include <cmath>
#include <cstring>

#include "lanes.h"
#include "linear_kernels.h"
#include "linear_tiles.inl"

namespace fathom {
namespace {

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// Tiles begin ... end-1 of one panel of one matrix, as floats [rows, 32]: the product without its bias.
// `next` is what will be read after it.
void integer_panel(const ProductTask& task, const PackedMatrix& matrix, int64_t panel, int64_t begin, int64_t end,
                   const uint8_t* next, float* values) {
    const LinearShape& shape = *task.shape;
    const uint8_t* head = matrix.data + panel * matrix.panel_bytes;
    const uint8_t* codes = head + kScaleBytes;
    const int64_t all_steps = shape.block / 4, first_row = task.tiling->begin(begin);
    const int64_t chunk = end - begin == 1 ? all_steps : kChunkBytes / kStepBytes;
    for (int64_t step = 0; step < all_steps; step += chunk) {
        const int64_t steps = least(chunk, all_steps - step);
        const bool last = step + steps == all_steps;
        const uint8_t* following = last ? next : codes + (step + steps) * kStepBytes;
        for (int64_t tile = begin; tile < end; ++tile) {
            const int64_t row = task.tiling->begin(tile), rows = task.tiling->begin(tile + 1) - row;
            const Fetch fetch(codes + step * kStepBytes, following, steps * kStepBytes, tile - begin, end - begin);
            for (int vector = 0; vector < kVectorsOfPanel; vector += kVectors) {
                const IntegerTile part = {codes + step * kStepBytes + vector * 64,
                                          task.rows.codes + row * shape.stride + step * 4 * rows,
                                          steps,
                                          fetch,
                                          reinterpret_cast<int32_t*>(values) + (row - first_row) * kPanelColumns + vector * 16,
                                          step == 0,
                                          last,
                                          scales_of(head) + vector * 16,
                                          task.rows.scales + row,
                                          task.rows.totals + row};
                Dispatch<IntegerTile, IntegerKernel, kIntegerRows>::run(rows, part);
            }
        }
    }
}

void block_panel(const ProductTask& task, const PackedMatrix& matrix, int64_t panel, int64_t begin, int64_t end,
                 const uint8_t* next, float* values) {
    const LinearShape& shape = *task.shape;
    const uint8_t* head = matrix.data + panel * matrix.panel_bytes;
    const int64_t before_codes = kScaleBytes + (matrix.zero_points ? kZeroPointBytes : 0);
    const int64_t steps = shape.block / 4, all_rows = task.tiling->rows, first_row = task.tiling->begin(begin);
    const int64_t fitting = kChunkBytes / matrix.block_bytes;
    const int64_t chunk = end - begin == 1 ? shape.blocks : fitting > 0 ? fitting : 1;
    for (int64_t block = 0; block < shape.blocks; block += chunk) {
        const uint8_t* at = head + block * matrix.block_bytes;
        const int64_t blocks = least(chunk, shape.blocks - block);
        const int64_t chunk_bytes = blocks * matrix.block_bytes;
        const uint8_t* following = block + blocks == shape.blocks ? next : at + chunk_bytes;
        for (int64_t tile = begin; tile < end; ++tile) {
            const int64_t row = task.tiling->begin(tile), rows = task.tiling->begin(tile + 1) - row;
            const Fetch fetch(at, following, chunk_bytes, tile - begin, end - begin);
            for (int vector = 0; vector < kVectorsOfPanel; vector += kVectors) {
                const BlockTile part = {at + vector * 64,
                                        before_codes,
                                        matrix.zero_points ? kScaleBytes - vector * 48 : 0,
                                        matrix.block_bytes,
                                        shape.bits == 8 ? 128 : 8,
                                        task.rows.codes + row * shape.stride + block * shape.block * rows,
                                        steps,
                                        blocks,
                                        fetch,
                                        values + (row - first_row) * kPanelColumns + vector * 16,
                                        block == 0,
                                        task.rows.scales + block * all_rows + row,
                                        task.rows.totals + block * all_rows + row,
                                        all_rows};
                if (shape.bits == 4) {
                    Dispatch<BlockTile, NibbleBlockKernel, kBlockRows>::run(rows, part);
                } else {
                    Dispatch<BlockTile, ByteBlockKernel, kBlockRows>::run(rows, part);
                }
            }
        }
    }
}

// ---- what follows a product

// Error function to 1.5e-7 (Abramowitz and Stegun, 7.1.26).
inline F16 error_function(F16 x) {
    const I16 sign = bits(x) & I16::set(INT32_MIN);
    const F16 magnitude = from_bits(bits(x) & I16::set(INT32_MAX));
    const F16 t = F16::set(1.0f) / fma(F16::set(0.3275911f), magnitude, F16::set(1.0f));
    F16 series = F16::set(1.061405429f);
    series = fma(series, t, F16::set(-1.453152027f));
    series = fma(series, t, F16::set(1.421413741f));
    series = fma(series, t, F16::set(-0.284496736f));
    series = fma(series, t, F16::set(0.254829592f));
    const F16 tail = series * t * exponential(F16::set(0.0f) - magnitude * magnitude);
    return from_bits(bits(F16::set(1.0f) - tail) | sign);
}

inline F16 activate(Activation activation, F16 x) {
    const F16 one = F16::set(1.0f), half = F16::set(0.5f);
    switch (activation) {
        case Activation::silu:
            return x / (one + exponential(F16::set(0.0f) - x));
        case Activation::gelu:
            return half * x * (one + error_function(x * F16::set(0.70710678f)));
        case Activation::gelu_tanh: {
            // tanh(u) = 1 - 2 / (e^2u + 1), u = sqrt(2 / pi) (x + 0.044715 x^3)
            const F16 inner = fma(F16::set(0.044715f) * x * x, x, x) * F16::set(1.59576912f);
            return half * x * (one + (one - F16::set(2.0f) / (exponential(inner) + one)));
        }
        case Activation::none:
            break;
    }
    return x;
}

void product(const ProductTask& task, int64_t first, int64_t last, int64_t begin, int64_t end) {
    const LinearShape& shape = *task.shape;
    const auto panel_values = shape.whole_columns ? integer_panel : block_panel;
    alignas(64) float values[kBandRows * kPanelColumns];
    alignas(64) float ups[kBandRows * kPanelColumns];
    const int64_t first_row = task.tiling->begin(begin), last_row = task.tiling->begin(end);
    for (int64_t panel = first; panel < last; ++panel) {
        const uint8_t* next = task.weight.data + (panel + 1) * task.weight.panel_bytes;
        if (task.up.data == nullptr) {
            panel_values(task, task.weight, panel, begin, end, next, values);
        } else {
            panel_values(task, task.weight, panel, begin, end, task.up.data + panel * task.up.panel_bytes, values);
            panel_values(task, task.up, panel, begin, end, next, ups);
        }
        for (int vector = 0; vector < kVectorsOfPanel; ++vector) {
            const int64_t column = panel * kPanelColumns + vector * 16, columns = shape.N - column;
            if (columns <= 0) break;
            const F16 bias = task.bias ? load_some(task.bias + column, columns) : F16::set(0.0f);
            const F16 up_bias = task.up_bias ? load_some(task.up_bias + column, columns) : F16::set(0.0f);
            for (int64_t row = first_row; row < last_row; ++row) {
                const int64_t at = (row - first_row) * kPanelColumns + vector * 16;
                F16 value = F16::load(values + at);
                if (task.bias) value = value + bias;
                value = activate(task.activation, value);
                if (task.up.data != nullptr) {
                    F16 up = F16::load(ups + at);
                    if (task.up_bias) up = up + up_bias;
                    value = value * up;
                }
                store_some(value, task.y + row * shape.N + column, columns);
            }
        }
    }
}

// ---- what precedes one

void prepare(const PrepareTask& task, int64_t begin, int64_t end, float* values) {
    const LinearShape& shape = *task.shape;
    const int64_t K = shape.K;
    const int64_t run = shape.whole_columns ? shape.stride : shape.block, all_rows = task.tiling->rows;
    for (int64_t row = begin; row < end; ++row) {
        const int64_t tile = task.tiling->of(row), tile_begin = task.tiling->begin(tile);
        const int64_t apart = (task.tiling->begin(tile + 1) - tile_begin) * 4;  // bytes from four values to the next four
        int8_t* tile_codes = task.rows.codes + tile_begin * shape.stride + (row - tile_begin) * 4;
        const auto put = [&](int64_t k, I16 sixteen) {
            alignas(16) int8_t codes[16];
            sixteen.narrow(codes);
            int8_t* to = tile_codes + k / 4 * apart;
            for (int four = 0; four < 4; ++four) std::memcpy(to + four * apart, codes + four * 4, 4);
        };
        const float* x = task.x + row * K;
        F16 squares[4] = {F16::set(0.0f), F16::set(0.0f), F16::set(0.0f), F16::set(0.0f)};
        for (int64_t k = 0; k < shape.stride; k += 16) {
            F16 value = F16::set(0.0f);
            if (k < K) {
                value = load_some(x + k, K - k);
                if (task.delta) value = value + load_some(task.delta + row * K + k, K - k);
                if (task.residual) store_some(value, task.residual + row * K + k, K - k);
                F16& square = squares[k / 16 % 4];
                square = fma(value, value, square);
            }
            value.store(values + k);
        }
        if (task.norm_weight) {
            const float total = sum((squares[0] + squares[1]) + (squares[2] + squares[3]));
            float inverse = 1.0f / std::sqrt(total / static_cast<float>(K) + task.epsilon);
            if (!(total < INFINITY)) inverse = NAN;  // squares beyond float32 would pass for a row of zeros
            for (int64_t k = 0; k < K; k += 16) {
                const F16 value = F16::load(values + k) * F16::set(inverse);
                (value * load_some(task.norm_weight + k, K - k)).store(values + k);
            }
        }
        for (int64_t block = 0; block < shape.blocks; ++block) {
            const float* from = values + block * run;
            float& scale = task.rows.scales[block * all_rows + row];
            int32_t& total = task.rows.totals[block * all_rows + row];
            // magnitudes compare as integers, infinities and NaNs above all numbers
            I16 magnitudes = I16::set(0);
            for (int64_t k = 0; k < run; k += 16) {
                magnitudes = maximum(magnitudes, bits(F16::load(from + k)) & I16::set(INT32_MAX));
            }
            const int32_t most = largest(magnitudes);
            if (most >= 0x7F800000) {
                for (int64_t k = 0; k < run; k += 16) put(block * run + k, I16::set(0));
                scale = NAN;
                total = 0;
                continue;
            }
            float magnitude;
            std::memcpy(&magnitude, &most, sizeof magnitude);
            scale = (magnitude > 1e-30f ? magnitude : 1e-30f) * (1.0f / 127.0f);
            I16 totals = I16::set(0);
            for (int64_t k = 0; k < run; k += 16) {
                const I16 code = to_int(round_even(F16::load(from + k) / F16::set(scale)));
                totals = totals + code;
                put(block * run + k, code);
            }
            total = sum(totals);
        }
    }
}

}  // namespace

namespace FATHOM_LEVEL {
const LinearKernels kLinearKernels = {prepare, product, kIntegerRows, kBlockRows};
}

}  // namespace fathom
