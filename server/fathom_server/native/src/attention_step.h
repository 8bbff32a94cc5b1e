// What one call of Attention computes, without ONNX Runtime: its shapes, its pointers, the kernels of one level of
// instructions. Positions are absolute: token p of a sequence lies in block p / block_tokens of its table.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "isa.h"

namespace fathom {

enum class KvType { int8, float16, float32 };

// Keys and values are stored, read and summed in granules of so many tokens, aligned to absolute positions.
constexpr int kGranuleTokens = 32;
// A query's softmax begins anew after so many granules, and the parts are merged in order: threads may share a long
// sequence there, and no bit depends on whether they do.
constexpr int kPartGranules = 8;
constexpr int kPartTokens = kPartGranules * kGranuleTokens;
constexpr int kLargestHeadDim = 512;

// The node's attributes, and the layout of its cache (native/cache_layout.py describes it).
struct AttentionShape {
    int heads = 0;
    int kv_heads = 0;
    int group = 0;  // query heads of one key and value head
    int head_dim = 0;
    int block_tokens = 0;
    int window = 0;     // 0: none
    float scale = 1;    // of scores
    float softcap = 0;  // 0: none
    float epsilon = 0;  // of q_norm and k_norm
    KvType kv_type = KvType::int8;
    size_t granule_bytes = 0;  // of one kv head
    size_t head_bytes = 0;     // of one kv head in one block
    size_t block_bytes = 0;

    int qkv_width() const { return (heads + 2 * kv_heads) * head_dim; }
    // The first position that the query at this one sees.
    int first_seen(int position) const { return window > 0 && position >= window ? position - window + 1 : 0; }
};

// One call's inputs and output; `cache` is this layer's.
struct AttentionStep {
    const float* qkv = nullptr;  // [tokens, qkv_width]
    uint8_t* cache = nullptr;    // [blocks, block_bytes]
    const int32_t* row_starts = nullptr;
    const int32_t* past_lengths = nullptr;
    const int32_t* block_tables = nullptr;  // [rows, table_width]
    int64_t rows = 0;
    int64_t table_width = 0;
    const float* cosines = nullptr;  // [positions, rotary_half], or null
    const float* sines = nullptr;
    int rotary_half = 0;
    const float* q_norm = nullptr;  // [head_dim], or null
    const float* k_norm = nullptr;
    float* context = nullptr;  // [tokens, heads * head_dim]
};

// Some new tokens of one row, some neighbouring kv heads with the query heads that share them, and a range of the keys in
// parts. Its query heads are counted by kv head, then token, then query head.
struct AttentionTile {
    int64_t row = 0;
    int kv_head = 0;
    int kv_heads = 1;
    int first = 0;  // of the row's new tokens
    int tokens = 0;
    int first_part = 0;
    int parts = 0;
    bool writes = false;       // stores the keys and values of its tokens before it reads
    float* states = nullptr;   // null: writes the context; else leaves [parts, state_floats] for merge()

    int query_heads(const AttentionShape& shape) const { return kv_heads * tokens * shape.group; }
};

// Floats of the states of a tile's query heads in one part: largest scores, 16 lanes of weights, weighted sums of values.
inline size_t state_floats(const AttentionShape& shape, int query_heads) {
    return static_cast<size_t>(query_heads + 15) / 16 * 16 + static_cast<size_t>(query_heads) * (16 + shape.head_dim);
}

struct AttentionKernels {
    // Bytes that attend() and merge() need for a tile of so many query heads; their scratch is aligned to 64.
    size_t (*scratch_bytes)(const AttentionShape&, int query_heads);
    // Stores the keys (normed, rotated) and values of a tile's tokens.
    void (*write)(const AttentionShape&, const AttentionStep&, const AttentionTile&);
    void (*attend)(const AttentionShape&, const AttentionStep&, const AttentionTile&, void* scratch);
    // Joins the states of all parts of a tile in order and writes its context.
    void (*merge)(const AttentionShape&, const AttentionStep&, const AttentionTile&, void* scratch);
};

extern const AttentionKernels attention_generic, attention_avx2, attention_avxvnni, attention_avx512vnni;
const AttentionKernels& attention_kernels(Isa isa);

// Calls work(index) for every index below total, on several threads.
using ParallelFor = std::function<void(size_t total, const std::function<void(size_t)>& work)>;

// Computes a step whose inputs have been checked.
void run_attention(const AttentionShape&, const AttentionStep&, const AttentionKernels&, const ParallelFor&);

}  // namespace fathom
