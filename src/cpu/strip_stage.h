// Step 1 of the strip kernel (strip.h): rows of pixels into the ring, as sums and differences.
#pragma once

#include "cpu/strip.h"

namespace fused_ssim::cpu {

template <class Arch, class T, template <class> class Filter, int kImages>
void StripKernel<Arch, T, Filter, kImages>::stage_chunk(int64_t chunk, ChunkSums* sums) {
  V* rows = ring_chunk(chunk);
  const int64_t first_row = chunk * kChunkRows + 2 * radius_y();
  for (int i = 0; i < kChunkRows; ++i) {
    stage_row(first_row + i, rows + 2 * i * pitch(), rows + (2 * i + 1) * pitch(), sums);
  }
}

template <class Arch, class T, template <class> class Filter, int kImages>
void StripKernel<Arch, T, Filter, kImages>::stage_row(int64_t row, V* s_row, V* d_row,
                                                      ChunkSums* sums) {
  const V shift_s(shift_s_);
  const V shift_d(shift_d_);
  if (row < 0 || row >= height_) {
    for (int64_t j = 0; j < segment_ + 2 * radius_x(); ++j) {
      s_row[j] = -shift_s;
      d_row[j] = -shift_d;
    }
    return;
  }
  const int64_t columns = data_end_ - data_begin_;
  const T* x = loader_.row(img1_, row, data_begin_, columns, scratch_a_);
  const T* y = loader_.row(img2_, row, data_begin_, columns, scratch_b_);
  int64_t c = 0;
  for (; c + kLanes <= columns; c += kLanes) {
    const V a = V::load_unaligned(x + c);
    const V b = V::load_unaligned(y + c);
    ((a + b) - shift_s).store_unaligned(natural_a_ + c);
    ((a - b) - shift_d).store_unaligned(natural_b_ + c);
  }
  for (; c < columns; ++c) {
    natural_a_[c] = (x[c] + y[c]) - shift_s_;
    natural_b_[c] = (x[c] - y[c]) - shift_d_;
  }
  for (; c < kLanes * segment_; ++c) {
    natural_a_[c] = -shift_s_;
    natural_b_[c] = -shift_d_;
  }
  Rows::from_natural(natural_a_, segment_, s_row + radius_x());
  Rows::from_natural(natural_b_, segment_, d_row + radius_x());
  Rows::fill_halo(s_row, segment_, radius_x(), -shift_s);
  Rows::fill_halo(d_row, segment_, radius_x(), -shift_d);
  if (row >= crop_y_ && row < height_ - crop_y_) {
    add_differences(x, y, sums);
  }
}

// |x - y| and (x - y)^2 of a row's pixels, where they are asked for.
template <class Arch, class T, template <class> class Filter, int kImages>
void StripKernel<Arch, T, Filter, kImages>::add_differences(const T* x, const T* y,
                                                            ChunkSums* sums) const {
  const Columns owned = value_columns(task_.column_begin, task_.column_end);
  if (owned.begin < owned.end) {
    const int64_t first = owned.begin - data_begin_;
    cpu::add_differences<V>(request_, x + first, y + first, owned.end - owned.begin, sums);
  }
}

// Asks for the block's share of the rows that `chunk` will stage: the arithmetic of a chunk covers
// the wait.
template <class Arch, class T, template <class> class Filter, int kImages>
void StripKernel<Arch, T, Filter, kImages>::prefetch_rows(int64_t chunk, int64_t j) const {
  constexpr int64_t kRows = 2 * kChunkRows;  // of both images
  const int64_t blocks = segment_ / kBlock;
  const int64_t block = j / kBlock;
  for (int64_t i = kRows * block / blocks; i < kRows * (block + 1) / blocks; ++i) {
    const int64_t row = chunk * kChunkRows + 2 * radius_y() + i / 2;
    if (row >= 0 && row < height_) {
      prefetch(i % 2 == 0 ? img1_ : img2_, row, data_begin_, data_end_ - data_begin_);
    }
  }
}

// d(loss)/d(map) of the chunk's value rows, zero where there is no value.
template <class Arch, class T, template <class> class Filter, int kImages>
void StripKernel<Arch, T, Filter, kImages>::stage_map_gradient(int64_t first_row) {
  const Columns columns = value_columns(data_begin_, data_end_);
  for (int i = 0; i < kChunkRows; ++i) {
    const int64_t map_row = first_row + i - crop_y_;
    for (int64_t c = 0; c < kLanes * segment_; ++c) {
      natural_a_[c] = T(0);
    }
    if (map_row >= 0 && map_row < map_size(problem_, kHeight) && columns.begin < columns.end) {
      const T* values = loader_.row(map_gradient_, map_row, columns.begin - crop_x_,
                                    columns.end - columns.begin, scratch_a_);
      for (int64_t c = columns.begin; c < columns.end; ++c) {
        natural_a_[c - data_begin_] = values[c - columns.begin];
      }
    }
    Rows::from_natural(natural_a_, segment_, map_gradient_rows_ + i * segment_);
  }
}

}  // namespace fused_ssim::cpu
