// What a backend is asked to compute: plain pointers, sizes and strides; no tensor, no stream.
#pragma once

#include <cstdint>

#include "core/gaussian_window.h"

namespace fused_ssim {

enum class DType : int { kFloat16, kBFloat16, kFloat32, kFloat64 };

// Values and maps of float16, bfloat16 and float32 images are float32; of float64 images, float64.
constexpr bool accumulates_in_double(DType dtype) { return dtype == DType::kFloat64; }

constexpr int64_t size_of(DType dtype) {
  return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2;
}

// An image batch [batch, channels, height, width] where it lies. Strides are in elements and may be
// zero (expanded) or in any order (channels_last, permuted); `data` is null where none is given.
template <class Pointer>
struct BasicImage {
  Pointer data = nullptr;
  int64_t stride_batch = 0;
  int64_t stride_channel = 0;
  int64_t stride_row = 0;
  int64_t stride_column = 0;
};
using ConstImage = BasicImage<const void*>;
using MutableImage = BasicImage<void*>;

struct Shape {
  int64_t batch = 0;
  int64_t channels = 0;
  int64_t height = 0;
  int64_t width = 0;

  constexpr int64_t planes() const { return batch * channels; }
};

// "same": zeros outside the image, a value for every pixel. "valid": whole windows only.
enum class Padding : int { kSame, kValid };

// The two images and the definition of SSIM on them.
struct Problem {
  Shape shape;
  DType dtype = DType::kFloat32;
  ConstImage img1;
  ConstImage img2;
  Padding padding = Padding::kSame;
  WindowTaps<double> window;
  double sigma = kDefaultSigma;
  double c1 = 0.0;
  double c2 = 0.0;

  constexpr int radius() const { return window.size / 2; }
  // Rows and columns at each border that have no value.
  constexpr int crop() const { return padding == Padding::kValid ? radius() : 0; }
  constexpr int64_t map_height() const { return shape.height - 2 * crop(); }
  constexpr int64_t map_width() const { return shape.width - 2 * crop(); }
  constexpr int64_t map_pixels_per_plane() const { return map_height() * map_width(); }
};

// What the sums of the planes are reduced to.
enum class Reduction : int {
  kMean,     // one number: mean over everything
  kSum,      // one number: sum over everything
  kImage,    // [batch]: mean over each image
  kChannel,  // [batch, channels]: mean over each plane
};

constexpr int64_t reduced_size(Reduction reduction, const Shape& shape) {
  return reduction == Reduction::kChannel ? shape.planes()
         : reduction == Reduction::kImage ? shape.batch
                                          : 1;
}

// Planes that share one reduced value; plane p belongs to value p / planes_per_value.
constexpr int64_t planes_per_value(Reduction reduction, const Shape& shape) {
  return reduction == Reduction::kChannel ? 1
         : reduction == Reduction::kImage ? shape.channels
                                          : shape.planes();
}

// The number that a sum over the pixels of one reduced value is divided by.
constexpr int64_t reduction_divisor(Reduction reduction, const Problem& problem) {
  return reduction == Reduction::kSum
             ? 1
             : planes_per_value(reduction, problem.shape) * problem.map_pixels_per_plane();
}

// What to write. With f = ssim_weight * SSIM(p) + l1_weight * |x(p) - y(p)| at each pixel p that has
// a value:
//   value[i] = offset + (sum of f over the pixels of value i) / divisor
//   map[p]   = SSIM(p)
//   grad1    = d(sum over p of g(p) f(p)) / d(img1), with g = map_gradient, or 1 where it is null
//   grad2    = the same for img2
// so grad1 and grad2 are the gradient of a value up to a factor known only in the backward pass.
// Null pointers are not written. sign(0) = 0 in the derivative of |x - y|.
struct Request {
  void* value = nullptr;  // [reduced_size], accumulation type
  Reduction reduction = Reduction::kMean;
  double ssim_weight = 1.0;
  double l1_weight = 0.0;
  double offset = 0.0;

  void* map = nullptr;  // [batch, channels, map_height, map_width] contiguous, accumulation type

  MutableImage grad1;       // [batch, channels, height, width], dtype of the images
  MutableImage grad2;       // likewise
  ConstImage map_gradient;  // [batch, channels, map_height, map_width], accumulation type

  constexpr bool wants_gradient() const { return grad1.data != nullptr || grad2.data != nullptr; }
};

// The backward pass: out = unit * (factor * upstream[plane / planes_per_value]).
struct ScaleRequest {
  Shape shape;
  DType dtype = DType::kFloat32;
  ConstImage unit;                 // [batch, channels, height, width]
  MutableImage out;                // the same shape; may be `unit` itself
  const void* upstream = nullptr;  // accumulation type
  int64_t planes_per_value = 1;
  double factor = 1.0;
};

// a * b in 64 bits; false where it overflows. Both are non-negative.
constexpr bool checked_multiply(int64_t a, int64_t b, int64_t* product) {
  if (a != 0 && b > INT64_MAX / a) {
    return false;
  }
  *product = a * b;
  return true;
}

}  // namespace fused_ssim
