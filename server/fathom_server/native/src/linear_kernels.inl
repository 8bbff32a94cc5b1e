// Linear's kernels, compiled once for each instruction set (FATHOM_LEVEL names it). Nothing of the standard library that
// is a template may be used here: the linker could give another level's copy to an older processor.
#include <cmath>
#include <cstring>

#include "lanes.h"
#include "linear_kernels.h"

namespace fathom {
namespace {

// Row tiles hold their sums in registers: rows x kVectors vectors of 16 columns of a panel.
#if defined(__AVX512F__)

constexpr int kVectors = 2;
constexpr int kIntegerRows = 12;  // 24 sums, 2 weights, 1 activation
constexpr int kBlockRows = 6;     // 12 sums, 12 float sums

// 64 bytes of weights against 4 activations that all columns share: sums of 4 products, added to 16 columns.
struct Dot {
    __m512i weights;
    using Shared = __m512i;
    static Dot load(const uint8_t* from) { return {_mm512_loadu_si512(from)}; }
    static Shared share(const int8_t* four) {
        int32_t word;
        std::memcpy(&word, four, sizeof word);
        return _mm512_set1_epi32(word);
    }
    I16 add(I16 sum, Shared shared) const {
        // GCC 12 copies the sums of a tile around the loop where the intrinsic is used
        asm("vpdpbusd %2, %1, %0" : "+v"(sum.v) : "v"(weights), "v"(shared));
        return sum;
    }
};
using NibbleDot = Dot;

struct Nibbles {
    NibbleDot low, high;
    static Nibbles load(const uint8_t* from) {
        const __m512i both = _mm512_loadu_si512(from), mask = _mm512_set1_epi8(15);
        return {{_mm512_and_si512(both, mask)}, {_mm512_and_si512(_mm512_srli_epi16(both, 4), mask)}};
    }
};

#elif defined(__AVX2__)

constexpr int kVectors = 1;

#if defined(__AVXVNNI__)
constexpr int kIntegerRows = 6;  // 12 sums, 2 weights, 1 activation
constexpr int kBlockRows = 3;

struct Dot {
    __m256i weights[2];
    using Shared = __m256i;
    static Dot load(const uint8_t* from) {
        const __m256i* at = reinterpret_cast<const __m256i*>(from);
        return {{_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1)}};
    }
    static Shared share(const int8_t* four) {
        int32_t word;
        std::memcpy(&word, four, sizeof word);
        return _mm256_set1_epi32(word);
    }
    I16 add(I16 sum, Shared shared) const {
        return {{_mm256_dpbusd_avx_epi32(sum.v[0], weights[0], shared),
                 _mm256_dpbusd_avx_epi32(sum.v[1], weights[1], shared)}};
    }
};
using NibbleDot = Dot;
#else
constexpr int kIntegerRows = 4;
constexpr int kBlockRows = 2;

// Bytes with even and odd k apart, as 16-bit numbers: sums of two products fit 32 bits, which vpmaddubsw's do not.
struct Dot {
    __m256i even[2], odd[2];
    struct Shared {
        __m256i even, odd;
    };
    static Dot load(const uint8_t* from) {
        Dot made;
        const __m256i mask = _mm256_set1_epi16(255);
        for (int half = 0; half < 2; ++half) {
            const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from) + half);
            made.even[half] = _mm256_and_si256(both, mask);
            made.odd[half] = _mm256_srli_epi16(both, 8);
        }
        return made;
    }
    static Shared share(const int8_t* four) {
        int32_t word;
        std::memcpy(&word, four, sizeof word);
        const __m256i both = _mm256_set1_epi32(word);
        return {_mm256_srai_epi16(_mm256_slli_epi16(both, 8), 8), _mm256_srai_epi16(both, 8)};
    }
    I16 add(I16 sum, const Shared& shared) const {
        for (int half = 0; half < 2; ++half) {
            const __m256i products = _mm256_add_epi32(_mm256_madd_epi16(even[half], shared.even),
                                                      _mm256_madd_epi16(odd[half], shared.odd));
            sum.v[half] = _mm256_add_epi32(sum.v[half], products);
        }
        return sum;
    }
};

// Weights of at most 15: two products fit 16 bits.
struct NibbleDot {
    __m256i weights[2];
    using Shared = __m256i;
    static Shared share(const int8_t* four) {
        int32_t word;
        std::memcpy(&word, four, sizeof word);
        return _mm256_set1_epi32(word);
    }
    I16 add(I16 sum, Shared shared) const {
        const __m256i ones = _mm256_set1_epi16(1);
        for (int half = 0; half < 2; ++half) {
            const __m256i products = _mm256_madd_epi16(_mm256_maddubs_epi16(weights[half], shared), ones);
            sum.v[half] = _mm256_add_epi32(sum.v[half], products);
        }
        return sum;
    }
};
#endif

struct Nibbles {
    NibbleDot low, high;
    static Nibbles load(const uint8_t* from) {
        Nibbles made;
        const __m256i mask = _mm256_set1_epi8(15);
        for (int half = 0; half < 2; ++half) {
            const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from) + half);
            made.low.weights[half] = _mm256_and_si256(both, mask);
            made.high.weights[half] = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
        }
        return made;
    }
};

#else

constexpr int kVectors = 1;
constexpr int kIntegerRows = 2;
constexpr int kBlockRows = 1;

struct Dot {
    uint8_t weights[64];
    struct Shared {
        int8_t four[4];
    };
    static Dot load(const uint8_t* from) {
        Dot made;
        std::memcpy(made.weights, from, sizeof made.weights);
        return made;
    }
    static Shared share(const int8_t* four) {
        Shared made;
        std::memcpy(made.four, four, sizeof made.four);
        return made;
    }
    I16 add(I16 sum, Shared shared) const {
        for (int lane = 0; lane < 16; ++lane) {
            int32_t products = 0;
            for (int k = 0; k < 4; ++k) products += static_cast<int32_t>(weights[lane * 4 + k]) * shared.four[k];
            sum.v[lane] = wrapped(static_cast<uint32_t>(sum.v[lane]) + static_cast<uint32_t>(products));
        }
        return sum;
    }
};
using NibbleDot = Dot;

struct Nibbles {
    NibbleDot low, high;
    static Nibbles load(const uint8_t* from) {
        Nibbles made;
        for (int byte = 0; byte < 64; ++byte) {
            made.low.weights[byte] = from[byte] & 15;
            made.high.weights[byte] = static_cast<uint8_t>(from[byte] >> 4);
        }
        return made;
    }
};

#endif

#if defined(__GNUC__)
#define FATHOM_PREFETCH(address) __builtin_prefetch(address, 0, 3)
#else
#define FATHOM_PREFETCH(address)
#endif

constexpr int kVectorsOfPanel = 2;
constexpr int64_t kScaleBytes = kPanelColumns * sizeof(float);
constexpr int64_t kZeroPointBytes = 64;
// A panel is read in chunks, which every tile of rows reads from the first-level cache while the next chunk comes.
constexpr int64_t kChunkBytes = 16 * 1024;
constexpr int64_t kAhead = 4 * 1024;  // where there is one tile, which reads the panel once: so far ahead it is fetched

inline const float* scales_of(const uint8_t* block) { return reinterpret_cast<const float*>(block); }

// What a tile fetches while it multiplies: its share of the next chunk; a tile alone what it will soon read itself.
struct Fetch {
    const uint8_t* from;
    int64_t bytes;  // a step

    Fetch(const uint8_t* codes, const uint8_t* next, int64_t chunk_bytes, int64_t tile, int64_t tiles)
        : from(tiles == 1 ? codes + kAhead : next + tile * chunk_bytes / tiles),
          bytes(tiles == 1 ? kStepBytes : (kStepBytes + tiles - 1) / tiles) {}
    template <int kSteps>
    void steps() {
        if (bytes == kStepBytes) {
            for (int line = 0; line < 2 * kSteps; ++line) FATHOM_PREFETCH(from + line * 64);
        } else {
            for (int step = 0; step < kSteps; ++step) FATHOM_PREFETCH(from + step * bytes);
        }
        from += kSteps * bytes;
    }
    void block(const uint8_t* codes) {
        if (bytes == kStepBytes) from = codes + kAhead;
    }
};

// ---- one scale a column: integer sums over all of K

struct IntegerTile {
    const uint8_t* codes;     // of the chunk's first step, at the tile's first vector
    const int8_t* rows;       // of the chunk's first step
    int64_t steps;
    Fetch fetch;
    int32_t* sums;            // [rows, 32], at the tile's first vector
    bool first, last;
    const float* column_scales;
    const float* row_scales;  // one a row
    const int32_t* totals;
};

template <int kRows>
void integer_tile(const IntegerTile& tile) {
    // few rows have too few sums to keep the multipliers busy; integer sums may be split at will
    constexpr int kSplit = kRows * kVectors > 8 ? 1 : kRows * kVectors > 2 ? 2 : 4;
    I16 sums[kSplit][kRows][kVectors];
    for (int row = 0; row < kRows; ++row) {
        for (int vector = 0; vector < kVectors; ++vector) {
            // codes are weights + 128
            sums[0][row][vector] = tile.first ? I16::set(-128 * tile.totals[row])
                                              : I16::load(tile.sums + row * kPanelColumns + vector * 16);
            for (int part = 1; part < kSplit; ++part) sums[part][row][vector] = I16::set(0);
        }
    }
    const uint8_t* codes = tile.codes;
    const int8_t* activations = tile.rows;
    const auto add_step = [&](int part, int ahead) __attribute__((always_inline)) {
        Dot weights[kVectors];
        for (int vector = 0; vector < kVectors; ++vector) {
            weights[vector] = Dot::load(codes + ahead * kStepBytes + vector * 64);
        }
        for (int row = 0; row < kRows; ++row) {
            const Dot::Shared shared = Dot::share(activations + (ahead * kRows + row) * 4);
            for (int vector = 0; vector < kVectors; ++vector) {
                sums[part][row][vector] = weights[vector].add(sums[part][row][vector], shared);
            }
        }
    };
    Fetch fetch = tile.fetch;
    int64_t step = 0;
    for (; step + 4 <= tile.steps; step += 4) {
        fetch.steps<4>();
        for (int ahead = 0; ahead < 4; ++ahead) add_step(ahead % kSplit, ahead);
        codes += 4 * kStepBytes;
        activations += 16 * kRows;
    }
    for (; step < tile.steps; ++step) {
        add_step(0, 0);
        codes += kStepBytes;
        activations += 4 * kRows;
    }
    for (int row = 0; row < kRows; ++row) {
        for (int vector = 0; vector < kVectors; ++vector) {
            I16 sum = sums[0][row][vector];
            for (int part = 1; part < kSplit; ++part) sum = sum + sums[part][row][vector];
            int32_t* to = tile.sums + row * kPanelColumns + vector * 16;
            if (tile.last) {
                const F16 scaled = to_float(sum) * F16::load(tile.column_scales + vector * 16);
                (scaled * F16::set(tile.row_scales[row])).store(reinterpret_cast<float*>(to));
            } else {
                sum.store(to);
            }
        }
    }
}

// ---- a scale a block: integer sums of a block, float sums of blocks from the first to the last

struct BlockTile {
    const uint8_t* scales;    // of the first block, at the tile's first vector
    int64_t codes_at;         // bytes from there to the block's codes
    int64_t zero_points_at;   // and to its zero points; 0 where there are none
    int64_t block_bytes;      // from one block to the next
    int32_t zero_point;       // of all where there are none of their own
    const int8_t* rows;       // of the first block
    int64_t steps;            // of a block, of 4 values of k
    int64_t blocks;
    Fetch fetch;
    float* sums;              // [rows, 32], at the tile's first vector
    bool first;
    const float* row_scales;  // [blocks, all rows], at the tile's first row
    const int32_t* totals;
    int64_t all_rows;
};

template <int kRows, bool kNibbles>
void block_tile(const BlockTile& tile) {
    constexpr int kSplit = kRows * kVectors > (kNibbles ? 6 : 8) ? 1 : 2;
    F16 values[kRows][kVectors];
    for (int row = 0; row < kRows; ++row) {
        for (int vector = 0; vector < kVectors; ++vector) {
            values[row][vector] = tile.first ? F16::set(0.0f) : F16::load(tile.sums + row * kPanelColumns + vector * 16);
        }
    }
    const int8_t* activations = tile.rows;
    const uint8_t* head = tile.scales;
    const float* row_scales = tile.row_scales;
    const int32_t* totals = tile.totals;
    Fetch fetch = tile.fetch;
    for (int64_t block = 0; block < tile.blocks; ++block) {
        const uint8_t* codes = head + tile.codes_at;
        if constexpr (!kNibbles) fetch.block(codes);
        I16 sums[kSplit][kRows][kVectors];
        for (int vector = 0; vector < kVectors; ++vector) {
            const I16 zero_points =
                tile.zero_points_at ? I16::widen(head + tile.zero_points_at + vector * 16) : I16::set(tile.zero_point);
            for (int row = 0; row < kRows; ++row) {
                sums[0][row][vector] = tile.zero_points_at ? zero_points * I16::set(-totals[row])
                                                        : I16::set(-totals[row] * tile.zero_point);
                for (int part = 1; part < kSplit; ++part) sums[part][row][vector] = I16::set(0);
            }
        }
        // a block is a multiple of 16 values of k
        for (int64_t step = 0; step < tile.steps; step += 4) {
                if constexpr (kNibbles) {
                // half the bytes, so the products take longer than their coming: a share each is not worth its counting
                for (int line = 0; line < 2 * kVectorsOfPanel; ++line) FATHOM_PREFETCH(codes + kAhead + line * 64);
                for (int pair = 0; pair < 2; ++pair) {
                    Nibbles weights[kVectors];
                    for (int vector = 0; vector < kVectors; ++vector) {
                        weights[vector] = Nibbles::load(codes + pair * kStepBytes + vector * 64);
                    }
                    for (int row = 0; row < kRows; ++row) {
                        const NibbleDot::Shared low = NibbleDot::share(activations + (2 * pair * kRows + row) * 4);
                        for (int vector = 0; vector < kVectors; ++vector) {
                            sums[0][row][vector] = weights[vector].low.add(sums[0][row][vector], low);
                        }
                    }
                    for (int row = 0; row < kRows; ++row) {
                        const NibbleDot::Shared high = NibbleDot::share(activations + ((2 * pair + 1) * kRows + row) * 4);
                        for (int vector = 0; vector < kVectors; ++vector) {
                            I16& other = sums[kSplit - 1][row][vector];
                            other = weights[vector].high.add(other, high);
                        }
                    }
                }
                codes += 2 * kStepBytes;
            } else {
                fetch.steps<4>();
                for (int ahead = 0; ahead < 4; ++ahead) {
                    Dot weights[kVectors];
                    for (int vector = 0; vector < kVectors; ++vector) {
                        weights[vector] = Dot::load(codes + ahead * kStepBytes + vector * 64);
                    }
                    for (int row = 0; row < kRows; ++row) {
                        const Dot::Shared shared = Dot::share(activations + (ahead * kRows + row) * 4);
                        for (int vector = 0; vector < kVectors; ++vector) {
                            I16& sum = sums[ahead % kSplit][row][vector];
                            sum = weights[vector].add(sum, shared);
                        }
                    }
                }
                codes += 4 * kStepBytes;
            }
            activations += 16 * kRows;
        }
        for (int vector = 0; vector < kVectors; ++vector) {
            const F16 scales = F16::load(scales_of(head) + vector * 16);
            for (int row = 0; row < kRows; ++row) {
                I16 sum = sums[0][row][vector];
                for (int part = 1; part < kSplit; ++part) sum = sum + sums[part][row][vector];
                const F16 scaled = to_float(sum) * F16::set(row_scales[row]);
                values[row][vector] = fma(scaled, scales, values[row][vector]);
            }
        }
        head += tile.block_bytes;
        row_scales += tile.all_rows;
        totals += tile.all_rows;
    }
    for (int row = 0; row < kRows; ++row) {
        for (int vector = 0; vector < kVectors; ++vector) {
            values[row][vector].store(tile.sums + row * kPanelColumns + vector * 16);
        }
    }
}

// Calls Tiles::run<rows> for a number of rows known only at run time.
template <typename Tile, template <int> class Kernel, int kMost>
struct Dispatch {
    static void run(int64_t rows, const Tile& tile) {
        if (rows == kMost) {
            Kernel<kMost>::run(tile);
        } else if constexpr (kMost > 1) {
            Dispatch<Tile, Kernel, kMost - 1>::run(rows, tile);
        }
    }
};
template <int kRows>
struct IntegerKernel {
    static void run(const IntegerTile& tile) { integer_tile<kRows>(tile); }
};
template <int kRows>
struct ByteBlockKernel {
    static void run(const BlockTile& tile) { block_tile<kRows, false>(tile); }
};
template <int kRows>
struct NibbleBlockKernel {
    static void run(const BlockTile& tile) { block_tile<kRows, true>(tile); }
};

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
