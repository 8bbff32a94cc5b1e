// The vectors of Attention's kernels in AVX2, FMA and F16C, 16 lanes in two registers; whoever includes it defines
// `__m256i add_products(__m256i sums, __m256i unsigned_bytes, __m256i signed_bytes)` first.

struct F {
    __m256 a, b;
};
struct I {
    __m256i a, b;
};
struct B {
    __m256i a, b;
};

struct Tiles {
    static constexpr int queries = 4, key_vectors = 1;
    static constexpr int value_queries = 3, value_vectors = 2;
    static constexpr int widen_beyond = 4;
};

inline F set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline I set1(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline F load(const float* from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
inline void store(float* to, F x) {
    _mm256_storeu_ps(to, x.a);
    _mm256_storeu_ps(to + 8, x.b);
}
inline F operator+(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline F operator-(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline F operator*(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline F operator/(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline F fma(F x, F y, F z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
inline F max(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }  // y where either is NaN
inline F min(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline __m256 nearest(__m256 x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline F nearest(F x) { return {nearest(x.a), nearest(x.b)}; }
inline __m256 power_of_2(__m256 whole) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}
inline F times_power_of_2(F x, F whole) {
    return {_mm256_mul_ps(x.a, power_of_2(whole.a)), _mm256_mul_ps(x.b, power_of_2(whole.b))};
}
inline __m256 zero_below(__m256 x, float limit, __m256 otherwise) {
    return _mm256_andnot_ps(_mm256_cmp_ps(x, _mm256_set1_ps(limit), _CMP_LT_OQ), otherwise);
}
inline F zero_below(F x, float limit, F otherwise) {
    return {zero_below(x.a, limit, otherwise.a), zero_below(x.b, limit, otherwise.b)};
}
inline __m256 keep(__m256 x, float fill, int first, int end, __m256i lanes) {
    const __m256i below = _mm256_cmpgt_epi32(_mm256_set1_epi32(first), lanes);
    const __m256i inside = _mm256_andnot_si256(below, _mm256_cmpgt_epi32(_mm256_set1_epi32(end), lanes));
    return _mm256_blendv_ps(_mm256_set1_ps(fill), x, _mm256_castsi256_ps(inside));
}
// Lanes first ... end - 1; both may lie beyond the 16.
inline F keep(F x, float fill, int first, int end) {
    return {keep(x.a, fill, first, end, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)),
            keep(x.b, fill, first, end, _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15))};
}
inline float max_of(F x) {
    const __m256 a = _mm256_max_ps(x.a, x.b);
    const __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 c = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}
inline float sum(F x) {
    const __m256 a = _mm256_add_ps(x.a, x.b);
    const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
template <int Stride>
inline __m256 butterfly(__m256 x) {
    const __m256 swapped = Stride == 4   ? _mm256_permute2f128_ps(x, x, 1)
                           : Stride == 2 ? _mm256_permute_ps(x, 0x4e)
                                         : _mm256_permute_ps(x, 0xb1);
    constexpr int second = Stride == 4 ? 0xf0 : Stride == 2 ? 0xcc : 0xaa;
    return _mm256_blend_ps(_mm256_add_ps(swapped, x), _mm256_sub_ps(swapped, x), second);
}
// In runs of 2 * Stride lanes: the sums of both halves, then their differences.
template <int Stride>
inline F butterfly(F x) {
    if constexpr (Stride == 8) {
        return {_mm256_add_ps(x.a, x.b), _mm256_sub_ps(x.a, x.b)};
    } else {
        return {butterfly<Stride>(x.a), butterfly<Stride>(x.b)};
    }
}
inline __m256 max_magnitude_bits(__m256 x, __m256 y) {
    const __m256i magnitude = _mm256_and_si256(_mm256_castps_si256(y), _mm256_set1_epi32(0x7fffffff));
    return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(x), magnitude));
}
// The larger magnitudes by their bits, by which NaN is above infinity.
inline F max_magnitude_bits(F x, F y) { return {max_magnitude_bits(x.a, y.a), max_magnitude_bits(x.b, y.b)}; }
inline float max_bits(F x) {
    const __m256i a = _mm256_max_epi32(_mm256_castps_si256(x.a), _mm256_castps_si256(x.b));
    const __m128i b = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    const __m128i c = _mm_max_epi32(b, _mm_shuffle_epi32(b, 0x4e));
    return _mm_cvtss_f32(_mm_castsi128_ps(_mm_max_epi32(c, _mm_shuffle_epi32(c, 0xb1))));
}
// Four int32 of each half's packs, in order.
inline __m256i in_order(__m256i packs) {
    return _mm256_permutevar8x32_epi32(packs, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}
inline void store_int8(int8_t* to, F x) {
    const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b));
    const __m256i bytes = in_order(_mm256_packs_epi16(words, words));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(bytes));
}
inline void store_uint8(uint8_t* to, F x) {
    const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b));
    const __m256i bytes = in_order(_mm256_packus_epi16(words, words));  // NaN: 0
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(bytes));
}
inline F load(const uint16_t* from) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))),
            _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 8)))};
}
inline void store_half(uint16_t* to, F x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
}
inline B load_bytes(const void* from) {
    const __m256i* at = static_cast<const __m256i*>(from);
    return {_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1)};
}
inline B broadcast_bytes(const void* from) {
    int32_t four;
    __builtin_memcpy(&four, from, 4);
    return {_mm256_set1_epi32(four), _mm256_set1_epi32(four)};
}
inline I add_products(I sums, B unsigned_bytes, B signed_bytes) {
    return {add_products(sums.a, unsigned_bytes.a, signed_bytes.a), add_products(sums.b, unsigned_bytes.b, signed_bytes.b)};
}
inline F to_float(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
inline void prefetch(const void* from) { _mm_prefetch(static_cast<const char*>(from), _MM_HINT_T0); }
