// The 11-tap window of sigma 1.5 as immediates.
#pragma once

#include "core/gaussian_window.h"

namespace fused_ssim::cuda {

inline constexpr WindowTaps<float> kDefaultTaps =
    round_taps_to_float(gaussian_taps(kDefaultWindowSize, kDefaultSigma));

// Tap `k`, which is known once the loops are unrolled.
__device__ __forceinline__ float default_tap(int k) {
  constexpr float kTap[6] = {kDefaultTaps.taps[0], kDefaultTaps.taps[1], kDefaultTaps.taps[2],
                             kDefaultTaps.taps[3], kDefaultTaps.taps[4], kDefaultTaps.taps[5]};
  return kTap[k <= 5 ? k : 10 - k];
}

}  // namespace fused_ssim::cuda
