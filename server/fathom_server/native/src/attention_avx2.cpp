// The kernels of Attention in AVX2.
#include <immintrin.h>

#include "attention_step.h"

namespace fathom {

namespace {

// By way of 16 bits: AVX2's own product of bytes saturates.
inline __m256i add_products(__m256i sums, __m256i unsigned_bytes, __m256i signed_bytes) {
    const __m256i low_bytes = _mm256_set1_epi16(0xff);
    const __m256i even = _mm256_madd_epi16(_mm256_and_si256(unsigned_bytes, low_bytes),
                                           _mm256_srai_epi16(_mm256_slli_epi16(signed_bytes, 8), 8));
    const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(unsigned_bytes, 8), _mm256_srai_epi16(signed_bytes, 8));
    return _mm256_add_epi32(sums, _mm256_add_epi32(even, odd));
}

#include "attention_avx2.inl"
#include "attention_kernels.inl"

}  // namespace

const AttentionKernels attention_avx2{scratch_bytes, write, attend, merge};

}  // namespace fathom
