// What the separable kernels load, filter and keep: columns of pixels of any type, the loop over taps,
// staged rows and the ring of row-filtered maps.
#pragma once

#include "cuda/image_access.cuh"
#include "cuda/mask.cuh"
#include "cuda/separable.h"

namespace fused_ssim::cuda::separable {

constexpr int kThreads = kSeparableThreads;

template <class T>
inline constexpr DType kDTypeOf = sizeof(T) == 4 ? DType::kFloat32 : DType::kFloat64;

// A pixel. Of float32 sums the aligned word that holds it is loaded, whatever its type.
template <class T>
__device__ __forceinline__ T load_pixel(const char* element, const InputImage& image) {
  if constexpr (sizeof(T) == 8) {
    return image.dtype == DType::kFloat64
               ? __ldg(reinterpret_cast<const double*>(element))
               : byte_to_double(__ldg(reinterpret_cast<const unsigned char*>(element)),
                                image.uint8_divisor);
  } else {
    const auto address = reinterpret_cast<uintptr_t>(element);
    const unsigned word = __ldg(reinterpret_cast<const unsigned*>(address & ~uintptr_t{3}));
    return image.dtype == DType::kFloat32
               ? __uint_as_float(word)
               : narrow_to_float(word >> 8 * (static_cast<unsigned>(address) & 3u), image);
  }
}

// The first `count` of what a thread loads.
struct First {
  int count;

  __device__ __forceinline__ bool operator()(int i) const { return i < count; }
};
// What lies in [begin, end), where begin <= end. By one comparison: two become a branch for each load.
struct Between {
  int begin;
  int end;

  __device__ __forceinline__ bool operator()(int i) const {
    return static_cast<unsigned>(i - begin) < static_cast<unsigned>(end - begin);
  }
};

// Those elements, of rows `row` bytes apart from the one at `first` on, that `exists` says there are, as
// to_number() has them; zeros for the others.
template <class Element, class T, int kCount, class Exists, class ToNumber>
__device__ __forceinline__ void load_elements(const char* first, int64_t row, const Exists& exists,
                                              const ToNumber& to_number, T (&numbers)[kCount]) {
  Element elements[kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    elements[i] = exists(i) ? *reinterpret_cast<const Element*>(first + i * row) : Element(0);
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    numbers[i] = to_number(elements[i]);
  }
}

// Pixels likewise.
template <class T, int kCount, class Exists>
__device__ __forceinline__ void load_pixels(const InputImage& image, const char* first, int64_t row,
                                            const Exists& exists, T (&pixels)[kCount]) {
  const auto load = [&](auto zero, const auto& to_number) {
    load_elements<decltype(zero)>(first, row, exists, to_number, pixels);
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
    if (sizeof(T) == 8 || image.dtype == DType::kUInt8) {
      load(static_cast<unsigned char>(0), to_number);
    } else {
      load(static_cast<unsigned short>(0), to_number);
    }
  }
}
// Numbers of a mask likewise.
template <class T, int kCount, class Exists>
__device__ __forceinline__ void load_mask_numbers(const InputImage& mask, const char* first,
                                                  int64_t row, const Exists& exists,
                                                  T (&numbers)[kCount]) {
  visit_mask_type(mask.dtype, [&](auto zero) {
    load_elements<decltype(zero)>(first, row, exists, MaskNumber<T>{mask.dtype}, numbers);
  });
}

// Of `count` rows of a column from the one at `first` on; zeros follow.
template <class T, int kCount>
__device__ __forceinline__ void load_column(const InputImage& image, const char* first, int count,
                                            T (&pixels)[kCount]) {
  load_pixels(image, first, image.row, First{count}, pixels);
}
template <class T, int kCount>
__device__ __forceinline__ void load_mask_column(const InputImage& mask, const char* first,
                                                 int count, T (&numbers)[kCount]) {
  load_mask_numbers(mask, first, mask.row, First{count}, numbers);
}

template <class T, int kCount>
__device__ __forceinline__ void store_column(const OutputImage& image, char* first, int count,
                                             const T (&pixels)[kCount]) {
  const auto store = [&](const auto& to_element) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (i < count) {
        const auto element = to_element(pixels[i]);
        *reinterpret_cast<std::remove_const_t<decltype(element)>*>(first + i * image.row) = element;
      }
    }
  };
  if (sizeof(T) == 8 || image.dtype == kDTypeOf<T>) {
    store([](T number) { return number; });
  } else if (image.dtype == DType::kFloat16) {
    store([](T number) { return __float2half_rn(static_cast<float>(number)); });
  } else {
    store([](T number) { return __float2bfloat16_rn(static_cast<float>(number)); });
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

// Calls add(o, input o + k of each map, taps[k]) for all k < size and outputs o. `source` has the
// inputs in blocks of as many as there are outputs; input i lies at index i % outputs of `window`
// while it is needed, so that nothing moves.
template <int kMaps, int kOutputs, class T, class Source, class Add>
__device__ __forceinline__ void for_taps(const T* taps, int size, Source source, const Add& add) {
  constexpr int kVector = kSeparableVector<T>;
  T window[kMaps][kOutputs];
#pragma unroll
  for (int i = 0; i < kOutputs; ++i) {
    T input[kMaps];
    source.read(i, input);
#pragma unroll
    for (int m = 0; m < kMaps; ++m) {
      window[m][i] = input[m];
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
      for (int o = 0; o < kOutputs; ++o) {
        T input[kMaps];
#pragma unroll
        for (int m = 0; m < kMaps; ++m) {
          input[m] = window[m][(o + j) % kOutputs];
        }
        add(o, input, tap.of[j % kVector]);
      }
#pragma unroll
      for (int m = 0; m < kMaps; ++m) {
        window[m][j] = next[m];
      }
    }
  }
}

// sums[m][o] = the sum over k < size of taps[k] * (input o + k of map m).
template <int kMaps, class T, int kOutputs, class Source>
__device__ __forceinline__ void filter(const T* taps, int size, const Source& source,
                                       T (&sums)[kMaps][kOutputs]) {
#pragma unroll
  for (int m = 0; m < kMaps; ++m) {
#pragma unroll
    for (int o = 0; o < kOutputs; ++o) {
      sums[m][o] = T(0);
    }
  }
  for_taps<kMaps, kOutputs>(taps, size, source, [&](int o, const T(&input)[kMaps], T tap) {
#pragma unroll
    for (int m = 0; m < kMaps; ++m) {
      sums[m][o] = multiply_add(input[m], tap, sums[m][o]);
    }
  });
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
// the other maps in a second plane, and a fifth one by itself. Row y is at y % rows.
template <class T>
struct Ring {
  static constexpr int kCellMaps = kSeparableVector<T>;
  Vector<T>* cells;
  T* fifth;
  int pitch;
  int size;  // cells of a plane

  template <int kMaps>
  __device__ __forceinline__ void store(int cell, const T (&maps)[kMaps]) const {
    if constexpr (kMaps > kSeparableMaps) {
      fifth[cell] = maps[kSeparableMaps];
    }
#pragma unroll
    for (int first = 0; first < kMaps && first < kSeparableMaps; first += kCellMaps) {
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
    if constexpr (kMaps > kSeparableMaps) {
      input[kSeparableMaps] = ring.fifth[cell + i * ring.pitch];
    }
#pragma unroll
    for (int first = 0; first < kMaps && first < kSeparableMaps; first += kCellMaps) {
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

}  // namespace fused_ssim::cuda::separable
