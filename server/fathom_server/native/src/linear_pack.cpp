#include "linear_pack.h"

#include <sched.h>

#include <algorithm>
#include <cstring>
#include <system_error>
#include <thread>
#include <vector>

#include "packed_memory.h"

namespace fathom {

namespace {

constexpr int64_t kBytesWorthAThread = int64_t{256} << 10;
constexpr int64_t kMostThreads = 8;  // more do not pack faster: memory is what they wait for

int64_t usable_cores() {
    cpu_set_t set;
    const int64_t cores = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return std::min(cores, kMostThreads);
}

// int8 [K, N] at a panel's first column -> [K / 4][32][4], plus 128.
void pack_columns(const LinearShape& shape, const int8_t* codes, int64_t column, uint8_t* to) {
    const int64_t columns = std::min(kPanelColumns, shape.N - column);
    for (int64_t k = 0; k < shape.K; k += 4, to += kStepBytes) {
        if (columns == kPanelColumns && k + 4 <= shape.K) {
            const int8_t* from = codes + k * shape.N + column;
            for (int64_t lane = 0; lane < kPanelColumns; ++lane) {
                uint32_t word = 0;
                for (int64_t part = 0; part < 4; ++part) {
                    word |= static_cast<uint32_t>(static_cast<uint8_t>(from[part * shape.N + lane])) << (8 * part);
                }
                word ^= 0x80808080u;
                std::memcpy(to + lane * 4, &word, sizeof word);
            }
            continue;
        }
        for (int64_t lane = 0; lane < columns; ++lane) {
            for (int64_t part = 0; part < std::min<int64_t>(4, shape.K - k); ++part) {
                to[lane * 4 + part] = static_cast<uint8_t>(codes[(k + part) * shape.N + column + lane]) ^ 0x80;
            }
        }
    }
}

// Eight 4-bit codes, k 0 ... 7 from the lowest, to four bytes: k 0 ... 3 in their low halves, k 4 ... 7 in their high ones.
uint32_t spread(uint32_t word) {
    uint32_t low = word & 0xFFFF, high = word >> 16;
    low = (low | low << 8) & 0x00FF00FF;
    low = (low | low << 4) & 0x0F0F0F0F;
    high = (high | high << 8) & 0x00FF00FF;
    high = (high | high << 4) & 0x0F0F0F0F;
    return low | high << 4;
}

// The codes of one block of one column, to its place in every step.
void pack_block(const LinearShape& shape, const uint8_t* from, uint8_t* to) {
    const int64_t words = shape.block * shape.bits / 32;
    for (int64_t index = 0; index < words; ++index) {
        uint32_t word;
        std::memcpy(&word, from + index * 4, sizeof word);
        if (shape.bits == 4) word = spread(word);
        std::memcpy(to + index * kStepBytes, &word, sizeof word);
    }
}

int64_t panel_head_bytes(bool zero_points) {
    return kPanelColumns * static_cast<int64_t>(sizeof(float)) + (zero_points ? 64 : 0);
}

// The panels from `begin` to before `end`, into memory of zeros.
void pack_panels(const LinearShape& shape, const SourceMatrix& source, const PackedMatrix& packed, uint8_t* memory,
                 int64_t begin, int64_t end) {
    const int64_t head = panel_head_bytes(packed.zero_points);
    const int64_t zero_bytes = (shape.blocks * shape.bits + 7) / 8;
    const int64_t block_source_bytes = shape.block * shape.bits / 8;
    for (int64_t panel = begin; panel < end; ++panel) {
        uint8_t* to = memory + panel * packed.panel_bytes;
        const int64_t column = panel * kPanelColumns, columns = std::min(kPanelColumns, shape.N - column);
        if (shape.whole_columns) {
            std::memcpy(to, source.scales + column, static_cast<size_t>(columns) * sizeof(float));
            pack_columns(shape, static_cast<const int8_t*>(source.codes), column, to + head);
            continue;
        }
        for (int64_t lane = 0; lane < columns; ++lane) {
            const int64_t n = column + lane;
            const uint8_t* codes = static_cast<const uint8_t*>(source.codes) + n * shape.blocks * block_source_bytes;
            for (int64_t block = 0; block < shape.blocks; ++block) {
                uint8_t* block_to = to + block * packed.block_bytes;
                std::memcpy(block_to + lane * 4, source.scales + n * shape.blocks + block, sizeof(float));
                if (packed.zero_points) {
                    const uint8_t* zeros = source.zero_points + n * zero_bytes;
                    block_to[kPanelColumns * 4 + lane] =
                        shape.bits == 8 ? zeros[block] : (zeros[block / 2] >> (block % 2 * 4)) & 15;
                }
                pack_block(shape, codes + block * block_source_bytes, block_to + head + lane * 4);
            }
        }
    }
}

// Calls work(begin, end) for parts of 0 ... total-1 on threads of its own, and waits: ONNX Runtime makes its operators one
// after the other, and lends them no threads for it.
template <typename Work>
void in_parts(int64_t total, int64_t parts, const Work& work) {
    std::vector<std::thread> threads;
    threads.reserve(static_cast<size_t>(parts));
    int64_t begun = 0;
    try {
        for (; begun + 1 < parts; ++begun) {
            threads.emplace_back(work, total * begun / parts, total * (begun + 1) / parts);
        }
    } catch (const std::system_error&) {  // no more threads are to be had, so this one does the rest
    }
    work(total * begun / parts, total);
    for (std::thread& thread : threads) thread.join();
}

}  // namespace

OwnedMatrix pack(const LinearShape& shape, const SourceMatrix& source) {
    OwnedMatrix made;
    PackedMatrix& packed = made.packed;
    packed.zero_points = source.zero_points != nullptr;
    packed.block_bytes = panel_head_bytes(packed.zero_points) + shape.block * kPanelColumns * shape.bits / 8;
    packed.panel_bytes = packed.block_bytes * shape.blocks;
    made.memory = packed_memory(static_cast<size_t>(packed.panel_bytes * shape.panels));  // zeros
    packed.data = made.memory.get();
    uint8_t* const memory = made.memory.get();
    const int64_t by_size = packed.panel_bytes * shape.panels / kBytesWorthAThread;
    in_parts(shape.panels, std::clamp<int64_t>(by_size, 1, usable_cores()), [&](int64_t begin, int64_t end) {
        pack_panels(shape, source, packed, memory, begin, end);
    });
    return made;
}

}  // namespace fathom
