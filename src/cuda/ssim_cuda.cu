// Chooses the kernels for a request and lays out their work and workspace.
#include <algorithm>
#include <atomic>
#include <climits>
#include <cmath>
#include <cstdlib>
#include <new>
#include <utility>

#include "core/pointwise.h"
#include "core/taps.h"
#include "cuda/kernels.h"
#include "cuda/launches.h"
#include "cuda/policy.h"
#include "cuda/requests.h"
#include "cuda/separable.h"
#include "cuda/ssim_cuda.h"
#include "cuda/window.cuh"

#ifndef FUSED_SSIM_CUDA_ARCHITECTURES
#error "FUSED_SSIM_CUDA_ARCHITECTURES must name the architectures of this build"
#endif

namespace fused_ssim::cuda {
namespace {

template <class T>
struct TypeOf {
  using type = T;
};

// Coordinates of strips are 32-bit; planes and offsets are 64-bit.
constexpr int64_t kMaxStripExtent = int64_t{1} << 30;

ReductionPlan plan_reduction(const Problem& problem, const Request& request, void* workspace,
                             int64_t units_per_plane) {
  ReductionPlan plan;
  const int32_t reduction = request.value != nullptr ? request.reduction : FUSED_SSIM_SUM;
  plan.partials = static_cast<double*>(workspace);
  plan.value = request.value;
  plan.values = value_count(reduction, problem.sizes);
  plan.units_per_value = planes_per_value(reduction, problem.sizes) * units_per_plane;
  plan.total_units = plane_count(problem.sizes) * units_per_plane;
  plan.factor = 1.0 / host_divisor(problem, request);
  plan.divisors = divides_by_mask(problem, request) ? problem.mask_sums : nullptr;
  plan.mse = request.mse;
  plan.mse_factor = plan.factor;
  plan.offset = request.offset;
  return plan;
}

// What makes the sum of a value's pixels an integer that fits beside two counts in 64 bits, with a bit
// to spare (reduction.cuh); 0 where no such number is known.
double fixed_point(const Problem& problem, const Request& request) {
  if (request.value == nullptr) {
    return 0.0;
  }
  // Four times the data range, with the usual k1: images may leave it, and if they leave it far
  // behind the sum takes a little longer.
  const double difference = 4.0 * std::max(1.0, std::sqrt(problem.c1) / 0.01);
  const double largest =
      static_cast<double>(planes_per_value(request.reduction, problem.sizes)) *
      static_cast<double>(map_plane_pixels(problem)) *
      (2.0 * std::abs(request.statistic_weight) + difference * std::abs(request.l1_weight));
  // Half of what fits: blocks don't have equal parts of it.
  const double scale = std::exp2(std::log2(kLargestFixedSum) - 1.0 - std::ceil(std::log2(largest)));
  return std::isfinite(scale) ? scale : 0.0;
}

// Whether a gradient is that of StripKind::kMasked.
bool is_masked(const Problem& problem) {
  return has_mask(problem) || problem.stabilizers != nullptr;
}

// Of the problems above those that tiles and strips serve: values with a gradient, and a map alone,
// which is masked when it is there.
bool strips_serve_masked(const Problem& problem, const Request& request) {
  if (wants_gradient(request)) {
    const bool is_word =
        !has_mask(problem) || size_of(problem.mask.dtype) <= size_of(FUSED_SSIM_FLOAT32);
    return request.map == nullptr && request.map_gradient.data == nullptr && is_word;
  }
  return request.map != nullptr && request.value == nullptr && problem.stabilizers == nullptr;
}

// Whether marching kernels serve means under a mask: a gradient of float32 images that they load in
// boxes, under a mask of bytes that is read often enough to be filtered ahead.
bool march_serves_normalized(const Problem& problem, const Request& request,
                             const DeviceFacts& device) {
  constexpr int64_t kMostBytes = int64_t{1} << 28;
  const auto in_boxes = [&](const Image& image) {
    const auto bytes = bytes_of<const char>(image);
    return image.data == nullptr || (image.dtype == FUSED_SSIM_FLOAT32 &&
                                     aligned_for_quads(bytes, problem.sizes, size_of(image.dtype)));
  };
  const auto has_map = [&](const Image& image) {  // no other loader would serve, so no doubt of any
    return image.strides[FUSED_SSIM_AXIS_ROW] > 0 &&
           has_tensor_map(bytes_of<const char>(image), problem.sizes);
  };
  return mask_is_normalized(problem) && problem.mask.dtype == FUSED_SSIM_UINT8 &&
         wants_gradient(request) && strips_serve_masked(problem, request) &&
         march_layout(device.architecture) == MarchLayout::kRoomy &&
         is_standard(problem.windows[kHeight]) && is_standard(problem.windows[kWidth]) &&
         !is_volume(problem) && !is_within_window(problem) && request.mse == nullptr &&
         request.l2_weight == 0.0 && image_size(problem, kWidth) % 4 == 0 &&
         image_size(problem, kHeight) <= kMaxStripExtent &&
         image_size(problem, kWidth) <= kMaxStripExtent && in_boxes(problem.img1) &&
         in_boxes(problem.img2) && in_boxes(request.grad1) && in_boxes(request.grad2) &&
         mask_means_bytes(problem) <= kMostBytes && has_map(problem.img1) && has_map(problem.img2);
}

// Whether tiles and strips serve.
bool strips_serve(const Problem& problem, const Request& request, const DeviceFacts& device) {
  if (mask_is_normalized(problem)) {
    return march_serves_normalized(problem, request, device);
  }
  if (merges_variances(problem, request) ||
      (is_masked(problem) && !strips_serve_masked(problem, request))) {
    return false;
  }
  const bool mse_with_value = request.value != nullptr && request.map == nullptr &&
                              !wants_gradient(request) && request.l1_weight == 0.0;
  return !accumulates_in_double(problem) && !is_volume(problem) &&
         is_short(problem.windows[kHeight]) && is_short(problem.windows[kWidth]) &&
         image_size(problem, kHeight) <= kMaxStripExtent &&
         image_size(problem, kWidth) <= kMaxStripExtent &&
         (request.mse == nullptr || mse_with_value) && request.l2_weight == 0.0;
}

// Half of a window of 11 taps, continued by zeros.
void given_taps(const Window& window, float* taps) {
  float rounded[kDefaultWindowSize];
  round_taps_to_float(window.taps, window.size, rounded);
  const int zeros = kDefaultWindowSize / 2 - window.size / 2;
  for (int k = 0; k < kHalfWindowTaps; ++k) {
    taps[k] = k < zeros ? 0.0f : rounded[k - zeros];
  }
}

cudaError_t find_kernel(const DeviceFacts& device, Schedule schedule, StripKind kind,
                        StripLoader loader, bool given, int tile_rows, bool single_block,
                        StripKernel* found) {
  const auto find = [&](auto window) {
    using Window = typename decltype(window)::type;
    return schedule == Schedule::kTile
               ? find_tile_kernel<Window>(device, kind, loader, tile_rows, found)
               : find_march_kernel<Window>(device, kind, loader, single_block, found);
  };
  return given ? find(TypeOf<GivenWindow>{}) : find(TypeOf<StandardWindow>{});
}

// Whether kernels of the kind "masked" read their mask in bits.
bool reads_mask_bits(const Problem& problem, const Request& request) {
  return has_mask(problem) && !mask_is_normalized(problem) &&
         problem.mask.dtype == FUSED_SSIM_UINT8 && wants_gradient(request);
}

// Windows of up to 11 taps: one launch. `masks`: what was computed of the mask, if anything.
cudaError_t run_strips(const Problem& problem, const Request& request, const DeviceFacts& device,
                       const StripChoice& choice, StripKind kind, void* workspace,
                       const MaskMeans& masks, cudaStream_t stream) {
  const int64_t* sizes = problem.sizes;
  const bool gradient = has_gradient(kind);
  StripParams p;
  p.img1 = bytes_of<const char>(problem.img1, problem.uint8_divisor);
  p.img2 = bytes_of<const char>(problem.img2, problem.uint8_divisor);
  set_extents(problem, &p);
  const auto in_quads = [&](const Image& image, const auto& bytes) {
    return bytes.data == nullptr || aligned_for_quads(bytes, sizes, size_of(image.dtype));
  };
  bool quads = p.width % 4 == 0 && in_quads(problem.img1, p.img1) && in_quads(problem.img2, p.img2);
  if (gradient) {
    p.grad1 = bytes_of<char>(request.grad1);
    p.grad2 = bytes_of<char>(request.grad2);
    quads = quads && in_quads(request.grad1, p.grad1) && in_quads(request.grad2, p.grad2);
    p.map_gradient = bytes_of<const char>(request.map_gradient);
    const bool one = kind == StripKind::kOneGradient || is_masked_kind(kind);
    if (one && p.grad1.data == nullptr) {
      // f is symmetric.
      std::swap(p.img1, p.img2);
      std::swap(p.grad1, p.grad2);
    }
  } else {
    p.map = static_cast<float*>(request.map);
  }
  const bool strips = choice.tile_rows == 0;
  const MarchLayout layout = march_layout(device.architecture);
  const bool roomy = layout == MarchLayout::kRoomy;
  const bool standard =
      is_standard(problem.windows[kHeight]) && is_standard(problem.windows[kWidth]);
  given_taps(problem.windows[kHeight], p.column_taps);
  given_taps(problem.windows[kWidth], p.row_taps);
  if (!strips) {
    const int own_rows = static_cast<int>(gradient ? p.height : map_size(problem, kHeight));
    const int tiles_down = (own_rows + choice.tile_rows - 1) / choice.tile_rows;
    p.tile_rows = (own_rows + tiles_down - 1) / tiles_down;
  }
  const Schedule schedule = !strips ? Schedule::kTile
                            : roomy ? Schedule::kMarch
                                    : Schedule::kCompactMarch;
  const auto serving = [&](bool boxes) {
    const StripLoader wanted = choose_loader(p.img1.dtype, p.img2.dtype, quads, boxes);
    return serving_loader(schedule, kind, wanted, !standard);
  };
  const bool has_boxes = strips ? roomy : has_tensor_maps(device.architecture);
  StripLoader loader = serving(has_boxes);
  if (is_of_boxes(loader) && has_boxes) {
    const int element = box_element(loader);
    const int columns = element == 4 ? (strips ? box_columns(kind) : kTileBoxColumns)
                        : strips     ? narrow_strip_box_columns(element)
                                     : narrow_tile_box_columns(element);
    const int rows = strips ? kStripBoxRows : tile_box_rows(kind, p.tile_rows);
    if (!make_tensor_map(p.img1, sizes, columns, rows, &p.tensor1) ||
        !make_tensor_map(p.img2, sizes, columns, rows, &p.tensor2)) {
      quads = quads && element != 4;
      loader = serving(false);
    }
  }
  const bool given = !standard || !has_standard_instance(schedule, kind, loader);
  // Bytes in boxes are not divided: then all is in units of theirs.
  const bool bytes = loader == StripLoader::kByteBoxes;
  const double unit = bytes ? static_cast<double>(problem.uint8_divisor) : 1.0;
  if (bytes) {
    p.img1.uint8_divisor = 1.0f;
    p.img2.uint8_divisor = 1.0f;
  }
  p.is_beside =
      request.group == FUSED_SSIM_GROUP_NEXT && request.map == nullptr && !is_masked(problem);
  p.squares = request.mse != nullptr;
  p.l1 = request.l1_weight != 0.0 || p.squares;
  p.channels = Divisor(sizes[FUSED_SSIM_AXIS_CHANNEL]);
  p.own_top = gradient ? 0 : p.value_top;
  p.own_rows = (gradient ? p.height : p.value_bottom) - p.own_top;
  // Strips begin with a quad, or where a box of narrow pixels may begin.
  const int alignment = strips ? narrow_box_alignment(box_element(loader)) : 4;
  p.own_left = gradient ? 0 : p.value_left / alignment * alignment;
  p.own_right = gradient ? p.width : p.value_right;
  // Strips of equal width, as few as possible.
  const int strip_columns = march_columns(layout, kind);
  const int max_width = !strips    ? kMaxTileColumns
                        : gradient ? (strip_columns - 10) / 4 * 4
                                   : strip_columns;
  const int columns = p.own_right - p.own_left;
  const int strips_wanted = (columns + max_width - 1) / max_width;
  p.strip_width =
      static_cast<int>(round_up((columns + strips_wanted - 1) / strips_wanted, alignment));
  const int strips_per_plane = (columns + p.strip_width - 1) / p.strip_width;
  p.strips_per_plane = Divisor(strips_per_plane);
  const int64_t all_strips = strips_per_plane * plane_count(sizes);
  StripKernel found;
  cudaError_t error = find_kernel(device, schedule, kind, loader, given, p.tile_rows,
                                  /*single_block=*/false, &found);
  if (error != cudaSuccess) {
    return error;
  }
  const int capacity = found.blocks_per_multiprocessor * device.multiprocessors;
  MarchShares shares = {0, 0, p.own_rows};
  if (strips) {
    shares = share_strips(device, kind, loader, p.own_rows, all_strips, capacity, choice,
                          /*whole_image=*/gradient || p.value_top == 0);
  }
  p.strip_change_rows = shares.change_rows;
  p.units_per_strip = Divisor(shares.units_per_strip);
  p.map_pitch = map_size(problem, kWidth);
  p.map_plane = map_plane_pixels(problem);
  const double moment_scale = given ? kMomentScale<GivenWindow> : kMomentScale<StandardWindow>;
  const auto stabilizers = doubled_stabilizers<float>(problem, moment_scale * unit);
  p.twice_c1 = stabilizers.c1;
  p.twice_c2 = stabilizers.c2;
  p.loss_weight = -2.0 * request.statistic_weight;
  p.l1_weight = p.squares ? 1.0 / (unit * unit) : request.l1_weight / unit;
  const double divisor = host_gradient_divisor(problem, request);
  p.gradient_scale = static_cast<float>(4.0 * request.statistic_weight * kPixelScale / divisor);
  p.gradient_l1 = static_cast<float>(request.l1_weight / divisor);
  if (is_masked_kind(kind)) {
    p.mask = bytes_of<const char>(problem.mask);
    p.mask_bits = masks.bits;
    p.inverse_means = masks.inverse_means;
    p.divisors = gradient_divisors<float>(problem, request);
    if (has_mask(problem)) {
      p.loss_base = static_cast<float>(0.5 * (1.0 - masked_statistic_base(request)));
    }
    p.stabilizers = static_cast<const float*>(problem.stabilizers);
    set_stabilizer_scales(problem, moment_scale * unit, p.stabilizer_scales);
  }
  if (!strips) {
    const int tiles_down = (p.own_rows + p.tile_rows - 1) / p.tile_rows;
    p.tiles_per_plane = Divisor(int64_t{strips_per_plane} * tiles_down);
  }
  p.reduction = plan_reduction(problem, request, workspace,
                               strips ? int64_t{strips_per_plane} * shares.units_per_strip
                                      : int64_t{p.tiles_per_plane.divisor});
  // The kernels add up losses: SSIM is 1 - 2 loss.
  const int64_t pixels = planes_per_value(request.reduction, sizes) * p.map_plane;
  p.reduction.offset +=
      request.statistic_weight *
      (has_mask(problem) ? masked_statistic_base(request)
                         : static_cast<double>(pixels) / host_divisor(problem, request));
  int blocks =
      strips ? shares.blocks
             : static_cast<int>(std::min<int64_t>(device.multiprocessors, p.reduction.total_units));
  // Blocks that work for one value each, where that leaves no more than one in eight of them idle.
  const int64_t values = p.reduction.values;
  const int64_t counted = blocks / values * values;
  const bool is_counted = values <= (strips ? kMaxCountedValues : 1) &&
                          8 * (blocks - counted) <= blocks &&
                          counted / values <= kMaxCountedBlocks && !p.squares;
  if (is_counted) {
    p.reduction.fixed_point = fixed_point(problem, request);
    if (p.reduction.fixed_point != 0.0) {
      p.reduction.fixed_unit = 1.0 / p.reduction.fixed_point;
      blocks = static_cast<int>(counted);
    }
  }
  error = next_counter_slots(stream, is_counted ? static_cast<unsigned>(values) : 1u,
                             &p.reduction.counter_slot);
  if (error != cudaSuccess) {
    return error;
  }
  // Where the channels of a pixel are neighbours, each row of memory holds them all: blocks that
  // work on them at the same time find it in L2.
  const auto is_interleaved = [](const InputImage& image) {
    return std::abs(image.channel) < std::abs(image.column);
  };
  const int64_t channels = sizes[FUSED_SSIM_AXIS_CHANNEL];
  if (strips && is_interleaved(p.img1) && is_interleaved(p.img2) && p.reduction.values == 1 &&
      blocks >= channels) {
    p.channels_together = static_cast<int>(channels);
  }
  const int sharing = blocks / p.channels_together;
  p.reduction.share_among(sharing, p.reduction.total_units / p.channels_together);
  blocks = sharing * p.channels_together;
  p.reduction.blocks_per_value = static_cast<unsigned>(blocks / values);
  if (strips && blocks <= device.multiprocessors) {
    error = find_kernel(device, schedule, kind, loader, given, 0, /*single_block=*/true, &found);
    if (error != cudaSuccess) {
      return error;
    }
  }
  return launch_kernel(found.kernel, p, blocks, found.threads, found.shared_bytes, device, stream);
}

}  // namespace

// No kernel here has more resident blocks a multiprocessor.
constexpr int kMaxBlocksPerMultiprocessor = 16;
int64_t partials_bytes(const Problem& problem, const Request& request, const DeviceFacts& device) {
  const int64_t values = value_count(request.reduction, problem.sizes);
  const int64_t blocks = int64_t{device.multiprocessors} * kMaxBlocksPerMultiprocessor;
  return round_up((values + blocks) * static_cast<int64_t>(sizeof(double)), 256);
}

namespace {

// The counter slots of captured launches. A graph holds its own for as long as it or what was made of
// it lives: two graphs with one slot would spoil each other's sums where they run side by side.
class GraphSlots {
 public:
  // `count` in a row; false where no such row was found.
  bool take(unsigned count, unsigned* first) {
    for (unsigned tried = 0; tried < 2 * kCounterSlots; ++tried) {
      *first = next_.fetch_add(count, std::memory_order_relaxed) % kCounterSlots;
      unsigned row = 0;
      while (row < count && *first + row < kCounterSlots &&
             !taken_[*first + row].exchange(true, std::memory_order_acquire)) {
        ++row;
      }
      if (row == count) {
        return true;
      }
      give_back(*first, row);
    }
    return false;
  }

  void give_back(unsigned first, unsigned count) {
    for (unsigned slot = first; slot < first + count; ++slot) {
      taken_[slot].store(false, std::memory_order_release);
    }
  }

 private:
  std::atomic<unsigned> next_{0};
  std::atomic<bool> taken_[kCounterSlots] = {};
};

GraphSlots graph_slots;  // trivial to destroy: graphs may die after static objects

struct HeldSlots {
  unsigned first;
  unsigned count;

  static void CUDART_CB release(void* held_slots) {
    const auto* held = static_cast<const HeldSlots*>(held_slots);
    graph_slots.give_back(held->first, held->count);
    delete held;
  }
};

cudaError_t take_graph_slots(cudaStream_t stream, unsigned count, unsigned* first) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  cudaGraph_t graph = nullptr;
#if CUDART_VERSION >= 13000
  cudaError_t error = cudaStreamGetCaptureInfo(stream, &status, nullptr, &graph);
#else
  cudaError_t error = cudaStreamGetCaptureInfo_v2(stream, &status, nullptr, &graph);
#endif
  if (error != cudaSuccess) {
    return error;
  }
  if (!graph_slots.take(count, first)) {
    return kTooManyCapturedLaunches;
  }
  auto* held = new (std::nothrow) HeldSlots{*first, count};
  if (held == nullptr) {
    graph_slots.give_back(*first, count);
    return cudaErrorMemoryAllocation;
  }
  cudaUserObject_t object = nullptr;
  error =
      cudaUserObjectCreate(&object, held, HeldSlots::release, 1, cudaUserObjectNoDestructorSync);
  if (error != cudaSuccess) {
    HeldSlots::release(held);
    return error;
  }
  error = cudaGraphRetainUserObject(graph, object, 1, cudaGraphUserObjectMove);
  if (error != cudaSuccess) {
    cudaUserObjectRelease(object, 1);
  }
  return error;
}

}  // namespace

cudaError_t next_counter_slots(cudaStream_t stream, unsigned count, unsigned* first) {
  static std::atomic<unsigned> eager{0};
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  const cudaError_t error = cudaStreamIsCapturing(stream, &status);
  if (error != cudaSuccess) {
    return error;
  }
  if (status == cudaStreamCaptureStatusInvalidated) {
    return cudaErrorStreamCaptureInvalidated;  // it has no graph any more
  }
  if (status != cudaStreamCaptureStatusNone) {
    const cudaError_t refused = take_graph_slots(stream, count, first);
    *first += kCounterSlots;
    return refused;
  }
  do {
    *first = eager.fetch_add(count, std::memory_order_relaxed) % kCounterSlots;
  } while (*first + count > kCounterSlots);  // all in a row
  return cudaSuccess;
}

cudaError_t current_device(DeviceFacts* facts) {
  static DeviceFacts known[kMaxKnownDevices];
  static std::atomic<int> state[kMaxKnownDevices];  // 0 unknown, 1 being written, 2 known
  int index = 0;
  cudaError_t error = cudaGetDevice(&index);
  if (error != cudaSuccess) {
    return error;
  }
  const bool cached = index < kMaxKnownDevices;
  if (cached && state[index].load(std::memory_order_acquire) == 2) {
    *facts = known[index];
    return cudaSuccess;
  }
  facts->index = index;
  const auto ask = [&](int* result, cudaDeviceAttr attribute) {
    if (error == cudaSuccess) {
      error = cudaDeviceGetAttribute(result, attribute, index);
    }
  };
  ask(&facts->multiprocessors, cudaDevAttrMultiProcessorCount);
  ask(&facts->shared_per_multiprocessor, cudaDevAttrMaxSharedMemoryPerMultiprocessor);
  ask(&facts->shared_per_block, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  ask(&facts->l2_bytes, cudaDevAttrL2CacheSize);
  if (error == cudaSuccess) {
    error = compiled_architecture(&facts->architecture);
  }
  int driver = 0;
  if (error == cudaSuccess) {
    error = cudaDriverGetVersion(&driver);
  }
  // Older drivers can't capture such launches in graphs.
  facts->overlaps_launches = facts->architecture >= 90 && driver >= 12040;
  if (error == cudaSuccess && cached) {
    int unknown = 0;
    if (state[index].compare_exchange_strong(unknown, 1)) {
      known[index] = *facts;
      state[index].store(2, std::memory_order_release);
    }
  }
  return error;
}

const char* not_served(const Problem& problem, const Request& request) {
  if (problem.sizes[FUSED_SSIM_AXIS_CHANNEL] > INT_MAX || image_size(problem, kDepth) > INT_MAX) {
    return "expected less than 2^31 channels and slices for the CUDA kernels, got more";
  }
  // Where there is no device, `workspace_bytes` says so.
  DeviceFacts device;
  if (current_device(&device) == cudaSuccess && !strips_serve(problem, request, device) &&
      !separable_serves(problem, request, device)) {
    static_assert(kSeparableEverywhere == 65, "as the message says");
    return "expected windows that fit this GPU's shared memory, as those of up to 65 taps always "
           "do, got longer ones";
  }
  return nullptr;
}

cudaError_t workspace_bytes(const Problem& problem, const Request& request, int64_t* bytes) {
  DeviceFacts device;
  const cudaError_t error = current_device(&device);
  if (error != cudaSuccess) {
    return error;
  }
  const int sums = (request.value != nullptr ? 1 : 0) + (request.mse != nullptr ? 1 : 0);
  *bytes = mask_sums_bytes(problem, request) + sums * partials_bytes(problem, request, device);
  if (!strips_serve(problem, request, device)) {
    *bytes += separable_scratch_bytes(problem, request, device);
  } else if (reads_mask_bits(problem, request)) {
    *bytes += mask_bits_bytes(problem);
  } else if (mask_is_normalized(problem)) {
    *bytes += mask_means_bytes(problem);
  }
  return cudaSuccess;
}

cudaError_t run(const Problem& given, const Request& request, void* workspace, cudaStream_t stream,
                const StripChoice* choice) {
  const bool gradient = wants_gradient(request);
  if (request.value == nullptr && request.mse == nullptr && request.map == nullptr && !gradient) {
    return cudaSuccess;
  }
  DeviceFacts device;
  cudaError_t error = current_device(&device);
  if (error != cudaSuccess) {
    return error;
  }
  if (request.group == FUSED_SSIM_GROUP_FIRST) {
    // All ahead of it is done, then, before any of its blocks begins: what comes next need not wait.
    device.overlaps_launches = false;
  }
  Problem problem = given;
  const bool strips = strips_serve(problem, request, device);
  auto* free_bytes = static_cast<char*>(workspace);
  const int64_t sums_bytes = mask_sums_bytes(problem, request);
  void* const sums = sums_bytes > 0 ? free_bytes : nullptr;
  free_bytes += sums_bytes;
  char* const bits = strips && reads_mask_bits(problem, request) ? free_bytes : nullptr;
  free_bytes += bits != nullptr ? mask_bits_bytes(problem) : 0;
  MaskMeans masks;
  if (bits != nullptr) {
    masks.bits = mask_bits(problem, bits);
  }
  const bool normalized = strips && mask_is_normalized(problem);
  if (normalized) {
    masks = mask_means(problem, free_bytes);
    error = launch_mask_means(problem, request.reduction, device, sums, free_bytes, stream);
    free_bytes += mask_means_bytes(problem);
  } else if (sums != nullptr || bits != nullptr) {
    error = launch_mask_sums(problem, request.reduction, device, sums, bits, stream);
  }
  if (error != cudaSuccess) {
    return error;
  }
  workspace = free_bytes;
  if (sums != nullptr) {
    problem.mask_sums = sums;
  }
  if (!strips) {
    return run_separable(problem, request, device, workspace, stream);
  }
  const auto choice_for = [&](StripKind kind) {
    StripChoice chosen = choice != nullptr ? *choice : choose_strips(device, kind, problem);
    if (request.mse != nullptr) {
      chosen.tile_rows = 0;  // tiles do not add up squares
    }
    return chosen;
  };
  if (gradient && request.map != nullptr) {
    Request map_only = request;
    map_only.value = nullptr;
    map_only.grad1 = {};
    map_only.grad2 = {};
    error = run_strips(problem, map_only, device, choice_for(StripKind::kMap), StripKind::kMap,
                       workspace, masks, stream);
    if (error != cudaSuccess) {
      return error;
    }
  }
  const bool two = request.grad1.data != nullptr && request.grad2.data != nullptr;
  const bool masked = gradient && is_masked(problem);
  const StripKind masked_kind = normalized ? StripKind::kNormalized : StripKind::kMasked;
  if (masked && two) {
    Request second = request;
    second.value = nullptr;
    second.grad1 = {};
    error = run_strips(problem, second, device, choice_for(masked_kind), masked_kind, workspace,
                       masks, stream);
    if (error != cudaSuccess) {
      return error;
    }
  }
  const StripKind kind = !gradient ? (request.map != nullptr ? StripKind::kMap : StripKind::kValue)
                         : masked  ? masked_kind
                         : request.map_gradient.data != nullptr ? StripKind::kWeighted
                         : two                                  ? StripKind::kTwoGradients
                                                                : StripKind::kOneGradient;
  error = run_strips(problem, request, device, choice_for(kind), kind, workspace, masks, stream);
  if (error == cudaSuccess && kind == StripKind::kMap && has_mask(problem)) {
    error = launch_mask_map(problem, static_cast<float*>(request.map), device, stream);
  }
  return error;
}

const char* architectures() { return FUSED_SSIM_CUDA_ARCHITECTURES; }

}  // namespace fused_ssim::cuda
