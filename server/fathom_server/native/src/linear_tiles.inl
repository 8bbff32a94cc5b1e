// A tile of rows against a run of one panel: the innermost loops of Linear.
#include "lanes.h"
#include "linear_dot.inl"
#include "linear_kernels.h"

namespace fathom {
namespace {

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

// Calls the kernel for a number of rows known only at run time.
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

}  // namespace
}  // namespace fathom
