// Row-band kernel: SSIM sums, map and gradient of one strip of one plane, in one pass over the rows.
//
// Plan. A strip of columns is held in segments: lane l of a vector holds the columns
// [l * segment, (l + 1) * segment), so vector j of a row holds the columns j, segment + j, ...
//
//     columns   0 1 2 3 | 4 5 6 7 | 8 9 10 11 | 12 13 14 15      (4 lanes, segment = 4)
//     vector 0: 0 4 8 12   vector 1: 1 5 9 13   vector 2: 2 6 10 14   vector 3: 3 7 11 15
//
// A neighbour in x is then a neighbouring vector, and the horizontal filter needs neither unaligned
// loads nor shuffles: horizontal and vertical filter are the same code, eight outputs at a time out
// of (8 + 2 radius) loads. A row costs one in-register transpose of s and d on the way in, one of
// each gradient on the way out, and `radius` lane shifts at either end for the halo.
//
// Rows go down the strip in chunks of 8. For each chunk, in order:
//   1. stage:    8 new rows of x and y -> s, d (shifted), transposed into a ring of chunks
//   2. H:        filter s, d, s^2, d^2 along x, 8 columns at a time, into a small tile
//   3. V:        filter the tile's columns along y; the last 2 radius rows of each column are carried
//                from chunk to chunk. Value and partials come out one radius above the new rows.
//   4. V:        filter the partials along y (carried likewise) into 8 partial rows
//   5. H:        filter the partial rows along x, combine with s and d, transpose back, store the
//                gradient rows two radii above the new ones.
//
// Traffic per pixel and plane (float32): 8 B read, 4 B written for each gradient or map; the rest
// stays in L2: (6 radius + 6) floats of ring, 40 + 30 of carry and 24 of partial rows a column for
// an 11-tap window. About 88 multiply-adds for the value and 154 with the gradient.
#pragma once

#include <cstdint>

#include "core/problem.h"
#include "core/formula.h"
#include "cpu/convert.h"
#include "cpu/plan.h"
#include "cpu/simd.h"

namespace fused_ssim::cpu {

// kFixedRadius: the window's radius where it is known at compile time, else 0.
// kImages: how many gradients (0, 1: that of img1, 2).
template <class Arch, class T, int kFixedRadius, int kImages>
class StripKernel {
 public:
  using V = Vec<T, Arch::kVectorBytes>;
  using Mask = typename V::Mask;

  StripKernel(const Problem& problem, const Request& request, int64_t strip_columns,
              unsigned char* workspace)
      : problem_(problem), request_(request), radius_(problem.radius()) {
    lay_out(strip_columns, workspace);
    for (int k = 0; k < problem.window.size; ++k) {
      if constexpr (sizeof(T) == 4) {
        taps_.weight[k] = V(round_taps_to_float(problem.window).taps[k]);
      } else {
        taps_.weight[k] = V(problem.window.taps[k]);
      }
    }
    doubled_stabilizers_ = {V(T(2 * problem.c1)), V(T(2 * problem.c2))};
  }

  static int64_t workspace_bytes(const Problem& problem, const Request& request,
                                 int64_t strip_columns) {
    StripKernel layout(problem, request, strip_columns);
    return layout.bytes_;
  }

  void run(const Task& task);

 private:
  static constexpr int kLanes = V::kLanes;
  static constexpr int kBlock = 8;    // columns of vectors filtered at a time
  static constexpr int kMoments = 4;  // s, d, s^2, d^2
  static constexpr int kPartialMaps = kImages == 0 ? 0 : kImages == 1 ? 3 : 4;
  static constexpr int kMaxRadius = kMaxWindowSize / 2;
  using DoubleLanes = typename Vec<double, kLanes * 8>::Native;

  struct Taps {
    V weight[kFixedRadius > 0 ? 2 * kFixedRadius + 1 : kMaxWindowSize];
  };

  StripKernel(const Problem& problem, const Request& request, int64_t strip_columns)
      : problem_(problem), request_(request), radius_(problem.radius()) {
    lay_out(strip_columns, nullptr);
  }

  FUSED_SSIM_INLINE int radius() const { return kFixedRadius > 0 ? kFixedRadius : radius_; }
  FUSED_SSIM_INLINE int window_size() const { return 2 * radius() + 1; }
  // Columns that a strip reads beyond the ones it owns, at either side.
  FUSED_SSIM_INLINE int halo() const { return kImages > 0 ? 2 * radius() : radius(); }
  FUSED_SSIM_INLINE int carried() const { return 2 * radius(); }
  FUSED_SSIM_INLINE int64_t pitch() const { return segment_capacity_ + 2 * radius(); }

  template <class Element>
  Element* take(unsigned char* workspace, int64_t count) {
    const int64_t offset = bytes_;
    bytes_ += (count * static_cast<int64_t>(sizeof(Element)) + 63) / 64 * 64;
    return workspace == nullptr ? nullptr : reinterpret_cast<Element*>(workspace + offset);
  }
  void lay_out(int64_t strip_columns, unsigned char* workspace);
  static int64_t segment_for(int64_t columns, int radius) {
    const int64_t segment = (columns + kLanes - 1) / kLanes;
    return segment < radius ? radius : segment;
  }

  void begin_strip(const Task& task);
  void choose_shift();
  void build_masks();
  void stage_chunk(int64_t chunk, ChunkSums* sums);
  void stage_row(int64_t row, V* s_row, V* d_row, double* l1_sum);
  void stage_map_gradient(int64_t first_row);
  void prefetch_rows(int64_t chunk, int64_t j) const;
  void evaluate_chunk(int64_t chunk, ChunkSums* sums);
  void carry_chunk(int64_t chunk);
  template <int kCount>
  void filter_block(int64_t chunk, int64_t j);
  void evaluate_column(int64_t j, const V* tile, int row_begin, int row_end, DoubleLanes* sum);
  void store_map(int64_t chunk);
  // The rows of a chunk, as [begin, end) in 0 .. 8, for which there is a value.
  struct ValueRows {
    int64_t first_row;
    int begin;
    int end;
  };
  ValueRows value_rows(int64_t chunk) const;
  void finish_gradient(int64_t chunk);
  template <int kCount>
  void combine_block(const V* partial_row, const V* s_row, const V* d_row, int64_t j);
  void store_gradient_row(int64_t row, const V* gradient, const MutableImage& image, T l1_sign);

  template <int kCount, class Load>
  FUSED_SSIM_INLINE void filter(const Taps& taps, Load load, V (&out)[kCount]) const;
  FUSED_SSIM_INLINE void filter_column(const Taps& taps, V* carry, const V* fresh, bool centred,
                                       V (&out)[kChunkRows]) const;
  // The mean of two inputs in the middle, both of which all kCount neighbouring outputs see. Moments
  // are filtered as what they differ from it by: in flat windows, the ones where C2 does not hide it,
  // rounding is then that of the small differences. Windows of other sizes do without.
  template <int kCount, class Load>
  static FUSED_SSIM_INLINE V reference_of(Load load) {
    if constexpr (kFixedRadius > 0) {
      constexpr int kFirst = kFixedRadius + kCount / 2 - 1;
      static_assert(kFirst >= kCount - 1 && kFirst + 1 <= 2 * kFixedRadius,
                    "inputs that all outputs see");
      return V(T(0.5)) * (load(kFirst) + load(kFirst + 1));
    } else {
      return V(T(0));
    }
  }

  FUSED_SSIM_INLINE V* ring_chunk(int64_t chunk) const {
    const int64_t slot = ((chunk % ring_chunks_) + ring_chunks_) % ring_chunks_;
    return ring_ + slot * kChunkRows * 2 * pitch();
  }
  // Left and right halo of one staged row: the neighbouring lane's columns, or `fill`.
  FUSED_SSIM_INLINE void fill_halo(V* row, V fill) const {
    for (int k = 1; k <= radius(); ++k) {
      row[radius() - k] = shift_lanes_up(row[radius() + segment_ - k], fill);
      row[radius() + segment_ - 1 + k] = shift_lanes_down(row[radius() - 1 + k], fill);
    }
  }
  void to_segments(const T* natural, V* segments) const;
  void to_natural(const V* segments, T* natural) const;

  template <class Element>
  FUSED_SSIM_INLINE const Element* pixel(const ConstImage& image, int64_t row,
                                         int64_t column) const {
    return static_cast<const Element*>(image.data) + batch_ * image.stride_batch +
           channel_ * image.stride_channel + row * image.stride_row + column * image.stride_column;
  }
  const T* read_row(const ConstImage& image, DType dtype, int64_t row, int64_t column_begin,
                    int64_t count, T* scratch) const;
  template <class Element>
  const T* read_row_as(const ConstImage& image, int64_t row, int64_t column_begin, int64_t count,
                       T* scratch) const;
  template <class Element>
  void write_row_as(const MutableImage& image, int64_t row, int64_t column_begin, int64_t count,
                    const T* values) const;

  const Problem& problem_;
  const Request& request_;
  const int radius_;
  Taps taps_;
  DoubledStabilizers<V> doubled_stabilizers_;

  // Workspace.
  int64_t bytes_ = 0;
  int64_t segment_capacity_ = 0;
  int64_t ring_chunks_ = 0;
  V* ring_ = nullptr;               // [ring_chunks][8][2: s, d][pitch]
  V* tile_ = nullptr;               // [kBlock][kMoments][8]
  V* carry_ = nullptr;              // [segment][kMoments][2 radius]
  V* partial_carry_ = nullptr;      // [segment][kPartialMaps][2 radius]
  V* partial_rows_ = nullptr;       // [8][kPartialMaps][pitch]
  V* gradient_rows_ = nullptr;      // [kImages][segment]
  V* map_rows_ = nullptr;           // [8][segment]
  V* map_gradient_rows_ = nullptr;  // [8][segment]
  Mask* value_mask_ = nullptr;      // [segment]: columns that have a value
  Mask* owned_mask_ = nullptr;      // [segment]: those of them that this strip sums up
  T* natural_a_ = nullptr;          // [kLanes * segment]
  T* natural_b_ = nullptr;
  T* scratch_a_ = nullptr;
  T* scratch_b_ = nullptr;

  // The strip in hand.
  Task task_ = {};
  int64_t batch_ = 0;
  int64_t channel_ = 0;
  int64_t segment_ = 0;
  int64_t data_begin_ = 0;  // first column staged
  int64_t data_end_ = 0;
  T shift_s_ = 0;
  T shift_d_ = 0;
};

template <class Arch, class T, int kFixedRadius, int kImages>
void StripKernel<Arch, T, kFixedRadius, kImages>::lay_out(int64_t strip_columns,
                                                          unsigned char* workspace) {
  bytes_ = 0;
  segment_capacity_ = segment_for(strip_columns + 2 * halo(), radius());
  ring_chunks_ = (2 * radius() + kChunkRows - 1) / kChunkRows + 1;
  ring_ = take<V>(workspace, ring_chunks_ * kChunkRows * 2 * pitch());
  tile_ = take<V>(workspace, kBlock * kMoments * kChunkRows);
  carry_ = take<V>(workspace, segment_capacity_ * kMoments * carried());
  partial_carry_ = take<V>(workspace, segment_capacity_ * kPartialMaps * carried());
  partial_rows_ = take<V>(workspace, kChunkRows * kPartialMaps * pitch());
  gradient_rows_ = take<V>(workspace, kImages * segment_capacity_);
  map_rows_ = take<V>(workspace, request_.map != nullptr ? kChunkRows * segment_capacity_ : 0);
  map_gradient_rows_ = take<V>(
      workspace, request_.map_gradient.data != nullptr ? kChunkRows * segment_capacity_ : 0);
  value_mask_ = take<Mask>(workspace, segment_capacity_);
  owned_mask_ = take<Mask>(workspace, segment_capacity_);
  natural_a_ = take<T>(workspace, kLanes * segment_capacity_);
  natural_b_ = take<T>(workspace, kLanes * segment_capacity_);
  scratch_a_ = take<T>(workspace, kLanes * segment_capacity_);
  scratch_b_ = take<T>(workspace, kLanes * segment_capacity_);
}

template <class Arch, class T, int kFixedRadius, int kImages>
void StripKernel<Arch, T, kFixedRadius, kImages>::run(const Task& task) {
  begin_strip(task);
  // Chunks to run before the first owned one, so that its rows find their predecessors carried.
  const int64_t reach = kImages > 0 ? 4 * radius() : 2 * radius();
  const int64_t warm_up = (reach + kChunkRows - 1) / kChunkRows;
  const int64_t topmost = -((3 * radius() + kChunkRows - 1) / kChunkRows);  // holds row -radius
  int64_t chunk = task.chunk_begin - warm_up;
  if (chunk < topmost) {
    chunk = topmost;
  }
  const int64_t first_gradient_chunk = task.chunk_begin < 0 ? 0 : task.chunk_begin;
  for (; chunk < task.chunk_end; ++chunk) {
    const bool owned = chunk >= task.chunk_begin;
    ChunkSums sums = {0.0, 0.0};
    stage_chunk(chunk, &sums);
    // A warm-up chunk's values matter only as partials of the first gradient rows.
    const int64_t last_value_row = chunk * kChunkRows + radius() + kChunkRows - 1;
    const bool feeds_gradient =
        kImages > 0 && last_value_row >= first_gradient_chunk * kChunkRows - radius();
    if (owned || feeds_gradient) {
      evaluate_chunk(chunk, &sums);
    } else {
      carry_chunk(chunk);
    }
    if (owned && request_.map != nullptr) {
      store_map(chunk);
    }
    if constexpr (kImages > 0) {
      if (chunk >= first_gradient_chunk) {
        finish_gradient(chunk);
      }
    }
    if (owned) {
      task.sums[chunk] = sums;
    }
  }
}

template <class Arch, class T, int kFixedRadius, int kImages>
void StripKernel<Arch, T, kFixedRadius, kImages>::begin_strip(const Task& task) {
  task_ = task;
  batch_ = task.plane / problem_.shape.channels;
  channel_ = task.plane % problem_.shape.channels;
  data_begin_ = task.column_begin - halo();
  data_begin_ = data_begin_ < 0 ? 0 : data_begin_;
  data_end_ = task.column_end + halo();
  data_end_ = data_end_ > problem_.shape.width ? problem_.shape.width : data_end_;
  segment_ = segment_for(data_end_ - data_begin_, radius());
  choose_shift();
  build_masks();
  for (int64_t i = 0; i < segment_ * kMoments * carried(); ++i) {
    carry_[i] = V(T(0));
  }
  for (int64_t i = 0; i < segment_ * kPartialMaps * carried(); ++i) {
    partial_carry_[i] = V(T(0));
  }
}

// The mean of s and d over a grid of samples of the strip. The extremes are left out, for they may be
// outliers, and so is what is not finite: it must spoil its own windows alone.
template <class Arch, class T, int kFixedRadius, int kImages>
void StripKernel<Arch, T, kFixedRadius, kImages>::choose_shift() {
  constexpr int kAxisSamples = 6;
  constexpr int kSamples = kAxisSamples * kAxisSamples;
  constexpr int kOutliers = 2;                                 // left out at either end
  constexpr T kLargest = sizeof(T) == 4 ? T(1e18) : T(1e150);  // its square is finite
  T s[kSamples];
  T d[kSamples];
  int count = 0;
  const auto insert = [](T* sorted, int size, T value) {
    for (; size > 0 && sorted[size - 1] > value; --size) {
      sorted[size] = sorted[size - 1];
    }
    sorted[size] = value;
  };
  const int64_t columns = task_.column_end - task_.column_begin;
  for (int i = 0; i < kAxisSamples; ++i) {
    const int64_t row = (2 * i + 1) * problem_.shape.height / (2 * kAxisSamples);
    for (int k = 0; k < kAxisSamples; ++k) {
      const int64_t column = task_.column_begin + (2 * k + 1) * columns / (2 * kAxisSamples);
      const T x = *read_row(problem_.img1, problem_.dtype, row, column, 1, scratch_a_);
      const T y = *read_row(problem_.img2, problem_.dtype, row, column, 1, scratch_b_);
      if (x > -kLargest && x < kLargest && y > -kLargest && y < kLargest) {
        insert(s, count, x + y);
        insert(d, count, x - y);
        ++count;
      }
    }
  }
  const int trim = count > 4 * kOutliers ? kOutliers : 0;
  shift_s_ = 0;
  shift_d_ = 0;
  for (int i = trim; i < count - trim; ++i) {
    shift_s_ += s[i] / T(count - 2 * trim);
    shift_d_ += d[i] / T(count - 2 * trim);
  }
}

template <class Arch, class T, int kFixedRadius, int kImages>
void StripKernel<Arch, T, kFixedRadius, kImages>::build_masks() {
  const int64_t value_begin = problem_.crop();
  int64_t value_end = problem_.shape.width - problem_.crop();
  value_end = value_end > data_end_ ? data_end_ : value_end;
  for (int64_t j = 0; j < segment_; ++j) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const int64_t column = data_begin_ + lane * segment_ + j;
      const bool has_value = column >= value_begin && column < value_end;
      const bool owned = column >= task_.column_begin && column < task_.column_end;
      value_mask_[j][lane] = has_value ? -1 : 0;
      owned_mask_[j][lane] = has_value && owned ? -1 : 0;
    }
  }
}

// ---- 1. stage -----------------------------------------------------------------------------------

template <class Arch, class T, int kFixedRadius, int kImages>
template <class Element>
const T* StripKernel<Arch, T, kFixedRadius, kImages>::read_row_as(const ConstImage& image,
                                                                  int64_t row, int64_t column_begin,
                                                                  int64_t count, T* scratch) const {
  const Element* from = pixel<Element>(image, row, column_begin);
  const int64_t stride = image.stride_column;
  if (stride == 1) {
    for (int64_t i = 0; i < count; ++i) {
      widen(from[i], scratch + i);
    }
  } else {
    for (int64_t i = 0; i < count; ++i) {
      widen(from[i * stride], scratch + i);
    }
  }
  return scratch;
}

// `count` pixels of a row in the kernel's type: in place where they lie so, else in `scratch`.
template <class Arch, class T, int kFixedRadius, int kImages>
const T* StripKernel<Arch, T, kFixedRadius, kImages>::read_row(const ConstImage& image, DType dtype,
                                                               int64_t row, int64_t column_begin,
                                                               int64_t count, T* scratch) const {
  if constexpr (sizeof(T) == 8) {
    return image.stride_column == 1 ? pixel<double>(image, row, column_begin)
                                    : read_row_as<double>(image, row, column_begin, count, scratch);
  } else {
    switch (dtype) {
      case DType::kFloat16:
        return read_row_as<Float16>(image, row, column_begin, count, scratch);
      case DType::kBFloat16:
        return read_row_as<BFloat16>(image, row, column_begin, count, scratch);
      default:
        return image.stride_column == 1
                   ? pixel<float>(image, row, column_begin)
                   : read_row_as<float>(image, row, column_begin, count, scratch);
    }
  }
}

template <class Arch, class T, int kFixedRadius, int kImages>
void StripKernel<Arch, T, kFixedRadius, kImages>::to_segments(const T* natural, V* segments) const {
  if (segment_ >= kLanes) {
    for (int64_t begin = 0; begin < segment_; begin += kLanes) {
      // The last block overlaps its predecessor rather than be shorter.
      const int64_t j = begin + kLanes <= segment_ ? begin : segment_ - kLanes;
      V block[kLanes];
      unroll<0, kLanes>([&](auto lane) __attribute__((always_inline)) {
        constexpr int kLane = decltype(lane)::value;
        block[kLane] = V::load_unaligned(natural + kLane * segment_ + j);
      });
      transpose(block);
      unroll<0, kLanes>([&](auto i) __attribute__((always_inline)) {
        constexpr int kColumn = decltype(i)::value;
        segments[j + kColumn] = block[kColumn];
      });
    }
  } else {
    for (int64_t j = 0; j < segment_; ++j) {
      for (int lane = 0; lane < kLanes; ++lane) {
        segments[j].set_lane(lane, natural[lane * segment_ + j]);
      }
    }
  }
}

template <class Arch, class T, int kFixedRadius, int kImages>
void StripKernel<Arch, T, kFixedRadius, kImages>::to_natural(const V* segments, T* natural) const {
  if (segment_ >= kLanes) {
    for (int64_t begin = 0; begin < segment_; begin += kLanes) {
      const int64_t j = begin + kLanes <= segment_ ? begin : segment_ - kLanes;
      V block[kLanes];
      unroll<0, kLanes>([&](auto i) __attribute__((always_inline)) {
        constexpr int kColumn = decltype(i)::value;
        block[kColumn] = segments[j + kColumn];
      });
      transpose(block);
      unroll<0, kLanes>([&](auto lane) __attribute__((always_inline)) {
        constexpr int kLane = decltype(lane)::value;
        block[kLane].store_unaligned(natural + kLane * segment_ + j);
      });
    }
  } else {
    for (int64_t j = 0; j < segment_; ++j) {
      for (int lane = 0; lane < kLanes; ++lane) {
        natural[lane * segment_ + j] = segments[j].lane(lane);
      }
    }
  }
}

template <class Arch, class T, int kFixedRadius, int kImages>
void StripKernel<Arch, T, kFixedRadius, kImages>::stage_chunk(int64_t chunk, ChunkSums* sums) {
  V* rows = ring_chunk(chunk);
  const int64_t first_row = chunk * kChunkRows + 2 * radius();
  double l1_sum = 0.0;
  for (int i = 0; i < kChunkRows; ++i) {
    stage_row(first_row + i, rows + 2 * i * pitch(), rows + (2 * i + 1) * pitch(), &l1_sum);
  }
  sums->l1 = l1_sum;
}

template <class Arch, class T, int kFixedRadius, int kImages>
void StripKernel<Arch, T, kFixedRadius, kImages>::stage_row(int64_t row, V* s_row, V* d_row,
                                                            double* l1_sum) {
  const V shift_s(shift_s_);
  const V shift_d(shift_d_);
  if (row < 0 || row >= problem_.shape.height) {
    for (int64_t j = 0; j < segment_ + 2 * radius(); ++j) {
      s_row[j] = -shift_s;
      d_row[j] = -shift_d;
    }
    return;
  }
  const int64_t columns = data_end_ - data_begin_;
  const T* x = read_row(problem_.img1, problem_.dtype, row, data_begin_, columns, scratch_a_);
  const T* y = read_row(problem_.img2, problem_.dtype, row, data_begin_, columns, scratch_b_);
  int64_t c = 0;
  for (; c + kLanes <= columns; c += kLanes) {
    const V a = V::load_unaligned(x + c);
    const V b = V::load_unaligned(y + c);
    ((a + b) - shift_s).store_unaligned(natural_a_ + c);
    ((a - b) - shift_d).store_unaligned(natural_b_ + c);
  }
  for (; c < columns; ++c) {
    natural_a_[c] = (x[c] + y[c]) - shift_s_;
    natural_b_[c] = (x[c] - y[c]) - shift_d_;
  }
  for (; c < kLanes * segment_; ++c) {
    natural_a_[c] = -shift_s_;
    natural_b_[c] = -shift_d_;
  }
  to_segments(natural_a_, s_row + radius());
  to_segments(natural_b_, d_row + radius());
  fill_halo(s_row, -shift_s);
  fill_halo(d_row, -shift_d);

  if (request_.l1_weight != 0.0 && row >= problem_.crop() &&
      row < problem_.shape.height - problem_.crop()) {
    const int64_t crop = problem_.crop();
    int64_t begin = task_.column_begin < crop ? crop : task_.column_begin;
    const int64_t limit = problem_.shape.width - crop;
    const int64_t end = task_.column_end > limit ? limit : task_.column_end;
    // In double from the start: float32 partial sums of a constant image drift.
    DoubleLanes sum = {};
    int64_t i = begin - data_begin_;
    for (; i + kLanes <= end - data_begin_; i += kLanes) {
      const V difference = V::load_unaligned(x + i) - V::load_unaligned(y + i);
      const V magnitude =
          typename V::Native(difference.v < typename V::Native{} ? -difference.v : difference.v);
      sum += __builtin_convertvector(magnitude.v, DoubleLanes);
    }
    double total = 0.0;
    for (int lane = 0; lane < kLanes; ++lane) {
      total += sum[lane];
    }
    for (; i < end - data_begin_; ++i) {
      const T difference = x[i] - y[i];
      total += difference < T(0) ? -difference : difference;
    }
    *l1_sum += total;
  }
}

// Asks for the block's share of the rows that `chunk` will stage. The strips of a row lie too far
// apart for the hardware to see them coming, and the arithmetic of a chunk covers the wait.
template <class Arch, class T, int kFixedRadius, int kImages>
void StripKernel<Arch, T, kFixedRadius, kImages>::prefetch_rows(int64_t chunk, int64_t j) const {
  constexpr int64_t kCacheLine = 64;
  constexpr int64_t kRows = 2 * kChunkRows;  // of both images
  const int64_t blocks = segment_ / kBlock;
  const int64_t block = j / kBlock;
  for (int64_t i = kRows * block / blocks; i < kRows * (block + 1) / blocks; ++i) {
    const int64_t row = chunk * kChunkRows + 2 * radius() + i / 2;
    if (row < 0 || row >= problem_.shape.height) {
      continue;
    }
    const ConstImage& image = i % 2 == 0 ? problem_.img1 : problem_.img2;
    const int64_t element = size_of(problem_.dtype);
    const char* from = static_cast<const char*>(image.data) +
                       element * (batch_ * image.stride_batch + channel_ * image.stride_channel +
                                  row * image.stride_row + data_begin_ * image.stride_column);
    const int64_t bytes = element * (data_end_ - data_begin_) * image.stride_column;
    for (int64_t offset = 0; offset < bytes; offset += kCacheLine) {
      __builtin_prefetch(from + offset, 0, 2);
    }
  }
}

// dL/dmap of the chunk's value rows, zero where there is no value.
template <class Arch, class T, int kFixedRadius, int kImages>
void StripKernel<Arch, T, kFixedRadius, kImages>::stage_map_gradient(int64_t first_row) {
  const int64_t crop = problem_.crop();
  const int64_t begin = data_begin_ < crop ? crop : data_begin_;
  const int64_t limit = problem_.shape.width - crop;
  const int64_t end = data_end_ > limit ? limit : data_end_;
  constexpr DType kDType = sizeof(T) == 8 ? DType::kFloat64 : DType::kFloat32;
  for (int i = 0; i < kChunkRows; ++i) {
    const int64_t map_row = first_row + i - crop;
    for (int64_t c = 0; c < kLanes * segment_; ++c) {
      natural_a_[c] = T(0);
    }
    if (map_row >= 0 && map_row < problem_.map_height() && begin < end) {
      const T* values =
          read_row(request_.map_gradient, kDType, map_row, begin - crop, end - begin, scratch_a_);
      for (int64_t c = begin; c < end; ++c) {
        natural_a_[c - data_begin_] = values[c - begin];
      }
    }
    to_segments(natural_a_, map_gradient_rows_ + i * segment_);
  }
}

// ---- 2. to 4. filter, evaluate, filter the partials along y -------------------------------------

// out[o] = sum over k of taps[k] * load(o + k).
template <class Arch, class T, int kFixedRadius, int kImages>
template <int kCount, class Load>
FUSED_SSIM_INLINE void StripKernel<Arch, T, kFixedRadius, kImages>::filter(const Taps& taps,
                                                                           Load load,
                                                                           V (&out)[kCount]) const {
  if constexpr (kFixedRadius > 0) {
    // Each input is loaded once and serves every output that sees it.
    unroll<0, kCount + 2 * kFixedRadius>([&](auto input) __attribute__((always_inline)) {
      constexpr int kInput = decltype(input)::value;
      const V value = load(kInput);
      unroll<0, kCount>([&](auto output) __attribute__((always_inline)) {
        constexpr int kOutput = decltype(output)::value;
        constexpr int kTap = kInput - kOutput;
        if constexpr (kTap == 0) {
          out[kOutput] = value * taps.weight[0];
        } else if constexpr (kTap > 0 && kTap <= 2 * kFixedRadius) {
          constexpr int kFolded = kTap <= kFixedRadius ? kTap : 2 * kFixedRadius - kTap;
          out[kOutput] = multiply_add(value, taps.weight[kFolded], out[kOutput]);
        }
      });
    });
  } else {
    unroll<0, kCount>([&](auto output) __attribute__((always_inline)) {
      out[decltype(output)::value] = load(decltype(output)::value) * taps.weight[0];
    });
    for (int k = 1; k < window_size(); ++k) {
      unroll<0, kCount>([&](auto output) __attribute__((always_inline)) {
        constexpr int kOutput = decltype(output)::value;
        out[kOutput] = multiply_add(load(kOutput + k), taps.weight[k], out[kOutput]);
      });
    }
  }
}

// Filters one column along y: the carried rows, then 8 fresh ones; carries the last rows on.
template <class Arch, class T, int kFixedRadius, int kImages>
FUSED_SSIM_INLINE void StripKernel<Arch, T, kFixedRadius, kImages>::filter_column(
    const Taps& taps, V* carry, const V* fresh, bool centred, V (&out)[kChunkRows]) const {
  if constexpr (kFixedRadius > 0) {
    const auto input = [&](int k) __attribute__((always_inline)) {
      return k < 2 * kFixedRadius ? carry[k] : fresh[k - 2 * kFixedRadius];
    };
    const V reference = centred ? reference_of<kChunkRows>(input) : V(T(0));
    filter<kChunkRows>(
        taps,
        [&](int k) __attribute__((always_inline)) {
          const V value = input(k);
          if (k >= kChunkRows) {
            carry[k - kChunkRows] = value;
          }
          return centred ? value - reference : value;
        },
        out);
    if (centred) {
      unroll<0, kChunkRows>([&](auto row) __attribute__((always_inline)) {
        out[decltype(row)::value] = out[decltype(row)::value] + reference;
      });
    }
  } else {
    V column[2 * kMaxRadius + kChunkRows];
    for (int k = 0; k < carried(); ++k) {
      column[k] = carry[k];
    }
    for (int k = 0; k < kChunkRows; ++k) {
      column[carried() + k] = fresh[k];
    }
    for (int k = 0; k < carried(); ++k) {
      carry[k] = column[k + kChunkRows];
    }
    filter<kChunkRows>(taps, [&](int k) __attribute__((always_inline)) { return column[k]; }, out);
  }
}

// H: the four moments of kCount columns from j on, for the chunk's 8 rows, into the tile.
template <class Arch, class T, int kFixedRadius, int kImages>
template <int kCount>
void StripKernel<Arch, T, kFixedRadius, kImages>::filter_block(int64_t chunk, int64_t j) {
  const Taps taps = taps_;
  const V* rows = ring_chunk(chunk);
  for (int row = 0; row < kChunkRows; ++row) {
    for (int image = 0; image < 2; ++image) {
      const V* from = rows + (2 * row + image) * pitch() + j;
      const V reference =
          reference_of<kCount>([&](int k) __attribute__((always_inline)) { return from[k]; });
      const V reference2 = reference * reference;
      V* to = tile_ + image * kChunkRows + row;
      V out[kCount];
      filter<kCount>(
          taps, [&](int k) __attribute__((always_inline)) { return from[k] - reference; }, out);
      unroll<0, kCount>([&](auto i) __attribute__((always_inline)) {
        to[decltype(i)::value * kMoments * kChunkRows] = out[decltype(i)::value] + reference;
      });
      filter<kCount>(
          taps,
          [&](int k) __attribute__((always_inline)) {
            const V value = from[k];
            return multiply_add(value, value, -reference2);
          },
          out);
      to += 2 * kChunkRows;
      unroll<0, kCount>([&](auto i) __attribute__((always_inline)) {
        to[decltype(i)::value * kMoments * kChunkRows] = out[decltype(i)::value] + reference2;
      });
    }
  }
}

// V, value, partials, V of one column of vectors.
template <class Arch, class T, int kFixedRadius, int kImages>
void StripKernel<Arch, T, kFixedRadius, kImages>::evaluate_column(int64_t j, const V* tile,
                                                                  int row_begin, int row_end,
                                                                  DoubleLanes* sum) {
  const Taps taps = taps_;
  V moments[kMoments][kChunkRows];
  unroll<0, kMoments>([&](auto map) __attribute__((always_inline)) {
    constexpr int kMap = decltype(map)::value;
    filter_column(taps, carry_ + (j * kMoments + kMap) * carried(), tile + kMap * kChunkRows, true,
                  moments[kMap]);
  });

  const V shift_s(shift_s_);
  const V shift_d(shift_d_);
  const DoubledStabilizers<V> doubled = doubled_stabilizers_;
  const Mask owned = owned_mask_[j];
  const Mask has_value = value_mask_[j];
  const bool keep_map = request_.map != nullptr;
  const bool weighted = request_.map_gradient.data != nullptr;
  V partials[kPartialMaps > 0 ? kPartialMaps : 1][kChunkRows];
  V column_sum(T(0));
  for (int row = 0; row < kChunkRows; ++row) {
    if (row < row_begin || row >= row_end) {
      unroll<0, kPartialMaps>([&](auto map) __attribute__((always_inline)) {
        partials[decltype(map)::value][row] = V(T(0));
      });
      continue;
    }
    const Moments<V> m = {moments[0][row], moments[1][row], moments[2][row], moments[3][row]};
    const SsimTerms<V> terms = ssim_terms(m, shift_s, shift_d, doubled);
    const V value = ssim_value(terms);
    column_sum = column_sum + keep(value, owned);
    if (keep_map) {
      map_rows_[row * segment_ + j] = value;
    }
    if constexpr (kImages > 0) {
      const SquarePartials<V> by_squares = square_partials(terms);
      // One map for each image's mean, and the two of the squares: [img1, s^2, d^2, img2].
      partials[0][row] = mean_partial(m, terms, by_squares, doubled, V(T(1)));
      partials[1][row] = by_squares.by_mean_s2;
      partials[2][row] = by_squares.by_mean_d2;
      if constexpr (kImages == 2) {
        partials[3][row] = mean_partial(m, terms, by_squares, doubled, V(T(-1)));
      }
      unroll<0, kPartialMaps>([&](auto map) __attribute__((always_inline)) {
        V& partial = partials[decltype(map)::value][row];
        if (weighted) {
          partial = partial * map_gradient_rows_[row * segment_ + j];
        }
        partial = keep(partial, has_value);
      });
    }
  }
  *sum += __builtin_convertvector(column_sum.v, DoubleLanes);

  unroll<0, kPartialMaps>([&](auto map) __attribute__((always_inline)) {
    constexpr int kMap = decltype(map)::value;
    V filtered[kChunkRows];
    filter_column(taps, partial_carry_ + (j * kPartialMaps + kMap) * carried(), partials[kMap],
                  false, filtered);
    V* to = partial_rows_ + kMap * pitch() + radius() + j;
    unroll<0, kChunkRows>([&](auto row) __attribute__((always_inline)) {
      to[decltype(row)::value * kPartialMaps * pitch()] = filtered[decltype(row)::value];
    });
  });
}

template <class Arch, class T, int kFixedRadius, int kImages>
typename StripKernel<Arch, T, kFixedRadius, kImages>::ValueRows
StripKernel<Arch, T, kFixedRadius, kImages>::value_rows(int64_t chunk) const {
  const auto clamp = [](int64_t row) {
    return static_cast<int>(row < 0 ? 0 : row > kChunkRows ? kChunkRows : row);
  };
  const int64_t first_row = chunk * kChunkRows + radius();
  return {first_row, clamp(problem_.crop() - first_row),
          clamp(problem_.shape.height - problem_.crop() - first_row)};
}

template <class Arch, class T, int kFixedRadius, int kImages>
void StripKernel<Arch, T, kFixedRadius, kImages>::evaluate_chunk(int64_t chunk, ChunkSums* sums) {
  const ValueRows rows = value_rows(chunk);
  if (kImages == 0 && rows.begin >= rows.end && chunk >= 0) {
    return;  // past the last value, and no partial to let go through
  }
  if (kImages > 0 && request_.map_gradient.data != nullptr) {
    stage_map_gradient(rows.first_row);
  }
  DoubleLanes sum = {};
  int64_t j = 0;
  for (; j + kBlock <= segment_; j += kBlock) {
    prefetch_rows(chunk + 1, j);
    filter_block<kBlock>(chunk, j);
    for (int i = 0; i < kBlock; ++i) {
      evaluate_column(j + i, tile_ + i * kMoments * kChunkRows, rows.begin, rows.end, &sum);
    }
  }
  for (; j < segment_; ++j) {
    filter_block<1>(chunk, j);
    evaluate_column(j, tile_, rows.begin, rows.end, &sum);
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    sums->ssim += sum[lane];
  }
}

// A warm-up chunk whose values nobody needs: only its rows are carried on.
template <class Arch, class T, int kFixedRadius, int kImages>
void StripKernel<Arch, T, kFixedRadius, kImages>::carry_chunk(int64_t chunk) {
  const auto carry_column = [&](int64_t j, const V* tile) {
    for (int map = 0; map < kMoments; ++map) {
      V* carry = carry_ + (j * kMoments + map) * carried();
      const V* fresh = tile + map * kChunkRows;
      for (int k = 0; k < carried(); ++k) {
        const int from = k + kChunkRows;
        carry[k] = from < carried() ? carry[from] : fresh[from - carried()];
      }
    }
  };
  int64_t j = 0;
  for (; j + kBlock <= segment_; j += kBlock) {
    filter_block<kBlock>(chunk, j);
    for (int i = 0; i < kBlock; ++i) {
      carry_column(j + i, tile_ + i * kMoments * kChunkRows);
    }
  }
  for (; j < segment_; ++j) {
    filter_block<1>(chunk, j);
    carry_column(j, tile_);
  }
}

template <class Arch, class T, int kFixedRadius, int kImages>
void StripKernel<Arch, T, kFixedRadius, kImages>::store_map(int64_t chunk) {
  const ValueRows rows = value_rows(chunk);
  const int64_t crop = problem_.crop();
  const int64_t begin = task_.column_begin < crop ? crop : task_.column_begin;
  const int64_t limit = problem_.shape.width - crop;
  const int64_t end = task_.column_end > limit ? limit : task_.column_end;
  T* plane = static_cast<T*>(request_.map) + task_.plane * problem_.map_pixels_per_plane();
  for (int row = rows.begin; row < rows.end; ++row) {
    to_natural(map_rows_ + row * segment_, natural_a_);
    T* to = plane + (rows.first_row + row - crop) * problem_.map_width() - crop;
    for (int64_t c = begin; c < end; ++c) {
      to[c] = natural_a_[c - data_begin_];
    }
  }
}

// ---- 5. filter the partials along x, combine, store ---------------------------------------------

template <class Arch, class T, int kFixedRadius, int kImages>
template <int kCount>
void StripKernel<Arch, T, kFixedRadius, kImages>::combine_block(const V* partial_row,
                                                                const V* s_row, const V* d_row,
                                                                int64_t j) {
  const Taps taps = taps_;
  V filtered[kPartialMaps > 0 ? kPartialMaps : 1][kCount];
  unroll<0, kPartialMaps>([&](auto map) __attribute__((always_inline)) {
    const V* from = partial_row + decltype(map)::value * pitch() + j;
    filter<kCount>(
        taps, [&](int k) __attribute__((always_inline)) { return from[k]; },
        filtered[decltype(map)::value]);
  });
  // A quarter of the gradient: the store multiplies by four (see core/formula.h).
  unroll<0, kCount>([&](auto i) __attribute__((always_inline)) {
    constexpr int kI = decltype(i)::value;
    const V s = s_row[radius() + j + kI];
    const V d = d_row[radius() + j + kI];
    const V by_d = d * filtered[2][kI];
    const V by_s = s * filtered[1][kI];
    gradient_rows_[j + kI] = filtered[0][kI] + (by_s + by_d);
    if constexpr (kImages == 2) {
      gradient_rows_[segment_ + j + kI] = filtered[3][kI] + (by_s - by_d);
    }
  });
}

template <class Arch, class T, int kFixedRadius, int kImages>
void StripKernel<Arch, T, kFixedRadius, kImages>::finish_gradient(int64_t chunk) {
  for (int i = 0; i < kChunkRows; ++i) {
    const int64_t row = chunk * kChunkRows + i;
    if (row >= problem_.shape.height) {
      break;
    }
    V* partial_row = partial_rows_ + i * kPartialMaps * pitch();
    for (int map = 0; map < kPartialMaps; ++map) {
      fill_halo(partial_row + map * pitch(), V(T(0)));
    }
    // The row was staged two radii ago: chunk g stages rows from 8g + 2 radius on.
    const int64_t staged = row - 2 * radius();
    const int64_t staged_chunk =
        staged >= 0 ? staged / kChunkRows : -((kChunkRows - 1 - staged) / kChunkRows);
    const int64_t staged_row = staged - staged_chunk * kChunkRows;
    const V* s_row = ring_chunk(staged_chunk) + 2 * staged_row * pitch();
    const V* d_row = s_row + pitch();
    int64_t j = 0;
    for (; j + kBlock <= segment_; j += kBlock) {
      combine_block<kBlock>(partial_row, s_row, d_row, j);
    }
    for (; j < segment_; ++j) {
      combine_block<1>(partial_row, s_row, d_row, j);
    }
    store_gradient_row(row, gradient_rows_, request_.grad1, T(1));
    if constexpr (kImages == 2) {
      store_gradient_row(row, gradient_rows_ + segment_, request_.grad2, T(-1));
    }
  }
}

template <class Arch, class T, int kFixedRadius, int kImages>
template <class Element>
void StripKernel<Arch, T, kFixedRadius, kImages>::write_row_as(const MutableImage& image,
                                                               int64_t row, int64_t column_begin,
                                                               int64_t count,
                                                               const T* values) const {
  Element* to = static_cast<Element*>(image.data) + batch_ * image.stride_batch +
                channel_ * image.stride_channel + row * image.stride_row +
                column_begin * image.stride_column;
  const int64_t stride = image.stride_column;
  if (stride == 1) {
    for (int64_t i = 0; i < count; ++i) {
      narrow(values[i], to + i);
    }
  } else {
    for (int64_t i = 0; i < count; ++i) {
      narrow(values[i], to + i * stride);
    }
  }
}

template <class Arch, class T, int kFixedRadius, int kImages>
void StripKernel<Arch, T, kFixedRadius, kImages>::store_gradient_row(int64_t row, const V* gradient,
                                                                     const MutableImage& image,
                                                                     T l1_sign) {
  to_natural(gradient, natural_a_);
  const int64_t begin = task_.column_begin;
  const int64_t count = task_.column_end - begin;
  T* values = natural_a_ + (begin - data_begin_);
  const T scale = T(4 * request_.ssim_weight);
  for (int64_t i = 0; i < count; ++i) {
    values[i] *= scale;
  }
  const int64_t crop = problem_.crop();
  if (request_.l1_weight != 0.0 && row >= crop && row < problem_.shape.height - crop) {
    const T weight = T(request_.l1_weight) * l1_sign;
    const T* x = read_row(problem_.img1, problem_.dtype, row, begin, count, scratch_a_);
    const T* y = read_row(problem_.img2, problem_.dtype, row, begin, count, scratch_b_);
    const int64_t first = crop > begin ? crop - begin : 0;
    const int64_t limit = problem_.shape.width - crop - begin;
    const int64_t last = limit < count ? limit : count;
    for (int64_t i = first; i < last; ++i) {
      const T difference = x[i] - y[i];
      // sign(0) = 0, and NaN stays NaN.
      const T sign = difference > T(0) ? T(1) : difference < T(0) ? T(-1) : T(0) * difference;
      values[i] += weight * sign;
    }
  }
  if constexpr (sizeof(T) == 8) {
    write_row_as<double>(image, row, begin, count, values);
  } else {
    switch (problem_.dtype) {
      case DType::kFloat16:
        write_row_as<Float16>(image, row, begin, count, values);
        break;
      case DType::kBFloat16:
        write_row_as<BFloat16>(image, row, begin, count, values);
        break;
      default:
        write_row_as<float>(image, row, begin, count, values);
        break;
    }
  }
}

}  // namespace fused_ssim::cpu
