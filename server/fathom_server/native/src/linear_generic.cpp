#define FATHOM_LEVEL generic
#include "linear_kernels.inl"
