// Attention's keys and values on their way into the cache: norm, rotation, Hadamard's turn, quantising, layout.
// Included by attention_kernels.inl.

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

// RMS norm over the head (weight may be null), then half-split rotation of its first 2 * half dimensions.
inline void prepare(const AttentionShape& shape, const AttentionStep& step, const float* from, const float* norm,
                    int position, float* to) {
    const int dim = shape.head_dim;
    for (int d = 0; d < dim; d += 16) prefetch(from + shape.qkv_width() + d);  // the next token's
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
    int d = 0;
    for (; d + 16 <= half; d += 16) {
        const F a = load(to + d), b = load(to + half + d);
        store(to + d, a * load(cosine + d) - b * load(sine + d));
        store(to + half + d, b * load(cosine + d) + a * load(sine + d));
    }
    for (; d < half; ++d) {
        const float a = to[d], b = to[half + d];
        to[d] = a * cosine[d] - b * sine[d];
        to[half + d] = b * cosine[d] + a * sine[d];
    }
}

// Int8 caches hold keys and values turned by Hadamard's matrix, in runs of the largest power of two that divides the
// head: it spreads the few large dimensions that trained models have over all, which then share one scale better
// (QuaRot, arXiv 2404.00456). Queries are turned as well, which leaves their products with keys times the run's length;
// the context is turned back.
inline int hadamard_run(int dim) { return dim & -dim; }

inline F turned(F x) { return butterfly<1>(butterfly<2>(butterfly<4>(butterfly<8>(x)))); }

inline void hadamard(float* x, int dim) {
    const int run = hadamard_run(dim);
    if (run < 64) {
        for (int d = 0; d < dim; d += 16) store(x + d, turned(load(x + d)));
    }
    for (int d = 0; run >= 64 && d < dim; d += 64) {  // the first strides in registers
        const F a = turned(load(x + d)), b = turned(load(x + d + 16));
        const F c = turned(load(x + d + 32)), e = turned(load(x + d + 48));
        const F sum = a + b, difference = a - b, second_sum = c + e, second_difference = c - e;
        store(x + d, sum + second_sum);
        store(x + d + 16, difference + second_difference);
        store(x + d + 32, sum - second_sum);
        store(x + d + 48, difference - second_difference);
    }
    for (int stride = run < 64 ? 16 : 64; stride < run; stride *= 2) {
        for (int start = 0; start < dim; start += 2 * stride) {
            for (int d = start; d < start + stride; d += 16) {
                const F a = load(x + d), b = load(x + d + stride);
                store(x + d, a + b);
                store(x + d + stride, a - b);
            }
        }
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

// `key` and `value` are scratch afterwards.
inline void write_token(const AttentionShape& shape, const Granule& granule, int slot, float* key, float* value) {
    const int dim = shape.head_dim;
    if (shape.kv_type == KvType::int8) {
        alignas(64) int8_t codes[kLargestHeadDim];
        hadamard(key, dim);
        granule.key_scales[slot] = quantise(key, dim, codes);
        for (int d = 0; d < dim; d += 4) {
            uint32_t four;
            __builtin_memcpy(&four, codes + d, 4);
            four ^= 0x80808080u;  // plus 128
            __builtin_memcpy(granule.keys + (d * kGranuleTokens / 4 + slot) * 4, &four, 4);
        }
        hadamard(value, dim);
        granule.value_scales[slot] = quantise(value, dim, codes);
        int8_t* values = reinterpret_cast<int8_t*>(granule.values) + slot / 4 * dim * 4 + slot % 4;
        for (int d = 0; d < dim; d += 16) {
            UNROLL for (int i = 0; i < 16; ++i) values[(d + i) * 4] = codes[d + i];
        }
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
    alignas(64) float key[kLargestHeadDim], value[kLargestHeadDim];
    const int dim = shape.head_dim;
    for (int token = tile.first; token < tile.first + tile.tokens; ++token) {
        const int position = step.past_lengths[tile.row] + token;
        const float* keys = step.qkv + static_cast<int64_t>(step.row_starts[tile.row] + token) * shape.qkv_width() +
                            shape.heads * dim;
        for (int head = tile.kv_head; head < tile.kv_head + tile.kv_heads; ++head) {
            prepare(shape, step, keys + head * dim, step.k_norm, position, key);
            const float* values = keys + (shape.kv_heads + head) * dim;
            for (int d = 0; d < dim; d += 16) {
                prefetch(values + shape.qkv_width() + d);
                store(value + d, load(values + d));
            }
            const Granule granule = granule_at(shape, step, tile.row, head, position / kGranuleTokens);
            write_token(shape, granule, position % kGranuleTokens, key, value);
        }
    }
}
