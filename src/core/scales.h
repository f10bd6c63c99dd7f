// MS-SSIM's own arithmetic: what the means of the scales are multiplied to, and which pixels of a scale
// a pixel of the next one is made of. On the CPU and on CUDA.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/macros.h"
#include "core/problem.h"

namespace fused_ssim {

// ---- factors ------------------------------------------------------------------------------------

// Far above all that means anything, and products of two of them are numbers: a slope of 1e30 belongs
// to a mean of less than 1e-31. NaN stays NaN.
FUSED_SSIM_INLINE double limited(double value) {
  constexpr double kLimit = 1e30;
  return value > kLimit ? kLimit : value;
}

// A factor of the product and its derivative by the mean; neither is negative.
struct ScaleFactor {
  double value;
  double slope;
};

FUSED_SSIM_INLINE ScaleFactor scale_factor(double mean, double exponent, int32_t negative) {
  if (exponent == 0.0) {
    return {1.0, 0.0};
  }
  constexpr double kT = 0.01;
  const bool below = negative == FUSED_SSIM_NEGATIVE_SMOOTH && mean < kT;
  if (mean <= 0.0 && !below) {
    return {0.0, 0.0};
  }
  const double base = below ? kT : mean;
  const double power = pow(base, exponent);
  if (below) {
    // Meets the power at t in value and slope.
    const double distance = exponent * (kT - mean);
    const double value = power / (1.0 + distance / kT);
    return {value, limited(value * (exponent / (kT + distance)))};
  }
  return {limited(power), limited(exponent * (power / base))};
}

// That of a scale of one plane.
FUSED_SSIM_INLINE ScaleFactor factor_of(const FactorsRequest& request, int64_t scale,
                                        int64_t plane) {
  const int64_t i = scale * request.planes + plane;
  const double mean = request.dtype == FUSED_SSIM_FLOAT64
                          ? static_cast<const double*>(request.means)[i]
                          : static_cast<double>(static_cast<const float*>(request.means)[i]);
  return scale_factor(mean, request.exponents[scale], request.negative);
}

// The product of one plane and its derivatives, from `factor(scale)`. A derivative is the product of the
// other factors, never a quotient: factors may be 0.
template <class Factor>
FUSED_SSIM_INLINE void multiply_factors(const FactorsRequest& request, int64_t plane,
                                        const Factor& factor) {
  double product = 1.0;
  for (int64_t scale = 0; scale < request.scales; ++scale) {
    if (request.derivatives != nullptr) {
      request.derivatives[scale * request.planes + plane] = product;
    }
    product = limited(product * factor(scale).value);
  }
  if (request.dtype == FUSED_SSIM_FLOAT64) {
    static_cast<double*>(request.products)[plane] = product;
  } else {
    static_cast<float*>(request.products)[plane] = static_cast<float>(product);
  }
  if (request.derivatives == nullptr) {
    return;
  }
  double behind = 1.0;
  for (int64_t scale = request.scales; scale-- > 0;) {
    const ScaleFactor own = factor(scale);
    double* derivative = request.derivatives + scale * request.planes + plane;
    *derivative = limited(limited(*derivative * behind) * own.slope);
    if (request.divisors != nullptr) {
      *derivative /= request.divisors[scale];
    }
    behind = limited(behind * own.value);
  }
}

// ---- halving ------------------------------------------------------------------------------------

// One axis of an image, and of its half: cell i is made of pixels 2 i - lead and the one behind it. Of
// an axis that is not halved, cell i is pixel i.
struct HalvedAxis {
  int64_t size;   // of the image
  int64_t cells;  // of the half
  int64_t lead;   // zeros in front of the image
  bool halved;
};

FUSED_SSIM_INLINE HalvedAxis halved_axis(int64_t size, bool halved, int32_t odd_sizes) {
  if (!halved) {
    return {size, size, 0, false};
  }
  const int64_t lead = odd_sizes == FUSED_SSIM_ODD_PAD ? size % 2 : 0;
  return {size, (size + lead) / 2, lead, true};
}

// The three axes of a request.
struct HalvedAxes {
  HalvedAxis depth;
  HalvedAxis row;
  HalvedAxis column;
};

template <class HalvingRequest>
FUSED_SSIM_INLINE HalvedAxes halved_axes(const HalvingRequest& request) {
  const int64_t* sizes = request.sizes;
  const int32_t odd = request.odd_sizes;
  return {halved_axis(sizes[FUSED_SSIM_AXIS_DEPTH], request.spatial_dims >= 3, odd),
          halved_axis(sizes[FUSED_SSIM_AXIS_ROW], request.spatial_dims >= 2, odd),
          halved_axis(sizes[FUSED_SSIM_AXIS_COLUMN], true, odd)};
}

// The pixels [begin, end) of an axis that make a cell.
struct CellPixels {
  int64_t begin;
  int64_t end;
};
FUSED_SSIM_INLINE CellPixels pixels_of_cell(const HalvedAxis& axis, int64_t cell) {
  if (!axis.halved) {
    return {cell, cell + 1};
  }
  const int64_t begin = 2 * cell - axis.lead;
  return {begin < 0 ? 0 : begin, begin + 2};
}

// The cell that a pixel is in; `cells` or more where it is cropped.
FUSED_SSIM_INLINE int64_t cell_of_pixel(const HalvedAxis& axis, int64_t pixel) {
  return axis.halved ? (pixel + axis.lead) / 2 : pixel;
}

// What a pixel weighs in its cell.
template <class T, class HalvingRequest>
FUSED_SSIM_INLINE T cell_weight(const HalvingRequest& request) {
  return T(1) / static_cast<T>(1 << request.spatial_dims);
}

}  // namespace fused_ssim
