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
// A block marches down its strip in chunks of 16 rows (float64: 8, and 4 pixels a thread), with
// two barriers a chunk. Both filters are one function, whose window of inputs stays in registers: a
// tap costs as many multiply-adds as outputs and maps, and the load of one more input.
//
// Global memory per pixel of accumulation type T: the first pass reads both images and writes 3 T
// (4 T for both gradients) of partial derivatives, the second reads these and both images and
// writes the gradients.
#include "core/pointwise.h"
#include "cuda/image_access.cuh"
#include "cuda/launches.h"
#include "cuda/reduction.cuh"
#include "cuda/separable.h"
#include "cuda/shift.cuh"
#include "cuda/thread.cuh"

namespace fused_ssim::cuda {
namespace {

constexpr int kThreads = kSeparableThreads;

// ---- Loader -------------------------------------------------------------------------------------

template <class T>
inline constexpr DType kDTypeOf = sizeof(T) == 4 ? DType::kFloat32 : DType::kFloat64;

// Pixels of `count` rows from the one at `first` on; zeros follow.
template <class T, int kCount>
__device__ __forceinline__ void load_column(const InputImage& image, const char* first, int count,
                                            T (&pixels)[kCount]) {
  const auto load = [&](auto zero, const auto& to_number) {
    decltype(zero) elements[kCount];
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      elements[i] =
          i < count ? *reinterpret_cast<const decltype(zero)*>(first + i * image.row) : zero;
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      pixels[i] = to_number(elements[i]);
    }
  };
  if (image.dtype == kDTypeOf<T>) {
    load(T(0), [](T number) { return number; });
  } else {
    const auto to_number = [&](unsigned bits) {
      if constexpr (sizeof(T) == 4) {
        return narrow_to_float(bits, image);
      } else {
        return byte_to_double(bits, image.uint8_divisor);
      }
    };
    if (image.dtype == DType::kUInt8) {
      load(static_cast<unsigned char>(0), to_number);
    } else {
      load(static_cast<unsigned short>(0), to_number);
    }
  }
}

template <class T, int kCount>
__device__ __forceinline__ void store_column(const OutputImage& image, char* first, int count,
                                             const T (&pixels)[kCount]) {
  const auto store = [&](DType dtype) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (i < count) {
        store_element(first + i * image.row, pixels[i], dtype);
      }
    }
  };
  if (image.dtype == kDTypeOf<T>) {
    store(kDTypeOf<T>);
  } else {
    store(image.dtype);
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
      // A check at every tap, though `size` is odd: with fewer the compiler moves registers more.
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
// s, d, s^2, d^2 of a staged row of s and d.
template <class T>
struct PixelRow {
  MapRow<T, 2> staged;

  __device__ __forceinline__ void read(int i, T (&input)[4]) {
    T shifted[2];
    staged.read(i, shifted);
    input[0] = shifted[0];
    input[1] = shifted[1];
    input[2] = shifted[0] * shifted[0];
    input[3] = shifted[1] * shifted[1];
  }
  __device__ __forceinline__ void next_block() { staged.next_block(); }
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

// The number of map_gradient for a pixel.
template <class T>
__device__ __forceinline__ const char* weight_at(const SeparableParams<T>& p, const Piece& piece,
                                                 int64_t y, int64_t x) {
  return pixel_at(p.map_gradient, piece, y - p.value.top, x - p.value.left);
}

template <class T>
__device__ __forceinline__ Shift<T> range_shift(const SeparableParams<T>& p, const Piece& piece,
                                                int64_t top, int64_t bottom, int64_t left,
                                                int64_t right) {
  const SamplePoint at = sample_point(top, bottom, left, right);
  return trimmed_means(Samples<T>{load_element<T>(pixel_at(p.img1, piece, at.y, at.x), p.img1),
                                  load_element<T>(pixel_at(p.img2, piece, at.y, at.x), p.img2)});
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

// What the filters make of images that are `values` everywhere, rounding and all: where little of a
// window lies in the image, what they make of the shifted zeros beyond it must cancel.
template <class T>
__device__ __forceinline__ void filter_constants(const SeparableParams<T>& p, T (&values)[2]) {
  const auto filter_along = [&](const T* taps, int size) {
    T sums[2] = {};
#pragma unroll 4
    for (int k = 0; k < size; ++k) {
      sums[0] = multiply_add(values[0], taps[k], sums[0]);
      sums[1] = multiply_add(values[1], taps[k], sums[1]);
    }
    values[0] = sums[0];
    values[1] = sums[1];
  };
  filter_along(p.taps, p.window_columns);
  filter_along(p.taps + p.layout.row_taps, p.window_rows);
}

// A thread's part of the rows to stage: one row, of which it copies and prepares every so many
// vectors. Columns count from the first of those staged.
struct SeparableRow {
  int row;
  int lane;
  int columns;  // to stage
  int begin;    // columns [begin, end) are in the image, `begin` a multiple of a vector
  int end;
  int64_t y;  // in the image, like `left`
  int64_t left;

  template <class T>
  static __device__ __forceinline__ SeparableRow of(const SeparableParams<T>& p, const Piece& piece,
                                                    int64_t top) {
    constexpr int kLanes = kThreads / kSeparableChunkRows<T>;
    const int thread = thread_index();
    SeparableRow at = {thread / kLanes, thread % kLanes, p.layout.staged_columns, 0, 0};
    at.y = top + at.row;
    at.left = piece.left - p.window_columns / 2;
    if (at.y >= p.source.top && at.y < p.source.top + p.source.rows) {
      const auto clamped = [&](int64_t x) {
        return static_cast<int>(
            max(int64_t{0}, min(x - at.left, static_cast<int64_t>(at.columns))));
      };
      at.begin = clamped(p.source.left);
      at.end = clamped(p.source.left + p.source.columns);
    }
    return at;
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
    shift = piece_shift(p, piece);
    means[0] = shift.x + shift.y;
    means[1] = shift.x - shift.y;
    filter_constants(p, means);
    if (kGradient) {
      const Shift<T> stored = plane_shift(p, piece);
      delta_s = (shift.x - stored.x) + (shift.y - stored.y);
      delta_d = (shift.x - stored.x) - (shift.y - stored.y);
    }
  }

  // Of a row of an image, elements as they are in memory.
  __device__ __forceinline__ void stage(const SeparableRow& at, T* staged, int input_stride) const {
    stage(at, p.img1, p.quads1, staged);
    stage(at, p.img2, p.quads2, staged + input_stride);
  }
  __device__ __forceinline__ void stage(const SeparableRow& at, const InputImage& image, bool quads,
                                        T* staged) const {
    constexpr int kVector = kSeparableVector<T>;
    // Where nothing is copied the address is that of any element.
    const char* row =
        at.begin < at.end ? pixel_at(image, piece, at.y, at.left + at.begin) : image.data;
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
      at.for_vectors<T>([&](int column, int count) {
#pragma unroll
        for (int j = 0; j < kVector; ++j) {
          const bool inside = j < count;
          copy(staged + column + j,
               row + (inside ? (column + j - at.begin) * image.column : int64_t{0}), inside);
        }
      });
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
                  : narrow_words_to_float(copied, pixel_at(image, piece, at.y, at.left + column),
                                          image);
        return {{quad.x, quad.y, quad.z, quad.w}};
      }
    }
    return staged;
  }

  struct NoPixels {};
  __device__ __forceinline__ NoPixels load(int64_t, int64_t, int) const { return {}; }

  __device__ __forceinline__ PixelRow<T> row(const T* staged, int input_stride) const {
    return {{staged, input_stride, {}}};
  }

  // Pixels (y, x) .. (y + count - 1, x), all of them own.
  __device__ __forceinline__ void finish(int64_t y, int64_t x, int count,
                                         const T (&filtered)[kMaps][kOutputs], const NoPixels&,
                                         const ThreadSums& sums) const {
    if (p.l1_weight != 0.0 || p.l2_weight != 0.0 || p.sums[1].value != nullptr) {
      T a[kOutputs];
      T b[kOutputs];
      load_column(p.img1, pixel_at(p.img1, piece, y, x), count, a);
      load_column(p.img2, pixel_at(p.img2, piece, y, x), count, b);
      T absolute = T(0);
      T squares = T(0);
#pragma unroll
      for (int o = 0; o < kOutputs; ++o) {  // a and b are 0 from count on
        absolute += fabs(a[o] - b[o]);
        squares = multiply_add(a[o] - b[o], a[o] - b[o], squares);
      }
      sums[1] += static_cast<double>(squares);
      if (p.l1_weight != 0.0) {
        sums[0] += p.l1_weight * static_cast<double>(absolute);
      }
      if (p.l2_weight != 0.0) {
        sums[0] += p.l2_weight * static_cast<double>(squares);
      }
    }
    T sum = T(0);
    PixelStatistic<kImages, T> pixels[kOutputs];
#pragma unroll
    for (int o = 0; o < kOutputs; ++o) {
      const Moments<T> moments = {filtered[0][o], filtered[1][o], filtered[2][o], filtered[3][o]};
      pixels[o] = pixel_statistic<FUSED_SSIM_STATISTIC_SSIM, kImages>(moments, means[0], means[1],
                                                                      p.stabilizers);
      sum += o < count ? pixels[o].value() : T(0);
    }
    if (p.map != nullptr) {
      const int64_t plane = piece.batch * p.channels + piece.channel;
      T* to =
          p.map + (plane * p.value.rows + (y - p.value.top)) * p.value.columns + (x - p.value.left);
#pragma unroll
      for (int o = 0; o < kOutputs; ++o) {
        if (o < count) {
          to[o * p.value.columns] = pixels[o].value();
        }
      }
    }
    if constexpr (kGradient) {
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
        load_column(p.map_gradient, weight_at(p, piece, y, x), count, weights);
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
    if (p.statistic_weight != 0.0) {
      sums[0] += p.statistic_weight * static_cast<double>(sum);
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

  __device__ __forceinline__ void stage(const SeparableRow& at, T* staged, int input_stride) const {
    const T* row = partials_at<kMaps>(p, piece, at.begin < at.end ? at.y : p.partials_top, 0);
    const int64_t left = at.left - p.value.left;
    const int64_t block = at.begin < at.end ? (left + at.begin) / kPartialColumns : 0;
    row += block * p.partials_block;
    const int first = static_cast<int>(left - block * kPartialColumns);
    at.for_vectors<T>([&](int column, int count) {
      // Blocks are whole vectors.
      const auto x = static_cast<unsigned>(count > 0 ? first + column : 0);
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

  __device__ __forceinline__ MapRow<T, kMaps> row(const T* staged, int input_stride) const {
    return {staged, input_stride, {}};
  }

  __device__ __forceinline__ void finish(int64_t y, int64_t x, int count,
                                         const T (&filtered)[kMaps][kOutputs], const Pixels& pixels,
                                         const ThreadSums&) const {
    const auto& a = pixels.a;
    const auto& b = pixels.b;
    T by_difference[kOutputs] = {};
    if ((p.l1_factor != T(0) || p.l2_factor != T(0)) && x >= p.value.left &&
        x < p.value.left + p.value.columns) {
#pragma unroll
      for (int o = 0; o < kOutputs; ++o) {
        if (o < count && y + o >= p.value.top && y + o < p.value.top + p.value.rows) {
          by_difference[o] = difference_gradient(a[o] - b[o], p.l1_factor, p.l2_factor);
          if (p.map_gradient.data != nullptr) {
            by_difference[o] *= *reinterpret_cast<const T*>(weight_at(p, piece, y + o, x));
          }
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
      // A factor of 0 leaves the statistic out, which may be NaN.
      const auto gradient = [&](T by_statistic, T of_difference) {
        return p.statistic_factor == T(0)
                   ? of_difference
                   : multiply_add(p.statistic_factor, by_statistic, of_difference);
      };
      gradients[0][o] = gradient(filtered[0][o] + (by_s + by_d), by_difference[o]);
      if constexpr (kImages == 2) {
        gradients[1][o] = gradient(filtered[3][o] + (by_s - by_d), -by_difference[o]);
      }
    }
    store_column(p.grad1, pixel_at(p.grad1, piece, y, x), count, gradients[0]);
    if constexpr (kImages == 2) {
      store_column(p.grad2, pixel_at(p.grad2, piece, y, x), count, gradients[1]);
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
  double* sums;

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
    shared.sums = reinterpret_cast<double*>(
        shared.ring.cells + kSeparableMaps / kSeparableVector<T> * shared.ring.size);
    return shared;
  }
};

// Begins to copy `rows` rows from row `top` of the image on to shared memory.
template <class T, class Pass>
__device__ __forceinline__ void stage_rows(const SeparableParams<T>& p, const Pass& pass,
                                           int64_t top, int rows, const Shared<T>& shared) {
  const auto at = SeparableRow::of(p, pass.piece, top);
  if (at.row < rows) {
    pass.stage(at, shared.staged + at.row * p.layout.staged_pitch, shared.staged_input);
  }
}

// What this thread has copied is there, and prepared.
template <class T, class Pass>
__device__ __forceinline__ void finish_staging(const SeparableParams<T>& p, const Pass& pass,
                                               int64_t top, int rows, const Shared<T>& shared) {
  wait_for_copies();
  const auto at = SeparableRow::of(p, pass.piece, top);
  if (at.row < rows) {
    pass.prepare(at, shared.staged + at.row * p.layout.staged_pitch, shared.staged_input);
  }
}

// Filters the first `rows` staged rows into the ring, from row `slot` of it on.
template <class T, class Pass>
__device__ __forceinline__ void filter_rows(const SeparableParams<T>& p, const Pass& pass, int rows,
                                            int slot, const Shared<T>& shared) {
  constexpr int kOutputs = kSeparableOutputs<T>;
  const int row = thread_index() % kSeparableChunkRows<T>;
  const int column = thread_index() / kSeparableChunkRows<T> * kOutputs;
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
                                               const Shared<T>& shared, const ThreadSums& sums) {
  constexpr int kOutputs = kSeparableOutputs<T>;
  const int column = thread_index() & (p.layout.columns - 1);
  const int first = (thread_index() >> p.layout.column_bits) * kOutputs;
  const int64_t x = pass.piece.left + column;
  if (first >= rows || x < p.own.left || x >= p.own.left + p.own.columns) {
    return;
  }
  slot += first;
  slot -= slot >= p.layout.ring_rows ? p.layout.ring_rows : 0;
  const int count = min(kOutputs, rows - first);
  const auto pixels = pass.load(top + first, x, count);
  T filtered[Pass::kMaps][kOutputs];
  filter(shared.column_taps, p.window_rows,
         RingColumn<T, Pass::kMaps>{shared.ring, slot * shared.ring.pitch + column}, filtered);
  pass.finish(top + first, x, count, filtered, pixels, sums);
}

template <class T, class Pass>
__device__ __forceinline__ void march(const SeparableParams<T>& p, Pass& pass,
                                      const Shared<T>& shared, const ThreadSums& sums) {
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
  int slot = 0;  // of row `done`
  stage_rows(p, pass, first_row, rows, shared);
  pass.start();
#pragma unroll 1
  for (;;) {
    finish_staging(p, pass, first_row + done, rows, shared);
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
      const int first_slot = slot - above + (slot < above ? ring_rows : 0);
      filter_columns(p, pass, piece.top + finished, rows, first_slot, shared, sums);
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
  const ThreadSums sums = {shared.sums};
  if constexpr (Pass::kHasSums) {
#pragma unroll 1
    for (int i = 0; i < 2; ++i) {
      const bool has_carried = blockIdx.x == 0 && threadIdx.x == 0 && p.carried[i] != nullptr;
      sums[i] = has_carried ? *p.carried[i] : 0.0;
    }
  }
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
    piece.channel = static_cast<int>(plane - piece.batch * p.channels);
    piece.left = p.strips_left + (strip - in_slab * p.strips_per_plane) * p.layout.columns;
    piece.top = p.own.top + chunk * kSeparableChunkRows<T>;
    piece.rows =
        static_cast<int>(min(chunks * kSeparableChunkRows<T>, p.own.top + p.own.rows - piece.top));
    march(p, pass, shared, sums);
    const int64_t next = unit + (piece.rows + kSeparableChunkRows<T> - 1) / kSeparableChunkRows<T>;
    if constexpr (Pass::kHasSums) {
      const int64_t value = quotient(unit, plan.units_per_value);
      const int64_t next_value = quotient(next, plan.units_per_value);
      if (value != next_value || next == end) {
#pragma unroll 1
        for (int i = 0; i < 2; ++i) {
          if (p.sums[i].value != nullptr) {
            store_partial<kThreads>(p.sums[i].partials, value, sums[i]);
          }
          sums[i] = 0.0;
        }
      }
    }
    unit = next;
  }
  if constexpr (Pass::kHasSums) {
#pragma unroll 1
    for (int i = 0; i < 2; ++i) {
      if (p.sums[i].value != nullptr) {
        __syncthreads();  // all threads know whether their block was the last, the time before
        if (p.carries) {
          finish_reduction<kThreads, double>(p.sums[i]);
        } else {
          finish_reduction<kThreads, T>(p.sums[i]);
        }
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
cudaError_t launch_separable_moments(const SeparableParams<T>& params, int images, int blocks,
                                     const DeviceFacts& device, cudaStream_t stream) {
  return images == 2   ? launch<T, MomentsPass<T, 2>>(params, blocks, device, stream)
         : images == 1 ? launch<T, MomentsPass<T, 1>>(params, blocks, device, stream)
                       : launch<T, MomentsPass<T, 0>>(params, blocks, device, stream);
}

template <class T>
cudaError_t launch_separable_gradient(const SeparableParams<T>& params, int images, int blocks,
                                      const DeviceFacts& device, cudaStream_t stream) {
  return images == 2 ? launch<T, GradientPass<T, 2>>(params, blocks, device, stream)
                     : launch<T, GradientPass<T, 1>>(params, blocks, device, stream);
}

template cudaError_t launch_separable_moments(const SeparableParams<float>&, int, int,
                                              const DeviceFacts&, cudaStream_t);
template cudaError_t launch_separable_moments(const SeparableParams<double>&, int, int,
                                              const DeviceFacts&, cudaStream_t);
template cudaError_t launch_separable_gradient(const SeparableParams<float>&, int, int,
                                               const DeviceFacts&, cudaStream_t);
template cudaError_t launch_separable_gradient(const SeparableParams<double>&, int, int,
                                               const DeviceFacts&, cudaStream_t);

}  // namespace fused_ssim::cuda
