// Rows in segments: lane l of a vector holds the columns [l * segment, (l + 1) * segment), so
// vector j of a row holds the columns j, segment + j, ...
//
//     columns   0 1 2 3 | 4 5 6 7 | 8 9 10 11 | 12 13 14 15      (4 lanes, segment = 4)
//     vector 0: 0 4 8 12   vector 1: 1 5 9 13   vector 2: 2 6 10 14   vector 3: 3 7 11 15
//
// A neighbour in x is then a neighbouring vector, and the horizontal filter needs neither unaligned
// loads nor shuffles. The price is an in-register transpose on the way in and on the way out, and
// `radius` lane shifts at either end for the halo.
#pragma once

#include <cstdint>

#include "cpu/simd.h"

namespace fused_ssim::cpu {

template <class Arch, class T>
struct Segments {
  using V = Vec<T, Arch::kVectorBytes>;
  static constexpr int kLanes = V::kLanes;

  // The vectors that `columns` take. Halos come from the neighbouring lane alone, so a segment is
  // no shorter than the radius.
  static int64_t length(int64_t columns, int radius) {
    const int64_t segment = (columns + kLanes - 1) / kLanes;
    return segment < radius ? radius : segment;
  }

  static __attribute__((noinline)) void from_natural(const T* natural, int64_t segment,
                                                     V* segments) {
    if (segment >= kLanes) {
      for (int64_t begin = 0; begin < segment; begin += kLanes) {
        // The last block overlaps its predecessor rather than be shorter.
        const int64_t j = begin + kLanes <= segment ? begin : segment - kLanes;
        V block[kLanes];
        unroll<0, kLanes>([&](auto lane) __attribute__((always_inline)) {
          constexpr int kLane = decltype(lane)::value;
          block[kLane] = V::load_unaligned(natural + kLane * segment + j);
        });
        transpose(block);
        unroll<0, kLanes>([&](auto i) __attribute__((always_inline)) {
          constexpr int kColumn = decltype(i)::value;
          segments[j + kColumn] = block[kColumn];
        });
      }
    } else {
      for (int64_t j = 0; j < segment; ++j) {
        for (int lane = 0; lane < kLanes; ++lane) {
          segments[j].set_lane(lane, natural[lane * segment + j]);
        }
      }
    }
  }

  static __attribute__((noinline)) void to_natural(const V* segments, int64_t segment, T* natural) {
    if (segment >= kLanes) {
      for (int64_t begin = 0; begin < segment; begin += kLanes) {
        const int64_t j = begin + kLanes <= segment ? begin : segment - kLanes;
        V block[kLanes];
        unroll<0, kLanes>([&](auto i) __attribute__((always_inline)) {
          constexpr int kColumn = decltype(i)::value;
          block[kColumn] = segments[j + kColumn];
        });
        transpose(block);
        unroll<0, kLanes>([&](auto lane) __attribute__((always_inline)) {
          constexpr int kLane = decltype(lane)::value;
          block[kLane].store_unaligned(natural + kLane * segment + j);
        });
      }
    } else {
      for (int64_t j = 0; j < segment; ++j) {
        for (int lane = 0; lane < kLanes; ++lane) {
          natural[lane * segment + j] = segments[j].lane(lane);
        }
      }
    }
  }

  // The halo of a row that starts `radius` vectors into `row`: the neighbouring lane's columns, and
  // `fill` beyond the first and the last.
  static FUSED_SSIM_INLINE void fill_halo(V* row, int64_t segment, int radius, V fill) {
    for (int k = 1; k <= radius; ++k) {
      row[radius - k] = shift_lanes_up(row[radius + segment - k], fill);
      row[radius + segment - 1 + k] = shift_lanes_down(row[radius - 1 + k], fill);
    }
  }
};

}  // namespace fused_ssim::cpu
