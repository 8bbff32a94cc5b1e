// The kernels of Attention in plain C++, for any processor. Products and sums are fused where the vectors of the other
// levels fuse them, so every level computes the same bits.
#include <cmath>
#include <cstring>

#include "attention_step.h"

namespace fathom {

namespace {

struct F {
    float v[16];
};
struct I {
    int32_t v[16];
};
struct B {
    uint8_t v[64];  // 16 times 4 bytes; codes of queries and values are signed
};

struct Tiles {
    static constexpr int queries = 4, key_vectors = 1;
    static constexpr int value_queries = 2, value_vectors = 1;
    static constexpr int widen_beyond = 1;
};

#define EACH for (int i = 0; i < 16; ++i)

inline F set1(float x) {
    F r;
    EACH r.v[i] = x;
    return r;
}
inline I set1(int32_t x) {
    I r;
    EACH r.v[i] = x;
    return r;
}
inline F load(const float* from) {
    F r;
    EACH r.v[i] = from[i];
    return r;
}
inline void store(float* to, F x) { EACH to[i] = x.v[i]; }
inline F operator+(F a, F b) {
    EACH a.v[i] += b.v[i];
    return a;
}
inline F operator-(F a, F b) {
    EACH a.v[i] -= b.v[i];
    return a;
}
inline F operator*(F a, F b) {
    EACH a.v[i] *= b.v[i];
    return a;
}
inline F operator/(F a, F b) {
    EACH a.v[i] /= b.v[i];
    return a;
}
inline F fma(F a, F b, F c) {
    EACH a.v[i] = std::fma(a.v[i], b.v[i], c.v[i]);
    return a;
}
// As the processor's: the second operand where either is NaN.
inline F max(F a, F b) {
    EACH a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
    return a;
}
inline F min(F a, F b) {
    EACH a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i];
    return a;
}
inline F nearest(F x) {
    EACH x.v[i] = std::nearbyint(x.v[i]);
    return x;
}
inline F times_power_of_2(F x, F whole) {
    EACH {
        if (whole.v[i] != whole.v[i]) continue;  // x is NaN as well
        const int32_t bits = (static_cast<int32_t>(whole.v[i]) + 127) << 23;
        float power;
        std::memcpy(&power, &bits, 4);
        x.v[i] *= power;
    }
    return x;
}
inline F zero_below(F x, float limit, F otherwise) {
    EACH if (x.v[i] < limit) otherwise.v[i] = 0;
    return otherwise;
}
inline F keep(F x, float fill, int first, int end) {
    EACH if (i < first || i >= end) x.v[i] = fill;
    return x;
}
inline float max_of(F x) {
    float r = x.v[0];
    for (int i = 1; i < 16; ++i) r = r > x.v[i] ? r : x.v[i];
    return r;
}
inline float sum(F x) {
    for (int width = 8; width >= 1; width /= 2) {
        for (int i = 0; i < width; ++i) x.v[i] += x.v[i + width];
    }
    return x.v[0];
}
// In runs of 2 * Stride lanes: the sums of both halves, then their differences.
template <int Stride>
inline F butterfly(F x) {
    F r;
    EACH r.v[i] = i & Stride ? x.v[i ^ Stride] - x.v[i] : x.v[i ^ Stride] + x.v[i];
    return r;
}
// The larger magnitudes by their bits, by which NaN is above infinity.
inline F max_magnitude_bits(F a, F b) {
    EACH {
        uint32_t x, y;
        std::memcpy(&x, &a.v[i], 4);
        std::memcpy(&y, &b.v[i], 4);
        y &= 0x7fffffffu;
        x = x > y ? x : y;
        std::memcpy(&a.v[i], &x, 4);
    }
    return a;
}
inline float max_bits(F x) {
    for (int i = 1; i < 16; ++i) {
        uint32_t a, b;
        std::memcpy(&a, &x.v[0], 4);
        std::memcpy(&b, &x.v[i], 4);
        if (b > a) x.v[0] = x.v[i];
    }
    return x.v[0];
}
inline void store_int8(int8_t* to, F x) { EACH to[i] = static_cast<int8_t>(std::nearbyint(x.v[i])); }
inline void store_uint8(uint8_t* to, F x) {
    EACH {
        const float code = std::nearbyint(x.v[i]);
        to[i] = code > 0 ? static_cast<uint8_t>(code < 255 ? code : 255) : 0;  // NaN: 0
    }
}
inline F load(const uint16_t* from) {
    F r;
    EACH {
        const uint32_t half = from[i], sign = (half & 0x8000u) << 16, rest = half & 0x7fffu;
        float magnitude;
        if (rest >= 0x7c00u) {
            const uint32_t bits = 0x7f800000u | (rest & 0x3ffu) << 13 | (rest > 0x7c00u ? 0x400000u : 0u);
            std::memcpy(&magnitude, &bits, 4);
        } else {
            const uint32_t bits = rest << 13;
            std::memcpy(&magnitude, &bits, 4);
            magnitude *= 0x1p112f;  // the exponents' biases differ by 112; exact, subnormals too
        }
        uint32_t bits;
        std::memcpy(&bits, &magnitude, 4);
        bits |= sign;
        std::memcpy(&r.v[i], &bits, 4);
    }
    return r;
}
inline void store_half(uint16_t* to, F x) {
    EACH {
        uint32_t bits;
        std::memcpy(&bits, &x.v[i], 4);
        const uint32_t sign = bits >> 16 & 0x8000u;
        bits &= 0x7fffffffu;
        uint32_t half;
        if (bits > 0x7f800000u) {
            half = 0x7e00u | (bits >> 13 & 0x3ffu);
        } else if (bits >= 0x477ff000u) {
            half = 0x7c00u;
        } else if (bits < 0x38800000u) {
            float magnitude;
            std::memcpy(&magnitude, &bits, 4);
            half = static_cast<uint32_t>(std::nearbyint(magnitude * 0x1p24f));
        } else {
            half = (bits - 0x38000000u + 0xfffu + (bits >> 13 & 1u)) >> 13;
        }
        to[i] = static_cast<uint16_t>(sign | half);
    }
}
inline B load_bytes(const void* from) {
    B r;
    std::memcpy(r.v, from, 64);
    return r;
}
inline B broadcast_bytes(const void* from) {
    B r;
    EACH std::memcpy(r.v + 4 * i, from, 4);
    return r;
}
// To each int32 the sum of its four products of an unsigned and a signed byte.
inline I add_products(I sums, const B& unsigned_bytes, const B& signed_bytes) {
    EACH for (int j = 4 * i; j < 4 * i + 4; ++j) {
        sums.v[i] += static_cast<int32_t>(unsigned_bytes.v[j]) * static_cast<int8_t>(signed_bytes.v[j]);
    }
    return sums;
}
inline F to_float(I x) {
    F r;
    EACH r.v[i] = static_cast<float>(x.v[i]);
    return r;
}
inline void prefetch(const void*) {}

#include "attention_kernels.inl"

}  // namespace

const AttentionKernels attention_generic{scratch_bytes, write, attend, merge};

}  // namespace fathom
