#include "cpu/level_instance.h"

namespace fused_ssim::cpu {
namespace {

struct Avx2 {
  static constexpr int kVectorBytes = 32;
};

}  // namespace

const LevelFunctions kAvx2Functions = level_functions<Avx2>();

}  // namespace fused_ssim::cpu
