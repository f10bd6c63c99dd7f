// The Python module `_C`: the torch-free C interface for memory that Python knows by addresses: of
// NumPy arrays, and of tensors of a torch that is too old for libfused_ssim. It includes no torch
// header, so that one binary serves Python without torch and beside any.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <new>
#include <optional>
#include <string>
#include <vector>

#if defined(_WIN32)
#include <windows.h>
#else
#include <dlfcn.h>
#endif

#include "fused_ssim/kernels.h"
#include "torch/schemas.h"

namespace py = pybind11;

namespace {

using Strides = std::array<int64_t, FUSED_SSIM_AXES>;

py::dict cpu_info() {
  const FusedSsimCpuInfo& info = *fused_ssim_cpu_info();
  py::dict result;
  // None for null.
  result["version"] = info.version;
  result["compiler"] = info.compiler;
  result["levels_compiled"] = info.levels_compiled;
  result["levels_supported"] = info.levels_supported;
  result["level_active"] = info.level_active;
  result["level_error"] = info.level_error;
  return result;
}

// `last_error` is a function: the message is there only once the call has failed.
void raise_unless_ok(FusedSsimStatus status, const char* (*last_error)(void)) {
  const char* message = status == FUSED_SSIM_OK ? "" : last_error();
  switch (status) {
    case FUSED_SSIM_OK:
      return;
    case FUSED_SSIM_INVALID_ARGUMENT:
      throw py::value_error(message);
    case FUSED_SSIM_OUT_OF_MEMORY:
      throw std::bad_alloc();  // MemoryError
    case FUSED_SSIM_NOT_SERVED:
      PyErr_SetString(PyExc_NotImplementedError, message);
      throw py::error_already_set();
    default:
      throw std::runtime_error(message);
  }
}

std::vector<double> gaussian_taps(int32_t size, double sigma) {
  std::vector<double> taps(static_cast<std::size_t>(std::max(size, 1)));
  raise_unless_ok(fused_ssim_gaussian_taps(size, sigma, taps.data()), fused_ssim_last_error);
  return taps;
}

// The functions of libfused_ssim_cuda_kernels, which is loaded where there is a GPU to run it on.
struct CudaKernels {
  decltype(&fused_ssim_cuda_last_error) last_error = nullptr;
  decltype(&fused_ssim_cuda_run_allocating) run = nullptr;
  decltype(&fused_ssim_cuda_scale) scale = nullptr;
};
CudaKernels cuda_kernels;

py::dict load_cuda_kernels(const std::string& path) {
#if defined(_WIN32)
  const HMODULE library = LoadLibraryA(path.c_str());
  const auto find = [&](const char* name) {
    return reinterpret_cast<void*>(GetProcAddress(library, name));
  };
  const std::string error = "error " + std::to_string(GetLastError());
#else
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  const auto find = [&](const char* name) { return dlsym(library, name); };
  const char* reason = library == nullptr ? dlerror() : "";
  const std::string error = reason;
#endif
  if (library == nullptr) {
    PyErr_SetString(PyExc_OSError, (path + " does not load: " + error).c_str());
    throw py::error_already_set();
  }
  CudaKernels found;
  found.last_error =
      reinterpret_cast<decltype(found.last_error)>(find("fused_ssim_cuda_last_error"));
  found.run = reinterpret_cast<decltype(found.run)>(find("fused_ssim_cuda_run_allocating"));
  found.scale = reinterpret_cast<decltype(found.scale)>(find("fused_ssim_cuda_scale"));
  const auto info =
      reinterpret_cast<decltype(&fused_ssim_cuda_info)>(find("fused_ssim_cuda_info"));
  if (found.last_error == nullptr || found.run == nullptr || found.scale == nullptr ||
      info == nullptr) {
    throw py::value_error(path + " is no libfused_ssim_cuda_kernels of this version");
  }
  cuda_kernels = found;
  const FusedSsimCudaInfo& facts = *info();
  py::dict result;
  result["toolkit"] = facts.toolkit;
  result["architectures"] = facts.architectures;
  return result;
}

py::tuple reduction(const Strides& map_sizes, int32_t reduction) {
  int64_t values = 0;
  int64_t divisor = 0;
  raise_unless_ok(fused_ssim_reduction(map_sizes.data(), reduction, &values, &divisor),
                  fused_ssim_last_error);
  return py::make_tuple(values, divisor);
}

py::tuple operator_schemas() {
  const auto count = std::size(fused_ssim::kOperatorSchemas);
  py::tuple result(count);
  for (std::size_t i = 0; i < count; ++i) {
    result[i] = fused_ssim::kOperatorSchemas[i];
  }
  return result;
}

void* pointer_to(std::uintptr_t address) { return reinterpret_cast<void*>(address); }

// An image as (address, strides, dtype); None for none.
using GivenImage = std::optional<std::tuple<std::uintptr_t, Strides, int32_t>>;

FusedSsimImage image_of(const GivenImage& given) {
  FusedSsimImage image = {};
  if (given.has_value()) {
    const auto& [address, strides, dtype] = *given;
    image.data = pointer_to(address);
    std::copy(strides.begin(), strides.end(), image.strides);
    image.dtype = dtype;
  }
  return image;
}

// Device memory comes from Python's allocator: a function from bytes to an address, which keeps the
// memory until the stream has passed the work.
void* allocate_in_python(void* context, int64_t bytes) {
  const py::gil_scoped_acquire gil;
  const auto& allocate = *static_cast<const py::function*>(context);
  return pointer_to(allocate(bytes).cast<std::uintptr_t>());
}

using Windows = std::array<std::optional<std::vector<double>>, 3>;

// It points into `windows`.
FusedSsimProblem problem_of(const Strides& sizes, const GivenImage& img1, const GivenImage& img2,
                            const Windows& windows, int32_t padding, const GivenImage& mask) {
  FusedSsimProblem problem = fused_ssim_problem(1, 1, 1, 1, image_of(img1), image_of(img2));
  std::copy(sizes.begin(), sizes.end(), problem.sizes);
  for (std::size_t axis = 0; axis < windows.size(); ++axis) {
    const bool filtered = windows[axis].has_value();
    problem.windows[axis].taps = filtered ? windows[axis]->data() : nullptr;
    problem.windows[axis].size = filtered ? static_cast<int32_t>(windows[axis]->size()) : 1;
  }
  problem.padding = padding;
  problem.mask = image_of(mask);
  return problem;
}

void run(const Strides& sizes, const GivenImage& img1, const GivenImage& img2,
         const Windows& windows, double c1, double c2, int32_t padding, int32_t statistic,
         int32_t uint8_divisor, std::uintptr_t stabilizers, const GivenImage& mask,
         int32_t mask_mode, std::uintptr_t mask_sums, int32_t reduction, bool gradient_of_sum,
         double statistic_weight, double l1_weight, double l2_weight, double offset,
         std::uintptr_t value, std::uintptr_t mse, std::uintptr_t map, const GivenImage& grad1,
         const GivenImage& grad2, const GivenImage& map_gradient, int32_t threads,
         std::optional<std::uintptr_t> stream, const std::optional<py::function>& allocate) {
  FusedSsimProblem problem = problem_of(sizes, img1, img2, windows, padding, mask);
  problem.c1 = c1;
  problem.c2 = c2;
  problem.statistic = statistic;
  problem.uint8_divisor = uint8_divisor;
  problem.stabilizers = pointer_to(stabilizers);
  problem.mask_mode = mask_mode;
  problem.mask_sums = pointer_to(mask_sums);
  FusedSsimRequest request = fused_ssim_request();
  request.reduction = reduction;
  request.gradient_of_sum = gradient_of_sum;
  request.statistic_weight = statistic_weight;
  request.l1_weight = l1_weight;
  request.l2_weight = l2_weight;
  request.offset = offset;
  request.value = pointer_to(value);
  request.mse = pointer_to(mse);
  request.map = pointer_to(map);
  request.grad1 = image_of(grad1);
  request.grad2 = image_of(grad2);
  request.map_gradient = image_of(map_gradient);
  FusedSsimStatus status = FUSED_SSIM_OK;
  if (!stream.has_value()) {
    {
      const py::gil_scoped_release no_gil;
      status = fused_ssim_cpu_run(&problem, &request, threads);
    }
    return raise_unless_ok(status, fused_ssim_last_error);
  }
  if (cuda_kernels.run == nullptr || !allocate.has_value()) {
    throw py::value_error(
        "expected load_cuda_kernels() to have been called, and `allocate`, with a stream");
  }
  status = cuda_kernels.run(&problem, &request, &allocate_in_python,
                            const_cast<py::function*>(&*allocate),
                            static_cast<CUstream_st*>(pointer_to(*stream)));
  raise_unless_ok(status, cuda_kernels.last_error);
}

void mask_sums(const Strides& sizes, const GivenImage& img1, const GivenImage& img2,
               std::uintptr_t sums, const GivenImage& mask, const Windows& windows, int32_t padding,
               int32_t reduction) {
  const FusedSsimProblem problem = problem_of(sizes, img1, img2, windows, padding, mask);
  FusedSsimStatus status = FUSED_SSIM_OK;
  {
    const py::gil_scoped_release no_gil;
    status = fused_ssim_cpu_mask_sums(&problem, reduction, pointer_to(sums));
  }
  raise_unless_ok(status, fused_ssim_last_error);
}

void scale(const Strides& sizes, const GivenImage& gradient, const GivenImage& out,
           std::uintptr_t upstream, int32_t reduction, double factor,
           std::optional<std::uintptr_t> stream) {
  FusedSsimProblem like = fused_ssim_problem(1, 1, 1, 1, {}, {});
  std::copy(sizes.begin(), sizes.end(), like.sizes);
  FusedSsimScaleRequest request =
      fused_ssim_scale_request(&like, image_of(gradient), pointer_to(upstream));
  request.out = image_of(out);
  request.reduction = reduction;
  request.factor = factor;
  if (!stream.has_value()) {
    FusedSsimStatus status = FUSED_SSIM_OK;
    {
      const py::gil_scoped_release no_gil;
      status = fused_ssim_cpu_scale(&request);
    }
    return raise_unless_ok(status, fused_ssim_last_error);
  }
  if (cuda_kernels.scale == nullptr) {
    throw py::value_error("expected load_cuda_kernels() to have been called, with a stream");
  }
  raise_unless_ok(cuda_kernels.scale(&request, static_cast<CUstream_st*>(pointer_to(*stream))),
                  cuda_kernels.last_error);
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  using py::arg;
  module.doc() = "The torch-free C interface of fused_ssim/kernels.h, for addresses.";
  module.def("cpu_info", &cpu_info, "How the CPU kernels were built, and which of them run.");
  module.def("gaussian_taps", &gaussian_taps, arg("size"), arg("sigma"),
             "The taps of a Gaussian window, which sum to 1.");
  module.def("load_cuda_kernels", &load_cuda_kernels, arg("path"),
             "Loads libfused_ssim_cuda_kernels, which run() and scale() with a stream need, and tells "
             "how it was built.");
  module.def("operator_schemas", &operator_schemas, "The schemas of torch.ops.fused_ssim.");
  module.def("reduction", &reduction,
             "How many values a reduction gives, and how many pixels each is the mean of.",
             arg("map_sizes"), arg("reduction"));
  module.def(
      "run", &run,
      "Computes what FusedSsimProblem and FusedSsimRequest of fused_ssim/kernels.h describe; "
      "images are (address, strides in elements, dtype), windows are taps or None. With a stream "
      "on the current CUDA device, else on `threads` threads of the CPU (0: all).",
      arg("sizes"), arg("img1"), arg("img2"), py::kw_only(), arg("windows"), arg("c1"), arg("c2"),
      arg("padding") = int{FUSED_SSIM_SAME}, arg("statistic") = int{FUSED_SSIM_STATISTIC_SSIM},
      arg("uint8_divisor") = 255, arg("stabilizers") = 0, arg("mask") = py::none(),
      arg("mask_mode") = int{FUSED_SSIM_MASK_WEIGHTED}, arg("mask_sums") = 0,
      arg("reduction") = int{FUSED_SSIM_MEAN}, arg("gradient_of_sum") = false,
      arg("statistic_weight") = 1.0, arg("l1_weight") = 0.0, arg("l2_weight") = 0.0,
      arg("offset") = 0.0, arg("value") = 0, arg("mse") = 0, arg("map") = 0,
      arg("grad1") = py::none(), arg("grad2") = py::none(), arg("map_gradient") = py::none(),
      arg("threads") = 0, arg("stream") = py::none(), arg("allocate") = py::none());
  module.def(
      "mask_sums", &mask_sums,
      "The sums of a mask on the CPU that run() takes for `reduction`, in the value's dtype.",
      arg("sizes"), arg("img1"), arg("img2"), arg("sums"), py::kw_only(), arg("mask"),
      arg("windows"), arg("padding") = int{FUSED_SSIM_SAME},
      arg("reduction") = int{FUSED_SSIM_MEAN});
  module.def("scale", &scale, "Computes what FusedSsimScaleRequest describes.", arg("sizes"),
             arg("gradient"), arg("out"), arg("upstream"), py::kw_only(),
             arg("reduction") = int{FUSED_SSIM_MEAN}, arg("factor") = 1.0,
             arg("stream") = py::none());
}
