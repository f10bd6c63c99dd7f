// The smallest harness that serves: EXPECT records a failure, `report` is what main() returns.
#pragma once

#include <cstdio>
#include <string>

namespace check {

inline int failures = 0;
inline long checks = 0;

inline void expect(bool ok, const std::string& what, const char* file, int line) {
  ++checks;
  if (!ok && ++failures <= 20) {
    std::printf("%s:%d: expected %s\n", file, line, what.c_str());
  }
}

inline int report() {
  std::printf("%ld checks, %d failures\n", checks, failures);
  return failures == 0 && checks > 0 ? 0 : 1;
}

}  // namespace check

#define EXPECT(condition, what) \
  check::expect((condition), std::string(#condition " for ") + (what), __FILE__, __LINE__)
