// Attention's running softmax: from the scores of one granule to weights, and parts joined to a whole. Included by
// attention_kernels.inl.

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

constexpr int kBatch = 16;  // queries that go through the softmax together

// Their scores in one granule, and the weights made of them.
struct Weights {
    alignas(64) float scores[kBatch * kGranuleTokens];  // then the weights themselves
    alignas(64) uint8_t codes[kBatch * kGranuleTokens];  // int8 caches: weights times the values' scales, in units of scale
    alignas(64) float decay[kBatch];                     // of what came before
    alignas(64) float scale[kBatch];
    Seen seen[kBatch];
};

// One softmax step of `count` queries: from w.scores (times `score_scales`, if given) to weights and decay. The scales of
// values of query q's kv head are at value_scales(q).
template <typename ValueScales>
inline void weigh(const AttentionShape& shape, int count, const float* score_scales, const ValueScales& value_scales,
                  float* largest, float* lanes, Weights& w) {
    alignas(64) float top[kBatch], units[kBatch];
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
        if (score_scales) {
            const float* scales = value_scales(q);
            a = a * load(scales);
            b = b * load(scales + 16);
            if (!seen.all()) {
                a = keep(a, 0.0f, seen.first, seen.end);
                b = keep(b, 0.0f, seen.first - 16, seen.end - 16);
            }
            units[q] = max_bits(max_magnitude_bits(max_magnitude_bits(set1(0.0f), a), b));  // NaN, if any is
        }
        store(scores, a);
        store(scores + 16, b);
    }
    if (!score_scales) return;
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
