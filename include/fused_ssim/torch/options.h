/// \file
/// The parameters of fused_ssim.h.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

namespace fused_ssim {

/// Which SSIM, and of what.
struct SSIMOptions {
  /// Difference between the largest and the smallest possible pixel value; positive. Beside a uint8
  /// image it is 1, where a pixel u stands for u / 255, or 255, where it stands for u.
  double data_range = 1.0;
  /// "gaussian" or "uniform".
  std::string window = "gaussian";
  /// Number of taps of the window along each axis, odd. Up to 11 taps are the fast case.
  int64_t window_size = 11;
  /// Standard deviation of the Gaussian window in pixels; positive.
  double sigma = 1.5;
  /// A window of one's own in place of `window`, `window_size` and `sigma`, the same along each
  /// axis: an odd number of taps, not negative, summing to 1. It is applied as correlation.
  std::vector<double> taps = {};
  /// Stabilizes the luminance term, C1 = (k1 data_range)^2; positive.
  double k1 = 0.01;
  /// Stabilizes the contrast term, C2 = (k2 data_range)^2; positive.
  double k2 = 0.03;
  /// "same": zeros around the image and a value for every pixel; "valid": a value only where the
  /// whole window lies in the image, which must be at least as large as the window.
  std::string padding = "same";
  /// "mean" or "sum" over everything ([]), "image" means ([B]), "channel" means ([B, C]), or
  /// "none", the map. ssim_map() and ssim_and_mse() do not look at it.
  std::string reduction = "mean";
  /// Whether variances and the covariance are those of samples, divided by N - 1 instead of N,
  /// where N is the number of pixels in a window.
  bool unbiased = false;
  /// "ssim", or one of its factors: "contrast" (contrast times structure) or "luminance".
  std::string component = "ssim";
  /// Weights of pixels, bool or floating-point in [0, 1] (not checked), without a gradient, on the
  /// images' device: [H, W], or in the images' layout with 1 for B or C or both. Undefined: none.
  at::Tensor mask = {};
  /// "weighted": the plain map, averaged with the mask as weights; windows see masked pixels.
  /// "normalized": pixels weigh in windows, too, so that masked ones influence nothing, not even as
  /// NaN. Over a mask of zeros means are 1, sums 0; the map is 1 where the mask is 0.
  std::string mask_mode = "weighted";
  /// How the dimensions of both images (and of a map) are ordered: "BCHW", "BHWC", "CHW" or "HWC",
  /// of volumes "BCDHW" or "BDHWC", of signals "BCW" or "BWC". Without a B the results have no axis
  /// of the batch either.
  std::string layout = "BCHW";
};

/// Which MS-SSIM, and of what. Fields that SSIMOptions has, too, mean the same.
struct MSSSIMOptions {
  double data_range = 1.0;
  std::string window = "gaussian";
  int64_t window_size = 11;
  double sigma = 1.5;
  std::vector<double> taps = {};
  double k1 = 0.01;
  double k2 = 0.03;
  /// An exponent for each scale, the finest first; not negative. None stands for the five of Wang et
  /// al. 2003.
  std::vector<double> weights = {};
  std::string padding = "valid";
  /// "mean" or "sum" over everything ([]), "image" ([B]), or "channel", the product of each plane
  /// ([B, C]).
  std::string reduction = "mean";
  /// What a mean m has for a factor, weight w: "relu" max(m, 0)^w, without a gradient where m <= 0;
  /// "smooth", below t = 0.01, t^w / (1 + w (t - m) / t), which has a gradient everywhere.
  std::string negative = "relu";
  /// "pad" puts one zero in front of an odd side before pixels are averaged in twos, "crop" drops
  /// the last pixel.
  std::string odd_sizes = "pad";
  std::string layout = "BCHW";
};

}  // namespace fused_ssim
