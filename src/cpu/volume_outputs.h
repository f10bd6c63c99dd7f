// What the volume kernel (volume.h) stores: rows of the map and, by its step 5, of the gradients.
#pragma once

#include "cpu/volume.h"

namespace fused_ssim::cpu {

template <class Arch, class T>
void VolumeKernel<Arch, T>::store_map(int64_t z, Range rows) {
  const Range columns = valued(kWidth);
  const int64_t slice = task_.plane * map_size(problem_, kDepth) + z - valued(kDepth).begin;
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    Rows::to_natural(map_rows_ + row % kChunkRows * segment_, segment_, natural_);
    const int64_t map_row = slice * map_size(problem_, kHeight) + row - valued(kHeight).begin;
    T* to = static_cast<T*>(request_.map) + map_row * columns.size();
    for (int64_t c = columns.begin; c < columns.end; ++c) {
      to[c - columns.begin] = natural_[c];
    }
  }
}

template <class Arch, class T>
void VolumeKernel<Arch, T>::finish_gradient(int64_t chunk) {
  const AxisFilter<V> filter = filter_[kDepth].adjoint();
  const int64_t first = chunk * kChunkRows;
  const Range slices = Range{first, first + kChunkRows}.within({0, image_size(problem_, kDepth)});
  for (int64_t row = own_rows_.begin; row < own_rows_.end; ++row) {
    for (int map = 0; map < maps_; ++map) {
      for (int k = 0; k < kChunkRows + 2 * radius_[kDepth]; ++k) {
        const int64_t z = first - radius_[kDepth] + k;
        inputs_[k] = valued(kDepth).holds(z) ? partial(z, row, map) : zeros();
      }
      filter_across<Form::kPlain>(filter, eight_rows(map), segment_);
    }
    for (int64_t z = slices.begin; z < slices.end; ++z) {
      const V* filtered = eight_rows_ + (z - first) * segment_;
      const V* s = staged(z, row, 0);
      const V* d = staged(z, row, 1);
      const int64_t stride = kChunkRows * segment_;
      const auto combine = [&](auto number) __attribute__((always_inline)) {
        for (int64_t j = 0; j < segment_; ++j) {
          // A quarter of the gradient: the store multiplies by four (see core/formula.h).
          const V by_s = number(s[j], shift_s_) * filtered[stride + j];
          const V by_d = number(d[j], shift_d_) * filtered[2 * stride + j];
          gradient_rows_[j] = filtered[j] + (by_s + by_d);
          if (images_ == 2) {
            gradient_rows_[segment_ + j] = filtered[3 * stride + j] + (by_s - by_d);
          }
        }
      };
      if (merged_) {
        combine([](V number, T shift) __attribute__((always_inline)) { return number - V(shift); });
        const V* mask = staged(z, row, 2);
        for (int64_t j = 0; j < images_ * segment_; ++j) {
          const V m = mask[j < segment_ ? j : j - segment_];
          gradient_rows_[j] = select_positive(m, m * gradient_rows_[j], V(T(0)));
        }
      } else {
        combine([](V shifted, T) __attribute__((always_inline)) { return shifted; });
      }
      store_gradient_row(z, row, gradient_rows_, request_.grad1, T(1));
      if (images_ == 2) {
        store_gradient_row(z, row, gradient_rows_ + segment_, request_.grad2, T(-1));
      }
    }
  }
}

// `sign`: that of the derivative of x - y by the image.
template <class Arch, class T>
void VolumeKernel<Arch, T>::store_gradient_row(int64_t z, int64_t row, const V* gradient,
                                               const Image& image, T sign) {
  const int64_t columns = image_size(problem_, kWidth);
  const GradientFactors& factors = gradient_factors_;
  const T scale = T(factors.statistic);
  Rows::to_natural(gradient, segment_, natural_);
  for (int64_t c = 0; c < columns; ++c) {
    natural_[c] *= scale;
  }
  if ((factors.l1 != 0.0 || factors.l2 != 0.0) && valued(kDepth).holds(z) &&
      valued(kHeight).holds(row)) {
    const Range own = valued(kWidth);
    const T l1 = T(factors.l1) * sign;
    const T l2 = T(factors.l2) * sign;
    const T* x = loader_.row(plane_of(problem_.img1, batch_, channel_, z), row, own.begin,
                             own.size(), scratch_a_);
    const T* y = loader_.row(plane_of(problem_.img2, batch_, channel_, z), row, own.begin,
                             own.size(), scratch_b_);
    const T* mask = has_mask(problem_) ? mask_row(z, row, own.begin, own.size()) : nullptr;
    const T* weights = mask;
    if (request_.map_gradient.data != nullptr) {
      const Plane slice =
          plane_of(request_.map_gradient, batch_, channel_, z - valued(kDepth).begin);
      weights = loader_.row(slice, row - valued(kHeight).begin, 0, own.size(), weights_);
    }
    Differences<Arch, T>::add_gradient(x, y, weights, mask, own.size(), l1, l2,
                                       natural_ + own.begin);
  }
  Loader<Arch, T>::store_row(plane_of(image, batch_, channel_, z), row, 0, columns, natural_);
}

}  // namespace fused_ssim::cpu
