// A piece of a strip, what the separable kernels' passes ask about it: its shift, its rows on their way
// to shared memory, its place in the partial derivatives.
#pragma once

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
  int row;   // of the chunk
  int step;  // of the piece
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

}  // namespace fused_ssim::cuda::separable
