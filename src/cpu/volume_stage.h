// How the volume kernel (volume.h) reads: the shift of the pixels, its step 1, and the rows of the
// map's gradient.
#pragma once

#include "cpu/volume.h"

namespace fused_ssim::cpu {

// The same for all tiles of a volume.
template <class Arch, class T>
void VolumeKernel<Arch, T>::choose_shift() {
  constexpr int kSamples[] = {4, 3, 3};
  static_assert(kSamples[0] * kSamples[1] * kSamples[2] <= ShiftSamples<T>::kMost, "");
  const auto place = [&](int axis, int i) {
    return (2 * i + 1) * image_size(problem_, SpatialAxis(axis)) / (2 * kSamples[axis]);
  };
  ShiftSamples<T> samples;
  for (int i = 0; i < kSamples[kDepth]; ++i) {
    const int64_t z = place(kDepth, i);
    const Plane x = plane_of(problem_.img1, batch_, channel_, z);
    const Plane y = plane_of(problem_.img2, batch_, channel_, z);
    for (int k = 0; k < kSamples[kHeight] * kSamples[kWidth]; ++k) {
      const int64_t row = place(kHeight, k / kSamples[kWidth]);
      const int64_t column = place(kWidth, k % kSamples[kWidth]);
      if (!merged_ || *window_mask_row(z, row, column, 1) > T(0)) {
        samples.add(*loader_.row(x, row, column, 1, scratch_a_),
                    *loader_.row(y, row, column, 1, scratch_b_));
      }
    }
  }
  shift_s_ = samples.shift_s();
  shift_d_ = samples.shift_d();
}

template <class Arch, class T>
void VolumeKernel<Arch, T>::stage_slices(int64_t chunk, bool owned) {
  const int64_t reach = chunk * kChunkRows + 2 * radius_[kDepth];
  const Range slices =
      Range{staged_end_, reach + kChunkRows}.within({0, image_size(problem_, kDepth)});
  for (int64_t z = slices.begin; z < slices.end; ++z) {
    const bool has_values = owned && z >= reach && valued(kDepth).holds(z);
    const Range counted = has_values ? own_rows_.within(valued(kHeight)) : Range{0, 0};
    for (int64_t row = staged_rows_.begin; row < staged_rows_.end; ++row) {
      stage_row(z, row, counted.holds(row) ? sums_of(row, chunk) : nullptr);
    }
    staged_end_ = z + 1;
  }
}

// `sums`: null where the row's differences count elsewhere, or not at all.
template <class Arch, class T>
void VolumeKernel<Arch, T>::stage_row(int64_t z, int64_t row, ChunkSums* sums) {
  const int64_t columns = image_size(problem_, kWidth);
  const Range own = valued(kWidth);
  const T* x =
      loader_.row(plane_of(problem_.img1, batch_, channel_, z), row, 0, columns, scratch_a_);
  const T* y =
      loader_.row(plane_of(problem_.img2, batch_, channel_, z), row, 0, columns, scratch_b_);
  const auto stage = [&](int image, T shift, auto combine) __attribute__((always_inline)) {
    int64_t c = 0;
    for (; c + kLanes <= columns; c += kLanes) {
      (combine(V::load_unaligned(x + c), V::load_unaligned(y + c)) - V(shift))
          .store_unaligned(natural_ + c);
    }
    for (; c < columns; ++c) {
      natural_[c] = combine(x[c], y[c]) - shift;
    }
    for (; c < kLanes * segment_; ++c) {
      natural_[c] = -shift;
    }
    Rows::from_natural(natural_, segment_, staged(z, row, image));
  };
  if (merged_) {
    window_mask_row(z, row, 0, columns);
    stage_masked(x, y, z, row);
  } else {
    stage(0, shift_s_, [](auto a, auto b) __attribute__((always_inline)) { return a + b; });
    stage(1, shift_d_, [](auto a, auto b) __attribute__((always_inline)) { return a - b; });
  }
  if (sums != nullptr) {
    const T* mask = has_mask(problem_) ? mask_row(z, row, own.begin, own.size()) : nullptr;
    Differences<Arch, T>::add_sums(x + own.begin, y + own.begin, mask, own.size(),
                                   request_.l1_weight != 0.0,
                                   request_.l2_weight != 0.0 || request_.mse != nullptr, sums);
  }
}

// s, d and m, whose numbers are in mask_scratch_. A masked pixel is 0, whatever stands there; one beyond
// the image is 0, and seen.
template <class Arch, class T>
void VolumeKernel<Arch, T>::stage_masked(const T* x, const T* y, int64_t z, int64_t row) {
  const int64_t columns = image_size(problem_, kWidth);
  for (int64_t c = columns; c < kLanes * segment_; ++c) {
    mask_scratch_[c] = T(1);
    natural_[c] = T(0);
  }
  Rows::from_natural(mask_scratch_, segment_, staged(z, row, 2));
  for (int64_t c = 0; c < columns; ++c) {
    natural_[c] = select_positive(mask_scratch_[c], x[c] + y[c], T(0));
  }
  Rows::from_natural(natural_, segment_, staged(z, row, 0));
  for (int64_t c = 0; c < columns; ++c) {
    natural_[c] = select_positive(mask_scratch_[c], x[c] - y[c], T(0));
  }
  Rows::from_natural(natural_, segment_, staged(z, row, 1));
}

// The weights of the rows' pixels, zero where there is no value: the mask, or d(loss)/d(map).
template <class Arch, class T>
void VolumeKernel<Arch, T>::stage_value_rows(int64_t z, Range rows, bool of_mask, V* to) {
  const Range columns = valued(kWidth);
  const Plane slice = plane_of(request_.map_gradient, batch_, channel_, z - valued(kDepth).begin);
  for (int64_t c = 0; c < kLanes * segment_; ++c) {
    natural_[c] = T(0);
  }
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const T* values =
        of_mask ? mask_row(z, row, columns.begin, columns.size())
                : loader_.row(slice, row - valued(kHeight).begin, 0, columns.size(), scratch_a_);
    for (int64_t c = columns.begin; c < columns.end; ++c) {
      natural_[c] = values[c - columns.begin];
    }
    Rows::from_natural(natural_, segment_, to + row % kChunkRows * segment_);
  }
}

}  // namespace fused_ssim::cpu
