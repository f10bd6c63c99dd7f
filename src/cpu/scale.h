// The chain rule's last step: each plane of a gradient times one number.
//
// Traffic per element: one read, one write (the same cache lines where it works in place). In place a
// plane times 1, as it is for a loss that nothing is multiplied with, is left alone.
#pragma once

#include <cstdint>

#include "core/problem.h"
#include "cpu/convert.h"

namespace fused_ssim::cpu {

template <class Arch>
struct ScaleKernel {
  // Rows of all planes and depths, numbered through.
  static void run(const ScaleRequest& request, int64_t row_begin, int64_t row_end) {
    switch (request.unit.dtype) {
      case FUSED_SSIM_FLOAT16:
        return scale_rows<Float16, float>(request, row_begin, row_end);
      case FUSED_SSIM_BFLOAT16:
        return scale_rows<BFloat16, float>(request, row_begin, row_end);
      case FUSED_SSIM_FLOAT32:
        return scale_rows<float, float>(request, row_begin, row_end);
      default:
        return scale_rows<double, double>(request, row_begin, row_end);
    }
  }

 private:
  template <class Element>
  static Element* row_of(const Image& image, const int64_t (&index)[FUSED_SSIM_AXIS_COLUMN]) {
    Element* row = static_cast<Element*>(image.data);
    for (int axis = 0; axis < FUSED_SSIM_AXIS_COLUMN; ++axis) {
      row += index[axis] * image.strides[axis];
    }
    return row;
  }

  template <class Element, class T>
  static void scale_rows(const ScaleRequest& request, int64_t row_begin, int64_t row_end) {
    const int64_t height = request.sizes[FUSED_SSIM_AXIS_ROW];
    const int64_t depth = request.sizes[FUSED_SSIM_AXIS_DEPTH];
    const int64_t channels = request.sizes[FUSED_SSIM_AXIS_CHANNEL];
    const int64_t width = request.sizes[FUSED_SSIM_AXIS_COLUMN];
    const int64_t planes = planes_per_value(request.reduction, request.sizes);
    const int64_t from_stride = request.unit.strides[FUSED_SSIM_AXIS_COLUMN];
    const int64_t to_stride = request.out.strides[FUSED_SSIM_AXIS_COLUMN];
    bool in_place = request.unit.data == request.out.data;
    for (int axis = 0; axis < FUSED_SSIM_AXES; ++axis) {
      in_place = in_place && request.unit.strides[axis] == request.out.strides[axis];
    }
    for (int64_t r = row_begin; r < row_end; ++r) {
      const int64_t plane = r / (height * depth);
      const int64_t index[] = {plane / channels, plane % channels, r / height % depth, r % height};
      const T scale =
          static_cast<const T*>(request.upstream)[plane / planes] * static_cast<T>(request.factor);
      if (in_place && scale == T(1)) {
        continue;
      }
      const Element* from = row_of<Element>(request.unit, index);
      Element* to = row_of<Element>(request.out, index);
      if (from_stride == 1 && to_stride == 1) {
        for (int64_t c = 0; c < width; ++c) {
          scale_one<Element, T>(from + c, scale, to + c);
        }
      } else {
        for (int64_t c = 0; c < width; ++c) {
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
