// Division of 64-bit indices without its price: a division of 64 bits takes some hundred
// instructions, and a block needs several before it knows what to load.
#pragma once

#include "cuda/kernels.h"

namespace fused_ssim::cuda {

// By any number; of 32 bits where that will do.
__device__ __forceinline__ int64_t quotient(int64_t dividend, int64_t divisor) {
  if (((dividend | divisor) >> 32) == 0) {
    return static_cast<unsigned>(dividend) / static_cast<unsigned>(divisor);
  }
  return dividend / divisor;
}

// By a number that the host has prepared.
__device__ __forceinline__ int64_t quotient(int64_t dividend, const Divisor& by) {
  if ((dividend >> 31) == 0) {
    const auto small = static_cast<unsigned>(dividend);
    return (__umulhi(small, by.multiplier) + small) >> by.shift;
  }
  return dividend / by.divisor;
}

}  // namespace fused_ssim::cuda
