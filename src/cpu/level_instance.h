// Instantiates the kernels for one level; included by level_*.cpp alone, each compiled with the
// flags of its instruction set.
#pragma once

#include "cpu/level_functions.h"
#include "cpu/mask_sum.h"
#include "cpu/pyramid.h"
#include "cpu/scale.h"
#include "cpu/strip.h"
#include "cpu/uniform.h"
#include "cpu/volume.h"

namespace fused_ssim::cpu {

template <class Arch>
struct LevelInstance {
  static int64_t workspace_bytes(const Problem& problem, const Request& request,
                                 int64_t strip_size) {
    switch (schedule_of(problem, request)) {
      case Schedule::kUniform:
        return UniformKernel<Arch, 1>(problem, request, nullptr).workspace_bytes();
      case Schedule::kUniformInterleaved:
        return UniformKernel<Arch, 3>(problem, request, nullptr).workspace_bytes();
      case Schedule::kVolume:
        return accumulates_in_double(problem)
                   ? VolumeKernel<Arch, double>(problem, request, strip_size, nullptr)
                         .workspace_bytes()
                   : VolumeKernel<Arch, float>(problem, request, strip_size, nullptr)
                         .workspace_bytes();
      default:
        break;
    }
    int64_t bytes = 0;
    visit(problem, request, [&](auto strip) __attribute__((always_inline)) {
      using Kernel = typename decltype(strip)::template Type<AnyFilter>;  // the others', too
      bytes = Kernel(problem, request, strip_size, nullptr).workspace_bytes();
    });
    return bytes;
  }

  static void run(const Problem& problem, const Request& request, const Task* tasks,
                  int64_t task_count, int64_t strip_size, unsigned char* workspace) {
    const Schedule schedule = schedule_of(problem, request);
    switch (schedule) {
      case Schedule::kUniform:
        return run_uniform<1>(problem, request, tasks, task_count, workspace);
      case Schedule::kUniformInterleaved:
        return run_uniform<3>(problem, request, tasks, task_count, workspace);
      default:
        break;
    }
    // Statistics, |x - y| and (x - y)^2 are symmetric: the gradient of img2 alone is that of img1
    // with the two exchanged.
    Problem exchanged_problem = problem;
    Request exchanged_request = request;
    if (request.grad1.data == nullptr && request.grad2.data != nullptr) {
      exchanged_problem.img1 = problem.img2;
      exchanged_problem.img2 = problem.img1;
      exchanged_request.grad1 = request.grad2;
      exchanged_request.grad2 = Image();
    }
    if (schedule == Schedule::kVolume) {
      const auto run_with =
          accumulates_in_double(problem) ? &run_volume<double> : &run_volume<float>;
      return run_with(exchanged_problem, exchanged_request, tasks, task_count, strip_size,
                      workspace);
    }
    visit(exchanged_problem, exchanged_request, [&](auto strip) __attribute__((always_inline)) {
      run_strips<decltype(strip)>(exchanged_problem, exchanged_request, tasks, task_count,
                                  strip_size, workspace);
    });
  }

 private:
  template <class T, int kImages, bool kMerged>
  struct Strip {
    static constexpr bool kHasFixed = !kMerged || sizeof(T) == sizeof(float);
    static constexpr bool kHasShort = sizeof(T) == sizeof(float) && !kMerged;
    static constexpr bool kHasAny = !kMerged || kImages == 2;
    template <template <class> class Filter>
    using Type = StripKernel<Arch, T, Filter, kImages, kMerged>;
  };

  template <class Visitor>
  static FUSED_SSIM_INLINE void visit(const Problem& problem, const Request& request,
                                      Visitor visitor) {
    if (accumulates_in_double(problem)) {
      visit_mask<double>(problem, request, visitor);
    } else {
      visit_mask<float>(problem, request, visitor);
    }
  }

  template <class T, class Visitor>
  static FUSED_SSIM_INLINE void visit_mask(const Problem& problem, const Request& request,
                                           Visitor visitor) {
    const bool wants_both = request.grad1.data != nullptr && request.grad2.data != nullptr;
    const int images = wants_both ? 2 : wants_gradient(request) ? 1 : 0;
    if (!has_merged_variances(problem)) {
      visit_images<T, false>(images, visitor);
    } else if (sizeof(T) == sizeof(float) && window_kind(problem) == WindowKind::kFixed) {
      visit_images<float, true>(images, visitor);
    } else {
      visitor(Strip<T, 2, true>());  // for any window and any gradients: less to compile
    }
  }

  template <class T, bool kMerged, class Visitor>
  static FUSED_SSIM_INLINE void visit_images(int images, Visitor visitor) {
    switch (images) {
      case 0:
        return visitor(Strip<T, 0, kMerged>());
      case 1:
        return visitor(Strip<T, 1, kMerged>());
      default:
        return visitor(Strip<T, 2, kMerged>());
    }
  }

  template <class Strip>
  static void run_strips(const Problem& problem, const Request& request, const Task* tasks,
                         int64_t task_count, int64_t strip_size, unsigned char* workspace) {
    const auto run_with = [&](auto strip) __attribute__((always_inline)) {
      for (int64_t i = 0; i < task_count; ++i) {
        strip.run(tasks[i]);
      }
    };
    switch (window_kind(problem)) {
      case WindowKind::kFixed:
        if constexpr (Strip::kHasFixed) {
          return run_with(
              typename Strip::template Type<FixedFilter>(problem, request, strip_size, workspace));
        }
        [[fallthrough]];
      case WindowKind::kShort:
        if constexpr (Strip::kHasShort) {
          return run_with(
              typename Strip::template Type<ShortFilter>(problem, request, strip_size, workspace));
        }
        [[fallthrough]];
      default:
        if constexpr (Strip::kHasAny) {
          return run_with(
              typename Strip::template Type<AnyFilter>(problem, request, strip_size, workspace));
        }
    }
  }

  template <class T>
  static void run_volume(const Problem& problem, const Request& request, const Task* tasks,
                         int64_t task_count, int64_t tile_rows, unsigned char* workspace) {
    VolumeKernel<Arch, T> kernel(problem, request, tile_rows, workspace);
    for (int64_t i = 0; i < task_count; ++i) {
      kernel.run(tasks[i]);
    }
  }

  template <int kChannels>
  static void run_uniform(const Problem& problem, const Request& request, const Task* tasks,
                          int64_t task_count, unsigned char* workspace) {
    UniformKernel<Arch, kChannels> kernel(problem, request, workspace);
    for (int64_t i = 0; i < task_count; ++i) {
      kernel.run(tasks[i]);
    }
  }
};

template <class Arch>
constexpr LevelFunctions level_functions() {
  return {&LevelInstance<Arch>::workspace_bytes,
          &LevelInstance<Arch>::run,
          &ScaleKernel<Arch>::run,
          &PyramidKernel<Arch>::halve_rows,
          &PyramidKernel<Arch>::accumulate_rows,
          &MaskSum<Arch>::run};
}

}  // namespace fused_ssim::cpu
