/// \file
/// SSIM and losses built on it for C++ programs on libtorch, differentiable in both images.
///
///     #include <fused_ssim/fused_ssim.h>
///     // rendered, photograph: [B, C, H, W] in [0, 1]
///     at::Tensor loss = 1 - fused_ssim::fused_ssim(rendered, photograph);
///     loss.backward();
///
/// The functions, their defaults and their errors are those of the Python package `fused_ssim`, as
/// far as the kernels serve: reflected borders and second derivatives are computed in Python alone.
///
/// This header is compiled by the program against its own libtorch, 2.10 or newer; the operators it
/// calls are registered by libfused_ssim (CPU) and libfused_ssim_cuda (CUDA), which serve every
/// such libtorch as they are. `find_package(fused_ssim)` and the target fused_ssim::fused_ssim see
/// to the linking; docs/cpp.md says how to do without CMake.
///
/// Images are [B, C, H, W], of any strides (channels_last, permuted, expanded), which are read as
/// they are. Where the functions take a `layout`, images may come as "BCHW" (the default), "BHWC",
/// "CHW" or "HWC", volumes as "BCDHW" or "BDHWC", and signals as "BCW" or "BWC": the layout is what
/// Python calls spatial_dims. float16, bfloat16 and float32 may mix; so may uint8 with any of them
/// and with float64. A uint8 pixel u stands for u / 255. Each gradient has its image's dtype.
///
/// Errors are c10::Error: c10::ValueError and c10::TypeError for bad arguments (what was expected,
/// what came, what to do), c10::NotImplementedError for what Python alone computes and for a device
/// that the libraries in the process do not serve. The CUDA kernels do not serve every form yet:
/// what they refuse says so.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <tuple>

#include "fused_ssim/build_facts.h"
#include "fused_ssim/torch/autograd.h"
#include "fused_ssim/torch/checks.h"
#include "fused_ssim/torch/definition.h"
#include "fused_ssim/torch/operators.h"
#include "fused_ssim/torch/options.h"
#include "fused_ssim/version.h"

namespace fused_ssim {

/// Mean SSIM of two image batches in [0, 1] under an 11x11 Gaussian window of sigma 1.5, k1 = 0.01,
/// k2 = 0.03: what the original fused-ssim computes.
///
/// \param img1    images [B, C, H, W] in [0, 1] (not checked)
/// \param img2    images of the same shape and device
/// \param padding "same" averages over all pixels, with zeros around the image; "valid" over those
///                whose window lies in the image, which must be at least 11 high and wide
/// \param train   whether a gradient will be wanted. It is computed in the same pass, for each
///                image that requires it; with false, or under at::NoGradGuard, only the value is.
/// \param layout  of both images
/// \return [] in [-1, 1], 1 where the images are identical; float64 where an image is, else float32
inline at::Tensor fused_ssim(const at::Tensor& img1, const at::Tensor& img2,
                             const std::string& padding = "same", bool train = true,
                             const std::string& layout = "BCHW") {
  const detail::DefinitionPtr d = detail::standard(padding, layout);
  return detail::reduced(detail::images(img1, img2, *d, layout), d, FUSED_SSIM_MEAN, {}, train);
}

/// fused_ssim() of volumes [B, C, D, H, W], under a window of 11x11x11.
inline at::Tensor fused_ssim3d(const at::Tensor& img1, const at::Tensor& img2,
                               const std::string& padding = "same", bool train = true,
                               const std::string& layout = "BCDHW") {
  return fused_ssim(img1, img2, padding, train, layout);
}

/// The SSIM map of two image batches, differentiable in both.
///
/// \param img1    images [B, C, H, W], or of options.layout
/// \param img2    images of the same shape and device
/// \param options which SSIM; its reduction is not looked at
/// \return [B, C, H', W'] in the images' layout; H' = H with padding "same", and H less the
///         window's size plus 1 with "valid", the other sides likewise; float64 where an image is,
///         else float32
inline at::Tensor ssim_map(const at::Tensor& img1, const at::Tensor& img2,
                           const SSIMOptions& options = {}) {
  const detail::DefinitionPtr d = detail::definition(options);
  return detail::in_layout(detail::mapped(detail::images(img1, img2, *d, options), d),
                           options.layout);
}

/// SSIM of two image batches, differentiable in both.
///
/// \param img1    images [B, C, H, W], or of options.layout
/// \param img2    images of the same shape and device
/// \param options which SSIM, and what to reduce it to
/// \return [], [B], [B, C] or the map, as options.reduction says, in [-1, 1] (but for "sum");
///         float64 where an image is, else float32
inline at::Tensor ssim(const at::Tensor& img1, const at::Tensor& img2,
                       const SSIMOptions& options = {}) {
  const auto reduction =
      static_cast<int64_t>(detail::index_of("reduction", options.reduction, detail::kReductions,
                                            "\"mean\" gives one number, \"none\" the map"));
  if (options.reduction == "none") {
    return ssim_map(img1, img2, options);
  }
  const detail::DefinitionPtr d = detail::definition(options);
  return detail::without_batch(
      detail::reduced(detail::images(img1, img2, *d, options), d, reduction), options.layout);
}

/// SSIM and mean squared error of each plane out of one pass; a backward pass is refused.
///
/// \param img1    images [B, C, H, W], or of options.layout
/// \param img2    images of the same shape and device
/// \param options which SSIM; its reduction and mask are not looked at. With padding "valid" the squared
///                error is averaged over the same pixels as SSIM.
/// \return [B, C] each; float64 where an image is, else float32
inline std::tuple<at::Tensor, at::Tensor> ssim_and_mse(const at::Tensor& img1,
                                                       const at::Tensor& img2,
                                                       const SSIMOptions& options = {}) {
  const detail::DefinitionPtr d = detail::definition(options);
  const auto [value, mse] = detail::ssim_and_mse(detail::images(img1, img2, *d, options), d);
  return {detail::without_batch(value, options.layout), detail::without_batch(mse, options.layout)};
}

/// MS-SSIM of two image batches, differentiable in both: the product of the mean contrast of each
/// scale and of the mean SSIM of the coarsest, each to the power of its weight. On CUDA, up to 32
/// scales.
///
/// \param img1    images [B, C, H, W], or of options.layout
/// \param img2    images of the same shape and device
/// \param options which MS-SSIM, and what to reduce it to. With the defaults height and width are at
///                least 161.
/// \return [], [B] or [B, C], as options.reduction says, in [0, 1]; float64 where an image is, else
///         float32
inline at::Tensor ms_ssim(const at::Tensor& img1, const at::Tensor& img2,
                          const MSSSIMOptions& options = {}) {
  const auto reduction = static_cast<int32_t>(detail::index_of(
      "reduction", options.reduction, detail::kScaleReductions,
      "\"channel\" gives a number for each plane; there is no map of several scales"));
  const detail::Scales scales = detail::scales_of(options);
  const detail::DefinitionPtr d = detail::definition(options);
  const detail::Images images = detail::images(img1, img2, options.layout);
  detail::check_scales_fit(images.img1, d->window_sizes[2], d->valid, scales.exponents.size(),
                           scales.odd_sizes == FUSED_SSIM_ODD_PAD);
  detail::check_uint8_range(images, options.data_range);
  const at::Tensor value = detail::multi_scale(images, d, scales);
  switch (reduction) {
    case FUSED_SSIM_MEAN:
      return value.mean();
    case FUSED_SSIM_SUM:
      return value.sum();
    default:
      return detail::without_batch(reduction == FUSED_SSIM_IMAGE ? value.mean(1) : value,
                                   options.layout);
  }
}

/// (1 - w) mean |pred - target| + w (1 - SSIM), value and gradient in one pass: the photometric
/// loss of 3D Gaussian Splatting. SSIM is that of fused_ssim(); the derivative of |pred - target|
/// at 0 is 0.
///
/// \param pred        images [B, C, H, W] in [0, 1]
/// \param target      images of the same shape and device
/// \param ssim_weight w, from 0 to 1
/// \param padding     as in fused_ssim(); with "valid" L1 is averaged over the same pixels as SSIM
/// \param train       as in fused_ssim()
/// \param layout      of both images
/// \param mask        weights of pixels, for both terms, as in SSIMOptions. Over a mask of zeros the
///                    loss and its gradient are 0.
/// \param mask_mode   "weighted" or "normalized", as in SSIMOptions
/// \return [], float64 where an image is, else float32
inline at::Tensor l1_ssim_loss(const at::Tensor& pred, const at::Tensor& target,
                               double ssim_weight = 0.2, const std::string& padding = "same",
                               bool train = true, const std::string& layout = "BCHW",
                               const at::Tensor& mask = {},
                               const std::string& mask_mode = "weighted") {
  const detail::DefinitionPtr d = detail::standard(padding, layout);
  detail::check_weight("ssim_weight", ssim_weight);
  const double w = ssim_weight;
  return detail::reduced(
      detail::with_mask(detail::images(pred, target, *d, layout, {"pred", "target"}), mask,
                        mask_mode, layout),
      d, FUSED_SSIM_MEAN, {-w, 1.0 - w, w}, train);
}

/// l1_ssim_loss() under its other name.
inline at::Tensor fused_l1_ssim_loss(const at::Tensor& img1, const at::Tensor& img2,
                                     double ssim_weight = 0.2, const std::string& padding = "same",
                                     bool train = true, const std::string& layout = "BCHW") {
  return l1_ssim_loss(img1, img2, ssim_weight, padding, train, layout);
}

// A string in the place of `train`, which it would silently convert to, is a layout gone astray.
at::Tensor fused_ssim(const at::Tensor&, const at::Tensor&, const std::string&,
                      const char*) = delete;
at::Tensor fused_ssim3d(const at::Tensor&, const at::Tensor&, const std::string&,
                        const char*) = delete;
at::Tensor l1_ssim_loss(const at::Tensor&, const at::Tensor&, double, const std::string&,
                        const char*) = delete;
at::Tensor fused_l1_ssim_loss(const at::Tensor&, const at::Tensor&, double, const std::string&,
                              const char*) = delete;

/// The SSIM map under the name and with the arguments of the original package.
struct FusedSSIMMap {
  /// \param C1           (k1 data_range)^2, positive; 0.01^2 is the standard for images in [0, 1]
  /// \param C2           (k2 data_range)^2, positive; 0.03^2 is the standard
  /// \param img1         images [B, C, H, W], of floating-point numbers
  /// \param img2         images of the same shape and device
  /// \param padding      "same" for a map of the images' size, "valid" for one cropped by 5 pixels
  ///                     at each border
  /// \param train        with false a backward pass is refused
  /// \param spatial_dims 2, or 3 for volumes [B, C, D, H, W]
  /// \return [B, C, H', W'] or [B, C, D', H', W']; float64 where an image is, else float32
  static at::Tensor apply(double C1, double C2, const at::Tensor& img1, const at::Tensor& img2,
                          const std::string& padding = "same", bool train = true,
                          int64_t spatial_dims = 2) {
    TORCH_CHECK_VALUE(spatial_dims == 2 || spatial_dims == 3, "spatial_dims: expected 2 or 3, got ",
                      spatial_dims,
                      "; 2 is for images [B, C, H, W], 3 for volumes [B, C, D, H, W]");
    const std::string layout = spatial_dims == 2 ? "BCHW" : "BCDHW";
    const auto d = c10::make_intrusive<detail::Definition>(*detail::standard(padding, layout));
    detail::check_positive("C1", C1, "it is 0.01**2 for images in [0, 1]");
    detail::check_positive("C2", C2, "it is 0.03**2 for images in [0, 1]");
    detail::checked_square("C1", std::sqrt(C1), 1.0);
    detail::checked_square("C2", std::sqrt(C2), 1.0);
    d->c1 = C1;
    d->c2 = C2;
    return detail::mapped(
        detail::images(img1, img2, *d, layout, detail::kImageNames, /*take_uint8=*/false), d,
        train);
  }
};

/// How libfused_ssim was built, and which instruction set the CPU kernels use.
inline const FusedSsimBuildFacts& build_facts() { return *fused_ssim_build_facts(); }

}  // namespace fused_ssim
