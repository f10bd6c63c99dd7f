// The operators as differentiable functions of checked arguments.
#pragma once

#include <ATen/ATen.h>
#include <ATen/TensorSubclassLikeUtils.h>
#include <c10/util/Exception.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/graph_task.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "fused_ssim/torch/definition.h"
#include "fused_ssim/torch/operators.h"

namespace fused_ssim::detail {

inline constexpr const char* kNoGradient =
    "fused_ssim: this value was computed without a gradient (train=False, or an image that did not "
    "require one at the time); call it with train=True on images that require a gradient";
inline constexpr const char* kNoSecondDerivative =
    "fused_ssim: expected a first derivative only, got a request for the derivative of the "
    "gradient, which Python's functions alone have; detach the gradient, or drop create_graph=True";
inline constexpr const char* kNoForwardMode =
    "fused_ssim: expected images without tangents, got a request for forward-mode differentiation, "
    "which is not implemented; use reverse mode, .backward() or torch.autograd.grad()";

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

inline DefinitionPtr saved_definition(AutogradContext* ctx) {
  return c10::static_intrusive_pointer_cast<Definition>(ctx->saved_data["definition"].toCapsule());
}

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

// What scale_gradient takes for `upstream`. It divides float16 gradients, which are those of sums, by
// the number of pixels, where the divisor of a mean under a mask is the mask's sum.
inline at::Tensor factor(const at::Tensor& upstream, const at::Tensor& gradient,
                         const at::Tensor& mask, const Definition& d, int64_t reduction) {
  if (!mask.defined() || gradient.scalar_type() != at::kHalf || reduction == FUSED_SSIM_SUM) {
    return upstream;
  }
  // What is no number, or negative, counts as 0.
  at::Tensor inside =
      mask.scalar_type() == at::kBool ? mask : at::where(mask > 0, mask, at::zeros_like(mask));
  for (int64_t axis = 2; d.valid && axis < 4; ++axis) {
    const int64_t size = d.window_sizes[static_cast<std::size_t>(axis - 1)];
    inside = inside.narrow(axis, size / 2, inside.size(axis) - size + 1);
  }
  const std::vector<int64_t> axes = reduction == FUSED_SSIM_CHANNEL ? std::vector<int64_t>{2, 3}
                                    : reduction == FUSED_SSIM_IMAGE
                                        ? std::vector<int64_t>{1, 2, 3}
                                        : std::vector<int64_t>{0, 1, 2, 3};
  const at::Tensor sums = inside.sum(axes, /*keepdim=*/false, upstream.scalar_type());
  const auto pixels = static_cast<double>(inside.numel()) / static_cast<double>(sums.numel());
  return upstream * at::where(sums > 0, pixels / sums, at::zeros_like(sums));
}

// The gradients by both images, of what was saved of each: multiply_(i) turns that of image i into its
// gradient, multiplied(i) gives a new one.
template <class MultiplyInPlace, class Multiplied>
void times_upstream(AutogradContext* ctx, const at::Tensor& upstream,
                    const std::array<at::Tensor, 2>& saved, const at::Tensor& link,
                    variable_list* result, const MultiplyInPlace& multiply_,
                    const Multiplied& multiplied) {
  const bool creates_graph = at::GradMode::is_enabled();
  const bool may_overwrite =
      !creates_graph && !torch::autograd::get_current_graph_task_keep_graph();
  for (std::size_t i = 0; i < 2; ++i) {
    if (!ctx->needs_input_grad(i)) {
      continue;
    }
    at::Tensor& gradient = (*result)[i];
    TORCH_CHECK(saved[i].defined(), kNoGradient);
    // The saved gradient becomes the result in place where nobody can ask for it again.
    if (may_overwrite && !at::isTensorSubclassLike(saved[i])) {
      multiply_(i);
      gradient = saved[i];
    } else {
      gradient = multiplied(i);
    }
    if (creates_graph) {
      gradient = Refuse::apply(kNoSecondDerivative, gradient, link, upstream);
    }
  }
}

class Reduced : public torch::autograd::Function<Reduced> {
 public:
  static variable_list forward(AutogradContext* ctx, const at::Tensor& img1, const at::Tensor& img2,
                               const MaskOption& mask, const DefinitionPtr& d, int64_t reduction,
                               const Weights& weights, bool wants1, bool wants2) {
    auto [value, gradient1, gradient2] =
        call_ssim({img1, img2, mask}, *d, reduction, weights, wants1, wants2);
    // The gradients are saved but no outputs, which spares autograd's bookkeeping of them. One
    // empty output is left for gradients made with create_graph: it connects them to the images, so
    // that differentiating them is refused, and they don't pass for constants.
    at::Tensor link = !wants1 ? gradient1 : !wants2 ? gradient2 : at::empty({0}, value.options());
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({wants1 ? gradient1 : at::Tensor(), wants2 ? gradient2 : at::Tensor(),
                            link, mask.weights.value_or(at::Tensor())});
    ctx->saved_data["definition"] = c10::IValue::make_capsule(d);
    ctx->saved_data["reduction"] = reduction;
    return {value, link};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& upstreams) {
    variable_list result(8);  // one for each argument of forward
    if (!upstreams[0].defined()) {
      return result;
    }
    const variable_list saved = ctx->get_saved_variables();
    const DefinitionPtr d = saved_definition(ctx);
    const int64_t reduction = ctx->saved_data["reduction"].toInt();
    const at::Tensor upstream = upstreams[0].contiguous();
    const auto factor_of = [&](std::size_t i) {
      return factor(upstream, saved[i], saved[3], *d, reduction);
    };
    times_upstream(
        ctx, upstream, {saved[0], saved[1]}, saved[2], &result,
        [&](std::size_t i) { call_scale_gradient_(saved[i], factor_of(i), *d, reduction); },
        [&](std::size_t i) { return call_scale_gradient(saved[i], factor_of(i), *d, reduction); });
    return result;
  }
};

class MultiScale : public torch::autograd::Function<MultiScale> {
 public:
  static variable_list forward(AutogradContext* ctx, const at::Tensor& img1, const at::Tensor& img2,
                               const DefinitionPtr& d, const Scales& scales) {
    const bool wants1 = img1.requires_grad();
    const bool wants2 = img2.requires_grad();
    auto [value, derivatives, gradient1, coarser1, gradient2, coarser2] =
        call_ms_ssim({img1, img2}, *d, scales, wants1, wants2);
    const at::Tensor link = at::empty({0}, value.options());  // see Reduced
    const auto if_wanted = [](bool wanted, const at::Tensor& tensor) {
      return wanted ? tensor : at::Tensor();
    };
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({if_wanted(wants1, gradient1), if_wanted(wants1, coarser1),
                            if_wanted(wants2, gradient2), if_wanted(wants2, coarser2), derivatives,
                            link});
    ctx->saved_data["odd_sizes"] = scales.odd_sizes;
    return {value, link};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& upstreams) {
    variable_list result(4);  // one for each argument of forward
    if (!upstreams[0].defined()) {
      return result;
    }
    const variable_list saved = ctx->get_saved_variables();
    const SavedScales of_image[2] = {{saved[0], saved[1]}, {saved[2], saved[3]}};
    const at::Tensor& derivatives = saved[4];
    const int64_t odd_sizes = ctx->saved_data["odd_sizes"].toInt();
    const at::Tensor upstream = upstreams[0].contiguous();
    times_upstream(
        ctx, upstream, {saved[0], saved[2]}, saved[5], &result,
        [&](std::size_t i) {
          call_ms_ssim_backward_(of_image[i], upstream, derivatives, odd_sizes);
        },
        [&](std::size_t i) {
          return call_ms_ssim_backward(of_image[i], upstream, derivatives, odd_sizes);
        });
    return result;
  }
};

class Map : public torch::autograd::Function<Map> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& img1, const at::Tensor& img2,
                            const MaskOption& mask, const DefinitionPtr& d) {
    ctx->save_for_backward({img1, img2, mask.weights.value_or(at::Tensor())});
    ctx->saved_data["definition"] = c10::IValue::make_capsule(d);
    ctx->saved_data["mask_mode"] = mask.mode;
    return call_ssim_map({img1, img2, mask}, *d);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& upstreams) {
    const variable_list saved = ctx->get_saved_variables();
    const bool wants[2] = {ctx->needs_input_grad(0), ctx->needs_input_grad(1)};
    Images images = {saved[0], saved[1]};
    if (saved[2].defined()) {
      images.mask = {saved[2], ctx->saved_data["mask_mode"].toInt()};
    }
    const auto [gradient1, gradient2] =
        call_ssim_map_backward(upstreams[0], images, *saved_definition(ctx), wants[0], wants[1]);
    variable_list result = {wants[0] ? gradient1 : at::Tensor(),
                            wants[1] ? gradient2 : at::Tensor(), at::Tensor(), at::Tensor()};
    for (std::size_t i = 0; i < 2; ++i) {
      if (wants[i] && at::GradMode::is_enabled()) {
        result[i] = Refuse::apply(kNoSecondDerivative, result[i], saved[i], upstreams[0]);
      }
    }
    return result;
  }
};

inline bool differentiable(const Images& images) {
  return at::GradMode::is_enabled() && (images.img1.requires_grad() || images.img2.requires_grad());
}

// Forward mode drops the tangents of operators that it does not know, without a word.
inline void refuse_forward_mode(const Images& images) {
  if (images.img1._fw_grad(/*level=*/0).defined() || images.img2._fw_grad(0).defined()) {
    C10_THROW_ERROR(NotImplementedError, kNoForwardMode);
  }
}

// weights.offset + reduction of weights.ssim * S + weights.l1 * |img1 - img2|.
inline at::Tensor reduced(const Images& images, const DefinitionPtr& d, int64_t reduction,
                          const Weights& weights = {}, bool train = true) {
  refuse_forward_mode(images);
  if (!differentiable(images)) {
    return std::get<0>(call_ssim(images, *d, reduction, weights, false, false));
  }
  const auto& [img1, img2, mask] = images;
  return Reduced::apply(img1, img2, mask, d, reduction, weights, train && img1.requires_grad(),
                        train && img2.requires_grad())[0];
}

// The product over all scales, [B, C]; `d` is the coarsest one's.
inline at::Tensor multi_scale(const Images& images, const DefinitionPtr& d, const Scales& scales) {
  refuse_forward_mode(images);
  return differentiable(images) ? MultiScale::apply(images.img1, images.img2, d, scales)[0]
                                : std::get<0>(call_ms_ssim(images, *d, scales, false, false));
}

// `result`, refusing a backward pass to the images instead of passing for a constant.
inline at::Tensor without_gradient(const at::Tensor& result, const Images& images) {
  return differentiable(images) ? Refuse::apply(kNoGradient, result, images.img1, images.img2)
                                : result;
}

inline Images detached(const Images& images) {
  return {images.img1.detach(), images.img2.detach(), images.mask};
}

// The map [B, C, H', W'].
inline at::Tensor mapped(const Images& images, const DefinitionPtr& d, bool train = true) {
  refuse_forward_mode(images);
  if (!train) {
    return without_gradient(call_ssim_map(detached(images), *d), images);
  }
  return differentiable(images) ? Map::apply(images.img1, images.img2, images.mask, d)
                                : call_ssim_map(images, *d);
}

// The means of S and of (img1 - img2)^2 over each plane, [B, C] each; a backward pass is refused.
inline TwoTensors ssim_and_mse(const Images& images, const DefinitionPtr& d) {
  const auto [value, mse] = call_ssim_and_mse(detached(images), *d);
  return {without_gradient(value, images), without_gradient(mse, images)};
}

}  // namespace fused_ssim::detail
