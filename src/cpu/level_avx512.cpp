#include "cpu/level_instance.h"

namespace fused_ssim::cpu {
namespace {

struct Avx512 {
  static constexpr int kVectorBytes = 64;
};

}  // namespace

const LevelFunctions kAvx512Functions = level_functions<Avx512>();

}  // namespace fused_ssim::cpu
