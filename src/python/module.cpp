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
#include <system_error>
#include <thread>
#include <tuple>
#include <type_traits>
#include <vector>

#if defined(_WIN32)
#include <windows.h>
#else
#include <dlfcn.h>
#endif

#include "fused_ssim/kernels.h"
#include "operators/schemas.h"

namespace py = pybind11;

// Numbers of the axes of a tensor [B, C, (D,) (H,) W]; `missing` stands for those that it lacks.
template <int64_t missing>
struct Axes {
  std::array<int64_t, FUSED_SSIM_AXES> numbers = {};
};
using Sizes = Axes<1>;

template <int64_t missing>
struct py::detail::type_caster<Axes<missing>> {
  PYBIND11_TYPE_CASTER(Axes<missing>, const_name("collections.abc.Sequence[int]"));

  // A few times faster than the casters of containers, which small images feel.
  bool load(py::handle source, bool) {
    const auto items = py::reinterpret_steal<py::object>(PySequence_Fast(source.ptr(), ""));
    if (!items) {
      PyErr_Clear();
      return false;
    }
    const Py_ssize_t count = PySequence_Fast_GET_SIZE(items.ptr());
    if (count < 3 || count > FUSED_SSIM_AXES) {
      return false;
    }
    value.numbers.fill(missing);
    for (Py_ssize_t i = 0; i < count; ++i) {
      const Py_ssize_t axis = i < 2 ? i : i + FUSED_SSIM_AXES - count;
      value.numbers[static_cast<std::size_t>(axis)] =
          PyLong_AsLongLong(PySequence_Fast_GET_ITEM(items.ptr(), i));
    }
    if (PyErr_Occurred() != nullptr) {
      PyErr_Clear();
      return false;
    }
    return true;
  }
};

namespace {

using Stream = std::optional<std::uintptr_t>;  // None: the CPU

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
    case FUSED_SSIM_NO_GPU_CODE:
      throw std::runtime_error(std::string(message) +
                               "; `python -m fused_ssim info` says what to do");
    case FUSED_SSIM_NOT_SERVED:
      PyErr_SetString(PyExc_NotImplementedError, message);
      throw py::error_already_set();
    default:
      throw std::runtime_error(message);
  }
}

// A function of the C interface without the interpreter's lock.
template <class Work>
void on_cpu(const Work& work) {
  FusedSsimStatus status = FUSED_SSIM_OK;
  {
    const py::gil_scoped_release no_gil;
    status = work();
  }
  raise_unless_ok(status, fused_ssim_last_error);
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
  decltype(&fused_ssim_cuda_halve) halve = nullptr;
  decltype(&fused_ssim_cuda_accumulate) accumulate = nullptr;
  decltype(&fused_ssim_cuda_factors) factors = nullptr;
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
  decltype(&fused_ssim_cuda_info) info = nullptr;
  const auto set = [&](const char* name, auto* function) {
    *function = reinterpret_cast<std::remove_pointer_t<decltype(function)>>(find(name));
    if (*function == nullptr) {
      throw py::value_error(path + " is no libfused_ssim_cuda_kernels of this version");
    }
  };
  set("fused_ssim_cuda_info", &info);
  set("fused_ssim_cuda_last_error", &found.last_error);
  set("fused_ssim_cuda_run_allocating", &found.run);
  set("fused_ssim_cuda_scale", &found.scale);
  set("fused_ssim_cuda_halve", &found.halve);
  set("fused_ssim_cuda_accumulate", &found.accumulate);
  set("fused_ssim_cuda_factors", &found.factors);
  cuda_kernels = found;
  const FusedSsimCudaInfo& facts = *info();
  py::dict result;
  result["toolkit"] = facts.toolkit;
  result["architectures"] = facts.architectures;
  return result;
}

py::tuple reduction(const Sizes& map_sizes, int32_t reduction) {
  int64_t values = 0;
  int64_t divisor = 0;
  raise_unless_ok(fused_ssim_reduction(map_sizes.numbers.data(), reduction, &values, &divisor),
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
using GivenImage = std::optional<std::tuple<std::uintptr_t, Axes<0>, int32_t>>;

FusedSsimImage image_of(const GivenImage& given) {
  FusedSsimImage image = {};
  if (given.has_value()) {
    const auto& [address, strides, dtype] = *given;
    image.data = pointer_to(address);
    std::copy(strides.numbers.begin(), strides.numbers.end(), image.strides);
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
FusedSsimProblem problem_of(const Sizes& sizes, const GivenImage& img1, const GivenImage& img2,
                            const Windows& windows, int32_t padding, const GivenImage& mask) {
  FusedSsimProblem problem = fused_ssim_problem(1, 1, 1, 1, image_of(img1), image_of(img2));
  std::copy(sizes.numbers.begin(), sizes.numbers.end(), problem.sizes);
  for (std::size_t axis = 0; axis < windows.size(); ++axis) {
    const bool filtered = windows[axis].has_value();
    problem.windows[axis].taps = filtered ? windows[axis]->data() : nullptr;
    problem.windows[axis].size = filtered ? static_cast<int32_t>(windows[axis]->size()) : 1;
  }
  problem.padding = padding;
  problem.mask = image_of(mask);
  return problem;
}

void run(const Sizes& sizes, const GivenImage& img1, const GivenImage& img2, const Windows& windows,
         double c1, double c2, int32_t padding, int32_t statistic, int32_t uint8_divisor,
         std::uintptr_t stabilizers, const GivenImage& mask, int32_t mask_mode,
         std::uintptr_t mask_sums, int32_t reduction, bool gradient_of_sum, double statistic_weight,
         double l1_weight, double l2_weight, double offset, std::uintptr_t value,
         std::uintptr_t mse, std::uintptr_t map, const GivenImage& grad1, const GivenImage& grad2,
         const GivenImage& map_gradient, const std::optional<py::function>& allocate,
         int32_t threads, const Stream& stream) {
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
  if (!stream.has_value()) {
    return on_cpu([&] { return fused_ssim_cpu_run(&problem, &request, threads); });
  }
  if (cuda_kernels.run == nullptr || !allocate.has_value()) {
    throw py::value_error(
        "expected load_cuda_kernels() to have been called, and `allocate`, with a stream");
  }
  raise_unless_ok(cuda_kernels.run(&problem, &request, &allocate_in_python,
                                   const_cast<py::function*>(&*allocate),
                                   static_cast<CUstream_st*>(pointer_to(*stream))),
                  cuda_kernels.last_error);
}

void mask_sums(const Sizes& sizes, const GivenImage& img1, const GivenImage& img2,
               std::uintptr_t sums, const GivenImage& mask, const Windows& windows, int32_t padding,
               int32_t reduction) {
  const FusedSsimProblem problem = problem_of(sizes, img1, img2, windows, padding, mask);
  on_cpu([&] { return fused_ssim_cpu_mask_sums(&problem, reduction, pointer_to(sums)); });
}

template <class Request>
void enqueue(const Request& request, std::uintptr_t stream,
             FusedSsimStatus (*run)(const Request*, CUstream_st*)) {
  if (cuda_kernels.run == nullptr) {
    throw py::value_error("expected load_cuda_kernels() to have been called, with a stream");
  }
  raise_unless_ok(run(&request, static_cast<CUstream_st*>(pointer_to(stream))),
                  cuda_kernels.last_error);
}

// run(&request, begin, end) of all rows, on at most `threads` threads.
template <class Request>
void run_rows(const Request& request, const Sizes& row_sizes, int32_t threads,
              FusedSsimStatus (*run)(const Request*, int64_t, int64_t)) {
  constexpr int64_t kElementsPerThread = 1 << 18;  // far more work than to start a thread
  on_cpu([&] {
    // Refuses sizes that could not be multiplied.
    if (const FusedSsimStatus status = run(&request, 0, 0); status != FUSED_SSIM_OK) {
      return status;
    }
    int64_t rows = 1;
    for (int axis = 0; axis < FUSED_SSIM_AXIS_COLUMN; ++axis) {
      rows *= row_sizes.numbers[static_cast<std::size_t>(axis)];
    }
    const int64_t parts =
        std::clamp<int64_t>(rows * row_sizes.numbers[FUSED_SSIM_AXIS_COLUMN] / kElementsPerThread,
                            1, std::max(threads, 1));
    std::vector<std::thread> others;
    others.reserve(static_cast<std::size_t>(parts - 1));
    int64_t begin = 0;
    try {
      for (int64_t i = 1; i < parts; ++i, begin += rows / parts) {
        others.emplace_back(run, &request, begin, begin + rows / parts);
      }
    } catch (const std::system_error&) {
      // No more threads to be had: this one does the rest.
    }
    const FusedSsimStatus status = run(&request, begin, rows);
    for (std::thread& other : others) {
      other.join();
    }
    return status;
  });
}

void scale(const Sizes& sizes, const GivenImage& gradient, const GivenImage& out,
           std::uintptr_t upstream, int32_t reduction, double factor, int32_t threads,
           const Stream& stream) {
  FusedSsimProblem like = fused_ssim_problem(1, 1, 1, 1, {}, {});
  std::copy(sizes.numbers.begin(), sizes.numbers.end(), like.sizes);
  FusedSsimScaleRequest request =
      fused_ssim_scale_request(&like, image_of(gradient), pointer_to(upstream));
  request.out = image_of(out);
  request.reduction = reduction;
  request.factor = factor;
  if (stream.has_value()) {
    return enqueue(request, *stream, cuda_kernels.scale);
  }
  run_rows(request, sizes, threads, fused_ssim_cpu_scale_rows);
}

void halve(const Sizes& sizes, const std::array<GivenImage, 2>& images,
           const std::array<std::uintptr_t, 2>& halves, int32_t spatial_dims, int32_t odd_sizes,
           int32_t uint8_divisor, int32_t dtype, int32_t threads, const Stream& stream) {
  FusedSsimHalveRequest request = {};
  request.struct_size = sizeof(request);
  std::copy(sizes.numbers.begin(), sizes.numbers.end(), request.sizes);
  request.spatial_dims = spatial_dims;
  request.odd_sizes = odd_sizes;
  request.uint8_divisor = uint8_divisor;
  request.dtype = dtype;
  for (std::size_t i = 0; i < images.size(); ++i) {
    request.images[i] = image_of(images[i]);
    request.halves[i] = pointer_to(halves[i]);
  }
  if (stream.has_value()) {
    return enqueue(
        request, *stream, +[](const FusedSsimHalveRequest* one, CUstream_st* on) {
          return cuda_kernels.halve(one, 1, on);
        });
  }
  // Of both images, as many of each as the first has.
  Sizes row_sizes = sizes;
  row_sizes.numbers[FUSED_SSIM_AXIS_BATCH] *= images[1].has_value() ? 2 : 1;
  for (int axis = std::max(FUSED_SSIM_AXES - spatial_dims, int{FUSED_SSIM_AXIS_DEPTH});
       axis < FUSED_SSIM_AXES; ++axis) {
    int64_t& size = row_sizes.numbers[static_cast<std::size_t>(axis)];
    size = fused_ssim_halved_size(size, odd_sizes);
  }
  run_rows(request, row_sizes, threads, fused_ssim_cpu_halve_rows);
}

void accumulate(const Sizes& sizes, const GivenImage& gradient, const GivenImage& out,
                std::uintptr_t upstream, std::uintptr_t derivatives, std::uintptr_t coarser,
                int32_t spatial_dims, int32_t odd_sizes, int32_t threads, const Stream& stream) {
  FusedSsimAccumulateRequest request = {};
  request.struct_size = sizeof(request);
  std::copy(sizes.numbers.begin(), sizes.numbers.end(), request.sizes);
  request.spatial_dims = spatial_dims;
  request.odd_sizes = odd_sizes;
  request.unit = image_of(gradient);
  request.out = image_of(out);
  request.upstream = pointer_to(upstream);
  request.derivatives = static_cast<const double*>(pointer_to(derivatives));
  request.coarser = pointer_to(coarser);
  request.factor = 1.0;
  if (stream.has_value()) {
    return enqueue(request, *stream, cuda_kernels.accumulate);
  }
  run_rows(request, sizes, threads, fused_ssim_cpu_accumulate_rows);
}

void factors(const std::vector<double>& exponents, const std::vector<double>& divisors,
             int64_t planes, std::uintptr_t means, std::uintptr_t products,
             std::uintptr_t derivatives, int32_t dtype, int32_t negative, const Stream& stream) {
  if (divisors.size() != exponents.size()) {
    throw py::value_error("expected a divisor for each exponent");
  }
  FusedSsimFactorsRequest request = {};
  request.struct_size = sizeof(request);
  request.scales = static_cast<int64_t>(exponents.size());
  request.planes = planes;
  request.dtype = dtype;
  request.negative = negative;
  request.exponents = exponents.data();
  request.divisors = divisors.data();
  request.means = pointer_to(means);
  request.products = pointer_to(products);
  request.derivatives = static_cast<double*>(pointer_to(derivatives));
  if (stream.has_value()) {
    return enqueue(request, *stream, cuda_kernels.factors);
  }
  on_cpu([&] { return fused_ssim_cpu_factors(&request); });
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  using py::arg;
  module.doc() = "The torch-free C interface of fused_ssim/kernels.h, for addresses.";
  module.def("cpu_info", &cpu_info, "How the CPU kernels were built, and which of them run.");
  module.def("gaussian_taps", &gaussian_taps, arg("size"), arg("sigma"),
             "The taps of a Gaussian window, which sum to 1.");
  module.def(
      "load_cuda_kernels", &load_cuda_kernels, arg("path"),
      "Loads libfused_ssim_cuda_kernels, which run() and scale() with a stream need, and tells "
      "how it was built.");
  module.def("operator_schemas", &operator_schemas, "The schemas of torch.ops.fused_ssim.");
  module.def("reduction", &reduction,
             "How many values a reduction gives, and how many pixels each is the mean of.",
             arg("map_sizes"), arg("reduction"));
  module.def(
      "run", &run,
      "Computes what FusedSsimProblem and FusedSsimRequest of fused_ssim/kernels.h describe; "
      "sizes and strides are of [B, C, (D,) (H,) W], images (address, strides in elements, dtype), "
      "windows taps or None. With a stream on the current CUDA device, else on `threads` threads "
      "of the CPU (0: all).",
      arg("sizes"), arg("img1"), arg("img2"), arg("windows"), arg("c1"), arg("c2"),
      arg("padding") = int{FUSED_SSIM_SAME}, arg("statistic") = int{FUSED_SSIM_STATISTIC_SSIM},
      arg("uint8_divisor") = 255, arg("stabilizers") = 0, arg("mask") = py::none(),
      arg("mask_mode") = int{FUSED_SSIM_MASK_WEIGHTED}, arg("mask_sums") = 0,
      arg("reduction") = int{FUSED_SSIM_MEAN}, arg("gradient_of_sum") = false,
      arg("statistic_weight") = 1.0, arg("l1_weight") = 0.0, arg("l2_weight") = 0.0,
      arg("offset") = 0.0, arg("value") = 0, arg("mse") = 0, arg("map") = 0,
      arg("grad1") = py::none(), arg("grad2") = py::none(), arg("map_gradient") = py::none(),
      arg("allocate") = py::none(), arg("threads") = 0, arg("stream") = py::none());
  module.def(
      "mask_sums", &mask_sums,
      "The sums of a mask on the CPU that run() takes for `reduction`, in the value's dtype.",
      arg("sizes"), arg("img1"), arg("img2"), arg("sums"), py::kw_only(), arg("mask"),
      arg("windows"), arg("padding") = int{FUSED_SSIM_SAME},
      arg("reduction") = int{FUSED_SSIM_MEAN});
  module.def("scale", &scale, "Computes what FusedSsimScaleRequest describes.", arg("sizes"),
             arg("gradient"), arg("out"), arg("upstream"), arg("reduction") = int{FUSED_SSIM_MEAN},
             arg("factor") = 1.0, arg("threads") = 1, arg("stream") = py::none());
  module.def("halve", &halve, "Computes what FusedSsimHalveRequest describes.", arg("sizes"),
             arg("images"), arg("halves"), arg("spatial_dims"), arg("odd_sizes"),
             arg("uint8_divisor"), arg("dtype"), arg("threads") = 1, arg("stream") = py::none());
  module.def("accumulate", &accumulate, "Computes what FusedSsimAccumulateRequest describes.",
             arg("sizes"), arg("gradient"), arg("out"), arg("upstream"), arg("derivatives"),
             arg("coarser"), arg("spatial_dims"), arg("odd_sizes"), arg("threads") = 1,
             arg("stream") = py::none());
  module.def("factors", &factors, "Computes what FusedSsimFactorsRequest describes.",
             arg("exponents"), arg("divisors"), arg("planes"), arg("means"), arg("products"),
             arg("derivatives"), arg("dtype"), arg("negative"), arg("stream") = py::none());
}
