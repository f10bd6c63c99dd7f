// Step 1 of the strip kernel (strip.h): rows of pixels into the ring, as sums and differences.
#pragma once

#include "cpu/strip.h"

namespace fused_ssim::cpu {

template <class Arch, class T, template <class> class Filter, int kImages, bool kMerged>
void StripKernel<Arch, T, Filter, kImages, kMerged>::stage_chunk(int64_t chunk, ChunkSums* sums) {
  V* rows = ring_chunk(chunk);
  const int64_t first_row = chunk * kChunkRows + 2 * radius_y();
  for (int i = 0; i < kChunkRows; ++i) {
    stage_row(first_row + i, rows + kStaged * i * pitch(), sums);
  }
}

// s, d and, where windows are weighed, the mask. Beyond the image pixels are 0, and seen.
template <class Arch, class T, template <class> class Filter, int kImages, bool kMerged>
void StripKernel<Arch, T, Filter, kImages, kMerged>::stage_row(int64_t row, V* staged,
                                                               ChunkSums* sums) {
  const V outside[] = {V(-shift_s_), V(-shift_d_), V(T(1))};
  if (row < 0 || row >= height_) {
    for (int part = 0; part < kStaged; ++part) {
      for (int64_t j = 0; j < segment_ + 2 * radius_x(); ++j) {
        staged[part * pitch() + j] = outside[part];
      }
    }
    return;
  }
  const int64_t columns = data_end_ - data_begin_;
  const T* x = loader_.row(img1_, row, data_begin_, columns, scratch_a_);
  const T* y = loader_.row(img2_, row, data_begin_, columns, scratch_b_);
  if constexpr (kMerged) {
    stage_masked_pixels(x, y, window_mask_row(row, data_begin_, columns), columns);
  } else {
    stage_pixels(x, y, columns);
  }
  const T* const parts[] = {natural_a_, natural_b_, mask_scratch_};
  for (int part = 0; part < kStaged; ++part) {
    V* to = staged + part * pitch();
    Rows::from_natural(parts[part], segment_, to + radius_x());
    Rows::fill_halo(to, segment_, radius_x(), outside[part]);
  }
  if (row >= crop_y_ && row < height_ - crop_y_) {
    add_differences(row, x, y, sums);
  }
}

template <class Arch, class T, template <class> class Filter, int kImages, bool kMerged>
void StripKernel<Arch, T, Filter, kImages, kMerged>::stage_pixels(const T* x, const T* y,
                                                                  int64_t columns) {
  const V shift_s(shift_s_);
  const V shift_d(shift_d_);
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
}

// A masked pixel is 0, whatever stands there.
template <class Arch, class T, template <class> class Filter, int kImages, bool kMerged>
void StripKernel<Arch, T, Filter, kImages, kMerged>::stage_masked_pixels(const T* x, const T* y,
                                                                         const T* mask,
                                                                         int64_t columns) {
  for (int64_t c = 0; c < columns; ++c) {
    natural_a_[c] = select_positive(mask[c], (x[c] + y[c]) - shift_s_, T(0));
    natural_b_[c] = select_positive(mask[c], (x[c] - y[c]) - shift_d_, T(0));
  }
  for (int64_t c = columns; c < kLanes * segment_; ++c) {
    natural_a_[c] = -shift_s_;
    natural_b_[c] = -shift_d_;
    mask_scratch_[c] = T(1);
  }
}

// |x - y| and (x - y)^2 of a row's pixels, where they are asked for.
template <class Arch, class T, template <class> class Filter, int kImages, bool kMerged>
void StripKernel<Arch, T, Filter, kImages, kMerged>::add_differences(int64_t row, const T* x,
                                                                     const T* y,
                                                                     ChunkSums* sums) const {
  const bool wants_squares = request_.l2_weight != 0.0 || request_.mse != nullptr;
  if (request_.l1_weight == 0.0 && !wants_squares) {
    return;
  }
  const Columns owned = value_columns(task_.column_begin, task_.column_end);
  const int64_t count = owned.end - owned.begin;
  if (count <= 0) {
    return;
  }
  const T* mask = has_mask(problem_) ? mask_row(row, owned.begin, count) : nullptr;
  const int64_t first = owned.begin - data_begin_;
  Differences<Arch, T>::add_sums(x + first, y + first, mask, count, request_.l1_weight != 0.0,
                                 wants_squares, sums);
}

// Asks for the block's share of the rows that `chunk` will stage: the arithmetic of a chunk covers
// the wait.
template <class Arch, class T, template <class> class Filter, int kImages, bool kMerged>
void StripKernel<Arch, T, Filter, kImages, kMerged>::prefetch_rows(int64_t chunk, int64_t j) const {
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

// The weights of the chunk's pixels, zero where there is no value: the mask, or d(loss)/d(map).
template <class Arch, class T, template <class> class Filter, int kImages, bool kMerged>
void StripKernel<Arch, T, Filter, kImages, kMerged>::stage_value_rows(const ValueRows& rows,
                                                                      bool of_mask, V* to) {
  const Columns columns = value_columns(data_begin_, data_end_);
  for (int i = rows.begin; i < rows.end; ++i) {
    for (int64_t c = 0; c < kLanes * segment_; ++c) {
      natural_a_[c] = T(0);
    }
    if (columns.begin < columns.end) {
      const int64_t row = rows.first_row + i;
      const int64_t count = columns.end - columns.begin;
      const T* values = of_mask ? mask_row(row, columns.begin, count)
                                : loader_.row(map_gradient_, row - crop_y_, columns.begin - crop_x_,
                                              count, scratch_a_);
      for (int64_t c = columns.begin; c < columns.end; ++c) {
        natural_a_[c - data_begin_] = values[c - columns.begin];
      }
    }
    Rows::from_natural(natural_a_, segment_, to + i * segment_);
  }
}

}  // namespace fused_ssim::cpu
