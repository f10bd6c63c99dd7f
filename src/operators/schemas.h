// Schemas of torch.ops.fused_ssim, for libfused_ssim, and for the module `_C` beside a torch that is too
// old for that library. Shapes, dtypes and the meaning of the arguments are explained where they are
// public, in python/fused_ssim; fused_ssim/kernels.h says what is computed.
#pragma once

namespace fused_ssim {

// Images [B, C, W], [B, C, H, W] or [B, C, D, H, W]. taps: of one window for all axes that are
// filtered, or of each of these axes in turn; none for the standard window of 11 taps, since a list of
// numbers takes a microsecond on its way. window_sizes: taps along depth, height and width, 1 where it
// is not filtered; none for the standard window along all axes of the images. Numbers stand for what
// fused_ssim/kernels.h lists in its enumerations.
#define FUSED_SSIM_PROBLEM_SCHEMA                                                                \
  "Tensor img1, Tensor img2, float[] taps, int[] window_sizes, float c1, float c2, bool valid, " \
  "int statistic, int uint8_divisor"
// What few calls have comes last, and costs those without nothing.
#define FUSED_SSIM_RARE_SCHEMA "Tensor? stabilizers=None, Tensor? mask=None, int mask_mode=0"

inline constexpr const char* kOperatorSchemas[] = {
    // value: [] (reduction 0: mean, 1: sum), [B] (2: image) or [B, C] (3: channel) of
    //   offset + mean or sum of
    //   (statistic_weight * S + l1_weight * |img1 - img2| + l2_weight * (img1 - img2)^2),
    //   with a mask weighted by it
    // gradient1, gradient2: d(value)/d(image) where wanted, else empty; of float16 images
    //   d(sum of the same)/d(image), whose mean would underflow.
    "ssim(" FUSED_SSIM_PROBLEM_SCHEMA
    ", int reduction, float statistic_weight, float l1_weight, float offset, "
    "bool wants_gradient1, bool wants_gradient2, float l2_weight=0.0, " FUSED_SSIM_RARE_SCHEMA
    ") "
    "-> (Tensor value, Tensor gradient1, Tensor gradient2)",
    // [B, C] each: the mean of the statistic and that of (img1 - img2)^2 over each plane.
    "ssim_and_mse(" FUSED_SSIM_PROBLEM_SCHEMA ", " FUSED_SSIM_RARE_SCHEMA
    ") -> (Tensor value, Tensor mse)",
    "ssim_map(" FUSED_SSIM_PROBLEM_SCHEMA ", " FUSED_SSIM_RARE_SCHEMA ") -> Tensor",
    "ssim_map_backward(Tensor map_gradient, " FUSED_SSIM_PROBLEM_SCHEMA
    ", bool wants_gradient1, bool wants_gradient2, " FUSED_SSIM_RARE_SCHEMA
    ") -> (Tensor gradient1, Tensor gradient2)",
    // A gradient that `ssim` gave, times the number of `upstream` that its plane's value belongs to; and of
    // float16 over the number of pixels that `reduction` divides by.
    "scale_gradient(Tensor gradient, Tensor upstream, int reduction, int[] window_sizes, "
    "bool valid) -> Tensor",
    "scale_gradient_(Tensor(a!) gradient, Tensor upstream, int reduction, int[] window_sizes, "
    "bool valid) -> ()",
    // value: [B, C], the product over scales of mean contrast (at the coarsest, of the mean of
    //   `statistic`) to the power of its exponent.
    // derivatives: [scales, B, C] where a gradient is wanted, d(value)/d(sum of the scale's map).
    // gradient1, coarser1: d(sum of a scale's map)/d(its image) where wanted, of the finest scale and,
    //   one behind the other, of the coarser ones; gradient2 and coarser2 likewise.
    "ms_ssim(" FUSED_SSIM_PROBLEM_SCHEMA
    ", float[] exponents, int negative, int odd_sizes, bool wants_gradient1, "
    "bool wants_gradient2, " FUSED_SSIM_RARE_SCHEMA
    ") -> (Tensor value, Tensor derivatives, Tensor gradient1, Tensor coarser1, "
    "Tensor gradient2, Tensor coarser2)",
    // The gradient of one image, of what `ms_ssim` gave; `coarser` is overwritten in the second.
    "ms_ssim_backward(Tensor gradient, Tensor coarser, Tensor upstream, Tensor derivatives, "
    "int odd_sizes) -> Tensor",
    "ms_ssim_backward_(Tensor(a!) gradient, Tensor(b!) coarser, Tensor upstream, "
    "Tensor derivatives, int odd_sizes) -> ()",
};

#undef FUSED_SSIM_PROBLEM_SCHEMA
#undef FUSED_SSIM_RARE_SCHEMA

}  // namespace fused_ssim
