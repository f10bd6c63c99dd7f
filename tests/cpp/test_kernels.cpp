// The kernels of every level that this machine runs against the slow twin: values, maps, gradients
// to both images, L1, L2 and mean squared error, for pairs of dtypes, windows, statistics, paddings
// and strides; NaN where no window sees it; and the same bits for any number of threads.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "core/taps.h"
#include "cpu/convert.h"
#include "cpu/dispatch.h"
#include "cpu/level_functions.h"
#include "cpu/levels.h"
#include "cpu/reference.h"

using namespace fused_ssim;
using namespace fused_ssim::cpu;

namespace {

struct NamedLevel {
  Level level;
  const LevelFunctions* functions;
};

std::vector<NamedLevel> levels() {
  std::vector<NamedLevel> result = {{Level::kBaseline, &kBaselineFunctions}};
#ifdef FUSED_SSIM_CPU_AVX2
  if (level_supported(Level::kAvx2)) {
    result.push_back({Level::kAvx2, &kAvx2Functions});
  }
#endif
#ifdef FUSED_SSIM_CPU_AVX512
  if (level_supported(Level::kAvx512)) {
    result.push_back({Level::kAvx512, &kAvx512Functions});
  }
#endif
  return result;
}

void run(const LevelFunctions& functions, const Problem& problem, const Request& request,
         int threads) {
  const Plan plan(problem, threads);
  const ChunkSums poison = {1e300, 1e300, 1e300};
  std::vector<ChunkSums> slots(static_cast<std::size_t>(plan.slots()), poison);
  const int64_t bytes = functions.workspace_bytes(problem, request, plan.strip_size());
  // 0xff bytes are NaN in every type: what the kernel reads before it writes shows.
  std::vector<unsigned char> memory(static_cast<std::size_t>(bytes + kWorkspaceAlignment), 0xff);
  const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
  unsigned char* workspace =
      memory.data() + (kWorkspaceAlignment - address % kWorkspaceAlignment) % kWorkspaceAlignment;
  for (int64_t i = 0; i < plan.tasks(); ++i) {
    const Task task = plan.task(i, slots.data());
    functions.run(problem, request, &task, 1, plan.strip_size(), workspace);
  }
  reduce(problem, request, plan, slots.data());
}

template <class Visit>
void with_element(int32_t dtype, Visit visit) {
  switch (dtype) {
    case FUSED_SSIM_UINT8:
      return visit(uint8_t());
    case FUSED_SSIM_FLOAT16:
      return visit(Float16());
    case FUSED_SSIM_BFLOAT16:
      return visit(BFloat16());
    case FUSED_SSIM_FLOAT32:
      return visit(float());
    default:
      return visit(double());
  }
}

// A number as the dtype stores it; integers are 255 times it.
void store(double value, uint8_t* to) { *to = static_cast<uint8_t>(std::lround(255 * value)); }
void store(double value, double* to) { *to = value; }
template <class Element>
void store(double value, Element* to) {
  narrow(static_cast<float>(value), to);
}

struct Shape {
  int64_t batch;
  int64_t channels;
  int64_t height;
  int64_t width;
};

// An image of any dtype and order of the axes, with gaps between columns.
class Storage {
 public:
  Storage(const Shape& shape, int32_t dtype, bool channels_last, int64_t gap) {
    const int64_t sizes[FUSED_SSIM_AXES] = {shape.batch, shape.channels, 1, shape.height,
                                            shape.width};
    const int order[2][FUSED_SSIM_AXES] = {{4, 3, 2, 1, 0}, {1, 4, 3, 2, 0}};  // innermost first
    int64_t stride = gap;
    for (const int axis : order[channels_last ? 1 : 0]) {
      image_.strides[axis] = stride;
      stride *= sizes[axis];
    }
    image_.dtype = dtype;
    bytes_.assign(static_cast<std::size_t>(stride * size_of(dtype)), 0xff);
  }
  void set(int64_t b, int64_t c, int64_t h, int64_t w, double value) {
    with_element(image_.dtype, [&](auto element) {
      store(value, &element);
      std::memcpy(address(b, c, h, w), &element, sizeof(element));
    });
  }
  double get(int64_t b, int64_t c, int64_t h, int64_t w) {
    double value = 0;
    with_element(image_.dtype, [&](auto element) {
      std::memcpy(&element, address(b, c, h, w), sizeof(element));
      widen(element, &value);
    });
    return value;
  }
  void poison() { bytes_.assign(bytes_.size(), 0xff); }
  Image image() {
    image_.data = bytes_.data();
    return image_;
  }

 private:
  unsigned char* address(int64_t b, int64_t c, int64_t h, int64_t w) {
    const int64_t* strides = image_.strides;
    return bytes_.data() + size_of(image_.dtype) *
                               (b * strides[0] + c * strides[1] + h * strides[3] + w * strides[4]);
  }
  Image image_ = {};
  std::vector<unsigned char> bytes_;
};

// What storing a number of about 1 loses.
double storage_error(int32_t dtype) {
  return dtype == FUSED_SSIM_FLOAT16    ? 4.9e-4
         : dtype == FUSED_SSIM_BFLOAT16 ? 3.91e-3
         : dtype == FUSED_SSIM_FLOAT32  ? 6e-8
                                        : 0.0;
}

std::vector<double> gaussian(int size, double sigma) {
  std::vector<double> taps(static_cast<std::size_t>(size));
  gaussian_taps(size, sigma, taps.data());
  return taps;
}
std::vector<double> uniform_taps(int size) {
  return std::vector<double>(static_cast<std::size_t>(size), 1.0 / size);
}

struct Case {
  Shape shape;
  std::vector<double> taps_y = gaussian(11, 1.5);
  std::vector<double> taps_x = gaussian(11, 1.5);
  int32_t dtype1 = FUSED_SSIM_FLOAT32;
  int32_t dtype2 = FUSED_SSIM_FLOAT32;
  int32_t statistic = FUSED_SSIM_STATISTIC_SSIM;
  bool valid = false;
  bool channels_last = false;   // img1 and the gradients
  bool channels_last2 = false;  // img2
  int64_t gap = 1;
  bool weighted = false;
  bool own_stabilizers = false;
  int32_t uint8_divisor = 255;
  double statistic_weight = 1.0;
  double l1_weight = 0.0;
  double l2_weight = 0.0;
};

std::string text(const Case& c) {
  return std::to_string(c.shape.batch) + "x" + std::to_string(c.shape.channels) + "x" +
         std::to_string(c.shape.height) + "x" + std::to_string(c.shape.width) + " taps " +
         std::to_string(c.taps_y.size()) + "x" + std::to_string(c.taps_x.size()) +
         (c.valid ? " valid" : " same") + (c.channels_last ? " channels_last" : "") +
         (c.weighted ? " weighted" : "") + " gap " + std::to_string(c.gap) + " l1 " +
         std::to_string(c.l1_weight) + " l2 " + std::to_string(c.l2_weight) + " statistic " +
         std::to_string(c.statistic) + " dtypes " + std::to_string(c.dtype1) + " " +
         std::to_string(c.dtype2);
}

Window window_of(const std::vector<double>& taps) {
  return {taps.data(), static_cast<int32_t>(taps.size())};
}

Problem problem_of(const Case& c) {
  static constexpr double kOneTap[] = {1.0};
  Problem problem = fused_ssim_problem(c.shape.batch, c.shape.channels, c.shape.height,
                                       c.shape.width, Image(), Image());
  problem.windows[kDepth].taps = kOneTap;
  problem.windows[kHeight] = window_of(c.taps_y);
  problem.windows[kWidth] = window_of(c.taps_x);
  problem.padding = c.valid ? FUSED_SSIM_VALID : FUSED_SSIM_SAME;
  problem.statistic = c.statistic;
  problem.uint8_divisor = c.uint8_divisor;
  return problem;
}

template <class T>
void compare_as(const NamedLevel& level, const Case& c, unsigned seed) {
  const std::string name = std::string(level_name(level.level)) + " " + text(c);
  const Shape& shape = c.shape;
  const int64_t planes = shape.batch * shape.channels;
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> uniform(0.0, 1.0);
  Storage x(shape, c.dtype1, c.channels_last, c.gap);
  Storage y(shape, c.dtype2, c.channels_last2, c.gap);
  Storage grad1(shape, c.dtype1, c.channels_last, c.gap);
  Storage grad2(shape, c.dtype2, c.channels_last, c.gap);
  Problem problem = problem_of(c);
  const double range = c.uint8_divisor == 1 ? 255.0 : 1.0;
  std::vector<T> stabilizers;
  for (int64_t b = 0; b < shape.batch; ++b) {
    stabilizers.push_back(static_cast<T>(range * range * (1e-4 + 1e-5 * static_cast<double>(b))));
    stabilizers.push_back(static_cast<T>(range * range * (9e-4 - 1e-4 * static_cast<double>(b))));
  }
  problem.c1 = range * range * 1e-4;
  problem.c2 = range * range * 9e-4;
  if (c.own_stabilizers) {
    problem.stabilizers = stabilizers.data();
  }
  const int64_t crop_y = crop(problem, kHeight);
  const int64_t crop_x = crop(problem, kWidth);
  const auto unit_of = [&](int32_t dtype) {
    return dtype == FUSED_SSIM_UINT8 ? 1.0 / c.uint8_divisor : 1.0;
  };
  const auto scale_of = [&](int32_t dtype) { return dtype == FUSED_SSIM_UINT8 ? 1.0 : range; };
  std::vector<ReferencePlane> images(static_cast<std::size_t>(planes));
  for (int64_t p = 0; p < planes; ++p) {
    ReferencePlane& plane = images[static_cast<std::size_t>(p)];
    const int64_t b = p / shape.channels;
    const int64_t ch = p % shape.channels;
    plane.height = shape.height;
    plane.width = shape.width;
    for (int64_t h = 0; h < shape.height; ++h) {
      for (int64_t w = 0; w < shape.width; ++w) {
        const double value = uniform(random);
        // One pixel in eight is equal in both: sign(0).
        const double other = random() % 8 == 0 ? value : 0.7 * value + 0.3 * uniform(random);
        x.set(b, ch, h, w, value * scale_of(c.dtype1));
        y.set(b, ch, h, w, other * scale_of(c.dtype2));
        plane.x.push_back(x.get(b, ch, h, w) * unit_of(c.dtype1));
        plane.y.push_back(y.get(b, ch, h, w) * unit_of(c.dtype2));
      }
    }
  }
  problem.img1 = x.image();
  problem.img2 = y.image();

  const int64_t map_height = map_size(problem, kHeight);
  const int64_t map_width = map_size(problem, kWidth);
  const int64_t map_pixels = map_plane_pixels(problem);
  std::vector<T> weights(static_cast<std::size_t>(planes * map_pixels), T(1));
  if (c.weighted) {
    for (T& weight : weights) {
      weight = static_cast<T>(2 * uniform(random) - 1);
    }
  }

  const T nan = std::numeric_limits<T>::quiet_NaN();
  const double tolerance = sizeof(T) == 8 ? 1e-11 : 1e-5;
  std::vector<T> map(static_cast<std::size_t>(planes * map_pixels), nan);
  std::vector<T> values(static_cast<std::size_t>(planes), nan);
  std::vector<T> mse(static_cast<std::size_t>(planes), nan);
  Request map_request = fused_ssim_request();
  map_request.map = map.data();
  run(*level.functions, problem, map_request, 2);

  const bool no_grad1 = c.dtype1 == FUSED_SSIM_UINT8;
  const bool no_grad2 = c.dtype2 == FUSED_SSIM_UINT8;
  for (int which = 0; which <= 3; ++which) {
    if ((no_grad1 && (which & 1) != 0) || (no_grad2 && (which & 2) != 0)) {
      continue;
    }
    Request request = fused_ssim_request();
    request.statistic_weight = c.statistic_weight;
    request.l1_weight = c.l1_weight;
    request.l2_weight = c.l2_weight;
    request.offset = 0.25;
    request.reduction = FUSED_SSIM_CHANNEL;
    request.gradient_of_sum = which == 3 ? 1 : 0;
    request.value = values.data();
    request.mse = which == 1 ? nullptr : mse.data();
    if (c.weighted) {
      request.value = nullptr;
      request.map_gradient =
          fused_ssim_planar(weights.data(), shape.channels, map_height, map_width);
      request.map_gradient.dtype = accumulation_dtype(problem);
    }
    grad1.poison();
    grad2.poison();
    if (which & 1) {
      request.grad1 = grad1.image();
    }
    if (which & 2) {
      request.grad2 = grad2.image();
    }
    run(*level.functions, problem, request, 2);
    const double divisor = gradient_divisor(problem, request);

    for (int64_t p = 0; p < planes; ++p) {
      const ReferencePlane& plane = images[static_cast<std::size_t>(p)];
      const int64_t b = p / shape.channels;
      ReferenceDefinition definition;
      definition.taps_y = c.taps_y;
      definition.taps_x = c.taps_x;
      definition.valid = c.valid;
      definition.statistic = c.statistic;
      definition.c1 = problem.c1;
      definition.c2 = problem.c2;
      if (c.own_stabilizers) {
        definition.c1 = stabilizers[static_cast<std::size_t>(2 * b)];
        definition.c2 = stabilizers[static_cast<std::size_t>(2 * b + 1)];
      }
      const std::vector<double> expected_map = reference_map(plane, definition);
      std::vector<double> plane_weights(plane.x.size(), 0.0);
      double statistic = 0;
      double absolute = 0;
      double squares = 0;
      for (int64_t h = 0; h < map_height; ++h) {
        for (int64_t w = 0; w < map_width; ++w) {
          const auto pixel = static_cast<std::size_t>((h + crop_y) * shape.width + w + crop_x);
          const auto mapped = static_cast<std::size_t>(p * map_pixels + h * map_width + w);
          const double difference = plane.x[pixel] - plane.y[pixel];
          plane_weights[pixel] = weights[mapped];
          statistic += expected_map[pixel];
          absolute += std::fabs(difference);
          squares += difference * difference;
          EXPECT(std::fabs(map[mapped] - expected_map[pixel]) <= tolerance, name + " map");
        }
      }
      const double pixels = static_cast<double>(map_pixels);
      // A mean of a few pixels is no better than the map; the weights multiply their parts.
      const double scale = 1 + range * c.l1_weight + range * range * c.l2_weight;
      const double bound = sizeof(T) == 8 ? 1e-12 * scale : (1e-6 + 5e-6 / pixels) * scale;
      if (!c.weighted) {
        const double expected = 0.25 + (c.statistic_weight * statistic + c.l1_weight * absolute +
                                        c.l2_weight * squares) /
                                           pixels;
        EXPECT(std::fabs(values[static_cast<std::size_t>(p)] - expected) <= bound, name + " value");
      }
      if (which != 1) {
        EXPECT(
            std::fabs(mse[static_cast<std::size_t>(p)] - squares / pixels) <= bound * range * range,
            name + " mse");
      }
      const ReferenceGradients gradients = reference_gradients(plane, definition, plane_weights);
      for (int image = 1; image <= 2; ++image) {
        if ((which & image) == 0) {
          continue;
        }
        Storage& got = image == 1 ? grad1 : grad2;
        const std::vector<double>& unit = image == 1 ? gradients.x : gradients.y;
        double error = 0;
        double norm = 0;
        for (int64_t h = 0; h < shape.height; ++h) {
          for (int64_t w = 0; w < shape.width; ++w) {
            const auto pixel = static_cast<std::size_t>(h * shape.width + w);
            const double difference = plane.x[pixel] - plane.y[pixel];
            const double sign = difference > 0 ? 1 : difference < 0 ? -1 : 0;
            // 0 where there is no value.
            const bool has_value =
                h >= crop_y && h < shape.height - crop_y && w >= crop_x && w < shape.width - crop_x;
            const double weight = has_value ? plane_weights[pixel] : 0.0;
            const double own = c.l1_weight * sign + 2 * c.l2_weight * difference;
            const double expected =
                (c.statistic_weight * unit[pixel] + (image == 1 ? own : -own) * weight) / divisor;
            const double value = got.get(b, p % shape.channels, h, w);
            error += (value - expected) * (value - expected);
            norm += expected * expected;
          }
        }
        // Of float16, numbers below 6e-5 have fewer digits.
        const double relative =
            tolerance * (sizeof(T) == 8 ? 1 : 4) + storage_error(image == 1 ? c.dtype1 : c.dtype2);
        EXPECT(std::sqrt(error) <= relative * std::sqrt(norm) + 1e-7,
               name + " gradient of image " + std::to_string(image) + " of " +
                   std::to_string(which) + ", error " +
                   std::to_string(std::sqrt(error / (norm + 1e-300))));
      }
    }
  }
}

void compare(const NamedLevel& level, const Case& c, unsigned seed) {
  if (c.dtype1 == FUSED_SSIM_FLOAT64 || c.dtype2 == FUSED_SSIM_FLOAT64) {
    compare_as<double>(level, c, seed);
  } else {
    compare_as<float>(level, c, seed);
  }
}

void compare_sizes(const NamedLevel& level, unsigned* seed) {
  const int64_t sizes[][2] = {{1, 1},   {1, 2},   {2, 1},    {3, 5},    {10, 11},  {11, 10},
                              {12, 12}, {13, 7},  {8, 64},   {17, 33},  {37, 53},  {7, 127},
                              {9, 129}, {26, 16}, {15, 165}, {16, 176}, {3, 1930}, {103, 9}};
  struct Windows {
    std::vector<double> y;
    std::vector<double> x;
  };
  const Windows windows[] = {
      {gaussian(11, 1.5), gaussian(11, 1.5)},
      {gaussian(7, 1.1), gaussian(7, 1.1)},
      {gaussian(3, 0.5), gaussian(9, 2.0)},
      {{1.0}, gaussian(11, 1.5)},
      {uniform_taps(7), uniform_taps(7)},
      {gaussian(13, 2.0), {1.0}},
      {{1.0}, {1.0}},
      {gaussian(33, 5.0), gaussian(33, 5.0)},
      {gaussian(5, 1.0), {0.1, 0.2, 0.3, 0.25, 0.15}},
      {{0.5, 0.3, 0.2}, gaussian(101, 12.0)},
  };
  for (const auto& size : sizes) {
    for (const bool valid : {false, true}) {
      for (const Windows& window : windows) {
        Case c;
        c.shape = {1, 1, size[0], size[1]};
        c.taps_y = window.y;
        c.taps_x = window.x;
        c.valid = valid;
        const auto rows = static_cast<int64_t>(window.y.size());
        const auto columns = static_cast<int64_t>(window.x.size());
        if (valid && (size[0] < rows || size[1] < columns)) {
          continue;
        }
        if (rows * columns * size[0] * size[1] > 1000000) {
          continue;  // the twin would take minutes
        }
        c.weighted = *seed % 3 == 0;
        c.gap = 1 + *seed % 2;
        c.statistic = static_cast<int32_t>(*seed % 4) % 3;
        if (*seed % 3 == 1) {
          c.statistic_weight = -0.2;
          c.l1_weight = 0.8;
        }
        if (*seed % 5 == 1) {
          c.l2_weight = 0.4;
        }
        compare(level, c, (*seed)++);
        if (size[1] < 200) {
          c.dtype1 = c.dtype2 = FUSED_SSIM_FLOAT64;
          compare(level, c, (*seed)++);
        }
      }
    }
  }
}

void compare_dtypes(const NamedLevel& level, unsigned* seed) {
  for (int32_t dtype1 = FUSED_SSIM_UINT8; dtype1 <= FUSED_SSIM_FLOAT64; ++dtype1) {
    for (int32_t dtype2 = FUSED_SSIM_UINT8; dtype2 <= FUSED_SSIM_FLOAT64; ++dtype2) {
      for (const double l1_weight : {0.0, 0.8}) {
        Case c;
        c.shape = {2, 3, 21, 43};
        c.dtype1 = dtype1;
        c.dtype2 = dtype2;
        c.channels_last = *seed % 2 == 0;
        c.channels_last2 = *seed % 4 == 1;
        c.own_stabilizers = *seed % 3 == 0;
        c.weighted = *seed % 5 == 0;
        c.valid = l1_weight != 0.0;
        c.l1_weight = l1_weight;
        c.l2_weight = l1_weight / 2;
        if (*seed % 2 == 0) {
          c.taps_y = c.taps_x = uniform_taps(7);
        }
        if ((dtype1 == FUSED_SSIM_UINT8) != (dtype2 == FUSED_SSIM_UINT8) && *seed % 4 == 0 &&
            dtype1 != FUSED_SSIM_FLOAT16 && dtype2 != FUSED_SSIM_FLOAT16) {
          c.uint8_divisor = 1;
        }
        compare(level, c, (*seed)++);
      }
    }
  }
}

// What two uint8 images under a uniform window of 7 x 7 are computed by.
void compare_whole_numbers(const NamedLevel& level, unsigned* seed) {
  const Shape shapes[] = {{1, 1, 7, 7},     {2, 3, 1, 1},    {1, 3, 9, 700}, {2, 3, 40, 33},
                          {1, 2, 103, 100}, {1, 1, 8, 1930}, {1, 3, 30, 65}};
  for (const Shape& shape : shapes) {
    for (int layout = 0; layout < 4; ++layout) {
      for (const bool valid : {false, true}) {
        Case c;
        c.shape = shape;
        c.taps_y = c.taps_x = uniform_taps(7);
        c.dtype1 = c.dtype2 = FUSED_SSIM_UINT8;
        c.channels_last = layout != 0;
        c.channels_last2 = layout > 1;
        c.gap = layout == 3 ? 2 : 1;
        c.valid = valid;
        c.statistic = static_cast<int32_t>(*seed % 5) % 3;
        c.own_stabilizers = *seed % 4 == 0;
        c.l1_weight = *seed % 3 == 0 ? 0.5 : 0.0;
        if (!valid || (shape.height >= 7 && shape.width >= 7)) {
          compare(level, c, (*seed)++);
        }
      }
    }
  }
}

// A uint8 pixel is the very number that the same pixel is as a float.
void same_as_floats(const NamedLevel& level) {
  const Shape shape = {1, 1, 16, 16};
  Storage bytes(shape, FUSED_SSIM_UINT8, false, 1);
  Storage floats(shape, FUSED_SSIM_FLOAT32, false, 1);
  for (int64_t i = 0; i < 256; ++i) {
    bytes.set(0, 0, i / 16, i % 16, static_cast<double>(i) / 255);
    floats.set(0, 0, i / 16, i % 16, static_cast<float>(i) / 255.0f);
  }
  Case c;
  c.shape = shape;
  Problem problem = problem_of(c);
  problem.img1 = floats.image();
  problem.img2 = bytes.image();
  Storage gradient(shape, FUSED_SSIM_FLOAT32, false, 1);
  float value = 0;
  float mse = 1;
  Request request = fused_ssim_request();
  request.value = &value;
  request.mse = &mse;
  request.grad1 = gradient.image();
  run(*level.functions, problem, request, 1);
  EXPECT(value == 1.0f && mse == 0.0f, "equal pixels as uint8 and as float32");
}

// NaN and infinity spoil the values and gradients of the windows that see them, and no others:
// those are what they are with an ordinary pixel in the place.
void only_windows_that_see(const NamedLevel& level, const std::vector<double>& taps,
                           double strange) {
  Case c;
  c.shape = {1, 1, 45, 150};
  c.taps_y = c.taps_x = taps;
  const std::string name =
      std::string(level_name(level.level)) + " " + text(c) + " with " + std::to_string(strange);
  const int64_t row = 22;
  const int64_t column = 77;
  const auto reach = static_cast<int64_t>(taps.size() / 2);
  Storage x(c.shape, FUSED_SSIM_FLOAT32, false, 1);
  Storage y(c.shape, FUSED_SSIM_FLOAT32, false, 1);
  std::mt19937 random(9);
  std::uniform_real_distribution<double> uniform(0.0, 1.0);
  for (int64_t h = 0; h < c.shape.height; ++h) {
    for (int64_t w = 0; w < c.shape.width; ++w) {
      x.set(0, 0, h, w, uniform(random));
      y.set(0, 0, h, w, uniform(random));
    }
  }
  Problem problem = problem_of(c);
  problem.img1 = x.image();
  problem.img2 = y.image();
  std::vector<float> maps[2];
  std::vector<double> gradients[2];
  for (int i = 0; i < 2; ++i) {
    x.set(0, 0, row, column, i == 0 ? 0.5 : strange);
    maps[i].assign(static_cast<std::size_t>(c.shape.height * c.shape.width), 0.0f);
    Storage gradient(c.shape, FUSED_SSIM_FLOAT32, false, 1);
    Request request = fused_ssim_request();
    request.reduction = FUSED_SSIM_SUM;
    request.map = maps[i].data();
    request.grad2 = gradient.image();
    run(*level.functions, problem, request, 3);
    for (int64_t h = 0; h < c.shape.height; ++h) {
      for (int64_t w = 0; w < c.shape.width; ++w) {
        gradients[i].push_back(gradient.get(0, 0, h, w));
      }
    }
  }
  for (int64_t h = 0; h < c.shape.height; ++h) {
    for (int64_t w = 0; w < c.shape.width; ++w) {
      const auto pixel = static_cast<std::size_t>(h * c.shape.width + w);
      const int64_t distance = std::max(std::abs(h - row), std::abs(w - column));
      const double moved = std::fabs(static_cast<double>(maps[1][pixel]) - maps[0][pixel]);
      EXPECT(distance <= reach ? std::isnan(maps[1][pixel]) : moved <= 2e-6, name + " map");
      EXPECT(distance <= 2 * reach ? std::isnan(gradients[1][pixel])
                                   : std::fabs(gradients[1][pixel] - gradients[0][pixel]) <= 2e-5,
             name + " gradient");
    }
  }
}

void same_bits_for_any_threads(const NamedLevel& level, const std::vector<double>& taps,
                               float pixel) {
  Case c;
  c.shape = {1, 1, 500, 1100};
  c.taps_y = c.taps_x = taps;
  const auto pixels = static_cast<std::size_t>(c.shape.height * c.shape.width);
  std::vector<float> x(pixels);
  std::vector<float> y(pixels);
  std::mt19937 random(5);
  std::uniform_real_distribution<float> uniform(0.0f, 1.0f);
  for (std::size_t i = 0; i < pixels; ++i) {
    x[i] = uniform(random);
    y[i] = uniform(random);
  }
  x[240 * 1100 + 300] = pixel;
  Problem problem = problem_of(c);
  problem.img1 = fused_ssim_planar(x.data(), 1, c.shape.height, c.shape.width);
  problem.img2 = fused_ssim_planar(y.data(), 1, c.shape.height, c.shape.width);
  std::vector<float> first;
  for (const int threads : {1, 2, 3, 5, 64}) {
    std::vector<float> results(pixels);
    float with_gradient = 0;
    float alone = 0;
    Request request = fused_ssim_request();
    request.value = &with_gradient;
    request.grad1 = fused_ssim_planar(results.data(), 1, c.shape.height, c.shape.width);
    run(*level.functions, problem, request, threads);
    Request value_request = fused_ssim_request();
    value_request.value = &alone;
    run(*level.functions, problem, value_request, threads);
    EXPECT(std::fabs(with_gradient - alone) <= 1e-7f ||
               (std::isnan(with_gradient) && std::isnan(alone)),
           "value with and without gradient");
    results.push_back(with_gradient);
    if (first.empty()) {
      first = results;
    }
    EXPECT(std::memcmp(first.data(), results.data(), first.size() * sizeof(float)) == 0,
           std::string(level_name(level.level)) + ", " + std::to_string(threads) + " threads, " +
               std::to_string(taps.size()) + " taps");
  }
}

void same_whole_numbers_for_any_threads(const NamedLevel& level) {
  Case c;
  c.shape = {1, 3, 500, 400};
  c.taps_y = c.taps_x = uniform_taps(7);
  const auto pixels = static_cast<std::size_t>(3 * c.shape.height * c.shape.width);
  std::vector<uint8_t> x(pixels);
  std::vector<uint8_t> y(pixels);
  std::mt19937 random(5);
  for (std::size_t i = 0; i < pixels; ++i) {
    x[i] = static_cast<uint8_t>(random());
    y[i] = static_cast<uint8_t>(random());
  }
  for (const bool interleaved : {false, true}) {
    const auto image_of = [&](const std::vector<uint8_t>& image) {
      Image result = interleaved
                         ? fused_ssim_interleaved(image.data(), 3, c.shape.height, c.shape.width)
                         : fused_ssim_planar(image.data(), 3, c.shape.height, c.shape.width);
      result.dtype = FUSED_SSIM_UINT8;
      return result;
    };
    Problem problem = problem_of(c);
    problem.img1 = image_of(x);
    problem.img2 = image_of(y);
    std::vector<float> first;
    for (const int threads : {1, 2, 3, 5, 64}) {
      std::vector<float> results(pixels + 3);
      Request request = fused_ssim_request();
      request.reduction = FUSED_SSIM_CHANNEL;
      request.map = results.data();
      request.value = results.data() + pixels;
      run(*level.functions, problem, request, threads);
      if (first.empty()) {
        first = results;
      }
      EXPECT(std::memcmp(first.data(), results.data(), first.size() * sizeof(float)) == 0,
             std::string(level_name(level.level)) + ", uint8, " + std::to_string(threads) +
                 " threads");
    }
  }
}

}  // namespace

int main() {
  for (const NamedLevel& level : levels()) {
    std::printf("level %s\n", level_name(level.level));
    unsigned seed = 1;
    compare_sizes(level, &seed);
    compare_dtypes(level, &seed);
    compare_whole_numbers(level, &seed);
    same_whole_numbers_for_any_threads(level);
    same_as_floats(level);
    const double infinity = std::numeric_limits<double>::infinity();
    for (const auto& taps : {gaussian(11, 1.5), gaussian(7, 1.0), uniform_taps(3), uniform_taps(7),
                             gaussian(15, 2.0), std::vector<double>{0.2, 0.5, 0.3}}) {
      only_windows_that_see(level, taps, std::nan(""));
      only_windows_that_see(level, taps, infinity);
      same_bits_for_any_threads(level, taps, 0.5f);
    }
    same_bits_for_any_threads(level, gaussian(7, 1.0), std::nanf(""));
  }
  return check::report();
}
