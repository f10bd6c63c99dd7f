// The shift of a tile: means of x and y over 32 of its pixels, so that squares of shifted values
// stay small and variances lose little to cancellation (core/formula.h).
#pragma once

#include "core/formula.h"
#include "cuda/image_access.cuh"
#include "cuda/thread.cuh"

namespace fused_ssim::cuda {

template <class T>
struct Shift {
  T x;
  T y;
};

// A lane's samples of both images.
template <class T>
struct Samples {
  T x;
  T y;
};

// Where a lane takes its sample, of 4 x 8 over rows [top, bottom) and columns [left, right), none
// empty.
struct SamplePoint {
  int64_t y;
  int64_t x;
};
__device__ __forceinline__ SamplePoint sample_point(int64_t top, int64_t bottom, int64_t left,
                                                    int64_t right) {
  const int lane = lane_index();
  return {top + (bottom - top) * (2 * (lane / 8) + 1) / 8,
          left + (right - left) * (2 * (lane % 8) + 1) / 16};
}

// Where a lane's samples lie in memory.
struct SamplePointers {
  const char* x;
  const char* y;

  static __device__ __forceinline__ SamplePointers of(const char* plane1, const char* plane2,
                                                      const InputImage& img1,
                                                      const InputImage& img2, int64_t top,
                                                      int64_t bottom, int64_t left, int64_t right) {
    const SamplePoint at = sample_point(top, bottom, left, right);
    return {plane1 + at.y * img1.row + at.x * img1.column,
            plane2 + at.y * img2.row + at.x * img2.column};
  }
  // kStays: loaded where this stands (load_element_here()).
  template <class T, Elements kElements = Elements::kAny, bool kStays = false>
  __device__ __forceinline__ Samples<T> load(const InputImage& img1, const InputImage& img2) const {
    if constexpr (kStays) {
      return {load_element_here<T, kElements>(x, img1), load_element_here<T, kElements>(y, img2)};
    }
    return {load_element_of<T, kElements>(x, img1), load_element_of<T, kElements>(y, img2)};
  }
};

// The smallest and the largest of the warp's values, none of which is NaN.
template <class T>
__device__ __forceinline__ T warp_min(T value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance >>= 1) {
    value = min(value, __shfl_xor_sync(0xffffffffu, value, distance));
  }
  return value;
}
#if __CUDA_ARCH__ >= 800
// An integer of the same order.
__device__ __forceinline__ int ordered_bits(int bits) { return bits ^ (bits >> 31 & 0x7fffffff); }
__device__ __forceinline__ float warp_min(float value) {
  return __int_as_float(
      ordered_bits(__reduce_min_sync(0xffffffffu, ordered_bits(__float_as_int(value)))));
}
#endif
template <class T>
__device__ __forceinline__ T warp_max(T value) {
  return -warp_min(-value);
}

// The means over the warp, each without its smallest and its largest sample: one outlier, a firefly
// of a renderer, must not take the shift away from all others. Samples that are not finite do not
// count: a NaN in the image must not spread to the windows that don't see it.
//
// Midway: halfway from there to the middle of the smallest and the largest of the others, for a map,
// whose largest error is that of the pixels farthest from the shift.
template <class T>
__device__ __forceinline__ Shift<T> trimmed_means(const Samples<T>& samples, bool midway) {
  constexpr unsigned kAll = 0xffffffffu;
  const T value[2] = {samples.x, samples.y};
  const bool usable = isfinite(value[0]) && isfinite(value[1]);
  T smallest[2], largest[2], sum[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    smallest[i] = warp_min(usable ? value[i] : T(INFINITY));
    largest[i] = warp_max(usable ? value[i] : -T(INFINITY));
  }
  const unsigned all_usable = __ballot_sync(kAll, usable);
  unsigned kept[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const unsigned lowest = __ballot_sync(kAll, usable && value[i] == smallest[i]);
    const unsigned highest = __ballot_sync(kAll, usable && value[i] == largest[i]);
    kept[i] = all_usable;
    if (smallest[i] < largest[i] && __popc(all_usable) > 4) {
      kept[i] &= ~(lowest & (0u - lowest)) & ~(highest & (0u - highest));
    }
    sum[i] = (kept[i] >> lane_index() & 1u) != 0u ? value[i] : T(0);
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance >>= 1) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      sum[i] += __shfl_xor_sync(kAll, sum[i], distance);
    }
  }
  T means[2] = {kept[0] != 0u ? sum[0] * reciprocal(T(__popc(kept[0]))) : T(0),
                kept[1] != 0u ? sum[1] * reciprocal(T(__popc(kept[1]))) : T(0)};
  if (midway) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const bool is_kept = (kept[i] >> lane_index() & 1u) != 0u;
      const T low = warp_min(is_kept ? value[i] : T(INFINITY));
      const T high = warp_max(is_kept ? value[i] : -T(INFINITY));
      means[i] = T(0.5) * means[i] + T(0.25) * (low + high);
    }
  }
  const bool finite = isfinite(means[0]) && isfinite(means[1]);
  return {finite ? means[0] : T(0), finite ? means[1] : T(0)};
}
template <bool kMidway = false, class T>
__device__ __forceinline__ Shift<T> trimmed_means(const Samples<T>& samples) {
  return trimmed_means(samples, kMidway);
}

}  // namespace fused_ssim::cuda
