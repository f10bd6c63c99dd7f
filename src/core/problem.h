// What a backend is asked to compute. The structures are those of the public C interface, validated
// and completed by src/c_api: from there down nobody checks or copies them again, and in `windows`
// `taps` always points at `size` numbers.
#pragma once

#include <cstdint>

#include "core/macros.h"
#include "fused_ssim/kernels.h"

namespace fused_ssim {

using Image = FusedSsimImage;
using Window = FusedSsimWindow;
using Problem = FusedSsimProblem;
using Request = FusedSsimRequest;
using ScaleRequest = FusedSsimScaleRequest;
using HalveRequest = FusedSsimHalveRequest;
using AccumulateRequest = FusedSsimAccumulateRequest;
using FactorsRequest = FusedSsimFactorsRequest;

// The spatial axes, as indices of `Problem::windows`; kFirstSpatialAxis more, of sizes and strides.
enum SpatialAxis : int { kDepth = 0, kHeight = 1, kWidth = 2 };
inline constexpr int kSpatialAxes = 3;
inline constexpr int kFirstSpatialAxis = FUSED_SSIM_AXIS_DEPTH;

constexpr int64_t size_of(int32_t dtype) {
  return dtype == FUSED_SSIM_FLOAT64   ? 8
         : dtype == FUSED_SSIM_FLOAT32 ? 4
         : dtype == FUSED_SSIM_UINT8   ? 1
                                       : 2;
}

// Values and maps are float64 where one of the images is, else float32.
constexpr bool accumulates_in_double(const Problem& problem) {
  return problem.img1.dtype == FUSED_SSIM_FLOAT64 || problem.img2.dtype == FUSED_SSIM_FLOAT64;
}
constexpr int32_t accumulation_dtype(const Problem& problem) {
  return accumulates_in_double(problem) ? FUSED_SSIM_FLOAT64 : FUSED_SSIM_FLOAT32;
}

constexpr bool has_mask(const Problem& problem) { return problem.mask.data != nullptr; }
// Whether the mask weighs pixels inside the windows, too.
constexpr bool mask_is_normalized(const Problem& problem) {
  return has_mask(problem) && problem.mask_mode == FUSED_SSIM_MASK_NORMALIZED;
}

constexpr int64_t plane_count(const int64_t* sizes) {
  return sizes[FUSED_SSIM_AXIS_BATCH] * sizes[FUSED_SSIM_AXIS_CHANNEL];
}
constexpr int64_t plane_pixels(const int64_t* sizes) {
  return sizes[FUSED_SSIM_AXIS_DEPTH] * sizes[FUSED_SSIM_AXIS_ROW] * sizes[FUSED_SSIM_AXIS_COLUMN];
}

// Whether slices are filtered together, or there are several.
constexpr bool is_volume(const Problem& problem) {
  return problem.sizes[FUSED_SSIM_AXIS_DEPTH] != 1 || problem.windows[kDepth].size != 1;
}
constexpr int radius(const Problem& problem, SpatialAxis axis) {
  return problem.windows[axis].size / 2;
}
// A window of a single pixel has none.
constexpr bool has_variance(const Problem& problem) {
  return problem.windows[kDepth].size > 1 || problem.windows[kHeight].size > 1 ||
         problem.windows[kWidth].size > 1;
}
// Pixels at either border of an axis that have no value.
constexpr int crop(const Problem& problem, SpatialAxis axis) {
  return problem.padding == FUSED_SSIM_VALID ? radius(problem, axis) : 0;
}
constexpr int64_t image_size(const Problem& problem, SpatialAxis axis) {
  return problem.sizes[kFirstSpatialAxis + axis];
}
constexpr int64_t map_size(const Problem& problem, SpatialAxis axis) {
  return image_size(problem, axis) - 2 * crop(problem, axis);
}
constexpr void map_sizes_of(const Problem& problem, int64_t* sizes) {
  sizes[FUSED_SSIM_AXIS_BATCH] = problem.sizes[FUSED_SSIM_AXIS_BATCH];
  sizes[FUSED_SSIM_AXIS_CHANNEL] = problem.sizes[FUSED_SSIM_AXIS_CHANNEL];
  for (int axis = 0; axis < kSpatialAxes; ++axis) {
    sizes[kFirstSpatialAxis + axis] = map_size(problem, SpatialAxis(axis));
  }
}
constexpr int64_t map_plane_pixels(const Problem& problem) {
  return map_size(problem, kDepth) * map_size(problem, kHeight) * map_size(problem, kWidth);
}

constexpr int64_t value_count(int32_t reduction, const int64_t* sizes) {
  return reduction == FUSED_SSIM_CHANNEL ? plane_count(sizes)
         : reduction == FUSED_SSIM_IMAGE ? sizes[FUSED_SSIM_AXIS_BATCH]
                                         : 1;
}
// Planes that share one reduced value; plane p belongs to value p / planes_per_value.
constexpr int64_t planes_per_value(int32_t reduction, const int64_t* sizes) {
  return reduction == FUSED_SSIM_CHANNEL ? 1
         : reduction == FUSED_SSIM_IMAGE ? sizes[FUSED_SSIM_AXIS_CHANNEL]
                                         : plane_count(sizes);
}
// The number that a sum over the pixels of one reduced value is divided by.
constexpr int64_t reduction_divisor(int32_t reduction, const int64_t* map_sizes) {
  return reduction == FUSED_SSIM_SUM
             ? 1
             : planes_per_value(reduction, map_sizes) * plane_pixels(map_sizes);
}
constexpr int64_t reduction_divisor(const Problem& problem, const Request& request) {
  return request.reduction == FUSED_SSIM_SUM
             ? 1
             : planes_per_value(request.reduction, problem.sizes) * map_plane_pixels(problem);
}
// With a mask that of value `value`: the mask's sum over its pixels, and over nothing 1.
FUSED_SSIM_HOST_INLINE constexpr double reduction_divisor(const Problem& problem,
                                                          const Request& request, int64_t value) {
  if (!has_mask(problem) || request.reduction == FUSED_SSIM_SUM) {
    return static_cast<double>(reduction_divisor(problem, request));
  }
  const double sum = accumulates_in_double(problem)
                         ? static_cast<const double*>(problem.mask_sums)[value]
                         : static_cast<double>(static_cast<const float*>(problem.mask_sums)[value]);
  return sum > 0.0 ? sum : 1.0;
}
// Whether the gradient of a pixel's f is divided by nothing.
constexpr bool gradient_is_of_sum(const Request& request) {
  return request.gradient_of_sum != 0 || request.map_gradient.data != nullptr;
}
// What a derivative of f is divided by in a gradient, where there is no mask.
constexpr double gradient_divisor(const Problem& problem, const Request& request) {
  return gradient_is_of_sum(request) ? 1.0
                                     : static_cast<double>(reduction_divisor(problem, request));
}

constexpr bool wants_gradient(const Request& request) {
  return request.grad1.data != nullptr || request.grad2.data != nullptr;
}
// Whether anything is divided by the number of pixels, or by the mask's sum over them.
constexpr bool wants_divisor(const Request& request) {
  return request.reduction != FUSED_SSIM_SUM &&
         (request.value != nullptr || request.mse != nullptr ||
          (wants_gradient(request) && !gradient_is_of_sum(request)));
}

constexpr int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// a * b in 64 bits; false where it overflows. Both are non-negative.
constexpr bool checked_multiply(int64_t a, int64_t b, int64_t* product) {
  if (a != 0 && b > INT64_MAX / a) {
    return false;
  }
  *product = a * b;
  return true;
}

}  // namespace fused_ssim
