// The 11-tap window of sigma 1.5 as immediates, in two scales.
//
// A filter whose outermost taps are 1 saves a multiplication a pixel. So filters down the columns
// take the taps divided by the outermost one (`kEdgeTaps`, gain kEdgeGain), as do filters along the
// rows of all that is multiplied by a pixel: of squares, and of the partial derivatives by them.
// The others along the rows take the taps as they are (`kPlainTaps`, gain 1). With pixels scaled by
// kPixelScale, a power of two:
//
//   means           kPixelScale x 1 x kEdgeGain              = kMomentScale
//   means of squares kPixelScale^2 x kEdgeGain x kEdgeGain   = kMomentScale^2
//
// that is, the moments are those of an image scaled by kMomentScale, exactly consistent with each
// other; with C1 and C2 scaled likewise the SSIM formula does not notice. Its partial derivatives
// by a mean and by a mean of squares are then too large by 1 / kMomentScale and its square, and
//
//   filtered by_mean         1 / kMomentScale   x kEdgeGain x 1         = 1 / kPixelScale
//   filtered by_square, times a pixel
//                            1 / kMomentScale^2 x kEdgeGain x kEdgeGain x kPixelScale = 1 /
//                            kPixelScale
//
// so a gradient times kPixelScale, exactly, is what it would be with plain taps everywhere.
#pragma once

#include "core/taps.h"

namespace fused_ssim::cuda {

enum class Taps { kPlain, kEdge };

struct HalfWindow {
  float taps[6] = {};  // from the outermost to the one in the middle
};

inline constexpr HalfWindow kPlainTaps = [] {
  constexpr WindowTaps<float> kWindow =
      round_taps_to_float(gaussian_taps(kDefaultWindowSize, kDefaultSigma));
  HalfWindow half;
  for (int k = 0; k < 6; ++k) {
    half.taps[k] = kWindow.taps[k];
  }
  return half;
}();

inline constexpr HalfWindow kEdgeTaps = [] {
  constexpr WindowTaps<double> kWindow = gaussian_taps(kDefaultWindowSize, kDefaultSigma);
  HalfWindow half;
  for (int k = 0; k < 6; ++k) {
    half.taps[k] = static_cast<float>(kWindow.taps[k] / kWindow.taps[0]);
  }
  return half;
}();
static_assert(kEdgeTaps.taps[0] == 1.0f, "what it is for");

inline constexpr double kEdgeGain = [] {
  double sum = static_cast<double>(kEdgeTaps.taps[5]);
  for (int k = 0; k < 5; ++k) {
    sum += 2.0 * static_cast<double>(kEdgeTaps.taps[k]);
  }
  return sum;
}();
inline constexpr float kPixelScale = 1.0f / 1024.0f;
inline constexpr double kMomentScale = static_cast<double>(kPixelScale) * kEdgeGain;

// Tap `k`, which is known once the loops are unrolled.
template <Taps kTaps>
__device__ __forceinline__ float window_tap(int k) {
  constexpr HalfWindow kHalf = kTaps == Taps::kPlain ? kPlainTaps : kEdgeTaps;
  constexpr float kTap[6] = {kHalf.taps[0], kHalf.taps[1], kHalf.taps[2],
                             kHalf.taps[3], kHalf.taps[4], kHalf.taps[5]};
  return kTap[k <= 5 ? k : 10 - k];
}

// The first and the last product of a window.
template <Taps kTaps>
__device__ __forceinline__ float outermost_product(float value) {
  return kTaps == Taps::kEdge ? value : value * window_tap<kTaps>(0);
}

// `sum` and the product of `value` and tap `k`, which is not the first.
template <Taps kTaps>
__device__ __forceinline__ float add_product(float value, int k, float sum) {
  return kTaps == Taps::kEdge && k == 10 ? value + sum : fmaf(value, window_tap<kTaps>(k), sum);
}

// What a filter makes of an image that is `value` everywhere, rounding and all: filters add up the
// taps in this order, or in the opposite one, which is the same.
template <Taps kTaps>
__device__ __forceinline__ float filtered_once(float value) {
  float sum = outermost_product<kTaps>(value);
  for (int k = 1; k < kDefaultWindowSize; ++k) {
    sum = add_product<kTaps>(value, k, sum);
  }
  return sum;
}
// The same of the filters along rows and down columns.
__device__ __forceinline__ float filtered_constant(float value) {
  return filtered_once<Taps::kEdge>(filtered_once<Taps::kPlain>(value));
}

}  // namespace fused_ssim::cuda
