/// \file
/// SSIM and losses built on it for C++ programs on libtorch, differentiable in both images.
///
///     #include <fused_ssim/fused_ssim.h>
///     at::Tensor loss = 1 - fused_ssim::fused_ssim(rendered, photograph);  // [B, C, H, W] in [0, 1]
///     loss.backward();
///
/// The functions, their defaults and their errors are those of the Python package `fused_ssim`.
/// This header is compiled by the program against its own libtorch, 2.10 or newer; the operators it
/// calls are registered by libfused_ssim (CPU) and libfused_ssim_cuda (CUDA), which serve every such
/// libtorch as they are. `find_package(fused_ssim)` and the target fused_ssim::fused_ssim see to the
/// linking; docs/cpp.md says how to do without CMake.
///
/// Images are [B, C, H, W], float16, bfloat16, float32 or float64, of any strides (channels_last,
/// permuted, expanded), which are read as they are. Where the functions take a `layout`, images may
/// come as "BCHW" (the default), "BHWC", "CHW" or "HWC".
///
/// Errors are c10::Error: c10::ValueError and c10::TypeError for bad arguments (what was expected,
/// what came, what to do), c10::NotImplementedError for a device that the libraries in the process
/// do not serve.
#pragma once

#include <ATen/ATen.h>
#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/util/Exception.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/graph_task.h>

#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <sstream>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "fused_ssim/build_facts.h"
#include "fused_ssim/version.h"

namespace fused_ssim {

/// Which SSIM, and of what.
struct SSIMOptions {
  /// Difference between the largest and the smallest possible pixel value; positive.
  double data_range = 1.0;
  /// Odd number of taps of the Gaussian window, 3 to 33. 11 is the fast case.
  int64_t window_size = 11;
  /// Standard deviation of the window in pixels; positive.
  double sigma = 1.5;
  /// Stabilizes the luminance term, C1 = (k1 data_range)^2; positive.
  double k1 = 0.01;
  /// Stabilizes the contrast term, C2 = (k2 data_range)^2; positive.
  double k2 = 0.03;
  /// "same": zeros around the image and a value for every pixel; "valid": a value only where the
  /// whole window lies in the image, which must be at least window_size high and wide.
  std::string padding = "same";
  /// "mean" or "sum" over everything ([]), "image" means ([B]), "channel" means ([B, C]), or "none",
  /// the map. ssim_map() does not look at it.
  std::string reduction = "mean";
  /// How the dimensions of both images (and of a map) are ordered: "BCHW", "BHWC", "CHW" or "HWC".
  std::string layout = "BCHW";
};

// ---- what the functions below are made of -------------------------------------------------------

namespace detail {

inline constexpr int64_t kMinWindowSize = 3;
inline constexpr int64_t kMaxWindowSize = 33;
inline constexpr const char* kStandardLayout = "BCHW";
// In the order of the operators' numbers; "none" is the map, an operator of its own.
inline constexpr std::array<std::string_view, 4> kReductions = {"mean", "sum", "image", "channel"};

inline constexpr const char* kNoGradient =
    "fused_ssim: this value was computed without a gradient (train=False, or an image that did not "
    "require one at the time); call it with train=True on images that require a gradient";
inline constexpr const char* kNoSecondDerivative =
    "fused_ssim: expected a first derivative only, got a request for the derivative of the "
    "gradient, which is not implemented; detach the gradient, or drop create_graph=True";
inline constexpr const char* kNoForwardMode =
    "fused_ssim: expected images without tangents, got a request for forward-mode differentiation, "
    "which is not implemented; use reverse mode, .backward() or torch.autograd.grad()";

template <class... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream stream;
  (stream << ... << parts);
  return stream.str();
}

// As Python prints it: the shortest digits that read back as the same number.
inline std::string number(double value) {
  if (std::isnan(value)) {
    return "nan";
  }
  if (std::isinf(value)) {
    return value > 0 ? "inf" : "-inf";
  }
  const double magnitude = std::fabs(value);
  const auto format = magnitude != 0.0 && (magnitude < 1e-4 || magnitude >= 1e16)
                          ? std::chars_format::scientific
                          : std::chars_format::fixed;
  char digits[64];
  const auto end = std::to_chars(digits, digits + sizeof(digits), value, format).ptr;
  std::string result(digits, end);
  if (format == std::chars_format::fixed && result.find('.') == std::string::npos) {
    result += ".0";
  }
  return result;
}

inline std::string shape_of(const at::Tensor& image) {
  std::string result = "[";
  for (const int64_t size : image.sizes()) {
    result += (result.size() > 1 ? ", " : "") + std::to_string(size);
  }
  return result + "]";
}

inline std::string dtype_of(const at::Tensor& image) {
  return text("torch.", c10::getDtypeNames(image.scalar_type()).first);
}

inline std::string layout_of(const at::Tensor& image) {
  switch (image.layout()) {
    case at::kSparse:
      return "torch.sparse_coo";
    case at::kSparseCsr:
      return "torch.sparse_csr";
    case at::kSparseCsc:
      return "torch.sparse_csc";
    case at::kSparseBsr:
      return "torch.sparse_bsr";
    case at::kSparseBsc:
      return "torch.sparse_bsc";
    case at::kMkldnn:
      return "torch._mkldnn";
    case at::kJagged:
      return "torch.jagged";
    default:
      return text(image.layout());
  }
}

// ---- checks, in the order and the words of the Python package -----------------------------------

inline void check_padding(const std::string& padding) {
  TORCH_CHECK_VALUE(padding == "same" || padding == "valid",
                    "padding: expected \"same\" (zeros around the image) or \"valid\" (whole "
                    "windows only), got '",
                    padding, "'");
}

// The operators' number of a reduction; -1 for "none".
inline int64_t reduction_number(const std::string& reduction) {
  if (reduction == "none") {
    return -1;
  }
  for (std::size_t i = 0; i < kReductions.size(); ++i) {
    if (reduction == kReductions[i]) {
      return static_cast<int64_t>(i);
    }
  }
  std::string expected = "'none'";
  for (const std::string_view name : kReductions) {
    expected += text(", '", name, "'");
  }
  C10_THROW_ERROR(ValueError, text("reduction: expected one of ", expected, ", got '", reduction,
                                   "'; \"none\" gives the SSIM map"));
}

inline void check_window_size(int64_t window_size) {
  TORCH_CHECK_VALUE(
      window_size >= kMinWindowSize && window_size <= kMaxWindowSize && window_size % 2 != 0,
      "window_size: expected an odd number from ", kMinWindowSize, " to ", kMaxWindowSize, ", got ",
      window_size, "; the standard is 11");
}

inline void check_positive(const char* name, double value, const char* hint) {
  TORCH_CHECK_VALUE(value > 0 && std::isfinite(value), name,
                    ": expected a positive, finite number, got ", number(value), "; ", hint);
}

inline void check_weight(const char* name, double value) {
  TORCH_CHECK_VALUE(value >= 0 && value <= 1, name, ": expected a number from 0 to 1, got ",
                    number(value), "; 0 is L1 alone, 1 is SSIM alone");
}

// k * data_range must have a square that is neither 0 nor infinite, in float32 too.
inline void check_stabilizer(const char* name, double k, double data_range) {
  const double c = (k * data_range) * (k * data_range);
  TORCH_CHECK_VALUE(c > 1e-37 && c < 1e37, name,
                    " * data_range: expected a square between 1e-37 and 1e37, got ", number(c),
                    " from ", name, "=", number(k), " and data_range=", number(data_range),
                    "; scale the images and data_range");
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

inline void check_image(const char* name, const at::Tensor& image) {
  check_dense(name, image);
  if (!image.is_cpu() && !image.is_cuda()) {
    C10_THROW_ERROR(NotImplementedError,
                    text(name, ": expected a tensor on cpu or cuda, got device ", image.device(),
                         "; move the images with .to(\"cpu\")"));
  }
  const at::ScalarType dtype = image.scalar_type();
  const bool integral = !c10::isFloatingType(dtype) && !c10::isComplexType(dtype);
  TORCH_CHECK_TYPE(
      dtype == at::kHalf || dtype == at::kBFloat16 || dtype == at::kFloat || dtype == at::kDouble,
      name, ": expected dtype float16, bfloat16, float32 or float64, got ", dtype_of(image), "; ",
      integral ? "convert with .float() and pass the range, or divide by it"
               : "convert it, for example with .float()");
  TORCH_CHECK_VALUE(image.dim() == 4, name, ": expected shape [B, C, H, W], got ", shape_of(image),
                    "; add a batch dimension with .unsqueeze(0)");
  TORCH_CHECK_VALUE(image.numel() > 0, name, ": expected at least one pixel, got ", shape_of(image),
                    "; check how it was cropped");
}

using Names = std::array<const char*, 2>;
inline constexpr Names kImageNames = {"img1", "img2"};

inline void check_images(const at::Tensor& img1, const at::Tensor& img2, const Names& names) {
  check_image(names[0], img1);
  check_image(names[1], img2);
  const std::string pair = text(names[0], " and ", names[1]);
  TORCH_CHECK_VALUE(img1.sizes() == img2.sizes(), pair, ": expected one shape, got ",
                    shape_of(img1), " and ", shape_of(img2),
                    "; nothing is broadcast, use .expand_as()");
  TORCH_CHECK_TYPE(img1.scalar_type() == img2.scalar_type(), pair, ": expected one dtype, got ",
                   dtype_of(img1), " and ", dtype_of(img2), "; convert one with .to(other.dtype)");
  TORCH_CHECK_VALUE(img1.device() == img2.device(), pair, ": expected one device, got ",
                    img1.device(), " and ", img2.device(), "; move one with .to(other.device)");
}

inline void check_window_fits(const at::Tensor& image, int64_t window_size, bool valid) {
  TORCH_CHECK_VALUE(
      !valid || (image.size(2) >= window_size && image.size(3) >= window_size),
      "padding=\"valid\": expected height and width of at least window_size=", window_size,
      ", got ", shape_of(image), "; use padding=\"same\" or a smaller window");
}

// Forward mode drops the tangents of operators that it does not know, without a word.
inline void refuse_forward_mode(const at::Tensor& image) {
  if (image._fw_grad(/*level=*/0).defined()) {
    C10_THROW_ERROR(NotImplementedError, kNoForwardMode);
  }
}

// ---- arguments ----------------------------------------------------------------------------------

// The stabilizers (k * data_range)^2, the Gaussian window, the padding.
struct Definition {
  double c1 = 0.01 * 0.01;
  double c2 = 0.03 * 0.03;
  int64_t window_size = 11;
  double sigma = 1.5;
  bool valid = false;
};

inline Definition definition(const SSIMOptions& options) {
  check_positive("data_range", options.data_range, "it is 1 for images in [0, 1]");
  check_window_size(options.window_size);
  check_positive("sigma", options.sigma, "the standard is 1.5 pixels");
  check_positive("k1", options.k1, "the standard is 0.01");
  check_positive("k2", options.k2, "the standard is 0.03");
  check_stabilizer("k1", options.k1, options.data_range);
  check_stabilizer("k2", options.k2, options.data_range);
  check_padding(options.padding);
  const double c1 = options.k1 * options.data_range;
  const double c2 = options.k2 * options.data_range;
  return {c1 * c1, c2 * c2, options.window_size, options.sigma, options.padding == "valid"};
}

inline Definition standard(const std::string& padding) {
  check_padding(padding);
  Definition d;
  d.valid = padding == "valid";
  return d;
}

// A view of the image as [B, C, H, W].
inline at::Tensor as_bchw(const char* name, const at::Tensor& image, const std::string& layout) {
  if (layout == kStandardLayout) {
    return image;
  }
  TORCH_CHECK_VALUE(layout == "BHWC" || layout == "CHW" || layout == "HWC",
                    "layout: expected \"BCHW\", \"BHWC\", \"CHW\" or \"HWC\", got '", layout, "'");
  check_dense(name, image);
  TORCH_CHECK_VALUE(image.dim() == static_cast<int64_t>(layout.size()), name, ": expected ",
                    layout.size(), " dimensions for layout \"", layout, "\", got ",
                    shape_of(image));
  if (layout == "BHWC") {
    return image.permute({0, 3, 1, 2});
  }
  return layout == "CHW" ? image.unsqueeze(0) : image.permute({2, 0, 1}).unsqueeze(0);
}

inline at::Tensor from_bchw(const at::Tensor& map, const std::string& layout) {
  if (layout == "BHWC") {
    return map.permute({0, 2, 3, 1});
  }
  if (layout == "CHW") {
    return map.squeeze(0);
  }
  return layout == "HWC" ? map.squeeze(0).permute({1, 2, 0}) : map;
}

struct Images {
  at::Tensor img1;
  at::Tensor img2;
};

// The images as [B, C, H, W], checked; under autocast, of mixed precision brought to float32.
inline Images images(const at::Tensor& img1, const at::Tensor& img2, const Definition& d,
                     const std::string& layout, const Names& names = kImageNames) {
  Images result = {as_bchw(names[0], img1, layout), as_bchw(names[1], img2, layout)};
  const auto narrow = [](const at::Tensor& image) {
    return image.scalar_type() == at::kHalf || image.scalar_type() == at::kBFloat16 ||
           image.scalar_type() == at::kFloat;
  };
  if (result.img1.defined() && result.img2.defined() &&
      result.img1.scalar_type() != result.img2.scalar_type() && narrow(result.img1) &&
      narrow(result.img2) && (result.img1.is_cpu() || result.img1.is_cuda()) &&
      at::autocast::is_autocast_enabled(result.img1.device().type())) {
    result = {result.img1.to(at::kFloat), result.img2.to(at::kFloat)};
  }
  check_images(result.img1, result.img2, names);
  check_window_fits(result.img1, d.window_size, d.valid);
  refuse_forward_mode(result.img1);
  refuse_forward_mode(result.img2);
  return result;
}

// ---- operators ----------------------------------------------------------------------------------

template <class Signature>
c10::TypedOperatorHandle<Signature> find_operator(const char* name) {
  const auto handle = c10::Dispatcher::singleton().findSchema({name, ""});
  if (!handle.has_value()) {
    C10_THROW_ERROR(
        NotImplementedError,
        text("fused_ssim: expected the operator ", name,
             ", but libfused_ssim is not in this process; link fused_ssim::fused_ssim, or "
             "libfused_ssim with -Wl,--no-as-needed: nothing refers to its functions by name"));
  }
  return handle->typed<Signature>();
}

inline std::tuple<at::Tensor, at::Tensor, at::Tensor> call_ssim(
    const at::Tensor& img1, const at::Tensor& img2, const Definition& d, int64_t reduction,
    double ssim_weight, double l1_weight, double offset, bool wants1, bool wants2) {
  static const auto handle = find_operator<std::tuple<at::Tensor, at::Tensor, at::Tensor>(
      const at::Tensor&, const at::Tensor&, double, double, int64_t, double, bool, int64_t, double,
      double, double, bool, bool)>("fused_ssim::ssim");
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  return handle.call(img1, img2, d.c1, d.c2, d.window_size, d.sigma, d.valid, reduction,
                     ssim_weight, l1_weight, offset, wants1, wants2);
}

inline at::Tensor call_ssim_map(const at::Tensor& img1, const at::Tensor& img2,
                                const Definition& d) {
  static const auto handle =
      find_operator<at::Tensor(const at::Tensor&, const at::Tensor&, double, double, int64_t,
                               double, bool)>("fused_ssim::ssim_map");
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  return handle.call(img1, img2, d.c1, d.c2, d.window_size, d.sigma, d.valid);
}

inline std::tuple<at::Tensor, at::Tensor> call_ssim_map_backward(const at::Tensor& map_gradient,
                                                                 const at::Tensor& img1,
                                                                 const at::Tensor& img2,
                                                                 const Definition& d, bool wants1,
                                                                 bool wants2) {
  static const auto handle = find_operator<std::tuple<at::Tensor, at::Tensor>(
      const at::Tensor&, const at::Tensor&, const at::Tensor&, double, double, int64_t, double,
      bool, bool, bool)>("fused_ssim::ssim_map_backward");
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  return handle.call(map_gradient, img1, img2, d.c1, d.c2, d.window_size, d.sigma, d.valid, wants1,
                     wants2);
}

inline at::Tensor call_scale_gradient(const at::Tensor& unit, const at::Tensor& upstream,
                                      int64_t reduction, double factor) {
  static const auto handle =
      find_operator<at::Tensor(const at::Tensor&, const at::Tensor&, int64_t, double)>(
          "fused_ssim::scale_gradient");
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  return handle.call(unit, upstream, reduction, factor);
}

inline void call_scale_gradient_(at::Tensor unit, const at::Tensor& upstream, int64_t reduction,
                                 double factor) {
  static const auto handle = find_operator<void(at::Tensor, const at::Tensor&, int64_t, double)>(
      "fused_ssim::scale_gradient_");
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  handle.call(std::move(unit), upstream, reduction, factor);
}

// ---- autograd -----------------------------------------------------------------------------------

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// A result as it is, whose derivative by `inputs` is an error with this message.
class Refuse : public torch::autograd::Function<Refuse> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const std::string& message,
                            const at::Tensor& result, const at::Tensor&, const at::Tensor&) {
    ctx->saved_data["message"] = message;
    return result.view_as(result);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list&) {
    TORCH_CHECK(false, ctx->saved_data["message"].toStringRef());
  }
};

struct Weights {
  double ssim = 1.0;
  double l1 = 0.0;
  double offset = 0.0;
};

// What `reduction` divides the sum of a value's pixels by.
inline double divisor(const at::Tensor& image, const Definition& d, int64_t reduction) {
  if (kReductions[static_cast<std::size_t>(reduction)] == "sum") {
    return 1.0;
  }
  const int64_t crop = d.valid ? d.window_size - 1 : 0;
  int64_t pixels = (image.size(2) - crop) * (image.size(3) - crop);
  if (kReductions[static_cast<std::size_t>(reduction)] != "channel") {
    pixels *= image.size(1);
  }
  if (kReductions[static_cast<std::size_t>(reduction)] == "mean") {
    pixels *= image.size(0);
  }
  return static_cast<double>(pixels);
}

class Ssim : public torch::autograd::Function<Ssim> {
 public:
  static variable_list forward(AutogradContext* ctx, const at::Tensor& img1, const at::Tensor& img2,
                               const Definition& d, int64_t reduction, const Weights& weights,
                               bool wants1, bool wants2) {
    auto [value, unit1, unit2] = call_ssim(img1, img2, d, reduction, weights.ssim, weights.l1,
                                           weights.offset, wants1, wants2);
    // The unit gradients are saved but no outputs, which spares autograd's bookkeeping of them. One
    // empty output is left for gradients made with create_graph: it connects them to the images, so
    // that differentiating them is refused, and they don't pass for constants.
    at::Tensor link = !wants1 ? unit1 : !wants2 ? unit2 : at::empty({0}, value.options());
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({wants1 ? unit1 : at::Tensor(), wants2 ? unit2 : at::Tensor(), link});
    ctx->saved_data["reduction"] = reduction;
    ctx->saved_data["factor"] = 1.0 / divisor(img1, d, reduction);
    return {value, link};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    variable_list result(7);  // one for each argument of forward
    if (!gradients[0].defined()) {
      return result;
    }
    const at::Tensor upstream = gradients[0].contiguous();
    const variable_list saved = ctx->get_saved_variables();
    const int64_t reduction = ctx->saved_data["reduction"].toInt();
    const double factor = ctx->saved_data["factor"].toDouble();
    const bool creates_graph = at::GradMode::is_enabled();
    const bool may_overwrite =
        !creates_graph && !torch::autograd::get_current_graph_task_keep_graph();
    for (std::size_t i = 0; i < 2; ++i) {
      if (!ctx->needs_input_grad(i)) {
        continue;
      }
      const at::Tensor& unit = saved[i];
      TORCH_CHECK(unit.defined(), kNoGradient);
      // The unit gradient becomes the gradient in place where nobody can ask for it again.
      if (may_overwrite && !at::isTensorSubclassLike(unit)) {
        call_scale_gradient_(unit, upstream, reduction, factor);
        result[i] = unit;
      } else {
        result[i] = call_scale_gradient(unit, upstream, reduction, factor);
      }
      if (creates_graph) {
        result[i] = Refuse::apply(kNoSecondDerivative, result[i], saved[2], upstream);
      }
    }
    return result;
  }
};

class SsimMap : public torch::autograd::Function<SsimMap> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& img1, const at::Tensor& img2,
                            const Definition& d) {
    ctx->save_for_backward({img1, img2});
    ctx->saved_data["c1"] = d.c1;
    ctx->saved_data["c2"] = d.c2;
    ctx->saved_data["window_size"] = d.window_size;
    ctx->saved_data["sigma"] = d.sigma;
    ctx->saved_data["valid"] = d.valid;
    return call_ssim_map(img1, img2, d);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    const variable_list saved = ctx->get_saved_variables();
    const Definition d = {ctx->saved_data["c1"].toDouble(), ctx->saved_data["c2"].toDouble(),
                          ctx->saved_data["window_size"].toInt(),
                          ctx->saved_data["sigma"].toDouble(), ctx->saved_data["valid"].toBool()};
    const bool wants[2] = {ctx->needs_input_grad(0), ctx->needs_input_grad(1)};
    const auto [gradient1, gradient2] =
        call_ssim_map_backward(gradients[0], saved[0], saved[1], d, wants[0], wants[1]);
    variable_list result = {wants[0] ? gradient1 : at::Tensor(),
                            wants[1] ? gradient2 : at::Tensor(), at::Tensor()};
    for (std::size_t i = 0; i < 2; ++i) {
      if (wants[i] && at::GradMode::is_enabled()) {
        result[i] = Refuse::apply(kNoSecondDerivative, result[i], saved[i], gradients[0]);
      }
    }
    return result;
  }
};

inline bool differentiable(const at::Tensor& img1, const at::Tensor& img2) {
  return at::GradMode::is_enabled() && (img1.requires_grad() || img2.requires_grad());
}

// offset + reduction of weights.ssim * SSIM + weights.l1 * |img1 - img2|.
inline at::Tensor reduced(const Images& images, const Definition& d, int64_t reduction,
                          const Weights& weights = {}, bool train = true) {
  const auto& [img1, img2] = images;
  if (!differentiable(img1, img2)) {
    return std::get<0>(call_ssim(img1, img2, d, reduction, weights.ssim, weights.l1, weights.offset,
                                 false, false));
  }
  return Ssim::apply(img1, img2, d, reduction, weights, train && img1.requires_grad(),
                     train && img2.requires_grad())[0];
}

inline at::Tensor map(const Images& images, const Definition& d, bool train = true) {
  const auto& [img1, img2] = images;
  if (!differentiable(img1, img2)) {
    return call_ssim_map(img1, img2, d);
  }
  return train ? SsimMap::apply(img1, img2, d)
               : Refuse::apply(kNoGradient, call_ssim_map(img1.detach(), img2.detach(), d), img1,
                               img2);
}

}  // namespace detail

// ---- the public functions -----------------------------------------------------------------------

/// Mean SSIM of two image batches in [0, 1] under an 11x11 Gaussian window of sigma 1.5, k1 = 0.01,
/// k2 = 0.03: what the original fused-ssim computes.
///
/// \param img1    images [B, C, H, W] in [0, 1] (not checked)
/// \param img2    images of the same shape, dtype and device
/// \param padding "same" averages over all pixels, with zeros around the image; "valid" over those
///                whose window lies in the image, which must be at least 11 high and wide
/// \param train   whether a gradient will be wanted. It is computed in the same pass, for each image
///                that requires it; with false, or under at::NoGradGuard, only the value is.
/// \param layout  of both images
/// \return [] in [-1, 1], 1 where the images are identical; float64 for float64 images, else float32
inline at::Tensor fused_ssim(const at::Tensor& img1, const at::Tensor& img2,
                             const std::string& padding = "same", bool train = true,
                             const std::string& layout = detail::kStandardLayout) {
  const detail::Definition d = detail::standard(padding);
  return detail::reduced(detail::images(img1, img2, d, layout), d, /*reduction=*/0, {}, train);
}

/// The SSIM map of two image batches, differentiable in both.
///
/// \param img1    images [B, C, H, W], or of options.layout
/// \param img2    images of the same shape, dtype and device
/// \param options which SSIM; its reduction is not looked at
/// \return [B, C, H', W'] in the images' layout; H' = H with padding "same" and
///         H - window_size + 1 with "valid", W' likewise; float64 for float64 images, else float32
inline at::Tensor ssim_map(const at::Tensor& img1, const at::Tensor& img2,
                           const SSIMOptions& options = {}) {
  const detail::Definition d = detail::definition(options);
  return detail::from_bchw(detail::map(detail::images(img1, img2, d, options.layout), d),
                           options.layout);
}

/// SSIM of two image batches, differentiable in both.
///
/// \param img1    images [B, C, H, W], or of options.layout
/// \param img2    images of the same shape, dtype and device
/// \param options which SSIM, and what to reduce it to
/// \return [], [B], [B, C] or the map, as options.reduction says, in [-1, 1] (but for "sum"); float64
///         for float64 images, else float32
inline at::Tensor ssim(const at::Tensor& img1, const at::Tensor& img2,
                       const SSIMOptions& options = {}) {
  const int64_t reduction = detail::reduction_number(options.reduction);
  if (reduction < 0) {
    return ssim_map(img1, img2, options);
  }
  const detail::Definition d = detail::definition(options);
  return detail::reduced(detail::images(img1, img2, d, options.layout), d, reduction);
}

/// (1 - w) mean |pred - target| + w (1 - SSIM), value and gradient in one pass: the photometric loss
/// of 3D Gaussian Splatting. SSIM is that of fused_ssim(); the derivative of |pred - target| at 0 is
/// 0.
///
/// \param pred        images [B, C, H, W] in [0, 1]
/// \param target      images of the same shape, dtype and device
/// \param ssim_weight w, from 0 to 1
/// \param padding     as in fused_ssim(); with "valid" L1 is averaged over the same pixels as SSIM
/// \param layout      of both images
/// \return [], float64 for float64 images, else float32
inline at::Tensor l1_ssim_loss(const at::Tensor& pred, const at::Tensor& target,
                               double ssim_weight = 0.2, const std::string& padding = "same",
                               const std::string& layout = detail::kStandardLayout) {
  detail::check_padding(padding);
  detail::check_weight("ssim_weight", ssim_weight);
  const detail::Definition d = detail::standard(padding);
  const double w = ssim_weight;
  return detail::reduced(detail::images(pred, target, d, layout, {"pred", "target"}), d,
                         /*reduction=*/0, {-w, 1.0 - w, w});
}

/// l1_ssim_loss() under its other name.
inline at::Tensor fused_l1_ssim_loss(const at::Tensor& pred, const at::Tensor& target,
                                     double ssim_weight = 0.2, const std::string& padding = "same",
                                     const std::string& layout = detail::kStandardLayout) {
  return l1_ssim_loss(pred, target, ssim_weight, padding, layout);
}

/// The SSIM map under the name and with the arguments of the original package.
struct FusedSSIMMap {
  /// \param C1           (k1 data_range)^2, positive; 0.01^2 is the standard for images in [0, 1]
  /// \param C2           (k2 data_range)^2, positive; 0.03^2 is the standard
  /// \param img1         images [B, C, H, W]
  /// \param img2         images of the same shape, dtype and device
  /// \param padding      "same" for a map of the images' size, "valid" for one cropped by 5 pixels at
  ///                     each border
  /// \param train        with false a backward pass is refused
  /// \param spatial_dims 2; volumes (3) are not implemented yet
  /// \return [B, C, H', W']; float64 for float64 images, else float32
  static at::Tensor apply(double C1, double C2, const at::Tensor& img1, const at::Tensor& img2,
                          const std::string& padding = "same", bool train = true,
                          int64_t spatial_dims = 2) {
    detail::check_positive("C1", C1, "it is 0.01**2 for images in [0, 1]");
    detail::check_positive("C2", C2, "it is 0.03**2 for images in [0, 1]");
    detail::check_stabilizer("C1", std::sqrt(C1), 1.0);
    detail::check_stabilizer("C2", std::sqrt(C2), 1.0);
    detail::Definition d = detail::standard(padding);
    if (spatial_dims == 3) {
      C10_THROW_ERROR(NotImplementedError,
                      "spatial_dims: expected 2, got 3; volumes are not implemented yet, pass "
                      "slices as a batch");
    }
    TORCH_CHECK_VALUE(spatial_dims == 2, "spatial_dims: expected 2, got ", spatial_dims,
                      "; use 2 for images [B, C, H, W]");
    d.c1 = C1;
    d.c2 = C2;
    return detail::map(detail::images(img1, img2, d, detail::kStandardLayout), d, train);
  }
};

/// How libfused_ssim was built, and which instruction set the CPU kernels use.
inline const FusedSsimBuildFacts& build_facts() { return *fused_ssim_build_facts(); }

}  // namespace fused_ssim
