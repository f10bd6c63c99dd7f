#include "torch/build_facts.h"

#include <torch/csrc/stable/version.h>

#include <string>

#include "cpu/levels.h"

namespace fused_ssim {
namespace {

using cpu::Level;

constexpr Level kLevels[] = {Level::kBaseline, Level::kAvx2, Level::kAvx512};

std::string names_of_levels(bool (*wanted)(Level)) {
  std::string names;
  for (const Level level : kLevels) {
    if (wanted(level)) {
      names += names.empty() ? "" : " ";
      names += cpu::level_name(level);
    }
  }
  return names;
}

// "2.10" from torch's encoding of a version: one byte for major, minor, patch, from the top.
std::string version_of(unsigned long long encoded) {
  return std::to_string(encoded >> 56) + "." + std::to_string((encoded >> 48) & 0xff);
}

FusedSsimBuildFacts collect() {
  static const std::string torch_minimum = version_of(TORCH_FEATURE_VERSION);
  static const std::string compiled = names_of_levels(cpu::level_compiled);
  static const std::string supported = names_of_levels(cpu::level_supported);

  FusedSsimBuildFacts facts = {};
  facts.version = FUSED_SSIM_VERSION;
  facts.compiler = FUSED_SSIM_COMPILER;
  facts.torch_version = TORCH_VERSION;
  facts.torch_minimum = torch_minimum.c_str();
  facts.cpu_levels_compiled = compiled.c_str();
  facts.cpu_levels_supported = supported.c_str();
  facts.cpu_level_active = cpu::level_name(cpu::active_level(&facts.cpu_level_error));
#if defined(FUSED_SSIM_CUDA_TOOLKIT)
  facts.cuda_toolkit = FUSED_SSIM_CUDA_TOOLKIT;
  facts.cuda_architectures = FUSED_SSIM_CUDA_ARCHITECTURES;
#endif
  return facts;
}

}  // namespace
}  // namespace fused_ssim

const FusedSsimBuildFacts* fused_ssim_build_facts() {
  static const FusedSsimBuildFacts facts = fused_ssim::collect();
  return &facts;
}
