// The kernels of every level that this machine runs against the slow twin: values, maps, gradients,
// weights, L1, strides, storage types, windows, seams; and the same bits for any number of threads.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "check.h"
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
  const ChunkSums poison = {1e300, 1e300};
  std::vector<ChunkSums> slots(static_cast<std::size_t>(plan.slots()), poison);
  const int64_t bytes = functions.workspace_bytes(problem, request, plan.strip_columns());
  // 0xff bytes are NaN in every type: what the kernel reads before it writes shows.
  std::vector<unsigned char> memory(static_cast<std::size_t>(bytes + kWorkspaceAlignment), 0xff);
  const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
  unsigned char* workspace =
      memory.data() + (kWorkspaceAlignment - address % kWorkspaceAlignment) % kWorkspaceAlignment;
  for (int64_t i = 0; i < plan.tasks(); ++i) {
    const Task task = plan.task(i, slots.data());
    functions.run(problem, request, &task, 1, plan.strip_columns(), workspace);
  }
  if (request.value != nullptr) {
    reduce(problem, request, plan, slots.data());
  }
}

// Images stored as Element with any order of the four dimensions and padding between columns.
template <class Element>
struct Storage {
  std::vector<Element> data;
  int64_t strides[4];

  Storage(const Shape& shape, bool channels_last, int64_t gap) {
    const int64_t sizes[4] = {shape.batch, shape.channels, shape.height, shape.width};
    const int order[2][4] = {{3, 2, 1, 0}, {1, 3, 2, 0}};  // innermost first
    int64_t stride = gap;
    for (const int dimension : order[channels_last ? 1 : 0]) {
      strides[dimension] = stride;
      stride *= sizes[dimension];
    }
    data.assign(static_cast<std::size_t>(stride), Element());
  }
  Element& at(int64_t b, int64_t c, int64_t h, int64_t w) {
    return data[static_cast<std::size_t>(b * strides[0] + c * strides[1] + h * strides[2] +
                                         w * strides[3])];
  }
  template <class Image>
  Image image() {
    Image result;
    result.data = data.data();
    result.stride_batch = strides[0];
    result.stride_channel = strides[1];
    result.stride_row = strides[2];
    result.stride_column = strides[3];
    return result;
  }
};

template <class Element>
struct Traits;
template <>
struct Traits<double> {
  using Accumulator = double;
  static constexpr DType kDType = DType::kFloat64;
  static constexpr double kTolerance = 1e-11;
  static constexpr double kStorage = 0;
};
template <>
struct Traits<float> {
  using Accumulator = float;
  static constexpr DType kDType = DType::kFloat32;
  static constexpr double kTolerance = 1e-5;
  static constexpr double kStorage = 6e-8;
};
template <>
struct Traits<Float16> {
  using Accumulator = float;
  static constexpr DType kDType = DType::kFloat16;
  static constexpr double kTolerance = 1e-5;
  static constexpr double kStorage = 4.9e-4;
};
template <>
struct Traits<BFloat16> {
  using Accumulator = float;
  static constexpr DType kDType = DType::kBFloat16;
  static constexpr double kTolerance = 1e-5;
  static constexpr double kStorage = 3.91e-3;
};

struct Case {
  Shape shape;
  int window = 11;
  double sigma = 1.5;
  bool valid = false;
  bool channels_last = false;
  int64_t gap = 1;
  bool weighted = false;
  double ssim_weight = 1.0;
  double l1_weight = 0.0;
};

std::string text(const Case& c) {
  return std::to_string(c.shape.batch) + "x" + std::to_string(c.shape.channels) + "x" +
         std::to_string(c.shape.height) + "x" + std::to_string(c.shape.width) + " window " +
         std::to_string(c.window) + (c.valid ? " valid" : " same") +
         (c.channels_last ? " channels_last" : "") + (c.weighted ? " weighted" : "") + " gap " +
         std::to_string(c.gap) + " l1 " + std::to_string(c.l1_weight);
}

template <class Element>
void compare(const NamedLevel& level, const Case& c, unsigned seed) {
  using T = typename Traits<Element>::Accumulator;
  const std::string name = std::string(level_name(level.level)) + " " + text(c) + " dtype " +
                           std::to_string(static_cast<int>(Traits<Element>::kDType));
  const Shape& shape = c.shape;
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> uniform(0.0, 1.0);
  Storage<Element> x(shape, c.channels_last, c.gap);
  Storage<Element> y(shape, c.channels_last, c.gap);
  Storage<Element> grad1(shape, c.channels_last, c.gap);
  Storage<Element> grad2(shape, c.channels_last, c.gap);
  Problem problem;
  problem.shape = shape;
  problem.dtype = Traits<Element>::kDType;
  problem.padding = c.valid ? Padding::kValid : Padding::kSame;
  problem.window = gaussian_taps(c.window, c.sigma);
  problem.sigma = c.sigma;
  problem.c1 = 1e-4;
  problem.c2 = 9e-4;
  const int crop = problem.crop();
  std::vector<ReferencePlane> planes(static_cast<std::size_t>(shape.planes()));
  for (int64_t p = 0; p < shape.planes(); ++p) {
    ReferencePlane& plane = planes[static_cast<std::size_t>(p)];
    plane.height = shape.height;
    plane.width = shape.width;
    for (int64_t h = 0; h < shape.height; ++h) {
      for (int64_t w = 0; w < shape.width; ++w) {
        Element& ex = x.at(p / shape.channels, p % shape.channels, h, w);
        Element& ey = y.at(p / shape.channels, p % shape.channels, h, w);
        const double value = uniform(random);
        narrow(static_cast<T>(value), &ex);
        // One pixel in eight is equal in both: sign(0).
        const double other = random() % 8 == 0 ? value : 0.7 * value + 0.3 * uniform(random);
        narrow(static_cast<T>(other), &ey);
        T stored_x;
        T stored_y;
        widen(ex, &stored_x);
        widen(ey, &stored_y);
        plane.x.push_back(stored_x);
        plane.y.push_back(stored_y);
      }
    }
  }
  problem.img1 = x.template image<ConstImage>();
  problem.img2 = y.template image<ConstImage>();

  const int64_t map_pixels = problem.map_pixels_per_plane();
  std::vector<T> weights(static_cast<std::size_t>(shape.planes() * map_pixels), T(1));
  if (c.weighted) {
    for (T& weight : weights) {
      weight = static_cast<T>(2 * uniform(random) - 1);
    }
  }
  ReferenceDefinition definition;
  definition.window_size = c.window;
  definition.sigma = c.sigma;
  definition.valid = c.valid;

  const T nan = std::numeric_limits<T>::quiet_NaN();
  std::vector<T> map(static_cast<std::size_t>(shape.planes() * map_pixels), nan);
  std::vector<T> channel_values(static_cast<std::size_t>(shape.planes()), nan);
  Request map_request;
  map_request.map = map.data();
  run(*level.functions, problem, map_request, 2);

  for (int which = 1; which <= 3; ++which) {
    Request request;
    request.ssim_weight = c.ssim_weight;
    request.l1_weight = c.l1_weight;
    request.offset = 0.25;
    request.reduction = Reduction::kChannel;
    request.value = channel_values.data();
    if (c.weighted) {
      request.value = nullptr;
      request.map_gradient.data = weights.data();
      request.map_gradient.stride_batch = shape.channels * map_pixels;
      request.map_gradient.stride_channel = map_pixels;
      request.map_gradient.stride_row = problem.map_width();
      request.map_gradient.stride_column = 1;
    }
    std::memset(grad1.data.data(), 0xff, grad1.data.size() * sizeof(Element));
    std::memset(grad2.data.data(), 0xff, grad2.data.size() * sizeof(Element));
    if (which & 1) {
      request.grad1 = grad1.template image<MutableImage>();
    }
    if (which & 2) {
      request.grad2 = grad2.template image<MutableImage>();
    }
    run(*level.functions, problem, request, 2);

    for (int64_t p = 0; p < shape.planes(); ++p) {
      const ReferencePlane& plane = planes[static_cast<std::size_t>(p)];
      const std::vector<double> expected_map = reference_map(plane, definition);
      std::vector<double> plane_weights(plane.x.size(), 0.0);
      double ssim = 0;
      double l1 = 0;
      for (int64_t h = 0; h < problem.map_height(); ++h) {
        for (int64_t w = 0; w < problem.map_width(); ++w) {
          const std::size_t pixel = static_cast<std::size_t>((h + crop) * shape.width + w + crop);
          const std::size_t mapped =
              static_cast<std::size_t>(p * map_pixels + h * problem.map_width() + w);
          plane_weights[pixel] = weights[mapped];
          ssim += expected_map[pixel];
          l1 += std::fabs(plane.x[pixel] - plane.y[pixel]);
          EXPECT(std::fabs(map[mapped] - expected_map[pixel]) <= Traits<Element>::kTolerance,
                 name + " map");
        }
      }
      if (!c.weighted) {
        // A mean of a few pixels is no better than the map.
        const double mean_bound = 1e-6 + 5e-6 / static_cast<double>(map_pixels);
        const double expected =
            0.25 + (c.ssim_weight * ssim + c.l1_weight * l1) / static_cast<double>(map_pixels);
        EXPECT(std::fabs(channel_values[static_cast<std::size_t>(p)] - expected) <=
                   (sizeof(T) == 8 ? 1e-12 : mean_bound),
               name + " value");
      }
      const ReferenceGradients gradients = reference_gradients(plane, definition, plane_weights);
      for (int image = 1; image <= 2; ++image) {
        if ((which & image) == 0) {
          continue;
        }
        Storage<Element>& got = image == 1 ? grad1 : grad2;
        const std::vector<double>& unit = image == 1 ? gradients.x : gradients.y;
        double error = 0;
        double norm = 0;
        for (int64_t h = 0; h < shape.height; ++h) {
          for (int64_t w = 0; w < shape.width; ++w) {
            const std::size_t pixel = static_cast<std::size_t>(h * shape.width + w);
            double expected = c.ssim_weight * unit[pixel];
            if (c.l1_weight != 0 && h >= crop && h < shape.height - crop && w >= crop &&
                w < shape.width - crop) {
              const double difference = plane.x[pixel] - plane.y[pixel];
              const double sign = difference > 0 ? 1 : difference < 0 ? -1 : 0;
              expected += c.l1_weight * (image == 1 ? sign : -sign);
            }
            T value;
            widen(got.at(p / shape.channels, p % shape.channels, h, w), &value);
            error += (value - expected) * (value - expected);
            norm += expected * expected;
          }
        }
        const double relative =
            Traits<Element>::kTolerance * (sizeof(T) == 8 ? 1 : 4) + Traits<Element>::kStorage;
        EXPECT(std::sqrt(error) <= relative * std::sqrt(norm) + 1e-7,
               name + " gradient of image " + std::to_string(image) + " of " +
                   std::to_string(which) + ", error " +
                   std::to_string(std::sqrt(error / (norm + 1e-300))));
      }
    }
  }
}

void same_bits_for_any_threads(const NamedLevel& level) {
  const Shape shape = {1, 1, 500, 1100};
  Storage<float> x(shape, false, 1);
  Storage<float> y(shape, false, 1);
  std::mt19937 random(5);
  std::uniform_real_distribution<float> uniform(0.0f, 1.0f);
  for (std::size_t i = 0; i < x.data.size(); ++i) {
    x.data[i] = uniform(random);
    y.data[i] = uniform(random);
  }
  Problem problem;
  problem.shape = shape;
  problem.window = gaussian_taps(11, 1.5);
  problem.c1 = 1e-4;
  problem.c2 = 9e-4;
  problem.img1 = x.image<ConstImage>();
  problem.img2 = y.image<ConstImage>();
  std::vector<float> first;
  for (const int threads : {1, 2, 3, 5, 64}) {
    Storage<float> gradient(shape, false, 1);
    float with_gradient = 0;
    float alone = 0;
    Request request;
    request.value = &with_gradient;
    request.grad1 = gradient.image<MutableImage>();
    run(*level.functions, problem, request, threads);
    Request value_request;
    value_request.value = &alone;
    run(*level.functions, problem, value_request, threads);
    gradient.data.push_back(with_gradient);
    gradient.data.push_back(alone);
    if (first.empty()) {
      first = gradient.data;
    }
    EXPECT(with_gradient == alone, "value with and without gradient");
    EXPECT(std::memcmp(first.data(), gradient.data.data(), first.size() * sizeof(float)) == 0,
           std::string(level_name(level.level)) + ", " + std::to_string(threads) + " threads");
  }
}

}  // namespace

int main() {
  for (const NamedLevel& level : levels()) {
    std::printf("level %s\n", level_name(level.level));
    unsigned seed = 1;
    const int64_t sizes[][2] = {{1, 1},   {1, 2},   {2, 1},    {3, 5},    {10, 11},  {11, 10},
                                {12, 12}, {13, 7},  {8, 64},   {17, 33},  {37, 53},  {7, 127},
                                {9, 129}, {26, 16}, {15, 165}, {16, 176}, {3, 1930}, {103, 9}};
    for (const auto& size : sizes) {
      for (const bool valid : {false, true}) {
        for (const auto& window :
             {std::pair<int, double>{11, 1.5}, {7, 1.1}, {3, 0.5}, {33, 5.0}}) {
          Case c;
          c.shape = {1, 1, size[0], size[1]};
          c.window = window.first;
          c.sigma = window.second;
          c.valid = valid;
          if (valid && (size[0] < c.window || size[1] < c.window)) {
            continue;
          }
          if (c.window == 33 && size[0] * size[1] > 2000) {
            continue;  // the twin would take minutes
          }
          c.weighted = seed % 3 == 0;
          c.gap = 1 + seed % 2;
          if (!c.weighted && seed % 3 == 1) {
            c.ssim_weight = -0.2;
            c.l1_weight = 0.8;
          }
          compare<float>(level, c, seed);
          if (size[1] < 200) {
            compare<double>(level, c, seed);
          }
          ++seed;
        }
      }
    }
    for (const bool channels_last : {false, true}) {
      for (const bool valid : {false, true}) {
        for (const double l1_weight : {0.0, 0.8}) {
          Case c;
          c.shape = {2, 3, 29, 41};
          c.channels_last = channels_last;
          c.valid = valid;
          c.l1_weight = l1_weight;
          c.ssim_weight = l1_weight == 0 ? 1.0 : -0.2;
          compare<float>(level, c, seed);
          compare<double>(level, c, seed);
          compare<Float16>(level, c, seed);
          compare<BFloat16>(level, c, seed++);
        }
      }
    }
    same_bits_for_any_threads(level);
  }
  return check::report();
}
