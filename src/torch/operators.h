// The operators on tensors: the one place that checks, allocates, and turns tensors into problems.
//
// Operators<Backend> serves every device; a backend supplies
//   static void run(const Problem&, const Request&, const Tensor& on_device);
//   static void scale(const ScaleRequest&, const Tensor& on_device);
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <sstream>
#include <stdexcept>
#include <string>
#include <tuple>

#include "core/gaussian_window.h"
#include "core/problem.h"

namespace fused_ssim::torch_ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Python checks the same things first and names the remedy (python/fused_ssim/_validation.py); this
// guards the kernels against every other caller.
template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  message << "fused_ssim: ";
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

inline std::string shape_text(const Tensor& tensor) {
  std::ostringstream text;
  text << "[";
  for (int64_t i = 0; i < tensor.dim(); ++i) {
    text << (i > 0 ? ", " : "") << tensor.size(i);
  }
  text << "]";
  return text.str();
}

inline bool same_shape(const Tensor& a, const Tensor& b) {
  bool same = a.dim() == b.dim();
  for (int64_t i = 0; same && i < a.dim(); ++i) {
    same = a.size(i) == b.size(i);
  }
  return same;
}

inline DType dtype_of(const Tensor& image) {
  switch (image.scalar_type()) {
    case ScalarType::Half:
      return DType::kFloat16;
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    case ScalarType::Float:
      return DType::kFloat32;
    case ScalarType::Double:
      return DType::kFloat64;
    default:
      fail(
          "expected images of dtype float16, bfloat16, float32 or float64, got scalar type number ",
          static_cast<int>(image.scalar_type()), "; convert them with .float()");
  }
}

inline ScalarType accumulation_type(DType dtype) {
  return accumulates_in_double(dtype) ? ScalarType::Double : ScalarType::Float;
}

template <class Image, class Pointer>
Image image_of(const Tensor& tensor, Pointer data) {
  Image image;
  image.data = data;
  image.stride_batch = tensor.stride(0);
  image.stride_channel = tensor.stride(1);
  image.stride_row = tensor.stride(2);
  image.stride_column = tensor.stride(3);
  return image;
}
inline ConstImage const_image(const Tensor& tensor) {
  return image_of<ConstImage>(tensor, tensor.const_data_ptr());
}
inline MutableImage mutable_image(const Tensor& tensor) {
  return image_of<MutableImage>(tensor, tensor.mutable_data_ptr());
}

inline void check_same_device(const Tensor& a, const Tensor& b, const char* a_name,
                              const char* b_name) {
  if (a.is_cuda() != b.is_cuda() || a.get_device_index() != b.get_device_index()) {
    fail("expected ", a_name, " and ", b_name, " on one device; move one with .to(other.device)");
  }
}

inline Shape shape_of(const Tensor& image) {
  if (image.dim() != 4) {
    fail("expected images of shape [B, C, H, W], got ", shape_text(image));
  }
  return {image.size(0), image.size(1), image.size(2), image.size(3)};
}

inline Problem make_problem(const Tensor& img1, const Tensor& img2, double c1, double c2,
                            int64_t window_size, double sigma, bool valid) {
  Problem problem;
  problem.shape = shape_of(img1);
  if (!same_shape(img1, img2)) {
    fail("expected images of one shape, got ", shape_text(img1), " and ", shape_text(img2));
  }
  problem.dtype = dtype_of(img1);
  if (dtype_of(img2) != problem.dtype) {
    fail("expected images of one dtype; convert one with .to(other.dtype)");
  }
  check_same_device(img1, img2, "img1", "img2");
  if (img1.numel() == 0) {
    fail("expected images with at least one pixel, got ", shape_text(img1));
  }
  // A tensor may expand over strides of zero to more elements than 64 bits count.
  int64_t product = 1;
  for (int64_t i = 0; i < 4; ++i) {
    if (!checked_multiply(product, img1.size(i), &product)) {
      fail("expected fewer than 2^63 elements, got ", shape_text(img1));
    }
  }
  if (window_size < kMinWindowSize || window_size > kMaxWindowSize || window_size % 2 == 0) {
    fail("expected an odd window_size from ", kMinWindowSize, " to ", kMaxWindowSize, ", got ",
         window_size);
  }
  if (!(sigma > 0.0) || !std::isfinite(sigma)) {
    fail("expected a positive, finite sigma, got ", sigma);
  }
  if (!(c1 > 0.0) || !std::isfinite(c1) || !(c2 > 0.0) || !std::isfinite(c2)) {
    fail("expected positive, finite C1 and C2, got ", c1, " and ", c2);
  }
  if (valid && (problem.shape.height < window_size || problem.shape.width < window_size)) {
    fail("expected height and width of at least the window's ", window_size,
         " with padding \"valid\", got ", shape_text(img1), "; use \"same\" or a smaller window");
  }
  problem.img1 = const_image(img1);
  problem.img2 = const_image(img2);
  problem.padding = valid ? Padding::kValid : Padding::kSame;
  problem.window = gaussian_taps(static_cast<int>(window_size), sigma);
  problem.sigma = sigma;
  problem.c1 = c1;
  problem.c2 = c2;
  return problem;
}

inline Reduction reduction_of(int64_t code) {
  if (code < 0 || code > static_cast<int64_t>(Reduction::kChannel)) {
    fail("expected a reduction from 0 to ", static_cast<int>(Reduction::kChannel),
         " (mean, sum, image, channel), got ", code);
  }
  return static_cast<Reduction>(code);
}

inline int32_t shim_dtype(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Half:
      return aoti_torch_dtype_float16();
    case ScalarType::BFloat16:
      return aoti_torch_dtype_bfloat16();
    case ScalarType::Float:
      return aoti_torch_dtype_float32();
    case ScalarType::Double:
      return aoti_torch_dtype_float64();
    case ScalarType::Byte:
      return aoti_torch_dtype_uint8();
    default:
      fail("expected to allocate floating-point numbers or bytes, got scalar type number ",
           static_cast<int>(dtype));
  }
}

// Uninitialised, contiguous, on the device of `like`. Straight to torch's allocator: on a small image
// the way through the dispatcher, three or four times a call, is time that one can measure.
inline Tensor new_empty(const Tensor& like, std::initializer_list<int64_t> sizes,
                        ScalarType dtype) {
  constexpr std::size_t kMaxDimensions = 4;
  std::array<int64_t, kMaxDimensions> strides{};
  int64_t stride = 1;
  for (std::size_t i = sizes.size(); i-- > 0;) {
    strides[i] = stride;
    stride *= std::max<int64_t>(1, sizes.begin()[i]);
  }
  int32_t device_type = 0;
  int32_t device_index = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.begin(),
                                                  strides.data(), shim_dtype(dtype), device_type,
                                                  device_index, &handle));
  return Tensor(handle);
}

// [], [], [B] or [B, C].
inline Tensor new_value(const Tensor& like, Reduction reduction, const Problem& problem) {
  const ScalarType dtype = accumulation_type(problem.dtype);
  switch (reduction) {
    case Reduction::kImage:
      return new_empty(like, {problem.shape.batch}, dtype);
    case Reduction::kChannel:
      return new_empty(like, {problem.shape.batch, problem.shape.channels}, dtype);
    default:
      return new_empty(like, {}, dtype);
  }
}

// Memory in the layout of the image.
inline Tensor new_like(const Tensor& image) {
  return image.is_contiguous()
             ? new_empty(image, {image.size(0), image.size(1), image.size(2), image.size(3)},
                         image.scalar_type())
             : torch::stable::empty_like(image);
}

// Memory for a gradient in the layout of the image, or an empty tensor where none is wanted.
inline Tensor new_gradient(const Tensor& image, bool wanted, MutableImage* out) {
  if (!wanted) {
    return new_empty(image, {0}, image.scalar_type());
  }
  Tensor gradient = new_like(image);
  *out = mutable_image(gradient);
  return gradient;
}

template <class Backend>
struct Operators {
  static std::tuple<Tensor, Tensor, Tensor> ssim(const Tensor& img1, const Tensor& img2, double c1,
                                                 double c2, int64_t window_size, double sigma,
                                                 bool valid, int64_t reduction, double ssim_weight,
                                                 double l1_weight, double offset, bool gradient1,
                                                 bool gradient2) {
    const Problem problem = make_problem(img1, img2, c1, c2, window_size, sigma, valid);
    Request request;
    request.reduction = reduction_of(reduction);
    request.ssim_weight = ssim_weight;
    request.l1_weight = l1_weight;
    request.offset = offset;
    Tensor value = new_value(img1, request.reduction, problem);
    request.value = value.mutable_data_ptr();
    Tensor unit1 = new_gradient(img1, gradient1, &request.grad1);
    Tensor unit2 = new_gradient(img2, gradient2, &request.grad2);
    Backend::run(problem, request, img1);
    return {value, unit1, unit2};
  }

  static Tensor ssim_map(const Tensor& img1, const Tensor& img2, double c1, double c2,
                         int64_t window_size, double sigma, bool valid) {
    const Problem problem = make_problem(img1, img2, c1, c2, window_size, sigma, valid);
    Tensor map = new_empty(
        img1,
        {problem.shape.batch, problem.shape.channels, problem.map_height(), problem.map_width()},
        accumulation_type(problem.dtype));
    Request request;
    request.map = map.mutable_data_ptr();
    Backend::run(problem, request, img1);
    return map;
  }

  static std::tuple<Tensor, Tensor> ssim_map_backward(const Tensor& map_gradient,
                                                      const Tensor& img1, const Tensor& img2,
                                                      double c1, double c2, int64_t window_size,
                                                      double sigma, bool valid, bool gradient1,
                                                      bool gradient2) {
    const Problem problem = make_problem(img1, img2, c1, c2, window_size, sigma, valid);
    check_same_device(img1, map_gradient, "the images", "map_gradient");
    const Shape shape = shape_of(map_gradient);
    if (shape.batch != problem.shape.batch || shape.channels != problem.shape.channels ||
        shape.height != problem.map_height() || shape.width != problem.map_width() ||
        map_gradient.scalar_type() != accumulation_type(problem.dtype)) {
      fail("expected map_gradient of the map's shape and dtype, [", problem.shape.batch, ", ",
           problem.shape.channels, ", ", problem.map_height(), ", ", problem.map_width(), "], got ",
           shape_text(map_gradient));
    }
    Request request;
    request.map_gradient = const_image(map_gradient);
    Tensor grad1 = new_gradient(img1, gradient1, &request.grad1);
    Tensor grad2 = new_gradient(img2, gradient2, &request.grad2);
    if (request.wants_gradient()) {
      Backend::run(problem, request, img1);
    }
    return {grad1, grad2};
  }

  static Tensor scale_gradient(const Tensor& unit, const Tensor& upstream, int64_t reduction,
                               double factor) {
    shape_of(unit);  // four dimensions, or an error
    Tensor out = new_like(unit);
    scale_into(unit, upstream, reduction, factor, out);
    return out;
  }

  static void scale_gradient_(Tensor unit, const Tensor& upstream, int64_t reduction,
                              double factor) {
    scale_into(unit, upstream, reduction, factor, unit);
  }

 private:
  static void scale_into(const Tensor& unit, const Tensor& upstream, int64_t reduction,
                         double factor, const Tensor& out) {
    ScaleRequest request;
    request.shape = shape_of(unit);
    request.dtype = dtype_of(unit);
    check_same_device(unit, upstream, "unit", "upstream");
    const Reduction kind = reduction_of(reduction);
    if (upstream.numel() != reduced_size(kind, request.shape) ||
        upstream.scalar_type() != accumulation_type(request.dtype) || !upstream.is_contiguous()) {
      fail("expected a contiguous upstream gradient of ", reduced_size(kind, request.shape),
           " elements in the value's dtype, got ", shape_text(upstream));
    }
    request.unit = const_image(unit);
    request.out = mutable_image(out);
    request.upstream = upstream.const_data_ptr();
    request.planes_per_value = planes_per_value(kind, request.shape);
    request.factor = factor;
    if (unit.numel() > 0) {
      Backend::scale(request, unit);
    }
  }
};

template <class Backend>
void register_operators(torch::stable::detail::StableLibrary& library) {
  using Ops = Operators<Backend>;
  library.impl("ssim", TORCH_BOX(&Ops::ssim));
  library.impl("ssim_map", TORCH_BOX(&Ops::ssim_map));
  library.impl("ssim_map_backward", TORCH_BOX(&Ops::ssim_map_backward));
  library.impl("scale_gradient", TORCH_BOX(&Ops::scale_gradient));
  library.impl("scale_gradient_", TORCH_BOX(&Ops::scale_gradient_));
}

}  // namespace fused_ssim::torch_ops
