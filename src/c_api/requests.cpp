#include "c_api/requests.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <sstream>
#include <stdexcept>
#include <string>

namespace fused_ssim::c_api {
namespace {

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

// A copy of a structure of which the caller may know less or more than this library. `first_size` is
// the size that it had under the first version of the interface.
template <class Struct>
Struct read(const Struct* given, const char* name, int64_t first_size) {
  if (given == nullptr) {
    fail("expected a ", name, ", got a null pointer");
  }
  const int64_t known = sizeof(Struct);
  const int64_t size = given->struct_size;
  if (size < first_size || size > 64 * known) {
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
  Struct copy = {};
  std::memcpy(&copy, given, static_cast<std::size_t>(std::min(size, known)));
  return copy;
}

std::string shape_text(const Shape& shape) {
  std::ostringstream text;
  text << "[" << shape.batch << ", " << shape.channels << ", " << shape.height << ", "
       << shape.width << "]";
  return text.str();
}

// Offsets into 2^56 elements of 8 bytes and counts of tasks of them fit into 64 bits.
constexpr int64_t kMaxElements = int64_t{1} << 56;

Shape checked_shape(int64_t batch, int64_t channels, int64_t height, int64_t width) {
  const Shape shape = {batch, channels, height, width};
  int64_t product = 1;
  for (const int64_t extent : {batch, channels, height, width}) {
    if (extent < 1) {
      fail("expected images with at least one pixel, got ", shape_text(shape));
    }
    if (!checked_multiply(product, extent, &product) || product > kMaxElements) {
      fail("expected images of at most 2^56 elements, got ", shape_text(shape));
    }
  }
  return shape;
}

DType checked_dtype(int32_t code) {
  switch (code) {
    case FUSED_SSIM_FLOAT16:
      return DType::kFloat16;
    case FUSED_SSIM_BFLOAT16:
      return DType::kBFloat16;
    case FUSED_SSIM_FLOAT32:
      return DType::kFloat32;
    case FUSED_SSIM_FLOAT64:
      return DType::kFloat64;
  }
  fail("expected a dtype from 0 to 3 (FUSED_SSIM_FLOAT16, _BFLOAT16, _FLOAT32, _FLOAT64), got ",
       code);
}

void check_alignment(const char* name, const void* data, int64_t bytes) {
  if (reinterpret_cast<std::uintptr_t>(data) % static_cast<std::uintptr_t>(bytes) != 0) {
    fail("expected ", name, " at a multiple of its elements' ", bytes, " bytes, got address ",
         data);
  }
}

// `Given` is FusedSsimImage or FusedSsimOutput. Null data is for the caller to judge.
template <class Image, class Given>
Image checked_image(const char* name, const Given& given, const Shape& shape,
                    int64_t element_bytes) {
  Image image;
  image.data = given.data;
  image.stride_batch = given.stride_batch;
  image.stride_channel = given.stride_channel;
  image.stride_row = given.stride_row;
  image.stride_column = given.stride_column;
  if (image.data == nullptr) {
    return image;
  }
  check_alignment(name, image.data, element_bytes);
  const int64_t extents[] = {shape.batch, shape.channels, shape.height, shape.width};
  const int64_t strides[] = {image.stride_batch, image.stride_channel, image.stride_row,
                             image.stride_column};
  int64_t reach = 0;
  for (int i = 0; i < 4; ++i) {
    int64_t steps = 0;
    if (strides[i] <= -kMaxElements ||
        !checked_multiply(extents[i] - 1, std::abs(strides[i]), &steps) || steps > kMaxElements) {
      fail("expected strides of ", name, " that stay within 2^56 elements, got ", strides[i],
           " for an extent of ", extents[i]);
    }
    reach += steps;
  }
  if (reach > kMaxElements) {
    fail("expected strides of ", name, " that stay within 2^56 elements, got ", reach);
  }
  return image;
}

MutableImage checked_output(const char* name, const FusedSsimOutput& given, const Shape& shape,
                            int64_t element_bytes) {
  const auto image = checked_image<MutableImage>(name, given, shape, element_bytes);
  if (image.data != nullptr && ((shape.batch > 1 && image.stride_batch == 0) ||
                                (shape.channels > 1 && image.stride_channel == 0) ||
                                (shape.height > 1 && image.stride_row == 0) ||
                                (shape.width > 1 && image.stride_column == 0))) {
    fail("expected ", name, " to have memory of its own for each pixel, got a stride of 0");
  }
  return image;
}

void check_finite(const char* name, double value) {
  if (!std::isfinite(value)) {
    fail("expected a finite ", name, ", got ", value);
  }
}

}  // namespace

Problem checked_problem(const FusedSsimProblem* given) {
  const auto p = read(given, "FusedSsimProblem", sizeof(FusedSsimProblem));
  Problem problem;
  problem.shape = checked_shape(p.batch, p.channels, p.height, p.width);
  problem.dtype = checked_dtype(p.dtype);
  const int window_size = p.window_size;
  if (window_size < kMinWindowSize || window_size > kMaxWindowSize || window_size % 2 == 0) {
    fail("expected an odd window_size from ", kMinWindowSize, " to ", kMaxWindowSize, ", got ",
         window_size);
  }
  if (!(p.sigma > 0.0) || !std::isfinite(p.sigma)) {
    fail("expected a positive, finite sigma, got ", p.sigma);
  }
  if (!(p.c1 > 0.0) || !std::isfinite(p.c1) || !(p.c2 > 0.0) || !std::isfinite(p.c2)) {
    fail("expected positive, finite C1 and C2, got ", p.c1, " and ", p.c2);
  }
  if (p.padding != FUSED_SSIM_SAME && p.padding != FUSED_SSIM_VALID) {
    fail("expected padding 0 (\"same\") or 1 (\"valid\"), got ", p.padding);
  }
  problem.padding = p.padding == FUSED_SSIM_VALID ? Padding::kValid : Padding::kSame;
  if (problem.padding == Padding::kValid && (p.height < window_size || p.width < window_size)) {
    fail("expected height and width of at least the window's ", window_size,
         " with padding \"valid\", got ", shape_text(problem.shape),
         "; use \"same\" or a smaller window");
  }
  problem.window.size = window_size;
  problem.sigma = p.sigma;
  problem.c1 = p.c1;
  problem.c2 = p.c2;
  const int64_t bytes = size_of(problem.dtype);
  problem.img1 = checked_image<ConstImage>("img1", p.img1, problem.shape, bytes);
  problem.img2 = checked_image<ConstImage>("img2", p.img2, problem.shape, bytes);
  return problem;
}

Problem problem_of(const FusedSsimProblem* given) {
  Problem problem = checked_problem(given);
  if (problem.img1.data == nullptr || problem.img2.data == nullptr) {
    fail("expected two images, got a null pointer for ",
         problem.img1.data == nullptr ? "img1" : "img2");
  }
  static constexpr WindowTaps<double> kStandard = gaussian_taps(kDefaultWindowSize, kDefaultSigma);
  problem.window = problem.window.size == kDefaultWindowSize && problem.sigma == kDefaultSigma
                       ? kStandard
                       : gaussian_taps(problem.window.size, problem.sigma);
  return problem;
}

Reduction reduction_of(int32_t code) {
  if (code < FUSED_SSIM_MEAN || code > FUSED_SSIM_CHANNEL) {
    fail("expected a reduction from 0 to ", int{FUSED_SSIM_CHANNEL},
         " (mean, sum, image, channel), got ", code);
  }
  return static_cast<Reduction>(code);
}

Request request_of(const FusedSsimRequest* given, const Problem& problem) {
  const auto r = read(given, "FusedSsimRequest", sizeof(FusedSsimRequest));
  const int64_t element = size_of(problem.dtype);
  const int64_t accumulator = accumulates_in_double(problem.dtype) ? 8 : 4;
  check_finite("ssim_weight", r.ssim_weight);
  check_finite("l1_weight", r.l1_weight);
  check_finite("offset", r.offset);
  check_alignment("value", r.value, accumulator);
  check_alignment("map", r.map, accumulator);
  Request request;
  request.value = r.value;
  request.reduction = reduction_of(r.reduction);
  request.ssim_weight = r.ssim_weight;
  request.l1_weight = r.l1_weight;
  request.offset = r.offset;
  request.map = r.map;
  request.grad1 = checked_output("grad1", r.grad1, problem.shape, element);
  request.grad2 = checked_output("grad2", r.grad2, problem.shape, element);
  Shape map_shape = problem.shape;
  map_shape.height = problem.map_height();
  map_shape.width = problem.map_width();
  request.map_gradient =
      checked_image<ConstImage>("map_gradient", r.map_gradient, map_shape, accumulator);
  return request;
}

ScaleRequest scale_request_of(const FusedSsimScaleRequest* given) {
  const auto r = read(given, "FusedSsimScaleRequest", sizeof(FusedSsimScaleRequest));
  ScaleRequest request;
  request.shape = checked_shape(r.batch, r.channels, r.height, r.width);
  request.dtype = checked_dtype(r.dtype);
  const int64_t element = size_of(request.dtype);
  request.unit = checked_image<ConstImage>("unit", r.unit, request.shape, element);
  request.out = checked_output("out", r.out, request.shape, element);
  if (r.unit.data == nullptr || r.out.data == nullptr || r.upstream == nullptr) {
    fail("expected unit, out and upstream, got a null pointer");
  }
  check_alignment("upstream", r.upstream, accumulates_in_double(request.dtype) ? 8 : 4);
  request.upstream = r.upstream;
  request.planes_per_value = planes_per_value(reduction_of(r.reduction), request.shape);
  check_finite("factor", r.factor);
  request.factor = r.factor;
  return request;
}

}  // namespace fused_ssim::c_api
