// Schemas of torch.ops.fused_ssim. Shapes, dtypes and the meaning of the arguments are explained
// where they are public, in python/fused_ssim; core/problem.h says what is computed.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(fused_ssim, library) {
  // value: [] (reduction 0: mean, 1: sum), [B] (2: image) or [B, C] (3: channel) of
  //   offset + mean or sum of (ssim_weight * SSIM + l1_weight * |img1 - img2|)
  // gradient1, gradient2: d(sum of the same)/d(image) where wanted, else empty.
  library.def(
      "ssim(Tensor img1, Tensor img2, float c1, float c2, int window_size, float sigma, "
      "bool valid, int reduction, float ssim_weight, float l1_weight, float offset, "
      "bool wants_gradient1, bool wants_gradient2) "
      "-> (Tensor value, Tensor gradient1, Tensor gradient2)");
  library.def(
      "ssim_map(Tensor img1, Tensor img2, float c1, float c2, int window_size, float sigma, "
      "bool valid) -> Tensor");
  library.def(
      "ssim_map_backward(Tensor map_gradient, Tensor img1, Tensor img2, float c1, float c2, "
      "int window_size, float sigma, bool valid, bool wants_gradient1, bool wants_gradient2) "
      "-> (Tensor gradient1, Tensor gradient2)");
  // unit * upstream * factor, with one upstream number for each reduced value.
  library.def(
      "scale_gradient(Tensor unit, Tensor upstream, int reduction, float factor) -> Tensor");
  library.def(
      "scale_gradient_(Tensor(a!) unit, Tensor upstream, int reduction, float factor) -> ()");
}
