#include "fused_ssim/build_facts.h"

#include <torch/csrc/stable/version.h>

#include <string>

#include "fused_ssim/kernels.h"
#include "fused_ssim/version.h"

namespace {

// "2.10" from torch's encoding of a version: one byte for major, minor, patch, from the top.
std::string version_of(unsigned long long encoded) {
  return std::to_string(encoded >> 56) + "." + std::to_string((encoded >> 48) & 0xff);
}

FusedSsimBuildFacts collect() {
  static const std::string torch_minimum = version_of(TORCH_FEATURE_VERSION);
  const FusedSsimCpuInfo& cpu = *fused_ssim_cpu_info();

  FusedSsimBuildFacts facts = {};
  facts.version = FUSED_SSIM_VERSION;
  facts.compiler = cpu.compiler;
  facts.torch_version = TORCH_VERSION;
  facts.torch_minimum = torch_minimum.c_str();
  facts.cpu_levels_compiled = cpu.levels_compiled;
  facts.cpu_levels_supported = cpu.levels_supported;
  facts.cpu_level_active = cpu.level_active;
  facts.cpu_level_error = cpu.level_error;
#if defined(FUSED_SSIM_CUDA_TOOLKIT)
  facts.cuda_toolkit = FUSED_SSIM_CUDA_TOOLKIT;
  facts.cuda_architectures = FUSED_SSIM_CUDA_ARCHITECTURES;
#endif
  return facts;
}

}  // namespace

const FusedSsimBuildFacts* fused_ssim_build_facts() {
  static const FusedSsimBuildFacts facts = collect();
  return &facts;
}
