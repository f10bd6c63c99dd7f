/// \file
/// How libfused_ssim was built and which CPU level it runs. Plain C and no torch header.
#pragma once

#if defined(_WIN32)
#if defined(fused_ssim_EXPORTS)
#define FUSED_SSIM_EXPORT __declspec(dllexport)
#else
#define FUSED_SSIM_EXPORT __declspec(dllimport)
#endif
#else
#define FUSED_SSIM_EXPORT __attribute__((visibility("default")))
#endif

extern "C" {

/// Strings live as long as the library; lists are separated by spaces; null means "none".
struct FusedSsimBuildFacts {
  const char* version;               ///< of fused_ssim: "0.1.0"
  const char* compiler;              ///< "GNU 13.2.0"
  const char* torch_version;         ///< whose headers it was built with: "2.14.1"
  const char* torch_minimum;         ///< of the stable ABI it is limited to: "2.10"
  const char* cpu_levels_compiled;   ///< "baseline avx2 avx512"
  const char* cpu_levels_supported;  ///< those that this machine can run
  const char* cpu_level_active;      ///< the one in use
  const char* cpu_level_error;       ///< why FUSED_SSIM_CPU_LEVEL was not followed, or null
  const char* cuda_toolkit;          ///< "13.0.88"; null where the CUDA library was not built
  const char* cuda_architectures;    ///< "sm_75 sm_90 compute_90"; likewise
};

FUSED_SSIM_EXPORT const FusedSsimBuildFacts* fused_ssim_build_facts();

}  ///< extern "C"
