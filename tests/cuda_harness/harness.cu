// Checks and times the CUDA kernels alone, without torch: windows, data types, statistics, strides
// and sizes against a plain float64 reference on the CPU.
//
//   nvcc -std=c++17 -O3 -arch=sm_90 -Iinclude -Isrc '-DFUSED_SSIM_CUDA_ARCHITECTURES="sm_90"'
//       -o harness tests/cuda_harness/harness.cu src/cuda/*.cu
//   ./harness test | images | small | masks | huge | bench | quick | rows NAME... | volumes NAME...
//   ./harness choices | crossover | residents
//   ./harness profile NAME [SIZE]
//
// `images` is the last part of `test`. `small` reaches every kernel and loader with few pixels: for
// compute-sanitizer; `masks` is its part with masks. `profile` runs a
// row of `bench` at one of its sizes, of which the first is 0: for a profiler.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "bench.h"
#include "checks.h"
#include "cuda/ssim_cuda.h"

using namespace harness;

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "test";
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, 0), "device");
  std::printf("%s, %d multiprocessors, built for %s\n", properties.name,
              properties.multiProcessorCount, fs::cuda::architectures());
  const std::map<std::string, std::function<void()>> modes = {
      {"test", test_all},
      {"small", test_small},
      {"masks", test_small_masks},
      {"images", test_images},
      {"huge", test_huge},
      {"bench", [] { copy_bandwidth(), bench_rows({}); }},
      {"quick", [] { bench_rows({"value + gradient", "value"}); }},
      {"rows", [&] { bench_rows({argv + 2, argv + argc}); }},
      {"volumes", [&] { bench_rows({argv + 2, argv + argc}, volume_table(), kVolumes); }},
      {"choices", bench_choices},
      {"crossover", bench_crossover},
      {"residents", bench_residents},
      {"profile", [&] {
         const size_t size = argc > 3 ? std::strtoul(argv[3], nullptr, 10) : 2;
         const auto profile = [&](const std::vector<Row>& table, const std::vector<Shape>& shapes) {
           for (const Row& row : table) {
             if (argc > 2 && row.first == argv[2])
               std::printf("%.2f us\n", row.second(shapes.at(size)));
           }
         };
         profile(bench_table(), kShapes);
         profile(volume_table(), kVolumes);
       }}};
  const auto found = modes.find(mode);
  if (found == modes.end()) {
    std::printf("expected one of the modes at the top of harness.cu, got '%s'\n", mode.c_str());
    return 2;
  }
  found->second();
  if (cases_run > 0 || mode == "huge") {
    for (const auto& [reason, count] : refused) {
      std::printf("not served: %d cases: %s\n", count, reason.c_str());
    }
    std::printf("%s: %d cases, %d failures\n", failures ? "FAILED" : "passed", cases_run, failures);
  }
  return failures ? 1 : 0;
}
