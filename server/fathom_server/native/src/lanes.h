// Sixteen floats or integers at once, in whatever registers this translation unit is compiled for.
//
// Every operation gives the same bits at every instruction set: products and sums are fused exactly where fma() is
// written. All names here have internal linkage, since the same header is compiled several times with other flags and the
// linker must never merge the results.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace fathom {
namespace {

#if defined(__AVX512F__)

struct I16 {
    __m512i v;

    static I16 load(const int32_t* from) { return {_mm512_loadu_si512(from)}; }
    static I16 widen(const uint8_t* from) {
        return {_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))};
    }
    static I16 set(int32_t value) { return {_mm512_set1_epi32(value)}; }
    void store(int32_t* to) const { _mm512_storeu_si512(to, v); }
    // The low byte of each lane.
    void narrow(int8_t* to) const { _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(v)); }
};
inline I16 operator+(I16 a, I16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline I16 operator-(I16 a, I16 b) { return {_mm512_sub_epi32(a.v, b.v)}; }
inline I16 operator*(I16 a, I16 b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
inline I16 maximum(I16 a, I16 b) { return {_mm512_max_epi32(a.v, b.v)}; }

struct F16 {
    __m512 v;

    static F16 load(const float* from) { return {_mm512_loadu_ps(from)}; }
    static F16 set(float value) { return {_mm512_set1_ps(value)}; }
    void store(float* to) const { _mm512_storeu_ps(to, v); }
};
inline F16 operator+(F16 a, F16 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F16 operator-(F16 a, F16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F16 operator*(F16 a, F16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F16 operator/(F16 a, F16 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F16 fma(F16 a, F16 b, F16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
// a > b ? a : b, so that a NaN in b stays
inline F16 maximum(F16 a, F16 b) { return {_mm512_max_ps(a.v, b.v)}; }
inline F16 minimum(F16 a, F16 b) { return {_mm512_min_ps(a.v, b.v)}; }
inline F16 round_even(F16 a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline F16 to_float(I16 a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline I16 to_int(F16 a) { return {_mm512_cvtps_epi32(a.v)}; }
inline I16 bits(F16 a) { return {_mm512_castps_si512(a.v)}; }
inline F16 from_bits(I16 a) { return {_mm512_castsi512_ps(a.v)}; }
inline I16 shift_left_23(I16 a) { return {_mm512_slli_epi32(a.v, 23)}; }
inline I16 operator&(I16 a, I16 b) { return {_mm512_and_si512(a.v, b.v)}; }
inline I16 operator|(I16 a, I16 b) { return {_mm512_or_si512(a.v, b.v)}; }

#elif defined(__AVX2__)

struct I16 {
    __m256i v[2];

    static I16 load(const int32_t* from) {
        const __m256i* at = reinterpret_cast<const __m256i*>(from);
        return {{_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1)}};
    }
    static I16 widen(const uint8_t* from) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
        return {{_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8))}};
    }
    static I16 set(int32_t value) { return {{_mm256_set1_epi32(value), _mm256_set1_epi32(value)}}; }
    void store(int32_t* to) const {
        __m256i* at = reinterpret_cast<__m256i*>(to);
        _mm256_storeu_si256(at, v[0]);
        _mm256_storeu_si256(at + 1, v[1]);
    }
    void narrow(int8_t* to) const {
        // all values fit a byte here, so saturating twice changes none
        const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(v[0], v[1]), 0xD8);
        const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes);
    }
};

struct F16 {
    __m256 v[2];

    static F16 load(const float* from) { return {{_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}}; }
    static F16 set(float value) { return {{_mm256_set1_ps(value), _mm256_set1_ps(value)}}; }
    void store(float* to) const {
        _mm256_storeu_ps(to, v[0]);
        _mm256_storeu_ps(to + 8, v[1]);
    }
};

#define FATHOM_BOTH(expression0, expression1) \
    { { expression0, expression1 } }
inline I16 operator+(I16 a, I16 b) {
    return FATHOM_BOTH(_mm256_add_epi32(a.v[0], b.v[0]), _mm256_add_epi32(a.v[1], b.v[1]));
}
inline I16 operator-(I16 a, I16 b) {
    return FATHOM_BOTH(_mm256_sub_epi32(a.v[0], b.v[0]), _mm256_sub_epi32(a.v[1], b.v[1]));
}
inline I16 operator*(I16 a, I16 b) {
    return FATHOM_BOTH(_mm256_mullo_epi32(a.v[0], b.v[0]), _mm256_mullo_epi32(a.v[1], b.v[1]));
}
inline I16 operator&(I16 a, I16 b) {
    return FATHOM_BOTH(_mm256_and_si256(a.v[0], b.v[0]), _mm256_and_si256(a.v[1], b.v[1]));
}
inline I16 operator|(I16 a, I16 b) {
    return FATHOM_BOTH(_mm256_or_si256(a.v[0], b.v[0]), _mm256_or_si256(a.v[1], b.v[1]));
}
inline I16 maximum(I16 a, I16 b) {
    return FATHOM_BOTH(_mm256_max_epi32(a.v[0], b.v[0]), _mm256_max_epi32(a.v[1], b.v[1]));
}
inline I16 shift_left_23(I16 a) { return FATHOM_BOTH(_mm256_slli_epi32(a.v[0], 23), _mm256_slli_epi32(a.v[1], 23)); }
inline F16 operator+(F16 a, F16 b) {
    return FATHOM_BOTH(_mm256_add_ps(a.v[0], b.v[0]), _mm256_add_ps(a.v[1], b.v[1]));
}
inline F16 operator-(F16 a, F16 b) {
    return FATHOM_BOTH(_mm256_sub_ps(a.v[0], b.v[0]), _mm256_sub_ps(a.v[1], b.v[1]));
}
inline F16 operator*(F16 a, F16 b) {
    return FATHOM_BOTH(_mm256_mul_ps(a.v[0], b.v[0]), _mm256_mul_ps(a.v[1], b.v[1]));
}
inline F16 operator/(F16 a, F16 b) {
    return FATHOM_BOTH(_mm256_div_ps(a.v[0], b.v[0]), _mm256_div_ps(a.v[1], b.v[1]));
}
inline F16 fma(F16 a, F16 b, F16 c) {
    return FATHOM_BOTH(_mm256_fmadd_ps(a.v[0], b.v[0], c.v[0]), _mm256_fmadd_ps(a.v[1], b.v[1], c.v[1]));
}
inline F16 maximum(F16 a, F16 b) {
    return FATHOM_BOTH(_mm256_max_ps(a.v[0], b.v[0]), _mm256_max_ps(a.v[1], b.v[1]));
}
inline F16 minimum(F16 a, F16 b) {
    return FATHOM_BOTH(_mm256_min_ps(a.v[0], b.v[0]), _mm256_min_ps(a.v[1], b.v[1]));
}
inline F16 round_even(F16 a) {
    constexpr int kMode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return FATHOM_BOTH(_mm256_round_ps(a.v[0], kMode), _mm256_round_ps(a.v[1], kMode));
}
inline F16 to_float(I16 a) { return FATHOM_BOTH(_mm256_cvtepi32_ps(a.v[0]), _mm256_cvtepi32_ps(a.v[1])); }
inline I16 to_int(F16 a) { return FATHOM_BOTH(_mm256_cvtps_epi32(a.v[0]), _mm256_cvtps_epi32(a.v[1])); }
inline I16 bits(F16 a) { return FATHOM_BOTH(_mm256_castps_si256(a.v[0]), _mm256_castps_si256(a.v[1])); }
inline F16 from_bits(I16 a) { return FATHOM_BOTH(_mm256_castsi256_ps(a.v[0]), _mm256_castsi256_ps(a.v[1])); }
#undef FATHOM_BOTH

#else

template <typename Made, typename Each>
inline Made each_lane(Each&& each) {
    Made made;
    for (int lane = 0; lane < 16; ++lane) made.v[lane] = each(lane);
    return made;
}

struct I16 {
    int32_t v[16];

    static I16 load(const int32_t* from) {
        return each_lane<I16>([=](int lane) { return from[lane]; });
    }
    static I16 widen(const uint8_t* from) {
        return each_lane<I16>([=](int lane) { return static_cast<int32_t>(from[lane]); });
    }
    static I16 set(int32_t value) {
        return each_lane<I16>([=](int) { return value; });
    }
    void store(int32_t* to) const { std::memcpy(to, v, sizeof v); }
    void narrow(int8_t* to) const {
        for (int lane = 0; lane < 16; ++lane) to[lane] = static_cast<int8_t>(v[lane]);
    }
};

struct F16 {
    float v[16];

    static F16 load(const float* from) {
        return each_lane<F16>([=](int lane) { return from[lane]; });
    }
    static F16 set(float value) {
        return each_lane<F16>([=](int) { return value; });
    }
    void store(float* to) const { std::memcpy(to, v, sizeof v); }
};

// integers wrap around as the vector instructions do
inline int32_t wrapped(uint32_t value) { return static_cast<int32_t>(value); }
inline I16 operator+(I16 a, I16 b) {
    return each_lane<I16>([&](int i) { return wrapped(static_cast<uint32_t>(a.v[i]) + static_cast<uint32_t>(b.v[i])); });
}
inline I16 operator-(I16 a, I16 b) {
    return each_lane<I16>([&](int i) { return wrapped(static_cast<uint32_t>(a.v[i]) - static_cast<uint32_t>(b.v[i])); });
}
inline I16 operator*(I16 a, I16 b) {
    return each_lane<I16>([&](int i) { return wrapped(static_cast<uint32_t>(a.v[i]) * static_cast<uint32_t>(b.v[i])); });
}
inline I16 operator&(I16 a, I16 b) {
    return each_lane<I16>([&](int i) { return a.v[i] & b.v[i]; });
}
inline I16 operator|(I16 a, I16 b) {
    return each_lane<I16>([&](int i) { return a.v[i] | b.v[i]; });
}
inline I16 maximum(I16 a, I16 b) {
    return each_lane<I16>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline I16 shift_left_23(I16 a) {
    return each_lane<I16>([&](int i) { return wrapped(static_cast<uint32_t>(a.v[i]) << 23); });
}
inline F16 operator+(F16 a, F16 b) {
    return each_lane<F16>([&](int i) { return a.v[i] + b.v[i]; });
}
inline F16 operator-(F16 a, F16 b) {
    return each_lane<F16>([&](int i) { return a.v[i] - b.v[i]; });
}
inline F16 operator*(F16 a, F16 b) {
    return each_lane<F16>([&](int i) { return a.v[i] * b.v[i]; });
}
inline F16 operator/(F16 a, F16 b) {
    return each_lane<F16>([&](int i) { return a.v[i] / b.v[i]; });
}
inline F16 fma(F16 a, F16 b, F16 c) {
    return each_lane<F16>([&](int i) { return std::fma(a.v[i], b.v[i], c.v[i]); });
}
inline F16 maximum(F16 a, F16 b) {
    return each_lane<F16>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline F16 minimum(F16 a, F16 b) {
    return each_lane<F16>([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline F16 round_even(F16 a) {
    return each_lane<F16>([&](int i) { return std::nearbyint(a.v[i]); });
}
inline F16 to_float(I16 a) {
    return each_lane<F16>([&](int i) { return static_cast<float>(a.v[i]); });
}
// What a lane that is no number or too large becomes is of no matter, but converting one is undefined.
inline I16 to_int(F16 a) {
    return each_lane<I16>([&](int i) {
        return std::fabs(a.v[i]) < 2147483648.0f ? static_cast<int32_t>(std::nearbyint(a.v[i])) : INT32_MIN;
    });
}
inline I16 bits(F16 a) {
    I16 made;
    std::memcpy(&made, &a, sizeof made);
    return made;
}
inline F16 from_bits(I16 a) {
    F16 made;
    std::memcpy(&made, &a, sizeof made);
    return made;
}

#endif

// The lanes' sum, always in the same tree: 16, 8, 4, 2, 1.
inline float sum(F16 a) {
    float lanes[16];
    a.store(lanes);
    for (int half = 8; half > 0; half /= 2) {
        for (int lane = 0; lane < half; ++lane) lanes[lane] = lanes[lane] + lanes[lane + half];
    }
    return lanes[0];
}

inline int32_t sum(I16 a) {
    int32_t lanes[16];
    a.store(lanes);
    int32_t total = 0;
    for (int32_t lane : lanes) total += lane;
    return total;
}

inline int32_t largest(I16 a) {
    int32_t lanes[16];
    a.store(lanes);
    int32_t found = lanes[0];
    for (int32_t lane : lanes) found = lane > found ? lane : found;
    return found;
}

// The first `count` (at most 16) values, zeros behind them.
inline F16 load_some(const float* from, int64_t count) {
    if (count >= 16) return F16::load(from);
    float lanes[16] = {};
    std::memcpy(lanes, from, static_cast<size_t>(count) * sizeof(float));
    return F16::load(lanes);
}

inline void store_some(F16 value, float* to, int64_t count) {
    if (count >= 16) return value.store(to);
    float lanes[16];
    value.store(lanes);
    std::memcpy(to, lanes, static_cast<size_t>(count) * sizeof(float));
}

// e to the x over the range of normal float32, to 1.2 units in the last place (Cody and Waite's reduction, Cephes' polynomial).
inline F16 exponential(F16 x) {
    x = minimum(F16::set(88.37f), maximum(F16::set(-87.33f), x));
    const F16 power = round_even(x * F16::set(1.44269504f));
    F16 rest = fma(power, F16::set(-0.693359375f), x);
    rest = fma(power, F16::set(2.12194440e-4f), rest);
    F16 series = F16::set(1.9875691500e-4f);
    series = fma(series, rest, F16::set(1.3981999507e-3f));
    series = fma(series, rest, F16::set(8.3334519073e-3f));
    series = fma(series, rest, F16::set(4.1665795894e-2f));
    series = fma(series, rest, F16::set(1.6666665459e-1f));
    series = fma(series, rest, F16::set(5.0000001201e-1f));
    const F16 result = fma(series, rest * rest, rest) + F16::set(1.0f);
    return result * from_bits(shift_left_23(to_int(power) + I16::set(127)));
}

}  // namespace
}  // namespace fathom
