// How the volume kernel (volume.h) filters along an axis, and its step 2: moments along depth and x.
#pragma once

#include "cpu/volume.h"

namespace fused_ssim::cpu {

// ---- filters ------------------------------------------------------------------------------------

// Eight outputs at each `step`: out[i out_stride + j], i = 0 .. 8, is made of load(i + k, j).
template <class Arch, class T>
template <typename VolumeKernel<Arch, T>::Form kForm, class Window, class Load>
FUSED_SSIM_INLINE void VolumeKernel<Arch, T>::filter_steps(const Window& shared, Load load,
                                                           int64_t step, V* out,
                                                           int64_t out_stride) const {
  const Window window = shared;  // known not to change under the stores
  constexpr int kGroup = kForm == Form::kPlain ? kChunkRows : Window::kGroup;
  const int64_t segment = segment_;
  for (int64_t begin = 0; begin < segment; begin += step) {
    // The last step overlaps its predecessor rather than be shorter.
    const int64_t j = begin + step <= segment ? begin : segment - step;
    unroll<0, kChunkRows / kGroup>([&](auto group) __attribute__((always_inline)) {
      constexpr int kFirst = decltype(group)::value * kGroup;
      const auto input = [&](int k) __attribute__((always_inline)) { return load(kFirst + k, j); };
      V reference(T(0));
      if constexpr (kForm != Form::kPlain) {
        reference = window.template reference<kGroup>(input);
      }
      if constexpr (kForm == Form::kSquared) {
        reference = reference * reference;
      }
      V sums[kGroup];
      window.template apply<kGroup>(
          [&](int k) __attribute__((always_inline)) {
            const V value = input(k);
            return kForm == Form::kPlain     ? value
                   : kForm == Form::kCentred ? value - reference
                                             : multiply_add(value, value, -reference);
          },
          sums);
      unroll<0, kGroup>([&](auto i) __attribute__((always_inline)) {
        constexpr int kI = decltype(i)::value;
        out[(kFirst + kI) * out_stride + j] =
            kForm == Form::kPlain ? sums[kI] : sums[kI] + reference;
      });
    });
  }
}

template <class Arch, class T>
template <typename VolumeKernel<Arch, T>::Form kForm>
void VolumeKernel<Arch, T>::filter_inputs(const AxisFilter<V>& axis, int64_t step, V* out,
                                          int64_t out_stride) const {
  const V* const* const inputs = inputs_;
  axis.visit([&](const auto& window) __attribute__((always_inline)) {
    filter_steps<kForm>(
        window, [&](int k, int64_t j) __attribute__((always_inline)) { return inputs[k][j]; }, step,
        out, out_stride);
  });
}

// Along x: a row that has room for the halo before and behind it, which is `fill` outside of it.
template <class Arch, class T>
template <typename VolumeKernel<Arch, T>::Form kForm>
void VolumeKernel<Arch, T>::filter_along(const AxisFilter<V>& axis, V* row, V fill, V* out) const {
  Rows::fill_halo(row, segment_, radius_[kWidth], fill);
  // The standard window alone has code of its own for this: a tenth of the kernel's time. For all
  // others that would be half as much again of the compiler's.
  if (const FixedFilter<V>* fixed = axis.fixed()) {
    return fixed->visit([&](const auto& window) __attribute__((always_inline)) {
      filter_steps<kForm>(
          window, [&](int k, int64_t j) __attribute__((always_inline)) { return row[j + k]; },
          kChunkRows, out, 1);
    });
  }
  for (int k = 0; k < kChunkRows + 2 * radius_[kWidth]; ++k) {
    inputs_[k] = row + k;
  }
  filter_inputs<kForm>(axis, kChunkRows, out, 1);
}

// Eight outputs at each `step` under a mask, as for filter_steps(): out[m map_stride + i out_stride + j]
// of inputs(m)[i + k][j] for maps m. Inputs are m, s and d of pixels, or all the maps of what has been
// merged along other axes. Sums of squares are those around the mean of each window: where it sees a
// pixel or two, E[m s^2] / E[m] and the square of the mean agree in nearly all digits.
template <class Arch, class T>
template <int kInputs, class Window>
FUSED_SSIM_INLINE void VolumeKernel<Arch, T>::merge_steps(const Window& shared, int64_t step,
                                                          V* out, int64_t map_stride,
                                                          int64_t out_stride) const {
  const Window window = shared;
  constexpr int kGroup = Window::kGroup;
  const int64_t segment = segment_;
  for (int64_t begin = 0; begin < segment; begin += step) {
    const int64_t j = begin + step <= segment ? begin : segment - step;
    const auto load = [&](int map, int k)
                          __attribute__((always_inline)) { return inputs(map)[k][j]; };
    V seen[kChunkRows];
    window.template apply<kChunkRows>(
        [&](int k) __attribute__((always_inline)) { return load(0, k); }, seen);
    for (int i = 0; i < kChunkRows; ++i) {
      out[i * out_stride + j] = seen[i];
    }
    for (int image = 1; image < kMaskedImages; ++image) {
      V means[kChunkRows];
      unroll<0, kChunkRows / kGroup>([&](auto group) __attribute__((always_inline)) {
        constexpr int kFirst = decltype(group)::value * kGroup;
        const V reference = window.template reference<kGroup>(
            [&](int k) __attribute__((always_inline)) { return load(image, kFirst + k); });
        V sums[kGroup];
        window.template apply<kGroup>(
            [&](int k) __attribute__((always_inline)) {
              return load(0, kFirst + k) * (load(image, kFirst + k) - reference);
            },
            sums);
        unroll<0, kGroup>([&](auto i) __attribute__((always_inline)) {
          constexpr int kI = kFirst + decltype(i)::value;
          means[kI] = multiply_add(reciprocal_of_seen(seen[kI]), sums[kI - kFirst], reference);
        });
      });
      for (int i = 0; i < kChunkRows; ++i) {
        const V mean = means[i];
        V squares[1];
        window.template apply<1>(
            [&](int k) __attribute__((always_inline)) {
              const V from_mean = load(image, i + k) - mean;
              const V square = load(0, i + k) * from_mean * from_mean;
              return kInputs == kMaskedMaps ? square + load(image + 2, i + k) : square;
            },
            squares);
        V* to = out + image * map_stride + i * out_stride + j;
        to[0] = mean;
        to[2 * map_stride] = squares[0];
      }
    }
  }
}

template <class Arch, class T>
template <int kInputs>
void VolumeKernel<Arch, T>::merge_inputs(const AxisFilter<V>& axis, int64_t step, V* out,
                                         int64_t map_stride, int64_t out_stride) const {
  axis.visit_masked([&](const auto& window) __attribute__((always_inline)) {
    merge_steps<kInputs>(window, step, out, map_stride, out_stride);
  });
}

// ---- 2. moments along depth and x ---------------------------------------------------------------

template <class Arch, class T>
void VolumeKernel<Arch, T>::filter_moments(int64_t chunk, Range slices) {
  const int64_t first_input = chunk * kChunkRows;
  const int64_t first_value = first_input + radius_[kDepth];
  const Range volume = {0, image_size(problem_, kDepth)};
  const int64_t pitch = segment_ + 2 * radius_[kWidth];
  for (int64_t row = staged_rows_.begin; row < staged_rows_.end; ++row) {
    for (int image = 0; image < 2; ++image) {
      for (int k = 0; k < kChunkRows + 2 * radius_[kDepth]; ++k) {
        const int64_t z = first_input + k;
        inputs_[k] = volume.holds(z) ? staged(z, row, image) : outside(image);
      }
      V* means = lines_ + radius_[kWidth];
      V* squares = means + kChunkRows * pitch;
      filter_across<Form::kCentred>(filter_[kDepth], means, pitch);
      filter_across<Form::kSquared>(filter_[kDepth], squares, pitch);
      for (int64_t z = slices.begin; z < slices.end; ++z) {
        const int64_t line = (z - first_value) * pitch - radius_[kWidth];
        V* out = moments_ + (z - slices.begin) * moment_slice_ +
                 (row - staged_rows_.begin) * moment_row_ + image * segment_;
        filter_along<Form::kCentred>(filter_[kWidth], means + line, outside(image)[0], out);
        filter_along<Form::kCentred>(filter_[kWidth], squares + line, outside(2 + image)[0],
                                     out + 2 * segment_);
      }
    }
  }
}

template <class Arch, class T>
void VolumeKernel<Arch, T>::filter_masked_moments(int64_t chunk, Range slices) {
  const int64_t first_input = chunk * kChunkRows;
  const int64_t first_value = first_input + radius_[kDepth];
  const Range volume = {0, image_size(problem_, kDepth)};
  const int64_t pitch = segment_ + 2 * radius_[kWidth];
  const int64_t lines = kChunkRows * pitch;  // of a map
  for (int64_t row = staged_rows_.begin; row < staged_rows_.end; ++row) {
    for (int map = 0; map < kMaskedImages; ++map) {
      for (int k = 0; k < kChunkRows + 2 * radius_[kDepth]; ++k) {
        const int64_t z = first_input + k;
        inputs(map)[k] = volume.holds(z) ? masked_input(z, row, map) : outside(map);
      }
    }
    merge_inputs<kMaskedImages>(filter_[kDepth], 1, lines_ + radius_[kWidth], lines, pitch);
    for (int64_t z = slices.begin; z < slices.end; ++z) {
      for (int map = 0; map < kMaskedMaps; ++map) {
        V* line = lines_ + map * lines + (z - first_value) * pitch;
        Rows::fill_halo(line, segment_, radius_[kWidth], outside(map)[0]);
        for (int k = 0; k < kChunkRows + 2 * radius_[kWidth]; ++k) {
          inputs(map)[k] = line + k;
        }
      }
      V* out =
          moments_ + (z - slices.begin) * moment_slice_ + (row - staged_rows_.begin) * moment_row_;
      merge_inputs<kMaskedMaps>(filter_[kWidth], kChunkRows, out, segment_, 1);
    }
  }
}

}  // namespace fused_ssim::cpu
