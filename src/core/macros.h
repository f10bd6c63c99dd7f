// Compiler vocabulary shared by host and device code.
#pragma once

// FUSED_SSIM_INLINE marks every function of src/core that kernels call. It must inline: the same
// header is compiled for several instruction sets, and an out-of-line copy built with AVX-512 could
// be the one that the linker keeps for the baseline code. Builds under sanitizers, which stay where
// they are made, define it as `inline`: instrumented functions of that length take GCC minutes.
#if defined(FUSED_SSIM_INLINE)
#elif defined(__CUDACC__)
#define FUSED_SSIM_INLINE __host__ __device__ __forceinline__
#elif defined(_MSC_VER)
#define FUSED_SSIM_INLINE __forceinline
#else
#define FUSED_SSIM_INLINE inline __attribute__((always_inline))
#endif

// The same for what kernels of the CPU alone call.
#if defined(__CUDACC__)
#define FUSED_SSIM_HOST_INLINE inline
#else
#define FUSED_SSIM_HOST_INLINE FUSED_SSIM_INLINE
#endif
