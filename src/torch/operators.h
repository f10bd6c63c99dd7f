// The operators on tensors: the one place that allocates and turns tensors into the structures of
// fused_ssim/kernels.h. What concerns tensors (rank, dtype, device, agreement) is checked here, the
// numbers are checked by the libraries behind that interface.
//
// Operators<Backend> serves every device; a backend supplies
//   static void run(const FusedSsimProblem&, const FusedSsimRequest&, const Tensor& on_device);
//   static constexpr bool kRunSumsMasks;  whether run() does what else mask_sums() is called for:
//   static void mask_sums(const FusedSsimProblem&, int32_t reduction, void* sums);
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
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

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

// An operator's arguments in the order of its schema, and then its results. Read from the boxed
// stack by hand: the arguments of a problem are then listed once for all operators.
class Stack {
 public:
  explicit Stack(StableIValue* values) : values_(values) {}

  template <class T>
  T next() {
    return torch::stable::detail::to<T>(values_[index_++]);
  }

  template <class... Results>
  void finish(const Results&... results) {
    index_ = 0;
    ((values_[index_++] = torch::stable::detail::from(results)), ...);
  }

 private:
  StableIValue* values_;
  std::size_t index_ = 0;
};

using Sizes = std::array<int64_t, FUSED_SSIM_AXES>;

inline std::string shape_text(const Tensor& tensor) {
  std::ostringstream text;
  text << "[";
  for (int64_t i = 0; i < tensor.dim(); ++i) {
    text << (i > 0 ? ", " : "") << tensor.size(i);
  }
  text << "]";
  return text.str();
}

// Shims know a dtype by a number of their own.
struct DTypeCodes {
  ScalarType torch;
  int32_t (*shim)();
  int32_t fused_ssim;
};
inline constexpr DTypeCodes kDTypes[] = {
    {ScalarType::Byte, &aoti_torch_dtype_uint8, FUSED_SSIM_UINT8},
    {ScalarType::Half, &aoti_torch_dtype_float16, FUSED_SSIM_FLOAT16},
    {ScalarType::BFloat16, &aoti_torch_dtype_bfloat16, FUSED_SSIM_BFLOAT16},
    {ScalarType::Float, &aoti_torch_dtype_float32, FUSED_SSIM_FLOAT32},
    {ScalarType::Double, &aoti_torch_dtype_float64, FUSED_SSIM_FLOAT64},
};

inline int32_t dtype_of(const Tensor& image) {
  const ScalarType dtype = image.scalar_type();
  if (dtype == ScalarType::Bool) {  // a mask
    return FUSED_SSIM_UINT8;
  }
  for (const DTypeCodes& codes : kDTypes) {
    if (codes.torch == dtype) {
      return codes.fused_ssim;
    }
  }
  fail("expected dtype uint8, float16, bfloat16, float32 or float64, got scalar type number ",
       static_cast<int>(dtype), "; convert with .float()");
}

inline const DTypeCodes& codes_of(int32_t dtype) { return kDTypes[dtype]; }
static_assert(kDTypes[FUSED_SSIM_UINT8].torch == ScalarType::Byte &&
                  kDTypes[FUSED_SSIM_FLOAT64].torch == ScalarType::Double,
              "in the order of their numbers");

// The axis of a tensor [B, C, (D,) (H,) W], as one of FUSED_SSIM_AXIS_...
inline int axis_of(int64_t dimension, int64_t rank) {
  return static_cast<int>(dimension < 2 ? dimension : dimension + FUSED_SSIM_AXES - rank);
}

inline void check_rank(const char* name, const Tensor& image) {
  if (image.dim() < 3 || image.dim() > FUSED_SSIM_AXES) {
    fail("expected ", name, " of shape [B, C, W], [B, C, H, W] or [B, C, D, H, W], got ",
         shape_text(image));
  }
}

inline Sizes sizes_of(const Tensor& image) {
  Sizes sizes;
  sizes.fill(1);
  for (int64_t i = 0; i < image.dim(); ++i) {
    sizes[static_cast<std::size_t>(axis_of(i, image.dim()))] = image.size(i);
  }
  return sizes;
}

// Images are described by their addresses; only results are written to.
inline FusedSsimImage image_of(const Tensor& tensor) {
  FusedSsimImage image = {};
  image.data = const_cast<void*>(tensor.const_data_ptr());
  image.dtype = dtype_of(tensor);
  for (int64_t i = 0; i < tensor.dim(); ++i) {
    image.strides[axis_of(i, tensor.dim())] = tensor.stride(i);
  }
  return image;
}

inline void check_agree(const char* name, const Tensor& tensor, const Tensor& img1,
                        const Sizes& sizes) {
  check_rank(name, tensor);
  if (tensor.dim() != img1.dim() || sizes_of(tensor) != sizes) {
    fail("expected ", name, " to fit img1 of shape ", shape_text(img1), ", got ",
         shape_text(tensor));
  }
  if (tensor.is_cuda() != img1.is_cuda() || tensor.get_device_index() != img1.get_device_index()) {
    fail("expected img1 and ", name, " on one device; move one with .to(other.device)");
  }
}

// Taps along depth, height and width; where none are given, of the standard window along the axes that
// an image of that rank has.
inline std::array<int64_t, 3> spatial_window_sizes(const std::vector<int64_t>& given,
                                                   int64_t rank) {
  constexpr int64_t kStandard = 11;
  if (given.empty()) {
    return {rank > 4 ? kStandard : 1, rank > 3 ? kStandard : 1, kStandard};
  }
  if (given.size() != 3) {
    fail("expected window_sizes of depth, height and width, or none for the standard window, got ",
         given.size(), " numbers");
  }
  return {given[0], given[1], given[2]};
}

// The arguments that all operators share: the first and the last of each schema in schemas.h.
struct TensorProblem {
  explicit TensorProblem(Stack* stack)
      : img1(stack->next<Tensor>()),
        img2(stack->next<Tensor>()),
        taps(stack->next<std::vector<double>>()),
        given_sizes(stack->next<std::vector<int64_t>>()) {
    problem.struct_size = sizeof(problem);
    problem.c1 = stack->next<double>();
    problem.c2 = stack->next<double>();
    problem.padding = stack->next<bool>() ? FUSED_SSIM_VALID : FUSED_SSIM_SAME;
    statistic = stack->next<int64_t>();
    uint8_divisor = stack->next<int64_t>();
  }

  // Reads the rest, and only then checks anything: what is left on the stack would leak.
  void complete(Stack* stack) {
    stabilizers = stack->next<std::optional<Tensor>>();
    mask = stack->next<std::optional<Tensor>>();
    problem.mask_mode = narrow(stack->next<int64_t>(), "mask_mode");
    problem.statistic = narrow(statistic, "statistic");
    problem.uint8_divisor = narrow(uint8_divisor, "uint8_divisor");
    check_rank("img1", img1);
    const Sizes sizes = sizes_of(img1);
    check_agree("img2", img2, img1, sizes);
    std::copy(sizes.begin(), sizes.end(), problem.sizes);
    problem.img1 = image_of(img1);
    problem.img2 = image_of(img2);
    set_windows();
    if (stabilizers.has_value()) {
      if (stabilizers->numel() != 2 * img1.size(0) || !stabilizers->is_contiguous() ||
          dtype_of(*stabilizers) != accumulation()) {
        fail("expected stabilizers of shape [B, 2] in the value's dtype, got ",
             shape_text(*stabilizers));
      }
      problem.stabilizers = stabilizers->const_data_ptr();
    }
    if (mask.has_value()) {
      check_agree("mask", *mask, img1, sizes);
      problem.mask = image_of(*mask);
    }
  }
  // `problem` points into `taps`.
  TensorProblem(const TensorProblem&) = delete;
  TensorProblem& operator=(const TensorProblem&) = delete;

  int32_t accumulation() const {
    return problem.img1.dtype == FUSED_SSIM_FLOAT64 || problem.img2.dtype == FUSED_SSIM_FLOAT64
               ? FUSED_SSIM_FLOAT64
               : FUSED_SSIM_FLOAT32;
  }

  // [B, C] and the map's spatial sizes, as many as the images have.
  std::vector<int64_t> map_shape() const {
    Sizes sizes;
    kernels::check(fused_ssim_map_sizes(&problem, sizes.data()));
    std::vector<int64_t> shape;
    for (int64_t i = 0; i < img1.dim(); ++i) {
      shape.push_back(sizes[static_cast<std::size_t>(axis_of(i, img1.dim()))]);
    }
    return shape;
  }

  Tensor img1;
  Tensor img2;
  std::vector<double> taps;
  std::vector<int64_t> given_sizes;
  int64_t statistic = 0;
  int64_t uint8_divisor = 0;
  std::optional<Tensor> stabilizers;
  std::optional<Tensor> mask;
  FusedSsimProblem problem = {};

 private:
  void set_windows() {
    const std::array<int64_t, 3> window_sizes = spatial_window_sizes(given_sizes, img1.dim());
    // None for the standard window, or one for all filtered axes, or one for each of them in turn.
    const auto given = static_cast<int64_t>(taps.size());
    const bool shared = std::all_of(window_sizes.begin(), window_sizes.end(),
                                    [&](int64_t size) { return size == 1 || size == given; });
    int64_t offset = 0;
    for (std::size_t axis = 0; axis < 3; ++axis) {
      const int64_t size = window_sizes[axis];
      problem.windows[axis].size = narrow(size, "window");
      if (given == 0 || size == 1) {
        continue;  // the standard window's taps are known below
      }
      if (size < 1 || size > given - offset) {
        fail("expected taps of every window, got ", given, " for windows of ", window_sizes[0],
             ", ", window_sizes[1], " and ", window_sizes[2]);
      }
      problem.windows[axis].taps = taps.data() + offset;
      offset += shared ? 0 : size;
    }
    if (!shared && offset != given) {
      fail("expected ", offset, " taps, got ", given);
    }
  }
};

// Torch's own error, which says more and has a type that programs catch, does not come out of the
// stable ABI: who called the operator asks torch for as much memory once more, and gets it
// (python/fused_ssim/_library_operators.py, include/fused_ssim/torch/operators.h).
[[noreturn]] inline void fail_to_allocate(const Tensor& like, const int64_t* sizes,
                                          std::size_t rank, int32_t dtype) {
  constexpr int64_t kSizeOf[] = {1, 2, 2, 4, 8};  // in the order of FusedSsimDType
  int64_t bytes = kSizeOf[dtype];
  for (std::size_t i = 0; i < rank; ++i) {
    bytes = sizes[i] > INT64_MAX / bytes ? INT64_MAX : bytes * std::max<int64_t>(1, sizes[i]);
  }
  std::ostringstream device;
  device << (like.is_cuda() ? "cuda:" : "cpu");
  if (like.is_cuda()) {
    device << like.get_device_index();
  }
  fail("expected memory for a result, got no ", bytes, " bytes on ", device.str());
}

// Uninitialised, contiguous, on the device of `like`. Straight to torch's allocator: on a small image
// the way through the dispatcher, three or four times a call, is time that one can measure.
inline Tensor new_empty(const Tensor& like, const int64_t* sizes, std::size_t rank, int32_t dtype) {
  std::array<int64_t, FUSED_SSIM_AXES> strides{};
  int64_t stride = 1;
  for (std::size_t i = rank; i-- > 0;) {
    strides[i] = stride;
    stride *= std::max<int64_t>(1, sizes[i]);
  }
  int32_t device_type = 0;
  int32_t device_index = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  AtenTensorHandle handle = nullptr;
  if (aoti_torch_empty_strided(static_cast<int64_t>(rank), sizes, strides.data(),
                               codes_of(dtype).shim(), device_type, device_index,
                               &handle) != AOTI_TORCH_SUCCESS) {
    fail_to_allocate(like, sizes, rank, dtype);
  }
  return Tensor(handle);
}

// [], [], [B] or [B, C].
inline Tensor new_value(const TensorProblem& given, int32_t reduction) {
  const std::size_t rank = reduction == FUSED_SSIM_CHANNEL ? 2 : reduction == FUSED_SSIM_IMAGE;
  return new_empty(given.img1, given.problem.sizes, rank, given.accumulation());
}

// The sums that means under a mask are divided by. They live as long as the result.
template <class Backend>
std::optional<Tensor> set_mask_sums(TensorProblem* given, int32_t reduction) {
  if constexpr (!Backend::kRunSumsMasks) {
    if (given->mask.has_value() && reduction != FUSED_SSIM_SUM) {
      Tensor sums = new_value(*given, reduction);
      Backend::mask_sums(given->problem, reduction, sums.mutable_data_ptr());
      given->problem.mask_sums = sums.const_data_ptr();
      return sums;
    }
  }
  return std::nullopt;
}

// Memory in the layout of the image.
inline Tensor new_like(const Tensor& image) {
  std::array<int64_t, FUSED_SSIM_AXES> shape{};
  for (int64_t i = 0; i < image.dim(); ++i) {
    shape[static_cast<std::size_t>(i)] = image.size(i);
  }
  const auto rank = static_cast<std::size_t>(image.dim());
  if (image.is_contiguous()) {
    return new_empty(image, shape.data(), rank, dtype_of(image));
  }
  // Not torch::stable::empty_like, which prints a stack trace where there is no memory.
  std::array<StableIValue, 6> stack = {
      torch::stable::detail::from(image),        torch::stable::detail::from(std::nullopt),
      torch::stable::detail::from(std::nullopt), torch::stable::detail::from(std::nullopt),
      torch::stable::detail::from(std::nullopt), torch::stable::detail::from(std::nullopt)};
  if (torch_call_dispatcher("aten::empty_like", "", stack.data(), TORCH_ABI_VERSION) !=
      AOTI_TORCH_SUCCESS) {
    fail_to_allocate(image, shape.data(), rank, dtype_of(image));
  }
  return torch::stable::detail::to<Tensor>(stack[0]);
}

// Memory for a gradient in the layout of the image, or an empty tensor where none is wanted.
inline Tensor new_gradient(const Tensor& image, bool wanted, FusedSsimImage* out) {
  if (!wanted) {
    constexpr int64_t kNothing = 0;
    return new_empty(image, &kNothing, 1, dtype_of(image));
  }
  Tensor gradient = new_like(image);
  *out = image_of(gradient);
  return gradient;
}

// A mean over a million float16 pixels has gradients below what float16 can hold: theirs is that of
// the sum, which the backward pass divides.
constexpr bool gradient_is_of_sum(int32_t dtype) { return dtype == FUSED_SSIM_FLOAT16; }

template <class Backend>
struct Operators {
  static void ssim(StableIValue* values, uint64_t, uint64_t) {
    Stack stack(values);
    TensorProblem given(&stack);
    FusedSsimRequest request = fused_ssim_request();
    const auto reduction = stack.next<int64_t>();
    request.statistic_weight = stack.next<double>();
    request.l1_weight = stack.next<double>();
    request.offset = stack.next<double>();
    const bool wants1 = stack.next<bool>();
    const bool wants2 = stack.next<bool>();
    request.l2_weight = stack.next<double>();
    given.complete(&stack);
    request.reduction = narrow(reduction, "reduction");
    const auto mask_sums = set_mask_sums<Backend>(&given, request.reduction);
    Tensor value = new_value(given, request.reduction);
    request.value = value.mutable_data_ptr();
    Tensor gradient1 = new_gradient(given.img1, wants1, &request.grad1);
    Tensor gradient2 = new_gradient(given.img2, wants2, &request.grad2);
    const bool of_sum1 = wants1 && gradient_is_of_sum(given.problem.img1.dtype);
    const bool of_sum2 = wants2 && gradient_is_of_sum(given.problem.img2.dtype);
    if (wants1 && wants2 && of_sum1 != of_sum2) {
      // Two passes: one gradient is that of the mean, the other that of the sum.
      FusedSsimRequest second = request;
      second.value = nullptr;
      second.grad1 = {};
      second.gradient_of_sum = of_sum2;
      Backend::run(given.problem, second, given.img1);
      request.grad2 = {};
    }
    request.gradient_of_sum = of_sum1 || (of_sum2 && !wants1);
    Backend::run(given.problem, request, given.img1);
    stack.finish(value, gradient1, gradient2);
  }

  static void ssim_and_mse(StableIValue* values, uint64_t, uint64_t) {
    Stack stack(values);
    TensorProblem given(&stack);
    given.complete(&stack);
    FusedSsimRequest request = fused_ssim_request();
    request.reduction = FUSED_SSIM_CHANNEL;
    const auto mask_sums = set_mask_sums<Backend>(&given, request.reduction);
    Tensor value = new_value(given, request.reduction);
    Tensor mse = new_value(given, request.reduction);
    request.value = value.mutable_data_ptr();
    request.mse = mse.mutable_data_ptr();
    Backend::run(given.problem, request, given.img1);
    stack.finish(value, mse);
  }

  static void ssim_map(StableIValue* values, uint64_t, uint64_t) {
    Stack stack(values);
    TensorProblem given(&stack);
    given.complete(&stack);
    const std::vector<int64_t> shape = given.map_shape();
    Tensor map = new_empty(given.img1, shape.data(), shape.size(), given.accumulation());
    FusedSsimRequest request = fused_ssim_request();
    request.map = map.mutable_data_ptr();
    Backend::run(given.problem, request, given.img1);
    stack.finish(map);
  }

  static void ssim_map_backward(StableIValue* values, uint64_t, uint64_t) {
    Stack stack(values);
    const Tensor map_gradient = stack.next<Tensor>();
    TensorProblem given(&stack);
    const bool wants1 = stack.next<bool>();
    const bool wants2 = stack.next<bool>();
    given.complete(&stack);
    Sizes map_sizes;
    kernels::check(fused_ssim_map_sizes(&given.problem, map_sizes.data()));
    check_agree("map_gradient", map_gradient, given.img1, map_sizes);
    FusedSsimRequest request = fused_ssim_request();
    request.map_gradient = image_of(map_gradient);
    Tensor gradient1 = new_gradient(given.img1, wants1, &request.grad1);
    Tensor gradient2 = new_gradient(given.img2, wants2, &request.grad2);
    if (wants1 || wants2) {
      Backend::run(given.problem, request, given.img1);
    }
    stack.finish(gradient1, gradient2);
  }

  static void scale_gradient(StableIValue* values, uint64_t, uint64_t) {
    Stack stack(values);
    const Tensor gradient = stack.next<Tensor>();
    const Tensor upstream = stack.next<Tensor>();
    check_rank("gradient", gradient);
    Tensor out = new_like(gradient);
    scale_into(gradient, upstream, out, &stack);
    stack.finish(out);
  }

  static void scale_gradient_(StableIValue* values, uint64_t, uint64_t) {
    Stack stack(values);
    const Tensor gradient = stack.next<Tensor>();
    const Tensor upstream = stack.next<Tensor>();
    check_rank("gradient", gradient);
    scale_into(gradient, upstream, gradient, &stack);
  }

 private:
  static void scale_into(const Tensor& gradient, const Tensor& upstream, const Tensor& out,
                         Stack* stack) {
    FusedSsimScaleRequest request = {};
    request.struct_size = sizeof(request);
    const auto reduction = stack->next<int64_t>();
    const auto given_sizes = stack->next<std::vector<int64_t>>();
    const bool valid = stack->next<bool>();
    request.reduction = narrow(reduction, "reduction");
    if (gradient.numel() == 0) {
      return;
    }
    Sizes map_sizes = sizes_of(gradient);
    std::copy(map_sizes.begin(), map_sizes.end(), request.sizes);
    const auto window_sizes = spatial_window_sizes(given_sizes, gradient.dim());
    for (std::size_t axis = 0; valid && axis < 3; ++axis) {
      map_sizes[FUSED_SSIM_AXIS_DEPTH + axis] -= narrow(window_sizes[axis], "window") - int64_t{1};
    }
    request.unit = image_of(gradient);
    request.out = image_of(out);
    request.factor = 1.0;
    int64_t expected = 0;
    int64_t divisor = 1;
    kernels::check(fused_ssim_reduction(map_sizes.data(), request.reduction, &expected, &divisor));
    if (gradient_is_of_sum(request.unit.dtype)) {
      request.factor /= static_cast<double>(divisor);
    }
    const int32_t accumulation =
        request.unit.dtype == FUSED_SSIM_FLOAT64 ? FUSED_SSIM_FLOAT64 : FUSED_SSIM_FLOAT32;
    if (upstream.numel() != expected || dtype_of(upstream) != accumulation ||
        !upstream.is_contiguous() || upstream.is_cuda() != gradient.is_cuda()) {
      fail("expected a contiguous upstream gradient of ", expected,
           " elements in the value's dtype on the gradient's device, got ", shape_text(upstream));
    }
    request.upstream = upstream.const_data_ptr();
    Backend::scale(request, gradient);
  }
};

template <class Backend>
void register_operators(torch::stable::detail::StableLibrary& library) {
  using Ops = Operators<Backend>;
  library.impl("ssim", &Ops::ssim);
  library.impl("ssim_and_mse", &Ops::ssim_and_mse);
  library.impl("ssim_map", &Ops::ssim_map);
  library.impl("ssim_map_backward", &Ops::ssim_map_backward);
  library.impl("scale_gradient", &Ops::scale_gradient);
  library.impl("scale_gradient_", &Ops::scale_gradient_);
}

}  // namespace fused_ssim::torch_ops
