// What the strip kernel (strip.h) stores: rows of the map and, by its step 5, of the gradients:
// filter the partials along x, combine, store.
#pragma once

#include "cpu/strip.h"

namespace fused_ssim::cpu {

template <class Arch, class T, template <class> class Filter, int kImages, bool kMerged>
void StripKernel<Arch, T, Filter, kImages, kMerged>::store_map(int64_t chunk) {
  const ValueRows rows = value_rows(chunk);
  const Columns columns = value_columns(task_.column_begin, task_.column_end);
  const int64_t map_width = map_size(problem_, kWidth);
  T* plane = static_cast<T*>(request_.map) + task_.plane * map_plane_pixels(problem_);
  for (int row = rows.begin; row < rows.end; ++row) {
    Rows::to_natural(map_rows_ + row * segment_, segment_, natural_a_);
    T* to = plane + (rows.first_row + row - crop_y_) * map_width - crop_x_;
    for (int64_t c = columns.begin; c < columns.end; ++c) {
      to[c] = natural_a_[c - data_begin_];
    }
  }
}

template <class Arch, class T, template <class> class Filter, int kImages, bool kMerged>
template <int kCount>
void StripKernel<Arch, T, Filter, kImages, kMerged>::combine_block(const V* partial_row,
                                                                   const V* s_row, int64_t j) {
  const Filter<V> filter = filter_x_.adjoint();
  V filtered[kPartialMaps > 0 ? kPartialMaps : 1][kCount];
  filter.visit([&](const auto& window) __attribute__((always_inline)) {
    for_each_map<Filter<V>, kPartialMaps>([&](int map) __attribute__((always_inline)) {
      const V* from = partial_row + map * pitch() + j;
      V sums[kCount];  // in registers, which filtered[map] is not
      window.template apply<kCount>([&](int k) __attribute__((always_inline)) { return from[k]; },
                                    sums);
      unroll<0, kCount>([&](auto i) __attribute__((always_inline)) {
        filtered[map][decltype(i)::value] = sums[decltype(i)::value];
      });
    });
  });
  // A quarter of the gradient: the store multiplies by four (see core/formula.h).
  unroll<0, kCount>([&](auto i) __attribute__((always_inline)) {
    constexpr int kI = decltype(i)::value;
    const V* staged = s_row + radius_x() + j + kI;
    const V by_d = staged[pitch()] * filtered[2][kI];
    const V by_s = staged[0] * filtered[1][kI];
    const auto store = [&](int image, V gradient) __attribute__((always_inline)) {
      if constexpr (kMerged) {
        const V mask = staged[2 * pitch()];
        gradient = select_positive(mask, mask * gradient, V(T(0)));
      }
      gradient_rows_[image * segment_ + j + kI] = gradient;
    };
    store(0, filtered[0][kI] + (by_s + by_d));
    if constexpr (kImages == 2) {
      store(1, filtered[3][kI] + (by_s - by_d));
    }
  });
}

template <class Arch, class T, template <class> class Filter, int kImages, bool kMerged>
void StripKernel<Arch, T, Filter, kImages, kMerged>::finish_gradient(int64_t chunk) {
  for (int i = 0; i < kChunkRows; ++i) {
    const int64_t row = chunk * kChunkRows + i;
    if (row >= height_) {
      break;
    }
    V* partial_row = partial_rows_ + i * kPartialMaps * pitch();
    for (int map = 0; map < kPartialMaps; ++map) {
      Rows::fill_halo(partial_row + map * pitch(), segment_, radius_x(), V(T(0)));
    }
    // The row was staged two radii ago: chunk g stages rows from 8g + 2 radius on.
    const int64_t staged = row - 2 * radius_y();
    const int64_t staged_chunk =
        staged >= 0 ? staged / kChunkRows : -((kChunkRows - 1 - staged) / kChunkRows);
    const int64_t staged_row = staged - staged_chunk * kChunkRows;
    const V* s_row = ring_chunk(staged_chunk) + kStaged * staged_row * pitch();
    int64_t j = 0;
    for (; j + kBlock <= segment_; j += kBlock) {
      combine_block<kBlock>(partial_row, s_row, j);
    }
    for (; j < segment_; ++j) {
      combine_block<1>(partial_row, s_row, j);
    }
    store_gradient_row(row, gradient_rows_, grad1_, T(1));
    if constexpr (kImages == 2) {
      store_gradient_row(row, gradient_rows_ + segment_, grad2_, T(-1));
    }
  }
}

// `sign`: that of the derivative of x - y by the image.
template <class Arch, class T, template <class> class Filter, int kImages, bool kMerged>
void StripKernel<Arch, T, Filter, kImages, kMerged>::store_gradient_row(int64_t row,
                                                                        const V* gradient,
                                                                        const Plane& plane,
                                                                        T sign) {
  if (plane.data == nullptr) {
    return;
  }
  Rows::to_natural(gradient, segment_, natural_a_);
  const int64_t begin = task_.column_begin;
  const int64_t count = task_.column_end - begin;
  T* values = natural_a_ + (begin - data_begin_);
  const GradientFactors& factors = gradient_factors_;
  const T scale = T(factors.statistic);
  for (int64_t i = 0; i < count; ++i) {
    values[i] *= scale;
  }
  const Columns own = value_columns(begin, task_.column_end);
  if ((factors.l1 != 0.0 || factors.l2 != 0.0) && row >= crop_y_ && row < height_ - crop_y_ &&
      own.begin < own.end) {
    const T l1 = T(factors.l1) * sign;
    const T l2 = T(factors.l2) * sign;
    const int64_t pixels = own.end - own.begin;
    const T* x = loader_.row(img1_, row, own.begin, pixels, scratch_a_);
    const T* y = loader_.row(img2_, row, own.begin, pixels, scratch_b_);
    T* to = natural_a_ + (own.begin - data_begin_);
    const T* mask = has_mask(problem_) ? mask_row(row, own.begin, pixels) : nullptr;
    const T* weights =
        request_.map_gradient.data == nullptr
            ? mask
            : loader_.row(map_gradient_, row - crop_y_, own.begin - crop_x_, pixels, natural_b_);
    Differences<Arch, T>::add_gradient(x, y, weights, mask, pixels, l1, l2, to);
  }
  Loader<Arch, T>::store_row(plane, row, begin, count, values);
}

}  // namespace fused_ssim::cpu
