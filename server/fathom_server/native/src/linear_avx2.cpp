#define FATHOM_LEVEL avx2
#include "linear_kernels.inl"
