// The public C interface: results against the slow twin, dtypes, windows, statistics, every kind of
// bad argument, plans, threads, structures of other sizes, images from the bottom up.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "cpu/reference.h"
#include "fused_ssim/kernels.h"
#include "fused_ssim/version.h"

namespace {

constexpr int64_t kBatch = 2;
constexpr int64_t kChannels = 3;
constexpr int64_t kHeight = 37;
constexpr int64_t kWidth = 53;
constexpr int64_t kPixels = kHeight * kWidth;
constexpr std::size_t kElements = kBatch * kChannels * kPixels;

struct Images {
  std::vector<float> x = std::vector<float>(kElements);
  std::vector<float> y = std::vector<float>(kElements);

  Images() {
    std::mt19937 engine(7);
    std::uniform_real_distribution<float> uniform(0.0f, 1.0f);
    for (std::size_t i = 0; i < kElements; ++i) {
      x[i] = uniform(engine);
      y[i] = 0.5f * x[i] + 0.5f * uniform(engine);
    }
  }
  FusedSsimProblem problem() const {
    return fused_ssim_problem(kBatch, kChannels, kHeight, kWidth,
                              fused_ssim_planar(x.data(), kChannels, kHeight, kWidth),
                              fused_ssim_planar(y.data(), kChannels, kHeight, kWidth));
  }
  fused_ssim::cpu::ReferencePlane plane(int64_t index) const {
    const auto begin = index * kPixels;
    return {kHeight, kWidth, std::vector<double>(x.begin() + begin, x.begin() + begin + kPixels),
            std::vector<double>(y.begin() + begin, y.begin() + begin + kPixels)};
  }
};

FusedSsimImage output_like(std::vector<float>& memory) {
  memory.assign(kElements, std::numeric_limits<float>::quiet_NaN());
  return fused_ssim_planar(memory.data(), kChannels, kHeight, kWidth);
}

void expect_ok(FusedSsimStatus status, const std::string& what) {
  EXPECT(status == FUSED_SSIM_OK, what + ": " + fused_ssim_last_error());
}

// The window as its definition has it.
std::vector<double> standard_taps() {
  std::vector<double> taps;
  double sum = 0;
  for (int i = -5; i <= 5; ++i) {
    taps.push_back(std::exp(-i * i / (2 * 1.5 * 1.5)));
    sum += taps.back();
  }
  for (double& tap : taps) {
    tap /= sum;
  }
  return taps;
}

// ---- results ------------------------------------------------------------------------------------

void test_results() {
  const Images images;
  for (const bool valid : {false, true}) {
    FusedSsimProblem problem = images.problem();
    problem.padding = valid ? FUSED_SSIM_VALID : FUSED_SSIM_SAME;
    int64_t sizes[FUSED_SSIM_AXES];
    expect_ok(fused_ssim_map_sizes(&problem, sizes), "map sizes");
    const int64_t height = sizes[FUSED_SSIM_AXIS_ROW];
    const int64_t width = sizes[FUSED_SSIM_AXIS_COLUMN];
    EXPECT(height == kHeight - (valid ? 10 : 0) && width == kWidth - (valid ? 10 : 0), "map sizes");
    EXPECT(sizes[0] == kBatch && sizes[1] == kChannels && sizes[2] == 1, "map sizes");
    int64_t count = 0;
    int64_t divisor = 0;
    expect_ok(fused_ssim_reduction(sizes, FUSED_SSIM_CHANNEL, &count, &divisor), "reduction");
    EXPECT(count == kBatch * kChannels && divisor == height * width, "reduction");

    std::vector<float> values(kBatch * kChannels);
    std::vector<float> errors(kBatch * kChannels);
    std::vector<float> map(static_cast<std::size_t>(count * divisor));
    std::vector<float> grad1;
    std::vector<float> grad2;
    FusedSsimRequest request = fused_ssim_request();
    request.value = values.data();
    request.mse = errors.data();
    request.reduction = FUSED_SSIM_CHANNEL;
    request.map = map.data();
    request.grad1 = output_like(grad1);
    request.grad2 = output_like(grad2);
    expect_ok(fused_ssim_cpu_run(&problem, &request, 1), "a run");

    fused_ssim::cpu::ReferenceDefinition definition;
    definition.taps_y = definition.taps_x = standard_taps();
    definition.valid = valid;
    double worst_map = 0;
    double worst_value = 0;
    double worst_error = 0;
    double worst_gradient = 0;
    for (int64_t p = 0; p < kBatch * kChannels; ++p) {
      const auto plane = images.plane(p);
      const auto truth = reference_map(plane, definition);
      const int64_t crop = valid ? 5 : 0;
      double sum = 0;
      double squares = 0;
      for (int64_t r = 0; r < height; ++r) {
        for (int64_t c = 0; c < width; ++c) {
          const int64_t pixel = (r + crop) * kWidth + c + crop;
          sum += truth[pixel];
          squares += std::pow(plane.x[pixel] - plane.y[pixel], 2);
          worst_map =
              std::fmax(worst_map, std::fabs(map[(p * height + r) * width + c] - truth[pixel]));
        }
      }
      worst_value = std::fmax(worst_value, std::fabs(values[p] - sum / divisor));
      worst_error = std::fmax(worst_error, std::fabs(errors[p] - squares / divisor));
      const auto gradients =
          reference_gradients(plane, definition, std::vector<double>(kPixels, 1.0));
      for (int64_t i = 0; i < kPixels; ++i) {
        const double error1 = grad1[p * kPixels + i] * divisor - gradients.x[i];
        const double error2 = grad2[p * kPixels + i] * divisor - gradients.y[i];
        worst_gradient = std::fmax(worst_gradient, std::fmax(std::fabs(error1), std::fabs(error2)));
      }
    }
    EXPECT(worst_map < 5e-6, std::to_string(worst_map));
    EXPECT(worst_value < 1e-6, std::to_string(worst_value));
    EXPECT(worst_error < 1e-6, std::to_string(worst_error));
    EXPECT(worst_gradient < 1e-4, std::to_string(worst_gradient));
  }
}

// Gradients of a mean are those of the sum over the number of pixels.
void test_gradient_of_sum() {
  const Images images;
  const FusedSsimProblem problem = images.problem();
  std::vector<float> of_mean;
  std::vector<float> of_sum;
  FusedSsimRequest request = fused_ssim_request();
  request.grad1 = output_like(of_mean);
  expect_ok(fused_ssim_cpu_run(&problem, &request, 1), "of the mean");
  request.gradient_of_sum = 1;
  request.grad1 = output_like(of_sum);
  expect_ok(fused_ssim_cpu_run(&problem, &request, 1), "of the sum");
  double worst = 0;
  for (std::size_t i = 0; i < kElements; ++i) {
    worst = std::fmax(worst, std::fabs(of_mean[i] * double{kElements} - of_sum[i]));
  }
  EXPECT(worst < 1e-5, std::to_string(worst));
}

float value_of(const FusedSsimProblem& problem, const std::string& what) {
  float value = std::numeric_limits<float>::quiet_NaN();
  FusedSsimRequest request = fused_ssim_request();
  request.value = &value;
  expect_ok(fused_ssim_cpu_run(&problem, &request, 1), what);
  return value;
}

void test_dtypes() {
  const Images images;
  std::vector<uint8_t> x(kElements);
  std::vector<uint8_t> y(kElements);
  Images divided;
  Images whole;
  for (std::size_t i = 0; i < kElements; ++i) {
    x[i] = static_cast<uint8_t>(std::lround(255 * images.x[i]));
    y[i] = static_cast<uint8_t>(std::lround(255 * images.y[i]));
    whole.x[i] = x[i];
    whole.y[i] = y[i];
    divided.x[i] = whole.x[i] / 255;
    divided.y[i] = whole.y[i] / 255;
  }
  const auto bytes_of = [](const std::vector<uint8_t>& pixels) {
    FusedSsimImage image = fused_ssim_planar(pixels.data(), kChannels, kHeight, kWidth);
    image.dtype = FUSED_SSIM_UINT8;
    return image;
  };
  const float expected = value_of(divided.problem(), "float32");
  FusedSsimProblem problem = divided.problem();
  problem.img2 = bytes_of(y);
  EXPECT(value_of(problem, "a uint8 target") == expected, "u / 255");
  problem.img1 = bytes_of(x);
  EXPECT(std::fabs(value_of(problem, "two uint8 images") - expected) < 1e-6f, "u / 255");

  FusedSsimProblem unscaled = whole.problem();
  unscaled.c1 = problem.c1 *= 255 * 255;
  unscaled.c2 = problem.c2 *= 255 * 255;
  problem.uint8_divisor = 1;
  EXPECT(std::fabs(value_of(problem, "u") - value_of(unscaled, "float32")) < 1e-6f, "u");

  // Half of each mantissa is enough for 1/2 and 1/4, so that images of any dtype can be equal.
  const std::vector<uint16_t> half(kElements, 0x3800);
  const std::vector<uint16_t> brain(kElements, 0x3f00);
  problem = images.problem();
  problem.img1 = fused_ssim_planar(half.data(), kChannels, kHeight, kWidth);
  problem.img1.dtype = FUSED_SSIM_FLOAT16;
  problem.img2 = fused_ssim_planar(brain.data(), kChannels, kHeight, kWidth);
  problem.img2.dtype = FUSED_SSIM_BFLOAT16;
  EXPECT(value_of(problem, "float16 and bfloat16") == 1.0f, "both hold 0.5");
}

void test_windows_and_statistics() {
  const Images images;
  double taps[11];
  expect_ok(fused_ssim_gaussian_taps(11, 1.5, taps), "taps");
  for (std::size_t i = 0; i < 11; ++i) {
    EXPECT(std::fabs(taps[i] - standard_taps()[i]) < 1e-16, std::to_string(i));
  }
  const float standard = value_of(images.problem(), "the standard window");
  FusedSsimProblem problem = images.problem();
  problem.windows[1].taps = problem.windows[2].taps = taps;
  EXPECT(value_of(problem, "the standard window as numbers") == standard, "the same window");

  // Correlation: the taps flipped are the images flipped.
  const double one_sided[] = {0.5, 0.3, 0.2};
  const double flipped[] = {0.2, 0.3, 0.5};
  problem.windows[1] = {one_sided, 3};
  problem.windows[2] = {flipped, 3};
  FusedSsimProblem turned = images.problem();
  turned.windows[1] = {flipped, 3};
  turned.windows[2] = {one_sided, 3};
  const float asymmetric = value_of(problem, "asymmetric windows");
  EXPECT(std::fabs(value_of(turned, "flipped windows") - asymmetric) > 1e-5f, "not symmetric");
  for (FusedSsimImage* image : {&turned.img1, &turned.img2}) {
    image->data = static_cast<float*>(image->data) + kPixels - 1;
    image->strides[FUSED_SSIM_AXIS_ROW] *= -1;
    image->strides[FUSED_SSIM_AXIS_COLUMN] *= -1;
  }
  EXPECT(std::fabs(value_of(turned, "flipped windows and images") - asymmetric) < 1e-6f, "flipped");

  // Without a window variances vanish: the contrast is 1, and SSIM the luminance.
  problem.windows[1] = problem.windows[2] = {nullptr, 1};
  problem.statistic = FUSED_SSIM_STATISTIC_CONTRAST;
  EXPECT(value_of(problem, "contrast of one tap") == 1.0f, "contrast of one tap");
  problem.statistic = FUSED_SSIM_STATISTIC_SSIM;
  const float of_points = value_of(problem, "SSIM of one tap");
  problem.statistic = FUSED_SSIM_STATISTIC_LUMINANCE;
  EXPECT(std::fabs(value_of(problem, "luminance of one tap") - of_points) < 1e-6f, "luminance");

  const auto refuse = [](int32_t size, double sigma, double* place, const char* word) {
    EXPECT(fused_ssim_gaussian_taps(size, sigma, place) == FUSED_SSIM_INVALID_ARGUMENT, word);
    EXPECT(std::string(fused_ssim_last_error()).find(word) != std::string::npos, word);
  };
  refuse(10, 1.5, taps, "odd number of taps");
  refuse(11, 0, taps, "sigma");
  refuse(11, 1.5, nullptr, "null pointer");
}

// Value and gradient of the request for each way to run it: the same bits.
void test_threads_and_plans() {
  const Images images;
  const FusedSsimProblem problem = images.problem();
  const auto with = [&](std::vector<float>& grad, float* value, auto run) {
    FusedSsimRequest request = fused_ssim_request();
    request.value = value;
    request.grad1 = output_like(grad);
    run(request);
  };
  std::vector<float> grad;
  float value = 0;
  with(grad, &value, [&](const FusedSsimRequest& request) {
    EXPECT(fused_ssim_cpu_run(&problem, &request, 1) == FUSED_SSIM_OK, fused_ssim_last_error());
  });
  EXPECT(value > 0.1f && value < 1.0f, std::to_string(value));
  for (const int32_t threads : {0, 2, 7}) {
    std::vector<float> other;
    float other_value = 0;
    with(other, &other_value, [&](const FusedSsimRequest& request) {
      fused_ssim::kernels::run(problem, request, threads);
    });
    EXPECT(other == grad && other_value == value, std::to_string(threads) + " threads");
  }
  std::vector<float> other;
  float other_value = 0;
  with(other, &other_value, [&](const FusedSsimRequest& request) {
    fused_ssim::kernels::Plan moved_from(problem, request, 4);
    fused_ssim::kernels::Plan plan = std::move(moved_from);
    EXPECT(plan.tasks() >= kBatch * kChannels, std::to_string(plan.tasks()));
    void* workspace = ::operator new(static_cast<std::size_t>(plan.workspace_bytes()),
                                     std::align_val_t(FUSED_SSIM_CPU_ALIGNMENT));
    for (int64_t i = plan.tasks() - 1; i >= 0; --i) {
      plan.run(i, i + 1, workspace);
    }
    ::operator delete(workspace, std::align_val_t(FUSED_SSIM_CPU_ALIGNMENT));
    plan.finish();
  });
  EXPECT(other == grad && other_value == value, "a plan");
}

void test_strides() {
  const Images images;
  FusedSsimProblem problem = images.problem();
  float upright = 0;
  FusedSsimRequest request = fused_ssim_request();
  request.value = &upright;
  EXPECT(fused_ssim_cpu_run(&problem, &request, 1) == FUSED_SSIM_OK, fused_ssim_last_error());
  // Both images from the bottom up; SSIM does not mind.
  for (FusedSsimImage* image : {&problem.img1, &problem.img2}) {
    image->data = static_cast<float*>(image->data) + (kHeight - 1) * kWidth;
    image->strides[FUSED_SSIM_AXIS_ROW] = -kWidth;
  }
  float flipped = 0;
  std::vector<float> grad;
  request.value = &flipped;
  request.grad1 = output_like(grad);
  EXPECT(fused_ssim_cpu_run(&problem, &request, 1) == FUSED_SSIM_OK, fused_ssim_last_error());
  EXPECT(std::fabs(flipped - upright) < 1e-6f, std::to_string(flipped));

  // Interleaved channels, gradient likewise.
  std::vector<float> x(kElements);
  std::vector<float> y(kElements);
  for (int64_t b = 0; b < kBatch; ++b) {
    for (int64_t c = 0; c < kChannels; ++c) {
      for (int64_t i = 0; i < kPixels; ++i) {
        x[(b * kPixels + i) * kChannels + c] = images.x[(b * kChannels + c) * kPixels + i];
        y[(b * kPixels + i) * kChannels + c] = images.y[(b * kChannels + c) * kPixels + i];
      }
    }
  }
  problem = images.problem();
  std::vector<float> planar;
  request.grad1 = output_like(planar);
  fused_ssim::kernels::run(problem, request, 1);
  problem.img1 = fused_ssim_interleaved(x.data(), kChannels, kHeight, kWidth);
  problem.img2 = fused_ssim_interleaved(y.data(), kChannels, kHeight, kWidth);
  float value = 0;
  request.value = &value;
  std::vector<float> interleaved(kElements);
  request.grad1 = fused_ssim_output(interleaved.data(), problem.img1);
  fused_ssim::kernels::run(problem, request, 1);
  EXPECT(value == upright, "interleaved channels");
  bool same = true;
  for (int64_t b = 0; b < kBatch; ++b) {
    for (int64_t c = 0; c < kChannels; ++c) {
      for (int64_t i = 0; i < kPixels; ++i) {
        same = same && interleaved[(b * kPixels + i) * kChannels + c] ==
                           planar[(b * kChannels + c) * kPixels + i];
      }
    }
  }
  EXPECT(same, "the gradient of interleaved channels");
}

void test_scale() {
  std::vector<float> unit(kElements);
  for (std::size_t i = 0; i < kElements; ++i) {
    unit[i] = static_cast<float>(i % 101);
  }
  const std::vector<float> before = unit;
  const float upstream[kBatch] = {2.0f, -1.0f};
  const FusedSsimProblem problem = Images().problem();
  FusedSsimScaleRequest request = fused_ssim_scale_request(
      &problem, fused_ssim_planar(unit.data(), kChannels, kHeight, kWidth), upstream);
  request.reduction = FUSED_SSIM_IMAGE;
  request.factor = 0.5;
  EXPECT(fused_ssim_cpu_scale(&request) == FUSED_SSIM_OK, fused_ssim_last_error());
  bool right = true;
  for (std::size_t i = 0; i < kElements; ++i) {
    right = right && unit[i] == before[i] * (i < kElements / 2 ? 1.0f : -0.5f);
  }
  EXPECT(right, "the scaled gradient");
  EXPECT(fused_ssim_cpu_scale_rows(&request, 0, kBatch * kChannels * kHeight + 1) ==
             FUSED_SSIM_INVALID_ARGUMENT,
         "rows");
}

// ---- refusals -----------------------------------------------------------------------------------

void expect_refused(FusedSsimStatus status, const std::string& word,
                    FusedSsimStatus expected = FUSED_SSIM_INVALID_ARGUMENT) {
  EXPECT(status == expected, word + ": " + std::to_string(status));
  const std::string message = fused_ssim_last_error();
  EXPECT(message.find(word) != std::string::npos, message + " | " + word);
}

const double kNan = std::numeric_limits<double>::quiet_NaN();
const double kInfinity = std::numeric_limits<double>::infinity();
constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
constexpr int64_t kLeast = std::numeric_limits<int64_t>::min();

void test_bad_problems() {
  const Images images;
  const auto refuse = [&](const std::string& word, auto spoil) {
    FusedSsimProblem problem = images.problem();
    spoil(problem);
    float value = 0;
    FusedSsimRequest request = fused_ssim_request();
    request.value = &value;
    expect_refused(fused_ssim_cpu_run(&problem, &request, 1), word);
    EXPECT(value == 0, word);
  };
  expect_refused(fused_ssim_cpu_run(nullptr, nullptr, 1), "FusedSsimProblem");
  for (const int64_t size : {int64_t{0}, int64_t{-8}, kLeast, kMost}) {
    refuse("struct_size", [size](auto& p) { p.struct_size = size; });
  }
  for (int axis = 0; axis < FUSED_SSIM_AXES; ++axis) {
    for (const int64_t size : {int64_t{0}, int64_t{-5}, kLeast}) {
      refuse("at least one pixel", [axis, size](auto& p) { p.sizes[axis] = size; });
    }
    refuse("at most 2^56", [axis](auto& p) { p.sizes[axis] = int64_t{1} << 60; });
    for (const int64_t stride : {int64_t{1} << 57, kMost, kLeast}) {
      if (stride < 0 || axis != FUSED_SSIM_AXIS_DEPTH) {  // of one plane, whose stride is not used
        refuse("strides of img1", [&](auto& p) { p.img1.strides[axis] = stride; });
        refuse("strides of mask", [&](auto& p) {
          p.mask = p.img1;
          p.mask.strides[axis] = stride;
        });
      }
    }
  }
  refuse("at most 2^56", [](auto& p) { p.sizes[0] = p.sizes[1] = int64_t{1} << 40; });
  refuse("strides of img2", [](auto& p) {  // each axis within the limit, but not all together
    p.img2.strides[0] = int64_t{1} << 56;
    p.img2.strides[1] = 1;
  });
  for (const int32_t dtype : {-1, 5}) {
    refuse("dtype", [dtype](auto& p) { p.img1.dtype = dtype; });
    refuse("dtype", [dtype](auto& p) { p.img2.dtype = dtype; });
  }
  for (const int32_t dtype : {FUSED_SSIM_FLOAT16, FUSED_SSIM_BFLOAT16, FUSED_SSIM_FLOAT32}) {
    refuse("float64", [dtype](auto& p) {
      p.img1.dtype = FUSED_SSIM_FLOAT64;
      p.img2.dtype = dtype;
    });
    refuse("float64", [dtype](auto& p) {
      p.img1.dtype = dtype;
      p.img2.dtype = FUSED_SSIM_FLOAT64;
    });
  }
  refuse("null pointer for img1", [](auto& p) { p.img1.data = nullptr; });
  refuse("null pointer for img2", [](auto& p) { p.img2.data = nullptr; });
  refuse("expected img1 at a multiple",
         [](auto& p) { p.img1.data = static_cast<char*>(p.img1.data) + 1; });
  for (const int32_t code : {-1, 3}) {
    refuse("padding", [code](auto& p) { p.padding = code; });
    refuse("statistic", [code](auto& p) { p.statistic = code; });
    refuse("mask_mode", [code](auto& p) { p.mask_mode = code; });
    refuse("uint8_divisor", [code](auto& p) { p.uint8_divisor = code; });
  }
  for (const double bad : {0.0, -1.0, kNan, kInfinity}) {
    refuse("C1", [bad](auto& p) { p.c1 = bad; });
    refuse("C2", [bad](auto& p) { p.c2 = bad; });
  }
  refuse("stabilizers", [](auto& p) { p.stabilizers = reinterpret_cast<void*>(3); });
  refuse("mask_sums", [](auto& p) { p.mask_sums = reinterpret_cast<void*>(3); });

  const char* axes[] = {"depth", "height", "width"};
  double taps[] = {0.25, 0.5, 0.25};
  for (int axis = 0; axis < 3; ++axis) {
    const std::string along = std::string("along the ") + axes[axis];
    for (const int32_t size : {-3, 0, 2, 10, std::numeric_limits<int32_t>::min()}) {
      refuse("an odd number of taps " + along, [&](auto& p) { p.windows[axis].size = size; });
    }
    refuse(along + ", got a null pointer", [&](auto& p) { p.windows[axis].size = 9; });
    const auto refuse_taps = [&](const std::string& words, double first) {
      taps[0] = first;
      refuse(words + along, [&](auto& p) { p.windows[axis] = {taps, 3}; });
      taps[0] = 0.25;
    };
    refuse_taps("taps that are not negative ", -0.25);
    refuse_taps("taps that are not negative ", kNan);
    refuse_taps("taps that sum to 1 ", kInfinity);
    refuse_taps("taps that sum to 1 ", 0.3);
    refuse(std::string("a ") + axes[axis] + " of at least the window's", [&](auto& p) {
      p.padding = FUSED_SSIM_VALID;
      p.windows[axis].size = 2 * static_cast<int32_t>(p.sizes[2 + axis]) + 1;
    });
  }
  refuse("expected mask_sums for a mean", [](auto& p) { p.mask = p.img1; });

  FusedSsimProblem problem = images.problem();
  expect_refused(fused_ssim_map_sizes(&problem, nullptr), "null pointer");
  expect_refused(fused_ssim_map_sizes(nullptr, problem.sizes), "FusedSsimProblem");
  expect_refused(fused_ssim_reduction(nullptr, 0, nullptr, nullptr), "null pointer");
  expect_refused(fused_ssim_reduction(problem.sizes, 4, nullptr, nullptr), "reduction");
  expect_ok(fused_ssim_reduction(problem.sizes, 0, nullptr, nullptr), "nothing asked");
  problem.sizes[0] = 0;
  expect_refused(fused_ssim_reduction(problem.sizes, 0, nullptr, nullptr), "at least one pixel");
}

// A mask of bools that all planes share, and its sums; results are compared in tests/test_masks.py.
void test_masks() {
  const Images images;
  std::vector<uint8_t> mask(kPixels);
  for (std::size_t i = 0; i < mask.size(); ++i) {
    mask[i] = i % 3 == 0 ? 0 : static_cast<uint8_t>(i % 7 + 1);
  }
  FusedSsimProblem problem = images.problem();
  problem.padding = FUSED_SSIM_VALID;
  problem.mask = fused_ssim_planar(mask.data(), 0, 0, kWidth);
  problem.mask.strides[FUSED_SSIM_AXIS_DEPTH] = 0;
  problem.mask.dtype = FUSED_SSIM_UINT8;
  float inside = 0;
  for (int64_t i = 0; i < kPixels; ++i) {
    const int64_t row = i / kWidth;
    const int64_t column = i % kWidth;
    inside += mask[i] != 0 && row >= 5 && row < kHeight - 5 && column >= 5 && column < kWidth - 5;
  }
  const int32_t counts[] = {1, 1, kBatch, kBatch * kChannels};
  for (int32_t reduction = FUSED_SSIM_MEAN; reduction <= FUSED_SSIM_CHANNEL; ++reduction) {
    std::vector<float> sums(kBatch * kChannels);
    expect_ok(fused_ssim_cpu_mask_sums(&problem, reduction, sums.data()), "mask sums");
    for (int32_t i = 0; i < counts[reduction]; ++i) {
      const float planes = static_cast<float>(kBatch * kChannels / counts[reduction]);
      EXPECT(sums[i] == planes * inside, std::to_string(sums[i]));
    }
  }
  float sums = 0;
  float values[2] = {};
  expect_ok(fused_ssim_cpu_mask_sums(&problem, FUSED_SSIM_MEAN, &sums), "mask sums");
  for (int32_t mode = FUSED_SSIM_MASK_WEIGHTED; mode <= FUSED_SSIM_MASK_NORMALIZED; ++mode) {
    FusedSsimRequest request = fused_ssim_request();
    request.value = &values[mode];
    problem.mask_mode = mode;
    problem.mask_sums = &sums;
    expect_ok(fused_ssim_cpu_run(&problem, &request, 1), "a mean under a mask");
    // A sum, and the gradient of a map, divide by nothing.
    problem.mask_sums = nullptr;
    float sum = 0;
    std::vector<float> grad;
    request.value = &sum;
    request.reduction = FUSED_SSIM_SUM;
    request.grad1 = output_like(grad);
    expect_ok(fused_ssim_cpu_run(&problem, &request, 1), "a sum under a mask");
    const double mean = sum / (kBatch * kChannels * static_cast<double>(inside));
    EXPECT(std::fabs(values[mode] - mean) < 1e-6, std::to_string(mean));
    request.value = nullptr;
    request.reduction = FUSED_SSIM_MEAN;
    expect_refused(fused_ssim_cpu_run(&problem, &request, 1), "mask_sums");
    request.map_gradient = fused_ssim_planar(images.x.data(), 0, 0, kWidth);
    expect_ok(fused_ssim_cpu_run(&problem, &request, 1), "the gradient of a map under a mask");
  }
  EXPECT(values[0] > 0 && values[1] > 0 && values[0] != values[1], "two modes");

  expect_refused(fused_ssim_cpu_mask_sums(&problem, FUSED_SSIM_MEAN, nullptr), "the place");
  expect_refused(fused_ssim_cpu_mask_sums(&problem, 4, &sums), "reduction");
  expect_refused(
      fused_ssim_cpu_mask_sums(&problem, FUSED_SSIM_MEAN, reinterpret_cast<char*>(&sums) + 2),
      "mask_sums at a multiple");
  problem.mask.data = nullptr;
  expect_refused(fused_ssim_cpu_mask_sums(&problem, FUSED_SSIM_MEAN, &sums), "the mask");
  expect_refused(fused_ssim_cpu_mask_sums(nullptr, FUSED_SSIM_MEAN, &sums), "FusedSsimProblem");
}

void test_bad_requests() {
  const Images images;
  const FusedSsimProblem problem = images.problem();
  float value = 0;
  const auto refuse = [&](const char* word, auto spoil, int32_t threads = 1) {
    FusedSsimProblem own = problem;
    FusedSsimRequest request = fused_ssim_request();
    request.value = &value;
    spoil(request, own);
    expect_refused(fused_ssim_cpu_run(&own, &request, threads), word);
    EXPECT(value == 0, word);
  };
  std::vector<float> grad;
  const FusedSsimImage output = output_like(grad);
  expect_refused(fused_ssim_cpu_run(&problem, nullptr, 1), "FusedSsimRequest");
  refuse("struct_size", [](auto& r, auto&) { r.struct_size = 8; });
  for (const int32_t code : {-1, 4}) {
    refuse("reduction", [code](auto& r, auto&) { r.reduction = code; });
    refuse("gradient_of_sum", [code](auto& r, auto&) { r.gradient_of_sum = code; });
    refuse("group", [code](auto& r, auto&) { r.group = code; });
  }
  for (const double bad : {kNan, kInfinity}) {
    refuse("statistic_weight", [bad](auto& r, auto&) { r.statistic_weight = bad; });
    refuse("l1_weight", [bad](auto& r, auto&) { r.l1_weight = bad; });
    refuse("l2_weight", [bad](auto& r, auto&) { r.l2_weight = bad; });
    refuse("offset", [bad](auto& r, auto&) { r.offset = bad; });
  }
  refuse("value", [](auto& r, auto&) { r.value = static_cast<char*>(r.value) + 2; });
  refuse("mse", [](auto& r, auto&) { r.mse = reinterpret_cast<void*>(3); });
  refuse("map", [](auto& r, auto&) { r.map = reinterpret_cast<void*>(3); });
  refuse("map_gradient in the accumulation type", [&](auto& r, auto&) {
    r.map_gradient = output;
    r.map_gradient.dtype = FUSED_SSIM_FLOAT16;
  });
  refuse("strides of map_gradient", [&](auto& r, auto&) {
    r.map_gradient = output;
    r.map_gradient.strides[0] = kLeast;
  });
  refuse("memory of its own", [&](auto& r, auto&) {
    r.grad1 = output;
    r.grad1.strides[FUSED_SSIM_AXIS_ROW] = 0;
  });
  refuse("strides of grad2", [&](auto& r, auto&) {
    r.grad2 = output;
    r.grad2.strides[FUSED_SSIM_AXIS_COLUMN] = int64_t{1} << 60;
  });
  refuse("grad1 in the dtype of img1", [&](auto& r, auto&) {
    r.grad1 = output;
    r.grad1.dtype = FUSED_SSIM_BFLOAT16;
  });
  refuse("expected no grad2", [&](auto& r, auto& p) {
    r.grad2 = output;
    p.img2.dtype = FUSED_SSIM_UINT8;
  });
  refuse("threads", [](auto&, auto&) {}, -1);

  FusedSsimRequest request = fused_ssim_request();
  request.value = &value;
  expect_refused(fused_ssim_cpu_plan_create(&problem, &request, 1, nullptr), "plan");
  FusedSsimCpuPlan* plan = nullptr;
  expect_refused(fused_ssim_cpu_plan_create(&problem, &request, 0, &plan), "threads");
  EXPECT(plan == nullptr, "no plan");
  expect_ok(fused_ssim_cpu_plan_create(&problem, &request, 1, &plan), "plan");
  alignas(FUSED_SSIM_CPU_ALIGNMENT) char memory[2 * FUSED_SSIM_CPU_ALIGNMENT];
  expect_refused(fused_ssim_cpu_plan_run(plan, 0, 1, nullptr), "workspace");
  expect_refused(fused_ssim_cpu_plan_run(plan, 0, 1, memory + 1), "workspace");
  expect_refused(fused_ssim_cpu_plan_run(plan, -1, 1, memory), "tasks");
  expect_refused(fused_ssim_cpu_plan_run(plan, 1, 0, memory), "tasks");
  expect_refused(fused_ssim_cpu_plan_run(plan, 0, fused_ssim_cpu_plan_tasks(plan) + 1, memory),
                 "tasks");
  expect_refused(fused_ssim_cpu_plan_run(nullptr, 0, 0, memory), "plan");
  expect_refused(fused_ssim_cpu_plan_finish(nullptr), "plan");
  EXPECT(fused_ssim_cpu_plan_tasks(nullptr) == 0, "no plan");
  EXPECT(fused_ssim_cpu_plan_grain(plan) >= 1 && fused_ssim_cpu_plan_grain(nullptr) == 1, "grain");
  EXPECT(fused_ssim_cpu_plan_workspace_bytes(nullptr) == 0, "no plan");
  fused_ssim_cpu_plan_destroy(plan);
  fused_ssim_cpu_plan_destroy(nullptr);

  try {
    fused_ssim::kernels::run(problem, fused_ssim_request(), -1);
    EXPECT(false, "an exception");
  } catch (const fused_ssim::kernels::Error& error) {
    EXPECT(error.status() == FUSED_SSIM_INVALID_ARGUMENT, error.what());
    EXPECT(std::string(error.what()).find("fused_ssim: expected a number of threads") == 0,
           error.what());
  }
}

void test_bad_multiplications() {
  const FusedSsimProblem problem = Images().problem();
  const float upstream = 1;
  std::vector<float> unit;
  const FusedSsimImage image = output_like(unit);
  const auto refuse = [&](const char* word, auto spoil) {
    FusedSsimScaleRequest request = fused_ssim_scale_request(&problem, image, &upstream);
    spoil(request);
    expect_refused(fused_ssim_cpu_scale(&request), word);
  };
  expect_refused(fused_ssim_cpu_scale(nullptr), "FusedSsimScaleRequest");
  refuse("struct_size", [](auto& r) { r.struct_size = 1; });
  refuse("at least one pixel", [](auto& r) { r.sizes[FUSED_SSIM_AXIS_DEPTH] = 0; });
  refuse("reduction", [](auto& r) { r.reduction = 4; });
  refuse("null pointer", [](auto& r) { r.unit.data = nullptr; });
  refuse("null pointer", [](auto& r) { r.out.data = nullptr; });
  refuse("null pointer", [](auto& r) { r.upstream = nullptr; });
  refuse("expected upstream at a multiple",
         [](auto& r) { r.upstream = reinterpret_cast<void*>(3); });
  refuse("strides of unit", [](auto& r) { r.unit.strides[0] = kMost; });
  refuse("dtype", [](auto& r) { r.unit.dtype = 5; });
  refuse("out in the dtype of unit", [](auto& r) { r.out.dtype = FUSED_SSIM_FLOAT64; });
  refuse("expected no out", [](auto& r) { r.unit.dtype = r.out.dtype = FUSED_SSIM_UINT8; });
  refuse("memory of its own", [](auto& r) { r.out.strides[1] = 0; });
  refuse("factor", [](auto& r) { r.factor = kNan; });
}

// A program compiled with a newer header: fine as long as it asks for nothing new.
void test_larger_structures() {
  const Images images;
  const FusedSsimProblem problem = images.problem();
  struct {
    FusedSsimRequest request;
    int64_t news;
  } larger = {fused_ssim_request(), 0};
  float value = 0;
  larger.request.struct_size = sizeof(larger);
  larger.request.value = &value;
  EXPECT(fused_ssim_cpu_run(&problem, &larger.request, 1) == FUSED_SSIM_OK,
         fused_ssim_last_error());
  larger.news = 1;
  expect_refused(fused_ssim_cpu_run(&problem, &larger.request, 1), "update fused_ssim");
}

#ifndef __SANITIZE_ADDRESS__  // which ends a program that asks for so much
void test_memory_that_is_not_there() {
  // Images that repeat one pixel may be as large as they like, but the sums need memory.
  const float pixel = 0.5f;
  FusedSsimImage image = fused_ssim_planar(&pixel, 0, 0, 0);
  image.strides[FUSED_SSIM_AXIS_COLUMN] = 0;
  const FusedSsimProblem problem = fused_ssim_problem(int64_t{1} << 55, 1, 1, 1, image, image);
  float value = 0;
  FusedSsimRequest request = fused_ssim_request();
  request.value = &value;
  const FusedSsimStatus status = fused_ssim_cpu_run(&problem, &request, 1);
  EXPECT(status == FUSED_SSIM_OUT_OF_MEMORY, std::to_string(status) + fused_ssim_last_error());
}
#endif

void test_facts() {
  EXPECT(fused_ssim_kernels_abi() == FUSED_SSIM_KERNELS_ABI, "abi");
  const FusedSsimCpuInfo& info = *fused_ssim_cpu_info();
  EXPECT(std::string(info.version) == FUSED_SSIM_VERSION, info.version);
  EXPECT(std::string(info.levels_compiled).find("baseline") == 0, info.levels_compiled);
  EXPECT(std::string(info.levels_supported).find(info.level_active) != std::string::npos,
         info.level_active);
}

}  // namespace

int main() {
  test_results();
  test_gradient_of_sum();
  test_dtypes();
  test_windows_and_statistics();
  test_threads_and_plans();
  test_strides();
  test_scale();
  test_bad_problems();
  test_masks();
  test_bad_requests();
  test_bad_multiplications();
  test_larger_structures();
#ifndef __SANITIZE_ADDRESS__
  test_memory_that_is_not_there();
#endif
  test_facts();
  return check::report();
}
