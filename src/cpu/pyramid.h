// MS-SSIM from scale to scale: images of half the size, and their gradients back.
//
// Traffic: the halving reads each pixel and writes a quarter as many (2D); the way back reads a gradient
// and a quarter, and writes one. Rows are independent, so threads can divide them anywhere.
#pragma once

#include <cstdint>

#include "core/problem.h"
#include "core/scales.h"
#include "cpu/loader.h"

namespace fused_ssim::cpu {

template <class Arch>
struct PyramidKernel {
  // Rows of the first half and then of the second, numbered through.
  static void halve_rows(const HalveRequest& request, int64_t begin, int64_t end) {
    if (request.dtype == FUSED_SSIM_FLOAT64) {
      halve<double>(request, begin, end);
    } else {
      halve<float>(request, begin, end);
    }
  }

  static void accumulate_rows(const AccumulateRequest& request, int64_t begin, int64_t end) {
    if (request.unit.dtype == FUSED_SSIM_FLOAT64) {
      accumulate<double>(request, begin, end);
    } else {
      accumulate<float>(request, begin, end);
    }
  }

 private:
  // Columns at a time: their buffers stay in the first cache, on the stack.
  static constexpr int64_t kColumns = 1024;

  template <class T>
  static void halve(const HalveRequest& request, int64_t begin, int64_t end) {
    const HalvedAxes axes = halved_axes(request);
    const int64_t channels = request.sizes[FUSED_SSIM_AXIS_CHANNEL];
    const int64_t rows = plane_count(request.sizes) * axes.depth.cells * axes.row.cells;
    const Loader<Arch, T> loader(static_cast<T>(request.uint8_divisor));
    const T weight = cell_weight<T>(request);
    T sums[kColumns];
    T scratch[kColumns];
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i % rows;
      const int64_t plane = row / axes.row.cells / axes.depth.cells;
      const Image& image = request.images[i / rows];
      T* to = static_cast<T*>(request.halves[i / rows]) + row * axes.column.cells;
      const CellPixels depths = pixels_of_cell(axes.depth, row / axes.row.cells % axes.depth.cells);
      const CellPixels own = pixels_of_cell(axes.row, row % axes.row.cells);
      for (int64_t cell = 0; cell < axes.column.cells; cell += kColumns / 2) {
        const int64_t left = axes.column.cells - cell;
        const int64_t cells = left < kColumns / 2 ? left : kColumns / 2;
        const int64_t first = pixels_of_cell(axes.column, cell).begin;
        const int64_t last = pixels_of_cell(axes.column, cell + cells - 1).end;
        // The zero in front of an odd row.
        const int64_t zeros = 2 * cells - (last - first);
        sums[0] = T(0);
        bool empty = true;
        for (int64_t d = depths.begin; d < depths.end; ++d) {
          const Plane from = plane_of(image, plane / channels, plane % channels, d);
          for (int64_t r = own.begin; r < own.end; ++r) {
            const T* pixels = loader.row(from, r, first, last - first, scratch);
            add_row(pixels, last - first, empty, sums + zeros);
            empty = false;
          }
        }
        for (int64_t c = 0; c < cells; ++c) {
          to[cell + c] = weight * (sums[2 * c] + sums[2 * c + 1]);
        }
      }
    }
  }

  template <class T>
  static FUSED_SSIM_INLINE void add_row(const T* pixels, int64_t count, bool empty, T* sums) {
    if (empty) {
      for (int64_t i = 0; i < count; ++i) {
        sums[i] = pixels[i];
      }
    } else {
      for (int64_t i = 0; i < count; ++i) {
        sums[i] += pixels[i];
      }
    }
  }

  template <class T>
  static void accumulate(const AccumulateRequest& request, int64_t begin, int64_t end) {
    const HalvedAxes axes = halved_axes(request);
    const int64_t channels = request.sizes[FUSED_SSIM_AXIS_CHANNEL];
    const Loader<Arch, T> loader(T(1));
    const T weight = cell_weight<T>(request);
    T values[kColumns];
    T scratch[kColumns];
    // Twice each cell, from the pixel on that the first cell would begin with were it whole.
    T spread[kColumns + 2];
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i % axes.row.size;
      const int64_t depth = i / axes.row.size % axes.depth.size;
      const int64_t plane = i / axes.row.size / axes.depth.size;
      const T scale = static_cast<T>(static_cast<const T*>(request.upstream)[plane] *
                                     (request.factor * request.derivatives[plane]));
      const Plane unit = plane_of(request.unit, plane / channels, plane % channels, depth);
      const Plane out = plane_of(request.out, plane / channels, plane % channels, depth);
      const int64_t cell_row = cell_of_pixel(axes.row, row);
      const int64_t cell_depth = cell_of_pixel(axes.depth, depth);
      const T* coarser = nullptr;
      if (request.coarser != nullptr && cell_row < axes.row.cells &&
          cell_depth < axes.depth.cells) {
        const int64_t coarser_row =
            (plane * axes.depth.cells + cell_depth) * axes.row.cells + cell_row;
        coarser = static_cast<const T*>(request.coarser) + coarser_row * axes.column.cells;
      }
      for (int64_t column = 0; column < axes.column.size; column += kColumns) {
        const int64_t left = axes.column.size - column;
        const int64_t count = left < kColumns ? left : kColumns;
        const T* pixels = loader.row(unit, row, column, count, scratch);
        if (coarser != nullptr) {
          const int64_t cell = cell_of_pixel(axes.column, column);
          const int64_t cells = cell_of_pixel(axes.column, column + count - 1) + 1 - cell;
          // The pixel behind the last cell, which is cropped.
          const int64_t whole = cell + cells > axes.column.cells ? cells - 1 : cells;
          spread[2 * (cells - 1)] = spread[2 * cells - 1] = T(0);
          for (int64_t c = 0; c < whole; ++c) {
            const T value = weight * coarser[cell + c];
            spread[2 * c] = value;
            spread[2 * c + 1] = value;
          }
          const T* by_pixel = spread + (column + axes.column.lead - 2 * cell);
          for (int64_t c = 0; c < count; ++c) {
            values[c] = pixels[c] * scale + by_pixel[c];
          }
        } else {
          for (int64_t c = 0; c < count; ++c) {
            values[c] = pixels[c] * scale;
          }
        }
        Loader<Arch, T>::store_row(out, row, column, count, values);
      }
    }
  }
};

}  // namespace fused_ssim::cpu
