// Which problems' variances are merged along each axis, around each window's own mean, instead of
// taken as E[x^2] - E[x]^2 around a number that many windows share. That is slower, and exact where
// a window sees little of what the number is made of (docs/decisions/0006-accuracy.md).
#pragma once

#include "core/problem.h"
#include "core/taps.h"

namespace fused_ssim {

// Three symmetric taps of images, which losses for depth have.
constexpr bool is_three(const Problem& problem, SpatialAxis axis) {
  return problem.windows[axis].size == 3 && !is_volume(problem) &&
         is_short(problem.windows[kHeight]) && is_short(problem.windows[kWidth]);
}

// Whether a window is hardly more than a few pixels: where its taps' squares add up to more than those
// of a Gaussian with a sigma of 0.93 do. Three taps are left to fast kernels up to a middle one of
// 2/3: on the CPU these are exact there, and on CUDA sums average out what maps would show.
constexpr bool is_narrow(const Problem& problem, SpatialAxis axis) {
  constexpr double kMostSquares = 0.305;
  constexpr double kMostSquaresOfThree = 0.5;
  const Window& window = problem.windows[axis];
  if (window.size == 1) {
    return false;
  }
  double squares = 0.0;
  for (int i = 0; i < window.size; ++i) {
    squares += window.taps[i] * window.taps[i];
  }
  return squares > (is_three(problem, axis) ? kMostSquaresOfThree : kMostSquares);
}

// Whether most of every window lies beyond the image, along all axes that it has taps along.
constexpr bool is_within_window(const Problem& problem) {
  for (int axis = 0; axis < kSpatialAxes; ++axis) {
    const int size = problem.windows[axis].size;
    if (size > 1 && image_size(problem, SpatialAxis(axis)) >= size) {
      return false;
    }
  }
  return true;
}

constexpr bool has_narrow_window(const Problem& problem) {
  return is_narrow(problem, kDepth) || is_narrow(problem, kHeight) || is_narrow(problem, kWidth);
}
constexpr bool has_three_taps(const Problem& problem) {
  return is_three(problem, kHeight) || is_three(problem, kWidth);
}

// `too_narrow`: whether a device's kernels are too inexact for these windows. In float64 there are digits
// to spare, and luminance has no variance.
constexpr bool merges_variances(const Problem& problem, bool too_narrow) {
  return mask_is_normalized(problem) || (!accumulates_in_double(problem) && has_variance(problem) &&
                                         problem.statistic != FUSED_SSIM_STATISTIC_LUMINANCE &&
                                         (too_narrow || is_within_window(problem)));
}

}  // namespace fused_ssim
