// Strip kernel: sums, map and gradients of one strip of one plane, in one pass over the rows.
//
// Rows go down the strip in chunks of 8, held in segments (segments.h). For each chunk, in order:
//   1. stage:    8 new rows of x and y -> s, d (shifted), transposed into a ring of chunks
//   2. H:        filter s, d, s^2, d^2 along x, 8 columns at a time, into a small tile
//   3. V:        filter the tile's columns along y; the last 2 radius rows of each column are
//                carried from chunk to chunk. Values and partial derivatives (core/pointwise.h)
//                come out one radius above the new rows.
//   4. V:        filter the partials along y (carried likewise) into 8 partial rows
//   5. H:        filter the partial rows along x, combine with s and d, transpose back, store the
//                gradient rows two radii above the new ones.
//
// Traffic per pixel and plane (float32): 8 B read, 4 B written for each gradient or map; the rest
// stays in L2: (6 radius + 6) floats of ring, 40 + 30 of carry and 24 of partial rows a column for
// an 11-tap window. About 88 multiply-adds for the value and 154 with the gradient.
//
// Masks (core/pointwise.h). "weighted" adds a row of the mask for each row of values. In "normalized"
// the mask is staged, too, and 2. and 3. filter what it weighs, and the mask as a fifth map. Without a
// mask problems whose variances are merged (core/merging.h) do the same with ones in its place.
#pragma once

#include <cstdint>
#include <type_traits>

#include "core/pointwise.h"
#include "core/problem.h"
#include "core/taps.h"
#include "cpu/differences.h"
#include "cpu/filter.h"
#include "cpu/loader.h"
#include "cpu/plan.h"
#include "cpu/samples.h"
#include "cpu/segments.h"
#include "cpu/simd.h"
#include "cpu/workspace.h"

namespace fused_ssim::cpu {

// Filter: FixedFilter, ShortFilter or AnyFilter. kImages: for how many gradients (0, 1: that of img1,
// 2: both, of which any may be null). kMerged: whether variances are merged (core/merging.h).
template <class Arch, class T, template <class> class Filter, int kImages, bool kMerged>
class StripKernel {
 public:
  using V = Vec<T, Arch::kVectorBytes>;

  // Without a workspace only for workspace_bytes().
  StripKernel(const Problem& problem, const Request& request, int64_t strip_columns,
              unsigned char* workspace)
      : problem_(problem),
        request_(request),
        loader_(T(pixel_unit(problem) == 1.0 ? problem.uint8_divisor : 1)),
        radius_x_(filter_radius(problem, kWidth)),
        radius_y_(filter_radius(problem, kHeight)),
        crop_x_(crop(problem, kWidth)),
        crop_y_(crop(problem, kHeight)),
        height_(image_size(problem, kHeight)),
        width_(image_size(problem, kWidth)) {
    lay_out(strip_columns, workspace);
  }

  int64_t workspace_bytes() const { return workspace_bytes_; }

  void run(const Task& task);

 private:
  using Mask = typename V::Mask;
  using Rows = Segments<Arch, T>;
  static constexpr int kLanes = V::kLanes;
  static constexpr int kBlock = 8;    // columns of vectors filtered at a time
  static constexpr int kMoments = 4;  // of s and d the means, and the means or variances of squares
  // What is staged, and what is filtered as moments: where windows are weighed, the mask comes last.
  static constexpr int kStaged = kMerged ? 3 : 2;
  static constexpr int kFiltered = kMerged ? kMoments + 1 : kMoments;
  // Whether moments are means and variances, not squares.
  static constexpr bool kVariances = kMerged || Filter<V>::kTakesVariances;
  static constexpr int kPartialMaps = partial_maps(kImages);
  using DoubleLanes = typename Vec<double, kLanes * 8>::Native;

  FUSED_SSIM_INLINE int radius_x() const { return Filter<V>::kIsFixed ? kFixedRadius : radius_x_; }
  FUSED_SSIM_INLINE int radius_y() const { return Filter<V>::kIsFixed ? kFixedRadius : radius_y_; }
  // Columns that a strip reads beyond the ones it owns, at either side.
  FUSED_SSIM_INLINE int halo() const { return kImages > 0 ? 2 * radius_x() : radius_x(); }
  FUSED_SSIM_INLINE int carried() const { return 2 * radius_y(); }
  FUSED_SSIM_INLINE int64_t pitch() const { return segment_capacity_ + 2 * radius_x(); }

  void lay_out(int64_t strip_columns, unsigned char* workspace);

  void begin_strip(const Task& task);
  void choose_shift();
  void build_masks();
  void stage_chunk(int64_t chunk, ChunkSums* sums);
  void stage_row(int64_t row, V* staged, ChunkSums* sums);
  void stage_pixels(const T* x, const T* y, int64_t columns);
  void stage_masked_pixels(const T* x, const T* y, const T* mask, int64_t columns);
  void add_differences(int64_t row, const T* x, const T* y, ChunkSums* sums) const;
  void prefetch_rows(int64_t chunk, int64_t j) const;
  // The rows of a chunk, as [begin, end) in 0 .. 8, for which there is a value.
  struct ValueRows {
    int64_t first_row;
    int begin;
    int end;
  };
  ValueRows value_rows(int64_t chunk) const;
  void stage_value_rows(const ValueRows& rows, bool of_mask, V* to);
  const T* mask_row(int64_t row, int64_t column, int64_t count) const {
    return loader_.mask_row(mask_, row, column, count, mask_scratch_);
  }
  // What windows weigh pixels by where their variances are merged: the mask, or ones.
  const T* window_mask_row(int64_t row, int64_t column, int64_t count) const {
    return loader_.mask_row(mask_is_normalized(problem_) ? mask_ : Plane{}, row, column, count,
                            mask_scratch_);
  }
  // The columns in [begin, end) that have a value.
  struct Columns {
    int64_t begin;
    int64_t end;
  };
  Columns value_columns(int64_t begin, int64_t end) const;
  void evaluate_chunk(int64_t chunk, ChunkSums* sums);
  void carry_chunk(int64_t chunk);
  template <int kCount>
  FUSED_SSIM_INLINE void filter_block(int64_t chunk, int64_t j) {
    if constexpr (kMerged) {
      filter_masked_block<kCount>(chunk, j);
    } else {
      filter_plain_block<kCount>(chunk, j);
    }
  }
  template <int kCount>
  void filter_plain_block(int64_t chunk, int64_t j);
  template <int kCount>
  void filter_masked_block(int64_t chunk, int64_t j);
  // Row k of a column: the carried ones, then the fresh ones.
  FUSED_SSIM_INLINE V column_at(const V* carry, const V* fresh, int k) const {
    return k < carried() ? carry[k] : fresh[k - carried()];
  }
  template <bool kAreMoments, class Window>
  FUSED_SSIM_INLINE void filter_column(const Window& window, V* carry, const V* fresh,
                                       V (&out)[kChunkRows]) const;
  template <int kGroup, class Window, class LoadMask, class Load>
  static FUSED_SSIM_INLINE V masked_reference(const Window& window, const LoadMask& mask,
                                              const Load& load);
  template <int kGroup, class Window, class LoadMask, class LoadMean, class LoadVariance>
  FUSED_SSIM_INLINE void merge_masked(const Window& window, const LoadMask& mask,
                                      const LoadMean& mean, const LoadVariance& variance,
                                      const V* by_seen, V* means, V* variances) const;
  FUSED_SSIM_INLINE void carry_rows(V* carry, const V* fresh) const;
  void evaluate_column(int64_t j, const V* tile, const ValueRows& rows, DoubleLanes* sum);
  // Means of s and d, and of s^2 and d^2 or (kVariances) their variances.
  using Moments8 = V[kMoments][kChunkRows];
  using Partials8 = V[kPartialMaps > 0 ? kPartialMaps : 1][kChunkRows];
  // Of what differs from a number: the means of it and of its square.
  static FUSED_SSIM_INLINE V variance_of(V mean, V square) {
    return clamp_to_nonnegative(multiply_add(-mean, mean, square));
  }
  template <class Window>
  FUSED_SSIM_INLINE void merge_column(const Window& window, V* carry, const V* fresh,
                                      Moments8& moments) const;
  template <class Window>
  FUSED_SSIM_INLINE void merge_masked_column(const Window& window, V* carry, const V* fresh,
                                             Moments8& moments);
  template <int kStatistic, bool kMasked>
  FUSED_SSIM_INLINE void evaluate_pixels(int64_t j, const Moments8& moments, const ValueRows& rows,
                                         Partials8& partials, DoubleLanes* sum) const;
  // Out of line, so that it does not cost plain SSIM its registers.
  template <int kStatistic, bool kMasked>
  __attribute__((noinline)) void evaluate_apart(int64_t j, const Moments8& moments,
                                                const ValueRows& rows, Partials8& partials,
                                                DoubleLanes* sum) const {
    evaluate_pixels<kStatistic, kMasked>(j, moments, rows, partials, sum);
  }
  void store_map(int64_t chunk);
  void finish_gradient(int64_t chunk);
  template <int kCount>
  void combine_block(const V* partial_row, const V* s_row, int64_t j);
  void store_gradient_row(int64_t row, const V* gradient, const Plane& plane, T sign);

  FUSED_SSIM_INLINE V* ring_chunk(int64_t chunk) const {
    const int64_t slot = ((chunk % ring_chunks_) + ring_chunks_) % ring_chunks_;
    return ring_ + slot * kChunkRows * kStaged * pitch();
  }

  const Problem& problem_;
  const Request& request_;
  const Loader<Arch, T> loader_;
  const int radius_x_;
  const int radius_y_;
  const int crop_x_;
  const int crop_y_;
  const int64_t height_;
  const int64_t width_;
  Filter<V> filter_x_;
  Filter<V> filter_y_;

  // Workspace.
  int64_t workspace_bytes_ = 0;
  int64_t segment_capacity_ = 0;
  int64_t ring_chunks_ = 0;
  V* ring_ = nullptr;               // [ring_chunks][8][kStaged: s, d, mask][pitch]
  V* tile_ = nullptr;               // [kBlock][kFiltered][8]
  V* carry_ = nullptr;              // [segment][kFiltered][2 radius_y]
  V* partial_carry_ = nullptr;      // [segment][kPartialMaps][2 radius_y]
  V* partial_rows_ = nullptr;       // [8][kPartialMaps][pitch]
  V* column_ = nullptr;             // [2 radius_y + 8]
  V* seen_reciprocals_ = nullptr;   // [8]: 1 / E[m] of a column's rows
  V* gradient_rows_ = nullptr;      // [kImages][segment]
  V* map_rows_ = nullptr;           // [8][segment]
  V* map_gradient_rows_ = nullptr;  // [8][segment]
  V* mask_rows_ = nullptr;          // [8][segment]
  Mask* value_mask_ = nullptr;      // [segment]: columns that have a value
  Mask* owned_mask_ = nullptr;      // [segment]: those of them that this strip sums up
  T* natural_a_ = nullptr;          // [kLanes * segment]
  T* natural_b_ = nullptr;
  T* scratch_a_ = nullptr;
  T* scratch_b_ = nullptr;
  T* mask_scratch_ = nullptr;

  // The strip in hand.
  Task task_ = {};
  Plane img1_ = {};
  Plane img2_ = {};
  Plane grad1_ = {};
  Plane grad2_ = {};
  Plane map_gradient_ = {};
  Plane mask_ = {};
  GradientFactors gradient_factors_ = {};
  DoubledStabilizers<V> doubled_stabilizers_;
  int64_t segment_ = 0;
  int64_t data_begin_ = 0;  // first column staged
  int64_t data_end_ = 0;
  T shift_s_ = 0;
  T shift_d_ = 0;
};

template <class Arch, class T, template <class> class Filter, int kImages, bool kMerged>
void StripKernel<Arch, T, Filter, kImages, kMerged>::lay_out(int64_t strip_columns,
                                                             unsigned char* workspace) {
  WorkspaceLayout layout(workspace);
  segment_capacity_ = Rows::length(strip_columns + 2 * halo(), radius_x());
  ring_chunks_ = (2 * radius_y() + kChunkRows - 1) / kChunkRows + 1;
  const FilterTaps<T> taps_x = lay_out_taps<V>(layout, problem_.windows[kWidth], radius_x());
  const FilterTaps<T> taps_y = lay_out_taps<V>(layout, problem_.windows[kHeight], radius_y());
  if (workspace != nullptr) {
    filter_x_ = Filter<V>(taps_x);
    filter_y_ = Filter<V>(taps_y);
  }
  ring_ = layout.take<V>(ring_chunks_ * kChunkRows * kStaged * pitch());
  tile_ = layout.take<V>(kBlock * kFiltered * kChunkRows);
  carry_ = layout.take<V>(segment_capacity_ * kFiltered * carried());
  partial_carry_ = layout.take<V>(segment_capacity_ * kPartialMaps * carried());
  partial_rows_ = layout.take<V>(kChunkRows * kPartialMaps * pitch());
  column_ = layout.take<V>(carried() + kChunkRows);
  seen_reciprocals_ = layout.take<V>(kMerged ? kChunkRows : 0);
  gradient_rows_ = layout.take<V>(kImages * segment_capacity_);
  map_rows_ = layout.take<V>(request_.map != nullptr ? kChunkRows * segment_capacity_ : 0);
  map_gradient_rows_ =
      layout.take<V>(request_.map_gradient.data != nullptr ? kChunkRows * segment_capacity_ : 0);
  mask_rows_ = layout.take<V>(has_mask(problem_) ? kChunkRows * segment_capacity_ : 0);
  value_mask_ = layout.take<Mask>(segment_capacity_);
  owned_mask_ = layout.take<Mask>(segment_capacity_);
  natural_a_ = layout.take<T>(kLanes * segment_capacity_);
  natural_b_ = layout.take<T>(kLanes * segment_capacity_);
  scratch_a_ = layout.take<T>(kLanes * segment_capacity_);
  scratch_b_ = layout.take<T>(kLanes * segment_capacity_);
  mask_scratch_ = layout.take<T>(has_mask(problem_) || kMerged ? kLanes * segment_capacity_ : 0);
  workspace_bytes_ = layout.bytes();
}

template <class Arch, class T, template <class> class Filter, int kImages, bool kMerged>
void StripKernel<Arch, T, Filter, kImages, kMerged>::run(const Task& task) {
  begin_strip(task);
  // Chunks to run before the first owned one, so that its rows find their predecessors carried.
  const int64_t reach = kImages > 0 ? 4 * radius_y() : 2 * radius_y();
  const int64_t warm_up = (reach + kChunkRows - 1) / kChunkRows;
  const int64_t topmost = -((3 * radius_y() + kChunkRows - 1) / kChunkRows);  // holds row -radius
  int64_t chunk = task.chunk_begin - warm_up;
  if (chunk < topmost) {
    chunk = topmost;
  }
  const int64_t first_gradient_chunk = task.chunk_begin < 0 ? 0 : task.chunk_begin;
  for (; chunk < task.chunk_end; ++chunk) {
    const bool owned = chunk >= task.chunk_begin;
    ChunkSums sums = {0.0, 0.0, 0.0};
    stage_chunk(chunk, &sums);
    // A warm-up chunk's values matter only as partials of the first gradient rows.
    const int64_t last_value_row = chunk * kChunkRows + radius_y() + kChunkRows - 1;
    const bool feeds_gradient =
        kImages > 0 && last_value_row >= first_gradient_chunk * kChunkRows - radius_y();
    if (owned || feeds_gradient) {
      evaluate_chunk(chunk, &sums);
    } else {
      carry_chunk(chunk);
    }
    if (owned && request_.map != nullptr) {
      store_map(chunk);
    }
    if constexpr (kImages > 0) {
      if (chunk >= first_gradient_chunk && wants_gradient(request_)) {
        finish_gradient(chunk);
      }
    }
    if (owned) {
      task.sums[chunk] = sums;
    }
  }
}

template <class Arch, class T, template <class> class Filter, int kImages, bool kMerged>
void StripKernel<Arch, T, Filter, kImages, kMerged>::begin_strip(const Task& task) {
  const int64_t channels = problem_.sizes[FUSED_SSIM_AXIS_CHANNEL];
  const int64_t batch = task.plane / channels;
  const int64_t channel = task.plane % channels;
  task_ = task;
  img1_ = plane_of(problem_.img1, batch, channel);
  img2_ = plane_of(problem_.img2, batch, channel);
  grad1_ = plane_of(request_.grad1, batch, channel);
  grad2_ = plane_of(request_.grad2, batch, channel);
  map_gradient_ = plane_of(request_.map_gradient, batch, channel);
  mask_ = plane_of(problem_.mask, batch, channel);
  if (kImages > 0 && wants_gradient(request_)) {
    gradient_factors_ = gradient_factors(problem_, request_, task.plane);
  }
  const DoubledStabilizers<T> doubled = doubled_stabilizers<T>(problem_, batch, 1.0);
  doubled_stabilizers_ = {V(doubled.c1), V(doubled.c2)};
  data_begin_ = task.column_begin - halo();
  data_begin_ = data_begin_ < 0 ? 0 : data_begin_;
  data_end_ = task.column_end + halo();
  data_end_ = data_end_ > width_ ? width_ : data_end_;
  segment_ = Rows::length(data_end_ - data_begin_, radius_x());
  choose_shift();
  build_masks();
  for (int64_t i = 0; i < segment_ * kFiltered * carried(); ++i) {
    carry_[i] = V(T(0));
  }
  for (int64_t i = 0; i < segment_ * kPartialMaps * carried(); ++i) {
    partial_carry_[i] = V(T(0));
  }
}

template <class Arch, class T, template <class> class Filter, int kImages, bool kMerged>
void StripKernel<Arch, T, Filter, kImages, kMerged>::choose_shift() {
  constexpr int kAxisSamples = 6;
  static_assert(kAxisSamples * kAxisSamples <= ShiftSamples<T>::kMost, "");
  ShiftSamples<T> samples;
  const int64_t columns = task_.column_end - task_.column_begin;
  for (int i = 0; i < kAxisSamples; ++i) {
    const int64_t row = (2 * i + 1) * height_ / (2 * kAxisSamples);
    for (int k = 0; k < kAxisSamples; ++k) {
      const int64_t column = task_.column_begin + (2 * k + 1) * columns / (2 * kAxisSamples);
      if (!kMerged || *window_mask_row(row, column, 1) > T(0)) {
        samples.add(*loader_.row(img1_, row, column, 1, scratch_a_),
                    *loader_.row(img2_, row, column, 1, scratch_b_));
      }
    }
  }
  shift_s_ = samples.shift_s();
  shift_d_ = samples.shift_d();
}

template <class Arch, class T, template <class> class Filter, int kImages, bool kMerged>
typename StripKernel<Arch, T, Filter, kImages, kMerged>::Columns
StripKernel<Arch, T, Filter, kImages, kMerged>::value_columns(int64_t begin, int64_t end) const {
  const int64_t limit = width_ - crop_x_;
  return {begin < crop_x_ ? crop_x_ : begin, end > limit ? limit : end};
}

template <class Arch, class T, template <class> class Filter, int kImages, bool kMerged>
void StripKernel<Arch, T, Filter, kImages, kMerged>::build_masks() {
  const Columns valued = value_columns(data_begin_, data_end_);
  for (int64_t j = 0; j < segment_; ++j) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const int64_t column = data_begin_ + lane * segment_ + j;
      const bool has_value = column >= valued.begin && column < valued.end;
      const bool owned = column >= task_.column_begin && column < task_.column_end;
      value_mask_[j][lane] = has_value ? -1 : 0;
      owned_mask_[j][lane] = has_value && owned ? -1 : 0;
    }
  }
}

// ---- 2. to 4. filter, evaluate, filter the partials along y -------------------------------------

// The pixels of a column of vectors: their values and, unfiltered, their partial derivatives.
template <class Arch, class T, template <class> class Filter, int kImages, bool kMerged>
template <int kStatistic, bool kMasked>
FUSED_SSIM_INLINE void StripKernel<Arch, T, Filter, kImages, kMerged>::evaluate_pixels(
    int64_t j, const Moments8& moments, const ValueRows& rows, Partials8& partials,
    DoubleLanes* sum) const {
  const V shift_s(shift_s_);
  const V shift_d(shift_d_);
  const DoubledStabilizers<V> doubled = doubled_stabilizers_;
  const Mask owned = owned_mask_[j];
  const Mask has_value = value_mask_[j];
  const bool keep_map = request_.map != nullptr;
  const bool weighted = request_.map_gradient.data != nullptr;
  const V base(T(masked_statistic_base(request_)));
  V column_sum(T(0));
  for (int row = 0; row < kChunkRows; ++row) {
    if (row < rows.begin || row >= rows.end) {
      unroll<0, kPartialMaps>([&](auto map) __attribute__((always_inline)) {
        partials[decltype(map)::value][row] = V(T(0));
      });
      continue;
    }
    const Moments<V> m = {moments[0][row], moments[1][row], moments[2][row], moments[3][row]};
    const SsimTerms<V> terms = kVariances ? ssim_terms(m.mean_s + shift_s, m.mean_d + shift_d,
                                                       m.mean_s2, m.mean_d2, doubled)
                                          : ssim_terms(m, shift_s, shift_d, doubled);
    PixelStatistic<kImages, V> pixel =
        pixel_statistic<kStatistic, kImages>(m, terms, doubled, problem_.statistic);
    if constexpr (kMasked) {
      const V mask = mask_rows_[row * segment_ + j];
      const V seen = kMerged ? seen_reciprocals_[row] : V(T(1));
      mask_pixel(mask * seen, seen * (weighted ? map_gradient_rows_[row * segment_ + j] : mask),
                 &pixel);
      column_sum = column_sum + keep(mask * (pixel.value() - base), owned);
    } else {
      column_sum = column_sum + keep(pixel.value(), owned);
    }
    if (keep_map) {
      map_rows_[row * segment_ + j] = pixel.value();
    }
    unroll<0, kPartialMaps>([&](auto map) __attribute__((always_inline)) {
      V partial = pixel.partials[decltype(map)::value];
      if (!kMasked && weighted) {
        partial = partial * map_gradient_rows_[row * segment_ + j];
      }
      partials[decltype(map)::value][row] = keep(partial, has_value);
    });
  }
  *sum += __builtin_convertvector(column_sum.v, DoubleLanes);
}

// V, value, partials, V of one column of vectors.
template <class Arch, class T, template <class> class Filter, int kImages, bool kMerged>
void StripKernel<Arch, T, Filter, kImages, kMerged>::evaluate_column(int64_t j, const V* tile,
                                                                     const ValueRows& rows,
                                                                     DoubleLanes* sum) {
  const Filter<V> filter = filter_y_;
  V* carry = carry_ + j * kFiltered * carried();
  Moments8 moments;
  filter.visit([&](const auto& window) __attribute__((always_inline)) {
    if constexpr (kMerged) {
      merge_masked_column(window, carry, tile, moments);
    } else if constexpr (kVariances) {
      merge_column(window, carry, tile, moments);
    } else {
      for_each_map<Filter<V>, kMoments>([&](int map) __attribute__((always_inline)) {
        filter_column<true>(window, carry + map * carried(), tile + map * kChunkRows, moments[map]);
      });
    }
  });
  Partials8 partials;
  if (has_mask(problem_)) {
    evaluate_apart<kAnyStatistic, true>(j, moments, rows, partials, sum);
  } else if constexpr (kMerged) {
    evaluate_apart<kAnyStatistic, false>(j, moments, rows, partials, sum);
  } else {
    switch (problem_.statistic) {
      case FUSED_SSIM_STATISTIC_CONTRAST:
        evaluate_apart<FUSED_SSIM_STATISTIC_CONTRAST, false>(j, moments, rows, partials, sum);
        break;
      case FUSED_SSIM_STATISTIC_LUMINANCE:
        evaluate_apart<FUSED_SSIM_STATISTIC_LUMINANCE, false>(j, moments, rows, partials, sum);
        break;
      default:
        evaluate_pixels<FUSED_SSIM_STATISTIC_SSIM, false>(j, moments, rows, partials, sum);
        break;
    }
  }
  const Filter<V> adjoint = filter.adjoint();
  adjoint.visit([&](const auto& window) __attribute__((always_inline)) {
    for_each_map<Filter<V>, kPartialMaps>([&](int map) __attribute__((always_inline)) {
      V filtered[kChunkRows];
      filter_column<false>(window, partial_carry_ + (j * kPartialMaps + map) * carried(),
                           partials[map], filtered);
      V* to = partial_rows_ + map * pitch() + radius_x() + j;
      unroll<0, kChunkRows>([&](auto row) __attribute__((always_inline)) {
        to[decltype(row)::value * kPartialMaps * pitch()] = filtered[decltype(row)::value];
      });
    });
  });
}

template <class Arch, class T, template <class> class Filter, int kImages, bool kMerged>
typename StripKernel<Arch, T, Filter, kImages, kMerged>::ValueRows
StripKernel<Arch, T, Filter, kImages, kMerged>::value_rows(int64_t chunk) const {
  const auto clamp = [](int64_t row) {
    return static_cast<int>(row < 0 ? 0 : row > kChunkRows ? kChunkRows : row);
  };
  const int64_t first_row = chunk * kChunkRows + radius_y();
  return {first_row, clamp(crop_y_ - first_row), clamp(height_ - crop_y_ - first_row)};
}

template <class Arch, class T, template <class> class Filter, int kImages, bool kMerged>
void StripKernel<Arch, T, Filter, kImages, kMerged>::evaluate_chunk(int64_t chunk,
                                                                    ChunkSums* sums) {
  const ValueRows rows = value_rows(chunk);
  if (kImages == 0 && rows.begin >= rows.end && chunk >= 0) {
    return;  // past the last value, and no partial to let go through
  }
  if (kImages > 0 && request_.map_gradient.data != nullptr) {
    stage_value_rows(rows, /*of_mask=*/false, map_gradient_rows_);
  }
  if (has_mask(problem_)) {
    stage_value_rows(rows, /*of_mask=*/true, mask_rows_);
  }
  DoubleLanes sum = {};
  int64_t j = 0;
  for (; j + kBlock <= segment_; j += kBlock) {
    prefetch_rows(chunk + 1, j);
    filter_block<kBlock>(chunk, j);
    for (int i = 0; i < kBlock; ++i) {
      evaluate_column(j + i, tile_ + i * kFiltered * kChunkRows, rows, &sum);
    }
  }
  for (; j < segment_; ++j) {
    filter_block<1>(chunk, j);
    evaluate_column(j, tile_, rows, &sum);
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    sums->statistic += sum[lane];
  }
}

// A warm-up chunk whose values nobody needs: only its rows are carried on.
template <class Arch, class T, template <class> class Filter, int kImages, bool kMerged>
void StripKernel<Arch, T, Filter, kImages, kMerged>::carry_chunk(int64_t chunk) {
  const auto carry_column = [&](int64_t j, const V* tile) {
    for (int map = 0; map < kFiltered; ++map) {
      carry_rows(carry_ + (j * kFiltered + map) * carried(), tile + map * kChunkRows);
    }
  };
  int64_t j = 0;
  for (; j + kBlock <= segment_; j += kBlock) {
    filter_block<kBlock>(chunk, j);
    for (int i = 0; i < kBlock; ++i) {
      carry_column(j + i, tile_ + i * kFiltered * kChunkRows);
    }
  }
  for (; j < segment_; ++j) {
    filter_block<1>(chunk, j);
    carry_column(j, tile_);
  }
}

}  // namespace fused_ssim::cpu

#include "cpu/strip_moments.h"
#include "cpu/strip_outputs.h"
#include "cpu/strip_stage.h"
