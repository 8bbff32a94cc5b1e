// The kernels of Attention in AVX-512 with VNNI.
#include <immintrin.h>

#include "attention_step.h"

namespace fathom {

namespace {

struct F {
    __m512 v;
};
struct I {
    __m512i v;
};
struct B {
    __m512i v;
};

struct Tiles {
    static constexpr int queries = 12, key_vectors = 2;
    static constexpr int value_queries = 6, value_vectors = 4;
    static constexpr int widen_beyond = 12;
};

inline F set1(float x) { return {_mm512_set1_ps(x)}; }
inline I set1(int32_t x) { return {_mm512_set1_epi32(x)}; }
inline F load(const float* from) { return {_mm512_loadu_ps(from)}; }
inline void store(float* to, F x) { _mm512_storeu_ps(to, x.v); }
inline F operator+(F a, F b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F operator-(F a, F b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F operator*(F a, F b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F operator/(F a, F b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F fma(F a, F b, F c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F max(F a, F b) { return {_mm512_max_ps(a.v, b.v)}; }  // the second operand where either is NaN
inline F min(F a, F b) { return {_mm512_min_ps(a.v, b.v)}; }
inline F nearest(F x) { return {_mm512_roundscale_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline F times_power_of_2(F x, F whole) { return {_mm512_scalef_ps(x.v, whole.v)}; }
inline F zero_below(F x, float limit, F otherwise) {
    return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.v, _mm512_set1_ps(limit), _CMP_NLT_UQ), otherwise.v)};
}
// Lanes first ... end - 1; both may lie beyond the 16.
inline F keep(F x, float fill, int first, int end) {
    const uint32_t from = first <= 0 ? 0xffffu : first >= 16 ? 0u : 0xffffu << first;
    const uint32_t until = end >= 16 ? 0xffffu : end <= 0 ? 0u : 0xffffu >> (16 - end);
    return {_mm512_mask_mov_ps(_mm512_set1_ps(fill), static_cast<__mmask16>(from & until), x.v)};
}
inline float max_of(F x) { return _mm512_reduce_max_ps(x.v); }
inline float sum(F x) {
    const __m256 a = _mm256_add_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
    const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
// In runs of 2 * Stride lanes: the sums of both halves, then their differences.
template <int Stride>
inline F butterfly(F x) {
    const __m512 swapped = Stride == 8   ? _mm512_shuffle_f32x4(x.v, x.v, 0x4e)
                           : Stride == 4 ? _mm512_shuffle_f32x4(x.v, x.v, 0xb1)
                           : Stride == 2 ? _mm512_permute_ps(x.v, 0x4e)
                                         : _mm512_permute_ps(x.v, 0xb1);
    constexpr __mmask16 second = Stride == 8 ? 0xff00 : Stride == 4 ? 0xf0f0 : Stride == 2 ? 0xcccc : 0xaaaa;
    return {_mm512_mask_sub_ps(_mm512_add_ps(swapped, x.v), second, swapped, x.v)};
}
// The larger magnitudes by their bits, by which NaN is above infinity.
inline F max_magnitude_bits(F a, F b) {
    const __m512i magnitude = _mm512_and_si512(_mm512_castps_si512(b.v), _mm512_set1_epi32(0x7fffffff));
    return {_mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(a.v), magnitude))};
}
inline float max_bits(F x) {
    return _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(_mm512_reduce_max_epi32(_mm512_castps_si512(x.v)))));
}
inline void store_int8(int8_t* to, F x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(x.v)));
}
inline void store_uint8(uint8_t* to, F x) {
    const __m512i codes = _mm512_max_epi32(_mm512_cvtps_epi32(x.v), _mm512_setzero_si512());  // NaN: 0
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtusepi32_epi8(codes));
}
inline F load(const uint16_t* from) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)))};
}
inline void store_half(uint16_t* to, F x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT));
}
inline B load_bytes(const void* from) { return {_mm512_loadu_si512(from)}; }
inline B broadcast_bytes(const void* from) {
    int32_t four;
    __builtin_memcpy(&four, from, 4);
    return {_mm512_set1_epi32(four)};
}
inline I add_products(I sums, B unsigned_bytes, B signed_bytes) {
    // GCC 12 copies the sums of a tile around the loop where the intrinsic is used.
    asm("vpdpbusd %2, %1, %0" : "+v"(sums.v) : "v"(unsigned_bytes.v), "v"(signed_bytes.v));
    return sums;
}
inline F to_float(I x) { return {_mm512_cvtepi32_ps(x.v)}; }
inline void prefetch(const void* from) { _mm_prefetch(static_cast<const char*>(from), _MM_HINT_T0); }

#include "attention_kernels.inl"

}  // namespace

const AttentionKernels attention_avx512vnni{scratch_bytes, write, attend, merge};

}  // namespace fathom
