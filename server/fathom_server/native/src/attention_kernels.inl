// The kernels of Attention over the vectors of one level of instructions. A level's source defines, in an unnamed
// namespace, the vectors F (16 floats), I (16 int32) and their functions, `struct Tiles`, and then includes this file.
//
// A query's result is made of operations on that query alone, in an order that only absolute positions fix: scores by
// key lane, dimensions in sequence; one softmax step a granule of 32 keys; parts of 8 granules merged in sequence.
// What else is in a tile shares loads, never arithmetic. Hidden keys get the weight zero, and where a product of zero
// could still leave a trace (NaN in a float cache) they are not multiplied at all.

#define UNROLL _Pragma("GCC unroll 16")

template <int N>
struct Count {
    static constexpr int value = N;
};

constexpr float kLog2e = 1.44269504f;
constexpr float kSmallestWeight = 1e-30f;  // weights of a granule below it are zero: their reciprocal stays finite

inline float lowest() { return -__builtin_inff(); }

#include "attention_store.inl"
#include "attention_products.inl"
#include "attention_softmax.inl"

inline size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

// Where a tile's parts lie in its scratch.
struct Scratch {
    int8_t* codes;      // int8 caches: queries [queries, head_dim]
    int32_t* offsets;   // -128 times the sum of a query's codes, since keys are stored plus 128
    float* scales;      // of their scores
    float* queries;     // float caches: [queries, head_dim], times the scores' scale
    float* widened;     // float16 caches: a granule's keys and values in float32
    States part, total;
    size_t bytes;

    Scratch(const AttentionShape& shape, int count, void* memory) {
        uint8_t* at = static_cast<uint8_t*>(memory);
        const size_t dim = static_cast<size_t>(shape.head_dim), n = static_cast<size_t>(count);
        auto take = [&](size_t size) {
            uint8_t* taken = at;
            at += aligned(size);
            return taken;
        };
        const bool int8 = shape.kv_type == KvType::int8;
        codes = reinterpret_cast<int8_t*>(take(int8 ? n * dim : 0));
        offsets = reinterpret_cast<int32_t*>(take(int8 ? n * 4 : 0));
        scales = reinterpret_cast<float*>(take(int8 ? n * 4 : 0));
        queries = reinterpret_cast<float*>(take(int8 ? 0 : n * dim * 4));
        widened = reinterpret_cast<float*>(take(shape.kv_type == KvType::float16 ? 2 * kGranuleTokens * dim * 4 : 0));
        part = states_at(reinterpret_cast<float*>(take(state_floats(shape, count) * 4)), count);
        total = states_at(reinterpret_cast<float*>(take(state_floats(shape, count) * 4)), count);
        bytes = static_cast<size_t>(at - static_cast<uint8_t*>(memory));
    }
};

size_t scratch_bytes(const AttentionShape& shape, int query_heads) { return Scratch(shape, query_heads, nullptr).bytes; }

// Which query head a tile's index means.
struct QueryHead {
    int64_t token;  // row of qkv
    int head;
    int position;

    QueryHead(const AttentionShape& shape, const AttentionStep& step, const AttentionTile& tile, int index) {
        const int each = tile.tokens * shape.group, of_row = tile.first + index % each / shape.group;
        token = step.row_starts[tile.row] + of_row;
        head = (tile.kv_head + index / each) * shape.group + index % shape.group;
        position = step.past_lengths[tile.row] + of_row;
    }
};

inline void prepare_queries(const AttentionShape& shape, const AttentionStep& step, const AttentionTile& tile,
                            const Scratch& scratch) {
    alignas(64) float query[kLargestHeadDim];
    const int dim = shape.head_dim;
    const float scale = shape.softcap > 0 ? shape.scale : shape.scale * kLog2e;
    const int count = tile.query_heads(shape);
    for (int q = 0; q < count; ++q) {
        const QueryHead at(shape, step, tile, q);
        prepare(shape, step, step.qkv + at.token * shape.qkv_width() + at.head * dim, step.q_norm, at.position, query);
        if (shape.kv_type == KvType::int8) {
            int8_t* codes = scratch.codes + q * dim;
            hadamard(query, dim);
            scratch.scales[q] = quantise(query, dim, codes) * (scale / static_cast<float>(hadamard_run(dim)));
            int32_t total = 0;
            for (int d = 0; d < dim; ++d) total += codes[d];
            scratch.offsets[q] = -128 * total;
        } else {
            for (int d = 0; d < dim; d += 16) store(scratch.queries + q * dim + d, load(query + d) * set1(scale));
        }
    }
}

// Scores of `count` queries of one kv head.
inline void int8_granule(const AttentionShape& shape, const Granule& here, size_t offset, const int8_t* codes,
                         const int32_t* offsets, int count, ptrdiff_t ahead, float* scores) {
    const Granule granule{here.keys + offset, here.values + offset, here.key_scales + offset / 4,
                          here.value_scales + offset / 4};
    for (int lane = 0; lane < kGranuleTokens; lane += Tiles::key_vectors * 16) {
        in_pieces<Tiles::queries>(count, [&](auto n, int q) {
            int8_scores<decltype(n)::value, Tiles::key_vectors>(codes + q * shape.head_dim, offsets + q, shape.head_dim,
                                                                granule, lane, q ? 0 : ahead, scores + q * kGranuleTokens);
        });
    }
}

template <typename T>
inline void float_granule(int dim, const T* keys, const float* queries, int count, ptrdiff_t ahead, float* scores) {
    for (int lane = 0; lane < kGranuleTokens; lane += Tiles::key_vectors * 16) {
        in_pieces<Tiles::queries>(count, [&](auto n, int q) {
            float_scores<T, decltype(n)::value, Tiles::key_vectors>(queries + q * dim, dim, keys, lane, q ? 0 : ahead,
                                                                   scores + q * kGranuleTokens);
        });
    }
}

// Adds the weighted values of one kv head to the sums of its queries, `count` from the batch's `first` on.
inline void int8_sums(int dim, const int8_t* values, int first, int count, const Weights& w, ptrdiff_t ahead,
                      float* sums) {
    in_pieces<Tiles::value_vectors>(dim / 16, [&](auto vectors, int n) {
        in_pieces<Tiles::value_queries>(count, [&](auto piece, int q) {
            int8_values<decltype(piece)::value, decltype(vectors)::value>(
                w.codes + (first + q) * kGranuleTokens, w.decay + first + q, w.scale + first + q, values + n * 64, dim,
                q ? 0 : ahead, sums + q * dim + n * 16);
        });
    });
}

template <typename T>
inline void float_sums(int dim, const T* values, int first, int count, const Weights& w, ptrdiff_t ahead, float* sums) {
    // Queries that see the same keys go together; a hidden key is not read at all.
    for (int q = first, end = 0; q < first + count; q = end) {
        const Seen seen = w.seen[q];
        for (end = q + 1; end < first + count && w.seen[end].first == seen.first && w.seen[end].end == seen.end;) ++end;
        if (seen.none()) continue;
        in_pieces<Tiles::value_vectors>(dim / 16, [&](auto vectors, int n) {
            in_pieces<Tiles::value_queries>(end - q, [&](auto piece, int at) {
                float_values<T, decltype(piece)::value, decltype(vectors)::value>(
                    w.scores + (q + at) * kGranuleTokens, w.decay + q + at, values + n * 16, seen.first, seen.end, dim,
                    q + at == first ? ahead : 0, sums + (q + at - first) * dim + n * 16);
            });
        });
    }
}

// Queries of a tile that go through one granule together: `each` of some neighbouring kv heads, from query `query` on.
struct Batch {
    int query;
    int each;
    int heads;

    int count() const { return each * heads; }
};

// The batch against the granule of its heads; `here` is the first's, and `ahead` leads from each to what comes next.
inline void attend_granule(const AttentionShape& shape, const Granule& here, const Scratch& scratch,
                           const States& states, const Batch& batch, bool widened, ptrdiff_t ahead, Weights& w) {
    const int dim = shape.head_dim;
    const bool int8 = shape.kv_type == KvType::int8, narrow = shape.kv_type == KvType::float16 && !widened;
    const float* wide = widened ? scratch.widened : nullptr;
    for (int head = 0; head < batch.heads; ++head) {
        const size_t offset = head * shape.head_bytes;
        const int query = batch.query + head * batch.each;
        float* scores = w.scores + head * batch.each * kGranuleTokens;
        if (int8) {
            int8_granule(shape, here, offset, scratch.codes + query * dim, scratch.offsets + query, batch.each, ahead,
                         scores);
        } else if (narrow) {
            const uint16_t* keys = reinterpret_cast<const uint16_t*>(here.keys + offset);
            float_granule(dim, keys, scratch.queries + query * dim, batch.each, ahead, scores);
        } else {
            const float* keys = wide ? wide : reinterpret_cast<const float*>(here.keys + offset);
            float_granule(dim, keys, scratch.queries + query * dim, batch.each, ahead, scores);
        }
    }
    const auto value_scales = [&](int q) { return here.value_scales + q / batch.each * (shape.head_bytes / 4); };
    weigh(shape, batch.count(), int8 ? scratch.scales + batch.query : nullptr, value_scales,
          states.largest + batch.query, states.lanes + batch.query * 16, w);
    for (int head = 0; head < batch.heads; ++head) {
        const size_t offset = head * shape.head_bytes;
        const int first = head * batch.each;
        float* sums = states.sums + (batch.query + first) * dim;
        if (int8) {
            int8_sums(dim, reinterpret_cast<const int8_t*>(here.values + offset), first, batch.each, w, ahead, sums);
        } else if (narrow) {
            float_sums(dim, reinterpret_cast<const uint16_t*>(here.values + offset), first, batch.each, w, ahead, sums);
        } else {
            const float* values = wide ? wide + kGranuleTokens * dim : reinterpret_cast<const float*>(here.values + offset);
            float_sums(dim, values, first, batch.each, w, ahead, sums);
        }
    }
}

inline void finish(const AttentionShape& shape, const AttentionStep& step, const AttentionTile& tile,
                   const States& states) {
    const int dim = shape.head_dim, count = tile.query_heads(shape);
    for (int q = 0; q < count; ++q) {
        const QueryHead at(shape, step, tile, q);
        float* to = step.context + (at.token * shape.heads + at.head) * dim;
        float inverse = 1.0f / sum(load(states.lanes + q * 16));
        if (shape.kv_type == KvType::int8) {
            hadamard(states.sums + q * dim, dim);
            inverse = inverse / static_cast<float>(hadamard_run(dim));
        }
        for (int d = 0; d < dim; d += 16) store(to + d, load(states.sums + q * dim + d) * set1(inverse));
    }
}

inline void attend_part(const AttentionShape& shape, const AttentionStep& step, const AttentionTile& tile, int part,
                        const Scratch& scratch, const States& states) {
    const int each = tile.tokens * shape.group;                     // query heads of a kv head
    const int base = step.past_lengths[tile.row] + tile.first;      // the first query's position
    const int last = (base + tile.tokens - 1) / kGranuleTokens;
    const int seen = shape.first_seen(base) / kGranuleTokens;
    const int first = seen > part * kPartGranules ? seen : part * kPartGranules;
    const int end = last < (part + 1) * kPartGranules ? last + 1 : (part + 1) * kPartGranules;
    const bool widened = shape.kv_type == KvType::float16 && each > 8 && each > Tiles::widen_beyond;
    reset(states, each * tile.kv_heads, shape.head_dim);
    // Few queries a head: several heads go together, so that one's arithmetic fills another's waits.
    const int heads = each <= 8 ? (kBatch / each < tile.kv_heads ? kBatch / each : tile.kv_heads) : 1;
    const int most = each <= kBatch ? each : Tiles::queries;
    Weights w;
    for (int granule = first; granule < end; ++granule) {
        const int key = granule * kGranuleTokens;  // the first's position
        for (int head = 0; head < tile.kv_heads; head += heads) {
            const Granule here = granule_at(shape, step, tile.row, tile.kv_head + head, granule);
            ptrdiff_t ahead = 0;
            if (head + heads < tile.kv_heads) {
                ahead = static_cast<ptrdiff_t>(heads * shape.head_bytes);
            } else if (granule + 1 < end) {
                ahead = granule_at(shape, step, tile.row, tile.kv_head, granule + 1).keys - here.keys;
            }
            if (widened) {
                const uint16_t* halves = reinterpret_cast<const uint16_t*>(here.keys);
                const int numbers = 2 * kGranuleTokens * shape.head_dim;
                for (int i = 0; i < numbers; i += 16) store(scratch.widened + i, load(halves + i));
            }
            for (int q = 0; q < each; q += most) {
                Batch batch{head * each + q, each - q < most ? each - q : most, heads};
                if (tile.kv_heads - head < heads) batch.heads = tile.kv_heads - head;
                bool any = false;
                for (int i = 0; i < batch.count(); ++i) {
                    const int position = base + (q + i % batch.each) / shape.group;
                    const int from = shape.first_seen(position) - key, until = position + 1 - key;
                    w.seen[i] = {from > 0 ? from : 0, until < kGranuleTokens ? until : kGranuleTokens};
                    any = any || !w.seen[i].none();
                }
                if (any) attend_granule(shape, here, scratch, states, batch, widened, q ? 0 : ahead, w);
            }
        }
    }
}

// Adds a tile's states of one part to its total, for the queries that see any of its keys.
inline void join_part(const AttentionShape& shape, const AttentionStep& step, const AttentionTile& tile, int part,
                      const States& states, const States& total) {
    const int count = tile.query_heads(shape);
    for (int q = 0; q < count; ++q) {
        const int position = QueryHead(shape, step, tile, q).position;
        const int first = shape.first_seen(position) / kPartTokens;
        if (first <= part && part <= position / kPartTokens) join(total, states, q, shape.head_dim, part == first);
    }
}

void attend(const AttentionShape& shape, const AttentionStep& step, const AttentionTile& tile, void* memory) {
    const int count = tile.query_heads(shape);
    const Scratch scratch(shape, count, memory);
    if (tile.writes) write(shape, step, tile);
    prepare_queries(shape, step, tile, scratch);
    for (int part = tile.first_part; part < tile.first_part + tile.parts; ++part) {
        if (tile.states) {
            float* of_part = tile.states + (part - tile.first_part) * state_floats(shape, count);
            attend_part(shape, step, tile, part, scratch, states_at(of_part, count));
        } else {
            // Where all queries begin in the tile's first part, it is the total.
            const int last = step.past_lengths[tile.row] + tile.first + tile.tokens - 1;
            const bool begins = part == tile.first_part && shape.first_seen(last) / kPartTokens == part;
            attend_part(shape, step, tile, part, scratch, begins ? scratch.total : scratch.part);
            if (!begins) join_part(shape, step, tile, part, scratch.part, scratch.total);
        }
    }
    if (!tile.states) finish(shape, step, tile, scratch.total);
}

void merge(const AttentionShape& shape, const AttentionStep& step, const AttentionTile& tile, void* memory) {
    const int count = tile.query_heads(shape);
    const Scratch scratch(shape, count, memory);
    for (int part = 0; part < tile.parts; ++part) {
        const States states = states_at(tile.states + part * state_floats(shape, count), count);
        join_part(shape, step, tile, tile.first_part + part, states, scratch.total);
    }
    finish(shape, step, tile, scratch.total);
}
