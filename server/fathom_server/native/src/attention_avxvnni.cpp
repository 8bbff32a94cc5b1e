// The kernels of Attention in AVX2 with AVX-VNNI.
#include <immintrin.h>

#include "attention_step.h"

namespace fathom {

namespace {

inline __m256i add_products(__m256i sums, __m256i unsigned_bytes, __m256i signed_bytes) {
    return _mm256_dpbusd_avx_epi32(sums, unsigned_bytes, signed_bytes);
}

#include "attention_avx2.inl"
#include "attention_kernels.inl"

}  // namespace

const AttentionKernels attention_avxvnni{scratch_bytes, write, attend, merge};

}  // namespace fathom
