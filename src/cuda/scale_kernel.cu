// The backward pass: the unit gradient times one number per value.
//
//   flat     where both images are dense in the same order and the elements of a value lie together:
//            16-byte accesses, two in flight a thread. Reads and writes one image, whose unit
//            gradient is often still in L2.
//   strided  any other layout: one element a thread.
#include <algorithm>
#include <utility>

#include "cuda/image_access.cuh"
#include "cuda/kernels.h"
#include "cuda/launches.h"
#include "cuda/ssim_cuda.h"
#include "cuda/thread.cuh"

namespace fused_ssim::cuda {
namespace {

constexpr int kThreads = 256;

struct ScaleParams {
  InputImage unit;
  OutputImage out;
  const void* upstream = nullptr;
  DType dtype = DType::kFloat32;
  int64_t channels = 0;
  int64_t height = 0;
  int64_t width = 0;
  int64_t elements = 0;
  int64_t elements_per_value = 0;  // of the flat kernel
  int64_t planes_per_value = 0;    // of the strided kernel
  double factor = 1.0;
};

template <class T>
struct ElementTraits;
template <>
struct ElementTraits<float> {
  using Accumulator = float;
};
template <>
struct ElementTraits<double> {
  using Accumulator = double;
};
template <>
struct ElementTraits<__half> {
  using Accumulator = float;
};
template <>
struct ElementTraits<__nv_bfloat16> {
  using Accumulator = float;
};

template <class T>
__device__ __forceinline__ T scaled(T unit, typename ElementTraits<T>::Accumulator factor) {
  using Accumulator = typename ElementTraits<T>::Accumulator;
  return static_cast<T>(static_cast<Accumulator>(unit) * factor);
}

template <class T>
__device__ __forceinline__ typename ElementTraits<T>::Accumulator factor_of(const ScaleParams& p,
                                                                            int64_t value) {
  using Accumulator = typename ElementTraits<T>::Accumulator;
  const Accumulator upstream = static_cast<const Accumulator*>(p.upstream)[value];
  return static_cast<Accumulator>(p.factor * static_cast<double>(upstream));
}

template <class T>
__global__ void __launch_bounds__(kThreads) scale_flat(const __grid_constant__ ScaleParams p) {
  constexpr int kVector = 16 / sizeof(T);
  struct alignas(16) Vector {
    T element[kVector];
  };
  const auto* unit = reinterpret_cast<const T*>(p.unit.data);
  auto* out = reinterpret_cast<T*>(p.out.data);
  const bool one_value = p.elements_per_value == p.elements;
  const int64_t vectors = p.elements / kVector;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  allow_next_launch();
  wait_for_previous_launch();
  auto factor = factor_of<T>(p, 0);
#pragma unroll 2
  for (int64_t i = thread; i < vectors; i += step) {
    Vector v = reinterpret_cast<const Vector*>(unit)[i];
    const int64_t first = i * kVector;
    if (one_value) {
#pragma unroll
      for (int e = 0; e < kVector; ++e) {
        v.element[e] = scaled(v.element[e], factor);
      }
    } else {
      int64_t value = first / p.elements_per_value;
      int64_t left = (value + 1) * p.elements_per_value - first;
      factor = factor_of<T>(p, value);
#pragma unroll
      for (int e = 0; e < kVector; ++e) {
        if (left == 0) {
          ++value;
          left = p.elements_per_value;
          factor = factor_of<T>(p, value);
        }
        --left;
        v.element[e] = scaled(v.element[e], factor);
      }
    }
    reinterpret_cast<Vector*>(out)[i] = v;
  }
  const int64_t rest = vectors * kVector + thread;
  if (rest < p.elements) {
    out[rest] = scaled(unit[rest], factor_of<T>(p, rest / p.elements_per_value));
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) scale_strided(const __grid_constant__ ScaleParams p) {
  allow_next_launch();
  wait_for_previous_launch();
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < p.elements;
       i += step) {
    const int64_t row_index = i / p.width;
    const int64_t x = i - row_index * p.width;
    const int64_t plane = row_index / p.height;
    const int64_t y = row_index - plane * p.height;
    const char* unit = plane_of(p.unit, plane, p.channels) + y * p.unit.row + x * p.unit.column;
    char* out = plane_of(p.out, plane, p.channels) + y * p.out.row + x * p.out.column;
    *reinterpret_cast<T*>(out) =
        scaled(*reinterpret_cast<const T*>(unit), factor_of<T>(p, plane / p.planes_per_value));
  }
}

// Elements in a row of memory that share a value, if `image` is dense, else 0. `extent` and `stride`
// are those of batch, channel, row, column; the elements of a value are those with the same batch
// (values_by >= 1) and channel (values_by = 2).
template <class Pointer>
int64_t flat_elements_per_value(const BasicImage<Pointer>& image, const Shape& shape,
                                int values_by) {
  const int64_t extent[4] = {shape.batch, shape.channels, shape.height, shape.width};
  const int64_t stride[4] = {image.stride_batch, image.stride_channel, image.stride_row,
                             image.stride_column};
  int order[4];  // dimensions longer than 1, fastest first
  int count = 0;
  for (int i = 3; i >= 0; --i) {
    if (extent[i] != 1) {
      order[count++] = i;
    }
  }
  for (int i = 1; i < count; ++i) {
    for (int j = i; j > 0 && stride[order[j]] < stride[order[j - 1]]; --j) {
      std::swap(order[j], order[j - 1]);
    }
  }
  int64_t expected = 1;
  int64_t per_value = 0;
  for (int i = 0; i < count; ++i) {
    const int dimension = order[i];
    if (stride[dimension] != expected) {
      return 0;
    }
    if (dimension < values_by && per_value == 0) {
      per_value = expected;
    }
    if (dimension >= values_by && per_value != 0) {
      return 0;  // a value's elements are scattered
    }
    expected *= extent[dimension];
  }
  // With both batch and channel selecting the value, batch must be the slower of them.
  if (values_by == 2 && shape.batch != 1 && shape.channels != 1 && stride[0] < stride[1]) {
    return 0;
  }
  return per_value == 0 ? expected : per_value;
}

bool same_layout(const ConstImage& a, const MutableImage& b, const Shape& shape) {
  return (shape.batch == 1 || a.stride_batch == b.stride_batch) &&
         (shape.channels == 1 || a.stride_channel == b.stride_channel) &&
         (shape.height == 1 || a.stride_row == b.stride_row) &&
         (shape.width == 1 || a.stride_column == b.stride_column);
}

template <class T>
cudaError_t launch_scale(const ScaleParams& params, bool flat, const DeviceFacts& device,
                         cudaStream_t stream) {
  constexpr int64_t kVector = 16 / sizeof(T);
  const int64_t items = flat ? (params.elements + kVector - 1) / kVector : params.elements;
  // Eight blocks of 256 threads fill a multiprocessor of every architecture but Turing, twice over.
  const int64_t limit = static_cast<int64_t>(device.multiprocessors) * 16;
  const int64_t wanted = std::max<int64_t>(1, (items + kThreads - 1) / kThreads);
  const auto blocks = static_cast<int>(std::min(wanted, limit));
  return launch_kernel(flat ? scale_flat<T> : scale_strided<T>, params, blocks, kThreads, 0, device,
                       stream);
}

}  // namespace

cudaError_t scale(const ScaleRequest& request, cudaStream_t stream) {
  const Shape& shape = request.shape;
  ScaleParams p;
  p.elements = shape.planes() * shape.height * shape.width;
  if (p.elements == 0) {
    return cudaSuccess;
  }
  DeviceFacts device;
  const cudaError_t error = current_device(&device);
  if (error != cudaSuccess) {
    return error;
  }
  const int64_t bytes = size_of(request.dtype);
  const auto& u = request.unit;
  const auto& o = request.out;
  p.unit = {static_cast<const char*>(u.data), u.stride_batch * bytes, u.stride_channel * bytes,
            u.stride_row * bytes, u.stride_column * bytes};
  p.out = {static_cast<char*>(o.data), o.stride_batch * bytes, o.stride_channel * bytes,
           o.stride_row * bytes, o.stride_column * bytes};
  p.upstream = request.upstream;
  p.dtype = request.dtype;
  p.channels = shape.channels;
  p.height = shape.height;
  p.width = shape.width;
  p.planes_per_value = request.planes_per_value;
  p.factor = request.factor;
  const int values_by = request.planes_per_value >= shape.planes()   ? 0
                        : request.planes_per_value == shape.channels ? 1
                        : request.planes_per_value == 1              ? 2
                                                                     : -1;
  bool flat = values_by >= 0 && same_layout(u, o, shape) &&
              reinterpret_cast<uintptr_t>(u.data) % 16 == 0 &&
              reinterpret_cast<uintptr_t>(o.data) % 16 == 0;
  if (flat) {
    p.elements_per_value = flat_elements_per_value(u, shape, values_by);
    flat = p.elements_per_value > 0;
  }
  switch (request.dtype) {
    case DType::kFloat16:
      return launch_scale<__half>(p, flat, device, stream);
    case DType::kBFloat16:
      return launch_scale<__nv_bfloat16>(p, flat, device, stream);
    case DType::kFloat32:
      return launch_scale<float>(p, flat, device, stream);
    case DType::kFloat64:
      return launch_scale<double>(p, flat, device, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace fused_ssim::cuda
