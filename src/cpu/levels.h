// Instruction-set levels that the CPU kernels are compiled for, and the one this process uses.
#pragma once

namespace fused_ssim::cpu {

enum class Level : int { kBaseline, kAvx2, kAvx512 };

inline constexpr const char* kLevelVariable = "FUSED_SSIM_CPU_LEVEL";

const char* level_name(Level level);  // "baseline", "avx2", "avx512"
bool level_compiled(Level level);     // part of this build
bool level_supported(Level level);    // compiled, and this processor and system can run it
// The highest supported level, or the one that the environment variable FUSED_SSIM_CPU_LEVEL names.
// Read once. `error` (may be null) receives a message, or null, where the variable names a level
// that is unknown or cannot run here; the highest supported level is then used.
Level active_level(const char** error = nullptr);

}  // namespace fused_ssim::cpu
