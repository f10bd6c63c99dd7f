// The two passes of the separable kernels: what is staged, how it is filtered, and what becomes of a
// column of filtered maps.
#pragma once

#include "core/pointwise.h"
#include "cuda/division.cuh"
#include "cuda/separable_filters.cuh"
#include "cuda/shift.cuh"

namespace fused_ssim::cuda::separable {

// A strip's rows [top, top + rows) and columns from `left` on, of the image.
struct Piece {
  int64_t batch;
  int channel;
  int64_t top;
  int64_t left;
  int rows;
};
constexpr int64_t kMaxPieceChunks = 1 << 20;

template <class Byte>
__device__ __forceinline__ Byte* pixel_at(const ByteImage<Byte>& image, const Piece& piece,
                                          int64_t y, int64_t x) {
  return image.data + piece.batch * image.batch + piece.channel * image.channel + y * image.row +
         x * image.column;
}

template <class T>
__device__ __forceinline__ bool slice_has_value(const SeparableParams<T>& p, const Piece& piece) {
  const int64_t slice = piece.channel - p.volume.value_front;
  return p.volume.maps == nullptr || (slice >= 0 && slice < p.volume.value_slices);
}

// The number of map_gradient for a pixel.
template <class T>
__device__ __forceinline__ const char* weight_at(const SeparableParams<T>& p, const Piece& piece,
                                                 int64_t y, int64_t x) {
  return pixel_at(p.map_gradient, piece, y - p.value.top, x - p.value.left);
}

template <class T>
__device__ __forceinline__ DoubledStabilizers<T> stabilizers_of(const SeparableParams<T>& p,
                                                                const Piece& piece) {
  DoubledStabilizers<T> doubled = p.stabilizers;
  if (p.own_stabilizers != nullptr) {
    const T* own = p.own_stabilizers + 2 * piece.batch;
    const T* scales = p.stabilizer_scales;
    doubled.c1 = scales[0] != T(0) ? scales[0] * __ldcg(own) : doubled.c1;
    doubled.c2 = scales[1] != T(0) ? scales[1] * __ldcg(own + 1) : doubled.c2;
  }
  return doubled;
}

// The mask's numbers of a thread's pixels, where there is a mask.
template <class T>
struct PixelNumbers {
  T of[kSeparableOutputs<T>];
};
template <class T>
__device__ __forceinline__ PixelNumbers<T> numbers_of(const SeparableParams<T>& p,
                                                      const Piece& piece, int64_t y, int64_t x,
                                                      int count, bool wanted = true) {
  PixelNumbers<T> numbers = {};
  if (wanted && p.mask.data != nullptr) {
    load_mask_column(p.mask, pixel_at(p.mask, piece, y, x), count, numbers.of);
  }
  return numbers;
}

// Moves a sample to the next pixel down the diagonal that the mask lets see, if there is one close by.
template <class T>
__device__ __forceinline__ bool find_seen(const SeparableParams<T>& p, const Piece& piece,
                                          int64_t bottom, int64_t right, SamplePoint* at) {
  constexpr int kTries = 8;
  const SamplePoint first = *at;
#pragma unroll 1
  for (int i = 0; i < kTries; ++i) {
    *at = {min(first.y + i, bottom - 1), min(first.x + i, right - 1)};
    if (load_mask_number<T>(pixel_at(p.mask, piece, at->y, at->x), p.mask) > T(0)) {
      return true;
    }
  }
  return false;
}

// The shift of a piece: of all pixels that its windows see, be it by their edge. Or that of the
// partial derivatives in memory, which is the same whichever piece they come from, of the `whole`
// plane. Of a volume it is always that of all slices, from samples of four of them. Images smaller
// than their window count with the zeros around them.
template <class T>
__device__ __forceinline__ Shift<T> sampled_shift(const SeparableParams<T>& p, Piece piece,
                                                  bool whole) {
  int64_t top = 0;
  int64_t bottom = p.image.rows;
  int64_t left = 0;
  int64_t right = p.image.columns;
  T covered = T(1);
  const bool is_volume = p.volume.maps != nullptr;
  if (is_volume) {
    const int lane = lane_index();
    piece.channel = static_cast<int>(p.volume.slices * (2 * ((lane + lane / 8) % 4) + 1) / 8);
    covered = min(T(1), T(p.volume.slices) / T(p.volume.window));
  } else if (!whole) {
    const int around_y = p.window_rows / 2;
    const int around_x = p.window_columns / 2;
    top = max(piece.top - around_y, top);
    bottom = min(piece.top + piece.rows + around_y, bottom);
    left = max(piece.left - around_x, left);
    right = min(piece.left + p.layout.columns + around_x, right);
  }
  if (is_volume || !whole) {
    covered *= min(T(1), T(p.image.rows) / T(p.window_rows)) *
               min(T(1), T(p.image.columns) / T(p.window_columns));
  }
  SamplePoint at = sample_point(top, bottom, left, right);
  const bool is_seen = !p.mask_is_normalized || find_seen(p, piece, bottom, right, &at);
  Samples<T> samples = {T(INFINITY), T(INFINITY)};  // which do not count
  if (is_seen) {
    samples = {load_pixel<T>(pixel_at(p.img1, piece, at.y, at.x), p.img1),
               load_pixel<T>(pixel_at(p.img2, piece, at.y, at.x), p.img2)};
  }
  __syncthreads();  // tells the compiler that warps are whole, like reconverge(), which it believes less
  Shift<T> shift = trimmed_means(samples, /*midway=*/p.map != nullptr);
  shift.x *= covered;
  shift.y *= covered;
  return shift;
}

// What the filters make of images that are `values` everywhere, rounding and all: where little of a
// window lies in the image, what they make of the shifted zeros beyond it must cancel.
template <class T>
__device__ __forceinline__ void filter_constants(const T* taps, int size, T (&values)[2]) {
  T sums[2] = {};
#pragma unroll 4
  for (int k = 0; k < size; ++k) {
    sums[0] = multiply_add(values[0], taps[k], sums[0]);
    sums[1] = multiply_add(values[1], taps[k], sums[1]);
  }
  values[0] = sums[0];
  values[1] = sums[1];
}
template <class T>
__device__ __forceinline__ void filter_constants(const SeparableParams<T>& p, T (&values)[2]) {
  filter_constants(p.taps, p.window_columns, values);
  filter_constants(p.taps + p.layout.row_taps, p.window_rows, values);
}

// What is the same for all rows that a piece stages. In shared memory: registers are short, and working
// it out anew for each row took a tenth of the time. Columns count from the first of those staged.
struct StagedPiece {
  const char* origins[kMaskedImages];  // of inputs: the element at column `begin` of the first row
  int64_t first_row;                   // in the image, like `left`
  int64_t left;
  int begin;  // columns [begin, end) are in the source, `begin` a multiple of a vector
  int end;

  // By one thread.
  template <class T, class Pass>
  __device__ __forceinline__ void start(const SeparableParams<T>& p, const Pass& pass) {
    const int columns = p.layout.staged_columns;
    first_row = pass.piece.top - p.window_rows / 2;
    const int64_t first_column = pass.piece.left - p.window_columns / 2;
    const auto clamped = [&](int64_t x) {
      return static_cast<int>(
          max(int64_t{0}, min(x - first_column, static_cast<int64_t>(columns))));
    };
    left = first_column;
    begin = clamped(p.source.left);
    end = clamped(p.source.left + p.source.columns);
#pragma unroll
    for (int i = 0; i < Pass::kOrigins; ++i) {
      origins[i] = pass.origin(i, first_row, first_column + clamped(p.source.left));
    }
  }
};

// A thread's part of the rows to stage: one row, of which it copies and prepares every so many
// vectors.
struct SeparableRow {
  const StagedPiece& of_piece;
  int row;      // of the chunk
  int step;     // of the piece
  int lane;
  int columns;  // to stage
  int begin;    // columns [begin, end) are in the source
  int end;

  template <class T>
  static __device__ __forceinline__ SeparableRow of(const SeparableParams<T>& p,
                                                    const StagedPiece& of_piece, int first_step) {
    constexpr int kLanes = kThreads / kSeparableChunkRows<T>;
    const int thread = thread_index();
    const int row = thread / kLanes;
    SeparableRow at = {of_piece, row, first_step + row, thread % kLanes, p.layout.staged_columns,
                       0,        0};
    const auto in_source = static_cast<uint64_t>(at.y() - p.source.top);
    if (in_source < static_cast<uint64_t>(p.source.rows)) {
      at.begin = of_piece.begin;
      at.end = of_piece.end;
    }
    return at;
  }

  // In the image.
  __device__ __forceinline__ int64_t y() const { return of_piece.first_row + step; }
  __device__ __forceinline__ int64_t left() const { return of_piece.left; }
  // The element at column `begin` of an input's row.
  __device__ __forceinline__ const char* first(int input, int64_t row_stride) const {
    return of_piece.origins[input] + step * row_stride;
  }

  // Calls body(first column, number of columns in the image).
  template <class T, class Body>
  __device__ __forceinline__ void for_vectors(const Body& body) const {
    constexpr int kVector = kSeparableVector<T>;
    constexpr int kLanes = kThreads / kSeparableChunkRows<T>;
#pragma unroll 1
    for (int column = lane * kVector; column < columns; column += kLanes * kVector) {
      body(column, column >= begin ? max(0, min(kVector, end - column)) : 0);
    }
  }
};

// Where the partial derivatives of a pixel lie: map m of the pixel o rows below is
// m * kPartialColumns + o * kMaps * kPartialColumns further on, up to the end of the rows. `column`
// counts from the first that has a value.
template <int kMaps, class T>
__device__ __forceinline__ T* partials_at(const SeparableParams<T>& p, const Piece& piece,
                                          int64_t y, int64_t column) {
  const int64_t plane = piece.batch * p.channels + piece.channel - p.first_plane;
  int64_t row = y - p.partials_top;
  row -= row >= p.partials_rows ? p.partials_rows : 0;
  return p.partials + plane * p.partials_plane + column / kPartialColumns * p.partials_block +
         row * (kMaps * kPartialColumns) + column % kPartialColumns;
}

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
      // nothing is read.
      const char* x = at.first(0, p.img1.row);
      const char* y = at.first(1, p.img2.row);
      at.for_vectors<T>([&](int column, int) {
        const int64_t from = static_cast<int64_t>(sizeof(T)) * (column - at.begin);
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
                  : narrow_words_to_float(copied, pixel_at(image, piece, at.y(), at.left() + column),
                                          image);
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
      load_elements<T>(weight_at(p, piece, y, x), p.map_gradient.row, count,
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
    row +=
        (piece.channel - p.first_plane) * kMaps * map + at.y() * p.volume.pitch + at.left() + at.begin;
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
    if (has_differences && x >= p.value.left &&
        x < p.value.left + p.value.columns && slice_has_value(p, piece)) {
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
