// The Gaussian window of SSIM (Wang, Bovik, Sheikh, Simoncelli 2004: 11 taps, sigma 1.5).
//
// Taps are computed and normalised in float64, by constexpr code, so that the same function serves
// run-time windows and the compile-time immediates of the fast kernels.
#pragma once

namespace fused_ssim {

inline constexpr int kDefaultWindowSize = 11;
inline constexpr double kDefaultSigma = 1.5;
inline constexpr int kMinWindowSize = 3;
inline constexpr int kMaxWindowSize = 33;

namespace detail {

// exp(x) for x <= 0, to about one unit in the last place; std::exp is not constexpr in C++17.
constexpr double exp_nonpositive(double x) {
  constexpr double kLn2High = 6.93147180369123816490e-01;
  constexpr double kLn2Low = 1.90821492927058770002e-10;
  if (!(x > -745.0)) {
    return 0.0;
  }
  const int halvings = static_cast<int>(-x / (kLn2High + kLn2Low) + 0.5);
  const double r = (x + halvings * kLn2High) + halvings * kLn2Low;  // |r| <= ln(2) / 2
  double sum = 0.0;
  for (int n = 20; n >= 1; --n) {
    sum = (1.0 + sum) * r / n;
  }
  double result = 1.0 + sum;
  for (int i = 0; i < halvings; ++i) {
    result *= 0.5;
  }
  return result;
}

}  // namespace detail

// A separable, symmetric window: `taps[0 .. size)`, summing to 1.
template <class T>
struct WindowTaps {
  int size = 0;
  T taps[kMaxWindowSize] = {};
};

// Normalised Gaussian taps in float64. `size` is odd, in [kMinWindowSize, kMaxWindowSize].
constexpr WindowTaps<double> gaussian_taps(int size, double sigma) {
  WindowTaps<double> window;
  window.size = size;
  const int radius = size / 2;
  double sum = 0.0;
  // Each distance from the centre once, smallest first, so that the taps are exactly symmetric.
  for (int distance = radius; distance >= 0; --distance) {
    const double z = distance / sigma;
    const double tap = detail::exp_nonpositive(-0.5 * z * z);
    window.taps[radius - distance] = tap;
    window.taps[radius + distance] = tap;
    sum += distance == 0 ? tap : 2.0 * tap;
  }
  for (int i = 0; i < size; ++i) {
    window.taps[i] /= sum;
  }
  return window;
}

// The taps in float32, rounded so that they still sum to 1 far below float32's resolution.
//
// Rounding each tap alone leaves a sum off by some 1e-8, and a variance E[s^2] - E[s]^2 is then off
// by that times s^2, which C2 = 9e-4 does not hide. The small outer taps have fine enough a grid to
// take up the difference.
constexpr WindowTaps<float> round_taps_to_float(const WindowTaps<double>& exact) {
  WindowTaps<float> rounded;
  rounded.size = exact.size;
  const int radius = exact.size / 2;
  double residual = 1.0;
  for (int i = 0; i < exact.size; ++i) {
    rounded.taps[i] = static_cast<float>(exact.taps[i]);
    residual -= static_cast<double>(rounded.taps[i]);
  }
  // From the second largest tap outwards: each step corrects what the finer grid can express.
  for (int i = radius - 1; i >= 0; --i) {
    const double before = static_cast<double>(rounded.taps[i]);
    if (before < 1e-4) {
      break;  // a tap this small would change by a visible fraction
    }
    const float corrected = static_cast<float>(before + 0.5 * residual);
    rounded.taps[i] = corrected;
    rounded.taps[exact.size - 1 - i] = corrected;
    residual -= 2.0 * (static_cast<double>(corrected) - before);
  }
  return rounded;
}

}  // namespace fused_ssim
