// What the functions of fused_ssim.h accept: one check for each fact, in the words of the Python
// package as far as it has the same fact.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <iomanip>
#include <string>
#include <string_view>
#include <vector>

#include "fused_ssim/torch/text.h"

namespace fused_ssim::detail {

// ---- names --------------------------------------------------------------------------------------

template <std::size_t count>
using Choices = std::array<std::string_view, count>;

// In the order of the enumerations in kernels.h.
inline constexpr Choices<3> kComponents = {"ssim", "contrast", "luminance"};
inline constexpr Choices<2> kPaddings = {"same", "valid"};
inline constexpr Choices<2> kMaskModes = {"weighted", "normalized"};
// Likewise; "none" is the map, an operator of its own.
inline constexpr Choices<5> kReductions = {"mean", "sum", "image", "channel", "none"};
// Behind kPaddings: what only Python does, which extends images before it filters them.
inline constexpr Choices<4> kAllPaddings = {"same", "valid", "reflect", "replicate"};
inline constexpr Choices<2> kWindows = {"gaussian", "uniform"};
inline constexpr Choices<2> kNegatives = {"relu", "smooth"};
inline constexpr Choices<2> kOddSizes = {"pad", "crop"};
// There is no map of several scales.
inline constexpr Choices<4> kScaleReductions = {"mean", "sum", "image", "channel"};
inline constexpr Choices<8> kLayouts = {"BCHW",  "BHWC",  "CHW", "HWC",
                                        "BCDHW", "BDHWC", "BCW", "BWC"};

// The index of `value` among the choices.
template <std::size_t count>
std::size_t index_of(const char* name, const std::string& value, const Choices<count>& choices,
                     const char* hint) {
  const auto found = std::find(choices.begin(), choices.end(), value);
  if (found != choices.end()) {
    return static_cast<std::size_t>(found - choices.begin());
  }
  std::string expected;
  for (const std::string_view choice : choices) {
    expected += text(expected.empty() ? "\"" : " or \"", choice, "\"");
  }
  C10_THROW_ERROR(ValueError, text(name, ": expected ", expected, ", got '", value, "'; ", hint));
}

inline constexpr const char* kPaddingHint =
    "\"same\" puts zeros around the image, \"valid\" takes whole windows only";

// ---- numbers ------------------------------------------------------------------------------------

inline void check_window_size(int64_t window_size) {
  constexpr int64_t kMaxWindowSize = 1023;  // of windows that are not given as taps
  TORCH_CHECK_VALUE(window_size >= 1 && window_size <= kMaxWindowSize && window_size % 2 != 0,
                    "window_size: expected an odd number from 1 to ", kMaxWindowSize, ", got ",
                    window_size, "; the standard is 11");
}

// Taps that sum to exactly 1 of taps that do so up to rounding.
inline std::vector<double> normalized(std::vector<double> taps) {
  TORCH_CHECK_VALUE(taps.size() % 2 != 0, "taps: expected an odd number of taps, got ", taps.size(),
                    "; add a tap of 0 at one end");
  long double sum = 0.0;
  for (const double tap : taps) {
    TORCH_CHECK_VALUE(tap >= 0.0 && std::isfinite(tap),
                      "taps: expected finite taps that are not negative, got ", number(tap),
                      "; leave taps empty for options.window");
    sum += tap;
  }
  const auto total = static_cast<double>(sum);
  TORCH_CHECK_VALUE(std::fabs(total - 1.0) <= 1e-6,
                    "taps: expected taps that sum to 1, got a sum of ", number(total),
                    "; divide them by it");
  for (double& tap : taps) {
    tap /= total;
  }
  return taps;
}

inline void check_positive(const char* name, double value, const char* hint) {
  TORCH_CHECK_VALUE(value > 0 && std::isfinite(value), name,
                    ": expected a positive, finite number, got ", number(value), "; ", hint);
}

inline void check_weight(const char* name, double value) {
  TORCH_CHECK_VALUE(value >= 0 && value <= 1, name, ": expected a number from 0 to 1, got ",
                    number(value), "; 0 is L1 alone, 1 is SSIM alone");
}

inline void check_exponents(const std::vector<double>& weights) {
  std::string list;
  bool good = true;
  for (const double weight : weights) {
    list += (list.empty() ? "" : ", ") + number(weight);
    good = good && weight >= 0 && std::isfinite(weight);
  }
  TORCH_CHECK_VALUE(good,
                    "weights: expected at least one number, each finite and not negative, got [",
                    list, "]; pass the exponents of the scales, the finest first");
}

// (k * data_range)^2, which must be neither 0 nor infinite, in float32 too.
inline double checked_square(const char* name, double k, double data_range) {
  const double c = (k * data_range) * (k * data_range);
  TORCH_CHECK_VALUE(c > 1e-37 && c < 1e37, name,
                    " * data_range: expected a square between 1e-37 and 1e37, got ", number(c),
                    " from ", name, "=", number(k), " and data_range=", number(data_range),
                    "; scale the images and data_range");
  return c;
}

// ---- images -------------------------------------------------------------------------------------

inline bool is_floating(at::ScalarType dtype) {
  return dtype == at::kHalf || dtype == at::kBFloat16 || dtype == at::kFloat ||
         dtype == at::kDouble;
}

inline void check_dense(const char* name, const at::Tensor& image) {
  TORCH_CHECK_TYPE(
      image.defined(), name,
      ": expected a torch.Tensor, got an undefined one; use torch::from_blob() and the "
      "layout [B, C, H, W]");
  TORCH_CHECK_TYPE(!image.is_quantized(), name,
                   ": expected a dense tensor, got a quantized tensor; use .dequantize()");
  TORCH_CHECK_TYPE(image.layout() == at::kStrided, name, ": expected a dense tensor, got layout ",
                   layout_of(image), "; use .to_dense()");
  TORCH_CHECK_TYPE(!image.is_nested(), name,
                   ": expected a dense tensor, got a nested one; pass image by image");
}

inline std::string dtype_remedy(at::ScalarType dtype) {
  switch (dtype) {
    case at::kShort:
      return "divide by the range, image.float() / 32767";
    case at::kUInt16:
      return "divide by the range, image.float() / 65535";
    case at::kByte:
      return "divide by the range, image.float() / 255";
    default:
      return "convert it with .float(), and divide by the range of its values";
  }
}

// Of signals, images and volumes.
struct Sides {
  const char* shape;
  const char* sides;
};
inline constexpr Sides kSides[] = {{"[B, C, W]", "width"},
                                   {"[B, C, H, W]", "height and width"},
                                   {"[B, C, D, H, W]", "depth and height and width"}};
inline const Sides& sides_of(int64_t spatial_dims) { return kSides[spatial_dims - 1]; }

inline std::string rank_remedy(int64_t rank, int64_t spatial_dims) {
  if (rank == spatial_dims + 1) {
    return "add a batch dimension with .unsqueeze(0)";
  }
  return rank == 5   ? "volumes go to fused_ssim3d, or to functions with layout \"BCDHW\""
         : rank == 4 ? "images have the layout \"BCHW\""
         : rank == 3 ? "signals have the layout \"BCW\""
                     : "bring it to that layout with .reshape() or .unsqueeze()";
}

inline void check_image(const char* name, const at::Tensor& image, int64_t spatial_dims,
                        bool takes_uint8) {
  check_dense(name, image);
  if (!image.is_cpu() && !image.is_cuda()) {
    C10_THROW_ERROR(NotImplementedError,
                    text(name, ": expected a tensor on cpu or cuda, got device ", image.device(),
                         "; move the images with .to(\"cpu\"), or use Python's fused_ssim"));
  }
  const at::ScalarType dtype = image.scalar_type();
  TORCH_CHECK_TYPE(is_floating(dtype) || (takes_uint8 && dtype == at::kByte), name,
                   ": expected dtype bfloat16, float16, float32, float64",
                   takes_uint8 ? ", uint8" : "", ", got ", dtype_of(image), "; ",
                   dtype_remedy(dtype));
  TORCH_CHECK_VALUE(image.dim() == spatial_dims + 2, name, ": expected shape ",
                    sides_of(spatial_dims).shape, ", got ", shape_of(image), "; ",
                    rank_remedy(image.dim(), spatial_dims));
  TORCH_CHECK_VALUE(image.numel() > 0, name, ": expected at least one pixel, got ", shape_of(image),
                    "; check how it was cropped");
}

using Names = std::array<const char*, 2>;
inline constexpr Names kImageNames = {"img1", "img2"};

inline void check_images(const at::Tensor& img1, const at::Tensor& img2, const Names& names,
                         int64_t spatial_dims, bool take_uint8) {
  check_image(names[0], img1, spatial_dims, take_uint8);
  check_image(names[1], img2, spatial_dims, take_uint8);
  TORCH_CHECK_VALUE(img1.sizes() == img2.sizes(), names[0], " and ", names[1],
                    ": expected one shape, got ", shape_of(img1), " and ", shape_of(img2),
                    "; scale or crop one of them, or use .expand_as() where it has an axis of 1");
  TORCH_CHECK_VALUE(img1.device() == img2.device(), names[0], " and ", names[1],
                    ": expected one device, got ", img1.device(), " and ", img2.device(),
                    "; move one with .to(other.device)");
  const auto goes_with_double = [](const at::Tensor& image) {
    return image.scalar_type() == at::kDouble || image.scalar_type() == at::kByte;
  };
  TORCH_CHECK_TYPE((img1.scalar_type() != at::kDouble || goes_with_double(img2)) &&
                       (img2.scalar_type() != at::kDouble || goes_with_double(img1)),
                   names[0], " and ", names[1],
                   ": expected one dtype (float64 goes with uint8 alone), got ", dtype_of(img1),
                   " and ", dtype_of(img2), "; convert one with .to(other.dtype)");
}

// A mask for an image: of its spatial sizes alone, or of its rank with 1 for B or C or both.
inline void check_mask(const at::Tensor& mask, const at::Tensor& image) {
  check_dense("mask", mask);
  TORCH_CHECK_TYPE(mask.scalar_type() == at::kBool || is_floating(mask.scalar_type()),
                   "mask: expected bool or a floating-point dtype with weights in [0, 1], got ",
                   dtype_of(mask), "; use .bool(), or .float() / 255 for weights in 8 bits");
  TORCH_CHECK_VALUE(!mask.requires_grad(),
                    "mask: expected a constant, got a tensor that requires a gradient; use "
                    ".detach()");
  TORCH_CHECK_VALUE(mask.device() == image.device(),
                    "mask: expected a tensor on the images' device ", image.device(), ", got ",
                    mask.device(), "; move it with .to(img1.device)");
  const at::IntArrayRef shape = mask.sizes();
  const at::IntArrayRef sizes = image.sizes();
  const bool fits =
      shape == sizes.slice(2) ||
      (shape.size() == sizes.size() && shape.slice(2) == sizes.slice(2) &&
       (shape[0] == 1 || shape[0] == sizes[0]) && (shape[1] == 1 || shape[1] == sizes[1]));
  std::string spatial;
  for (const int64_t size : sizes.slice(2)) {
    spatial += text(spatial.empty() ? "" : ", ", size);
  }
  TORCH_CHECK_VALUE(fits, "mask: expected the shape [", spatial, "] or [B, C, ", spatial,
                    "] with B of 1 or ", sizes[0], " and C of 1 or ", sizes[1], ", got ",
                    shape_of(mask),
                    "; use .unsqueeze(1) on a mask for each image, .unsqueeze(0) on one for each "
                    "channel");
}

inline int64_t least_side(const at::Tensor& image) {
  const at::IntArrayRef sizes = image.sizes().slice(2);
  return *std::min_element(sizes.begin(), sizes.end());
}

inline void check_window_fits(const at::Tensor& image, int64_t window_size, bool valid) {
  TORCH_CHECK_VALUE(!valid || least_side(image) >= window_size, "padding=\"valid\": expected ",
                    sides_of(image.dim() - 2).sides, " of at least window_size=", window_size,
                    ", got ", shape_of(image), "; use padding=\"same\" or a smaller window");
}

// Whether the window can be applied at the coarsest of so many scales; odd sizes are padded, or
// cropped.
inline void check_scales_fit(const at::Tensor& image, int64_t window_size, bool valid,
                             std::size_t scales, bool pads) {
  // No image has 2^62 pixels along a side.
  const int64_t halvings = INT64_C(1) << std::min<std::size_t>(scales - 1, 50);
  const int64_t coarsest = valid ? window_size : 1;
  const int64_t least = pads ? (coarsest - 1) * halvings + 1 : coarsest * halvings;
  TORCH_CHECK_VALUE(least_side(image) >= least, "ms_ssim, padding=\"", kPaddings[valid ? 1 : 0],
                    "\": expected ", sides_of(image.dim() - 2).sides, " of at least ", least,
                    " for ", scales, " scales, got ", shape_of(image),
                    "; use fewer weights or a smaller window");
}

}  // namespace fused_ssim::detail
