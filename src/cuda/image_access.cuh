// Reading and writing image elements of any data type and stride, one or four columns at a time.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "cuda/kernels.h"

namespace fused_ssim::cuda {

// Four columns as they lie in memory, not yet converted, so that the loads can be in flight while
// other work goes on. 32-bit types: one element a word. 16-bit types: two elements a word where the
// loads are vectors, else one.
struct RawQuad {
  unsigned word[4];
};

__device__ __forceinline__ float half_bits_to_float(unsigned bits) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
}

__device__ __forceinline__ float bfloat_bits_to_float(unsigned bits) {
  return __uint_as_float(bits << 16);
}

// Columns [x, x + 4) of a row of `width` columns; zeros outside the image. `x` is a multiple of 4.
__device__ __forceinline__ RawQuad load_quad(const char* row, int64_t column_stride, int x,
                                             int width, DType dtype, bool vector) {
  RawQuad raw = {};
  if (x < 0 || x >= width) {
    return raw;
  }
  const bool wide = dtype == DType::kFloat32;
  const char* first = row + x * column_stride;
  if (vector && x + 4 <= width) {
    if (wide) {
      const uint4 words = __ldg(reinterpret_cast<const uint4*>(first));
      raw = {{words.x, words.y, words.z, words.w}};
    } else {
      const uint2 words = __ldg(reinterpret_cast<const uint2*>(first));
      raw = {{words.x, words.y, 0u, 0u}};
    }
    return raw;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (x + i < width) {
      const char* element = first + i * column_stride;
      raw.word[i] = wide ? __ldg(reinterpret_cast<const unsigned*>(element))
                         : __ldg(reinterpret_cast<const unsigned short*>(element));
    }
  }
  if (vector && !wide) {
    raw = {{raw.word[0] | raw.word[1] << 16, raw.word[2] | raw.word[3] << 16, 0u, 0u}};
  }
  return raw;
}

__device__ __forceinline__ float4 to_float(const RawQuad& raw, DType dtype, bool vector) {
  if (dtype == DType::kFloat32) {
    return make_float4(__uint_as_float(raw.word[0]), __uint_as_float(raw.word[1]),
                       __uint_as_float(raw.word[2]), __uint_as_float(raw.word[3]));
  }
  const unsigned e0 = vector ? raw.word[0] & 0xffffu : raw.word[0];
  const unsigned e1 = vector ? raw.word[0] >> 16 : raw.word[1];
  const unsigned e2 = vector ? raw.word[1] & 0xffffu : raw.word[2];
  const unsigned e3 = vector ? raw.word[1] >> 16 : raw.word[3];
  if (dtype == DType::kFloat16) {
    return make_float4(half_bits_to_float(e0), half_bits_to_float(e1), half_bits_to_float(e2),
                       half_bits_to_float(e3));
  }
  return make_float4(bfloat_bits_to_float(e0), bfloat_bits_to_float(e1), bfloat_bits_to_float(e2),
                     bfloat_bits_to_float(e3));
}

// One element as the accumulation type T.
template <class T>
__device__ __forceinline__ T load_element(const char* element, DType dtype) {
  switch (dtype) {
    case DType::kFloat16:
      return static_cast<T>(
          half_bits_to_float(__ldg(reinterpret_cast<const unsigned short*>(element))));
    case DType::kBFloat16:
      return static_cast<T>(
          bfloat_bits_to_float(__ldg(reinterpret_cast<const unsigned short*>(element))));
    case DType::kFloat32:
      return static_cast<T>(__ldg(reinterpret_cast<const float*>(element)));
    default:
      return static_cast<T>(__ldg(reinterpret_cast<const double*>(element)));
  }
}

template <class T>
__device__ __forceinline__ void store_element(char* element, T value, DType dtype) {
  switch (dtype) {
    case DType::kFloat16:
      *reinterpret_cast<__half*>(element) = __float2half_rn(static_cast<float>(value));
      break;
    case DType::kBFloat16:
      *reinterpret_cast<__nv_bfloat16*>(element) = __float2bfloat16_rn(static_cast<float>(value));
      break;
    case DType::kFloat32:
      *reinterpret_cast<float*>(element) = static_cast<float>(value);
      break;
    default:
      *reinterpret_cast<double*>(element) = static_cast<double>(value);
      break;
  }
}

// Four columns at once; `first` is aligned to four elements. Not for float64.
__device__ __forceinline__ void store_quad(char* first, const float* value, DType dtype) {
  if (dtype == DType::kFloat32) {
    *reinterpret_cast<float4*>(first) = make_float4(value[0], value[1], value[2], value[3]);
    return;
  }
  union {
    unsigned short half[4];
    uint2 words;
  } packed;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    packed.half[i] = dtype == DType::kFloat16 ? __half_as_ushort(__float2half_rn(value[i]))
                                              : __bfloat16_as_ushort(__float2bfloat16_rn(value[i]));
  }
  *reinterpret_cast<uint2*>(first) = packed.words;
}

template <class Byte>
__device__ __forceinline__ Byte* plane_of(const ByteImage<Byte>& image, int64_t plane,
                                          int64_t channels) {
  const int64_t batch = plane / channels;
  return image.data + batch * image.batch + (plane - batch * channels) * image.channel;
}

}  // namespace fused_ssim::cuda
