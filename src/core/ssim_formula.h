// The SSIM formula: moments -> value, and moments -> partial derivatives. Stands once; CPU and CUDA
// kernels both call it, on float, double, or a SIMD vector.
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
//   luminance = ((sum^2 - difference^2)/2 + C1) / ((sum^2 + difference^2)/2 + C1)
//             = 1 - difference^2 / luminance_denominator
//   contrast  = ((var_s - var_d)/2 + C2) / ((var_s + var_d)/2 + C2)
//             = 1 - var_d / contrast_denominator
//
// The second form of each is exact where the images agree and never exceeds 1; the shift keeps the
// squares small, so that the subtraction in the variances loses little.
#pragma once

#include "core/macros.h"

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

// C1 = (k1 data_range)^2 and C2 = (k2 data_range)^2, both positive.
template <class V>
struct Stabilizers {
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

// d(SSIM)/d(moment), with E[s] and E[d] meant in total, that is through the variances too. The
// gradient of a sum of SSIM values follows by filtering these maps with the same window:
//
//   grad_s = window * by_mean_s + 2 s (window * by_mean_s2)       likewise grad_d
//   grad_x = grad_s + grad_d                                      grad_y = grad_s - grad_d
template <class V>
struct Partials {
  V by_mean_s;
  V by_mean_d;
  V by_mean_s2;
  V by_mean_d2;
};

template <class V>
struct SsimTerms {
  V sum;         // mean_x + mean_y
  V difference;  // mean_x - mean_y
  V luminance_reciprocal;
  V contrast_reciprocal;
  V luminance_loss;  // 1 - luminance, in [0, 2]
  V contrast_loss;   // 1 - contrast, in [0, 2]
};

template <class V>
FUSED_SSIM_INLINE SsimTerms<V> ssim_terms(const Moments<V>& m, V shift_s, V shift_d,
                                          const Stabilizers<V>& k) {
  SsimTerms<V> t;
  const V half = V(0.5f);
  const V var_s = clamp_to_nonnegative(multiply_add(-m.mean_s, m.mean_s, m.mean_s2));
  const V var_d = clamp_to_nonnegative(multiply_add(-m.mean_d, m.mean_d, m.mean_d2));
  t.sum = m.mean_s + shift_s;
  t.difference = m.mean_d + shift_d;
  const V difference2 = t.difference * t.difference;
  t.luminance_reciprocal =
      reciprocal(multiply_add(half, multiply_add(t.sum, t.sum, difference2), k.c1));
  t.contrast_reciprocal = reciprocal(multiply_add(half, var_s + var_d, k.c2));
  t.luminance_loss = difference2 * t.luminance_reciprocal;
  t.contrast_loss = var_d * t.contrast_reciprocal;
  return t;
}

template <class V>
FUSED_SSIM_INLINE V ssim_value(const SsimTerms<V>& t) {
  return (V(1.0f) - t.luminance_loss) * (V(1.0f) - t.contrast_loss);
}

template <class V>
FUSED_SSIM_INLINE Partials<V> ssim_partials(const Moments<V>& m, const SsimTerms<V>& t) {
  Partials<V> p;
  const V one = V(1.0f);
  const V two = V(2.0f);
  const V luminance = one - t.luminance_loss;
  const V contrast = one - t.contrast_loss;
  const V by_variance = (V(0.5f) * luminance) * t.contrast_reciprocal;
  p.by_mean_s2 = by_variance * t.contrast_loss;
  p.by_mean_d2 = by_variance * (t.contrast_loss - two);
  const V by_mean = contrast * t.luminance_reciprocal;
  p.by_mean_s = multiply_add(by_mean * t.sum, t.luminance_loss, -(two * m.mean_s) * p.by_mean_s2);
  p.by_mean_d = multiply_add(by_mean * t.difference, t.luminance_loss - two,
                             -(two * m.mean_d) * p.by_mean_d2);
  return p;
}

// The same formula with every factor of two moved to where it costs nothing, for kernels whose time is
// their instructions: denominators are doubled, losses halved, and the partial derivatives scaled so
// that
//
//   grad_s = 4 (window * by_mean_s + s (window * by_mean_s2))         likewise grad_d
template <class V>
struct LeanTerms {
  V luminance_by_sum;         // sum / (sum^2 + difference^2 + 2 C1)
  V luminance_by_difference;  // difference / (the same)
  V contrast_reciprocal;      // 1 / (var_s + var_d + 2 C2)
  V half_luminance_loss;      // (1 - luminance) / 2
  V half_contrast_loss;       // (1 - contrast) / 2
  V luminance;
  V contrast;
};

template <class V>
FUSED_SSIM_INLINE LeanTerms<V> lean_terms(const Moments<V>& m, V shift_s, V shift_d,
                                          const Stabilizers<V>& doubled) {
  LeanTerms<V> t;
  const V one = V(1.0f);
  const V minus_two = V(-2.0f);
  const V var_s = clamp_to_nonnegative(multiply_add(-m.mean_s, m.mean_s, m.mean_s2));
  const V var_d = clamp_to_nonnegative(multiply_add(-m.mean_d, m.mean_d, m.mean_d2));
  const V sum = m.mean_s + shift_s;
  const V difference = m.mean_d + shift_d;
  const V luminance_reciprocal =
      reciprocal(multiply_add(sum, sum, multiply_add(difference, difference, doubled.c1)));
  t.contrast_reciprocal = reciprocal(var_s + (var_d + doubled.c2));
  t.luminance_by_sum = sum * luminance_reciprocal;
  t.luminance_by_difference = difference * luminance_reciprocal;
  t.half_luminance_loss = difference * t.luminance_by_difference;
  t.half_contrast_loss = var_d * t.contrast_reciprocal;
  t.luminance = multiply_add(minus_two, t.half_luminance_loss, one);
  t.contrast = multiply_add(minus_two, t.half_contrast_loss, one);
  return t;
}

template <class V>
FUSED_SSIM_INLINE V lean_value(const LeanTerms<V>& t) {
  return t.luminance * t.contrast;
}

template <class V>
FUSED_SSIM_INLINE Partials<V> lean_partials(const Moments<V>& m, const LeanTerms<V>& t) {
  Partials<V> p;
  const V by_variance = t.luminance * t.contrast_reciprocal;
  p.by_mean_s2 = by_variance * t.half_contrast_loss;
  p.by_mean_d2 = p.by_mean_s2 - by_variance;
  const V by_sum = t.contrast * t.luminance_by_sum;
  const V by_difference = t.contrast * t.luminance_by_difference;
  p.by_mean_s = multiply_add(-m.mean_s, p.by_mean_s2, by_sum * t.half_luminance_loss);
  p.by_mean_d = multiply_add(-m.mean_d, p.by_mean_d2,
                             multiply_add(by_difference, t.half_luminance_loss, -by_difference));
  return p;
}

}  // namespace fused_ssim
