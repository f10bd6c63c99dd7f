// The shift of a tile: means of x and y over 32 of its pixels, so that squares of shifted values stay
// small and variances lose little to cancellation (core/ssim_formula.h).
#pragma once

#include "cuda/image_access.cuh"

namespace fused_ssim::cuda {

template <class T>
struct Shift {
  T x;
  T y;
};

// Samples a 4 x 8 grid over rows [top, bottom) and columns [left, right), none empty. Each warp takes
// the same samples and comes to the same result, so no barrier is needed. Samples that are not finite
// do not count: a NaN in the image must not spread to the windows that don't see it.
template <class T>
__device__ __forceinline__ Shift<T> sample_shift(const char* plane1, const char* plane2,
                                                 const InputImage& img1, const InputImage& img2,
                                                 int64_t top, int64_t bottom, int64_t left,
                                                 int64_t right, DType dtype) {
  const int lane = threadIdx.x % 32;
  const int64_t y = top + (bottom - top) * (2 * (lane / 8) + 1) / 8;
  const int64_t x = left + (right - left) * (2 * (lane % 8) + 1) / 16;
  T sum1 = load_element<T>(plane1 + y * img1.row + x * img1.column, dtype);
  T sum2 = load_element<T>(plane2 + y * img2.row + x * img2.column, dtype);
  const bool usable = isfinite(sum1) && isfinite(sum2);
  sum1 = usable ? sum1 : T(0);
  sum2 = usable ? sum2 : T(0);
#pragma unroll
  for (int distance = 16; distance > 0; distance >>= 1) {
    sum1 += __shfl_xor_sync(0xffffffffu, sum1, distance);
    sum2 += __shfl_xor_sync(0xffffffffu, sum2, distance);
  }
  const int count = __popc(__ballot_sync(0xffffffffu, usable));
  const T factor = count > 0 ? T(1) / T(count) : T(0);
  Shift<T> shift = {sum1 * factor, sum2 * factor};
  if (!isfinite(shift.x) || !isfinite(shift.y)) {
    shift = {T(0), T(0)};
  }
  return shift;
}

}  // namespace fused_ssim::cuda
