// The two passes of the separable kernels: what is staged, how it is filtered, and what becomes of a
// column of filtered maps.
#pragma once

#include "core/pointwise.h"
#include "cuda/separable_pieces.cuh"

namespace fused_ssim::cuda::separable {

// Of the pixels that a thread has worked on, the parts of the value and of the mean squared error:
// in shared memory, because registers limit how many blocks a multiprocessor holds.
struct ThreadSums {
  double* sums;

  __device__ __forceinline__ double& operator[](int i) const {
    return sums[i * kThreads + thread_index()];
  }
};

// The first pass. A pass says what is staged, how staged rows are prepared and filtered, and what
// becomes of a column of filtered maps.
template <class T, int kImages>
struct MomentsPass {
  static constexpr int kBlocks = kSeparableBlocksPerMultiprocessor;
  static constexpr int kInputs = 2;
  static constexpr int kMaps = 4;
  static constexpr int kOutputs = kSeparableOutputs<T>;
  static constexpr bool kHasSums = true;
  static constexpr int kPartials = partial_maps(kImages);
  static constexpr bool kGradient = kPartials > 0;
  const SeparableParams<T>& p;
  Piece piece;
  Shift<T> shift = {};
  T means[2] = {};   // what the filters make of the shifts of s and d
  T delta_s = T(0);  // from the shift of the partial derivatives in memory to this one
  T delta_d = T(0);

  __device__ __forceinline__ void start() {
    // In a loop, since it is much code.
    Shift<T> stored = {};
#pragma unroll 1
    for (bool whole = kGradient && p.partials != nullptr;; whole = false) {
      shift = sampled_shift(p, piece, whole);
      if (!whole) {
        break;
      }
      stored = shift;
    }
    means[0] = shift.x + shift.y;
    means[1] = shift.x - shift.y;
    filter_constants(p, means);
    delta_s = (shift.x - stored.x) + (shift.y - stored.y);
    delta_d = (shift.x - stored.x) - (shift.y - stored.y);
  }

  static constexpr int kOrigins = 2;
  __device__ __forceinline__ const char* origin(int input, int64_t y, int64_t x) const {
    return pixel_at(input == 0 ? p.img1 : p.img2, piece, y, x);
  }

  // Of a row of an image, elements as they are in memory.
  __device__ __forceinline__ void stage(const SeparableRow& at, T* staged, int input_stride) const {
    if (p.quads1 && p.quads2 && p.img1.dtype == kDTypeOf<T> && p.img2.dtype == kDTypeOf<T>) {
      // Of most problems, in as few instructions as possible. All of a vector is there, or none: then
      // nothing is read, and the address, which must be aligned all the same, is that of the image.
      const bool is_inside = at.begin < at.end;
      const int begin = is_inside ? at.begin : 0;
      const char* x = is_inside ? at.first(0, p.img1.row) : p.img1.data;
      const char* y = is_inside ? at.first(1, p.img2.row) : p.img2.data;
      at.for_vectors<T>([&](int column, int) {
        const int64_t from = static_cast<int64_t>(sizeof(T)) * (column - begin);
        const int size = column >= at.begin && column < at.end ? 16 : 0;
        copy_async<16>(staged + column, x + from, size);
        copy_async<16>(staged + input_stride + column, y + from, size);
      });
      return;
    }
#pragma unroll 1
    for (int i = 0; i < 2; ++i) {
      stage(at, i, i == 0 ? p.img1 : p.img2, i == 0 ? p.quads1 : p.quads2,
            staged + i * input_stride);
    }
  }
  __device__ __forceinline__ void stage(const SeparableRow& at, int input, const InputImage& image,
                                        bool quads, T* staged) const {
    constexpr int kVector = kSeparableVector<T>;
    // Where nothing is copied the address is that of any element.
    const char* row = at.begin < at.end ? at.first(input, image.row) : image.data;
    const auto copy_quads = [&](auto element) {
      constexpr int kElement = sizeof(element);
      at.for_vectors<T>([&](int column, int count) {
        // All of a vector is there, or none: then the address is that of any.
        copy_async<kVector * kElement>(
            staged + column, count > 0 ? row + (column - at.begin) * kElement : image.data,
            count > 0 ? kVector * kElement : 0);
      });
    };
    const auto copy_each = [&](const auto& copy) {
      this->copy_each(at, row, image.column, staged, copy);
    };
    if (image.dtype == kDTypeOf<T>) {
      if (quads) {
        copy_quads(T(0));
      } else {
        copy_each([](T* to, const char* from, bool inside) {
          copy_async<sizeof(T)>(to, from, inside ? static_cast<int>(sizeof(T)) : 0);
        });
      }
    } else if constexpr (sizeof(T) == 4) {
      if (!quads) {
        copy_each(
            [](T* to, const char* from, bool inside) { copy_word(to, from, inside ? 4 : 0); });
      } else if (image.dtype == DType::kUInt8) {
        copy_quads(static_cast<unsigned char>(0));
      } else {
        copy_quads(static_cast<unsigned short>(0));
      }
    } else {
      copy_each([&](T* to, const char* from, bool inside) {
        *to = inside ? load_element<T>(from, image) : T(0);
      });
    }
  }

  // copy(to, from, whether there is such a pixel) for each element of a row, whose first is at `row`.
  template <class Copy>
  __device__ __forceinline__ void copy_each(const SeparableRow& at, const char* row, int64_t stride,
                                            T* staged, const Copy& copy) const {
    at.for_vectors<T>([&](int column, int count) {
#pragma unroll
      for (int j = 0; j < kSeparableVector<T>; ++j) {
        const bool inside = j < count;
        copy(staged + column + j, row + (inside ? (column + j - at.begin) * stride : int64_t{0}),
             inside);
      }
    });
  }

  // Staged elements of both images -> s, d.
  __device__ __forceinline__ void prepare(const SeparableRow& at, T* staged,
                                          int input_stride) const {
    at.for_vectors<T>([&](int column, int) {
      T* to_s = staged + column;
      T* to_d = to_s + input_stride;
      const Vector<T> xs = numbers(at, p.img1, p.quads1, column, load_vector(to_s));
      const Vector<T> ys = numbers(at, p.img2, p.quads2, column, load_vector(to_d));
      Vector<T> s;
      Vector<T> d;
#pragma unroll
      for (int i = 0; i < kSeparableVector<T>; ++i) {
        const T shifted_x = xs.of[i] - shift.x;
        const T shifted_y = ys.of[i] - shift.y;
        s.of[i] = shifted_x + shifted_y;
        d.of[i] = shifted_x - shifted_y;
      }
      *reinterpret_cast<Vector<T>*>(to_s) = s;
      *reinterpret_cast<Vector<T>*>(to_d) = d;
    });
  }
  __device__ __forceinline__ Vector<T> numbers(const SeparableRow& at, const InputImage& image,
                                               bool quads, int column,
                                               const Vector<T>& staged) const {
    if constexpr (sizeof(T) == 4) {
      if (image.dtype != DType::kFloat32) {
        const float4 copied = make_float4(staged.of[0], staged.of[1], staged.of[2], staged.of[3]);
        const float4 quad =
            quads ? raw_quad_to_float(copied, image)
                  : narrow_words_to_float(
                        copied, pixel_at(image, piece, at.y(), at.left() + column), image);
        return {{quad.x, quad.y, quad.z, quad.w}};
      }
    }
    return staged;
  }

  struct NoPixels {};
  __device__ __forceinline__ NoPixels load(int64_t, int64_t, int) const { return {}; }

  __device__ __forceinline__ void filter_row(const T* taps, const T* staged, int input_stride,
                                             T (&filtered)[kMaps][kOutputs]) const {
    filter(taps, p.window_columns, PixelRow<T>{{staged, input_stride, {}}}, filtered);
  }
  __device__ __forceinline__ void filter_column(const T* taps, const Ring<T>& ring, int cell,
                                                T (&filtered)[kMaps][kOutputs]) const {
    filter(taps, p.window_rows, RingColumn<T, kMaps>{ring, cell}, filtered);
  }

  // Pixels (y, x) .. (y + count - 1, x), all of them own.
  __device__ __forceinline__ void finish(int64_t y, int64_t x, int count,
                                         const T (&filtered)[kMaps][kOutputs], const NoPixels&,
                                         const ThreadSums& sums) const {
    const PixelNumbers<T> numbers = numbers_of(p, piece, y, x, count);
    add_differences(y, x, count, numbers, sums);
    PixelStatistic<kImages, T> pixels[kOutputs];
    const DoubledStabilizers<T> stabilizers = stabilizers_of(p, piece);
#pragma unroll
    for (int o = 0; o < kOutputs; ++o) {
      const Moments<T> moments = {filtered[0][o], filtered[1][o], filtered[2][o], filtered[3][o]};
      pixels[o] = pixel_statistic<FUSED_SSIM_STATISTIC_SSIM, kImages>(moments, means[0], means[1],
                                                                      stabilizers);
    }
    finish_pixels(y, x, count, numbers, pixels, sums);
  }

  __device__ __forceinline__ void add_differences(int64_t y, int64_t x, int count,
                                                  const PixelNumbers<T>& mask,
                                                  const ThreadSums& sums) const {
    if (p.l1_weight != 0.0 || p.l2_weight != 0.0 || p.sums[1].value != nullptr) {
      T a[kOutputs];
      T b[kOutputs];
      load_column(p.img1, pixel_at(p.img1, piece, y, x), count, a);
      load_column(p.img2, pixel_at(p.img2, piece, y, x), count, b);
      T absolute = T(0);
      T squares = T(0);
      if (p.mask.data != nullptr) {
#pragma unroll
        for (int o = 0; o < kOutputs; ++o) {
          const T difference = select_positive(mask.of[o], a[o] - b[o], T(0));
          absolute = multiply_add(mask.of[o], fabs(difference), absolute);
          squares = multiply_add(mask.of[o] * difference, difference, squares);
        }
      } else {
#pragma unroll
        for (int o = 0; o < kOutputs; ++o) {  // a and b are 0 from count on
          absolute += fabs(a[o] - b[o]);
          squares = multiply_add(a[o] - b[o], a[o] - b[o], squares);
        }
      }
      sums[1] += static_cast<double>(squares);
      if (p.l1_weight != 0.0) {
        sums[0] += p.l1_weight * static_cast<double>(absolute);
      }
      if (p.l2_weight != 0.0) {
        sums[0] += p.l2_weight * static_cast<double>(squares);
      }
    }
  }

  // What becomes of the statistics of a thread's pixels.
  __device__ __forceinline__ void finish_pixels(int64_t y, int64_t x, int count,
                                                const PixelNumbers<T>& mask,
                                                PixelStatistic<kImages, T> (&pixels)[kOutputs],
                                                const ThreadSums& sums) const {
    T sum = T(0);
    if (p.mask.data == nullptr) {
#pragma unroll
      for (int o = 0; o < kOutputs; ++o) {
        sum += o < count ? pixels[o].value() : T(0);
      }
    } else {
      const T inverse = kGradient ? inverse_divisor(p.divisors, piece.batch, piece.channel) : T(1);
#pragma unroll
      for (int o = 0; o < kOutputs; ++o) {  // numbers are 0 from count on
        const T number = mask.of[o];
        mask_pixel(number, p.map_gradient.data != nullptr ? T(1) : number * inverse, &pixels[o]);
        sum = multiply_add(number, multiply_add(T(-2), pixels[o].loss, p.statistic_offset), sum);
      }
    }
    if (p.map != nullptr) {
      const int64_t plane = piece.batch * p.channels + piece.channel;
      T* to =
          p.map + plane * p.map_plane + (y - p.value.top) * p.value.columns + (x - p.value.left);
#pragma unroll
      for (int o = 0; o < kOutputs; ++o) {
        if (o < count) {
          to[o * p.value.columns] = pixels[o].value();
        }
      }
    }
    if constexpr (kGradient) {
      if (p.partials != nullptr) {
        store_partials(y, x, count, pixels);
      }
    }
    if (p.statistic_weight != 0.0) {
      sums[0] += p.statistic_weight * static_cast<double>(sum);
    }
  }

  __device__ __forceinline__ void store_partials(
      int64_t y, int64_t x, int count, PixelStatistic<kImages, T> (&pixels)[kOutputs]) const {
#pragma unroll
    for (int o = 0; o < kOutputs; ++o) {
      T(&partials)[kPartials] = pixels[o].partials;
      // s and d of the other shift are these plus delta_s and delta_d.
      const T by_s = delta_s * partials[1];
      const T by_d = delta_d * partials[2];
      partials[0] -= by_s + by_d;
      if constexpr (kImages == 2) {
        partials[3] -= by_s - by_d;
      }
    }
    if (p.map_gradient.data != nullptr) {
      T weights[kOutputs];
      load_elements<T>(
          weight_at(p, piece, y, x), p.map_gradient.row, First{count},
          [](T number) { return number; }, weights);
#pragma unroll
      for (int o = 0; o < kOutputs; ++o) {
        for (T& partial : pixels[o].partials) {
          partial *= weights[o];
        }
      }
    }
    T* to = partials_at<kPartials>(p, piece, y, x - p.value.left);
#pragma unroll
    for (int o = 0; o < kOutputs; ++o) {
      if (o < count) {
#pragma unroll
        for (int m = 0; m < kPartials; ++m) {
          to[(o * kPartials + m) * kPartialColumns] = pixels[o].partials[m];
        }
      }
    }
  }
};

// Begins to copy a row of a slice's maps.
template <int kMaps, class T>
__device__ __forceinline__ void stage_maps(const SeparableParams<T>& p, const Piece& piece,
                                           const SeparableRow& at, T* staged, int input_stride) {
  const int64_t map = p.image.rows * p.volume.pitch;
  const T* row = p.volume.maps;
  if (at.begin < at.end) {
    row += (piece.channel - p.first_plane) * kMaps * map + at.y() * p.volume.pitch + at.left() +
           at.begin;
  }
  at.template for_vectors<T>([&](int column, int count) {
    const T* from = count > 0 ? row + (column - at.begin) : p.volume.maps;
#pragma unroll
    for (int m = 0; m < kMaps; ++m) {
      copy_async<16>(staged + m * input_stride + column, from + m * map,
                     count * static_cast<int>(sizeof(T)));
    }
  });
}
// What the maps are beyond the slice.
template <int kMaps, class T>
__device__ __forceinline__ void fill_outside(const SeparableRow& at, const T (&outside)[kMaps],
                                             T* staged, int input_stride) {
  if (at.begin == 0 && at.end >= at.columns) {
    return;
  }
  at.template for_vectors<T>([&](int column, int count) {
#pragma unroll
    for (int i = 0; i < kSeparableVector<T>; ++i) {
      if (i >= count) {
#pragma unroll
        for (int m = 0; m < kMaps; ++m) {
          staged[m * input_stride + column + i] = outside[m];
        }
      }
    }
  });
}

// The first pass over a volume: of a slice the maps that are filtered along depth already.
template <class T, int kImages>
struct VolumeMomentsPass : MomentsPass<T, kImages> {
  static constexpr int kInputs = kSeparableMaps;
  static constexpr int kOrigins = 0;
  T outside[kSeparableMaps] = {};  // the maps beyond the slice

  __device__ __forceinline__ void start() {
    const auto& p = this->p;
    this->shift = sampled_shift(p, this->piece, /*whole=*/true);
    const T s = this->shift.x + this->shift.y;
    const T d = this->shift.x - this->shift.y;
    T squares[2] = {s * s, d * d};
    this->means[0] = s;
    this->means[1] = d;
    filter_constants(p.taps + p.volume.taps, p.volume.window, squares);
    filter_constants(p.taps + p.volume.taps, p.volume.window, this->means);
    outside[0] = -this->means[0];
    outside[1] = -this->means[1];
    outside[2] = squares[0];
    outside[3] = squares[1];
    filter_constants(p, this->means);
  }

  __device__ __forceinline__ void stage(const SeparableRow& at, T* staged, int input_stride) const {
    stage_maps<kInputs>(this->p, this->piece, at, staged, input_stride);
  }
  __device__ __forceinline__ void prepare(const SeparableRow& at, T* staged,
                                          int input_stride) const {
    fill_outside(at, outside, staged, input_stride);
  }
  __device__ __forceinline__ void filter_row(const T* taps, const T* staged, int input_stride,
                                             T (&filtered)[kInputs][kSeparableOutputs<T>]) const {
    filter(taps, this->p.window_columns, MapRow<T, kInputs>{staged, input_stride, {}}, filtered);
  }
};

// The second pass, of maps by_mean1, by_mean_s2, by_mean_d2 and for two images by_mean2.
template <class T, int kImages>
struct GradientPass {
  static constexpr int kBlocks = kSeparableBlocksPerMultiprocessor;
  static constexpr int kMaps = partial_maps(kImages);
  static constexpr int kInputs = kMaps;
  static constexpr int kOutputs = kSeparableOutputs<T>;
  static constexpr bool kHasSums = false;
  const SeparableParams<T>& p;
  Piece piece;
  Shift<T> shift = {};

  __device__ __forceinline__ void start() { shift = sampled_shift(p, piece, /*whole=*/true); }

  static constexpr int kOrigins = 1;
  // Of the block of columns, in the first row in memory.
  __device__ __forceinline__ const char* origin(int, int64_t, int64_t x) const {
    const int64_t column = x - p.value.left;
    return reinterpret_cast<const char*>(
        partials_at<kMaps>(p, piece, p.partials_top, column - column % kPartialColumns));
  }
  __device__ __forceinline__ void stage(const SeparableRow& at, T* staged, int input_stride) const {
    // The block of columns is that of the first one in the source.
    const int64_t first_column = at.left() - p.value.left + at.of_piece.begin;
    const auto before = static_cast<int>(first_column % kPartialColumns) - at.of_piece.begin;
    auto partials_row = static_cast<int>(at.y() - p.partials_top);
    partials_row -= partials_row >= p.partials_rows ? static_cast<int>(p.partials_rows) : 0;
    const T* row = reinterpret_cast<const T*>(at.of_piece.origins[0]) +
                   int64_t{at.begin < at.end ? partials_row : 0} * (kMaps * kPartialColumns);
    at.for_vectors<T>([&](int column, int count) {
      // Blocks are whole vectors.
      const auto x = static_cast<unsigned>(count > 0 ? before + column : 0);
      const T* from =
          row + static_cast<int64_t>(x / kPartialColumns) * p.partials_block + x % kPartialColumns;
#pragma unroll
      for (int m = 0; m < kMaps; ++m) {
        copy_async<16>(staged + m * input_stride + column, from + m * kPartialColumns,
                       count * static_cast<int>(sizeof(T)));
      }
    });
  }
  __device__ __forceinline__ void prepare(const SeparableRow&, T*, int) const {}

  // Of both images: on their way while partial derivatives are filtered.
  struct Pixels {
    T a[kOutputs];
    T b[kOutputs];
  };
  __device__ __forceinline__ Pixels load(int64_t y, int64_t x, int count) const {
    Pixels pixels;
    load_column(p.img1, pixel_at(p.img1, piece, y, x), count, pixels.a);
    load_column(p.img2, pixel_at(p.img2, piece, y, x), count, pixels.b);
    return pixels;
  }

  __device__ __forceinline__ void filter_row(const T* taps, const T* staged, int input_stride,
                                             T (&filtered)[kMaps][kOutputs]) const {
    filter(taps, p.window_columns, MapRow<T, kMaps>{staged, input_stride, {}}, filtered);
  }
  __device__ __forceinline__ void filter_column(const T* taps, const Ring<T>& ring, int cell,
                                                T (&filtered)[kMaps][kOutputs]) const {
    filter(taps, p.window_rows, RingColumn<T, kMaps>{ring, cell}, filtered);
  }

  __device__ __forceinline__ void finish(int64_t y, int64_t x, int count,
                                         const T (&filtered)[kMaps][kOutputs], const Pixels& pixels,
                                         const ThreadSums&) const {
    const auto& a = pixels.a;
    const auto& b = pixels.b;
    const bool has_differences = p.l1_factor != T(0) || p.l2_factor != T(0);
    const PixelNumbers<T> mask =
        numbers_of(p, piece, y, x, count, has_differences || p.mask_is_normalized);
    T by_difference[kOutputs] = {};
    if (has_differences && x >= p.value.left && x < p.value.left + p.value.columns &&
        slice_has_value(p, piece)) {
#pragma unroll
      for (int o = 0; o < kOutputs; ++o) {
        if (o < count && y + o >= p.value.top && y + o < p.value.top + p.value.rows) {
          by_difference[o] = difference_gradient(a[o] - b[o], p.l1_factor, p.l2_factor);
          if (p.map_gradient.data != nullptr) {
            by_difference[o] *= *reinterpret_cast<const T*>(weight_at(p, piece, y + o, x));
          }
        }
      }
      if (p.mask.data != nullptr) {
        const T inverse = inverse_divisor(p.divisors, piece.batch, piece.channel);
#pragma unroll
        for (int o = 0; o < kOutputs; ++o) {
          const T weight = p.map_gradient.data != nullptr ? T(1) : mask.of[o] * inverse;
          by_difference[o] = select_positive(mask.of[o], weight * by_difference[o], T(0));
        }
      }
    }
    T gradients[kImages][kOutputs];
#pragma unroll
    for (int o = 0; o < kOutputs; ++o) {
      const T shifted_a = a[o] - shift.x;
      const T shifted_b = b[o] - shift.y;
      const T by_s = (shifted_a + shifted_b) * filtered[1][o];
      const T by_d = (shifted_a - shifted_b) * filtered[2][o];
      gradients[0][o] = filtered[0][o] + (by_s + by_d);
      if constexpr (kImages == 2) {
        gradients[1][o] = filtered[3][o] + (by_s - by_d);
      }
    }
    if (p.mask_is_normalized) {
#pragma unroll
      for (int o = 0; o < kOutputs; ++o) {
#pragma unroll
        for (int image = 0; image < kImages; ++image) {
          gradients[image][o] = select_positive(mask.of[o], mask.of[o] * gradients[image][o], T(0));
        }
      }
    }
#pragma unroll
    for (int o = 0; o < kOutputs; ++o) {
#pragma unroll
      for (int image = 0; image < kImages; ++image) {
        const T of_difference = image == 0 ? by_difference[o] : -by_difference[o];
        // A factor of 0 leaves the statistic out, which may be NaN.
        gradients[image][o] =
            p.statistic_factor == T(0)
                ? of_difference
                : multiply_add(p.statistic_factor, gradients[image][o], of_difference);
      }
    }
    store_column(p.grad1, pixel_at(p.grad1, piece, y, x), count, gradients[0]);
    if constexpr (kImages == 2) {
      store_column(p.grad2, pixel_at(p.grad2, piece, y, x), count, gradients[1]);
    }
  }
};

}  // namespace fused_ssim::cuda::separable
