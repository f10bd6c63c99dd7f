// Division of 64-bit indices without its price: a division of 64 bits takes some hundred
// instructions, and a block needs several before it knows what to load.
#pragma once

#include "cuda/kernels.h"

namespace fused_ssim::cuda {

// Numbers that are not negative, bit by bit: it is hardly ever needed, and the compiler's own division
// takes ten times as much code in every kernel.
__device__ __forceinline__ int64_t long_quotient(int64_t dividend, int64_t divisor) {
  const auto by = static_cast<uint64_t>(divisor);
  auto bits = static_cast<uint64_t>(dividend);  // of the dividend, then of the quotient
  uint64_t rest = 0;
#pragma unroll 1
  for (int i = 0; i < 64; ++i) {
    rest = rest << 1 | bits >> 63;
    bits <<= 1;
    if (rest >= by) {
      rest -= by;
      bits |= 1u;
    }
  }
  return static_cast<int64_t>(bits);
}

// By any number; of 32 bits where that will do.
__device__ __forceinline__ int64_t quotient(int64_t dividend, int64_t divisor) {
  if (((dividend | divisor) >> 32) == 0) {
    return static_cast<unsigned>(dividend) / static_cast<unsigned>(divisor);
  }
  return long_quotient(dividend, divisor);
}

// By a number that the host has prepared: dividends below 2^31, and any.
__device__ __forceinline__ int small_quotient(int dividend, const Divisor& by) {
  const auto small = static_cast<unsigned>(dividend);
  return static_cast<int>((__umulhi(small, by.multiplier) + small) >> by.shift);
}
__device__ __forceinline__ int64_t quotient(int64_t dividend, const Divisor& by) {
  if ((dividend >> 31) == 0) {
    return small_quotient(static_cast<int>(dividend), by);
  }
  return long_quotient(dividend, by.divisor);
}

}  // namespace fused_ssim::cuda
