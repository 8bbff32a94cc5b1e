// Attention's inner products: queries with a granule's keys, weights with its values. Included by attention_kernels.inl.

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
