// Volume kernel: sums, map and gradients of one tile of one volume, in one pass over its slices.
//
// A tile is a range of rows of all slices. Slices go by in chunks of 8, held in segments
// (segments.h), so that a neighbour along each axis is a whole vector. For each chunk, in order:
//   1. stage:  the new slices of x and y -> s, d (shifted), into a ring of slices
//   2. D, H:   filter s, d, s^2, d^2 along depth, 8 slices at a time, and each row of them along x
//   3. V:      filter the four moments of a slice along y, 8 rows at a time; values and partial
//              derivatives (core/pointwise.h) come out one radius behind the new slices
//   4. V, H:   filter the slice's partials along y and x, into a ring of slices
//   5. D:      filter the partials along depth, 8 slices at a time, combine with s and d, store the
//              gradient's slices two radii behind the new ones
//
//     slices   8g         8g + r       8g + 2r      8g + 2r + 8
//              |-- gradient --|
//                          |--- values ---|
//                                       |-- staged ---|          (chunk g, radius r)
//
// Masks (core/pointwise.h). "weighted" adds a row of the mask for each row of values. In "normalized"
// m is staged, too, nothing is shifted, and five maps take the place of the four moments: what windows
// see of m, the means of s and d under it, and the sums of m (s - mean)^2 and m (d - mean)^2, around the
// means of each window. Along each axis merge_steps() makes those of longer windows of them. Without a
// mask problems whose variances are merged (core/merging.h) do the same with ones in its place.
//
// Traffic per voxel (float32): 8 B read, 4 B written for each gradient or map. The rest is meant
// for the L2 and L3 caches, some 500 B for each column of a tile: 2 (2r + 8) floats of staged
// slices, 32 of moments, 3 (2r + 8) of partials. About 132 multiply-adds for the value and 231 with the gradient.
#pragma once

#include <cstdint>

#include "core/pointwise.h"
#include "core/problem.h"
#include "cpu/differences.h"
#include "cpu/filter.h"
#include "cpu/loader.h"
#include "cpu/plan.h"
#include "cpu/samples.h"
#include "cpu/segments.h"
#include "cpu/simd.h"
#include "cpu/workspace.h"

namespace fused_ssim::cpu {

// The filter along one axis, of whatever window.
template <class V>
class AxisFilter {
 public:
  using T = typename V::Scalar;

  AxisFilter() = default;
  FUSED_SSIM_INLINE AxisFilter(WindowKind kind, const FilterTaps<T>& window)
      : kind_(kind), any_(window) {
    if (kind == WindowKind::kFixed) {
      fixed_ = FixedFilter<V>(window);
    } else if (kHasShort) {
      short_ = ShortFilter<V>(window);
    }
  }

  // Of what a mask weighs, for which little is worth code of its own.
  template <class Body>
  FUSED_SSIM_INLINE void visit_masked(Body body) const {
    if (kind_ == WindowKind::kFixed) {
      return fixed_.visit(body);
    }
    body(any_.window());
  }

  FUSED_SSIM_INLINE AxisFilter adjoint() const {
    AxisFilter result = *this;
    result.any_ = any_.adjoint();
    return result;
  }

  // The filter if it is that of the standard window's kind, else null.
  const FixedFilter<V>* fixed() const { return kind_ == WindowKind::kFixed ? &fixed_ : nullptr; }

  template <class Body>
  FUSED_SSIM_INLINE void visit(Body body) const {
    if (kind_ == WindowKind::kFixed) {
      return fixed_.visit(body);
    }
    if constexpr (kHasShort) {
      if (kind_ == WindowKind::kShort) {
        return short_.visit(body);
      }
    }
    any_.visit(body);
  }

 private:
  static constexpr bool kHasShort = kHasShortWindows && sizeof(T) == sizeof(float);
  WindowKind kind_ = WindowKind::kAny;
  FixedFilter<V> fixed_;
  ShortFilter<V> short_;
  AnyFilter<V> any_;
};

template <class Arch, class T>
class VolumeKernel {
 public:
  using V = Vec<T, Arch::kVectorBytes>;

  // Gradients are wanted of none, the first or both of the images. Without a workspace only for
  // workspace_bytes().
  VolumeKernel(const Problem& problem, const Request& request, int64_t tile_rows,
               unsigned char* workspace);

  int64_t workspace_bytes() const { return workspace_bytes_; }

  void run(const Task& task);

 private:
  using Mask = typename V::Mask;
  using Rows = Segments<Arch, T>;
  using DoubleLanes = typename Vec<double, V::kLanes * 8>::Native;
  static constexpr int kLanes = V::kLanes;
  static constexpr int kMoments = 4;       // s, d, s^2, d^2
  static constexpr int kMaskedImages = 3;  // m, s, d
  static constexpr int kMaskedMaps = 5;    // m, the means, the sums of squares
  static constexpr int kMaxPartials = partial_maps(2);

  struct Range {
    int64_t begin;
    int64_t end;
    int64_t size() const { return end - begin; }
    bool holds(int64_t i) const { return i >= begin && i < end; }
    Range within(Range other) const {
      return {begin < other.begin ? other.begin : begin, end > other.end ? other.end : end};
    }
    Range widened(int64_t by) const { return {begin - by, end + by}; }
  };
  // How a number is filtered: as it is, as the difference from a reference (cpu/filter.h), or its
  // square so.
  enum class Form { kPlain, kCentred, kSquared };

  static int64_t in_cache_lines(int64_t vectors);
  Range valued(SpatialAxis axis) const {
    const int64_t border = crop(problem_, axis);
    return {border, image_size(problem_, axis) - border};
  }

  void begin_tile(const Task& task);
  void choose_shift();
  void stage_slices(int64_t chunk, bool owned);
  void stage_row(int64_t z, int64_t row, ChunkSums* sums);
  void stage_masked(const T* x, const T* y, int64_t z, int64_t row);
  void filter_moments(int64_t chunk, Range slices);
  void filter_masked_moments(int64_t chunk, Range slices);
  void evaluate_slice(int64_t chunk, int64_t z, const V* moments, bool owned);
  void stage_value_rows(int64_t z, Range rows, bool of_mask, V* to);
  template <int kStatistic, bool kMasked>
  void evaluate_rows(int64_t first_row, Range rows, ChunkSums* sums);
  template <int kStatistic, int kImages, bool kMasked>
  __attribute__((noinline)) void evaluate_pixels(int64_t first_row, Range rows, ChunkSums* sums);
  void store_map(int64_t z, Range rows);
  void filter_partials(int64_t z);
  void finish_gradient(int64_t chunk);
  void store_gradient_row(int64_t z, int64_t row, const V* gradient, const Image& image, T sign);

  template <Form kForm, class Window, class Load>
  FUSED_SSIM_INLINE void filter_steps(const Window& shared, Load load, int64_t step, V* out,
                                      int64_t out_stride) const;
  template <Form kForm>
  __attribute__((noinline)) void filter_inputs(const AxisFilter<V>& axis, int64_t step, V* out,
                                               int64_t out_stride) const;
  // Eight rows, `out_stride` apart, of the rows inputs_[0 .. 8 + 2 radius).
  template <Form kForm>
  void filter_across(const AxisFilter<V>& axis, V* out, int64_t out_stride) const {
    filter_inputs<kForm>(axis, 1, out, out_stride);
  }
  template <Form kForm>
  __attribute__((noinline)) void filter_along(const AxisFilter<V>& axis, V* row, V fill,
                                              V* out) const;
  template <int kInputs, class Window>
  FUSED_SSIM_INLINE void merge_steps(const Window& shared, int64_t step, V* out, int64_t map_stride,
                                     int64_t out_stride) const;
  template <int kInputs>
  __attribute__((noinline)) void merge_inputs(const AxisFilter<V>& axis, int64_t step, V* out,
                                              int64_t map_stride, int64_t out_stride) const;

  const T* mask_row(int64_t z, int64_t row, int64_t column, int64_t count) const {
    return loader_.mask_row(plane_of(problem_.mask, batch_, channel_, z), row, column, count,
                            mask_scratch_);
  }
  // What windows weigh pixels by where their variances are merged: the mask, or ones.
  const T* window_mask_row(int64_t z, int64_t row, int64_t column, int64_t count) const {
    return loader_.mask_row(
        mask_is_normalized(problem_) ? plane_of(problem_.mask, batch_, channel_, z) : Plane{}, row,
        column, count, mask_scratch_);
  }

  // Places in the workspace.
  const V** inputs(int map) const { return inputs_ + map * inputs_per_map_; }
  V* staged(int64_t z, int64_t row, int image) const {
    return ring_ + z % ring_slices_ * ring_slice_ + (row - staged_rows_.begin) * ring_row_ +
           image * segment_;
  }
  const V* masked_input(int64_t z, int64_t row, int map) const {
    return staged(z, row, map == 0 ? 2 : map - 1);
  }
  V* partial(int64_t z, int64_t row, int map) const {
    return partial_ring_ + z % ring_slices_ * partial_slice_ +
           (row - own_rows_.begin) * partial_row_ + map * segment_;
  }
  V* unfiltered_partial(int64_t row, int map) const {
    return partials_ + (row - value_rows_.begin) * partial_row_ + map * segment_;
  }
  V* eight_rows(int map) const { return eight_rows_ + map * kChunkRows * segment_; }
  const V* outside(int map) const { return outside_ + map * segment_; }
  const V* zeros() const { return outside(moments_per_row_); }
  ChunkSums* sums_of(int64_t row, int64_t chunk) const {
    return task_.sums + (row - own_rows_.begin) / kChunkRows * task_.slots_per_group + chunk;
  }

  const Problem& problem_;
  const Request& request_;
  const Loader<Arch, T> loader_;
  const int images_;  // of which a gradient is wanted
  const int maps_;    // of partial derivatives
  const bool merged_;
  const int moments_per_row_;
  int radius_[kSpatialAxes];
  AxisFilter<V> filter_[kSpatialAxes];
  int64_t segment_;
  int64_t ring_slices_;

  // Workspace. Slices lie an odd number of cache lines apart, as do rows of several maps: at a
  // multiple of 4 KB the inputs of a filter would fall on one set of the cache.
  int64_t workspace_bytes_ = 0;
  int64_t ring_row_ = 0;  // vectors from one row to the next, from one slice to the next
  int64_t ring_slice_ = 0;
  int64_t moment_row_ = 0;
  int64_t moment_slice_ = 0;
  int64_t partial_row_ = 0;
  int64_t partial_slice_ = 0;
  int64_t inputs_per_map_ = 0;
  const V** inputs_ = nullptr;  // [maps][2 radius + 8]: rows that are filtered across
  V* ring_ = nullptr;           // [slice][row][2 or 3: s, d, m][segment]
  V* moments_ = nullptr;        // [8][row][moments_per_row_][segment]
  V* partials_ = nullptr;       // [row][maps][segment]: of one slice, unfiltered
  V* partial_ring_ = nullptr;   // [slice][row][maps][segment]: filtered along y and x
  V* eight_rows_ = nullptr;     // [kMaxPartials or kMaskedMaps][8][segment]
  V* lines_ = nullptr;          // [2 or kMaskedMaps][8][radius + segment + radius]
  V* outside_ = nullptr;  // [moments_per_row_ + 1][segment]: those beyond the border, and zeros
  V* gradient_rows_ = nullptr;      // [images][segment]
  V* map_rows_ = nullptr;           // [8][segment]
  V* map_gradient_rows_ = nullptr;  // [8][segment]
  V* mask_rows_ = nullptr;          // [8][segment]
  Mask* value_mask_ = nullptr;      // [segment]: columns that have a value
  T* natural_ = nullptr;            // [kLanes * segment]
  T* scratch_a_ = nullptr;
  T* scratch_b_ = nullptr;
  T* weights_ = nullptr;
  T* mask_scratch_ = nullptr;

  // The tile in hand.
  Task task_ = {};
  int64_t batch_ = 0;
  int64_t channel_ = 0;
  GradientFactors gradient_factors_ = {};
  DoubledStabilizers<V> doubled_stabilizers_;
  Range own_rows_ = {};
  Range value_rows_ = {};   // that gradients of own rows depend on
  Range staged_rows_ = {};  // that those depend on
  int64_t staged_end_ = 0;  // slices from here on are not staged yet
  T shift_s_ = 0;  // of the pixels; under a normalized mask of the partial derivatives alone
  T shift_d_ = 0;
};

template <class Arch, class T>
VolumeKernel<Arch, T>::VolumeKernel(const Problem& problem, const Request& request,
                                    int64_t tile_rows, unsigned char* workspace)
    : problem_(problem),
      request_(request),
      loader_(T(pixel_unit(problem) == 1.0 ? problem.uint8_divisor : 1)),
      images_((request.grad1.data != nullptr) + (request.grad2.data != nullptr)),
      maps_(partial_maps(images_)),
      merged_(has_merged_variances(problem)),
      moments_per_row_(merged_ ? kMaskedMaps : kMoments) {
  WorkspaceLayout layout(workspace);
  int widest = 0;
  for (int axis = 0; axis < kSpatialAxes; ++axis) {
    const WindowKind kind = window_kind(problem, SpatialAxis(axis));
    const int radius = filter_radius(problem, SpatialAxis(axis));
    const FilterTaps<T> taps = lay_out_taps<V>(layout, problem.windows[axis], radius);
    radius_[axis] = radius;
    widest = radius > widest ? radius : widest;
    if (workspace != nullptr) {
      filter_[axis] = AxisFilter<V>(kind, taps);
    }
  }
  segment_ = Rows::length(image_size(problem, kWidth), radius_[kWidth]);
  segment_ = segment_ < kChunkRows ? kChunkRows : segment_;
  const auto at_most = [&](SpatialAxis axis, int64_t count) {
    return count < image_size(problem, axis) ? count : image_size(problem, axis);
  };
  const int64_t radius_y = radius_[kHeight];
  const int64_t value_rows = at_most(kHeight, tile_rows + (images_ > 0 ? 2 * radius_y : 0));
  const int64_t staged_rows = at_most(kHeight, value_rows + 2 * radius_y);
  ring_slices_ = at_most(kDepth, 2 * radius_[kDepth] + kChunkRows);
  ring_row_ = in_cache_lines((merged_ ? 3 : 2) * segment_);
  ring_slice_ = in_cache_lines(staged_rows * ring_row_);
  moment_row_ = in_cache_lines(moments_per_row_ * segment_);
  moment_slice_ = in_cache_lines(staged_rows * moment_row_);
  partial_row_ = in_cache_lines(maps_ * segment_);
  partial_slice_ = in_cache_lines(at_most(kHeight, tile_rows) * partial_row_);
  inputs_per_map_ = 2 * widest + kChunkRows;
  inputs_ = layout.take<const V*>((merged_ ? kMaskedMaps : 1) * inputs_per_map_);
  ring_ = layout.take<V>(ring_slices_ * ring_slice_);
  moments_ = layout.take<V>(at_most(kDepth, kChunkRows) * moment_slice_);
  partials_ = layout.take<V>(images_ > 0 ? value_rows * partial_row_ : 0);
  partial_ring_ = layout.take<V>(images_ > 0 ? ring_slices_ * partial_slice_ : 0);
  eight_rows_ = layout.take<V>((merged_ ? kMaskedMaps : kMaxPartials) * kChunkRows * segment_);
  lines_ =
      layout.take<V>((merged_ ? kMaskedMaps : 2) * kChunkRows * (segment_ + 2 * radius_[kWidth]));
  outside_ = layout.take<V>((moments_per_row_ + 1) * segment_);
  gradient_rows_ = layout.take<V>(images_ * segment_);
  map_rows_ = layout.take<V>(request.map != nullptr ? kChunkRows * segment_ : 0);
  map_gradient_rows_ =
      layout.take<V>(request.map_gradient.data != nullptr ? kChunkRows * segment_ : 0);
  mask_rows_ = layout.take<V>(has_mask(problem) ? kChunkRows * segment_ : 0);
  value_mask_ = layout.take<Mask>(segment_);
  natural_ = layout.take<T>(kLanes * segment_);
  scratch_a_ = layout.take<T>(kLanes * segment_);
  scratch_b_ = layout.take<T>(kLanes * segment_);
  weights_ = layout.take<T>(kLanes * segment_);
  mask_scratch_ = layout.take<T>(has_mask(problem) || merged_ ? kLanes * segment_ : 0);
  workspace_bytes_ = layout.bytes();
}

// So many vectors, and a few more, so that they take an odd number of cache lines.
template <class Arch, class T>
int64_t VolumeKernel<Arch, T>::in_cache_lines(int64_t vectors) {
  constexpr int64_t kLine = 64 > Arch::kVectorBytes ? 64 / Arch::kVectorBytes : 1;
  return (ceil_divide(vectors, kLine) | 1) * kLine;
}

template <class Arch, class T>
void VolumeKernel<Arch, T>::run(const Task& task) {
  begin_tile(task);
  // Chunks to run before the first owned one, so that its gradient finds the partials before it.
  const int64_t reach = ceil_divide(2 * radius_[kDepth], kChunkRows);
  int64_t chunk = task.chunk_begin - (images_ > 0 ? reach : 0);
  if (chunk < -reach) {
    chunk = -reach;
  }
  staged_end_ = chunk > 0 ? chunk * kChunkRows : 0;
  const int64_t first_gradient_chunk = task.chunk_begin < 0 ? 0 : task.chunk_begin;
  const int64_t first_needed = first_gradient_chunk * kChunkRows - radius_[kDepth];
  for (; chunk < task.chunk_end; ++chunk) {
    const bool owned = chunk >= task.chunk_begin;
    for (int64_t row = own_rows_.begin; owned && row < own_rows_.end; row += kChunkRows) {
      *sums_of(row, chunk) = {0.0, 0.0, 0.0};
    }
    stage_slices(chunk, owned);
    const int64_t first = chunk * kChunkRows + radius_[kDepth];
    Range slices = valued(kDepth).within({first, first + kChunkRows});
    if (!owned) {
      slices = slices.within({first_needed, slices.end});
    }
    if (slices.size() > 0) {
      merged_ ? filter_masked_moments(chunk, slices) : filter_moments(chunk, slices);
      for (int64_t z = slices.begin; z < slices.end; ++z) {
        evaluate_slice(chunk, z, moments_ + (z - slices.begin) * moment_slice_, owned);
        if (images_ > 0) {
          filter_partials(z);
        }
      }
    }
    if (images_ > 0 && chunk >= first_gradient_chunk) {
      finish_gradient(chunk);
    }
  }
}

template <class Arch, class T>
void VolumeKernel<Arch, T>::begin_tile(const Task& task) {
  const int64_t channels = problem_.sizes[FUSED_SSIM_AXIS_CHANNEL];
  const Range image = {0, image_size(problem_, kHeight)};
  task_ = task;
  batch_ = task.plane / channels;
  channel_ = task.plane % channels;
  const DoubledStabilizers<T> doubled = doubled_stabilizers<T>(problem_, batch_, 1.0);
  doubled_stabilizers_ = {V(doubled.c1), V(doubled.c2)};
  if (images_ > 0) {
    gradient_factors_ = gradient_factors(problem_, request_, task.plane);
  }
  own_rows_ = {task.row_begin, task.row_end};
  value_rows_ = own_rows_.widened(images_ > 0 ? radius_[kHeight] : 0);
  staged_rows_ = value_rows_.widened(radius_[kHeight]).within(image);
  value_rows_ = value_rows_.within(valued(kHeight));
  choose_shift();
  const T moments[kMoments + 1] = {-shift_s_, -shift_d_, shift_s_ * shift_s_, shift_d_ * shift_d_};
  const T masked[kMaskedMaps + 1] = {T(1)};  // pixels beyond the image are 0, and seen
  for (int map = 0; map <= moments_per_row_; ++map) {
    for (int64_t j = 0; j < segment_; ++j) {
      outside_[map * segment_ + j] = V(merged_ ? masked[map] : moments[map]);
    }
  }
  for (int64_t j = 0; j < segment_; ++j) {
    for (int lane = 0; lane < kLanes; ++lane) {
      value_mask_[j][lane] = valued(kWidth).holds(lane * segment_ + j) ? -1 : 0;
    }
  }
}

// ---- 3. values and partial derivatives of a slice -----------------------------------------------

template <class Arch, class T>
void VolumeKernel<Arch, T>::evaluate_slice(int64_t chunk, int64_t z, const V* moments, bool owned) {
  const auto group_of = [](int64_t row) { return row - row % kChunkRows; };
  const int64_t radius = radius_[kHeight];
  for (int64_t first = group_of(value_rows_.begin); first < value_rows_.end; first += kChunkRows) {
    for (int map = 0; map < moments_per_row_; ++map) {
      const V** rows = inputs(merged_ ? map : 0);
      for (int k = 0; k < kChunkRows + 2 * radius; ++k) {
        // Rows of the image that are not staged are seen by no row that is evaluated.
        const int64_t row = first - radius + k;
        rows[k] = staged_rows_.holds(row)
                      ? moments + (row - staged_rows_.begin) * moment_row_ + map * segment_
                      : outside(map);
      }
      if (!merged_) {
        filter_across<Form::kCentred>(filter_[kHeight], eight_rows(map), segment_);
      }
    }
    if (merged_) {
      merge_inputs<kMaskedMaps>(filter_[kHeight], 1, eight_rows(0), kChunkRows * segment_,
                                segment_);
    }
    const Range rows = value_rows_.within({first, first + kChunkRows});
    if (request_.map_gradient.data != nullptr && images_ > 0) {
      stage_value_rows(z, rows, /*of_mask=*/false, map_gradient_rows_);
    }
    const bool counted = owned && own_rows_.holds(first);
    ChunkSums* sums = counted ? sums_of(first, chunk) : nullptr;
    if (has_mask(problem_)) {
      stage_value_rows(z, rows, /*of_mask=*/true, mask_rows_);
      evaluate_rows<kAnyStatistic, true>(first, rows, sums);
    } else if (merged_) {
      evaluate_rows<kAnyStatistic, false>(first, rows, sums);
    } else {
      switch (problem_.statistic) {
        case FUSED_SSIM_STATISTIC_CONTRAST:
          evaluate_rows<FUSED_SSIM_STATISTIC_CONTRAST, false>(first, rows, sums);
          break;
        case FUSED_SSIM_STATISTIC_LUMINANCE:
          evaluate_rows<FUSED_SSIM_STATISTIC_LUMINANCE, false>(first, rows, sums);
          break;
        default:
          evaluate_rows<FUSED_SSIM_STATISTIC_SSIM, false>(first, rows, sums);
          break;
      }
    }
    if (counted && request_.map != nullptr) {
      store_map(z, rows);
    }
  }
}

template <class Arch, class T>
template <int kStatistic, bool kMasked>
void VolumeKernel<Arch, T>::evaluate_rows(int64_t first_row, Range rows, ChunkSums* sums) {
  switch (images_) {
    case 0:
      return evaluate_pixels<kStatistic, 0, kMasked>(first_row, rows, sums);
    case 1:
      return evaluate_pixels<kStatistic, 1, kMasked>(first_row, rows, sums);
    default:
      return evaluate_pixels<kStatistic, 2, kMasked>(first_row, rows, sums);
  }
}

// `sums`: null where the rows count elsewhere.
template <class Arch, class T>
template <int kStatistic, int kImages, bool kMasked>
void VolumeKernel<Arch, T>::evaluate_pixels(int64_t first_row, Range rows, ChunkSums* sums) {
  const V shift_s(shift_s_);
  const V shift_d(shift_d_);
  const DoubledStabilizers<V> doubled = doubled_stabilizers_;
  const int64_t segment = segment_;
  const int64_t partial_row = partial_row_;
  const int64_t stride = kChunkRows * segment;  // from map to map
  const bool keep_map = request_.map != nullptr;
  const bool weighted = kImages > 0 && request_.map_gradient.data != nullptr;
  const V base(T(masked_statistic_base(request_)));
  DoubleLanes sum = {};
  for (int64_t j = 0; j < segment; ++j) {
    const Mask has_value = value_mask_[j];
    V column_sum(T(0));
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      const int64_t at = (row - first_row) * segment + j;
      const V* moments = eight_rows_ + at;
      PixelStatistic<kImages, V> pixel;
      V seen(T(1));
      if (kStatistic == kAnyStatistic && merged_) {
        seen = reciprocal_of_seen(moments[0]);
        const V mean_s = moments[stride];
        const V mean_d = moments[2 * stride];
        const SsimTerms<V> terms = ssim_terms(mean_s, mean_d, seen * moments[3 * stride],
                                              seen * moments[4 * stride], doubled);
        const Moments<V> m = {mean_s - shift_s, mean_d - shift_d, V(T(0)), V(T(0))};
        pixel = pixel_statistic<kStatistic, kImages>(m, terms, doubled, problem_.statistic);
      } else {
        const Moments<V> m = {moments[0], moments[stride], moments[2 * stride],
                              moments[3 * stride]};
        pixel =
            pixel_statistic<kStatistic, kImages>(m, shift_s, shift_d, doubled, problem_.statistic);
      }
      if constexpr (kMasked) {
        const V mask = mask_rows_[at];
        mask_pixel(mask * seen, seen * (weighted ? map_gradient_rows_[at] : mask), &pixel);
        column_sum = column_sum + keep(mask * (pixel.value() - base), has_value);
      } else {
        column_sum = column_sum + keep(pixel.value(), has_value);
      }
      const V value = pixel.value();
      if (keep_map) {
        map_rows_[at] = value;
      }
      unroll<0, partial_maps(kImages)>([&](auto map) __attribute__((always_inline)) {
        constexpr int kMap = decltype(map)::value;
        V partial = pixel.partials[kMap];
        if (!kMasked && weighted) {
          partial = partial * map_gradient_rows_[at];
        }
        partials_[(row - value_rows_.begin) * partial_row + kMap * segment + j] =
            keep(partial, has_value);
      });
    }
    sum += __builtin_convertvector(column_sum.v, DoubleLanes);
  }
  for (int lane = 0; sums != nullptr && lane < kLanes; ++lane) {
    sums->statistic += sum[lane];
  }
}

// ---- 4. a slice's partial derivatives along y and x ---------------------------------------------

template <class Arch, class T>
void VolumeKernel<Arch, T>::filter_partials(int64_t z) {
  const AxisFilter<V> across = filter_[kHeight].adjoint();
  const AxisFilter<V> along = filter_[kWidth].adjoint();
  const int64_t radius = radius_[kHeight];
  const int64_t pitch = segment_ + 2 * radius_[kWidth];
  for (int64_t first = own_rows_.begin; first < own_rows_.end; first += kChunkRows) {
    const Range rows = own_rows_.within({first, first + kChunkRows});
    for (int map = 0; map < maps_; ++map) {
      for (int k = 0; k < kChunkRows + 2 * radius; ++k) {
        const int64_t row = first - radius + k;
        inputs_[k] = value_rows_.holds(row) ? unfiltered_partial(row, map) : zeros();
      }
      filter_across<Form::kPlain>(across, lines_ + radius_[kWidth], pitch);
      for (int64_t row = rows.begin; row < rows.end; ++row) {
        filter_along<Form::kPlain>(along, lines_ + (row - first) * pitch, V(T(0)),
                                   partial(z, row, map));
      }
    }
  }
}

}  // namespace fused_ssim::cpu

#include "cpu/volume_moments.h"
#include "cpu/volume_outputs.h"
#include "cpu/volume_stage.h"
