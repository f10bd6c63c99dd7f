// How row warps of the marching kernels store gradients.
#pragma once

#include "cuda/gradient_rows.cuh"
#include "cuda/march_traits.cuh"

namespace fused_ssim::cuda {

// Where a row thread stores gradients of a piece.
struct GradientTarget {
  // Of the thread's first column (by words: its lane's) in its (its warp's) next row.
  char* gradient1;
  char* gradient2;
  int y;        // of the thread's next row
  int columns;  // from the thread's first column to the end of the own ones

  // Whether the thread's next row has pixels of the piece.
  __device__ __forceinline__ bool is_active(const MarchPiece& piece) const {
    return y >= piece.first_row && y < piece.end_row && columns > 0;
  }

  // To the next chunk.
  template <class Traits>
  __device__ __forceinline__ void advance(const StripParams& p) {
    y += Traits::kChunkRows;
    gradient1 += Traits::kChunkRows * p.grad1.row;
    if constexpr (Traits::kTwo) {
      gradient2 += Traits::kChunkRows * p.grad2.row;
    }
  }
};

// s and d of a row's 8 columns, as they were staged.
template <class Traits>
struct KeptPixels {
  const float* staged;

  __device__ __forceinline__ void load(const PixelPlanes<elements_of(Traits::kLoader)>&, int, int) {
  }
  __device__ __forceinline__ void read_s(const PixelShift&, float (&to)[8]) const {
    read(staged, to);
  }
  __device__ __forceinline__ void read_d(const PixelShift&, float (&to)[8]) const {
    read(staged + Traits::kImageStride, to);
  }
  static __device__ __forceinline__ void read(const float* from, float (&to)[8]) {
    const float4 low = *reinterpret_cast<const float4*>(from);
    const float4 high = *reinterpret_cast<const float4*>(from + 4);
    to[0] = low.x, to[1] = low.y, to[2] = low.z, to[3] = low.w;
    to[4] = high.x, to[5] = high.y, to[6] = high.z, to[7] = high.w;
  }
};
// The same from the images once more. For two gradients registers are short: they read them twice.
template <class Traits, bool kL1>
struct PixelsReadAgain {
  const StripParams& p;
  const char* row1;
  const char* row2;
  int x;
  float4 quads1[2];
  float4 quads2[2];

  explicit __device__ __forceinline__ PixelsReadAgain(const StripParams& params) : p(params) {}
  __device__ __forceinline__ void load(const PixelPlanes<elements_of(Traits::kLoader)>& planes,
                                       int y, int first_x) {
    row1 = planes.plane1 + y * p.img1.row;
    row2 = planes.plane2 + y * p.img2.row;
    x = first_x;
    if constexpr (!Traits::kTwo) {
      load_quads();
    }
  }
  __device__ __forceinline__ void load_quads() {
#pragma unroll
    for (int q = 0; q < 2; ++q) {
      quads1[q] = load_quad<Traits::kLoader>(row1, p.img1, x + 4 * q, p.width);
      quads2[q] = load_quad<Traits::kLoader>(row2, p.img2, x + 4 * q, p.width);
    }
  }
  __device__ __forceinline__ void read_s(const PixelShift& shift, float (&to)[8]) {
    read<true>(shift, to);
  }
  __device__ __forceinline__ void read_d(const PixelShift& shift, float (&to)[8]) {
    read<false>(shift, to);
  }
  template <bool kWantsS>
  __device__ __forceinline__ void read(const PixelShift& shift, float (&to)[8]) {
    if constexpr (Traits::kTwo) {
      load_quads();
    }
#pragma unroll
    for (int q = 0; q < 2; ++q) {
      float4 s, d;
      if constexpr (kL1) {
        shift.apply_in_order(quads1[q], quads2[q], &s, &d);
      } else {
        shift.apply(quads1[q], quads2[q], &s, &d);
      }
      const float4 quad = kWantsS ? s : d;
      to[4 * q] = quad.x, to[4 * q + 1] = quad.y, to[4 * q + 2] = quad.z, to[4 * q + 3] = quad.w;
    }
  }
};

// The gradient of one chunk: filters the partials of this thread's row and 8 columns, whose own s and d
// are `pixels`, stores. Returns the L1 term of its pixels.
template <class Traits, bool kL1, class Pixels, class PlaneWeights>
__device__ __forceinline__ float store_gradient_rows(
    const StripParams& p, const MarchPiece& piece, const PixelShift& shift, Pixels pixels,
    const float* map_row, float* turn, const GradientTarget& target, const PlaneWeights& weights,
    const PixelPlanes<elements_of(Traits::kLoader)>& planes) {
  const int y = target.y;
  const int columns = target.columns;
  const bool active = target.is_active(piece);
  float first[8];
  float second[8];
  float l1 = 0.0f;
  if (active) {
    unsigned masks[2] = {};
    if constexpr (Traits::kNormalized) {
      const int x = piece.end_column - columns;
      masks[0] = weights.bits_of_four(p, weights.first, y, x);
      masks[1] = weights.bits_of_four(p, weights.first, y, x + 4);
    }
    pixels.load(planes, y, piece.end_column - columns);
    float own[8];
    filter_gradient_row<Traits>(
        typename Traits::Window(p), map_row, [&](float (&to)[8]) { pixels.read_s(shift, to); },
        [&](float (&to)[8]) { pixels.read_d(shift, to); }, own, first, second);
    if (kL1 && y >= p.value_top && y < p.value_bottom) {
      l1 = finish_with_l1<Traits>(p, weights, planes, shift.difference_if_equal(), y,
                                  piece.end_column - columns, columns, own, first, second);
    } else {
      scale_gradients<Traits>(gradient_scale(p, weights), first, second);
    }
    if constexpr (Traits::kNormalized) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        first[i] = (masks[i / 4] & 1u << i % 4 * 8) != 0u ? first[i] : 0.0f;
      }
    }
  }

  if constexpr (Traits::kQuads) {
    if (active && (!Traits::kWeighted || p.grad1.data != nullptr)) {
      store_quad<Traits::kLoader>(target.gradient1, first, p.grad1.dtype);
      if (columns > 4) {
        store_quad<Traits::kLoader>(target.gradient1 + quad_bytes<Traits::kLoader>(p.grad1),
                                    first + 4, p.grad1.dtype);
      }
    }
    if (Traits::kTwo && active && (!Traits::kWeighted || p.grad2.data != nullptr)) {
      store_quad<Traits::kLoader>(target.gradient2, second, p.grad2.dtype);
      if (columns > 4) {
        store_quad<Traits::kLoader>(target.gradient2 + quad_bytes<Traits::kLoader>(p.grad2),
                                    second + 4, p.grad2.dtype);
      }
    }
  } else {
    const int lane = Traits::row_thread() % 32;
    const int first_y = y - lane % 8;
    const bool stores = piece.first_column + Traits::row_thread() < piece.end_column;
    const auto store_columns = [&](const OutputImage& image, char* of_lane,
                                   const float (&value)[8]) {
      if (active) {
        store_group(turn + lane % 8 * Traits::kTurnPitch + lane / 8 * 8, value);
      }
      __syncwarp();
      if (stores) {
        const float* from = turn + lane;
        if (!Traits::kHalfWords && image.dtype == DType::kFloat32 && first_y >= piece.first_row &&
            first_y + Traits::kChunkRows <= piece.end_row) {
          char* to = of_lane;
#pragma unroll
          for (int r = 0; r < Traits::kChunkRows; ++r, to += image.row) {
            *reinterpret_cast<float*>(to) = from[r * Traits::kTurnPitch];
          }
        } else {
          char* to = of_lane;
#pragma unroll 1
          for (int r = 0; r < Traits::kChunkRows; ++r, to += image.row) {
            if (first_y + r >= piece.first_row && first_y + r < piece.end_row) {
              store_element(to, from[r * Traits::kTurnPitch], image.dtype);
            }
          }
        }
      }
      __syncwarp();
    };
    if (p.grad1.data != nullptr) {
      store_columns(p.grad1, target.gradient1, first);
    }
    if constexpr (Traits::kTwo) {
      if (p.grad2.data != nullptr) {
        store_columns(p.grad2, target.gradient2, second);
      }
    }
  }
  return l1;
}

}  // namespace fused_ssim::cuda
