// The backward multiply: each plane of the unit gradient times one number.
//
// Traffic per element: one read, one write (the same cache lines where it works in place).
#pragma once

#include <cstdint>

#include "core/problem.h"
#include "cpu/convert.h"

namespace fused_ssim::cpu {

template <class Arch>
struct ScaleKernel {
  // Rows are counted through all planes: row r is row r % height of plane r / height.
  static void run(const ScaleRequest& request, int64_t row_begin, int64_t row_end) {
    switch (request.dtype) {
      case DType::kFloat16:
        return scale_rows<Float16, float>(request, row_begin, row_end);
      case DType::kBFloat16:
        return scale_rows<BFloat16, float>(request, row_begin, row_end);
      case DType::kFloat32:
        return scale_rows<float, float>(request, row_begin, row_end);
      case DType::kFloat64:
        return scale_rows<double, double>(request, row_begin, row_end);
    }
  }

 private:
  template <class Element, class T>
  static void scale_rows(const ScaleRequest& request, int64_t row_begin, int64_t row_end) {
    const Shape& shape = request.shape;
    for (int64_t r = row_begin; r < row_end; ++r) {
      const int64_t plane = r / shape.height;
      const int64_t row = r % shape.height;
      const int64_t batch = plane / shape.channels;
      const int64_t channel = plane % shape.channels;
      const T scale = static_cast<const T*>(request.upstream)[plane / request.planes_per_value] *
                      static_cast<T>(request.factor);
      const Element* from = static_cast<const Element*>(request.unit.data) +
                            batch * request.unit.stride_batch +
                            channel * request.unit.stride_channel + row * request.unit.stride_row;
      Element* to = static_cast<Element*>(request.out.data) + batch * request.out.stride_batch +
                    channel * request.out.stride_channel + row * request.out.stride_row;
      const int64_t from_stride = request.unit.stride_column;
      const int64_t to_stride = request.out.stride_column;
      if (from_stride == 1 && to_stride == 1) {
        for (int64_t c = 0; c < shape.width; ++c) {
          scale_one<Element, T>(from + c, scale, to + c);
        }
      } else {
        for (int64_t c = 0; c < shape.width; ++c) {
          scale_one<Element, T>(from + c * from_stride, scale, to + c * to_stride);
        }
      }
    }
  }

  template <class Element, class T>
  static FUSED_SSIM_INLINE void scale_one(const Element* from, T scale, Element* to) {
    T value;
    widen(*from, &value);
    narrow(value * scale, to);
  }
};

}  // namespace fused_ssim::cpu
