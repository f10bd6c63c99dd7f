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

// Maps of partial derivatives that the gradients of `images` images are made of.
constexpr int partial_maps(int images) { return images == 0 ? 0 : images + 2; }

// The statistic of a pixel, and for 1 or 2 images its partial derivatives: by the mean of img1, by
// E[s^2], by E[d^2], and by the mean of img2, with the factors of core/formula.h left out.
template <int kImages, class V>
struct PixelStatistic {
  V loss;  // (1 - statistic) / 2
  V partials[kImages == 0 ? 1 : partial_maps(kImages)];

  FUSED_SSIM_INLINE V value() const { return value_of_loss(loss); }
};

// `kStatistic` where it is known at compile time, or kAnyStatistic.
inline constexpr int kAnyStatistic = -1;
template <int kStatistic, int kImages, class V>
FUSED_SSIM_INLINE PixelStatistic<kImages, V> pixel_statistic(const Moments<V>& m,
                                                             SsimTerms<V> terms,
                                                             const DoubledStabilizers<V>& doubled,
                                                             int32_t statistic = kStatistic) {
  PixelStatistic<kImages, V> pixel;
  if constexpr (kStatistic == kAnyStatistic) {
    drop_other_factor(statistic, &terms);
  }
  pixel.loss = statistic_loss<kStatistic>(terms);
  if constexpr (kImages > 0) {
    const SquarePartials<V> q = square_partials<kStatistic>(terms);
    pixel.partials[0] = mean_partial<kStatistic>(m, terms, q, doubled, V(1.0f));
    pixel.partials[1] = q.by_mean_s2;
    pixel.partials[2] = q.by_mean_d2;
    if constexpr (kImages == 2) {
      pixel.partials[3] = mean_partial<kStatistic>(m, terms, q, doubled, V(-1.0f));
    }
  } else {
    pixel.partials[0] = V(0.0f);  // nobody reads it, but it is copied
  }
  return pixel;
}
template <int kStatistic, int kImages, class V>
FUSED_SSIM_INLINE PixelStatistic<kImages, V> pixel_statistic(const Moments<V>& m, V shift_s,
                                                             V shift_d,
                                                             const DoubledStabilizers<V>& doubled,
                                                             int32_t statistic = kStatistic) {
  return pixel_statistic<kStatistic, kImages>(m, ssim_terms(m, shift_s, shift_d, doubled), doubled,
                                              statistic);
}

// ---- masks --------------------------------------------------------------------------------------
// A pixel counts with its mask's number m in [0, 1]. One with m = 0 is that of two equal images
// without a derivative, whatever stands there: everything is selected, since 0 NaN is NaN. In
// "normalized" windows weigh their pixels by m, too: a mean is E[m x] / E[m], and where E[m] is 0
// the pixel is again that of equal images.

// A mask's number as it counts: what is negative or NaN is 0.
template <class V>
FUSED_SSIM_INLINE V mask_number(V given) {
  return select_positive(given, given, V(0.0f));
}

// 1 / E[m], and 0 where a window sees nothing, or no more than what has no reciprocal in float32.
template <class V>
FUSED_SSIM_INLINE V reciprocal_of_seen(V seen) {
  return select_positive(seen - V(1e-36f), reciprocal(seen), V(0.0f));
}

// `counts`: positive where the pixel has a number. `partial_weight`: what its derivatives count with.
template <int kImages, class V>
FUSED_SSIM_INLINE void mask_pixel(V counts, V partial_weight, PixelStatistic<kImages, V>* pixel) {
  pixel->loss = select_positive(counts, pixel->loss, V(0.0f));
  if constexpr (kImages > 0) {
    for (V& partial : pixel->partials) {
      partial = select_positive(counts, partial * partial_weight, V(0.0f));
    }
  }
}

// What kernels subtract from each S that a mask weighs, and add to the mean again: a mean of ones is
// then 1, and none exceeds 1, however the mask's sum was rounded. Over nothing it remains.
constexpr double masked_statistic_base(const Request& request) {
  return request.reduction == FUSED_SSIM_SUM ? 0.0 : 1.0;
}

// What the parts of a gradient are multiplied by: the weights over the reduction's divisor, with
// the factors that core/formula.h and the square's derivative leave out.
struct GradientFactors {
  double statistic;
  double l1;
  double l2;
};
constexpr GradientFactors gradient_factors(const Request& request, double divisor) {
  return {4.0 * request.statistic_weight / divisor, request.l1_weight / divisor,
          2.0 * request.l2_weight / divisor};
}
constexpr GradientFactors gradient_factors(const Problem& problem, const Request& request) {
  return gradient_factors(request, gradient_divisor(problem, request));
}
// Those of a plane: with a mask each value has a divisor of its own.
FUSED_SSIM_HOST_INLINE constexpr GradientFactors gradient_factors(const Problem& problem,
                                                                  const Request& request,
                                                                  int64_t plane) {
  const int64_t value = plane / planes_per_value(request.reduction, problem.sizes);
  return gradient_factors(
      request, gradient_is_of_sum(request) ? 1.0 : reduction_divisor(problem, request, value));
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

// 2 C1 and 2 C2 of the problem's statistic, for moments of images scaled by `scale`. Contrast times
// structure is SSIM where the luminance is 1, and luminance SSIM where the other factor is: a
// stabilizer far above all sums makes a factor 1 and its derivatives 0, to the last bit, so kernels
// need no code for either. The same where there is no variance: beside so large a C2 the rounding of
// E[s^2] - E[s]^2 is nothing.
template <class T>
constexpr DoubledStabilizers<T> doubled_stabilizers(const Problem& problem, double scale = 1.0) {
  constexpr double kSmall = 0x1p120;  // of float32; its square need not be a number
  constexpr double kDominant = sizeof(T) == 4 ? kSmall : kSmall * kSmall * kSmall;
  const double c1 = problem.statistic == FUSED_SSIM_STATISTIC_CONTRAST
                        ? kDominant
                        : 2.0 * problem.c1 * scale * scale;
  const double c2 = problem.statistic == FUSED_SSIM_STATISTIC_LUMINANCE || !has_variance(problem)
                        ? kDominant
                        : 2.0 * problem.c2 * scale * scale;
  return {static_cast<T>(c1), static_cast<T>(c2)};
}

// Sums over pixels: of the statistic, of |x - y|, of (x - y)^2. With a mask each is weighted by it, and
// of the statistic what exceeds masked_statistic_base() is added up.
struct PixelSums {
  double statistic;
  double absolute;
  double squares;
};
constexpr double reduced_value(const Problem& problem, const Request& request,
                               const PixelSums& sums, double divisor) {
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
  const double base = has_mask(problem) ? masked_statistic_base(request) : 0.0;
  return (request.offset + request.statistic_weight * base) + sum / divisor;
}

}  // namespace fused_ssim
