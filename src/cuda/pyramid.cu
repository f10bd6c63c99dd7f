// MS-SSIM from scale to scale: images of half the size, their gradients back, and the product of the
// scales' means.
//
//     image            half                 gradient of the half       gradient of the image
//     +---+---+                                                        +---------+---------+
//     | a | b |        +---------------+        +---+                  | u + g/4 | v + g/4 |
//     +---+---+  halve | (a+b+c+d) / 4 |        | g |   accumulate     +---------+---------+
//     | c | d |        +---------------+        +---+                  | w + g/4 | x + g/4 |
//     +---+---+                                                        +---------+---------+
//
// A warp has a segment of a row, so that short rows and single long ones keep the device busy alike;
// a lane has four pixels at once where rows are aligned, else one cell or one pixel. Where sizes can be
// halved twice or three times, one pass makes all of these images: a lane has four columns of 4 or 8
// rows, two lanes a cell of the third image.
//
// Memory traffic per pixel (2D, float32): halve reads 4 bytes and writes 1, of three images 1.3;
// accumulate reads 4 and 1, and writes 4. It is all that limits both.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <climits>

#include "core/scales.h"
#include "cuda/division.cuh"
#include "cuda/image_access.cuh"
#include "cuda/launches.h"
#include "cuda/requests.h"
#include "cuda/ssim_cuda.h"
#include "cuda/thread.cuh"

namespace fused_ssim::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kSegmentPixels = 512;
constexpr int kSegmentCells = kSegmentPixels / 2;

// The segments of all rows, numbered through.
struct Segments {
  int64_t per_row = 0;
  int64_t all = 0;

  Segments(int64_t rows, int64_t length, int64_t of_one)
      : per_row(ceil_divide(length, of_one)), all(rows * per_row) {}

  int blocks() const {
    return static_cast<int>(std::min<int64_t>(ceil_divide(all, kWarps), INT_MAX));
  }
  __device__ static int64_t first() {
    return int64_t{blockIdx.x} * kWarps + static_cast<int>(threadIdx.x) / 32;
  }
  __device__ static int64_t step() { return int64_t{gridDim.x} * kWarps; }
};

// Where a row lies, of the rows of all slices of all planes numbered through.
struct RowPlace {
  int64_t plane;
  int64_t depth;
  int64_t row;

  __device__ RowPlace(int64_t index, int64_t depths, int64_t rows) {
    const int64_t slice = quotient(index, rows);
    plane = quotient(slice, depths);
    depth = slice - plane * depths;
    row = index - slice * rows;
  }
};

// ---- halve --------------------------------------------------------------------------------------

struct HalveParams {
  HalveRequest request;
  InputImage images[2];
  int64_t depths[2];  // bytes from a slice to the next
  HalvedAxes axes;
  Segments segments;  // of both halves
  int64_t rows;       // of one half
  bool quads;
};

template <class T>
__global__ void __launch_bounds__(kThreads) halve_kernel(const __grid_constant__ HalveParams p) {
  allow_next_launch();
  wait_for_previous_launch();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const T weight = cell_weight<T>(p.request);
  const int64_t cells = p.axes.column.cells;
  for (int64_t at = Segments::first(); at < p.segments.all; at += Segments::step()) {
    const int64_t row_of_both = quotient(at, p.segments.per_row);
    const int64_t begin = (at - row_of_both * p.segments.per_row) * kSegmentCells;
    const int64_t end = min(begin + kSegmentCells, cells);
    const int i = row_of_both < p.rows ? 0 : 1;
    const int64_t row = row_of_both - i * p.rows;
    const RowPlace place(row, p.axes.depth.cells, p.axes.row.cells);
    const CellPixels depths = pixels_of_cell(p.axes.depth, place.depth);
    const CellPixels own = pixels_of_cell(p.axes.row, place.row);
    const InputImage& image = p.images[i];
    const char* plane = plane_of(image, place.plane, p.request.sizes[FUSED_SSIM_AXIS_CHANNEL]);
    T* to = static_cast<T*>(p.request.halves[i]) + row * cells;
    // body(first element of a row) for each row of pixels that the cells are made of.
    const auto for_rows = [&](const auto& body) {
#pragma unroll 1
      for (int64_t d = depths.begin; d < depths.end; ++d) {
#pragma unroll 2
        for (int64_t r = own.begin; r < own.end; ++r) {
          body(plane + d * p.depths[i] + r * image.row);
        }
      }
    };
    if (sizeof(T) == 4 && p.quads) {
#pragma unroll 1
      for (int64_t cell = begin + 2 * lane; cell < end; cell += 64) {
        float2 sums = {0.0f, 0.0f};
        for_rows([&](const char* from) {
          const float4 quad = load_quad<StripLoader::kAnyQuads>(from + 2 * cell * image.column,
                                                                image, 0, /*width=*/4);
          sums.x += quad.x + quad.y;
          sums.y += quad.z + quad.w;
        });
        const auto half = static_cast<float>(weight);
        *reinterpret_cast<float2*>(to + cell) = make_float2(half * sums.x, half * sums.y);
      }
    } else {
#pragma unroll 1
      for (int64_t cell = begin + lane; cell < end; cell += 32) {
        const CellPixels columns = pixels_of_cell(p.axes.column, cell);
        T sum = T(0);
        for_rows([&](const char* from) {
          T of_row = T(0);  // as quads are added up, so that layouts have the same bits
#pragma unroll 2
          for (int64_t c = columns.begin; c < columns.end; ++c) {
            of_row += load_element<T>(from + c * image.column, image);
          }
          sum += of_row;
        });
        to[cell] = weight * sum;
      }
    }
  }
}

// ---- halve, several times in one pass -----------------------------------------------------------

constexpr int kMaxHalvings = 3;
constexpr int kBandColumns = 128;  // of a warp, which has 2^halvings rows of them

struct BandParams {
  InputImage images[2];
  float* halves[kMaxHalvings][2];
  int64_t channels;
  int64_t height;
  int64_t width;
  int64_t bands;  // of one image
  Segments segments;
};

template <int kHalvings>
__global__ void __launch_bounds__(kThreads)
    halve_bands_kernel(const __grid_constant__ BandParams p) {
  constexpr int kRows = 1 << kHalvings;
  allow_next_launch();
  wait_for_previous_launch();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int64_t at = Segments::first(); at < p.segments.all; at += Segments::step()) {
    const int64_t band_of_both = quotient(at, p.segments.per_row);
    const int64_t x = (at - band_of_both * p.segments.per_row) * kBandColumns + 4 * lane;
    const int i = band_of_both < p.bands ? 0 : 1;
    const int64_t band = band_of_both - i * p.bands;
    const int64_t plane = quotient(band, p.height / kRows);
    const int64_t y = (band - plane * (p.height / kRows)) * kRows;
    const bool is_inside = x < p.width;
    const InputImage& image = p.images[i];
    const char* from = plane_of(image, plane, p.channels) + y * image.row + x * image.column;
    constexpr auto kLoader = StripLoader::kAnyQuads;
    float4 raw[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      raw[r] = load_raw<kLoader>(from + r * image.row, image, 0, is_inside ? 4 : 0);
    }
    float2 cells[kRows / 2];
#pragma unroll
    for (int r = 0; r < kRows; r += 2) {
      const float4 above = raw_to_float<kLoader>(raw[r], from, image, 0);
      const float4 below = raw_to_float<kLoader>(raw[r + 1], from, image, 0);
      cells[r / 2] = {0.25f * ((above.x + above.y) + (below.x + below.y)),
                      0.25f * ((above.z + above.w) + (below.z + below.w))};
    }
    // The cell of a scale at row `r` of the band and this lane's column.
    const auto cell_at = [&](int scale, int r) {
      const int64_t row = plane * (p.height >> scale) + (y >> scale) + r;
      return p.halves[scale - 1][i] + row * (p.width >> scale) + (x >> scale);
    };
    float quarters[kRows / 4];
#pragma unroll
    for (int r = 0; r < kRows / 4; ++r) {
      const float2 above = cells[2 * r];
      const float2 below = cells[2 * r + 1];
      quarters[r] = 0.25f * ((above.x + above.y) + (below.x + below.y));
    }
    float eighth = 0.0f;
    if constexpr (kHalvings == 3) {
      float rows[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        rows[r] = quarters[r] + __shfl_xor_sync(~0u, quarters[r], 1);
      }
      eighth = 0.25f * (rows[0] + rows[1]);
    }
    if (is_inside) {
#pragma unroll
      for (int r = 0; r < kRows / 2; ++r) {
        *reinterpret_cast<float2*>(cell_at(1, r)) = cells[r];
      }
#pragma unroll
      for (int r = 0; r < kRows / 4; ++r) {
        *cell_at(2, r) = quarters[r];
      }
      if (kHalvings == 3 && lane % 2 == 0) {
        *cell_at(3, 0) = eighth;
      }
    }
  }
}

// ---- accumulate ---------------------------------------------------------------------------------

struct AccumulateParams {
  AccumulateRequest request;
  HalvedAxes axes;
  Segments segments;
  bool quads;
};

// Plain loads of `unit`: it may be `out`.
template <class E, class T>
__global__ void __launch_bounds__(kThreads)
    accumulate_kernel(const __grid_constant__ AccumulateParams p) {
  struct alignas(4 * sizeof(E)) Quad {
    E element[4];
  };
  allow_next_launch();
  wait_for_previous_launch();
  const AccumulateRequest& request = p.request;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const T weight = cell_weight<T>(request);
  const HalvedAxis& column = p.axes.column;
  const int64_t from_column = request.unit.strides[FUSED_SSIM_AXIS_COLUMN];
  const int64_t to_column = request.out.strides[FUSED_SSIM_AXIS_COLUMN];
  for (int64_t at = Segments::first(); at < p.segments.all; at += Segments::step()) {
    const int64_t index = quotient(at, p.segments.per_row);
    const int64_t begin = (at - index * p.segments.per_row) * kSegmentPixels;
    const int64_t end = min(begin + kSegmentPixels, column.size);
    const RowPlace place(index, p.axes.depth.size, p.axes.row.size);
    const auto upstream = static_cast<double>(static_cast<const T*>(request.upstream)[place.plane]);
    const auto scale =
        static_cast<T>(upstream * (request.factor * request.derivatives[place.plane]));
    const int64_t cell_row = cell_of_pixel(p.axes.row, place.row);
    const int64_t cell_depth = cell_of_pixel(p.axes.depth, place.depth);
    const bool has_cells = request.coarser != nullptr && cell_row < p.axes.row.cells &&
                           cell_depth < p.axes.depth.cells;
    const T* coarser =
        static_cast<const T*>(request.coarser) +
        ((place.plane * p.axes.depth.cells + cell_depth) * p.axes.row.cells + cell_row) *
            column.cells;
    const int64_t channels = request.sizes[FUSED_SSIM_AXIS_CHANNEL];
    const int64_t batch = quotient(place.plane, channels);
    const auto row_of = [&](const Image& image) {
      return batch * image.strides[FUSED_SSIM_AXIS_BATCH] +
             (place.plane - batch * channels) * image.strides[FUSED_SSIM_AXIS_CHANNEL] +
             place.depth * image.strides[FUSED_SSIM_AXIS_DEPTH] +
             place.row * image.strides[FUSED_SSIM_AXIS_ROW];
    };
    const E* from = static_cast<const E*>(request.unit.data) + row_of(request.unit);
    E* to = static_cast<E*>(request.out.data) + row_of(request.out);
    const auto sum_at = [&](E unit, int64_t x) {
      const int64_t cell = cell_of_pixel(column, x);
      const T spread = has_cells && cell < column.cells ? weight * coarser[cell] : T(0);
      return static_cast<E>(fma(static_cast<T>(unit), scale, spread));
    };
    if (p.quads) {
#pragma unroll 2
      for (int64_t x = begin + 4 * lane; x < end; x += 128) {
        Quad quad = *reinterpret_cast<const Quad*>(from + x);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          quad.element[k] = sum_at(quad.element[k], x + k);
        }
        *reinterpret_cast<Quad*>(to + x) = quad;
      }
    } else {
#pragma unroll 1
      for (int64_t x = begin + lane; x < end; x += 32) {
        to[x * to_column] = sum_at(from[x * from_column], x);
      }
    }
  }
}

// ---- factors ------------------------------------------------------------------------------------

struct FactorsParams {
  FactorsRequest request;
  double exponents[kMaxScales];
  double divisors[kMaxScales];
};

__global__ void __launch_bounds__(kThreads)
    factors_kernel(const __grid_constant__ FactorsParams p) {
  allow_next_launch();
  wait_for_previous_launch();
  FactorsRequest request = p.request;
  request.exponents = p.exponents;
  if (request.divisors != nullptr) {
    request.divisors = p.divisors;
  }
  // A warp has a plane, each of its lanes the factor of a scale.
  __shared__ ScaleFactor factors[kWarps][kMaxScales];
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  static_assert(kMaxScales == 32, "a lane a scale");
  for (int64_t plane = int64_t{blockIdx.x} * kWarps + warp; plane < request.planes;
       plane += int64_t{gridDim.x} * kWarps) {
    if (lane < request.scales) {
      factors[warp][lane] = factor_of(request, lane, plane);
    }
    __syncwarp();
    if (lane == 0) {
      multiply_factors(request, plane, [&](int64_t scale) { return factors[warp][scale]; });
    }
    __syncwarp();
  }
}

bool rows_are_of_quads(const Image& image, const int64_t* sizes) {
  const auto bytes = bytes_of<const char>(image);
  const int64_t element = size_of(image.dtype);
  return aligned_for_quads(bytes, sizes, element) &&
         (sizes[FUSED_SSIM_AXIS_DEPTH] == 1 || image.strides[FUSED_SSIM_AXIS_DEPTH] % 4 == 0);
}

template <class Params>
cudaError_t launch(void (*kernel)(const Params), const Params& params, int blocks,
                   cudaStream_t stream) {
  DeviceFacts device;
  const cudaError_t error = current_device(&device);
  return error != cudaSuccess ? error
                              : launch_kernel(kernel, params, blocks, kThreads, 0, device, stream);
}

bool has_image(const HalveRequest& request, int i) { return request.images[i].data != nullptr; }

// Whether images can be loaded, and their halves stored, by quads.
bool is_of_quads(const HalveRequest& request) {
  bool quads =
      request.dtype == FUSED_SSIM_FLOAT32 && request.sizes[FUSED_SSIM_AXIS_COLUMN] % 4 == 0;
  for (int i = 0; i < 2 && has_image(request, i); ++i) {
    quads = quads && rows_are_of_quads(request.images[i], request.sizes) &&
            reinterpret_cast<uintptr_t>(request.halves[i]) % sizeof(float2) == 0;
  }
  return quads;
}

// Whether `next` halves what `request` makes.
bool goes_on(const HalveRequest& request, const HalveRequest& next) {
  const HalvedAxes axes = halved_axes(request);
  Image half = {};
  half.dtype = request.dtype;
  int64_t stride = 1;
  const int64_t sizes[] = {request.sizes[FUSED_SSIM_AXIS_BATCH],
                           request.sizes[FUSED_SSIM_AXIS_CHANNEL], axes.depth.cells, axes.row.cells,
                           axes.column.cells};
  bool same = next.spatial_dims == request.spatial_dims && next.dtype == request.dtype;
  for (int axis = FUSED_SSIM_AXES; axis-- > 0;) {
    half.strides[axis] = stride;
    stride *= sizes[axis];
    same = same && next.sizes[axis] == sizes[axis];
  }
  for (int i = 0; i < 2; ++i) {
    const Image& image = next.images[i];
    same = same && image.data == request.halves[i];
    if (image.data != nullptr) {
      same = same && image.dtype == half.dtype &&
             std::equal(half.strides, half.strides + FUSED_SSIM_AXES, image.strides);
    }
  }
  return same;
}

// How many of the requests the kernel for bands serves together, from the first on; 0 or at least 2.
int halvings_together(const HalveRequest* requests, int count) {
  const HalveRequest& finest = requests[0];
  if (finest.spatial_dims != 2 || finest.sizes[FUSED_SSIM_AXIS_DEPTH] != 1 ||
      !is_of_quads(finest)) {
    return 0;
  }
  int n = 1;
  while (n < std::min(count, kMaxHalvings) && goes_on(requests[n - 1], requests[n]) &&
         finest.sizes[FUSED_SSIM_AXIS_ROW] % (2 << n) == 0 &&
         finest.sizes[FUSED_SSIM_AXIS_COLUMN] % (2 << n) == 0) {
    ++n;
  }
  return n == 1 ? 0 : n;
}

cudaError_t halve_bands(const HalveRequest* requests, int halvings, cudaStream_t stream) {
  const HalveRequest& finest = requests[0];
  const int64_t height = finest.sizes[FUSED_SSIM_AXIS_ROW];
  const int64_t width = finest.sizes[FUSED_SSIM_AXIS_COLUMN];
  const int64_t bands = plane_count(finest.sizes) * (height >> halvings);
  const Segments segments((has_image(finest, 1) ? 2 : 1) * bands, width, kBandColumns);
  const int64_t channels = finest.sizes[FUSED_SSIM_AXIS_CHANNEL];
  BandParams p = {{}, {}, channels, height, width, bands, segments};
  for (int i = 0; i < 2; ++i) {
    p.images[i] = bytes_of<const char>(finest.images[i], finest.uint8_divisor);
    for (int scale = 0; scale < halvings; ++scale) {
      p.halves[scale][i] = static_cast<float*>(requests[scale].halves[i]);
    }
  }
  return launch(halvings == 2 ? halve_bands_kernel<2> : halve_bands_kernel<3>, p,
                p.segments.blocks(), stream);
}

cudaError_t halve_once(const HalveRequest& request, cudaStream_t stream) {
  const HalvedAxes axes = halved_axes(request);
  const int64_t rows = plane_count(request.sizes) * axes.depth.cells * axes.row.cells;
  const int images = has_image(request, 1) ? 2 : 1;
  const Segments segments(images * rows, axes.column.cells, kSegmentCells);
  HalveParams p = {request, {}, {}, axes, segments, rows, is_of_quads(request)};
  for (int i = 0; i < images; ++i) {
    p.images[i] = bytes_of<const char>(request.images[i], request.uint8_divisor);
    p.depths[i] =
        request.images[i].strides[FUSED_SSIM_AXIS_DEPTH] * size_of(request.images[i].dtype);
  }
  const auto kernel =
      request.dtype == FUSED_SSIM_FLOAT64 ? halve_kernel<double> : halve_kernel<float>;
  return launch(kernel, p, p.segments.blocks(), stream);
}

}  // namespace

cudaError_t halve(const HalveRequest* requests, int count, cudaStream_t stream) {
  cudaError_t error = cudaSuccess;
  for (int i = 0; error == cudaSuccess && i < count;) {
    const int together = halvings_together(requests + i, count - i);
    error = together > 0 ? halve_bands(requests + i, together, stream)
                         : halve_once(requests[i], stream);
    i += std::max(together, 1);
  }
  return error;
}

cudaError_t accumulate(const AccumulateRequest& request, cudaStream_t stream) {
  const HalvedAxes axes = halved_axes(request);
  const int64_t rows = plane_count(request.sizes) * axes.depth.size * axes.row.size;
  const bool quads = axes.column.size % 4 == 0 && rows_are_of_quads(request.unit, request.sizes) &&
                     rows_are_of_quads(request.out, request.sizes);
  const AccumulateParams p = {request, axes, {rows, axes.column.size, kSegmentPixels}, quads};
  const int blocks = p.segments.blocks();
  switch (request.unit.dtype) {
    case FUSED_SSIM_FLOAT16:
      return launch(accumulate_kernel<__half, float>, p, blocks, stream);
    case FUSED_SSIM_BFLOAT16:
      return launch(accumulate_kernel<__nv_bfloat16, float>, p, blocks, stream);
    case FUSED_SSIM_FLOAT32:
      return launch(accumulate_kernel<float, float>, p, blocks, stream);
    default:
      return launch(accumulate_kernel<double, double>, p, blocks, stream);
  }
}

cudaError_t factors(const FactorsRequest& request, cudaStream_t stream) {
  FactorsParams p;
  p.request = request;
  std::copy_n(request.exponents, request.scales, p.exponents);
  if (request.divisors != nullptr) {
    std::copy_n(request.divisors, request.scales, p.divisors);
  }
  const auto blocks =
      static_cast<int>(std::min<int64_t>(ceil_divide(request.planes, kWarps), INT_MAX));
  return launch(factors_kernel, p, blocks, stream);
}

}  // namespace fused_ssim::cuda
