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

// The mean over the warp of the lanes that are `usable`, without its smallest and its largest value:
// one outlier, a firefly of a renderer, must not take the shift away from all others.
template <class T>
__device__ __forceinline__ T trimmed_mean(T value, bool usable) {
  constexpr unsigned kAll = 0xffffffffu;
  T smallest = usable ? value : T(INFINITY);
  T largest = usable ? value : -T(INFINITY);
#pragma unroll
  for (int distance = 16; distance > 0; distance >>= 1) {
    smallest = min(smallest, __shfl_xor_sync(kAll, smallest, distance));
    largest = max(largest, __shfl_xor_sync(kAll, largest, distance));
  }
  unsigned kept = __ballot_sync(kAll, usable);
  const unsigned lowest = __ballot_sync(kAll, usable && value == smallest);
  const unsigned highest = __ballot_sync(kAll, usable && value == largest);
  if (smallest < largest && __popc(kept) > 4) {
    kept &= ~(lowest & (0u - lowest)) & ~(highest & (0u - highest));
  }
  T sum = (kept >> threadIdx.x % 32 & 1u) != 0u ? value : T(0);
#pragma unroll
  for (int distance = 16; distance > 0; distance >>= 1) {
    sum += __shfl_xor_sync(kAll, sum, distance);
  }
  return kept != 0u ? sum / T(__popc(kept)) : T(0);
}

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
  T value1 = load_element<T>(plane1 + y * img1.row + x * img1.column, dtype);
  T value2 = load_element<T>(plane2 + y * img2.row + x * img2.column, dtype);
  const bool usable = isfinite(value1) && isfinite(value2);
  Shift<T> shift = {trimmed_mean(value1, usable), trimmed_mean(value2, usable)};
  if (!isfinite(shift.x) || !isfinite(shift.y)) {
    shift = {T(0), T(0)};
  }
  return shift;
}

}  // namespace fused_ssim::cuda
