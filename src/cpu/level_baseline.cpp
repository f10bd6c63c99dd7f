#include "cpu/level_instance.h"

namespace fused_ssim::cpu {
namespace {

// 16-byte vectors: SSE2 on x86-64, NEON on arm64, whatever the compiler makes of them elsewhere.
struct Baseline {
  static constexpr int kVectorBytes = 16;
};

}  // namespace

const LevelFunctions kBaselineFunctions = level_functions<Baseline>();

}  // namespace fused_ssim::cpu
