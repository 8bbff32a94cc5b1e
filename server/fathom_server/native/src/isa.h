// Which instructions the kernels may use.
#pragma once

namespace fathom {

// Every level computes the same bits; a higher one is faster.
enum class Isa { generic, avx2, avxvnni, avx512vnni };

// The best level of this processor, or the one that FATHOM_NATIVE_ISA names (generic, avx2, avxvnni, avx512vnni).
// Throws Failure where that is unknown or beyond the processor.
Isa chosen_isa();

}  // namespace fathom
