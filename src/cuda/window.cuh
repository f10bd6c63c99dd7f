// Windows of at most 11 taps, symmetric along both axes, as the tile and marching kernels filter with
// them: the standard one (11 taps, sigma 1.5) as immediates, every other one from the kernel's
// parameters, which lie in constant memory, with zeros around a shorter one.
//
// A filter whose outermost taps are 1 saves a multiplication a pixel. So with the standard window
// filters down the columns take the taps divided by the outermost one (`kEdgeTaps`, gain kEdgeGain),
// as do filters along the rows of all that is multiplied by a pixel: of squares, and of the partial
// derivatives by them. The others along the rows take the taps as they are (`kPlainTaps`, gain 1).
// With pixels scaled by kPixelScale, a power of two:
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
// so a gradient times kPixelScale, exactly, is what it would be with plain taps everywhere. The taps
// of a given window are plain everywhere: its gain is 1, and the same holds.
#pragma once

#include "core/taps.h"
#include "cuda/kernels.h"

namespace fused_ssim::cuda {

// What a filter is for: along the rows, of pixels and derivatives by means or of squares and
// derivatives by them; and down the columns.
enum class Filter { kRow, kRowOfSquares, kColumn };

inline constexpr float kPixelScale = 1.0f / 1024.0f;

struct HalfWindow {
  float taps[kHalfWindowTaps] = {};  // from the outermost to the one in the middle
};

inline constexpr HalfWindow kPlainTaps = [] {
  constexpr WindowTaps<float> kWindow =
      round_taps_to_float(gaussian_taps(kDefaultWindowSize, kDefaultSigma));
  HalfWindow half;
  for (int k = 0; k < kHalfWindowTaps; ++k) {
    half.taps[k] = kWindow.taps[k];
  }
  return half;
}();

inline constexpr HalfWindow kEdgeTaps = [] {
  constexpr WindowTaps<double> kWindow = gaussian_taps(kDefaultWindowSize, kDefaultSigma);
  HalfWindow half;
  for (int k = 0; k < kHalfWindowTaps; ++k) {
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

// Tap `k` of 11 is known once the loops are unrolled.
struct StandardWindow {
  static constexpr bool kIsGiven = false;
  static constexpr double kGain = kEdgeGain;

  StandardWindow() = default;
  explicit __device__ __forceinline__ StandardWindow(const StripParams&) {}
  template <Filter kFilter>
  __device__ __forceinline__ float tap(int k) const {
    constexpr HalfWindow kHalf = kFilter == Filter::kRow ? kPlainTaps : kEdgeTaps;
    constexpr float kTap[6] = {kHalf.taps[0], kHalf.taps[1], kHalf.taps[2],
                               kHalf.taps[3], kHalf.taps[4], kHalf.taps[5]};
    return kTap[k <= 5 ? k : 10 - k];
  }
  template <Filter kFilter>
  static constexpr bool kOutermostIsOne = kFilter != Filter::kRow;
};

struct GivenWindow {
  static constexpr bool kIsGiven = true;
  static constexpr double kGain = 1.0;
  const StripParams& p;

  explicit __device__ __forceinline__ GivenWindow(const StripParams& params) : p(params) {}
  template <Filter kFilter>
  __device__ __forceinline__ float tap(int k) const {
    const float* taps = kFilter == Filter::kColumn ? p.column_taps : p.row_taps;
    return taps[k <= 5 ? k : 10 - k];
  }
  template <Filter kFilter>
  static constexpr bool kOutermostIsOne = false;
};

// Moments are those of an image scaled by this.
template <class Window>
inline constexpr double kMomentScale = static_cast<double>(kPixelScale) * Window::kGain;

// `sum` and the product of `value` and tap `k`; the first tap begins the sum.
template <Filter kFilter, class Window>
__device__ __forceinline__ float add_product(const Window& window, float value, int k, float sum) {
  constexpr bool kIsOne = Window::template kOutermostIsOne<kFilter>;
  if (k == 0) {
    return kIsOne ? value : value * window.template tap<kFilter>(0);
  }
  return kIsOne && k == 10 ? value + sum : fmaf(value, window.template tap<kFilter>(k), sum);
}

// Adds input `i` of a row of inputs to the windows that see it, of which the o-th begins at input o.
// Called for one input after the other.
template <Filter kFilter, class Window>
__device__ __forceinline__ void add_input(const Window& window, float value, int i, int o,
                                          float* out) {
  const int k = i - o;
  if (k >= 0 && k < kDefaultWindowSize) {
    *out = add_product<kFilter>(window, value, k, *out);
  }
}

// What a filter makes of an image that is `value` everywhere, rounding and all: filters add up the
// taps in this order, or in the opposite one, which is the same.
template <Filter kFilter, class Window>
__device__ __forceinline__ float filtered_once(const Window& window, float value) {
  float sum = 0.0f;
#pragma unroll
  for (int k = 0; k < kDefaultWindowSize; ++k) {
    sum = add_product<kFilter>(window, value, k, sum);
  }
  return sum;
}
// What filters along rows and down columns make of an image that is `value` everywhere.
template <class Window>
__device__ __forceinline__ float filtered_constant(const Window& window, float value) {
  return filtered_once<Filter::kColumn>(window, filtered_once<Filter::kRow>(window, value));
}

}  // namespace fused_ssim::cuda
