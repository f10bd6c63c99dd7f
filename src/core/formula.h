// The SSIM formula: moments -> luminance and contrast -> the statistic and its partial derivatives.
// Stands once; CPU and CUDA kernels both call it, on float, double, or a SIMD vector.
//
// SSIM (Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to
// structural similarity", IEEE TIP 2004) of images x and y under a window that sums to 1:
//
//   luminance = (2 mean_x mean_y + C1) / (mean_x^2 + mean_y^2 + C1)
//   contrast  = (2 cov_xy + C2) / (var_x + var_y + C2)          (contrast times structure)
//
// computed here from the shifted sum s = x + y - shift_s and difference d = x - y - shift_d:
//
//   sum  = E[s] + shift_s          difference = E[d] + shift_d
//   var_s = E[s^2] - E[s]^2        var_d      = E[d^2] - E[d]^2      (both clamped at 0)
//   luminance = (sum^2 - difference^2 + 2 C1) / (sum^2 + difference^2 + 2 C1)
//             = 1 - 2 luminance_loss
//   luminance_loss = difference^2 / (sum^2 + difference^2 + 2 C1)
//   contrast  = (var_s - var_d + 2 C2) / (var_s + var_d + 2 C2)
//             = 1 - 2 contrast_loss,    contrast_loss = var_d / (var_s + var_d + 2 C2)
//   SSIM      = luminance contrast
//             = 1 - 2 loss,             loss = luminance_loss contrast + contrast_loss
//
// The losses are exact where the images agree, and SSIM never exceeds 1; the shift keeps the
// squares small, so that the subtraction in the variances loses little. The gradient of a bright
// image against a black one hangs on the last digits of a luminance near zero, so there it is a
// quotient whose numerator is (sum + difference) (sum - difference) + 2 C1; and its derivative by
// mean_x,
//
//   d luminance / d mean_x = -4 difference ((sum - difference) sum + 2 C1) / denominator^2,
//   denominator = sum^2 + difference^2 + 2 C1,
//
// takes no difference of quantities that agree (mean_y: with -difference for difference).
//
// Every factor of two stands where it costs nothing: C1 and C2 are passed doubled, the partial
// derivatives are a quarter (by the means) and half (by the squares) of what they are called. The
// gradient of a sum of values follows by filtering them with the same window, mirrored where it is
// not symmetric:
//
//   grad_x = 4 (window * by_mean_x + s (window * by_mean_s2) + d (window * by_mean_d2))
//   grad_y = 4 (window * by_mean_y + s (window * by_mean_s2) - d (window * by_mean_d2))
#pragma once

#include "core/macros.h"
#include "fused_ssim/kernels.h"

namespace fused_ssim {

// Scalars of the arithmetic that vectors replace with lane-wise versions, found by overload.
FUSED_SSIM_INLINE float multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
FUSED_SSIM_INLINE double multiply_add(double a, double b, double c) {
  return __builtin_fma(a, b, c);
}
// max(0, x), and NaN where x is NaN.
FUSED_SSIM_INLINE float clamp_to_nonnegative(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  float result;  // one instruction instead of a comparison and a selection
  asm("max.NaN.f32 %0, %1, 0f00000000;" : "=f"(result) : "f"(x));
  return result;
#else
  return x < 0.0f ? 0.0f : x;
#endif
}
FUSED_SSIM_INLINE double clamp_to_nonnegative(double x) { return x < 0.0 ? 0.0 : x; }
// a where the condition is positive, else b, whatever stands in the other.
template <class T>
FUSED_SSIM_INLINE T select_positive(T condition, T a, T b) {
  return condition > T(0) ? a : b;
}
FUSED_SSIM_INLINE float reciprocal(float x) {
#if defined(__CUDA_ARCH__)
  float result;  // within one unit in the last place; the exact division costs eight times as much
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#else
  return 1.0f / x;
#endif
}
FUSED_SSIM_INLINE double reciprocal(double x) { return 1.0 / x; }

// 2 C1 and 2 C2, where C1 = (k1 data_range)^2 and C2 = (k2 data_range)^2; both positive.
template <class V>
struct DoubledStabilizers {
  V c1;
  V c2;
};

// Windowed means of s, d, s^2 and d^2 at one pixel.
template <class V>
struct Moments {
  V mean_s;
  V mean_d;
  V mean_s2;
  V mean_d2;
};

template <class V>
struct SsimTerms {
  V sum;                   // mean_x + mean_y
  V difference;            // mean_x - mean_y
  V luminance_reciprocal;  // 1 / (sum^2 + difference^2 + 2 C1)
  V scaled_difference;     // difference times that
  V luminance;
  V luminance_loss;  // (1 - luminance) / 2
  V contrast;
  V contrast_loss;        // (1 - contrast) / 2
  V contrast_reciprocal;  // 1 / (var_s + var_d + 2 C2)
};

// Of sums and variances that are all a multiple of what they are called, with stabilizers likewise.
template <class V>
FUSED_SSIM_INLINE SsimTerms<V> ssim_terms(V sum, V difference, V var_s, V var_d,
                                          const DoubledStabilizers<V>& doubled) {
  SsimTerms<V> t;
  t.sum = sum;
  t.difference = difference;
  t.luminance_reciprocal =
      reciprocal(multiply_add(t.sum, t.sum, multiply_add(t.difference, t.difference, doubled.c1)));
  t.scaled_difference = t.difference * t.luminance_reciprocal;
  t.luminance_loss = t.difference * t.scaled_difference;
  t.luminance =
      multiply_add(t.sum + t.difference, t.sum - t.difference, doubled.c1) * t.luminance_reciprocal;
  t.contrast_reciprocal = reciprocal(var_s + (var_d + doubled.c2));
  t.contrast_loss = var_d * t.contrast_reciprocal;
  t.contrast = multiply_add(V(-2.0f), t.contrast_loss, V(1.0f));
  return t;
}
template <class V>
FUSED_SSIM_INLINE SsimTerms<V> ssim_terms(const Moments<V>& m, V shift_s, V shift_d,
                                          const DoubledStabilizers<V>& doubled) {
  const V var_s = clamp_to_nonnegative(multiply_add(-m.mean_s, m.mean_s, m.mean_s2));
  const V var_d = clamp_to_nonnegative(multiply_add(-m.mean_d, m.mean_d, m.mean_d2));
  return ssim_terms(m.mean_s + shift_s, m.mean_d + shift_d, var_s, var_d, doubled);
}

// A statistic that is known at run time alone, as SSIM: the factor that it lacks becomes 1, and its
// derivatives 0.
template <class V>
FUSED_SSIM_INLINE void drop_other_factor(int32_t statistic, SsimTerms<V>* t) {
  if (statistic == FUSED_SSIM_STATISTIC_CONTRAST) {
    t->luminance = V(1.0f);
    t->luminance_loss = V(0.0f);
    t->scaled_difference = V(0.0f);
  } else if (statistic == FUSED_SSIM_STATISTIC_LUMINANCE) {
    t->contrast = V(1.0f);
    t->contrast_loss = V(0.0f);
    t->contrast_reciprocal = V(0.0f);
  }
}

// (1 - statistic) / 2.
template <int kStatistic = FUSED_SSIM_STATISTIC_SSIM, class V>
FUSED_SSIM_INLINE V statistic_loss(const SsimTerms<V>& t) {
  if constexpr (kStatistic == FUSED_SSIM_STATISTIC_CONTRAST) {
    return t.contrast_loss;
  } else if constexpr (kStatistic == FUSED_SSIM_STATISTIC_LUMINANCE) {
    return t.luminance_loss;
  } else {
    return multiply_add(t.luminance_loss, t.contrast, t.contrast_loss);
  }
}
// The statistic; exactly 1 where the images agree, and never more.
template <class V>
FUSED_SSIM_INLINE V value_of_loss(V loss) {
  return multiply_add(V(-2.0f), loss, V(1.0f));
}
template <int kStatistic = FUSED_SSIM_STATISTIC_SSIM, class V>
FUSED_SSIM_INLINE V statistic_value(const SsimTerms<V>& t) {
  return value_of_loss(statistic_loss<kStatistic>(t));
}

// Half of d(statistic)/d(E[s^2]) and of d(statistic)/d(E[d^2]).
template <class V>
struct SquarePartials {
  V by_mean_s2;
  V by_mean_d2;
};

template <int kStatistic = FUSED_SSIM_STATISTIC_SSIM, class V>
FUSED_SSIM_INLINE SquarePartials<V> square_partials(const SsimTerms<V>& t) {
  SquarePartials<V> q;
  if constexpr (kStatistic == FUSED_SSIM_STATISTIC_LUMINANCE) {
    q.by_mean_s2 = V(0.0f);
    q.by_mean_d2 = V(0.0f);
  } else {
    const V by_variance = kStatistic == FUSED_SSIM_STATISTIC_CONTRAST
                              ? t.contrast_reciprocal
                              : t.luminance * t.contrast_reciprocal;
    q.by_mean_s2 = by_variance * t.contrast_loss;
    q.by_mean_d2 = q.by_mean_s2 - by_variance;
  }
  return q;
}

// A quarter of d(statistic)/d(mean_x) for sign = 1, of d(statistic)/d(mean_y) for sign = -1: in
// total, that is through the variances too.
template <int kStatistic = FUSED_SSIM_STATISTIC_SSIM, class V>
FUSED_SSIM_INLINE V mean_partial(const Moments<V>& m, const SsimTerms<V>& t,
                                 const SquarePartials<V>& q, const DoubledStabilizers<V>& doubled,
                                 V sign) {
  const V other = t.sum - sign * t.difference;  // twice the mean of the other image
  const V of_luminance = t.scaled_difference * t.luminance_reciprocal;
  const V by_luminance =
      kStatistic == FUSED_SSIM_STATISTIC_LUMINANCE ? of_luminance : t.contrast * of_luminance;
  const V through_variances =
      multiply_add(m.mean_s, q.by_mean_s2, (sign * m.mean_d) * q.by_mean_d2);
  return kStatistic == FUSED_SSIM_STATISTIC_CONTRAST
             ? -through_variances
             : multiply_add(-sign * by_luminance, multiply_add(other, t.sum, doubled.c1),
                            -through_variances);
}

}  // namespace fused_ssim
