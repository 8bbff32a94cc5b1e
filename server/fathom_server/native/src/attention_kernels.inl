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

// 2^x for x <= 126; zero below -125. Degree 5, relative error 1.7e-7.
inline F exp2(F x) {
    const F clamped = max(set1(-125.0f), x);  // NaN stays
    const F whole = nearest(clamped);
    const F r = clamped - whole;
    F y = set1(0.0013264725f);
    y = fma(y, r, set1(0.0096715135f));
    y = fma(y, r, set1(0.055507336f));
    y = fma(y, r, set1(0.24022242f));
    y = fma(y, r, set1(0.69314698f));
    y = fma(y, r, set1(1.0f));
    return zero_below(x, -125.0f, times_power_of_2(y, whole));
}

inline F tanh(F x) {
    const F clamped = min(set1(20.0f), max(set1(-20.0f), x));
    return set1(1.0f) - set1(2.0f) / (exp2(clamped * set1(2.0f * kLog2e)) + set1(1.0f));
}

// ---------------------------------------------------------------------------------------------- layout of a granule

struct Granule {
    uint8_t* keys;
    uint8_t* values;
    float* key_scales;
    float* value_scales;
};

inline Granule granule_at(const AttentionShape& shape, const AttentionStep& step, int64_t row, int kv_head, int granule) {
    const int per_block = shape.block_tokens / kGranuleTokens;
    const int64_t block = step.block_tables[row * step.table_width + granule / per_block];
    uint8_t* at = step.cache + static_cast<size_t>(block) * shape.block_bytes + kv_head * shape.head_bytes +
                  static_cast<size_t>(granule % per_block) * shape.granule_bytes;
    const size_t item = shape.kv_type == KvType::int8 ? 1 : shape.kv_type == KvType::float16 ? 2 : 4;
    const size_t part = item * kGranuleTokens * shape.head_dim;
    float* scales = reinterpret_cast<float*>(at + 2 * part);
    return {at, at + part, scales, scales + kGranuleTokens};
}

// --------------------------------------------------------------------------------------- new queries, keys, values

// RMS norm over the head (weight may be null), then half-split rotation of its first 2 * half dimensions.
inline void prepare(const AttentionShape& shape, const AttentionStep& step, const float* from, const float* norm,
                    int position, float* to) {
    const int dim = shape.head_dim;
    if (norm) {
        F squares = set1(0.0f);
        for (int d = 0; d < dim; d += 16) squares = fma(load(from + d), load(from + d), squares);
        const float inverse = 1.0f / __builtin_sqrtf(sum(squares) / static_cast<float>(dim) + shape.epsilon);
        for (int d = 0; d < dim; d += 16) store(to + d, load(from + d) * set1(inverse) * load(norm + d));
    } else {
        for (int d = 0; d < dim; d += 16) store(to + d, load(from + d));
    }
    const int half = step.rotary_half;
    const float* cosine = step.cosines + static_cast<int64_t>(position) * half;
    const float* sine = step.sines + static_cast<int64_t>(position) * half;
    for (int d = 0; d < half; ++d) {
        const float a = to[d], b = to[half + d];
        to[d] = a * cosine[d] - b * sine[d];
        to[half + d] = b * cosine[d] + a * sine[d];
    }
}

// Codes of -127 ... 127 and their scale; where a value is not finite, zeros and the scale NaN.
inline float quantise(const float* from, int dim, int8_t* codes) {
    F largest = set1(0.0f);
    for (int d = 0; d < dim; d += 16) largest = max_magnitude_bits(largest, load(from + d));
    const float magnitude = max_bits(largest);
    if (!(magnitude < __builtin_inff())) {
        for (int d = 0; d < dim; ++d) codes[d] = 0;
        return __builtin_nanf("");
    }
    const float scale = magnitude < kSmallestWeight ? 0.0f : magnitude / 127.0f;
    const F inverse = set1(scale == 0.0f ? 0.0f : 127.0f / magnitude);
    for (int d = 0; d < dim; d += 16) store_int8(codes + d, load(from + d) * inverse);
    return scale;
}

inline void write_token(const AttentionShape& shape, const Granule& granule, int slot, const float* key,
                        const float* value) {
    const int dim = shape.head_dim;
    if (shape.kv_type == KvType::int8) {
        int8_t codes[kLargestHeadDim];
        granule.key_scales[slot] = quantise(key, dim, codes);
        for (int d = 0; d < dim; ++d) {
            granule.keys[(d / 4 * kGranuleTokens + slot) * 4 + d % 4] = static_cast<uint8_t>(codes[d] + 128);
        }
        granule.value_scales[slot] = quantise(value, dim, codes);
        int8_t* values = reinterpret_cast<int8_t*>(granule.values) + slot / 4 * dim * 4 + slot % 4;
        for (int d = 0; d < dim; ++d) values[d * 4] = codes[d];
    } else if (shape.kv_type == KvType::float16) {
        uint16_t halves[kLargestHeadDim];
        for (int d = 0; d < dim; d += 16) store_half(halves + d, load(key + d));
        uint16_t* keys = reinterpret_cast<uint16_t*>(granule.keys) + slot;
        for (int d = 0; d < dim; ++d) keys[d * kGranuleTokens] = halves[d];
        uint16_t* values = reinterpret_cast<uint16_t*>(granule.values) + slot * dim;
        for (int d = 0; d < dim; d += 16) store_half(values + d, load(value + d));
    } else {
        float* keys = reinterpret_cast<float*>(granule.keys) + slot;
        for (int d = 0; d < dim; ++d) keys[d * kGranuleTokens] = key[d];
        float* values = reinterpret_cast<float*>(granule.values) + slot * dim;
        for (int d = 0; d < dim; d += 16) store(values + d, load(value + d));
    }
}

void write(const AttentionShape& shape, const AttentionStep& step, const AttentionTile& tile) {
    alignas(64) float key[kLargestHeadDim];
    const int dim = shape.head_dim;
    for (int token = tile.first; token < tile.first + tile.tokens; ++token) {
        const int position = step.past_lengths[tile.row] + token;
        const float* keys = step.qkv + static_cast<int64_t>(step.row_starts[tile.row] + token) * shape.qkv_width() +
                            shape.heads * dim;
        for (int head = tile.kv_head; head < tile.kv_head + tile.kv_heads; ++head) {
            prepare(shape, step, keys + head * dim, step.k_norm, position, key);
            const Granule granule = granule_at(shape, step, tile.row, head, position / kGranuleTokens);
            write_token(shape, granule, position % kGranuleTokens, key, keys + (shape.kv_heads + head) * dim);
        }
    }
}

// ------------------------------------------------------------------------------------------------- scores and values

// Scores of Q queries against 16 V keys from lane `lane` of a granule; `queries` and `scores` go on by query.
template <int Q, int V>
inline void int8_scores(const int8_t* queries, const int32_t* offsets, int dim, const Granule& granule, int lane,
                        ptrdiff_t ahead, float* scores) {
    I sums[Q][V];
    UNROLL for (int q = 0; q < Q; ++q) UNROLL for (int v = 0; v < V; ++v) sums[q][v] = set1(offsets[q]);
    const uint8_t* keys = granule.keys + lane * 4;
    for (int d = 0; d < dim; d += 4) {
        B codes[V];
        UNROLL for (int v = 0; v < V; ++v) codes[v] = load_bytes(keys + d * kGranuleTokens + v * 64);
        if (ahead) {
            UNROLL for (int v = 0; v < V; ++v) prefetch(keys + ahead + d * kGranuleTokens + v * 64);
        }
        UNROLL for (int q = 0; q < Q; ++q) {
            const B query = broadcast_bytes(queries + q * dim + d);
            UNROLL for (int v = 0; v < V; ++v) sums[q][v] = add_products(sums[q][v], codes[v], query);
        }
    }
    UNROLL for (int v = 0; v < V; ++v) {
        const F scale = load(granule.key_scales + lane + v * 16);
        if (ahead) {
            prefetch(reinterpret_cast<const uint8_t*>(granule.key_scales + lane + v * 16) + ahead);
            prefetch(reinterpret_cast<const uint8_t*>(granule.value_scales + lane + v * 16) + ahead);
        }
        UNROLL for (int q = 0; q < Q; ++q) {
            store(scores + q * kGranuleTokens + lane + v * 16, to_float(sums[q][v]) * scale);
        }
    }
}

template <typename T, int Q, int V>
inline void float_scores(const float* queries, int dim, const T* keys, int lane, ptrdiff_t ahead, float* scores) {
    F sums[Q][V];
    UNROLL for (int q = 0; q < Q; ++q) UNROLL for (int v = 0; v < V; ++v) sums[q][v] = set1(0.0f);
    for (int d = 0; d < dim; ++d) {
        F key[V];
        UNROLL for (int v = 0; v < V; ++v) key[v] = load(keys + d * kGranuleTokens + lane + v * 16);
        if (ahead) {
            UNROLL for (int v = 0; v < V; v += 64 / (16 * static_cast<int>(sizeof(T)))) {
                prefetch(reinterpret_cast<const uint8_t*>(keys + d * kGranuleTokens + lane + v * 16) + ahead);
            }
        }
        UNROLL for (int q = 0; q < Q; ++q) {
            const F query = set1(queries[q * dim + d]);
            UNROLL for (int v = 0; v < V; ++v) sums[q][v] = fma(query, key[v], sums[q][v]);
        }
    }
    UNROLL for (int q = 0; q < Q; ++q) UNROLL for (int v = 0; v < V; ++v) {
        store(scores + q * kGranuleTokens + lane + v * 16, sums[q][v]);
    }
}

// What one granule does to Q queries: sums[q] = sums[q] * decay[q] + (weights[q] . values) * scale[q], over 16 N
// dimensions from `values` and `sums` on.
template <int Q, int N>
inline void int8_values(const uint8_t* weights, const float* decay, const float* scale, const int8_t* values, int dim,
                        ptrdiff_t ahead, float* sums) {
    I products[Q][N];
    UNROLL for (int q = 0; q < Q; ++q) UNROLL for (int n = 0; n < N; ++n) products[q][n] = set1(0);
    for (int token = 0; token < kGranuleTokens; token += 4) {
        B codes[N];
        UNROLL for (int n = 0; n < N; ++n) codes[n] = load_bytes(values + token * dim + n * 64);
        if (ahead) {
            UNROLL for (int n = 0; n < N; ++n) prefetch(values + ahead + token * dim + n * 64);
        }
        UNROLL for (int q = 0; q < Q; ++q) {
            const B weight = broadcast_bytes(weights + q * kGranuleTokens + token);
            UNROLL for (int n = 0; n < N; ++n) products[q][n] = add_products(products[q][n], weight, codes[n]);
        }
    }
    UNROLL for (int q = 0; q < Q; ++q) UNROLL for (int n = 0; n < N; ++n) {
        float* at = sums + q * dim + n * 16;
        store(at, fma(to_float(products[q][n]), set1(scale[q]), load(at) * set1(decay[q])));
    }
}

template <typename T, int Q, int N>
inline void float_values(const float* weights, const float* decay, const T* values, int first, int end, int dim,
                         ptrdiff_t ahead, float* sums) {
    F products[Q][N];
    UNROLL for (int q = 0; q < Q; ++q) UNROLL for (int n = 0; n < N; ++n) {
        products[q][n] = load(sums + q * dim + n * 16) * set1(decay[q]);
    }
    for (int token = first; token < end; ++token) {
        F value[N];
        UNROLL for (int n = 0; n < N; ++n) value[n] = load(values + token * dim + n * 16);
        if (ahead) {
            UNROLL for (int n = 0; n < N; n += 64 / (16 * static_cast<int>(sizeof(T)))) {
                prefetch(reinterpret_cast<const uint8_t*>(values + token * dim + n * 16) + ahead);
            }
        }
        UNROLL for (int q = 0; q < Q; ++q) {
            const F weight = set1(weights[q * kGranuleTokens + token]);
            UNROLL for (int n = 0; n < N; ++n) products[q][n] = fma(weight, value[n], products[q][n]);
        }
    }
    UNROLL for (int q = 0; q < Q; ++q) UNROLL for (int n = 0; n < N; ++n) store(sums + q * dim + n * 16, products[q][n]);
}

// Calls step(std::integral_constant<int, n>, offset) with the largest n <= Largest that still fits, over `count`.
template <int Largest, typename Step>
inline void in_pieces(int count, Step&& step) {
    int at = 0;
    for (; count - at >= Largest; at += Largest) step(Count<Largest>{}, at);
    if constexpr (Largest > 1) {
        if (at < count) in_pieces<Largest - 1>(count - at, [&](auto n, int offset) { step(n, at + offset); });
    }
}

// ------------------------------------------------------------------------------------------------------------ softmax

// The running softmax of a tile's query heads in one part.
struct States {
    float* largest;  // [queries]
    float* lanes;    // [queries, 16]; their sum is the denominator
    float* sums;     // [queries, head_dim]
};

inline States states_at(float* memory, int queries) {
    float* lanes = memory + (queries + 15) / 16 * 16;
    return {memory, lanes, lanes + queries * 16};
}

inline void reset(const States& states, int queries, int dim) {
    for (int q = 0; q < queries; ++q) {
        states.largest[q] = lowest();
        store(states.lanes + q * 16, set1(0.0f));
        for (int d = 0; d < dim; d += 16) store(states.sums + q * dim + d, set1(0.0f));
    }
}

// The keys of a granule that a query sees: first <= key < end.
struct Seen {
    int first, end;
    bool none() const { return first >= end; }
    bool all() const { return first == 0 && end == kGranuleTokens; }
};

// Scores of up to 16 queries in one granule, and the weights made of them.
struct Weights {
    alignas(64) float scores[16 * kGranuleTokens];  // then the weights themselves
    alignas(64) uint8_t codes[16 * kGranuleTokens];  // int8 caches: weights times the values' scales, in units of scale
    alignas(64) float decay[16];                     // of what came before
    alignas(64) float scale[16];
    Seen seen[16];
};

// One softmax step of `count` queries: from w.scores (times `score_scales`, if given) to weights and decay.
inline void weigh(const AttentionShape& shape, int count, const float* score_scales, const float* value_scales,
                  float* largest, float* lanes, Weights& w) {
    alignas(64) float top[16], units[16];
    store(w.decay, set1(0.0f));
    store(units, set1(0.0f));
    for (int q = 0; q < count; ++q) {
        const Seen seen = w.seen[q];
        top[q] = largest[q];
        if (seen.none()) continue;
        float* scores = w.scores + q * kGranuleTokens;
        F a = load(scores), b = load(scores + 16);
        if (score_scales) {
            a = a * set1(score_scales[q]);
            b = b * set1(score_scales[q]);
        }
        if (shape.softcap > 0) {
            a = tanh(a * set1(1.0f / shape.softcap)) * set1(shape.softcap * kLog2e);
            b = tanh(b * set1(1.0f / shape.softcap)) * set1(shape.softcap * kLog2e);
        }
        if (!seen.all()) {
            a = keep(a, lowest(), seen.first, seen.end);
            b = keep(b, lowest(), seen.first - 16, seen.end - 16);
        }
        store(scores, a);
        store(scores + 16, b);
        const float here = max_of(max(a, b));
        top[q] = here > largest[q] ? here : largest[q];
        w.decay[q] = largest[q] - top[q];
        largest[q] = top[q];
    }
    store(w.decay, exp2(load(w.decay)));
    for (int q = 0; q < count; ++q) {
        const Seen seen = w.seen[q];
        if (seen.none()) continue;
        float* scores = w.scores + q * kGranuleTokens;
        F a = exp2(load(scores) - set1(top[q]));
        F b = exp2(load(scores + 16) - set1(top[q]));
        store(lanes + q * 16, fma(load(lanes + q * 16), set1(w.decay[q]), a + b));
        if (value_scales) {
            a = a * load(value_scales);
            b = b * load(value_scales + 16);
            if (!seen.all()) {
                a = keep(a, 0.0f, seen.first, seen.end);
                b = keep(b, 0.0f, seen.first - 16, seen.end - 16);
            }
            units[q] = max_of(max(a, b));
        }
        store(scores, a);
        store(scores + 16, b);
    }
    if (!value_scales) return;
    const F unit = load(units);
    store(w.scale, unit * set1(1.0f / 255.0f));
    store(units, zero_below(unit, kSmallestWeight, set1(255.0f) / unit));
    for (int q = 0; q < count; ++q) {
        float* scores = w.scores + q * kGranuleTokens;
        const F unit_inverse = set1(units[q]);
        store_uint8(w.codes + q * kGranuleTokens, load(scores) * unit_inverse);
        store_uint8(w.codes + q * kGranuleTokens + 16, load(scores + 16) * unit_inverse);
    }
}

// Adds a later part of one query to its total; the first is the total.
inline void join(const States& total, const States& part, int q, int dim, bool first) {
    float* lanes = total.lanes + q * 16;
    float* sums = total.sums + q * dim;
    if (first) {
        total.largest[q] = part.largest[q];
        store(lanes, load(part.lanes + q * 16));
        for (int d = 0; d < dim; d += 16) store(sums + d, load(part.sums + q * dim + d));
        return;
    }
    const float old = total.largest[q], here = part.largest[q];
    const float top = here > old ? here : old;
    const F a = exp2(set1(old - top)), b = exp2(set1(here - top));
    total.largest[q] = top;
    store(lanes, fma(load(part.lanes + q * 16), b, load(lanes) * a));
    for (int d = 0; d < dim; d += 16) store(sums + d, fma(load(part.sums + q * dim + d), b, load(sums + d) * a));
}

// -------------------------------------------------------------------------------------------------------------- tiles

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
            scratch.scales[q] = quantise(query, dim, codes) * scale;
            int32_t total = 0;
            for (int d = 0; d < dim; ++d) total += codes[d];
            scratch.offsets[q] = -128 * total;
        } else {
            for (int d = 0; d < dim; d += 16) store(scratch.queries + q * dim + d, load(query + d) * set1(scale));
        }
    }
}

template <typename T>
inline void float_granule(int dim, const T* keys, const float* queries, int count, ptrdiff_t ahead, Weights& w) {
    for (int lane = 0; lane < kGranuleTokens; lane += Tiles::key_vectors * 16) {
        in_pieces<Tiles::queries>(count, [&](auto n, int q) {
            float_scores<T, decltype(n)::value, Tiles::key_vectors>(queries + q * dim, dim, keys, lane, q ? 0 : ahead,
                                                                   w.scores + q * kGranuleTokens);
        });
    }
}

template <typename T>
inline void float_sums(int dim, const T* values, int count, const Weights& w, ptrdiff_t ahead, float* sums) {
    // Queries that see the same keys go together; a hidden key is not read at all.
    for (int q = 0, end = 0; q < count; q = end) {
        const Seen seen = w.seen[q];
        for (end = q + 1; end < count && w.seen[end].first == seen.first && w.seen[end].end == seen.end;) ++end;
        if (seen.none()) continue;
        in_pieces<Tiles::value_vectors>(dim / 16, [&](auto vectors, int n) {
            in_pieces<Tiles::value_queries>(end - q, [&](auto piece, int offset) {
                float_values<T, decltype(piece)::value, decltype(vectors)::value>(
                    w.scores + (q + offset) * kGranuleTokens, w.decay + q + offset, values + n * 16, seen.first,
                    seen.end, dim, q + offset ? 0 : ahead, sums + (q + offset) * dim + n * 16);
            });
        });
    }
}

// `count` queries from query `q` of the tile on, against one granule.
inline void attend_granule(const AttentionShape& shape, const Granule& granule, const Scratch& scratch,
                           const States& states, int q, int count, bool widened, ptrdiff_t ahead, Weights& w) {
    const int dim = shape.head_dim;
    float* sums = states.sums + q * dim;
    if (shape.kv_type == KvType::int8) {
        for (int lane = 0; lane < kGranuleTokens; lane += Tiles::key_vectors * 16) {
            in_pieces<Tiles::queries>(count, [&](auto n, int at) {
                int8_scores<decltype(n)::value, Tiles::key_vectors>(scratch.codes + (q + at) * dim,
                                                                    scratch.offsets + q + at, dim, granule, lane,
                                                                    at ? 0 : ahead, w.scores + at * kGranuleTokens);
            });
        }
        weigh(shape, count, scratch.scales + q, granule.value_scales, states.largest + q, states.lanes + q * 16, w);
        in_pieces<Tiles::value_vectors>(dim / 16, [&](auto vectors, int n) {
            in_pieces<Tiles::value_queries>(count, [&](auto piece, int at) {
                int8_values<decltype(piece)::value, decltype(vectors)::value>(
                    w.codes + at * kGranuleTokens, w.decay + at, w.scale + at,
                    reinterpret_cast<const int8_t*>(granule.values) + n * 64, dim, at ? 0 : ahead,
                    sums + at * dim + n * 16);
            });
        });
        return;
    }
    const float* queries = scratch.queries + q * dim;
    const bool narrow = shape.kv_type == KvType::float16 && !widened;
    const float* keys = widened ? scratch.widened : reinterpret_cast<const float*>(granule.keys);
    const float* values = widened ? scratch.widened + kGranuleTokens * dim : reinterpret_cast<float*>(granule.values);
    if (narrow) {
        float_granule(dim, reinterpret_cast<const uint16_t*>(granule.keys), queries, count, ahead, w);
    } else {
        float_granule(dim, keys, queries, count, ahead, w);
    }
    weigh(shape, count, nullptr, nullptr, states.largest + q, states.lanes + q * 16, w);
    if (narrow) {
        float_sums(dim, reinterpret_cast<const uint16_t*>(granule.values), count, w, ahead, sums);
    } else {
        float_sums(dim, values, count, w, ahead, sums);
    }
}

inline void finish(const AttentionShape& shape, const AttentionStep& step, const AttentionTile& tile,
                   const States& states) {
    const int dim = shape.head_dim, count = tile.query_heads(shape);
    for (int q = 0; q < count; ++q) {
        const QueryHead at(shape, step, tile, q);
        float* to = step.context + (at.token * shape.heads + at.head) * dim;
        const F inverse = set1(1.0f / sum(load(states.lanes + q * 16)));
        for (int d = 0; d < dim; d += 16) store(to + d, load(states.sums + q * dim + d) * inverse);
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
    const bool widened = shape.kv_type == KvType::float16 && each > Tiles::widen_beyond;
    reset(states, each * tile.kv_heads, shape.head_dim);
    Weights w;
    for (int granule = first; granule < end; ++granule) {
        const int key = granule * kGranuleTokens;  // the first's position
        for (int head = 0; head < tile.kv_heads; ++head) {
            const Granule here = granule_at(shape, step, tile.row, tile.kv_head + head, granule);
            ptrdiff_t ahead = 0;  // to what comes next
            if (head + 1 < tile.kv_heads) {
                ahead = static_cast<ptrdiff_t>(shape.head_bytes);
            } else if (granule + 1 < end) {
                ahead = granule_at(shape, step, tile.row, tile.kv_head, granule + 1).keys - here.keys;
            }
            if (widened) {
                const uint16_t* halves = reinterpret_cast<const uint16_t*>(here.keys);
                const int numbers = 2 * kGranuleTokens * shape.head_dim;
                for (int i = 0; i < numbers; i += 16) store(scratch.widened + i, load(halves + i));
            }
            for (int q = 0; q < each; q += Tiles::queries) {
                const int piece = each - q < Tiles::queries ? each - q : Tiles::queries;
                bool any = false;
                for (int i = 0; i < piece; ++i) {
                    const int position = base + (q + i) / shape.group;
                    const int from = shape.first_seen(position) - key, until = position + 1 - key;
                    w.seen[i] = {from > 0 ? from : 0, until < kGranuleTokens ? until : kGranuleTokens};
                    any = any || !w.seen[i].none();
                }
                if (any) attend_granule(shape, here, scratch, states, head * each + q, piece, widened, q ? 0 : ahead, w);
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
            attend_part(shape, step, tile, part, scratch, scratch.part);
            if (tile.parts > 1) join_part(shape, step, tile, part, scratch.part, scratch.total);
        }
    }
    if (!tile.states) finish(shape, step, tile, tile.parts == 1 ? scratch.part : scratch.total);
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
