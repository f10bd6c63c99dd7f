// Lays out the work of the separable kernels, slab by slab, and launches it.
#include <algorithm>
#include <utility>

#include "core/pointwise.h"
#include "core/taps.h"
#include "cuda/requests.h"
#include "cuda/separable.h"

namespace fused_ssim::cuda {
namespace {

struct PassLayout : SeparableLayout {
  int most_blocks = kSeparableBlocksPerMultiprocessor;  // that registers leave room for
};

// How the separable kernels go about a problem: slabs, of whole planes or of rows of one. The
// moments of a slab come first, then the gradients that need no more than these.
struct SeparablePlan {
  PassLayout moments;
  PassLayout gradient;
  int images = 0;  // whose gradients are wanted
  int64_t planes_per_value = 1;
  int64_t planes = 0;  // of a slab: whole values, or a part of one
  int64_t rows = 0;    // that have a value, of a slab; of volumes, of a band
  int64_t partials_rows = 0;
  int partials_block = 0;  // strides in elements
  int64_t partials_plane = 0;
  // Of volumes, whose slabs are of slices.
  int64_t slices = 0;
  int64_t ring_slices = 0;
  int64_t pitch = 0;
  int64_t band_maps = 0;  // elements of the maps that are filtered along depth
  int64_t scratch_bytes = 0;
};

// Blocks that a multiprocessor holds.
int resident_blocks(const DeviceFacts& device, const PassLayout& layout) {
  // The runtime takes 1 KB of each block, and the kernels' own variables and the rounding of both less
  // than 192 bytes.
  constexpr int kBeside = 1024 + 192;
  return std::clamp(device.shared_per_multiprocessor / (layout.shared_bytes + kBeside), 1,
                    layout.most_blocks);
}

// What is cut into parts of at most `most`, into equal parts that are multiples of `unit`.
int64_t equal_part(int64_t whole, int64_t most, int64_t unit) {
  const int64_t parts = ceil_divide(whole, std::max(most / unit * unit, unit));
  return std::min(whole, round_up(ceil_divide(whole, parts), unit));
}

void lay_out_partials(const Problem& problem, int maps, SeparablePlan* plan) {
  plan->partials_block = static_cast<int>(plan->partials_rows * maps * kPartialColumns);
  plan->partials_plane =
      ceil_divide(map_size(problem, kWidth), kPartialColumns) * plan->partials_block;
}

// The rows around those of a band, which have a value, that the band works on.
struct BandRows {
  SeparableRange image;  // in rows of the image
  SeparableRange value;  // in rows of those that have a value; columns are not set
};

// A band of a volume's rows owns the values and gradients of `rows` rows. Gradients need the partial
// derivatives of those that their windows reach, and these the pixels of their own windows.
BandRows rows_of_band(const Problem& problem, bool gradient, int64_t top, int64_t rows) {
  const int64_t reach = radius(problem, kHeight);
  const int64_t value_rows = map_size(problem, kHeight);
  const int64_t front = crop(problem, kHeight);
  const int64_t beyond = gradient ? reach : 0;
  // The rows of the image above the first value and below the last one belong to the bands there.
  const int64_t begin = top == 0 ? 0 : std::max<int64_t>(0, top - beyond);
  const int64_t end = std::min(value_rows, top + rows + beyond);
  const int64_t first = begin == 0 ? 0 : std::max<int64_t>(0, front + begin - reach);
  const int64_t last = end == value_rows
                           ? image_size(problem, kHeight)
                           : std::min(image_size(problem, kHeight), front + end + reach);
  return {{first, 0, last - first, 0}, {begin, 0, end - begin, 0}};
}

// Slabs of a volume: as many slices as fit, but at least those that a thread of depth_moments filters at once; where
// even these take too much, a band of rows at a time. The ring holds a slab and the slices before it
// that gradients still need, in whole slabs.
template <class T>
void plan_slices(const Problem& problem, int moment_maps, int maps, int64_t slab_bytes,
                 SeparablePlan* plan) {
  constexpr int64_t kOutputs = kSeparableOutputs<T>;
  const int64_t slices = map_size(problem, kDepth);
  const int64_t value_rows = plan->rows;
  plan->pitch = round_up(image_size(problem, kWidth), kSeparableVector<T>);
  const auto lay_out = [&](int64_t slice_parts, int64_t row_parts) {
    plan->slices = std::min(slices, round_up(ceil_divide(slices, slice_parts), kOutputs));
    const int64_t alive =
        plan->slices < slices ? plan->slices + 2 * radius(problem, kDepth) : slices;
    // The filter along depth goes through it in blocks of 2 kOutputs.
    plan->ring_slices = maps == 0 ? 0 : std::max(2 * kOutputs, round_up(alive, plan->slices));
    plan->rows = ceil_divide(value_rows, row_parts);
    // A band in the middle is the largest.
    const int64_t top = row_parts > 2 ? plan->rows : 0;
    const BandRows band = rows_of_band(problem, maps > 0, top, plan->rows);
    plan->partials_rows = round_up(band.value.rows, kOutputs);
    lay_out_partials(problem, maps, plan);
    plan->band_maps = plan->slices * moment_maps * band.image.rows * plan->pitch;
    const int64_t elements =
        plan->band_maps +
        (maps == 0 ? 0 : (plan->ring_slices + plan->slices) * plan->partials_plane);
    plan->scratch_bytes = elements * static_cast<int64_t>(sizeof(T));
  };
  int64_t slice_parts = 1;
  do {
    lay_out(slice_parts++, 1);
  } while (plan->scratch_bytes > slab_bytes && plan->slices > kOutputs);
  for (int64_t row_parts = 2; plan->scratch_bytes > kMaxSlabBytes && plan->rows > 1; ++row_parts) {
    lay_out(slices, row_parts);
  }
}

template <class T>
SeparablePlan plan_separable(const Problem& problem, const Request& request,
                             const DeviceFacts& device) {
  constexpr int64_t kChunkRows = kSeparableChunkRows<T>;
  const int window_columns = problem.windows[kWidth].size;
  const int window_rows = problem.windows[kHeight].size;
  const bool volume = is_volume(problem);
  const auto layout = [&](const SeparableInputs& pass) {
    return PassLayout{choose_separable_layout<T>(
        pass, volume ? problem.windows[kDepth].size : 0, window_columns, window_rows,
        image_size(problem, kWidth), device.shared_per_block)};
  };
  SeparablePlan plan;
  plan.images = (request.grad1.data != nullptr ? 1 : 0) + (request.grad2.data != nullptr ? 1 : 0);
  plan.planes = plane_count(problem.sizes);
  plan.rows = map_size(problem, kHeight);
  const bool masked = merges_variances(problem, request);
  const int moment_maps = masked ? kMaskedMaps : kSeparableMaps;
  plan.moments = layout({volume   ? moment_maps
                         : masked ? kMaskedImages
                                  : kSeparableImages,
                         moment_maps, /*has_sums=*/true});
  if (masked) {
    plan.moments.most_blocks = kMaskedBlocksPerMultiprocessor;
  }
  if (request.value != nullptr || request.mse != nullptr) {
    plan.planes_per_value = planes_per_value(request.reduction, problem.sizes);
  }
  const int maps = partial_maps(plan.images);
  if (plan.images > 0) {
    plan.gradient = layout({maps});
    if (sizeof(T) == sizeof(double)) {
      plan.gradient.most_blocks = kDoubleGradientBlocksPerMultiprocessor;
    }
  } else if (!volume) {
    return plan;
  }
  const int64_t pixel_bytes =
      (volume ? moment_maps + 2 * maps : maps) * static_cast<int64_t>(sizeof(T));
  const int64_t row_bytes = round_up(map_size(problem, kWidth), kPartialColumns) * pixel_bytes;
  const int64_t units =
      int64_t{device.multiprocessors} * resident_blocks(device, plan.moments) * kSeparableSlabUnits;
  const int64_t slab_bytes = std::min<int64_t>(
      kMaxSlabBytes, std::max<int64_t>(device.l2_bytes / 2,
                                       units * kChunkRows * plan.moments.columns * pixel_bytes));
  plan.partials_rows = round_up(plan.rows, kSeparableOutputs<T>);
  if (volume) {
    plan_slices<T>(problem, moment_maps, maps, slab_bytes, &plan);
    return plan;
  }
  const int64_t slab_planes = slab_bytes / (row_bytes * plan.partials_rows);
  if (slab_planes > 0) {
    plan.planes = slab_planes < plan.planes_per_value
                      ? equal_part(plan.planes_per_value, slab_planes, 1)
                      : equal_part(plan.planes, slab_planes, plan.planes_per_value);
  } else {
    // The rows below the last gradient of a slab serve the next one, too.
    const int64_t again = round_up(window_rows - 1, kChunkRows);
    plan.planes = 1;
    plan.rows = equal_part(plan.rows, slab_bytes / row_bytes - again, kChunkRows);
    plan.partials_rows = std::min(plan.partials_rows, plan.rows + again);
  }
  lay_out_partials(problem, maps, &plan);
  plan.scratch_bytes = plan.planes * plan.partials_plane * static_cast<int64_t>(sizeof(T));
  return plan;
}
SeparablePlan plan_separable(const Problem& problem, const Request& request,
                             const DeviceFacts& device) {
  return accumulates_in_double(problem) ? plan_separable<double>(problem, request, device)
                                        : plan_separable<float>(problem, request, device);
}

// Whether the separable kernels load whole vectors of columns.
template <class T>
bool loads_quads(const Image& image, const InputImage& bytes, const int64_t* sizes) {
  const int64_t element = size_of(image.dtype);
  return sizes[FUSED_SSIM_AXIS_COLUMN] % 4 == 0 && aligned_for_quads(bytes, sizes, element) &&
         (element == static_cast<int64_t>(sizeof(T)) || sizeof(T) == sizeof(float));
}

// The taps of all axes as `p` wants them; mirrored, for the gradient.
template <class T>
void set_taps(const Problem& problem, const SeparableLayout& layout, bool mirrored,
              SeparableParams<T>* p) {
  const int offsets[kSpatialAxes] = {layout.row_taps + layout.column_taps, layout.row_taps, 0};
  p->volume.taps = offsets[kDepth];
  for (int axis = is_volume(problem) ? kDepth : kHeight; axis < kSpatialAxes; ++axis) {
    const Window& window = problem.windows[axis];
    T* to = p->taps + offsets[axis];
    if constexpr (sizeof(T) == sizeof(float)) {
      round_taps_to_float(window.taps, window.size, to);
    } else {
      std::copy_n(window.taps, window.size, to);
    }
    if (mirrored) {
      std::reverse(to, to + window.size);
    }
  }
}

// The work of one launch: `own` of so many planes. Returns its blocks.
template <class T>
int set_work(const Problem& problem, const DeviceFacts& device, const PassLayout& layout,
             int64_t planes, SeparableParams<T>* p) {
  constexpr int kVector = kSeparableVector<T>;
  p->layout = layout;
  // Windows of a strip's first column begin with a whole vector of the source.
  const int64_t first = p->own.left - radius(problem, kWidth) - p->source.left;
  p->strips_left = p->own.left - (first % kVector + kVector) % kVector;
  p->strips_per_plane = ceil_divide(p->own.left + p->own.columns - p->strips_left, layout.columns);
  p->chunks_per_strip = ceil_divide(p->own.rows, kSeparableChunkRows<T>);
  const int64_t units = planes * p->strips_per_plane * p->chunks_per_strip;
  const auto blocks = static_cast<int>(
      std::min<int64_t>(units, int64_t{device.multiprocessors} * resident_blocks(device, layout)));
  p->sums[0] = p->sums[1] = {};
  p->sums[0].units_per_value = units;
  p->sums[0].share_among(blocks, units);
  return blocks;
}

template <class T>
cudaError_t launch_moments(const SeparableParams<T>& p, int images, int blocks,
                           const DeviceFacts& device, cudaStream_t stream) {
  return p.merges_variances ? launch_masked_moments(p, images, blocks, device, stream)
                            : launch_separable_moments(p, images, blocks, device, stream);
}

// What is the same for all launches of a problem.
template <class T>
SeparableParams<T> common_params(const Problem& problem, const Request& request,
                                 const SeparablePlan& plan) {
  SeparableParams<T> p;
  p.image = {0, 0, image_size(problem, kHeight), image_size(problem, kWidth)};
  p.value = {crop(problem, kHeight), crop(problem, kWidth), map_size(problem, kHeight),
             map_size(problem, kWidth)};
  p.map_plane = p.value.rows * p.value.columns;
  p.window_columns = problem.windows[kWidth].size;
  p.window_rows = problem.windows[kHeight].size;
  p.stabilizers = doubled_stabilizers<T>(problem);
  p.own_stabilizers = static_cast<const T*>(problem.stabilizers);
  set_stabilizer_scales(problem, 1.0, p.stabilizer_scales);
  p.divisors = gradient_divisors<T>(problem, request);
  p.mask_is_normalized = mask_is_normalized(problem);
  p.merges_variances = merges_variances(problem, request);
  p.statistic_offset = static_cast<T>(1.0 - masked_statistic_base(request));
  p.statistic_weight = request.statistic_weight;
  p.l1_weight = request.l1_weight;
  p.l2_weight = request.l2_weight;
  const GradientFactors factors =
      gradient_factors(request, host_gradient_divisor(problem, request));
  p.statistic_factor = static_cast<T>(factors.statistic);
  p.l1_factor = static_cast<T>(factors.l1);
  p.l2_factor = static_cast<T>(factors.l2);
  p.partials_rows = plan.partials_rows;
  p.partials_block = plan.partials_block;
  p.partials_plane = plan.partials_plane;
  return p;
}

// f is symmetric: one gradient is that of the first image.
template <class T>
void put_gradient_first(const SeparablePlan& plan, SeparableParams<T>* p) {
  if (plan.images == 1 && p->grad1.data == nullptr) {
    std::swap(p->img1, p->img2);
    std::swap(p->quads1, p->quads2);
    std::swap(p->grad1, p->grad2);
  }
}

// Where the sums of a launch of moments go: to values, or to the launches that follow.
class SumOutputs {
 public:
  // Takes its part of the workspace.
  SumOutputs(const Problem& problem, const Request& request, const DeviceFacts& device,
             char** workspace)
      : request_(request),
        bytes_(partials_bytes(problem, request, device)),
        divisor_(host_divisor(problem, request)),
        mask_sums_(divides_by_mask(problem, request) ? problem.mask_sums : nullptr),
        offset_(request.offset + (has_mask(problem)
                                      ? request.statistic_weight * masked_statistic_base(request)
                                      : 0.0)) {
    for (int i = 0; i < 2; ++i) {
      partials_[i] = *workspace;
      *workspace += values(i) != nullptr ? bytes_ : 0;
    }
  }

  // Of `count` values from `first` on, or of a part of one: the first part `begins`, and all but
  // the last carry their sums on.
  template <class T>
  cudaError_t set(int64_t first, int64_t count, bool begins, bool carries, cudaStream_t stream,
                  SeparableParams<T>* p) const {
    const int64_t units = p->sums[0].units_per_value;
    p->carries = carries;
    for (int i = 0; i < 2; ++i) {
      p->carried[i] = nullptr;
      if (values(i) == nullptr) {
        continue;
      }
      // Fewer blocks work than there is room for.
      auto* carried = reinterpret_cast<double*>(partials_[i] + bytes_) - 1;
      ReductionPlan sums = p->sums[0];
      sums.partials = reinterpret_cast<double*>(partials_[i]);
      sums.values = count;
      sums.units_per_value = units / count;
      sums.total_units = units;
      sums.value = carried;
      sums.factor = 1.0;
      sums.offset = 0.0;
      if (!carries) {
        sums.value = static_cast<T*>(values(i)) + first;
        sums.factor = 1.0 / divisor_;
        sums.offset = i == 0 ? offset_ : 0.0;
        if (mask_sums_ != nullptr) {
          sums.divisors = static_cast<const T*>(mask_sums_) + first;
        }
      }
      p->carried[i] = begins ? nullptr : carried;
      const cudaError_t error = next_counter_slots(stream, 1, &sums.counter_slot);
      if (error != cudaSuccess) {
        return error;
      }
      p->sums[i] = sums;
      p->sums[0].units_per_value = sums.units_per_value;  // where there is no value
    }
    return cudaSuccess;
  }

 private:
  void* values(int i) const { return i == 0 ? request_.value : request_.mse; }

  const Request& request_;
  int64_t bytes_;
  double divisor_;
  const void* mask_sums_;
  double offset_;
  char* partials_[2];
};

template <class T>
cudaError_t run_images(const Problem& problem, const Request& request, const DeviceFacts& device,
                       void* workspace, cudaStream_t stream) {
  const SeparablePlan plan = plan_separable<T>(problem, request, device);
  const int64_t planes = plane_count(problem.sizes);
  const int reach = radius(problem, kHeight);
  SeparableParams<T> p = common_params<T>(problem, request, plan);
  p.img1 = bytes_of<const char>(problem.img1, problem.uint8_divisor);
  p.img2 = bytes_of<const char>(problem.img2, problem.uint8_divisor);
  p.quads1 = loads_quads<T>(problem.img1, p.img1, problem.sizes);
  p.quads2 = loads_quads<T>(problem.img2, p.img2, problem.sizes);
  p.grad1 = bytes_of<char>(request.grad1);
  p.grad2 = bytes_of<char>(request.grad2);
  put_gradient_first(plan, &p);
  p.map_gradient = bytes_of<const char>(request.map_gradient);
  p.mask = bytes_of<const char>(problem.mask);
  p.mask_quads = loads_quads<T>(problem.mask, p.mask, problem.sizes);
  p.map = static_cast<T*>(request.map);
  p.channels = problem.sizes[FUSED_SSIM_AXIS_CHANNEL];
  char* free_bytes = static_cast<char*>(workspace);
  const SumOutputs outputs(problem, request, device, &free_bytes);
  p.partials = plan.images == 0 ? nullptr : reinterpret_cast<T*>(free_bytes);

  // Rows [top, top + rows) of those that have a value, of so many planes.
  const auto run_moments = [&](int64_t slab_planes, int64_t top, int64_t rows) {
    set_taps(problem, plan.moments, /*mirrored=*/false, &p);
    p.source = p.image;
    p.own = {p.value.top + top, p.value.left, rows, p.value.columns};
    p.partials_top = p.value.top + (plan.images == 0 ? 0 : top / p.partials_rows * p.partials_rows);
    const int blocks = set_work(problem, device, plan.moments, slab_planes, &p);
    const int64_t first = p.first_plane % plan.planes_per_value;
    const bool carries =
        (first + slab_planes) % plan.planes_per_value != 0 || top + rows != p.value.rows;
    const cudaError_t error = outputs.set(p.first_plane / plan.planes_per_value,
                                          std::max<int64_t>(1, slab_planes / plan.planes_per_value),
                                          /*begins=*/first == 0 && top == 0, carries, stream, &p);
    return error != cudaSuccess ? error : launch_moments(p, plan.images, blocks, device, stream);
  };
  // Rows [top, bottom) of the image.
  const auto run_gradient = [&](int64_t slab_planes, int64_t top, int64_t bottom) {
    set_taps(problem, plan.gradient, /*mirrored=*/true, &p);
    p.source = p.value;
    p.own = {top, 0, bottom - top, p.image.columns};
    const int64_t first = std::max<int64_t>(0, top - reach - p.value.top);
    p.partials_top = p.value.top + first / p.partials_rows * p.partials_rows;
    const int blocks = set_work(problem, device, plan.gradient, slab_planes, &p);
    return launch_separable_gradient(p, plan.images, blocks, device, stream);
  };
  int64_t slab_planes = 0;
  for (p.first_plane = 0; p.first_plane < planes; p.first_plane += slab_planes) {
    const int64_t left = plan.planes < plan.planes_per_value
                             ? plan.planes_per_value - p.first_plane % plan.planes_per_value
                             : planes - p.first_plane;
    slab_planes = std::min(plan.planes, left);
    int64_t done = 0;  // rows of gradients
    for (int64_t top = 0; top < p.value.rows; top += plan.rows) {
      const int64_t bottom = std::min(top + plan.rows, p.value.rows);
      cudaError_t error = run_moments(slab_planes, top, bottom - top);
      const int64_t complete = bottom == p.value.rows ? p.image.rows : p.value.top + bottom - reach;
      if (error == cudaSuccess && plan.images > 0 && complete > done) {
        error = run_gradient(slab_planes, done, complete);
        done = complete;
      }
      if (error != cudaSuccess) {
        return error;
      }
    }
  }
  return cudaSuccess;
}

// A volume's slices as planes, from row `top` on. Slices of `image` before `front` have no memory.
template <class Byte>
ByteImage<Byte> slices_of(const Problem& problem, const Image& image, int64_t volume, int64_t top,
                          int64_t front = 0) {
  auto bytes = bytes_of<Byte>(image, problem.uint8_divisor);
  if (bytes.data != nullptr) {
    const int64_t channels = problem.sizes[FUSED_SSIM_AXIS_CHANNEL];
    bytes.data += volume / channels * bytes.batch + volume % channels * bytes.channel;
    bytes.batch = 0;
    bytes.channel = image.strides[FUSED_SSIM_AXIS_DEPTH] * size_of(image.dtype);
    bytes.data += top * bytes.row - front * bytes.channel;
  }
  return bytes;
}

template <class T>
cudaError_t run_volumes(const Problem& problem, const Request& request, const DeviceFacts& device,
                        void* workspace, cudaStream_t stream) {
  const SeparablePlan plan = plan_separable<T>(problem, request, device);
  const int64_t volumes = plane_count(problem.sizes);
  const int64_t slices = image_size(problem, kDepth);
  const int64_t front = crop(problem, kDepth);
  const int64_t value_slices = map_size(problem, kDepth);
  SeparableParams<T> p = common_params<T>(problem, request, plan);
  p.channels = slices;
  const Divisors<T> divisors = std::exchange(p.divisors, {});
  char* free_bytes = static_cast<char*>(workspace);
  const SumOutputs outputs(problem, request, device, &free_bytes);
  SeparableVolume<T>& v = p.volume;
  v.maps = reinterpret_cast<T*>(free_bytes);
  v.pitch = plan.pitch;
  v.ring = v.maps + plan.band_maps;
  v.ring_slices = plan.ring_slices;
  v.slices = slices;
  v.value_front = front;
  v.value_slices = value_slices;
  v.window = problem.windows[kDepth].size;
  T* const filtered = v.ring + plan.ring_slices * plan.partials_plane;

  const SeparableRange whole_image = p.image;
  const SeparableRange whole_value = p.value;

  // Of those that have a value, the slices [first, first + count) of a volume: their sums in rows
  // [top, top + rows), and the partial derivatives of the band around these.
  const auto run_moments = [&](int64_t volume, int64_t first, int64_t count, int64_t top,
                               int64_t rows, int64_t band_top) {
    set_taps(problem, plan.moments, /*mirrored=*/false, &p);
    v.first_slice = front + first;
    v.slice_count = count;
    cudaError_t error = launch_depth_moments(p, device, stream);
    p.first_plane = front + first;
    p.partials = plan.images == 0 ? nullptr : v.ring + first % v.ring_slices * p.partials_plane;
    p.source = p.image;
    p.partials_top = p.value.top;
    const auto run_rows = [&](int64_t begin, int64_t end, bool has_sums) {
      if (error != cudaSuccess || begin == end) {
        return;
      }
      p.own = {p.value.top + begin, p.value.left, end - begin, p.value.columns};
      const int blocks = set_work(problem, device, plan.moments, count, &p);
      const int64_t in_value = volume % plan.planes_per_value;
      const bool is_last = in_value + 1 == plan.planes_per_value &&
                           top + rows == whole_value.rows && first + count == value_slices;
      if (has_sums) {
        error = outputs.set(volume / plan.planes_per_value, 1,
                            /*begins=*/in_value == 0 && top == 0 && first == 0,
                            /*carries=*/!is_last, stream, &p);
      } else {
        p.carried[0] = p.carried[1] = nullptr;
        p.carries = false;
      }
      if (error == cudaSuccess) {
        error = launch_moments(p, plan.images, blocks, device, stream);
      }
    };
    const int64_t own = top - band_top;
    run_rows(0, own, /*has_sums=*/false);
    run_rows(own, own + rows, /*has_sums=*/true);
    run_rows(own + rows, p.value.rows, /*has_sums=*/false);
    return error;
  };
  // The slices [first, first + count) of a volume, rows [top, bottom) of a band.
  const auto run_gradient = [&](int64_t first, int64_t count, int64_t top, int64_t bottom) {
    set_taps(problem, plan.gradient, /*mirrored=*/true, &p);
    p.partials = filtered;
    v.first_slice = first;
    v.slice_count = count;
    const cudaError_t error = launch_depth_partials(p, device, stream);
    p.first_plane = first;
    p.source = p.value;
    p.own = {top, 0, bottom - top, p.image.columns};
    const int blocks = set_work(problem, device, plan.gradient, count, &p);
    return error != cudaSuccess ? error
                                : launch_separable_gradient(p, plan.images, blocks, device, stream);
  };
  const auto run_band = [&](int64_t volume, int64_t top, int64_t rows) {
    const BandRows band = rows_of_band(problem, plan.images > 0, top, rows);
    const int64_t first_row = band.image.top;
    p.image.rows = band.image.rows;
    p.value.top = whole_value.top + band.value.top - first_row;
    p.value.rows = band.value.rows;
    p.img1 = slices_of<const char>(problem, problem.img1, volume, first_row);
    p.img2 = slices_of<const char>(problem, problem.img2, volume, first_row);
    p.grad1 = slices_of<char>(problem, request.grad1, volume, first_row);
    p.grad2 = slices_of<char>(problem, request.grad2, volume, first_row);
    put_gradient_first(plan, &p);
    p.map_gradient =
        slices_of<const char>(problem, request.map_gradient, volume, band.value.top, front);
    p.mask = slices_of<const char>(problem, problem.mask, volume, first_row);
    if (request.map != nullptr) {
      p.map = static_cast<T*>(request.map) + (volume * value_slices - front) * p.map_plane +
              band.value.top * p.value.columns;
    }
    // Rows of gradients in the image.
    const int64_t begin = top == 0 ? 0 : whole_value.top + top;
    const int64_t end =
        top + rows == whole_value.rows ? whole_image.rows : whole_value.top + top + rows;
    int64_t done = 0;  // slices of gradients
    for (int64_t first = 0; first < value_slices; first += plan.slices) {
      const int64_t last = std::min(first + plan.slices, value_slices);
      cudaError_t error = run_moments(volume, first, last - first, top, rows, band.value.top);
      const int64_t complete = plan.images == 0       ? 0
                               : last == value_slices ? slices
                                                      : front + last - radius(problem, kDepth);
      for (; error == cudaSuccess && done < complete;
           done = std::min(done + plan.slices, complete)) {
        error = run_gradient(done, std::min(plan.slices, complete - done), begin - first_row,
                             end - first_row);
      }
      if (error != cudaSuccess) {
        return error;
      }
    }
    return cudaSuccess;
  };
  for (int64_t volume = 0; volume < volumes; ++volume) {
    const int64_t channels = problem.sizes[FUSED_SSIM_AXIS_CHANNEL];
    if (problem.stabilizers != nullptr) {
      p.own_stabilizers = static_cast<const T*>(problem.stabilizers) + 2 * (volume / channels);
    }
    if (divisors.first != nullptr) {  // one for all slices
      p.divisors.first = divisors.first + volume / channels * divisors.batch +
                         volume % channels * divisors.channel;
    }
    for (int64_t top = 0; top < whole_value.rows; top += plan.rows) {
      const cudaError_t error = run_band(volume, top, std::min(plan.rows, whole_value.rows - top));
      if (error != cudaSuccess) {
        return error;
      }
    }
  }
  return cudaSuccess;
}

template <class T>
cudaError_t run_as(const Problem& problem, const Request& request, const DeviceFacts& device,
                   void* workspace, cudaStream_t stream) {
  return is_volume(problem) ? run_volumes<T>(problem, request, device, workspace, stream)
                            : run_images<T>(problem, request, device, workspace, stream);
}

}  // namespace

bool separable_serves(const Problem& problem, const Request& request, const DeviceFacts& device) {
  const SeparablePlan plan = plan_separable(problem, request, device);
  return plan.moments.columns > 0 && (plan.images == 0 || plan.gradient.columns > 0);
}

int64_t separable_scratch_bytes(const Problem& problem, const Request& request,
                                const DeviceFacts& device) {
  return plan_separable(problem, request, device).scratch_bytes;
}

cudaError_t run_separable(const Problem& problem, const Request& request, const DeviceFacts& device,
                          void* workspace, cudaStream_t stream) {
  return accumulates_in_double(problem)
             ? run_as<double>(problem, request, device, workspace, stream)
             : run_as<float>(problem, request, device, workspace, stream);
}

}  // namespace fused_ssim::cuda
