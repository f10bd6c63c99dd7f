// Windows as taps that sum to 1: the Gaussian of SSIM (Wang, Bovik, Sheikh, Simoncelli 2004: 11
// taps, sigma 1.5) or any other, in float64, and rounded to float32 so that they still sum to 1.
//
// Constexpr, so that one function serves windows known at run time and the immediates of kernels.
#pragma once

#include "core/problem.h"

namespace fused_ssim {

inline constexpr int kDefaultWindowSize = 11;
inline constexpr double kDefaultSigma = 1.5;
// Of windows inside a structure of fixed size.
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

// A window along one axis: `taps[0 .. size)`.
template <class T>
struct WindowTaps {
  int size = 0;
  T taps[kMaxWindowSize] = {};
};

// The normalised Gaussian in float64: `size` taps, an odd number.
constexpr void gaussian_taps(int size, double sigma, double* taps) {
  const int radius = size / 2;
  double sum = 0.0;
  // Each distance from the centre once, largest first, so that the taps are exactly symmetric.
  for (int distance = radius; distance >= 0; --distance) {
    const double z = distance / sigma;
    const double tap = detail::exp_nonpositive(-0.5 * z * z);
    taps[radius - distance] = tap;
    taps[radius + distance] = tap;
    sum += distance == 0 ? tap : 2.0 * tap;
  }
  for (int i = 0; i < size; ++i) {
    taps[i] /= sum;
  }
}
constexpr WindowTaps<double> gaussian_taps(int size, double sigma) {
  WindowTaps<double> window;
  window.size = size;
  gaussian_taps(size, sigma, window.taps);
  return window;
}

constexpr bool is_symmetric(const double* taps, int size) {
  for (int i = 0; i < size / 2; ++i) {
    if (taps[i] != taps[size - 1 - i]) {
      return false;
    }
  }
  return true;
}
constexpr bool is_symmetric(const Window& window) { return is_symmetric(window.taps, window.size); }

// Whether kernels for 11 symmetric taps serve it.
constexpr bool is_short(const Window& window) {
  return window.size <= kDefaultWindowSize && is_symmetric(window);
}

// Whether all taps are the same number, up to how they were rounded.
constexpr bool is_uniform(const Window& window) {
  for (int i = 0; i < window.size; ++i) {
    const double scaled = window.taps[i] * window.size;
    if (!(scaled > 1.0 - 1e-12 && scaled < 1.0 + 1e-12)) {
      return false;
    }
  }
  return true;
}

// Whether it is 11 taps of sigma 1.5, up to how they were rounded.
constexpr bool is_standard(const Window& window) {
  constexpr WindowTaps<double> kStandard = gaussian_taps(kDefaultWindowSize, kDefaultSigma);
  if (window.size != kStandard.size) {
    return false;
  }
  for (int i = 0; i < window.size; ++i) {
    const double difference = window.taps[i] - kStandard.taps[i];
    if (!(difference > -1e-12 && difference < 1e-12)) {
      return false;
    }
  }
  return true;
}

// The taps in float32, rounded so that they still sum to 1 far below float32's resolution.
//
// Rounding each tap alone leaves a sum off by some 1e-8, and a variance E[s^2] - E[s]^2 is then off
// by that times s^2, which C2 = 9e-4 does not hide. Offered the difference, each tap takes what its
// floating-point grid can express, and none makes it larger.
constexpr void round_taps_to_float(const double* exact, int size, float* rounded) {
  constexpr double kLeast = 1e-4;  // a tap smaller than this would change by a visible fraction
  double residual = 1.0;
  for (int i = 0; i < size; ++i) {
    rounded[i] = static_cast<float>(exact[i]);
    residual -= static_cast<double>(rounded[i]);
  }
  const bool symmetric = is_symmetric(exact, size);
  // A symmetric window from the second largest tap outwards, to both sides, and the middle at last.
  for (int step = 0; step < size; ++step) {
    const int i = !symmetric ? step : step < size / 2 ? size / 2 - 1 - step : size / 2;
    const double before = static_cast<double>(rounded[i]);
    const int mirrored = symmetric ? size - 1 - i : i;
    if (before >= kLeast) {
      const double share = mirrored == i ? residual : 0.5 * residual;
      rounded[i] = static_cast<float>(before + share);
      const double change = static_cast<double>(rounded[i]) - before;
      rounded[mirrored] = rounded[i];
      residual -= mirrored == i ? change : 2.0 * change;
    }
  }
}
constexpr WindowTaps<float> round_taps_to_float(const WindowTaps<double>& exact) {
  WindowTaps<float> rounded;
  rounded.size = exact.size;
  round_taps_to_float(exact.taps, exact.size, rounded.taps);
  return rounded;
}

// The window as 2 radius + 1 taps: a shorter one is continued by zeros. Of a longer one, the taps
// beyond are added to the outermost, which is the same where those only see zeros.
constexpr void fit_taps(const Window& window, int radius, double* taps) {
  for (int i = 0; i < 2 * radius + 1; ++i) {
    taps[i] = 0.0;
  }
  for (int i = 0; i < window.size; ++i) {
    const int distance = i - window.size / 2;
    const int nearest = distance < -radius ? -radius : distance > radius ? radius : distance;
    taps[radius + nearest] += window.taps[i];
  }
}

}  // namespace fused_ssim
