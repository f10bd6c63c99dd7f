// Every pixel and every slot belongs to exactly one task, however many threads there are.
#include <cstdint>
#include <vector>

#include "check.h"
#include "cpu/plan.h"

using namespace fused_ssim;
using namespace fused_ssim::cpu;

namespace {

void test_merging() {
  const std::vector<double> uniform(3, 1.0 / 3);
  std::vector<double> narrow(kDefaultWindowSize);
  std::vector<double> wider(kDefaultWindowSize);
  std::vector<double> standard(kDefaultWindowSize);
  gaussian_taps(kDefaultWindowSize, 1.0, wider.data());
  gaussian_taps(kDefaultWindowSize, 0.9, narrow.data());
  gaussian_taps(kDefaultWindowSize, kDefaultSigma, standard.data());
  const auto problem = [](const std::vector<double>& taps, int64_t side) {
    Problem result = fused_ssim_problem(1, 1, side, side, Image(), Image());
    result.img1.dtype = result.img2.dtype = FUSED_SSIM_FLOAT32;
    for (const SpatialAxis axis : {kHeight, kWidth}) {
      result.windows[axis] = {taps.data(), static_cast<int32_t>(taps.size())};
    }
    return result;
  };
  EXPECT(!has_merged_variances(problem(standard, 11)), "the standard window");
  EXPECT(has_merged_variances(problem(standard, 10)), "an image smaller than the window");
  EXPECT(has_merged_variances(problem(narrow, 20)), "a narrow window");
  EXPECT(!has_merged_variances(problem(wider, 20)), "a sigma of 1");
  EXPECT(!has_merged_variances(problem(uniform, 20)), "three taps of images");
  Problem other = problem(uniform, 20);
  other.windows[kDepth] = other.windows[kWidth];
  EXPECT(has_merged_variances(other), "three taps of volumes");
  other = problem(standard, 20);
  other.windows[kHeight] = {narrow.data(), kDefaultWindowSize};
  EXPECT(has_merged_variances(other), "narrow along one axis");
  other = problem(standard, 10);
  other.sizes[FUSED_SSIM_AXIS_COLUMN] = 11;
  EXPECT(!has_merged_variances(other), "smaller along one axis alone");
  other = problem(narrow, 20);
  other.img2.dtype = FUSED_SSIM_FLOAT64;
  EXPECT(!has_merged_variances(other), "float64");
  other = problem(narrow, 20);
  other.statistic = FUSED_SSIM_STATISTIC_LUMINANCE;
  EXPECT(!has_merged_variances(other), "luminance");
}

void test_volumes() {
  std::vector<double> taps(kDefaultWindowSize);
  gaussian_taps(kDefaultWindowSize, kDefaultSigma, taps.data());
  for (const int64_t depth : {1, 8, 9, 100}) {
    for (const int64_t height : {1, 8, 9, 250}) {
      for (const int64_t width : {1, 100, 1000, 40000}) {
        for (const int threads : {1, 2, 5, 64}) {
          Problem problem = fused_ssim_problem(1, 2, height, width, Image(), Image());
          problem.sizes[FUSED_SSIM_AXIS_DEPTH] = depth;
          for (Window& window : problem.windows) {
            window = {taps.data(), kDefaultWindowSize};
          }
          const Plan plan(problem, threads);
          const std::string name = std::to_string(depth) + " x " + std::to_string(height) + " x " +
                                   std::to_string(width) + ", threads " + std::to_string(threads);
          std::vector<ChunkSums> slots(static_cast<std::size_t>(plan.slots()));
          std::vector<int> owners(slots.size(), 0);
          int64_t voxels = 0;
          for (int64_t i = 0; i < plan.tasks(); ++i) {
            const Task task = plan.task(i, slots.data());
            const int64_t rows = task.row_end - task.row_begin;
            EXPECT(rows > 0 && rows <= plan.strip_size() && task.row_begin % kChunkRows == 0, name);
            EXPECT(rows * width <= kMaxTileColumns || rows <= kChunkRows, name);
            for (int64_t chunk = task.chunk_begin; chunk < task.chunk_end; ++chunk) {
              for (int64_t group = 0; group * kChunkRows < rows; ++group) {
                ++owners[static_cast<std::size_t>(task.sums + group * task.slots_per_group + chunk -
                                                  slots.data())];
              }
              for (int64_t z = chunk * kChunkRows; z < (chunk + 1) * kChunkRows; ++z) {
                voxels += z >= 0 && z < depth ? rows * width : 0;
              }
            }
          }
          EXPECT(voxels == 2 * depth * height * width, name);
          for (const int count : owners) {
            EXPECT(count == 1, name);
          }
          EXPECT(plan.slots() == Plan(problem, 1).slots(), name);
        }
      }
    }
  }
}

}  // namespace

int main() {
  test_merging();
  test_volumes();
  for (const int64_t height : {1, 7, 8, 9, 95, 96, 97, 191, 192, 1080}) {
    for (const int64_t width : {int64_t{1}, int64_t{100}, kMaxStripColumns - 1, kMaxStripColumns,
                                kMaxStripColumns + 1, 3 * kMaxStripColumns + 7}) {
      for (const int window : {3, 11, 33}) {
        for (const int threads : {1, 2, 3, 64}) {
          std::vector<double> taps(static_cast<std::size_t>(window));
          gaussian_taps(window, 1.5, taps.data());
          Problem problem = fused_ssim_problem(1, 2, height, width, Image(), Image());
          problem.windows[kHeight] = {taps.data(), window};
          problem.windows[kWidth] = problem.windows[kHeight];
          const Plan plan(problem, threads);
          const std::string name = std::to_string(height) + " x " + std::to_string(width) +
                                   ", window " + std::to_string(window) + ", threads " +
                                   std::to_string(threads);
          std::vector<ChunkSums> slots(static_cast<std::size_t>(plan.slots()));
          std::vector<int> owners(slots.size(), 0);
          int64_t pixels = 0;
          for (int64_t i = 0; i < plan.tasks(); ++i) {
            const Task task = plan.task(i, slots.data());
            EXPECT(task.column_end - task.column_begin <= kMaxStripColumns, name);
            EXPECT(task.column_begin < task.column_end && task.chunk_begin < task.chunk_end, name);
            for (int64_t chunk = task.chunk_begin; chunk < task.chunk_end; ++chunk) {
              ++owners[static_cast<std::size_t>(task.sums + chunk - slots.data())];
              for (int64_t row = chunk * kChunkRows; row < (chunk + 1) * kChunkRows; ++row) {
                pixels += row >= 0 && row < height ? task.column_end - task.column_begin : 0;
              }
            }
          }
          EXPECT(pixels == 2 * height * width, name);
          for (const int count : owners) {
            EXPECT(count == 1, name);
          }
          EXPECT(plan.slots() == Plan(problem, 1).slots(), name);
          const int64_t rows = (height + kChunkRows - 1) / kChunkRows * kChunkRows;
          if (2 * rows * width < kMinThreadPixels) {
            EXPECT(plan.grain() >= plan.tasks(), name + ": a small image stays on one thread");
          } else if (rows * width > 64 * kMinThreadPixels && threads == 2) {
            EXPECT(plan.grain() == 1, name + ": a large one does not");
          }
        }
      }
    }
  }
  const auto kind = [](std::vector<double> rows, std::vector<double> columns) {
    Problem problem = fused_ssim_problem(1, 1, 20, 20, Image(), Image());
    problem.windows[kHeight] = {rows.data(), static_cast<int32_t>(rows.size())};
    problem.windows[kWidth] = {columns.data(), static_cast<int32_t>(columns.size())};
    return window_kind(problem);
  };
  std::vector<double> standard(kDefaultWindowSize);
  gaussian_taps(kDefaultWindowSize, kDefaultSigma, standard.data());
  const std::vector<double> uniform(kDefaultWindowSize, 1.0 / kDefaultWindowSize);
  constexpr WindowKind kShort = kHasShortWindows ? WindowKind::kShort : WindowKind::kAny;
  EXPECT(kind(standard, standard) == WindowKind::kFixed, "11 taps");
  EXPECT(kind(standard, {0.25, 0.5, 0.25}) == kShort, "11 and 3 taps");
  EXPECT(kind(uniform, standard) == kShort, "uniform");
  EXPECT(kind({0.25, 0.5, 0.25}, {1.0}) == WindowKind::kShort, "up to 3 taps, in every build");
  EXPECT(kind(standard, {0.25, 0.25, 0.5}) == WindowKind::kAny, "asymmetric");
  EXPECT(kind({0.5, 0.0, 0.5}, standard) == WindowKind::kAny, "the largest not in the middle");
  EXPECT(kind(std::vector<double>(13, 1.0 / 13), standard) == WindowKind::kAny, "13 taps");
  int64_t product = 0;
  EXPECT(checked_multiply(INT64_C(3037000499), INT64_C(3037000499), &product), "below 2^63");
  EXPECT(!checked_multiply(INT64_C(1) << 32, INT64_C(1) << 31, &product), "2^63");
  return check::report();
}
