// Where a pixel becomes numbers: its moments a statistic and partial derivatives, the difference of
// its two values the L1 and L2 parts of the loss, and sums over pixels a value. On scalars and on
// vectors, for CPU and CUDA.
//
// The loss of a pixel is f = statistic_weight * S + l1_weight * |x - y| + l2_weight * (x - y)^2.
// A weight of 0 leaves its part out instead of multiplying it by 0: it may be NaN.
#pragma once

#include "core/formula.h"
#include "core/problem.h"

namespace fused_ssim {

// 2 C1 and 2 C2 of the kernels that know SSIM alone, for which the problem's statistic is an SSIM
// with one stabiliser so large that the other factor is 1 to the last bit and its derivative
// nothing: luminance where 2 C1 exceeds every square of a sum of pixels by more than the arithmetic
// resolves, contrast where 2 C2 does. A power of two, whose reciprocal is exact; the square of that
// may vanish.
template <class T>
constexpr DoubledStabilizers<T> doubled_stabilizers(const Problem& problem) {
  constexpr double kLarge = sizeof(T) == sizeof(double) ? 0x1p300 : 0x1p120;
  return {static_cast<T>(problem.statistic == FUSED_SSIM_STATISTIC_CONTRAST ? kLarge
                                                                            : 2.0 * problem.c1),
          static_cast<T>(problem.statistic == FUSED_SSIM_STATISTIC_LUMINANCE ? kLarge
                                                                             : 2.0 * problem.c2)};
}

// Maps of partial derivatives that the gradients of `images` images are made of.
constexpr int partial_maps(int images) { return images == 0 ? 0 : images + 2; }

// The statistic of a pixel, and for 1 or 2 images its partial derivatives: by the mean of img1, by
// E[s^2], by E[d^2], and by the mean of img2, with the factors of core/formula.h left out.
template <int kImages, class V>
struct PixelStatistic {
  V value;
  V partials[kImages == 0 ? 1 : partial_maps(kImages)];
};

template <int kStatistic, int kImages, class V>
FUSED_SSIM_INLINE PixelStatistic<kImages, V> pixel_statistic(const Moments<V>& m, V shift_s,
                                                             V shift_d,
                                                             const DoubledStabilizers<V>& doubled) {
  PixelStatistic<kImages, V> pixel;
  const SsimTerms<V> terms = ssim_terms(m, shift_s, shift_d, doubled);
  pixel.value = statistic_value<kStatistic>(terms);
  if constexpr (kImages > 0) {
    const SquarePartials<V> q = square_partials<kStatistic>(terms);
    pixel.partials[0] = mean_partial<kStatistic>(m, terms, q, doubled, V(1.0f));
    pixel.partials[1] = q.by_mean_s2;
    pixel.partials[2] = q.by_mean_d2;
    if constexpr (kImages == 2) {
      pixel.partials[3] = mean_partial<kStatistic>(m, terms, q, doubled, V(-1.0f));
    }
  }
  return pixel;
}

// What the parts of a gradient are multiplied by: the weights over the reduction's divisor, with
// the factors that core/formula.h and the square's derivative leave out.
struct GradientFactors {
  double statistic;
  double l1;
  double l2;
};
constexpr GradientFactors gradient_factors(const Problem& problem, const Request& request) {
  const double divisor = gradient_divisor(problem, request);
  return {4.0 * request.statistic_weight / divisor, request.l1_weight / divisor,
          2.0 * request.l2_weight / divisor};
}

// The derivative of the L1 and L2 parts by x, where difference = x - y; by y it is the negative.
template <class T>
FUSED_SSIM_INLINE T difference_gradient(T difference, T l1_factor, T l2_factor) {
  T gradient = T(0);
  if (l1_factor != T(0)) {
    // sign(0) = 0, and NaN stays NaN.
    const T sign = difference > T(0) ? T(1) : difference < T(0) ? T(-1) : T(0) * difference;
    gradient += l1_factor * sign;
  }
  if (l2_factor != T(0)) {
    gradient += l2_factor * difference;
  }
  return gradient;
}

// Sums over pixels: of the statistic, of |x - y|, of (x - y)^2.
struct PixelSums {
  double statistic;
  double absolute;
  double squares;
};
constexpr double reduced_value(const Request& request, const PixelSums& sums, double divisor) {
  double sum = 0.0;
  if (request.statistic_weight != 0.0) {
    sum += request.statistic_weight * sums.statistic;
  }
  if (request.l1_weight != 0.0) {
    sum += request.l1_weight * sums.absolute;
  }
  if (request.l2_weight != 0.0) {
    sum += request.l2_weight * sums.squares;
  }
  return request.offset + sum / divisor;
}

}  // namespace fused_ssim
