#include "isa.h"

#include <cstdlib>
#include <string>

#include "ort_api.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace fathom {

namespace {

constexpr const char* kNames[] = {"generic", "avx2", "avxvnni", "avx512vnni"};

Isa best_isa() {
#if defined(__x86_64__)
    // These ask the operating system as well, whether it saves the wide registers.
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return Isa::generic;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni")) {
        return Isa::avx512vnni;
    }
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    if (__get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & (1u << 4))) return Isa::avxvnni;
    return Isa::avx2;
#else
    return Isa::generic;
#endif
}

}  // namespace

Isa chosen_isa() {
    static const Isa best = best_isa();
    const char* asked = std::getenv("FATHOM_NATIVE_ISA");
    if (asked == nullptr || *asked == '\0') return best;
    for (int level = 0; level < 4; ++level) {
        if (std::string(asked) != kNames[level]) continue;
        // A processor with AVX-512 VNNI need not have AVX-VNNI; only the best level and the two below all are certain.
        const bool has = level <= static_cast<int>(best);
#if defined(__x86_64__)
        if (static_cast<Isa>(level) == Isa::avxvnni && best == Isa::avx512vnni) {
            unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
            if (!__get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) || !(eax & (1u << 4))) break;
        }
#endif
        if (has) return static_cast<Isa>(level);
        break;
    }
    throw Failure(std::string("FATHOM_NATIVE_ISA is ") + asked + ", which this processor lacks or nobody knows; it has " +
                  kNames[static_cast<int>(best)] + ", so unset it or name one below (generic, avx2, avxvnni, avx512vnni)");
}

}  // namespace fathom
