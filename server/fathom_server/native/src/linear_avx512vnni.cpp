#define FATHOM_LEVEL avx512vnni
#include "linear_kernels.inl"
