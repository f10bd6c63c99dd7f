// The ways in which pixels come to the marching kernels: four columns at once, one at a time, or by
// tensor maps. Each loads a chunk ahead and leaves it in shared memory, as s and d or as it is.
#pragma once

#include "cuda/march_traits.cuh"
#include "cuda/mask.cuh"

namespace fused_ssim::cuda {

// The raw pixels of a chunk, copied from global to shared memory, four columns at once, where they
// become s and d in place. Each thread converts what it has copied. Chunks are loaded one after the
// other.
template <class Traits>
struct QuadLoader {
  static constexpr int kItems = Traits::kQuadItems;
  static constexpr Elements kElements = elements_of(Traits::kLoader);
  const char* from1[kItems];  // the next to load
  const char* from2[kItems];
  int y[kItems];  // of them; far outside of any image where the column is outside

  // Whole warps have an item or not, but for the last that do.
  static __device__ __forceinline__ bool has(int i) {
    constexpr int kQuads = Traits::kChunkRows * Traits::kStagedQuads;
    return (i + 1) * Traits::kColumns <= kQuads ||
           Traits::row_thread() + i * Traits::kColumns < kQuads;
  }
  // Where an item lies in a slot.
  static __device__ __forceinline__ float* place(float* slot, int i) {
    const int item = Traits::row_thread() + i * Traits::kColumns;
    const int in_chunk = item / Traits::kStagedQuads;
    return slot + in_chunk * Traits::kStagedPitch + 4 * (item - in_chunk * Traits::kStagedQuads);
  }

  // Begins with the chunk whose first row is `first_y`.
  __device__ __forceinline__ QuadLoader(const StripParams& p, const MarchPiece& piece,
                                        const char* plane1, const char* plane2, int first_y,
                                        MarchCounters<Traits>*, unsigned) {
    constexpr int kOutside = -(1 << 30) - (1 << 29);
    const int end_x = min(p.width, piece.end_column + 2 * Traits::kRadius);
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const int item = Traits::row_thread() + i * Traits::kColumns;
      const int in_chunk = item / Traits::kStagedQuads;
      const int x =
          piece.first_column - Traits::kStagedBefore + 4 * (item - in_chunk * Traits::kStagedQuads);
      from1[i] = plane1 + (first_y + in_chunk) * p.img1.row + x * p.img1.column;
      from2[i] = plane2 + (first_y + in_chunk) * p.img2.row + x * p.img2.column;
      y[i] = x >= 0 && x < end_x ? first_y + in_chunk : kOutside;
    }
  }

  __device__ __forceinline__ void load(const StripParams& p, float* slot, unsigned) {
    load_image(p, p.img1, from1, slot);
    load_image(p, p.img2, from2, slot + Traits::kImageStride);
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      y[i] += Traits::kChunkRows;
    }
  }
  __device__ __forceinline__ void load_image(const StripParams& p, const InputImage& image,
                                             const char* (&from)[kItems], float* slot) const {
    if (kElements == Elements::kHalf) {
      copy_quads<8>(p, image, from, slot);
    } else if (image.dtype == DType::kFloat32) {
      copy_quads<16>(p, image, from, slot);
    } else if (image.dtype == DType::kUInt8) {
      copy_quads<4>(p, image, from, slot);
    } else {
      copy_quads<8>(p, image, from, slot);
    }
  }
  template <int kBytes>
  __device__ __forceinline__ void copy_quads(const StripParams& p, const InputImage& image,
                                             const char* (&from)[kItems], float* slot) const {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      if (has(i)) {
        const bool inside = static_cast<unsigned>(y[i]) < static_cast<unsigned>(p.height);
        copy_async<kBytes>(place(slot, i), inside ? from[i] : image.data, inside ? kBytes : 0);
        from[i] += Traits::kChunkRows * image.row;
      }
    }
  }

  // Makes the pixels of the chunk, which begins with row `first_y`, s and d. Returns the L1 term of
  // the own pixels where there is no gradient; else that is added up with it.
  template <bool kL1>
  __device__ __forceinline__ float store(const StripParams& p, const MarchPiece& piece,
                                         const PixelShift& shift, int first_y, float* slot) const {
    float l1 = 0.0f;
    wait_for_copies();
    // Code for all types is long.
    constexpr int kAtOnce = kElements == Elements::kAny ? 1 : kItems;
#pragma unroll kAtOnce
    for (int i = 0; i < kItems; ++i) {
      if (!has(i)) {
        break;
      }
      auto* place_s = reinterpret_cast<float4*>(place(slot, i));
      auto* place_d = reinterpret_cast<float4*>(place(slot, i) + Traits::kImageStride);
      const float4 pixels1 = raw_quad_to_float<kElements>(*place_s, p.img1);
      const float4 pixels2 = raw_quad_to_float<kElements>(*place_d, p.img2);
      float4 s, d;
      if constexpr (kL1) {
        shift.apply_in_order(pixels1, pixels2, &s, &d);
        const int item = Traits::row_thread() + i * Traits::kColumns;
        const int in_chunk = item / Traits::kStagedQuads;
        if (!Traits::kGradient && first_y + in_chunk >= max(piece.first_row, p.value_top) &&
            first_y + in_chunk < min(piece.end_row, p.value_bottom)) {
          const int x = piece.first_column - Traits::kStagedBefore +
                        4 * (item - in_chunk * Traits::kStagedQuads);
          l1 +=
              sum_of_distances(pixels1, pixels2, max(piece.first_column, p.value_left) - x,
                               min(piece.end_column, p.value_right) - x, Traits::kMse && p.squares);
        }
      } else {
        shift.apply(pixels1, pixels2, &s, &d);
      }
      *place_s = s;
      *place_d = d;
    }
    return l1;
  }
};

// The same, one column at a time: neighbouring lanes take neighbouring columns, whatever their
// stride.
template <class Traits>
struct WordLoader {
  static constexpr int kAcross = Traits::kWordItems / Traits::kRowsPerWarp;
  // Elements are of one 16-bit type, float32, or each image's are of any type.
  static constexpr bool kHalves = Traits::kHalfWords;
  static constexpr bool kAnyType = Traits::kAnyWords;
  static constexpr int kElement = kHalves ? 2 : 4;
  // How columns lie: of both images neighbours or three elements apart; else any, as of other types
  // than float32 with kAnyType.
  enum class Columns { kPlanar, kOfThree, kAny };
  const char* from1;  // this lane's first column in the warp's first row of the next chunk to load
  const char* from2;
  int y;  // of that row
  int first_x;
  unsigned inside;  // bit j: this lane's column j lies in the image
  Columns columns;
  float a[Traits::kWordItems];
  float b[Traits::kWordItems];

  __device__ __forceinline__ WordLoader(const StripParams& p, const MarchPiece& piece,
                                        const char* plane1, const char* plane2, int first_y,
                                        MarchCounters<Traits>*, unsigned) {
    first_x = piece.first_column - Traits::kStagedBefore + Traits::row_thread() % 32;
    y = first_y + first_row_of_warp();
    from1 = plane1 + y * p.img1.row + first_x * p.img1.column;
    from2 = plane2 + y * p.img2.row + first_x * p.img2.column;
    const int end_x = min(p.width, piece.end_column + 2 * Traits::kRadius);
    inside = 0;
#pragma unroll
    for (int j = 0; j < kAcross; ++j) {
      inside |=
          static_cast<unsigned>(first_x + 32 * j) < static_cast<unsigned>(end_x) ? 1u << j : 0;
    }
    const bool alike =
        p.img1.column == p.img2.column &&
        (!kAnyType || (p.img1.dtype == DType::kFloat32 && p.img2.dtype == DType::kFloat32));
    columns = alike && p.img1.column == kElement       ? Columns::kPlanar
              : alike && p.img1.column == 3 * kElement ? Columns::kOfThree
                                                       : Columns::kAny;
  }
  static __device__ __forceinline__ int first_row_of_warp() {
    return Traits::row_thread() / 32 * Traits::kRowsPerWarp;
  }

  // The columns of one row, `stride` bytes apart.
  template <class Load>
  static __device__ __forceinline__ void load_row(const char* from, int64_t stride, unsigned mask,
                                                  float* to, const Load& load) {
#pragma unroll
    for (int j = 0; j < kAcross; ++j, from += 32 * stride) {
      to[j] = load(mask & 1u << j, from);
    }
  }
  static __device__ __forceinline__ void load_any_row(const char* from, const InputImage& image,
                                                      unsigned mask, float* to) {
    if (kHalves) {
      load_row(from, image.column, mask, to, load_half_if);
    } else if (!kAnyType || image.dtype == DType::kFloat32) {
      load_row(from, image.column, mask, to, load_float_if);
    } else if (image.dtype == DType::kUInt8) {
      load_row(from, image.column, mask, to, load_byte_if);
    } else {
      load_row(from, image.column, mask, to, load_half_if);
    }
  }
  static __device__ __forceinline__ void to_float(const InputImage& image,
                                                  float (&pixels)[Traits::kWordItems]) {
#pragma unroll
    for (int i = 0; i < Traits::kWordItems; ++i) {
      const unsigned bits = __float_as_uint(pixels[i]);
      pixels[i] = kHalves ? half_to_float(bits, image.dtype) : narrow_to_float(bits, image);
    }
  }

  __device__ __forceinline__ void load(const StripParams& p, float*, unsigned) {
#pragma unroll
    for (int r = 0; r < Traits::kRowsPerWarp; ++r) {
      const unsigned mask =
          static_cast<unsigned>(y + r) < static_cast<unsigned>(p.height) ? inside : 0;
      const char* row1 = from1 + r * p.img1.row;
      const char* row2 = from2 + r * p.img2.row;
      float* to1 = a + r * kAcross;
      float* to2 = b + r * kAcross;
      const auto load_if = kHalves ? load_half_if : load_float_if;
      if (columns == Columns::kPlanar) {
        load_row(row1, kElement, mask, to1, load_if);
        load_row(row2, kElement, mask, to2, load_if);
      } else if (columns == Columns::kOfThree) {
        load_row(row1, 3 * kElement, mask, to1, load_if);
        load_row(row2, 3 * kElement, mask, to2, load_if);
      } else {
        load_any_row(row1, p.img1, mask, to1);
        load_any_row(row2, p.img2, mask, to2);
      }
    }
    y += Traits::kChunkRows;
    from1 += Traits::kChunkRows * p.img1.row;
    from2 += Traits::kChunkRows * p.img2.row;
  }

  template <bool kL1>
  __device__ __forceinline__ float store(const StripParams& p, const MarchPiece& piece,
                                         const PixelShift& shift, int first_y, float* slot) {
    if (kHalves || (kAnyType && p.img1.dtype != DType::kFloat32)) {
      to_float(p.img1, a);
    }
    if (kHalves || (kAnyType && p.img2.dtype != DType::kFloat32)) {
      to_float(p.img2, b);
    }
    float l1 = 0.0f;
    const int lane = Traits::row_thread() % 32;
#pragma unroll
    for (int r = 0; r < Traits::kRowsPerWarp; ++r) {
      const int in_chunk = first_row_of_warp() + r;
      float* to = slot + in_chunk * Traits::kStagedPitch + lane;
      const bool row_counts = !Traits::kGradient &&
                              first_y + in_chunk >= max(piece.first_row, p.value_top) &&
                              first_y + in_chunk < min(piece.end_row, p.value_bottom);
#pragma unroll
      for (int j = 0; j < kAcross; ++j) {
        if (32 * j + 32 > 4 * Traits::kStagedQuads && 32 * j + lane >= 4 * Traits::kStagedQuads) {
          continue;
        }
        const float pixel1 = a[r * kAcross + j];
        const float pixel2 = b[r * kAcross + j];
        float s, d;
        if constexpr (kL1) {
          shift.apply_in_order(pixel1, pixel2, &s, &d);
          const int x = first_x + 32 * j;
          if (row_counts && x >= max(piece.first_column, p.value_left) &&
              x < min(piece.end_column, p.value_right)) {
            l1 += distance(pixel1 - pixel2, Traits::kMse && p.squares);
          }
        } else {
          shift.apply(pixel1, pixel2, &s, &d);
        }
        to[32 * j] = Traits::kShiftsLate ? pixel1 : s;
        to[32 * j + Traits::kImageStride] = Traits::kShiftsLate ? pixel2 : d;
      }
    }
    return l1;
  }
};

// Zeros in place of what a mask hides (MaskPlane::bits_of_four()).
__device__ __forceinline__ void keep_seen(unsigned mask, float4* quad) {
  quad->x = (mask & 1u) != 0u ? quad->x : 0.0f;
  quad->y = (mask & 1u << 8) != 0u ? quad->y : 0.0f;
  quad->z = (mask & 1u << 16) != 0u ? quad->z : 0.0f;
  quad->w = (mask & 1u << 24) != 0u ? quad->w : 0.0f;
}

// The same by tensor maps: one thread has boxes of pixels copied straight into shared memory, and
// zeros where there is no image. There they become s and d in place, or stay as they are.
template <class Traits>
struct BoxLoader {
  static constexpr int kQuads = Traits::kSlotStride / 4;
  MarchCounters<Traits>* counters;
  unsigned count;         // chunks of the block so far, but for those on their way
  int4 first1;            // column, row, channel and batch of the next chunk to load
  int2 plane2;            // channel and batch of the second image
  const char* mask_bits;  // kNormalized: of the plane

  __device__ __forceinline__ BoxLoader(const StripParams& p, const MarchPiece& piece, const char*,
                                       const char*, int first_y,
                                       MarchCounters<Traits>* block_counters,
                                       unsigned chunks_before)
      : counters(block_counters), count(chunks_before) {
    first1 = {piece.first_column - Traits::kStagedBefore - Traits::kExtra, first_y,
              p.tensor1.channels > 1 ? static_cast<int>(piece.channel) : 0,
              p.tensor1.batches > 1 ? static_cast<int>(piece.batch) : 0};
    plane2 = {p.tensor2.channels > 1 ? static_cast<int>(piece.channel) : 0,
              p.tensor2.batches > 1 ? static_cast<int>(piece.batch) : 0};
    if constexpr (Traits::kNormalized) {
      mask_bits = MaskPlane::bits_of_plane(p, piece.batch, piece.channel);
    }
  }

  // Starts to load a chunk, the `ahead`-th after the next to be waited for.
  __device__ __forceinline__ void load(const StripParams& p, float* slot, unsigned ahead) {
    if (Traits::row_thread() < 32 && is_elected()) {
      const unsigned number = count + ahead;
      uint64_t* counter = &counters->loaded[number & 1u];
      if constexpr (Traits::kStagesPixels) {
        wait_for_phase(&counters->emptied[number & 1u], (number >> 1 & 1u) ^ 1u);
      }
      order_before_boxes();  // what was stored where they go
      expect_bytes(counter, 2 * Traits::kParts * Traits::kPartStride * sizeof(float));
#pragma unroll
      for (int part = 0; part < Traits::kParts; ++part) {
        const int x = first1.x + part * Traits::kPartColumns;
        float* to = slot + part * Traits::kPartStride;
        load_box(to, p.tensor1, {x, first1.y, first1.z, first1.w}, counter);
        load_box(to + Traits::kImageStride, p.tensor2, {x, first1.y, plane2.x, plane2.y}, counter);
      }
    }
    first1.y += Traits::kChunkRows;
  }

  __device__ __forceinline__ void wait() {
    wait_for_phase(&counters->loaded[count & 1u], count >> 1 & 1u);
    ++count;
  }

  // Makes a quad s and d.
  template <bool kL1>
  static __device__ __forceinline__ void shift_quad(const PixelShift& shift, const float* place,
                                                    float4* s, float4* d) {
    const auto pixels1 = *reinterpret_cast<const float4*>(place);
    const auto pixels2 = *reinterpret_cast<const float4*>(place + Traits::kImageStride);
    if constexpr (kL1) {
      shift.apply_in_order(pixels1, pixels2, s, d);
    } else {
      shift.apply(pixels1, pixels2, s, d);
    }
  }

  // The same under a mask: zeros in place of what it hides. Each warp has a row, so that its lanes read
  // words of one row of the mask; what is left at the ends of all rows the first of them share.
  template <bool kL1>
  __device__ __forceinline__ float store_seen(const StripParams& p, const MarchPiece& piece,
                                              const PixelShift& shift, int first_y, float* slot) {
    static_assert(Traits::kRowWarps == Traits::kChunkRows && Traits::kParts == 2);
    constexpr int kOfPart = Traits::kStagedPitch / 4;  // quads of a row
    constexpr int kLeft = 2 * kOfPart - 64;
    static_assert(kLeft > 0 && kLeft * Traits::kChunkRows <= Traits::kColumns);
    constexpr int kItems = 3;
    const int thread = Traits::row_thread();
    const auto row_of = [&](int i) { return i < 2 ? thread / 32 : thread / kLeft; };
    const auto quad_of = [&](int i) { return i < 2 ? 32 * i + thread % 32 : 64 + thread % kLeft; };
    const auto part_of = [&](int i) { return quad_of(i) < kOfPart ? 0 : 1; };
    const auto has = [&](int i) { return i < 2 || thread < kLeft * Traits::kChunkRows; };
    unsigned masks[kItems] = {};  // under way while the boxes are
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      if (has(i)) {
        const int x = piece.first_column - Traits::kStagedBefore + 4 * quad_of(i) -
                      part_of(i) * (4 * kOfPart - Traits::kPartColumns);
        masks[i] = MaskPlane::bits_of_four(p, mask_bits, first_y + row_of(i), x);
      }
    }
    wait();
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      if (!has(i)) {
        break;
      }
      float* place = slot + row_of(i) * Traits::kStagedPitch + 4 * quad_of(i) +
                     part_of(i) * (Traits::kPartStride - Traits::kStagedPitch);
      float4 s, d;
      shift_quad<kL1>(shift, place, &s, &d);
      keep_seen(masks[i], &s);
      keep_seen(masks[i], &d);
      *reinterpret_cast<float4*>(place) = s;
      *reinterpret_cast<float4*>(place + Traits::kImageStride) = d;
    }
    return 0.0f;
  }

  // Makes the pixels of a chunk s and d.
  template <bool kL1>
  __device__ __forceinline__ float store(const StripParams& p, const MarchPiece& piece,
                                         const PixelShift& shift, int first_y, float* slot) {
    if constexpr (Traits::kNormalized) {
      return store_seen<kL1>(p, piece, shift, first_y, slot);
    }
    wait();
#pragma unroll
    for (int i = 0; i < (kQuads + Traits::kColumns - 1) / Traits::kColumns; ++i) {
      const int quad = Traits::row_thread() + i * Traits::kColumns;
      if ((i + 1) * Traits::kColumns > kQuads && quad >= kQuads) {
        break;
      }
      float4 s, d;
      shift_quad<kL1>(shift, slot + 4 * quad, &s, &d);
      *reinterpret_cast<float4*>(slot + 4 * quad) = s;
      *reinterpret_cast<float4*>(slot + 4 * quad + Traits::kImageStride) = d;
    }
    return 0.0f;
  }
};

template <class Traits>
using MarchLoader = std::conditional_t<Traits::kBoxes, BoxLoader<Traits>,
                                       std::conditional_t<Traits::kQuads && Traits::kKeepsPixels,
                                                          QuadLoader<Traits>, WordLoader<Traits>>>;

}  // namespace fused_ssim::cuda
