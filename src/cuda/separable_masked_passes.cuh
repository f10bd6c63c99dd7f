// The first pass of the separable kernels under a normalized mask: a mean is E[m x] / E[m].
//
// Under a mask a window may see a pixel or two, and then E[m s^2] / E[m] and the square of the mean
// are large numbers whose difference is small. So along each axis a filter runs twice, for the means
// first and then for the sums of squares around them, and what is merged is m, the means and those
// sums: no shift is needed, and none of the variance is lost. Pixels outside the image have m = 1 and
// value 0. Where variances are merged without such a mask (core/merging.h) m is 1 everywhere.
#pragma once

#include "cuda/separable_passes.cuh"

namespace fused_ssim::cuda::separable {

// The inputs of `Source` as they are added up: m, m s, m d, and the sums of squares.
template <int kInputs, class Source>
struct WeighedBySeen {
  Source source;

  template <class T>
  __device__ __forceinline__ void read(int i, T (&input)[kInputs]) {
    source.read(i, input);
    input[1] *= input[0];
    input[2] *= input[0];
  }
  __device__ __forceinline__ void next_block() { source.next_block(); }
};

// merged[.][o] = what the window of output o sees together. Inputs are m, s and d of pixels, or all
// kMaskedMaps of what has been merged along other axes; `deviations` has the first three of `source`.
template <int kInputs, class T, int kOutputs, class Source, class Deviations>
__device__ __forceinline__ void filter_masked(const T* taps, int size, const Source& source,
                                              const Deviations& deviations,
                                              T (&merged)[kMaskedMaps][kOutputs]) {
  T sums[kInputs][kOutputs];
  filter(taps, size, WeighedBySeen<kInputs, Source>{source}, sums);
#pragma unroll
  for (int o = 0; o < kOutputs; ++o) {
    const T by_seen = reciprocal_of_seen(sums[0][o]);
    merged[0][o] = sums[0][o];
    merged[1][o] = by_seen * sums[1][o];
    merged[2][o] = by_seen * sums[2][o];
#pragma unroll
    for (int m = kMaskedImages; m < kMaskedMaps; ++m) {
      merged[m][o] = m < kInputs ? sums[m < kInputs ? m : 0][o] : T(0);
    }
  }
  for_taps<kMaskedImages, kOutputs>(taps, size, deviations,
                                    [&](int o, const T(&input)[kMaskedImages], T tap) {
                                      const T weight = input[0] * tap;
                                      const T s = input[1] - merged[1][o];
                                      const T d = input[2] - merged[2][o];
                                      merged[3][o] = multiply_add(weight * s, s, merged[3][o]);
                                      merged[4][o] = multiply_add(weight * d, d, merged[4][o]);
                                    });
}

template <class T, int kImages>
struct MaskedMomentsPass : MomentsPass<T, kImages> {
  using Base = MomentsPass<T, kImages>;
  using typename Base::NoPixels;
  static constexpr int kBlocks = kMaskedBlocksPerMultiprocessor;
  static constexpr int kInputs = kMaskedImages;
  static constexpr int kOrigins = kMaskedImages;
  static constexpr int kMaps = kMaskedMaps;
  static constexpr int kOutputs = Base::kOutputs;

  // That of the partial derivatives in memory; nothing else is shifted.
  __device__ __forceinline__ void start() {
    if (Base::kGradient) {
      this->shift = sampled_shift(this->p, this->piece, /*whole=*/true);
    }
  }

  __device__ __forceinline__ const char* origin(int input, int64_t y, int64_t x) const {
    return input < 2 ? Base::origin(input, y, x) : pixel_at(this->p.mask, this->piece, y, x);
  }
  __device__ __forceinline__ bool has_wide_mask() const {
    return sizeof(T) == 4 && this->p.mask.dtype == DType::kFloat64;
  }
  __device__ __forceinline__ void stage(const SeparableRow& at, T* staged, int input_stride) const {
    const InputImage& mask = this->p.mask;
    Base::stage(at, staged, input_stride);
    if (!this->p.mask_is_normalized) {
      return;
    }
    staged += 2 * input_stride;
    if (!has_wide_mask()) {
      Base::stage(at, 2, mask, this->p.mask_quads, staged);
      return;
    }
    const char* row = at.begin < at.end ? at.first(2, mask.row) : mask.data;
    this->copy_each(at, row, mask.column, staged, [&](T* to, const char* from, bool inside) {
      *to = inside ? load_element<T>(from, mask) : T(0);
    });
  }
  // Staged elements of both images and of the mask -> s, d, m. What is masked is 0.
  __device__ __forceinline__ void prepare(const SeparableRow& at, T* staged,
                                          int input_stride) const {
    const auto& p = this->p;
    at.template for_vectors<T>([&](int column, int count) {
      Vector<T>* to[kInputs];
#pragma unroll
      for (int i = 0; i < kInputs; ++i) {
        to[i] = reinterpret_cast<Vector<T>*>(staged + i * input_stride + column);
      }
      const Vector<T> xs = this->numbers(at, p.img1, p.quads1, column, *to[0]);
      const Vector<T> ys = this->numbers(at, p.img2, p.quads2, column, *to[1]);
      Vector<T> numbers = *to[2];
      if (!has_wide_mask()) {
        numbers = this->numbers(at, p.mask, p.mask_quads, column, numbers);
      }
      Vector<T> s;
      Vector<T> d;
#pragma unroll
      for (int i = 0; i < kSeparableVector<T>; ++i) {
        const bool is_masked = p.mask_is_normalized && i < count;
        numbers.of[i] = is_masked ? counting_number(numbers.of[i], p.mask.dtype) : T(1);
        s.of[i] = select_positive(numbers.of[i], xs.of[i] + ys.of[i], T(0));
        d.of[i] = select_positive(numbers.of[i], xs.of[i] - ys.of[i], T(0));
      }
      *to[0] = numbers;
      *to[1] = s;
      *to[2] = d;
    });
  }

  __device__ __forceinline__ void filter_row(const T* taps, const T* staged, int input_stride,
                                             T (&merged)[kMaps][kOutputs]) const {
    const MapRow<T, kInputs> row = {staged, input_stride, {}};
    filter_masked<kInputs>(taps, this->p.window_columns, row, row, merged);
  }
  __device__ __forceinline__ void filter_column(const T* taps, const Ring<T>& ring, int cell,
                                                T (&merged)[kMaps][kOutputs]) const {
    filter_masked<kMaps>(taps, this->p.window_rows, RingColumn<T, kMaps>{ring, cell},
                         RingColumn<T, kMaskedImages>{ring, cell}, merged);
  }

  __device__ __forceinline__ void finish(int64_t y, int64_t x, int count,
                                         const T (&merged)[kMaps][kOutputs], const NoPixels&,
                                         const ThreadSums& sums) const {
    const PixelNumbers<T> numbers = numbers_of(this->p, this->piece, y, x, count);
    this->add_differences(y, x, count, numbers, sums);
    PixelStatistic<kImages, T> pixels[kOutputs];
    const DoubledStabilizers<T> stabilizers = stabilizers_of(this->p, this->piece);
    const T shift_s = this->shift.x + this->shift.y;
    const T shift_d = this->shift.x - this->shift.y;
#pragma unroll
    for (int o = 0; o < kOutputs; ++o) {
      const T by_seen = reciprocal_of_seen(merged[0][o]);
      const SsimTerms<T> terms = ssim_terms(merged[1][o], merged[2][o], by_seen * merged[3][o],
                                            by_seen * merged[4][o], stabilizers);
      const Moments<T> shifted = {merged[1][o] - shift_s, merged[2][o] - shift_d, T(0), T(0)};
      pixels[o] = pixel_statistic<FUSED_SSIM_STATISTIC_SSIM, kImages>(shifted, terms, stabilizers);
      mask_pixel(by_seen, by_seen, &pixels[o]);
    }
    this->finish_pixels(y, x, count, numbers, pixels, sums);
  }
};

// The same over a volume, whose maps are merged along depth already.
template <class T, int kImages>
struct MaskedVolumePass : MaskedMomentsPass<T, kImages> {
  static constexpr int kInputs = kMaskedMaps;
  static constexpr int kOrigins = 0;

  __device__ __forceinline__ void stage(const SeparableRow& at, T* staged, int input_stride) const {
    stage_maps<kInputs>(this->p, this->piece, at, staged, input_stride);
  }
  __device__ __forceinline__ void prepare(const SeparableRow& at, T* staged,
                                          int input_stride) const {
    constexpr T kOutside[kInputs] = {T(1), T(0), T(0), T(0), T(0)};
    fill_outside(at, kOutside, staged, input_stride);
  }
  __device__ __forceinline__ void filter_row(const T* taps, const T* staged, int input_stride,
                                             T (&merged)[kInputs][kSeparableOutputs<T>]) const {
    filter_masked<kInputs>(taps, this->p.window_columns,
                           MapRow<T, kInputs>{staged, input_stride, {}},
                           MapRow<T, kMaskedImages>{staged, input_stride, {}}, merged);
  }
};

}  // namespace fused_ssim::cuda::separable
