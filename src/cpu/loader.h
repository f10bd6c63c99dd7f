// Pixels in and out: rows of a plane of any dtype and any strides, in the type of the arithmetic.
#pragma once

#include <cstdint>

#include "core/problem.h"
#include "cpu/convert.h"

namespace fused_ssim::cpu {

// One plane of an image. Strides are in elements.
struct Plane {
  unsigned char* data;
  int64_t row_stride;
  int64_t column_stride;
  int32_t dtype;
};

inline Plane plane_of(const Image& image, int64_t batch, int64_t channel) {
  if (image.data == nullptr) {
    return {};
  }
  const int64_t offset = batch * image.strides[FUSED_SSIM_AXIS_BATCH] +
                         channel * image.strides[FUSED_SSIM_AXIS_CHANNEL];
  return {static_cast<unsigned char*>(image.data) + offset * size_of(image.dtype),
          image.strides[FUSED_SSIM_AXIS_ROW], image.strides[FUSED_SSIM_AXIS_COLUMN], image.dtype};
}

template <class Arch, class T>
class Loader {
 public:
  // `uint8_divisor`: what uint8 pixels are divided by.
  explicit Loader(T uint8_divisor) : uint8_divisor_(uint8_divisor) {}

  // `count` pixels of a row: in place where they lie as they are wanted, else in `scratch`.
  const T* row(const Plane& plane, int64_t row, int64_t column, int64_t count, T* scratch) const {
    switch (plane.dtype) {
      case FUSED_SSIM_UINT8:
        return uint8_row(plane, row, column, count, scratch);
      case FUSED_SSIM_FLOAT16:
        return convert<Float16>(plane, row, column, count, scratch);
      case FUSED_SSIM_BFLOAT16:
        return convert<BFloat16>(plane, row, column, count, scratch);
      case FUSED_SSIM_FLOAT32:
        return in_place_or_convert<float>(plane, row, column, count, scratch);
      default:
        return in_place_or_convert<double>(plane, row, column, count, scratch);
    }
  }

  static void store_row(const Plane& plane, int64_t row, int64_t column, int64_t count,
                        const T* values) {
    switch (plane.dtype) {
      case FUSED_SSIM_FLOAT16:
        return store<Float16>(plane, row, column, count, values);
      case FUSED_SSIM_BFLOAT16:
        return store<BFloat16>(plane, row, column, count, values);
      case FUSED_SSIM_FLOAT32:
        return store<float>(plane, row, column, count, values);
      default:
        return store<double>(plane, row, column, count, values);
    }
  }

 private:
  template <class Element>
  static FUSED_SSIM_INLINE Element* pixel(const Plane& plane, int64_t row, int64_t column) {
    return reinterpret_cast<Element*>(plane.data) + row * plane.row_stride +
           column * plane.column_stride;
  }

  // body(stride) with strides that are common as constants: contiguous, and interleaved RGB.
  template <class Body>
  static FUSED_SSIM_INLINE void with_stride(int64_t stride, Body body) {
    if (stride == 1) {
      body(1);
    } else if (stride == 3) {
      body(3);
    } else {
      body(stride);
    }
  }

  template <class Element>
  static const T* convert(const Plane& plane, int64_t row, int64_t column, int64_t count,
                          T* scratch) {
    const Element* from = pixel<Element>(plane, row, column);
    with_stride(plane.column_stride, [&](int64_t stride) __attribute__((always_inline)) {
      for (int64_t i = 0; i < count; ++i) {
        widen(from[i * stride], scratch + i);
      }
    });
    return scratch;
  }

  template <class Element>
  static const T* in_place_or_convert(const Plane& plane, int64_t row, int64_t column,
                                      int64_t count, T* scratch) {
    if constexpr (sizeof(Element) == sizeof(T)) {
      if (plane.column_stride == 1) {
        return pixel<T>(plane, row, column);
      }
    }
    return convert<Element>(plane, row, column, count, scratch);
  }

  const T* uint8_row(const Plane& plane, int64_t row, int64_t column, int64_t count,
                     T* scratch) const {
    convert<uint8_t>(plane, row, column, count, scratch);
    if (uint8_divisor_ != T(1)) {
      // A division: as the quotient of a float image it must be the same number where pixels agree.
      for (int64_t i = 0; i < count; ++i) {
        scratch[i] /= uint8_divisor_;
      }
    }
    return scratch;
  }

  template <class Element>
  static void store(const Plane& plane, int64_t row, int64_t column, int64_t count,
                    const T* values) {
    Element* to = pixel<Element>(plane, row, column);
    with_stride(plane.column_stride, [&](int64_t stride) __attribute__((always_inline)) {
      for (int64_t i = 0; i < count; ++i) {
        if constexpr (sizeof(Element) == 2) {
          narrow(static_cast<float>(values[i]), to + i * stride);
        } else {
          narrow(values[i], to + i * stride);
        }
      }
    });
  }

  T uint8_divisor_;
};

}  // namespace fused_ssim::cpu
