// Indices of a thread that take no register between their uses: volatile, so that the compiler reads them
// anew instead of keeping what follows from them.
#pragma once

namespace fused_ssim::cuda {

__device__ __forceinline__ int thread_index() {
  int index;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
  return index;
}

__device__ __forceinline__ int lane_index() {
  int index;
  asm volatile("mov.u32 %0, %%laneid;" : "=r"(index));
  return index;
}

}  // namespace fused_ssim::cuda
