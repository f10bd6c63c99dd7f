// Gaussian taps against std::exp, their symmetry and sums; other windows, rounded and fitted.
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "core/taps.h"

using namespace fused_ssim;

int main() {
  static_assert(gaussian_taps(11, 1.5).size == 11, "usable at compile time");
  for (int size = 1; size <= kMaxWindowSize; size += 2) {
    for (const double sigma : {0.01, 0.3, 0.7, 1.5, 2.0, 4.9, 33.0, 1e6}) {
      const std::string name = "size " + std::to_string(size) + ", sigma " + std::to_string(sigma);
      const WindowTaps<double> window = gaussian_taps(size, sigma);
      const WindowTaps<float> rounded = round_taps_to_float(window);
      const int radius = size / 2;
      double total = 0;
      for (int i = -radius; i <= radius; ++i) {
        total += std::exp(-i * i / (2 * sigma * sigma));
      }
      double sum = 0;
      double rounded_sum = 0;
      for (int i = 0; i < size; ++i) {
        const double distance = i - radius;
        const double exponent = -distance * distance / (2 * sigma * sigma);
        const double expected = std::exp(exponent) / total;
        // The rounding of the exponent itself shows, the larger it is.
        const double tolerance = 4e-16 * (10 - exponent) * expected + 1e-300;
        EXPECT(std::fabs(window.taps[i] - expected) <= tolerance, name);
        EXPECT(window.taps[i] == window.taps[size - 1 - i], name);
        EXPECT(rounded.taps[i] == rounded.taps[size - 1 - i], name);
        EXPECT(std::fabs(rounded.taps[i] - expected) <= 1.2e-7, name);
        sum += window.taps[i];
        rounded_sum += static_cast<double>(rounded.taps[i]);
      }
      EXPECT(std::fabs(sum - 1.0) <= 1e-15, name);
      EXPECT(std::fabs(rounded_sum - 1.0) <= 4e-8, name);
    }
  }
  // The standard window's float32 taps sum to 1 far below their own resolution.
  double sum = 0;
  for (const float tap : round_taps_to_float(gaussian_taps(11, 1.5)).taps) {
    sum += static_cast<double>(tap);
  }
  EXPECT(std::fabs(sum - 1.0) <= 1e-9, "the standard window");

  // Any window: each tap within a few units of its last place, the sum within half a unit of what
  // the finest tap can express.
  std::mt19937 random(1);
  std::uniform_real_distribution<double> uniform(0.1, 1.0);
  for (const int size : {1, 3, 7, 11, 49, 101}) {
    for (const bool asymmetric : {false, true}) {
      std::vector<double> taps(static_cast<std::size_t>(size), 1.0 / size);
      if (asymmetric) {
        double total = 0;
        for (double& tap : taps) {
          tap = uniform(random);
          total += tap;
        }
        for (double& tap : taps) {
          tap /= total;
        }
      }
      const Window window = {taps.data(), size};
      EXPECT(is_uniform(window) == (!asymmetric || size == 1), std::to_string(size));
      EXPECT(is_symmetric(window) == (!asymmetric || size == 1), std::to_string(size));
      EXPECT(!is_standard(window), std::to_string(size));
      std::vector<float> rounded(taps.size());
      round_taps_to_float(taps.data(), size, rounded.data());
      double rounded_sum = 0;
      for (std::size_t i = 0; i < taps.size(); ++i) {
        EXPECT(std::fabs(rounded[i] - taps[i]) <= 1.2e-7, std::to_string(size));
        rounded_sum += static_cast<double>(rounded[i]);
      }
      EXPECT(std::fabs(rounded_sum - 1.0) <= 1e-8, std::to_string(size) + " taps rounded");
      // Shorter and longer than the window itself, the sum stays.
      for (const int radius : {size / 2, size / 2 + 3, size / 4}) {
        std::vector<double> fitted(static_cast<std::size_t>(2 * radius + 1));
        fit_taps(window, radius, fitted.data());
        double fitted_sum = 0;
        for (const double tap : fitted) {
          fitted_sum += tap;
        }
        EXPECT(std::fabs(fitted_sum - 1.0) <= 1e-14, std::to_string(size) + " taps fitted");
      }
    }
  }
  const WindowTaps<double> standard = gaussian_taps(11, 1.5);
  EXPECT(is_standard(Window{standard.taps, 11}), "the standard window");
  EXPECT(!is_standard(Window{gaussian_taps(11, 1.6).taps, 11}), "another sigma");
  return check::report();
}
