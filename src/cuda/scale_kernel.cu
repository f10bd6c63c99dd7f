// The backward pass: the unit gradient times one number per value.
//
//   flat     where both images are dense in the same order and the elements of a value lie
//            together: 16-byte accesses, three in flight a thread. Reads and writes one image, whose
//            unit gradient is often still in L2.
//   strided  any other layout: one element a thread.
//
// Where the product would be written over the gradient and the number is 1, as it is for a loss
// that nothing is multiplied with, both return at once.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "cuda/division.cuh"
#include "cuda/kernels.h"
#include "cuda/launches.h"
#include "cuda/ssim_cuda.h"
#include "cuda/thread.cuh"

namespace fused_ssim::cuda {
namespace {

constexpr int kThreads = 512;

struct ScaleParams {
  ScaleRequest request;
  int64_t elements = 0;
  int64_t elements_per_value = 0;  // of the flat kernel
  int64_t planes_per_value = 0;    // of the strided kernel
  bool one_value_in_place = false;
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
  const Accumulator upstream = static_cast<const Accumulator*>(p.request.upstream)[value];
  return static_cast<Accumulator>(p.request.factor * static_cast<double>(upstream));
}

template <class T>
__global__ void __launch_bounds__(kThreads) scale_flat(const __grid_constant__ ScaleParams p) {
  constexpr int kVector = 16 / sizeof(T);
  constexpr int kInFlight = 3;
  struct alignas(16) Vector {
    T element[kVector];
  };
  const auto* unit = static_cast<const T*>(p.request.unit.data);
  auto* out = static_cast<T*>(p.request.out.data);
  const bool one_value = p.elements_per_value == p.elements;
  const int64_t vectors = p.elements / kVector;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  allow_next_launch();
  wait_for_previous_launch();
  const auto factor = factor_of<T>(p, 0);
  const auto* from = reinterpret_cast<const Vector*>(unit);
  auto* to = reinterpret_cast<Vector*>(out);
  const auto multiply = [&](Vector v, int64_t i) {
    if (one_value) {
#pragma unroll
      for (int e = 0; e < kVector; ++e) {
        v.element[e] = scaled(v.element[e], factor);
      }
    } else {
      const int64_t first = i * kVector;
      int64_t value = first / p.elements_per_value;
      int64_t left = (value + 1) * p.elements_per_value - first;
      auto own_factor = factor_of<T>(p, value);
#pragma unroll
      for (int e = 0; e < kVector; ++e) {
        if (left == 0) {
          ++value;
          left = p.elements_per_value;
          own_factor = factor_of<T>(p, value);
        }
        --left;
        v.element[e] = scaled(v.element[e], own_factor);
      }
    }
    to[i] = v;
  };
  for (int64_t i = thread; i < vectors; i += kInFlight * step) {
    // One is loaded before the number is looked at, so that both are under way at once; the others only
    // behind it, since loads in vain are what takes time where there is nothing to multiply.
    Vector loaded[kInFlight];
    loaded[0] = from[i];
    if (p.one_value_in_place && factor == 1) {
      return;
    }
#pragma unroll
    for (int k = 1; k < kInFlight; ++k) {
      if (i + k * step < vectors) {
        loaded[k] = from[i + k * step];
      }
    }
#pragma unroll
    for (int k = 0; k < kInFlight; ++k) {
      if (i + k * step < vectors) {
        multiply(loaded[k], i + k * step);
      }
    }
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
  if (p.one_value_in_place && factor_of<T>(p, 0) == 1) {
    return;
  }
  const FusedSsimImage& unit = p.request.unit;
  const FusedSsimImage& out = p.request.out;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < p.elements;
       i += step) {
    int64_t from = 0;
    int64_t to = 0;
    int64_t left = i;
    int64_t plane = 0;
#pragma unroll
    for (int axis = FUSED_SSIM_AXES - 1; axis >= 0; --axis) {
      const int64_t size = p.request.sizes[axis];
      if (axis == FUSED_SSIM_AXIS_CHANNEL) {
        plane = left;
      }
      if (size != 1) {
        const int64_t slower = axis == FUSED_SSIM_AXIS_BATCH ? 0 : quotient(left, size);
        const int64_t at = left - slower * size;
        from += at * unit.strides[axis];
        to += at * out.strides[axis];
        left = slower;
      }
    }
    static_cast<T*>(out.data)[to] = scaled(static_cast<const T*>(unit.data)[from],
                                           factor_of<T>(p, quotient(plane, p.planes_per_value)));
  }
}

// Elements in a row of memory that share a value, if the image is dense, else 0. The elements of a
// value are those with the same index along the first `values_by` axes: none, batch, or channel,
// too.
int64_t flat_elements_per_value(const Image& image, const int64_t* sizes, int values_by) {
  int order[FUSED_SSIM_AXES];  // axes longer than 1, fastest first
  int count = 0;
  for (int i = FUSED_SSIM_AXES - 1; i >= 0; --i) {
    if (sizes[i] != 1) {
      order[count++] = i;
    }
  }
  const int64_t* strides = image.strides;
  std::sort(order, order + count, [strides](int a, int b) { return strides[a] < strides[b]; });
  int64_t expected = 1;
  int64_t per_value = 0;
  for (int i = 0; i < count; ++i) {
    const int axis = order[i];
    if (strides[axis] != expected) {
      return 0;
    }
    if (axis < values_by && per_value == 0) {
      per_value = expected;
    }
    if (axis >= values_by && per_value != 0) {
      return 0;  // a value's elements are scattered
    }
    expected *= sizes[axis];
  }
  // With both batch and channel selecting the value, batch must be the slower of them.
  if (values_by == 2 && sizes[0] != 1 && sizes[1] != 1 && strides[0] < strides[1]) {
    return 0;
  }
  return per_value == 0 ? expected : per_value;
}

bool same_layout(const ScaleRequest& request) {
  for (int axis = 0; axis < FUSED_SSIM_AXES; ++axis) {
    if (request.sizes[axis] != 1 && request.unit.strides[axis] != request.out.strides[axis]) {
      return false;
    }
  }
  return true;
}

template <class T>
cudaError_t launch_scale(const ScaleParams& params, bool flat, const DeviceFacts& device,
                         cudaStream_t stream) {
  constexpr int64_t kVector = 16 / sizeof(T);
  const int64_t items = flat ? (params.elements + kVector - 1) / kVector : params.elements;
  // One wave: where nothing is to be multiplied, starting blocks is all that takes time.
  const int64_t limit = static_cast<int64_t>(device.multiprocessors) * 4;
  const int64_t wanted = std::max<int64_t>(1, (items + kThreads - 1) / kThreads);
  const auto blocks = static_cast<int>(std::min(wanted, limit));
  return launch_kernel(flat ? scale_flat<T> : scale_strided<T>, params, blocks, kThreads, 0, device,
                       stream);
}

}  // namespace

cudaError_t scale(const ScaleRequest& request, cudaStream_t stream) {
  DeviceFacts device;
  const cudaError_t error = current_device(&device);
  if (error != cudaSuccess) {
    return error;
  }
  ScaleParams p;
  p.request = request;
  p.elements = plane_count(request.sizes) * plane_pixels(request.sizes);
  p.planes_per_value = planes_per_value(request.reduction, request.sizes);
  const int values_by = request.reduction == FUSED_SSIM_CHANNEL ? 2
                        : request.reduction == FUSED_SSIM_IMAGE ? 1
                                                                : 0;
  const bool alike = same_layout(request);
  p.one_value_in_place = alike && request.unit.data == request.out.data &&
                         p.planes_per_value == plane_count(request.sizes);
  bool flat = alike && reinterpret_cast<uintptr_t>(request.unit.data) % 16 == 0 &&
              reinterpret_cast<uintptr_t>(request.out.data) % 16 == 0;
  if (flat) {
    p.elements_per_value = flat_elements_per_value(request.unit, request.sizes, values_by);
    flat = p.elements_per_value > 0;
  }
  switch (request.unit.dtype) {
    case FUSED_SSIM_FLOAT16:
      return launch_scale<__half>(p, flat, device, stream);
    case FUSED_SSIM_BFLOAT16:
      return launch_scale<__nv_bfloat16>(p, flat, device, stream);
    case FUSED_SSIM_FLOAT32:
      return launch_scale<float>(p, flat, device, stream);
    case FUSED_SSIM_FLOAT64:
      return launch_scale<double>(p, flat, device, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace fused_ssim::cuda
