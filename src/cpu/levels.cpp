#include "cpu/levels.h"

#include <cstdlib>
#include <string>

namespace fused_ssim::cpu {
namespace {

constexpr Level kLevels[] = {Level::kBaseline, Level::kAvx2, Level::kAvx512};

struct Choice {
  Level level = Level::kBaseline;
  std::string error;
};

Choice choose_level() {
  Choice choice;
  for (const Level level : kLevels) {
    if (level_supported(level)) {
      choice.level = level;
    }
  }
  const char* wanted = std::getenv(kLevelVariable);
  if (wanted == nullptr || *wanted == '\0') {
    return choice;
  }
  for (const Level level : kLevels) {
    if (std::string(wanted) == level_name(level)) {
      if (level_supported(level)) {
        choice.level = level;
      } else {
        choice.error = std::string(kLevelVariable) + "=" + wanted + ", but " +
                       (level_compiled(level) ? "this processor can't run it"
                                              : "this build does not contain it") +
                       "; using " + level_name(choice.level);
      }
      return choice;
    }
  }
  choice.error = std::string(kLevelVariable) + "=" + wanted +
                 " is unknown: expected baseline, avx2 or avx512; using " +
                 level_name(choice.level);
  return choice;
}

}  // namespace

const char* level_name(Level level) {
  switch (level) {
    case Level::kAvx2:
      return "avx2";
    case Level::kAvx512:
      return "avx512";
    default:
      return "baseline";
  }
}

bool level_compiled(Level level) {
  switch (level) {
    case Level::kBaseline:
      return true;
    case Level::kAvx2:
#ifdef FUSED_SSIM_CPU_AVX2
      return true;
#else
      return false;
#endif
    case Level::kAvx512:
#ifdef FUSED_SSIM_CPU_AVX512
      return true;
#else
      return false;
#endif
  }
  return false;
}

bool level_supported(Level level) {
  if (!level_compiled(level)) {
    return false;
  }
#if defined(__x86_64__) || defined(__i386__)
  // The compiler's check includes that the operating system saves the registers.
  __builtin_cpu_init();
  switch (level) {
    case Level::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("f16c");
    case Level::kAvx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    case Level::kBaseline:
      return true;
  }
#endif
  return level == Level::kBaseline;
}

Level active_level(const char** error) {
  static const Choice choice = choose_level();
  if (error != nullptr) {
    *error = choice.error.empty() ? nullptr : choice.error.c_str();
  }
  return choice.level;
}

}  // namespace fused_ssim::cpu
