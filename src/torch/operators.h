// The operators on tensors: the one place that allocates and turns tensors into the structures of
// fused_ssim/kernels.h. What concerns tensors (rank, dtype, device, agreement) is checked here, the
// numbers are checked by the libraries behind that interface.
//
// Operators<Backend> serves every device; a backend supplies
//   static void run(const FusedSsimProblem&, const FusedSsimRequest&, const Tensor& on_device);
//   static void scale(const FusedSsimScaleRequest&, const Tensor& on_device);
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <sstream>
#include <stdexcept>
#include <string>
#include <tuple>

#include "fused_ssim/kernels.h"

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

// Schemas know integers of 64 bits only.
inline int32_t narrow(int64_t value, const char* name) {
  if (value < INT32_MIN || value > INT32_MAX) {
    fail("expected a ", name, " of 32 bits, got ", value);
  }
  return static_cast<int32_t>(value);
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

inline int32_t dtype_of(const Tensor& image) {
  switch (image.scalar_type()) {
    case ScalarType::Half:
      return FUSED_SSIM_FLOAT16;
    case ScalarType::BFloat16:
      return FUSED_SSIM_BFLOAT16;
    case ScalarType::Float:
      return FUSED_SSIM_FLOAT32;
    case ScalarType::Double:
      return FUSED_SSIM_FLOAT64;
    default:
      fail(
          "expected images of dtype float16, bfloat16, float32 or float64, got scalar type number ",
          static_cast<int>(image.scalar_type()), "; convert them with .float()");
  }
}

inline ScalarType accumulation_type(int32_t dtype) {
  return dtype == FUSED_SSIM_FLOAT64 ? ScalarType::Double : ScalarType::Float;
}

template <class Image, class Pointer>
Image image_of(const Tensor& tensor, Pointer data) {
  return {data, tensor.stride(0), tensor.stride(1), tensor.stride(2), tensor.stride(3)};
}
inline FusedSsimImage const_image(const Tensor& tensor) {
  return image_of<FusedSsimImage>(tensor, tensor.const_data_ptr());
}
inline FusedSsimOutput mutable_image(const Tensor& tensor) {
  return image_of<FusedSsimOutput>(tensor, tensor.mutable_data_ptr());
}

inline void check_same_device(const Tensor& a, const Tensor& b, const char* a_name,
                              const char* b_name) {
  if (a.is_cuda() != b.is_cuda() || a.get_device_index() != b.get_device_index()) {
    fail("expected ", a_name, " and ", b_name, " on one device; move one with .to(other.device)");
  }
}

inline void check_rank(const Tensor& image) {
  if (image.dim() != 4) {
    fail("expected images of shape [B, C, H, W], got ", shape_text(image));
  }
}

// A problem and the size of its map.
struct Sized {
  FusedSsimProblem problem;
  int64_t map_height = 0;
  int64_t map_width = 0;
};

inline Sized make_problem(const Tensor& img1, const Tensor& img2, double c1, double c2,
                          int64_t window_size, double sigma, bool valid) {
  check_rank(img1);
  if (!same_shape(img1, img2)) {
    fail("expected images of one shape, got ", shape_text(img1), " and ", shape_text(img2));
  }
  const int32_t dtype = dtype_of(img1);
  if (dtype_of(img2) != dtype) {
    fail("expected images of one dtype; convert one with .to(other.dtype)");
  }
  check_same_device(img1, img2, "img1", "img2");
  Sized sized;
  sized.problem = fused_ssim_problem(img1.size(0), img1.size(1), img1.size(2), img1.size(3),
                                     const_image(img1), const_image(img2));
  sized.problem.dtype = dtype;
  sized.problem.padding = valid ? FUSED_SSIM_VALID : FUSED_SSIM_SAME;
  sized.problem.window_size = narrow(window_size, "window_size");
  sized.problem.sigma = sigma;
  sized.problem.c1 = c1;
  sized.problem.c2 = c2;
  kernels::check(fused_ssim_map_size(&sized.problem, &sized.map_height, &sized.map_width));
  return sized;
}

inline int64_t value_count(const Tensor& image, int32_t reduction) {
  int64_t count = 0;
  kernels::check(fused_ssim_value_count(image.size(0), image.size(1), reduction, &count));
  return count;
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
inline Tensor new_value(const Tensor& image, int32_t reduction, int32_t dtype) {
  switch (reduction) {
    case FUSED_SSIM_IMAGE:
      return new_empty(image, {image.size(0)}, accumulation_type(dtype));
    case FUSED_SSIM_CHANNEL:
      return new_empty(image, {image.size(0), image.size(1)}, accumulation_type(dtype));
    default:
      return new_empty(image, {}, accumulation_type(dtype));
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
inline Tensor new_gradient(const Tensor& image, bool wanted, FusedSsimOutput* out) {
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
    const FusedSsimProblem problem =
        make_problem(img1, img2, c1, c2, window_size, sigma, valid).problem;
    FusedSsimRequest request = fused_ssim_request();
    request.reduction = narrow(reduction, "reduction");
    value_count(img1, request.reduction);  // checks the reduction
    request.ssim_weight = ssim_weight;
    request.l1_weight = l1_weight;
    request.offset = offset;
    Tensor value = new_value(img1, request.reduction, problem.dtype);
    request.value = value.mutable_data_ptr();
    Tensor unit1 = new_gradient(img1, gradient1, &request.grad1);
    Tensor unit2 = new_gradient(img2, gradient2, &request.grad2);
    Backend::run(problem, request, img1);
    return {value, unit1, unit2};
  }

  static Tensor ssim_map(const Tensor& img1, const Tensor& img2, double c1, double c2,
                         int64_t window_size, double sigma, bool valid) {
    const Sized sized = make_problem(img1, img2, c1, c2, window_size, sigma, valid);
    Tensor map = new_empty(img1, {img1.size(0), img1.size(1), sized.map_height, sized.map_width},
                           accumulation_type(sized.problem.dtype));
    FusedSsimRequest request = fused_ssim_request();
    request.map = map.mutable_data_ptr();
    Backend::run(sized.problem, request, img1);
    return map;
  }

  static std::tuple<Tensor, Tensor> ssim_map_backward(const Tensor& map_gradient,
                                                      const Tensor& img1, const Tensor& img2,
                                                      double c1, double c2, int64_t window_size,
                                                      double sigma, bool valid, bool gradient1,
                                                      bool gradient2) {
    const Sized sized = make_problem(img1, img2, c1, c2, window_size, sigma, valid);
    check_same_device(img1, map_gradient, "the images", "map_gradient");
    check_rank(map_gradient);
    if (map_gradient.size(0) != img1.size(0) || map_gradient.size(1) != img1.size(1) ||
        map_gradient.size(2) != sized.map_height || map_gradient.size(3) != sized.map_width ||
        map_gradient.scalar_type() != accumulation_type(sized.problem.dtype)) {
      fail("expected map_gradient of the map's shape and dtype, [", img1.size(0), ", ",
           img1.size(1), ", ", sized.map_height, ", ", sized.map_width, "], got ",
           shape_text(map_gradient));
    }
    FusedSsimRequest request = fused_ssim_request();
    request.map_gradient = const_image(map_gradient);
    Tensor grad1 = new_gradient(img1, gradient1, &request.grad1);
    Tensor grad2 = new_gradient(img2, gradient2, &request.grad2);
    if (gradient1 || gradient2) {
      Backend::run(sized.problem, request, img1);
    }
    return {grad1, grad2};
  }

  static Tensor scale_gradient(const Tensor& unit, const Tensor& upstream, int64_t reduction,
                               double factor) {
    check_rank(unit);
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
    check_rank(unit);
    const int32_t dtype = dtype_of(unit);
    check_same_device(unit, upstream, "unit", "upstream");
    const int32_t kind = narrow(reduction, "reduction");
    const int64_t values = value_count(unit, kind);
    if (upstream.numel() != values || upstream.scalar_type() != accumulation_type(dtype) ||
        !upstream.is_contiguous()) {
      fail("expected a contiguous upstream gradient of ", values,
           " elements in the value's dtype, got ", shape_text(upstream));
    }
    if (unit.numel() == 0) {
      return;
    }
    FusedSsimScaleRequest request =
        fused_ssim_scale_request(unit.size(0), unit.size(1), unit.size(2), unit.size(3),
                                 mutable_image(out), upstream.const_data_ptr());
    request.dtype = dtype;
    request.reduction = kind;
    request.unit = const_image(unit);
    request.factor = factor;
    Backend::scale(request, unit);
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
