// libfused_ssim_kernels: the CPU kernels behind the public C interface.
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "c_api/requests.h"
#include "c_api/status.h"
#include "core/scales.h"
#include "core/taps.h"
#include "cpu/dispatch.h"
#include "cpu/levels.h"
#include "fused_ssim/kernels.h"
#include "fused_ssim/version.h"

using namespace fused_ssim;
using fused_ssim::c_api::failure;
using fused_ssim::c_api::guarded;

static_assert(FUSED_SSIM_CPU_ALIGNMENT == cpu::kWorkspaceAlignment);

// What a request needs from its first task to its last.
struct FusedSsimCpuPlan {
  FusedSsimCpuPlan(const FusedSsimProblem* given_problem, const FusedSsimRequest* given_request,
                   int32_t threads)
      : problem(c_api::problem_of(given_problem)),
        request(c_api::request_of(given_request, problem)),
        taps(own_taps(&problem)),
        plan(with_mask_sums(problem, request), checked_threads(threads)),
        sums(static_cast<std::size_t>(plan.slots())),
        workspace_bytes(cpu::workspace_bytes(problem, request, plan)) {}

  // The caller's taps may be gone before the plan is.
  static std::vector<double> own_taps(Problem* problem) {
    std::vector<double> taps;
    for (const Window& window : problem->windows) {
      taps.insert(taps.end(), window.taps, window.taps + window.size);
    }
    const double* next = taps.data();
    for (Window& window : problem->windows) {
      window.taps = next;
      next += window.size;
    }
    return taps;
  }

  static const Problem& with_mask_sums(const Problem& problem, const Request& request) {
    c_api::check_mask_sums(problem, request);
    return problem;
  }

  static int32_t checked_threads(int32_t threads) {
    if (threads < 1 || threads > kMaxThreads) {
      throw std::invalid_argument("expected a number of threads from 1 to " +
                                  std::to_string(kMaxThreads) + ", got " + std::to_string(threads));
    }
    return threads;
  }

  void run(int64_t begin, int64_t end, void* workspace) {
    cpu::run_tasks(problem, request, plan, begin, end, sums.data(),
                   static_cast<unsigned char*>(workspace));
  }

  void finish() { cpu::reduce(problem, request, plan, sums.data()); }

  static constexpr int32_t kMaxThreads = 1 << 20;

  Problem problem;
  Request request;
  std::vector<double> taps;
  cpu::Plan plan;
  std::vector<PixelSums> sums;
  int64_t workspace_bytes;
};

namespace {

struct FreeWorkspace {
  void operator()(unsigned char* workspace) const {
    ::operator delete[](workspace, std::align_val_t(cpu::kWorkspaceAlignment));
  }
};
using Workspace = std::unique_ptr<unsigned char[], FreeWorkspace>;

Workspace allocate_workspace(int64_t bytes) {
  return Workspace(static_cast<unsigned char*>(::operator new[](
      static_cast<std::size_t>(bytes), std::align_val_t(cpu::kWorkspaceAlignment))));
}

// Takes tasks until none is left; any number of threads at a time.
void take_tasks(FusedSsimCpuPlan& plan, std::atomic<int64_t>& next,
                std::atomic<bool>& out_of_memory) noexcept {
  try {
    const Workspace workspace = allocate_workspace(plan.workspace_bytes);
    const int64_t tasks = plan.plan.tasks();
    for (int64_t i = next.fetch_add(1); i < tasks; i = next.fetch_add(1)) {
      plan.run(i, i + 1, workspace.get());
    }
  } catch (const std::bad_alloc&) {
    out_of_memory = true;
  }
}

void run_on_threads(FusedSsimCpuPlan& plan, int32_t threads) {
  std::atomic<int64_t> next{0};
  std::atomic<bool> out_of_memory{false};
  std::vector<std::thread> others;
  const int64_t useful =
      std::min<int64_t>(threads, ceil_divide(plan.plan.tasks(), plan.plan.grain()));
  others.reserve(static_cast<std::size_t>(useful - 1));
  try {
    for (int64_t i = 1; i < useful; ++i) {
      others.emplace_back([&] { take_tasks(plan, next, out_of_memory); });
    }
  } catch (const std::system_error&) {
    // No more threads to be had: those there are do the work.
  }
  take_tasks(plan, next, out_of_memory);
  for (std::thread& other : others) {
    other.join();
  }
  if (out_of_memory) {
    throw std::bad_alloc();
  }
}

int64_t row_count(const int64_t* sizes) {
  return plane_count(sizes) * sizes[FUSED_SSIM_AXIS_DEPTH] * sizes[FUSED_SSIM_AXIS_ROW];
}

// Of both halves.
int64_t row_count(const HalveRequest& request) {
  const HalvedAxes axes = halved_axes(request);
  const int64_t rows = plane_count(request.sizes) * axes.depth.cells * axes.row.cells;
  return request.images[1].data == nullptr ? rows : 2 * rows;
}

constexpr const char* kRows = "batch * channels * depth * height";

void check_rows(int64_t begin, int64_t end, int64_t rows, const char* expected) {
  if (begin < 0 || begin > end || end > rows) {
    throw std::invalid_argument(std::string("expected 0 <= begin <= end <= ") + expected);
  }
}

std::string names_of_levels(bool (*wanted)(cpu::Level)) {
  std::string names;
  for (const cpu::Level level : {cpu::Level::kBaseline, cpu::Level::kAvx2, cpu::Level::kAvx512}) {
    if (wanted(level)) {
      names += names.empty() ? "" : " ";
      names += cpu::level_name(level);
    }
  }
  return names;
}

FusedSsimCpuInfo collect_info() {
  static const std::string compiled = names_of_levels(cpu::level_compiled);
  static const std::string supported = names_of_levels(cpu::level_supported);
  FusedSsimCpuInfo info = {};
  info.version = FUSED_SSIM_VERSION;
  info.levels_compiled = compiled.c_str();
  info.levels_supported = supported.c_str();
  info.level_active = cpu::level_name(cpu::active_level(&info.level_error));
  info.compiler = FUSED_SSIM_COMPILER;
  return info;
}

}  // namespace

int32_t fused_ssim_kernels_abi() { return FUSED_SSIM_KERNELS_ABI; }

const char* fused_ssim_last_error() { return c_api::last_error().c_str(); }

FusedSsimStatus fused_ssim_gaussian_taps(int32_t size, double sigma, double* taps) {
  return guarded([&] {
    c_api::check_window_size("window", size);
    c_api::check_positive("sigma", sigma);
    if (taps == nullptr) {
      return failure(FUSED_SSIM_INVALID_ARGUMENT, "expected a place for taps, got a null pointer");
    }
    gaussian_taps(size, sigma, taps);
    return FusedSsimStatus{FUSED_SSIM_OK};
  });
}

FusedSsimStatus fused_ssim_map_sizes(const FusedSsimProblem* problem,
                                     int64_t sizes[FUSED_SSIM_AXES]) {
  return guarded([&] {
    const Problem checked = c_api::sizes_of(problem);
    if (sizes == nullptr) {
      return failure(FUSED_SSIM_INVALID_ARGUMENT, "expected a place for sizes, got a null pointer");
    }
    map_sizes_of(checked, sizes);
    return FusedSsimStatus{FUSED_SSIM_OK};
  });
}

FusedSsimStatus fused_ssim_reduction(const int64_t map_sizes[FUSED_SSIM_AXES], int32_t reduction,
                                     int64_t* values, int64_t* divisor) {
  return guarded([&] {
    if (map_sizes == nullptr) {
      return failure(FUSED_SSIM_INVALID_ARGUMENT, "expected the map's sizes, got a null pointer");
    }
    c_api::check_sizes(map_sizes);
    c_api::check_reduction(reduction);
    if (values != nullptr) {
      *values = value_count(reduction, map_sizes);
    }
    if (divisor != nullptr) {
      *divisor = reduction_divisor(reduction, map_sizes);
    }
    return FusedSsimStatus{FUSED_SSIM_OK};
  });
}

const FusedSsimCpuInfo* fused_ssim_cpu_info() {
  static const FusedSsimCpuInfo info = collect_info();
  return &info;
}

FusedSsimStatus fused_ssim_cpu_run(const FusedSsimProblem* problem, const FusedSsimRequest* request,
                                   int32_t threads) {
  return guarded([&] {
    const int32_t wanted =
        threads != 0 ? threads
                     : static_cast<int32_t>(std::max(1u, std::thread::hardware_concurrency()));
    FusedSsimCpuPlan plan(problem, request, wanted);
    run_on_threads(plan, wanted);
    plan.finish();
    return FusedSsimStatus{FUSED_SSIM_OK};
  });
}

FusedSsimStatus fused_ssim_cpu_mask_sums(const FusedSsimProblem* given, int32_t reduction,
                                         void* sums) {
  return guarded([&] {
    const Problem problem = c_api::problem_of(given);
    c_api::check_reduction(reduction);
    c_api::check_place_of_mask_sums(problem, sums);
    cpu::mask_sums(problem, reduction, sums);
    return FusedSsimStatus{FUSED_SSIM_OK};
  });
}

FusedSsimStatus fused_ssim_cpu_scale_rows(const FusedSsimScaleRequest* request, int64_t begin,
                                          int64_t end) {
  return guarded([&] {
    const ScaleRequest scale = c_api::scale_request_of(request);
    check_rows(begin, end, row_count(scale.sizes), kRows);
    cpu::scale_rows(scale, begin, end);
    return FusedSsimStatus{FUSED_SSIM_OK};
  });
}

FusedSsimStatus fused_ssim_cpu_halve_rows(const FusedSsimHalveRequest* request, int64_t begin,
                                          int64_t end) {
  return guarded([&] {
    const HalveRequest halve = c_api::halve_request_of(request);
    check_rows(begin, end, row_count(halve),
               "batch * channels * halved depth * halved height of all halves");
    cpu::halve_rows(halve, begin, end);
    return FusedSsimStatus{FUSED_SSIM_OK};
  });
}

FusedSsimStatus fused_ssim_cpu_accumulate_rows(const FusedSsimAccumulateRequest* request,
                                               int64_t begin, int64_t end) {
  return guarded([&] {
    const AccumulateRequest accumulate = c_api::accumulate_request_of(request);
    check_rows(begin, end, row_count(accumulate.sizes), kRows);
    cpu::accumulate_rows(accumulate, begin, end);
    return FusedSsimStatus{FUSED_SSIM_OK};
  });
}

FusedSsimStatus fused_ssim_cpu_factors(const FusedSsimFactorsRequest* request) {
  return guarded([&] {
    const FactorsRequest factors = c_api::factors_request_of(request);
    for (int64_t plane = 0; plane < factors.planes; ++plane) {
      multiply_factors(factors, plane,
                       [&](int64_t scale) { return factor_of(factors, scale, plane); });
    }
    return FusedSsimStatus{FUSED_SSIM_OK};
  });
}

FusedSsimStatus fused_ssim_cpu_scale(const FusedSsimScaleRequest* request) {
  return guarded([&] {
    const ScaleRequest scale = c_api::scale_request_of(request);
    cpu::scale_rows(scale, 0, row_count(scale.sizes));
    return FusedSsimStatus{FUSED_SSIM_OK};
  });
}

FusedSsimStatus fused_ssim_cpu_plan_create(const FusedSsimProblem* problem,
                                           const FusedSsimRequest* request, int32_t threads,
                                           FusedSsimCpuPlan** plan) {
  return guarded([&] {
    if (plan == nullptr) {
      return failure(FUSED_SSIM_INVALID_ARGUMENT,
                     "expected a place for the plan, got a null pointer");
    }
    *plan = new FusedSsimCpuPlan(problem, request, threads);
    return FusedSsimStatus{FUSED_SSIM_OK};
  });
}

int64_t fused_ssim_cpu_plan_tasks(const FusedSsimCpuPlan* plan) {
  return plan == nullptr ? 0 : plan->plan.tasks();
}

int64_t fused_ssim_cpu_plan_grain(const FusedSsimCpuPlan* plan) {
  return plan == nullptr ? 1 : plan->plan.grain();
}

int64_t fused_ssim_cpu_plan_workspace_bytes(const FusedSsimCpuPlan* plan) {
  return plan == nullptr ? 0 : plan->workspace_bytes;
}

FusedSsimStatus fused_ssim_cpu_plan_run(FusedSsimCpuPlan* plan, int64_t begin, int64_t end,
                                        void* workspace) {
  return guarded([&] {
    if (plan == nullptr || begin < 0 || begin > end || end > plan->plan.tasks()) {
      return failure(FUSED_SSIM_INVALID_ARGUMENT,
                     "expected a plan and 0 <= begin <= end <= its number of tasks");
    }
    if (workspace == nullptr ||
        reinterpret_cast<std::uintptr_t>(workspace) % FUSED_SSIM_CPU_ALIGNMENT != 0) {
      return failure(FUSED_SSIM_INVALID_ARGUMENT,
                     "expected a workspace aligned to FUSED_SSIM_CPU_ALIGNMENT bytes");
    }
    plan->run(begin, end, workspace);
    return FusedSsimStatus{FUSED_SSIM_OK};
  });
}

FusedSsimStatus fused_ssim_cpu_plan_finish(FusedSsimCpuPlan* plan) {
  return guarded([&] {
    if (plan == nullptr) {
      return failure(FUSED_SSIM_INVALID_ARGUMENT, "expected a plan, got a null pointer");
    }
    plan->finish();
    return FusedSsimStatus{FUSED_SSIM_OK};
  });
}

void fused_ssim_cpu_plan_destroy(FusedSsimCpuPlan* plan) { delete plan; }
