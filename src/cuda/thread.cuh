// Indices of a thread that take no register between their uses: volatile, so that the compiler
// reads them anew instead of keeping what follows from them.
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

// Ahead of shuffles and votes of a whole warp: where the compiler cannot tell that the warp is whole,
// it adds a second way for each, some twenty instructions. The votes for the shift of
// marching kernels do without: their values of columns that are loaded one by one took 4% longer.
__device__ __forceinline__ void reconverge() { __syncwarp(); }

// Before Hopper it is the other way round: read anew it is one register too many.
__device__ __forceinline__ unsigned grid_blocks() {
#if __CUDA_ARCH__ >= 900
  unsigned blocks;
  asm volatile("mov.u32 %0, %%nctaid.x;" : "=r"(blocks));
  return blocks;
#else
  return gridDim.x;
#endif
}

// Launches that overlap (Hopper and later, launches.h): a kernel lets the next one's blocks begin
// as soon as there is room, and itself touches no memory that others may write or read before those
// of the kernel before are done.
__device__ __forceinline__ void allow_next_launch() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
__device__ __forceinline__ void wait_for_previous_launch() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// The same at the beginning of a kernel that may be of a group (FUSED_SSIM_GROUP_NEXT). Its end waits
// in any case: so what comes behind the last of a group comes behind all of it.
template <class Params>
__device__ __forceinline__ void wait_for_inputs(const Params& p) {
  if (!p.is_beside) {
    wait_for_previous_launch();
  }
}

}  // namespace fused_ssim::cuda
