// SSIM for every window and type that the fast kernels lack: long, asymmetric or different windows
// along the axes, float64, uint8, two dtypes. Two passes of one schedule:
//
//   moments   loads pixels and filters s, d, s^2, d^2: sums, map, and the partial derivatives,
//             which go to memory
//   gradient  loads the partial derivatives and filters them with the mirrored windows: gradients
//
//            columns of a strip, and those around them that the window needs
//           +-----------------------------------------+
//   stage   |  next rows of each input                |  asynchronous, while the columns before are
//           +-----------------------------------------+  filtered; pixels become s and d in place
//   rows    |       row by row, 8 columns a thread    |  four maps into a ring of rows
//           +-----------------------------------------+
//   columns |       8 rows of a column a thread       |  ring -> moments -> statistic -> outputs
//           +-----------------------------------------+
//
// A block marches down its strip in chunks of 32 rows (float64: 16, and 4 pixels a thread), with
// two barriers a chunk. Both filters are one function, whose window of inputs stays in registers: a
// tap costs as many multiply-adds as outputs and maps, and the load of one more input.
//
// Global memory per pixel of accumulation type T: the first pass reads both images and writes 3 T
// (4 T for both gradients) of partial derivatives, the second reads these and both images and
// writes the gradients.
#include <type_traits>

#include "core/pointwise.h"
#include "cuda/image_access.cuh"
#include "cuda/launches.h"
#include "cuda/reduction.cuh"
#include "cuda/separable.h"
#include "cuda/shift.cuh"

namespace fused_ssim::cuda {
namespace {

constexpr int kThreads = kSeparableThreads;

// ---- Loader -------------------------------------------------------------------------------------

// Reads `count` elements, `stride` bytes apart, and makes numbers of them; zeros follow.
template <class Element, class T, int kCount, class ToNumber>
__device__ __forceinline__ void load_as(const char* first, int64_t stride, int count,
                                        T (&pixels)[kCount], const ToNumber& to_number) {
  Element elements[kCount] = {};
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if (i < count) {
      elements[i] = *reinterpret_cast<const Element*>(first + i * stride);
    }
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    pixels[i] = to_number(elements[i]);
  }
}

// Of the dtypes that go with an accumulation type: uint8 with both, float64 with itself alone.
template <class T, int kCount>
__device__ __forceinline__ void load_pixels(const char* first, int64_t stride, int count,
                                            int32_t dtype, const Uint8Scale<T>& scale,
                                            T (&pixels)[kCount]) {
  if (dtype == FUSED_SSIM_UINT8) {
    load_as<unsigned char>(first, stride, count, pixels, [&](unsigned char byte) {
      // The correctly rounded quotient: equal to that of a float image where pixels agree.
      const T number = byte;
      const T quotient = number * scale.reciprocal;
      return multiply_add(multiply_add(-quotient, scale.divisor, number), scale.reciprocal,
                          quotient);
    });
  } else if (sizeof(T) == sizeof(double) || dtype == FUSED_SSIM_FLOAT32) {
    load_as<T>(first, stride, count, pixels, [](T number) { return number; });
  } else {
    const bool is_half = dtype == FUSED_SSIM_FLOAT16;
    load_as<unsigned short>(first, stride, count, pixels, [&](unsigned short bits) {
      return static_cast<T>(is_half ? half_bits_to_float(bits) : bfloat_bits_to_float(bits));
    });
  }
}

// The first `count` of them to memory.
template <class T, int kCount>
__device__ __forceinline__ void store_pixels(char* first, int64_t stride, int count, int32_t dtype,
                                             const T (&pixels)[kCount]) {
  const auto store = [&](auto to_element) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (i < count) {
        const auto element = to_element(pixels[i]);
        *reinterpret_cast<std::remove_const_t<decltype(element)>*>(first + i * stride) = element;
      }
    }
  };
  if (sizeof(T) == sizeof(double) || dtype == FUSED_SSIM_FLOAT32) {
    store([](T pixel) { return pixel; });
  } else if (dtype == FUSED_SSIM_FLOAT16) {
    store([](T pixel) { return __float2half_rn(static_cast<float>(pixel)); });
  } else {
    store([](T pixel) { return __float2bfloat16_rn(static_cast<float>(pixel)); });
  }
}

// ---- Taps ---------------------------------------------------------------------------------------

template <class T>
struct alignas(16) Vector {
  T of[kSeparableVector<T>];
};
template <class T>
__device__ __forceinline__ Vector<T> load_vector(const T* from) {
  return *reinterpret_cast<const Vector<T>*>(from);
}

// sums[m][o] = the sum over k < size of taps[k] * (input o + k of map m). `source` has the inputs
// in blocks of as many as there are outputs; input i lies at index i % outputs of `window` while it
// is needed, so that nothing moves.
template <int kMaps, class T, int kOutputs, class Source>
__device__ __forceinline__ void filter(const T* taps, int size, Source source,
                                       T (&sums)[kMaps][kOutputs]) {
  constexpr int kVector = kSeparableVector<T>;
  T window[kMaps][kOutputs];
#pragma unroll
  for (int i = 0; i < kOutputs; ++i) {
    T input[kMaps];
    source.read(i, input);
#pragma unroll
    for (int m = 0; m < kMaps; ++m) {
      window[m][i] = input[m];
      sums[m][i] = T(0);
    }
  }
#pragma unroll 1
  for (int first = 0;; first += kOutputs) {
    source.next_block();
    Vector<T> tap = {};
#pragma unroll
    for (int j = 0; j < kOutputs; ++j) {
      if (first + j == size) {
        return;
      }
      if (j % kVector == 0) {
        tap = load_vector(taps + first + j);
      }
      // Needed from the next tap on; after the last one it is not, and may be anything.
      T next[kMaps];
      source.read(j, next);
#pragma unroll
      for (int m = 0; m < kMaps; ++m) {
#pragma unroll
        for (int o = 0; o < kOutputs; ++o) {
          sums[m][o] = multiply_add(window[m][(o + j) % kOutputs], tap.of[j % kVector], sums[m][o]);
        }
        window[m][j] = next[m];
      }
    }
  }
}

// s, d, s^2, d^2 of a staged row.
template <class T>
struct PixelRow {
  static constexpr int kVector = kSeparableVector<T>;
  const T* s;
  const T* d;
  Vector<T> s_at_once;
  Vector<T> d_at_once;

  __device__ __forceinline__ void read(int i, T (&input)[4]) {
    if (i % kVector == 0) {
      s_at_once = load_vector(s + i);
      d_at_once = load_vector(d + i);
    }
    input[0] = s_at_once.of[i % kVector];
    input[1] = d_at_once.of[i % kVector];
    input[2] = input[0] * input[0];
    input[3] = input[1] * input[1];
  }
  __device__ __forceinline__ void next_block() {
    s += kSeparableOutputs<T>;
    d += kSeparableOutputs<T>;
  }
};

// Maps of a staged row.
template <class T, int kMaps>
struct MapRow {
  static constexpr int kVector = kSeparableVector<T>;
  const T* row;
  int map;  // stride
  Vector<T> at_once[kMaps];

  __device__ __forceinline__ void read(int i, T (&input)[kMaps]) {
#pragma unroll
    for (int m = 0; m < kMaps; ++m) {
      if (i % kVector == 0) {
        at_once[m] = load_vector(row + m * map + i);
      }
      input[m] = at_once[m].of[i % kVector];
    }
  }
  __device__ __forceinline__ void next_block() { row += kSeparableOutputs<T>; }
};

// Row-filtered maps: cells of 16 bytes, which hold as many maps of a pixel as there is room for,
// the other maps in a second plane. Row y is at y % rows.
template <class T>
struct Ring {
  static constexpr int kCellMaps = kSeparableVector<T>;
  Vector<T>* cells;
  int pitch;
  int size;  // cells of a plane

  template <int kMaps>
  __device__ __forceinline__ void store(int cell, const T (&maps)[kMaps]) const {
#pragma unroll
    for (int first = 0; first < kMaps; first += kCellMaps) {
      Vector<T> vector;
#pragma unroll
      for (int i = 0; i < kCellMaps; ++i) {
        vector.of[i] = first + i < kMaps ? maps[first + i] : T(0);
      }
      cells[first / kCellMaps * size + cell] = vector;
    }
  }
};
template <class T, int kMaps>
struct RingColumn {
  Ring<T> ring;
  int cell;

  __device__ __forceinline__ void read(int i, T (&input)[kMaps]) const {
    constexpr int kCellMaps = Ring<T>::kCellMaps;
#pragma unroll
    for (int first = 0; first < kMaps; first += kCellMaps) {
      const Vector<T> vector = ring.cells[first / kCellMaps * ring.size + cell + i * ring.pitch];
#pragma unroll
      for (int m = first; m < kMaps && m < first + kCellMaps; ++m) {
        input[m] = vector.of[m - first];
      }
    }
  }
  // The ring holds a whole number of blocks.
  __device__ __forceinline__ void next_block() {
    cell += kSeparableOutputs<T> * ring.pitch;
    cell -= cell >= ring.size ? ring.size : 0;
  }
};

// ---- The work of a block ------------------------------------------------------------------------

// A strip's rows [top, top + rows) and columns from `left` on, of the image.
struct Piece {
  int64_t batch;
  int64_t channel;
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
__device__ __forceinline__ Shift<T> range_shift(const SeparableParams<T>& p, const Piece& piece,
                                                int64_t top, int64_t bottom, int64_t left,
                                                int64_t right) {
  const SamplePoint at = sample_point(top, bottom, left, right);
  T x[1];
  T y[1];
  load_pixels(pixel_at(p.img1.at, piece, at.y, at.x), 0, 1, p.img1.dtype, p.uint8_scale, x);
  load_pixels(pixel_at(p.img2.at, piece, at.y, at.x), 0, 1, p.img2.dtype, p.uint8_scale, y);
  return trimmed_means(Samples<T>{x[0], y[0]});
}
// Of all pixels that a piece's windows see, be it by their edge; of an image smaller than its
// window with the zeros around it.
template <class T>
__device__ __forceinline__ Shift<T> piece_shift(const SeparableParams<T>& p, const Piece& piece) {
  const int around_y = p.window_rows / 2;
  const int around_x = p.window_columns / 2;
  Shift<T> shift = range_shift(p, piece, max(piece.top - around_y, int64_t{0}),
                               min(piece.top + piece.rows + around_y, p.image.rows),
                               max(piece.left - around_x, int64_t{0}),
                               min(piece.left + p.layout.columns + around_x, p.image.columns));
  const T covered = min(T(1), T(p.image.rows) / T(p.window_rows)) *
                    min(T(1), T(p.image.columns) / T(p.window_columns));
  shift.x *= covered;
  shift.y *= covered;
  return shift;
}
// The partial derivatives in memory are those for this shift, whichever piece they come from.
template <class T>
__device__ __forceinline__ Shift<T> plane_shift(const SeparableParams<T>& p, const Piece& piece) {
  return range_shift(p, piece, 0, p.image.rows, 0, p.image.columns);
}

// What the filters make of an image that is `value` everywhere, rounding and all: where little of a
// window lies in the image, what they make of the shifted zeros beyond it must cancel.
template <class T>
__device__ __forceinline__ T filtered_constant(const SeparableParams<T>& p, T value) {
  const auto filtered = [&](const T* taps, int size) {
    T sum = T(0);
#pragma unroll 1
    for (int k = 0; k < size; ++k) {
      sum = multiply_add(value, taps[k], sum);
    }
    return sum;
  };
  value = filtered(p.taps, p.window_columns);
  return filtered(p.taps + p.layout.row_taps, p.window_rows);
}

// Pixels (y, x) .. (y + count - 1, x), and zeros.
template <class T, int kCount>
__device__ __forceinline__ void load_column(const SeparableParams<T>& p,
                                            const SeparableImage& image, const Piece& piece,
                                            int64_t y, int64_t x, int count, T (&pixels)[kCount]) {
  load_pixels(pixel_at(image.at, piece, y, x), image.at.row, count, image.dtype, p.uint8_scale,
              pixels);
}
// The numbers of map_gradient for them.
template <class T, int kCount>
__device__ __forceinline__ void load_weights(const SeparableParams<T>& p, const Piece& piece,
                                             int64_t y, int64_t x, int count,
                                             T (&weights)[kCount]) {
  load_as<T>(pixel_at(p.map_gradient, piece, y - p.value.top, x - p.value.left), p.map_gradient.row,
             count, weights, [](T weight) { return weight; });
}

// Of the pixels that a thread has worked on.
struct ThreadSums {
  double value = 0.0;
  double squares = 0.0;
};

// The first pass. A pass says what is staged, how staged rows are prepared and filtered, and what
// becomes of a column of filtered maps.
template <class T, bool kGradient>
struct MomentsPass {
  static constexpr int kInputs = 2;
  static constexpr int kMaps = 4;
  static constexpr int kOutputs = kSeparableOutputs<T>;
  static constexpr bool kHasSums = true;
  static constexpr int kImages = kGradient ? 2 : 0;
  const SeparableParams<T>& p;
  Piece piece;
  Shift<T> shift = {};
  Shift<T> stored_shift = {};
  T mean_s = T(0);  // what the filters make of the shifts of s and d
  T mean_d = T(0);

  __device__ __forceinline__ void start() {
    shift = piece_shift(p, piece);
    mean_s = filtered_constant(p, shift.x + shift.y);
    mean_d = filtered_constant(p, shift.x - shift.y);
    if (kGradient) {
      stored_shift = plane_shift(p, piece);
    }
  }

  __device__ __forceinline__ SeparableImage input(int i) const {
    SeparableImage image = i == 0 ? p.img1 : p.img2;
    image.at.data = pixel_at(image.at, piece, 0, 0);
    return image;
  }

  // x, y -> s, d.
  __device__ __forceinline__ void prepare(T* x, T* y) const {
    const Vector<T> xs = load_vector(x);
    const Vector<T> ys = load_vector(y);
    Vector<T> s;
    Vector<T> d;
#pragma unroll
    for (int i = 0; i < kSeparableVector<T>; ++i) {
      const T shifted_x = xs.of[i] - shift.x;
      const T shifted_y = ys.of[i] - shift.y;
      s.of[i] = shifted_x + shifted_y;
      d.of[i] = shifted_x - shifted_y;
    }
    *reinterpret_cast<Vector<T>*>(x) = s;
    *reinterpret_cast<Vector<T>*>(y) = d;
  }

  __device__ __forceinline__ PixelRow<T> row(const T* staged, int input_stride) const {
    return {staged, staged + input_stride, {}, {}};
  }

  // Pixels (y, x) .. (y + count - 1, x), all of them own.
  __device__ __forceinline__ void finish(int64_t y, int64_t x, int count,
                                         const T (&filtered)[kMaps][kOutputs],
                                         ThreadSums* sums) const {
    if (p.l1_weight != 0.0 || p.l2_weight != 0.0 || p.sums[1].value != nullptr) {
      T a[kOutputs];
      T b[kOutputs];
      load_column(p, p.img1, piece, y, x, count, a);
      load_column(p, p.img2, piece, y, x, count, b);
      T absolute = T(0);
      T squares = T(0);
#pragma unroll
      for (int o = 0; o < kOutputs; ++o) {  // a and b are 0 from count on
        absolute += fabs(a[o] - b[o]);
        squares = multiply_add(a[o] - b[o], a[o] - b[o], squares);
      }
      sums->squares += static_cast<double>(squares);
      if (p.l1_weight != 0.0) {
        sums->value += p.l1_weight * static_cast<double>(absolute);
      }
      if (p.l2_weight != 0.0) {
        sums->value += p.l2_weight * static_cast<double>(squares);
      }
    }
    const bool weighted = kGradient && p.map_gradient.data != nullptr;
    T weights[kOutputs] = {};
    if (weighted) {
      load_weights(p, piece, y, x, count, weights);
    }
    const int64_t plane = piece.batch * p.channels + piece.channel;
    T* to_map =
        p.map + (plane * p.value.rows + (y - p.value.top)) * p.value.columns + (x - p.value.left);
    T* to_partials = p.partials + (plane - p.first_plane) * p.partials_plane +
                     (y - p.own.top) * p.partials_row + (x - p.own.left);
    T sum = T(0);
#pragma unroll
    for (int o = 0; o < kOutputs; ++o) {
      if (o < count) {
        const Moments<T> moments = {filtered[0][o], filtered[1][o], filtered[2][o], filtered[3][o]};
        PixelStatistic<kImages, T> pixel = pixel_statistic<FUSED_SSIM_STATISTIC_SSIM, kImages>(
            moments, mean_s, mean_d, p.stabilizers);
        sum += pixel.value();
        if (p.map != nullptr) {
          to_map[o * p.value.columns] = pixel.value();
        }
        if constexpr (kGradient) {
          // s and d of the other shift are these plus delta_s and delta_d.
          const T delta_s = (shift.x - stored_shift.x) + (shift.y - stored_shift.y);
          const T delta_d = (shift.x - stored_shift.x) - (shift.y - stored_shift.y);
          const T by_s = delta_s * pixel.partials[1];
          const T by_d = delta_d * pixel.partials[2];
          pixel.partials[0] -= by_s + by_d;
          pixel.partials[3] -= by_s - by_d;
#pragma unroll
          for (int m = 0; m < kMaps; ++m) {
            if (m < 3 || p.grad2.data != nullptr) {
              to_partials[m * p.partials_map + o * p.partials_row] =
                  weighted ? weights[o] * pixel.partials[m] : pixel.partials[m];
            }
          }
        }
      }
    }
    if (p.statistic_weight != 0.0) {
      sums->value += p.statistic_weight * static_cast<double>(sum);
    }
  }
};

// The second pass, of maps by_mean1, by_mean_s2, by_mean_d2 and for two images by_mean2.
template <class T, int kImages>
struct GradientPass {
  static constexpr int kMaps = partial_maps(kImages);
  static constexpr int kInputs = kMaps;
  static constexpr int kOutputs = kSeparableOutputs<T>;
  static constexpr bool kHasSums = false;
  const SeparableParams<T>& p;
  Piece piece;
  Shift<T> shift = {};

  __device__ __forceinline__ void start() { shift = plane_shift(p, piece); }

  __device__ __forceinline__ SeparableImage input(int i) const {
    const int64_t plane = piece.batch * p.channels + piece.channel - p.first_plane;
    const T* map = p.partials + i * p.partials_map + plane * p.partials_plane;
    SeparableImage image;
    image.at.data = reinterpret_cast<const char*>(map);
    image.at.row = p.partials_row * static_cast<int64_t>(sizeof(T));
    image.at.column = sizeof(T);
    image.dtype = sizeof(T) == 4 ? FUSED_SSIM_FLOAT32 : FUSED_SSIM_FLOAT64;
    image.vectors = true;
    return image;
  }

  __device__ __forceinline__ MapRow<T, kMaps> row(const T* staged, int input_stride) const {
    return {staged, input_stride, {}};
  }

  __device__ __forceinline__ void finish(int64_t y, int64_t x, int count,
                                         const T (&filtered)[kMaps][kOutputs], ThreadSums*) const {
    T a[kOutputs];
    T b[kOutputs];
    load_column(p, p.img1, piece, y, x, count, a);
    load_column(p, p.img2, piece, y, x, count, b);
    const bool has_difference = (p.l1_factor != T(0) || p.l2_factor != T(0)) && x >= p.value.left &&
                                x < p.value.left + p.value.columns;
    T gradients[kImages][kOutputs];
#pragma unroll
    for (int o = 0; o < kOutputs; ++o) {
      const T shifted_a = a[o] - shift.x;
      const T shifted_b = b[o] - shift.y;
      const T by_s = (shifted_a + shifted_b) * filtered[1][o];
      const T by_d = (shifted_a - shifted_b) * filtered[2][o];
      T by_difference = T(0);
      if (has_difference && o < count && y + o >= p.value.top &&
          y + o < p.value.top + p.value.rows) {
        by_difference = difference_gradient(a[o] - b[o], p.l1_factor, p.l2_factor);
        if (p.map_gradient.data != nullptr) {
          T weight[1];
          load_weights(p, piece, y + o, x, 1, weight);
          by_difference *= weight[0];
        }
      }
      // A factor of 0 leaves the statistic out, which may be NaN.
      const auto gradient = [&](T by_statistic, T of_difference) {
        return p.statistic_factor == T(0)
                   ? of_difference
                   : multiply_add(p.statistic_factor, by_statistic, of_difference);
      };
      gradients[0][o] = gradient(filtered[0][o] + (by_s + by_d), by_difference);
      if constexpr (kImages == 2) {
        gradients[1][o] = gradient(filtered[3][o] + (by_s - by_d), -by_difference);
      }
    }
    store_pixels(pixel_at(p.grad1, piece, y, x), p.grad1.row, count, p.img1.dtype, gradients[0]);
    if constexpr (kImages == 2) {
      store_pixels(pixel_at(p.grad2, piece, y, x), p.grad2.row, count, p.img2.dtype, gradients[1]);
    }
  }
};

// ---- The schedule -------------------------------------------------------------------------------

// Shared memory, in the order of SeparableLayout.
template <class T>
struct Shared {
  T* row_taps;
  T* column_taps;
  T* staged;
  int staged_input;  // stride from input to input
  Ring<T> ring;

  static __device__ __forceinline__ Shared of(T* memory, const SeparableLayout& layout,
                                              int inputs) {
    Shared shared;
    shared.row_taps = memory;
    shared.column_taps = shared.row_taps + layout.row_taps;
    shared.staged = shared.column_taps + layout.column_taps;
    shared.staged_input = kSeparableChunkRows<T> * layout.staged_pitch;
    shared.ring.cells = reinterpret_cast<Vector<T>*>(shared.staged + inputs * shared.staged_input);
    shared.ring.pitch = layout.ring_pitch;
    shared.ring.size = layout.ring_rows * shared.ring.pitch;
    return shared;
  }
};

// Calls body(column) for the first columns of the vectors that a thread loads of its row of those
// staged, and prepares.
template <class T>
struct StagingThread {
  static constexpr int kLanes = kThreads / kSeparableChunkRows<T>;
  int row;
  int lane;

  static __device__ __forceinline__ StagingThread of() {
    const int thread = static_cast<int>(threadIdx.x);
    return {thread / kLanes, thread % kLanes};
  }
  template <class Body>
  __device__ __forceinline__ void for_vectors(int columns, const Body& body) const {
    constexpr int kVector = kSeparableVector<T>;
#pragma unroll 1
    for (int column = lane * kVector; column < columns; column += kLanes * kVector) {
      body(column);
    }
  }
};

// Begins to copy `rows` rows from row `top` of the image on to shared memory. Where elements are of
// another type than T they are there already when it returns.
template <class T, class Pass>
__device__ __forceinline__ void stage_rows(const SeparableParams<T>& p, const Pass& pass,
                                           int64_t top, int rows, const Shared<T>& shared) {
  constexpr int kVector = kSeparableVector<T>;
  constexpr int32_t kDType = sizeof(T) == 4 ? FUSED_SSIM_FLOAT32 : FUSED_SSIM_FLOAT64;
  const StagingThread<T> thread = StagingThread<T>::of();
  if (thread.row >= rows) {
    return;
  }
  const int64_t y = top + thread.row - p.source.top;
  const int64_t left = pass.piece.left - p.window_columns / 2 - p.source.left;
  const bool has_row = y >= 0 && y < p.source.rows;
#pragma unroll 1
  for (int i = 0; i < Pass::kInputs; ++i) {
    const SeparableImage image = pass.input(i);
    const char* row = image.at.data + (has_row ? y : 0) * image.at.row;
    T* staged = shared.staged + i * shared.staged_input + thread.row * p.layout.staged_pitch;
    thread.for_vectors(p.layout.staged_columns, [&](int column) {
      // `left` is a multiple of a vector, so that only the right border cuts one in two.
      const int64_t x = left + column;
      const int count =
          has_row && x >= 0
              ? static_cast<int>(max(int64_t{0}, min(int64_t{kVector}, p.source.columns - x)))
              : 0;
      const char* first = row + (count > 0 ? x : 0) * image.at.column;
      if (image.vectors) {
        copy_async<16>(staged + column, first, count * static_cast<int>(sizeof(T)));
      } else if (image.dtype == kDType) {
#pragma unroll
        for (int j = 0; j < kVector; ++j) {
          const bool inside = j < count;
          copy_async<sizeof(T)>(staged + column + j, inside ? first + j * image.at.column : first,
                                inside ? static_cast<int>(sizeof(T)) : 0);
        }
      } else {
        Vector<T> pixels;
        load_pixels(first, image.at.column, count, image.dtype, p.uint8_scale, pixels.of);
        *reinterpret_cast<Vector<T>*>(staged + column) = pixels;
      }
    });
  }
}

// What this thread has copied is there, and prepared.
template <class T, class Pass>
__device__ __forceinline__ void finish_staging(const SeparableParams<T>& p, const Pass& pass,
                                               int rows, const Shared<T>& shared) {
  wait_for_copies();
  if constexpr (Pass::kHasSums) {
    const StagingThread<T> thread = StagingThread<T>::of();
    if (thread.row < rows) {
      T* staged = shared.staged + thread.row * p.layout.staged_pitch;
      thread.for_vectors(p.layout.staged_columns, [&](int column) {
        pass.prepare(staged + column, staged + shared.staged_input + column);
      });
    }
  }
}

// Filters the first `rows` staged rows into the ring, from row `slot` of it on.
template <class T, class Pass>
__device__ __forceinline__ void filter_rows(const SeparableParams<T>& p, const Pass& pass, int rows,
                                            int slot, const Shared<T>& shared) {
  constexpr int kOutputs = kSeparableOutputs<T>;
  const int row = static_cast<int>(threadIdx.x) % kSeparableChunkRows<T>;
  const int column = static_cast<int>(threadIdx.x) / kSeparableChunkRows<T> * kOutputs;
  if (row >= rows || column >= p.layout.columns ||
      pass.piece.left + column >= p.own.left + p.own.columns) {
    return;
  }
  T filtered[Pass::kMaps][kOutputs];
  filter(shared.row_taps, p.window_columns,
         pass.row(shared.staged + row * p.layout.staged_pitch + column, shared.staged_input),
         filtered);
  slot += row;
  slot -= slot >= p.layout.ring_rows ? p.layout.ring_rows : 0;
#pragma unroll
  for (int o = 0; o < kOutputs; ++o) {
    T maps[Pass::kMaps];
#pragma unroll
    for (int m = 0; m < Pass::kMaps; ++m) {
      maps[m] = filtered[m][o];
    }
    shared.ring.store(slot * shared.ring.pitch + column + o, maps);
  }
}

// Filters down the columns, and finishes rows [top, top + rows). The first row of the first window
// is at `slot` in the ring.
template <class T, class Pass>
__device__ __forceinline__ void filter_columns(const SeparableParams<T>& p, const Pass& pass,
                                               int64_t top, int rows, int slot,
                                               const Shared<T>& shared, ThreadSums* sums) {
  constexpr int kOutputs = kSeparableOutputs<T>;
  // A power of two.
  const int column = static_cast<int>(threadIdx.x) & (p.layout.columns - 1);
  const int first = static_cast<int>(threadIdx.x) / p.layout.columns * kOutputs;
  const int64_t x = pass.piece.left + column;
  if (first >= rows || x < p.own.left || x >= p.own.left + p.own.columns) {
    return;
  }
  slot += first;
  slot -= slot >= p.layout.ring_rows ? p.layout.ring_rows : 0;
  T filtered[Pass::kMaps][kOutputs];
  filter(shared.column_taps, p.window_rows,
         RingColumn<T, Pass::kMaps>{shared.ring, slot * shared.ring.pitch + column}, filtered);
  pass.finish(top + first, x, min(kOutputs, rows - first), filtered, sums);
}

template <class T, class Pass>
__device__ __forceinline__ void march(const SeparableParams<T>& p, Pass& pass,
                                      const Shared<T>& shared, ThreadSums* sums) {
  constexpr int kChunkRows = kSeparableChunkRows<T>;
  const Piece& piece = pass.piece;
  const int ring_rows = p.layout.ring_rows;
  // Rows above the first window's last come first, so that each chunk of rows from then on
  // completes the windows of as many, which begin at a whole block of the ring.
  const int above = p.window_rows - 1;
  const int64_t first_row = piece.top - p.window_rows / 2;
  const int all_rows = piece.rows + above;
  int rows = min(above % kChunkRows != 0 ? above % kChunkRows : kChunkRows, all_rows);
  int done = 0;
  int slot = 0;         // of row `done`
  int window_slot = 0;  // of the first row of the next window
  stage_rows(p, pass, first_row, rows, shared);
  pass.start();
#pragma unroll 1
  for (;;) {
    finish_staging(p, pass, rows, shared);
    __syncthreads();
    filter_rows(p, pass, rows, slot, shared);
    __syncthreads();
    const int finished = done - above;  // rows of the piece
    done += rows;
    const int next_rows = min(kChunkRows, all_rows - done);
    if (next_rows > 0) {
      stage_rows(p, pass, first_row + done, next_rows, shared);
    }
    if (finished >= 0) {
      filter_columns(p, pass, piece.top + finished, rows, window_slot, shared, sums);
      window_slot += kChunkRows;
      window_slot -= window_slot >= ring_rows ? ring_rows : 0;
    }
    if (next_rows <= 0) {
      return;
    }
    slot += rows;
    slot -= slot >= ring_rows ? ring_rows : 0;
    rows = next_rows;
  }
}

template <class T, class Pass>
__global__ void __launch_bounds__(kThreads, kSeparableBlocksPerMultiprocessor)
    separable_kernel(const __grid_constant__ SeparableParams<T> p) {
  extern __shared__ float4 shared_memory[];
  const Shared<T> shared =
      Shared<T>::of(reinterpret_cast<T*>(shared_memory), p.layout, Pass::kInputs);
  for (int i = threadIdx.x; i < p.layout.row_taps + p.layout.column_taps; i += kThreads) {
    shared.row_taps[i] = p.taps[i];  // the others follow
  }
  allow_next_launch();
  wait_for_previous_launch();
  const ReductionPlan& plan = p.sums[0];
  const int64_t end = unit_begin(plan, blockIdx.x + 1);
  int64_t unit = unit_begin(plan, blockIdx.x);
  ThreadSums sums;
#pragma unroll 1
  while (unit < end) {
    const int64_t strip = quotient(unit, p.chunks_per_strip);
    const int64_t chunk = unit - strip * p.chunks_per_strip;
    const int64_t chunks = min(min(p.chunks_per_strip - chunk, end - unit), kMaxPieceChunks);
    const int64_t in_slab = quotient(strip, p.strips_per_plane);
    const int64_t plane = p.first_plane + in_slab;
    Pass pass{p, {}};
    Piece& piece = pass.piece;
    piece.batch = quotient(plane, p.channels);
    piece.channel = plane - piece.batch * p.channels;
    piece.left = p.strips_left + (strip - in_slab * p.strips_per_plane) * p.layout.columns;
    piece.top = p.own.top + chunk * kSeparableChunkRows<T>;
    piece.rows =
        static_cast<int>(min(chunks * kSeparableChunkRows<T>, p.own.top + p.own.rows - piece.top));
    march(p, pass, shared, &sums);
    if constexpr (Pass::kHasSums) {
      const int64_t value = quotient(unit, plan.units_per_value);
      const int64_t next_value = quotient(unit + chunks, plan.units_per_value);
      if (value != next_value || unit + chunks == end) {
#pragma unroll 1
        for (int i = 0; i < 2; ++i) {
          if (p.sums[i].value != nullptr) {
            store_partial<kThreads>(p.sums[i].partials, value, i == 0 ? sums.value : sums.squares);
          }
        }
        sums = {};
      }
    }
    unit += chunks;
  }
  if constexpr (Pass::kHasSums) {
#pragma unroll 1
    for (int i = 0; i < 2; ++i) {
      if (p.sums[i].value != nullptr) {
        __syncthreads();  // all threads know whether their block was the last, the time before
        finish_reduction<kThreads, T>(p.sums[i]);
      }
    }
  }
}

template <class T, class Pass>
cudaError_t launch(const SeparableParams<T>& params, int blocks, const DeviceFacts& device,
                   cudaStream_t stream) {
  void (*kernel)(const SeparableParams<T>) = separable_kernel<T, Pass>;
  // Always as much, whatever this launch needs: another thread may be between here and its launch.
  const cudaError_t error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                                 cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                 device.shared_per_block - kSeparableStaticShared);
  return error != cudaSuccess ? error
                              : launch_kernel(kernel, params, blocks, kThreads,
                                              params.layout.shared_bytes, device, stream);
}

}  // namespace

template <class T>
cudaError_t launch_separable_moments(const SeparableParams<T>& params, bool gradient, int blocks,
                                     const DeviceFacts& device, cudaStream_t stream) {
  return gradient ? launch<T, MomentsPass<T, true>>(params, blocks, device, stream)
                  : launch<T, MomentsPass<T, false>>(params, blocks, device, stream);
}

template <class T>
cudaError_t launch_separable_gradient(const SeparableParams<T>& params, int images, int blocks,
                                      const DeviceFacts& device, cudaStream_t stream) {
  return images == 2 ? launch<T, GradientPass<T, 2>>(params, blocks, device, stream)
                     : launch<T, GradientPass<T, 1>>(params, blocks, device, stream);
}

template cudaError_t launch_separable_moments(const SeparableParams<float>&, bool, int,
                                              const DeviceFacts&, cudaStream_t);
template cudaError_t launch_separable_moments(const SeparableParams<double>&, bool, int,
                                              const DeviceFacts&, cudaStream_t);
template cudaError_t launch_separable_gradient(const SeparableParams<float>&, int, int,
                                               const DeviceFacts&, cudaStream_t);
template cudaError_t launch_separable_gradient(const SeparableParams<double>&, int, int,
                                               const DeviceFacts&, cudaStream_t);

}  // namespace fused_ssim::cuda
