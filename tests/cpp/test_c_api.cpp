// The public C interface: results against the slow twin, every kind of bad argument, plans, threads,
// structures of other sizes, images from the bottom up.
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

FusedSsimOutput output_like(std::vector<float>& memory) {
  memory.assign(kElements, std::numeric_limits<float>::quiet_NaN());
  return fused_ssim_output(memory.data(), fused_ssim_planar(nullptr, kChannels, kHeight, kWidth));
}

void test_results() {
  const Images images;
  for (const bool valid : {false, true}) {
    FusedSsimProblem problem = images.problem();
    problem.padding = valid ? FUSED_SSIM_VALID : FUSED_SSIM_SAME;
    int64_t height = 0;
    int64_t width = 0;
    EXPECT(fused_ssim_map_size(&problem, &height, &width) == FUSED_SSIM_OK, "map size");
    EXPECT(height == kHeight - (valid ? 10 : 0) && width == kWidth - (valid ? 10 : 0), "map size");
    int64_t count = 0;
    EXPECT(fused_ssim_value_count(kBatch, kChannels, FUSED_SSIM_CHANNEL, &count) == FUSED_SSIM_OK,
           "count");
    EXPECT(count == kBatch * kChannels, "count");

    std::vector<float> values(kBatch * kChannels);
    std::vector<float> map(static_cast<std::size_t>(kBatch * kChannels * height * width));
    std::vector<float> grad1;
    std::vector<float> grad2;
    FusedSsimRequest request = fused_ssim_request();
    request.value = values.data();
    request.reduction = FUSED_SSIM_CHANNEL;
    request.map = map.data();
    request.grad1 = output_like(grad1);
    request.grad2 = output_like(grad2);
    EXPECT(fused_ssim_cpu_run(&problem, &request, 1) == FUSED_SSIM_OK, fused_ssim_last_error());

    fused_ssim::cpu::ReferenceDefinition definition;
    definition.valid = valid;
    double worst_map = 0;
    double worst_value = 0;
    double worst_gradient = 0;
    for (int64_t p = 0; p < kBatch * kChannels; ++p) {
      const auto plane = images.plane(p);
      const auto truth = reference_map(plane, definition);
      const int64_t crop = valid ? 5 : 0;
      double sum = 0;
      for (int64_t r = 0; r < height; ++r) {
        for (int64_t c = 0; c < width; ++c) {
          const double expected = truth[(r + crop) * kWidth + c + crop];
          sum += expected;
          worst_map = std::fmax(worst_map, std::fabs(map[(p * height + r) * width + c] - expected));
        }
      }
      worst_value = std::fmax(worst_value, std::fabs(values[p] - sum / (height * width)));
      const auto gradients =
          reference_gradients(plane, definition, std::vector<double>(kPixels, 1.0));
      for (int64_t i = 0; i < kPixels; ++i) {
        worst_gradient =
            std::fmax(worst_gradient, std::fabs(grad1[p * kPixels + i] - gradients.x[i]));
        worst_gradient =
            std::fmax(worst_gradient, std::fabs(grad2[p * kPixels + i] - gradients.y[i]));
      }
    }
    EXPECT(worst_map < 5e-6, std::to_string(worst_map));
    EXPECT(worst_value < 1e-6, std::to_string(worst_value));
    EXPECT(worst_gradient < 1e-4, std::to_string(worst_gradient));
  }
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
    image->data = static_cast<const float*>(image->data) + (kHeight - 1) * kWidth;
    image->stride_row = -kWidth;
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
  FusedSsimScaleRequest request = fused_ssim_scale_request(
      kBatch, kChannels, kHeight, kWidth,
      fused_ssim_output(unit.data(), fused_ssim_planar(nullptr, kChannels, kHeight, kWidth)),
      upstream);
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
  request.upstream = nullptr;
  EXPECT(fused_ssim_cpu_scale(&request) == FUSED_SSIM_INVALID_ARGUMENT, "upstream");
}

void expect_refused(FusedSsimStatus status, const char* word) {
  EXPECT(status == FUSED_SSIM_INVALID_ARGUMENT, std::string(word) + ": " + std::to_string(status));
  const std::string message = fused_ssim_last_error();
  EXPECT(message.find("expected") != std::string::npos, message);
  EXPECT(message.find(word) != std::string::npos, message + " | " + word);
}

void test_bad_problems() {
  const Images images;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto refuse = [&](const char* word, auto spoil) {
    FusedSsimProblem problem = images.problem();
    spoil(problem);
    float value = 0;
    FusedSsimRequest request = fused_ssim_request();
    request.value = &value;
    expect_refused(fused_ssim_cpu_run(&problem, &request, 1), word);
    EXPECT(value == 0, word);
  };
  refuse("struct_size", [](auto& p) { p.struct_size = 0; });
  refuse("struct_size", [](auto& p) { p.struct_size = std::numeric_limits<int64_t>::max(); });
  refuse("at least one pixel", [](auto& p) { p.batch = 0; });
  refuse("at least one pixel", [](auto& p) { p.width = -5; });
  refuse("2^56", [](auto& p) { p.height = int64_t{1} << 60; });
  refuse("2^56", [](auto& p) { p.batch = p.channels = int64_t{1} << 40; });
  refuse("dtype", [](auto& p) { p.dtype = 4; });
  refuse("dtype", [](auto& p) { p.dtype = -1; });
  refuse("padding", [](auto& p) { p.padding = 2; });
  for (const int32_t size : {-3, 0, 1, 2, 10, 35, std::numeric_limits<int32_t>::max()}) {
    refuse("window_size", [size](auto& p) { p.window_size = size; });
  }
  for (const double bad : {0.0, -1.0, nan, std::numeric_limits<double>::infinity()}) {
    refuse("sigma", [bad](auto& p) { p.sigma = bad; });
    refuse("C1", [bad](auto& p) { p.c1 = bad; });
    refuse("C2", [bad](auto& p) { p.c2 = bad; });
  }
  refuse("valid", [](auto& p) {
    p.padding = FUSED_SSIM_VALID;
    p.height = 10;
  });
  refuse("img1", [](auto& p) { p.img1.data = nullptr; });
  refuse("img2", [](auto& p) { p.img2.data = nullptr; });
  refuse("img1", [](auto& p) { p.img1.data = static_cast<const char*>(p.img1.data) + 1; });
  refuse("strides", [](auto& p) { p.img1.stride_row = int64_t{1} << 57; });
  refuse("strides", [](auto& p) { p.img2.stride_batch = std::numeric_limits<int64_t>::min(); });
  expect_refused(fused_ssim_cpu_run(nullptr, nullptr, 1), "FusedSsimProblem");
}

void test_bad_requests() {
  const Images images;
  const FusedSsimProblem problem = images.problem();
  float value = 0;
  const auto refuse = [&](const char* word, auto spoil, int32_t threads = 1) {
    FusedSsimRequest request = fused_ssim_request();
    request.value = &value;
    spoil(request);
    expect_refused(fused_ssim_cpu_run(&problem, &request, threads), word);
  };
  std::vector<float> grad;
  const FusedSsimOutput output = output_like(grad);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  refuse("struct_size", [](auto& r) { r.struct_size = 8; });
  refuse("reduction", [](auto& r) { r.reduction = 4; });
  refuse("reduction", [](auto& r) { r.reduction = -1; });
  refuse("ssim_weight", [nan](auto& r) { r.ssim_weight = nan; });
  refuse("l1_weight", [nan](auto& r) { r.l1_weight = nan; });
  refuse("offset", [nan](auto& r) { r.offset = nan; });
  refuse("value", [](auto& r) { r.value = static_cast<char*>(r.value) + 2; });
  refuse("map", [](auto& r) { r.map = reinterpret_cast<void*>(3); });
  refuse("grad1", [&](auto& r) {
    r.grad1 = output;
    r.grad1.stride_row = 0;
  });
  refuse("grad2", [&](auto& r) {
    r.grad2 = output;
    r.grad2.stride_column = int64_t{1} << 60;
  });
  refuse("threads", [](auto&) {}, -1);
  expect_refused(fused_ssim_cpu_run(&problem, nullptr, 1), "FusedSsimRequest");

  FusedSsimRequest request = fused_ssim_request();
  request.value = &value;
  expect_refused(fused_ssim_cpu_plan_create(&problem, &request, 1, nullptr), "plan");
  FusedSsimCpuPlan* plan = nullptr;
  expect_refused(fused_ssim_cpu_plan_create(&problem, &request, 0, &plan), "threads");
  EXPECT(plan == nullptr, "no plan");
  EXPECT(fused_ssim_cpu_plan_create(&problem, &request, 1, &plan) == FUSED_SSIM_OK, "plan");
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
  FusedSsimImage image = {&pixel, 0, 0, 0, 0};
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
  test_threads_and_plans();
  test_strides();
  test_scale();
  test_bad_problems();
  test_bad_requests();
  test_larger_structures();
#ifndef __SANITIZE_ADDRESS__
  test_memory_that_is_not_there();
#endif
  test_facts();
  return check::report();
}
