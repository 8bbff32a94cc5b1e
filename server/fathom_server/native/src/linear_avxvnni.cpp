#define FATHOM_LEVEL avxvnni
#include "linear_kernels.inl"
