// Pixels in and out: rows of a plane of any dtype and any strides, in the type of the arithmetic.
#pragma once

#include <cstdint>

#include "core/pointwise.h"
#include "core/problem.h"
#include "cpu/convert.h"

namespace fused_ssim::cpu {

// One plane of an image, or one slice of a volume. Strides are in elements.
struct Plane {
  unsigned char* data;
  int64_t row_stride;
  int64_t column_stride;
  int32_t dtype;
};

inline Plane plane_of(const Image& image, int64_t batch, int64_t channel, int64_t slice = 0) {
  if (image.data == nullptr) {
    return {};
  }
  const int64_t offset = batch * image.strides[FUSED_SSIM_AXIS_BATCH] +
                         channel * image.strides[FUSED_SSIM_AXIS_CHANNEL] +
                         slice * image.strides[FUSED_SSIM_AXIS_DEPTH];
  return {static_cast<unsigned char*>(image.data) + offset * size_of(image.dtype),
          image.strides[FUSED_SSIM_AXIS_ROW], image.strides[FUSED_SSIM_AXIS_COLUMN], image.dtype};
}

// Asks for pixels that are to be read soon. The strips of a row lie too far apart for the hardware
// to see them coming.
FUSED_SSIM_INLINE void prefetch(const Plane& plane, int64_t row, int64_t column, int64_t count) {
  constexpr int64_t kCacheLine = 64;
  const int64_t element = size_of(plane.dtype);
  const unsigned char* from =
      plane.data + element * (row * plane.row_stride + column * plane.column_stride);
  const int64_t bytes = element * count * plane.column_stride;
  for (int64_t offset = 0; offset < bytes; offset += kCacheLine) {
    __builtin_prefetch(from + offset, 0, 2);
  }
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

  // The mask's numbers of `count` pixels of a row, as they count, in `scratch`; ones without a mask.
  __attribute__((noinline)) const T* mask_row(const Plane& plane, int64_t row, int64_t column,
                                              int64_t count, T* scratch) const {
    if (plane.data == nullptr) {
      for (int64_t i = 0; i < count; ++i) {
        scratch[i] = T(1);
      }
      return scratch;
    }
    if (plane.dtype == FUSED_SSIM_UINT8) {
      const uint8_t* from = pixel<uint8_t>(plane, row, column);
      with_stride(plane.column_stride, [&](int64_t stride) __attribute__((always_inline)) {
        for (int64_t i = 0; i < count; ++i) {
          scratch[i] = from[i * stride] != 0 ? T(1) : T(0);
        }
      });
      return scratch;
    }
    const T* values = this->row(plane, row, column, count, scratch);
    for (int64_t i = 0; i < count; ++i) {
      scratch[i] = mask_number(values[i]);
    }
    return scratch;
  }

  // Pixels of a uint8 plane: in place where they are contiguous, else in `scratch`.
  static const uint8_t* bytes(const Plane& plane, int64_t row, int64_t column, int64_t count,
                              uint8_t* scratch) {
    const uint8_t* from = pixel<uint8_t>(plane, row, column);
    const int64_t stride = plane.column_stride;
    if (stride == 1) {
      return from;
    }
    int64_t i = 0;
    if (stride == 3) {
      // Every third byte of 48, the last of which is read only where a pixel follows.
      for (; i + 16 < count; i += 16) {
        Bytes16 a;
        Bytes16 b;
        Bytes16 c;
        __builtin_memcpy(&a, from + 3 * i, 16);
        __builtin_memcpy(&b, from + 3 * i + 16, 16);
        __builtin_memcpy(&c, from + 3 * i + 32, 16);
        const Bytes16 ab =
            __builtin_shufflevector(a, b, 0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 0, 0, 0, 0, 0);
        const Bytes16 abc =
            __builtin_shufflevector(ab, c, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 17, 20, 23, 26, 29);
        __builtin_memcpy(scratch + i, &abc, 16);
      }
    }
    for (; i < count; ++i) {
      scratch[i] = from[i * stride];
    }
    return scratch;
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
  typedef uint8_t Bytes16 __attribute__((vector_size(16)));

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
