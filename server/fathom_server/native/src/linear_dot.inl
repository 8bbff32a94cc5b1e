// 64 bytes of unsigned weights against four signed activations that sixteen columns share, at each instruction set.
#include <cstring>

#include "lanes.h"

namespace fathom {
namespace {

// Row tiles hold their sums in registers: rows x kVectors vectors of 16 columns of a panel.
#if defined(__AVX512F__)

constexpr int kVectors = 2;
constexpr int kIntegerRows = 12;  // 24 sums, 2 weights, 1 activation
constexpr int kBlockRows = 6;     // 12 sums, 12 float sums

// 64 bytes of weights against 4 activations that all columns share: sums of 4 products, added to 16 columns.
struct Dot {
    __m512i weights;
    using Shared = __m512i;
    static Dot load(const uint8_t* from) { return {_mm512_loadu_si512(from)}; }
    static Shared share(const int8_t* four) {
        int32_t word;
        std::memcpy(&word, four, sizeof word);
        return _mm512_set1_epi32(word);
    }
    I16 add(I16 sum, Shared shared) const {
        // GCC 12 copies the sums of a tile around the loop where the intrinsic is used
        asm("vpdpbusd %2, %1, %0" : "+v"(sum.v) : "v"(weights), "v"(shared));
        return sum;
    }
};
using NibbleDot = Dot;

struct Nibbles {
    NibbleDot low, high;
    static Nibbles load(const uint8_t* from) {
        const __m512i both = _mm512_loadu_si512(from), mask = _mm512_set1_epi8(15);
        return {{_mm512_and_si512(both, mask)}, {_mm512_and_si512(_mm512_srli_epi16(both, 4), mask)}};
    }
};

#elif defined(__AVX2__)

constexpr int kVectors = 1;

#if defined(__AVXVNNI__)
constexpr int kIntegerRows = 6;  // 12 sums, 2 weights, 1 activation
constexpr int kBlockRows = 3;

struct Dot {
    __m256i weights[2];
    using Shared = __m256i;
    static Dot load(const uint8_t* from) {
        const __m256i* at = reinterpret_cast<const __m256i*>(from);
        return {{_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1)}};
    }
    static Shared share(const int8_t* four) {
        int32_t word;
        std::memcpy(&word, four, sizeof word);
        return _mm256_set1_epi32(word);
    }
    I16 add(I16 sum, Shared shared) const {
        return {{_mm256_dpbusd_avx_epi32(sum.v[0], weights[0], shared),
                 _mm256_dpbusd_avx_epi32(sum.v[1], weights[1], shared)}};
    }
};
using NibbleDot = Dot;
#else
constexpr int kIntegerRows = 4;
constexpr int kBlockRows = 2;

// Bytes with even and odd k apart, as 16-bit numbers: sums of two products fit 32 bits, which vpmaddubsw's do not.
struct Dot {
    __m256i even[2], odd[2];
    struct Shared {
        __m256i even, odd;
    };
    static Dot load(const uint8_t* from) {
        Dot made;
        const __m256i mask = _mm256_set1_epi16(255);
        for (int half = 0; half < 2; ++half) {
            const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from) + half);
            made.even[half] = _mm256_and_si256(both, mask);
            made.odd[half] = _mm256_srli_epi16(both, 8);
        }
        return made;
    }
    static Shared share(const int8_t* four) {
        int32_t word;
        std::memcpy(&word, four, sizeof word);
        const __m256i both = _mm256_set1_epi32(word);
        return {_mm256_srai_epi16(_mm256_slli_epi16(both, 8), 8), _mm256_srai_epi16(both, 8)};
    }
    I16 add(I16 sum, const Shared& shared) const {
        for (int half = 0; half < 2; ++half) {
            const __m256i products = _mm256_add_epi32(_mm256_madd_epi16(even[half], shared.even),
                                                      _mm256_madd_epi16(odd[half], shared.odd));
            sum.v[half] = _mm256_add_epi32(sum.v[half], products);
        }
        return sum;
    }
};

// Weights of at most 15: two products fit 16 bits.
struct NibbleDot {
    __m256i weights[2];
    using Shared = __m256i;
    static Shared share(const int8_t* four) {
        int32_t word;
        std::memcpy(&word, four, sizeof word);
        return _mm256_set1_epi32(word);
    }
    I16 add(I16 sum, Shared shared) const {
        const __m256i ones = _mm256_set1_epi16(1);
        for (int half = 0; half < 2; ++half) {
            const __m256i products = _mm256_madd_epi16(_mm256_maddubs_epi16(weights[half], shared), ones);
            sum.v[half] = _mm256_add_epi32(sum.v[half], products);
        }
        return sum;
    }
};
#endif

struct Nibbles {
    NibbleDot low, high;
    static Nibbles load(const uint8_t* from) {
        Nibbles made;
        const __m256i mask = _mm256_set1_epi8(15);
        for (int half = 0; half < 2; ++half) {
            const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from) + half);
            made.low.weights[half] = _mm256_and_si256(both, mask);
            made.high.weights[half] = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
        }
        return made;
    }
};

#else

constexpr int kVectors = 1;
constexpr int kIntegerRows = 2;
constexpr int kBlockRows = 1;

struct Dot {
    uint8_t weights[64];
    struct Shared {
        int8_t four[4];
    };
    static Dot load(const uint8_t* from) {
        Dot made;
        std::memcpy(made.weights, from, sizeof made.weights);
        return made;
    }
    static Shared share(const int8_t* four) {
        Shared made;
        std::memcpy(made.four, four, sizeof made.four);
        return made;
    }
    I16 add(I16 sum, Shared shared) const {
        for (int lane = 0; lane < 16; ++lane) {
            int32_t products = 0;
            for (int k = 0; k < 4; ++k) products += static_cast<int32_t>(weights[lane * 4 + k]) * shared.four[k];
            sum.v[lane] = wrapped(static_cast<uint32_t>(sum.v[lane]) + static_cast<uint32_t>(products));
        }
        return sum;
    }
};
using NibbleDot = Dot;

struct Nibbles {
    NibbleDot low, high;
    static Nibbles load(const uint8_t* from) {
        Nibbles made;
        for (int byte = 0; byte < 64; ++byte) {
            made.low.weights[byte] = from[byte] & 15;
            made.high.weights[byte] = static_cast<uint8_t>(from[byte] >> 4);
        }
        return made;
    }
};

#endif

}  // namespace
}  // namespace fathom
