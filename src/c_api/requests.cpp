#include "c_api/requests.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <sstream>
#include <stdexcept>
#include <string>

#include "core/taps.h"

namespace fused_ssim::c_api {
namespace {

constexpr const char* kSpatialAxisNames[kSpatialAxes] = {"depth", "height", "width"};

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

// A copy of a structure of which the caller may know less or more than this library.
template <class Struct>
Struct read(const Struct* given, const char* name) {
  if (given == nullptr) {
    fail("expected a ", name, ", got a null pointer");
  }
  const int64_t known = sizeof(Struct);
  const int64_t size = given->struct_size;
  // Version 1 of the interface has no smaller structure than today's.
  if (size < known || size > 64 * known) {
    fail("expected struct_size of ", name, " to be its sizeof, ", known, " here, got ", size,
         "; start from the function of kernels.h that fills it in");
  }
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  for (int64_t i = known; i < size; ++i) {
    if (bytes[i] != 0) {
      fail("expected a ", name, " of ", known, " bytes, got ", size,
           " with something set that this library does not know; update fused_ssim");
    }
  }
  Struct copy;
  std::memcpy(&copy, given, sizeof(Struct));
  return copy;
}

// Offsets into 2^56 elements of 8 bytes and counts of tasks of them fit into 64 bits.
constexpr int64_t kMaxElements = int64_t{1} << 56;

void check_code(const char* name, int32_t code, int32_t last, const char* meaning) {
  if (code < 0 || code > last) {
    fail("expected a ", name, " from 0 to ", last, " (", meaning, "), got ", code);
  }
}

void check_alignment(const char* name, const void* data, int64_t bytes) {
  if (reinterpret_cast<std::uintptr_t>(data) % static_cast<std::uintptr_t>(bytes) != 0) {
    fail("expected ", name, " at a multiple of its elements' ", bytes, " bytes, got address ",
         data);
  }
}

// Null data is for the caller to judge.
void check_image(const char* name, const Image& image, const int64_t* sizes) {
  if (image.data == nullptr) {
    return;
  }
  check_code("dtype", image.dtype, FUSED_SSIM_FLOAT64,
             "FUSED_SSIM_UINT8, _FLOAT16, _BFLOAT16, _FLOAT32, _FLOAT64");
  check_alignment(name, image.data, size_of(image.dtype));
  int64_t reach = 0;
  for (int axis = 0; axis < FUSED_SSIM_AXES; ++axis) {
    const int64_t stride = image.strides[axis];
    int64_t steps = 0;
    if (stride <= -kMaxElements || !checked_multiply(sizes[axis] - 1, std::abs(stride), &steps) ||
        steps > kMaxElements) {
      fail("expected strides of ", name, " that stay within 2^56 elements, got ", stride,
           " for an extent of ", sizes[axis]);
    }
    reach += steps;
  }
  if (reach > kMaxElements) {
    fail("expected strides of ", name, " that stay within 2^56 elements, got ", reach);
  }
}

void check_gradient(const char* name, const Image& gradient, const char* image_name,
                    const Image& image, const int64_t* sizes) {
  check_image(name, gradient, sizes);
  if (gradient.data == nullptr) {
    return;
  }
  if (image.dtype == FUSED_SSIM_UINT8) {
    fail("expected no ", name, ", for ", image_name, " is of integers, which have no gradient");
  }
  if (gradient.dtype != image.dtype) {
    fail("expected ", name, " in the dtype of ", image_name, ", ", image.dtype, ", got ",
         gradient.dtype);
  }
  for (int axis = 0; axis < FUSED_SSIM_AXES; ++axis) {
    if (sizes[axis] > 1 && gradient.strides[axis] == 0) {
      fail("expected ", name, " to have memory of its own for each pixel, got a stride of 0");
    }
  }
}

void check_finite(const char* name, double value) {
  if (!std::isfinite(value)) {
    fail("expected a finite ", name, ", got ", value);
  }
}

// Taps that sum to 1 up to rounding; `null` stands for the standard window and for one tap.
void complete_window(Window* window, const char* axis) {
  static constexpr WindowTaps<double> kStandard = gaussian_taps(kDefaultWindowSize, kDefaultSigma);
  static constexpr double kOneTap[] = {1.0};
  check_window_size(axis, window->size);
  if (window->taps == nullptr) {
    if (window->size != 1 && window->size != kDefaultWindowSize) {
      fail("expected taps of a window of ", window->size, " along the ", axis,
           ", got a null pointer; fused_ssim_gaussian_taps() computes them");
    }
    window->taps = window->size == 1 ? kOneTap : kStandard.taps;
    return;
  }
  double sum = 0.0;
  for (int32_t i = 0; i < window->size; ++i) {
    if (!(window->taps[i] >= 0.0)) {
      fail("expected taps that are not negative along the ", axis, ", got ", window->taps[i]);
    }
    sum += window->taps[i];
  }
  if (!(std::abs(sum - 1.0) <= 1e-6)) {
    fail("expected taps that sum to 1 along the ", axis, ", got a sum of ", sum);
  }
}

void check_dtypes(const Image& img1, const Image& img2) {
  const auto mixes_with_double = [](int32_t dtype) {
    return dtype == FUSED_SSIM_FLOAT64 || dtype == FUSED_SSIM_UINT8;
  };
  if ((img1.dtype == FUSED_SSIM_FLOAT64 && !mixes_with_double(img2.dtype)) ||
      (img2.dtype == FUSED_SSIM_FLOAT64 && !mixes_with_double(img1.dtype))) {
    fail("expected float64 images beside float64 or uint8 ones, got dtypes ", img1.dtype, " and ",
         img2.dtype);
  }
}

void check_uint8_divisor(int32_t divisor) {
  if (divisor != 1 && divisor != 255) {
    fail("expected a uint8_divisor of 1 or 255, got ", divisor);
  }
}

void check_accumulation(const char* name, int32_t dtype) {
  if (dtype != FUSED_SSIM_FLOAT32 && dtype != FUSED_SSIM_FLOAT64) {
    fail("expected a ", name, " of FUSED_SSIM_FLOAT32 or FUSED_SSIM_FLOAT64, got ", dtype);
  }
}

template <class HalvingRequest>
void check_halving(const HalvingRequest& request, bool has_half) {
  check_sizes(request.sizes);
  check_code("odd_sizes", request.odd_sizes, FUSED_SSIM_ODD_CROP, "pad, crop");
  if (request.spatial_dims < 1 || request.spatial_dims > kSpatialAxes) {
    fail("expected spatial_dims from 1 to 3, got ", request.spatial_dims);
  }
  for (int axis = FUSED_SSIM_AXES - request.spatial_dims; axis < FUSED_SSIM_AXES; ++axis) {
    if (has_half && fused_ssim_halved_size(request.sizes[axis], request.odd_sizes) < 1) {
      fail("expected sides of at least 2 pixels to crop and halve, got ", text_of(request.sizes));
    }
  }
}

}  // namespace

std::string text_of(const int64_t* sizes) {
  std::ostringstream text;
  text << "[";
  for (int axis = 0; axis < FUSED_SSIM_AXES; ++axis) {
    if (axis != FUSED_SSIM_AXIS_DEPTH || sizes[axis] != 1) {
      text << (axis > 0 ? ", " : "") << sizes[axis];
    }
  }
  text << "]";
  return text.str();
}

void check_sizes(const int64_t* sizes) {
  int64_t product = 1;
  for (int axis = 0; axis < FUSED_SSIM_AXES; ++axis) {
    if (sizes[axis] < 1) {
      fail("expected images with at least one pixel, got ", text_of(sizes));
    }
    if (!checked_multiply(product, sizes[axis], &product) || product > kMaxElements) {
      fail("expected images of at most 2^56 elements, got ", text_of(sizes));
    }
  }
}

void check_reduction(int32_t reduction) {
  check_code("reduction", reduction, FUSED_SSIM_CHANNEL, "mean, sum, image, channel");
}

void check_window_size(const char* name, int32_t size) {
  if (size < 1 || size % 2 == 0) {
    fail("expected an odd number of taps along the ", name, ", got ", size);
  }
}

void check_positive(const char* name, double value) {
  if (!(value > 0.0) || !std::isfinite(value)) {
    fail("expected a positive, finite ", name, ", got ", value);
  }
}

Problem sizes_of(const FusedSsimProblem* given) {
  Problem problem = read(given, "FusedSsimProblem");
  check_sizes(problem.sizes);
  check_code("padding", problem.padding, FUSED_SSIM_VALID, "\"same\", \"valid\"");
  for (int axis = 0; axis < kSpatialAxes; ++axis) {
    const char* name = kSpatialAxisNames[axis];
    check_window_size(name, problem.windows[axis].size);
    if (map_size(problem, SpatialAxis(axis)) < 1) {
      fail("expected a ", name, " of at least the window's ", problem.windows[axis].size,
           " with padding \"valid\", got ", text_of(problem.sizes),
           "; use \"same\" or a smaller window");
    }
  }
  return problem;
}

Problem problem_of(const FusedSsimProblem* given) {
  Problem problem = sizes_of(given);
  for (int axis = 0; axis < kSpatialAxes; ++axis) {
    complete_window(&problem.windows[axis], kSpatialAxisNames[axis]);
  }
  check_positive("C1", problem.c1);
  check_positive("C2", problem.c2);
  check_code("statistic", problem.statistic, FUSED_SSIM_STATISTIC_LUMINANCE,
             "SSIM, contrast, luminance");
  check_uint8_divisor(problem.uint8_divisor);
  check_image("img1", problem.img1, problem.sizes);
  check_image("img2", problem.img2, problem.sizes);
  if (problem.img1.data == nullptr || problem.img2.data == nullptr) {
    fail("expected two images, got a null pointer for ",
         problem.img1.data == nullptr ? "img1" : "img2");
  }
  check_dtypes(problem.img1, problem.img2);
  check_image("mask", problem.mask, problem.sizes);
  check_code("mask_mode", problem.mask_mode, FUSED_SSIM_MASK_NORMALIZED, "weighted, normalized");
  const int64_t accumulator = size_of(accumulation_dtype(problem));
  check_alignment("stabilizers", problem.stabilizers, accumulator);
  check_alignment("mask_sums", problem.mask_sums, accumulator);
  return problem;
}

Request request_of(const FusedSsimRequest* given, const Problem& problem) {
  const Request request = read(given, "FusedSsimRequest");
  check_reduction(request.reduction);
  check_code("gradient_of_sum", request.gradient_of_sum, 1, "no, yes");
  check_finite("statistic_weight", request.statistic_weight);
  check_finite("l1_weight", request.l1_weight);
  check_finite("l2_weight", request.l2_weight);
  check_finite("offset", request.offset);
  check_code("group", request.group, FUSED_SSIM_GROUP_NEXT, "none, first, next");
  const int32_t accumulation = accumulation_dtype(problem);
  check_alignment("value", request.value, size_of(accumulation));
  check_alignment("mse", request.mse, size_of(accumulation));
  check_alignment("map", request.map, size_of(accumulation));
  check_gradient("grad1", request.grad1, "img1", problem.img1, problem.sizes);
  check_gradient("grad2", request.grad2, "img2", problem.img2, problem.sizes);
  int64_t map_sizes[FUSED_SSIM_AXES];
  map_sizes_of(problem, map_sizes);
  check_image("map_gradient", request.map_gradient, map_sizes);
  if (request.map_gradient.data != nullptr && request.map_gradient.dtype != accumulation) {
    fail("expected map_gradient in the accumulation type, ", accumulation, ", got ",
         request.map_gradient.dtype);
  }
  return request;
}

void check_mask_sums(const Problem& problem, const Request& request) {
  if (has_mask(problem) && problem.mask_sums == nullptr && wants_divisor(request)) {
    fail(
        "expected mask_sums for a mean under a mask, got a null pointer; "
        "fused_ssim_cpu_mask_sums() computes them");
  }
}

void check_place_of_mask_sums(const Problem& problem, const void* sums) {
  if (!has_mask(problem) || sums == nullptr) {
    fail("expected a mask and a place for its sums, got a null pointer for ",
         has_mask(problem) ? "the place" : "the mask");
  }
  check_alignment("mask_sums", sums, size_of(accumulation_dtype(problem)));
}

ScaleRequest scale_request_of(const FusedSsimScaleRequest* given) {
  const ScaleRequest request = read(given, "FusedSsimScaleRequest");
  check_sizes(request.sizes);
  check_reduction(request.reduction);
  if (request.unit.data == nullptr || request.out.data == nullptr || request.upstream == nullptr) {
    fail("expected unit, out and upstream, got a null pointer");
  }
  check_image("unit", request.unit, request.sizes);
  check_gradient("out", request.out, "unit", request.unit, request.sizes);
  check_alignment(
      "upstream", request.upstream,
      size_of(request.unit.dtype == FUSED_SSIM_FLOAT64 ? FUSED_SSIM_FLOAT64 : FUSED_SSIM_FLOAT32));
  check_finite("factor", request.factor);
  return request;
}

HalveRequest halve_request_of(const FusedSsimHalveRequest* given) {
  const HalveRequest request = read(given, "FusedSsimHalveRequest");
  check_halving(request, true);
  check_uint8_divisor(request.uint8_divisor);
  check_accumulation("dtype", request.dtype);
  for (int i = 0; i < 2; ++i) {
    const Image& image = request.images[i];
    check_image("image", image, request.sizes);
    if ((image.data == nullptr) != (request.halves[i] == nullptr) ||
        (i == 0 && image.data == nullptr)) {
      fail("expected an image and its half, or two of each, got a null pointer");
    }
    check_alignment("half", request.halves[i], size_of(request.dtype));
    if (image.dtype == FUSED_SSIM_FLOAT64 && request.dtype != FUSED_SSIM_FLOAT64) {
      fail("expected halves of float64 images in float64, got dtype ", request.dtype);
    }
  }
  return request;
}

AccumulateRequest accumulate_request_of(const FusedSsimAccumulateRequest* given) {
  const AccumulateRequest request = read(given, "FusedSsimAccumulateRequest");
  check_halving(request, request.coarser != nullptr);
  if (request.unit.data == nullptr || request.out.data == nullptr || request.upstream == nullptr ||
      request.derivatives == nullptr) {
    fail("expected unit, out, upstream and derivatives, got a null pointer");
  }
  check_image("unit", request.unit, request.sizes);
  check_gradient("out", request.out, "unit", request.unit, request.sizes);
  const int64_t accumulator =
      size_of(request.unit.dtype == FUSED_SSIM_FLOAT64 ? FUSED_SSIM_FLOAT64 : FUSED_SSIM_FLOAT32);
  check_alignment("upstream", request.upstream, accumulator);
  check_alignment("coarser", request.coarser, accumulator);
  check_alignment("derivatives", request.derivatives, size_of(FUSED_SSIM_FLOAT64));
  check_finite("factor", request.factor);
  return request;
}

FactorsRequest factors_request_of(const FusedSsimFactorsRequest* given) {
  const FactorsRequest request = read(given, "FusedSsimFactorsRequest");
  int64_t means = 0;
  if (request.scales < 1 || request.planes < 1 ||
      !checked_multiply(request.scales, request.planes, &means) || means > kMaxElements) {
    fail("expected at least one scale and one plane, and at most 2^56 means, got ", request.scales,
         " scales of ", request.planes, " planes");
  }
  check_accumulation("dtype", request.dtype);
  check_code("negative", request.negative, FUSED_SSIM_NEGATIVE_SMOOTH, "relu, smooth");
  if (request.means == nullptr || request.exponents == nullptr || request.products == nullptr) {
    fail("expected means, exponents and products, got a null pointer");
  }
  check_alignment("means", request.means, size_of(request.dtype));
  check_alignment("products", request.products, size_of(request.dtype));
  check_alignment("derivatives", request.derivatives, size_of(FUSED_SSIM_FLOAT64));
  for (int64_t scale = 0; scale < request.scales; ++scale) {
    check_finite("exponent", request.exponents[scale]);
    if (request.exponents[scale] < 0.0) {
      fail("expected exponents that are not negative, got ", request.exponents[scale]);
    }
    if (request.divisors != nullptr) {
      check_positive("divisor", request.divisors[scale]);
    }
  }
  return request;
}

}  // namespace fused_ssim::c_api
