// The backward multiply: per plane, per image, overall; strided and in place; every storage type.
#include <vector>

#include "check.h"
#include "cpu/convert.h"
#include "cpu/dispatch.h"

using namespace fused_ssim;
using namespace fused_ssim::cpu;

namespace {

template <class Element, class T>
void compare(int32_t dtype, int32_t reduction, bool channels_last, bool in_place) {
  constexpr int64_t kSizes[] = {2, 3, 2, 5, 7};
  const int64_t elements = plane_count(kSizes) * plane_pixels(kSizes);
  std::vector<Element> unit(static_cast<std::size_t>(elements));
  std::vector<T> values(unit.size());
  for (std::size_t i = 0; i < unit.size(); ++i) {
    narrow(static_cast<T>(0.125 * static_cast<double>(i % 37) - 2.0), &unit[i]);
    widen(unit[i], &values[i]);
  }
  std::vector<Element> out(unit.size());
  std::vector<T> upstream;
  for (int64_t i = 0; i < value_count(reduction, kSizes); ++i) {
    upstream.push_back(static_cast<T>(i + 1));
  }
  ScaleRequest request = {};
  for (int axis = 0; axis < FUSED_SSIM_AXES; ++axis) {
    request.sizes[axis] = kSizes[axis];
  }
  request.unit = {unit.data(), {3 * 70, 70, 35, 7, 1}, dtype};
  if (channels_last) {
    request.unit = {unit.data(), {3 * 70, 1, 3 * 35, 3 * 7, 3}, dtype};
  }
  request.out = fused_ssim_output(in_place ? unit.data() : out.data(), request.unit);
  request.upstream = upstream.data();
  request.reduction = reduction;
  request.factor = 0.5;
  scale_rows(request, 0, 13);  // any split of the rows
  scale_rows(request, 13, plane_count(kSizes) * 2 * 5);
  const std::vector<Element>& result = in_place ? unit : out;
  for (int64_t i = 0; i < elements; ++i) {
    const int64_t batch = i / (3 * 70);
    const int64_t channel = channels_last ? i % 3 : i / 70 % 3;
    const int64_t plane = batch * 3 + channel;
    T got;
    widen(result[static_cast<std::size_t>(i)], &got);
    const T expected =
        values[static_cast<std::size_t>(i)] *
        upstream[static_cast<std::size_t>(plane / planes_per_value(reduction, kSizes))] * T(0.5);
    EXPECT(got == expected,
           "dtype " + std::to_string(dtype) + ", reduction " + std::to_string(reduction));
  }
}

}  // namespace

int main() {
  for (const int32_t reduction : {FUSED_SSIM_MEAN, FUSED_SSIM_IMAGE, FUSED_SSIM_CHANNEL}) {
    for (const bool channels_last : {false, true}) {
      for (const bool in_place : {false, true}) {
        compare<float, float>(FUSED_SSIM_FLOAT32, reduction, channels_last, in_place);
        compare<double, double>(FUSED_SSIM_FLOAT64, reduction, channels_last, in_place);
        compare<Float16, float>(FUSED_SSIM_FLOAT16, reduction, channels_last, in_place);
        compare<BFloat16, float>(FUSED_SSIM_BFLOAT16, reduction, channels_last, in_place);
      }
    }
  }
  return check::report();
}
