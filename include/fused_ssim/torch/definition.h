// The public arguments as the operators take them: a definition of SSIM, and images whose batch and
// channels are in front.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>
#include <c10/util/intrusive_ptr.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "fused_ssim/kernels.h"
#include "fused_ssim/torch/checks.h"
#include "fused_ssim/torch/options.h"

namespace fused_ssim::detail {

// What src/operators/schemas.h explains. Autograd keeps it for the backward pass, in an IValue.
struct Definition : torch::CustomClassHolder {
  std::vector<double> taps;  // along every axis that is filtered
  std::array<int64_t, 3> window_sizes = {};
  double c1 = 0.0;
  double c2 = 0.0;
  bool valid = false;
  int64_t statistic = 0;
  int64_t uint8_divisor = 0;
};
using DefinitionPtr = c10::intrusive_ptr<Definition>;

inline std::vector<double> taps_of(const SSIMOptions& options) {
  if (!options.taps.empty()) {
    return normalized(options.taps);
  }
  index_of("window", options.window, kWindows, "options.taps takes a window of one's own");
  check_window_size(options.window_size);
  if (options.window == "uniform") {
    const double tap = 1.0 / static_cast<double>(options.window_size);
    return std::vector<double>(static_cast<std::size_t>(options.window_size), tap);
  }
  check_positive("sigma", options.sigma, "the standard is 1.5 pixels");
  std::vector<double> taps(static_cast<std::size_t>(options.window_size));
  kernels::check(fused_ssim_gaussian_taps(static_cast<int32_t>(options.window_size), options.sigma,
                                          taps.data()));
  return taps;
}

// Of the images in a layout: 1 of signals, 2, or 3 of volumes.
inline int64_t spatial_dims_of(const std::string& layout) {
  index_of("layout", layout, kLayouts,
           "the letters stand for batch, channels, depth, height, width");
  return std::count_if(layout.begin(), layout.end(),
                       [](char axis) { return axis == 'D' || axis == 'H' || axis == 'W'; });
}

inline DefinitionPtr definition(const SSIMOptions& options) {
  auto d = c10::make_intrusive<Definition>();
  check_positive("data_range", options.data_range, "it is 1 for images in [0, 1]");
  check_positive("k1", options.k1, "the standard is 0.01");
  check_positive("k2", options.k2, "the standard is 0.03");
  const std::size_t padding = index_of("padding", options.padding, kAllPaddings, kPaddingHint);
  if (padding >= kPaddings.size()) {
    C10_THROW_ERROR(NotImplementedError,
                    text("padding: expected \"same\" or \"valid\", got '", options.padding,
                         "'; Python's fused_ssim computes it"));
  }
  d->valid = padding == FUSED_SSIM_VALID;
  d->statistic = static_cast<int64_t>(index_of("component", options.component, kComponents,
                                               "\"ssim\" is the product of the other two"));
  d->taps = taps_of(options);
  const auto window_size = static_cast<int64_t>(d->taps.size());
  const int64_t spatial_dims = spatial_dims_of(options.layout);
  d->window_sizes = {spatial_dims > 2 ? window_size : 1, spatial_dims > 1 ? window_size : 1,
                     window_size};
  d->c1 = checked_square("k1", options.k1, options.data_range);
  d->c2 = checked_square("k2", options.k2, options.data_range);
  if (options.unbiased) {
    TORCH_CHECK_VALUE(window_size > 1,
                      "unbiased=True: expected a window of more than one tap, got one; a single "
                      "sample has no variance, use unbiased=False");
    const double samples =
        std::pow(static_cast<double>(window_size), static_cast<double>(spatial_dims));
    d->c2 *= (samples - 1) / samples;
  }
  d->uint8_divisor = options.data_range == 255.0 ? 1 : 255;
  return d;
}

// What MS-SSIM is asked beside the definition of its coarsest scale.
struct Scales {
  std::vector<double> exponents;
  int64_t negative = 0;
  int64_t odd_sizes = 0;
};

inline Scales scales_of(const MSSSIMOptions& options) {
  Scales scales;
  scales.negative = static_cast<int64_t>(
      index_of("negative", options.negative, kNegatives,
               "\"relu\" is the usual one, \"smooth\" has a gradient everywhere"));
  scales.odd_sizes = static_cast<int64_t>(
      index_of("odd_sizes", options.odd_sizes, kOddSizes,
               "\"pad\" puts a zero in front of an odd side, \"crop\" drops its last pixel"));
  check_exponents(options.weights);
  scales.exponents = options.weights;
  if (scales.exponents.empty()) {
    scales.exponents = {0.0448, 0.2856, 0.3001, 0.2363, 0.1333};
  }
  return scales;
}

// That of the coarsest scale.
inline DefinitionPtr definition(const MSSSIMOptions& options) {
  SSIMOptions single;
  single.data_range = options.data_range;
  single.window = options.window;
  single.window_size = options.window_size;
  single.sigma = options.sigma;
  single.taps = options.taps;
  single.k1 = options.k1;
  single.k2 = options.k2;
  single.padding = options.padding;
  single.layout = options.layout;
  return definition(single);
}

// The SSIM of images in [0, 1] with the standard window.
inline DefinitionPtr standard(const std::string& padding, const std::string& layout) {
  const auto with_options = [](std::string_view name, std::string_view dims) {
    SSIMOptions options;
    options.padding = name;
    options.layout = dims;
    return definition(options);
  };
  using Definitions = std::array<DefinitionPtr, 2>;
  const auto with_layout = [&](std::string_view dims) {
    return Definitions{with_options(kPaddings[0], dims), with_options(kPaddings[1], dims)};
  };
  static const std::array<Definitions, 3> definitions = {with_layout("BCW"), with_layout("BCHW"),
                                                         with_layout("BCDHW")};
  return definitions[static_cast<std::size_t>(spatial_dims_of(layout)) - 1]
                    [index_of("padding", padding, kPaddings, kPaddingHint)];
}

// ---- images -------------------------------------------------------------------------------------

inline bool has_batch(const std::string& layout) { return layout.front() == 'B'; }
inline bool has_channels_last(const std::string& layout) { return layout.back() == 'C'; }

// With the batch and the channels in front.
inline at::Tensor channels_first(const char* name, const at::Tensor& image,
                                 const std::string& layout) {
  const bool batch = has_batch(layout);
  if (batch && !has_channels_last(layout)) {
    return image;
  }
  check_dense(name, image);
  TORCH_CHECK_VALUE(image.dim() == static_cast<int64_t>(layout.size()), name, ": expected ",
                    layout.size(), " dimensions for layout \"", layout, "\", got ", shape_of(image),
                    "; name the layout that the images have");
  const at::Tensor moved = has_channels_last(layout) ? image.movedim(-1, batch ? 1 : 0) : image;
  return batch ? moved : moved.unsqueeze(0);
}

// A map with the batch and the channels in front, in the layout of the images.
inline at::Tensor in_layout(const at::Tensor& map, const std::string& layout) {
  const at::Tensor whole = has_batch(layout) ? map : map.squeeze(0);
  return has_channels_last(layout) ? whole.movedim(has_batch(layout) ? 1 : 0, -1) : whole;
}

// Values of each image or plane: without a batch in the layout there is none in the result.
inline at::Tensor without_batch(const at::Tensor& value, const std::string& layout) {
  return !has_batch(layout) && value.dim() > 0 ? value.squeeze(0) : value;
}

// None, or expanded to the images' shape.
struct MaskOption {
  std::optional<at::Tensor> weights = std::nullopt;
  int64_t mode = FUSED_SSIM_MASK_WEIGHTED;
};

struct Images {
  at::Tensor img1;
  at::Tensor img2;
  MaskOption mask = {};
};

// The images with the batch and the channels in front, checked, for any window.
inline Images images(const at::Tensor& img1, const at::Tensor& img2, const std::string& layout,
                     const Names& names = kImageNames, bool take_uint8 = true) {
  const int64_t spatial_dims = spatial_dims_of(layout);
  Images result = {channels_first(names[0], img1, layout), channels_first(names[1], img2, layout)};
  check_images(result.img1, result.img2, names, spatial_dims, take_uint8);
  return result;
}

inline Images images(const at::Tensor& img1, const at::Tensor& img2, const Definition& d,
                     const std::string& layout, const Names& names = kImageNames,
                     bool take_uint8 = true) {
  Images result = images(img1, img2, layout, names, take_uint8);
  check_window_fits(result.img1, d.window_sizes[2], d.valid);
  return result;
}

// The images with a mask of their layout.
inline Images with_mask(Images images, const at::Tensor& mask, const std::string& mask_mode,
                        const std::string& layout) {
  images.mask.mode = static_cast<int64_t>(index_of(
      "mask_mode", mask_mode, kMaskModes,
      "\"weighted\" averages the plain map, \"normalized\" weighs pixels inside windows, too"));
  if (mask.defined()) {
    const bool of_rank = mask.dim() == static_cast<int64_t>(layout.size());
    const at::Tensor weights = of_rank ? channels_first("mask", mask, layout) : mask;
    check_mask(weights, images.img1);
    images.mask.weights = weights.expand_as(images.img1);
  }
  return images;
}

inline void check_uint8_range(const Images& images, double range) {
  TORCH_CHECK_VALUE(
      range == 1.0 || range == 255.0 ||
          (images.img1.is_floating_point() && images.img2.is_floating_point()),
      "data_range: expected the number 1 (a uint8 pixel u stands for u / 255) or 255 (for u) "
      "beside a uint8 image, got ",
      number(range), "; convert the image with .float()");
}

// The images of a call with options.
inline Images images(const at::Tensor& img1, const at::Tensor& img2, const Definition& d,
                     const SSIMOptions& options) {
  Images result = images(img1, img2, d, options.layout);
  check_uint8_range(result, options.data_range);
  return with_mask(std::move(result), options.mask, options.mask_mode, options.layout);
}

}  // namespace fused_ssim::detail
