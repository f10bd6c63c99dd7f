// The backward multiply: per plane, per image, overall; strided and in place; every storage type.
#include <vector>

#include "check.h"
#include "cpu/convert.h"
#include "cpu/dispatch.h"

using namespace fused_ssim;
using namespace fused_ssim::cpu;

namespace {

template <class Element, class T>
void compare(DType dtype, int64_t planes_per_value, bool channels_last, bool in_place) {
  const Shape shape = {2, 3, 5, 7};
  const int64_t elements = shape.planes() * shape.height * shape.width;
  std::vector<Element> unit(static_cast<std::size_t>(elements));
  std::vector<T> values(unit.size());
  for (std::size_t i = 0; i < unit.size(); ++i) {
    narrow(static_cast<T>(0.125 * static_cast<double>(i % 37) - 2.0), &unit[i]);
    widen(unit[i], &values[i]);
  }
  std::vector<Element> out(unit.size());
  std::vector<T> upstream;
  for (int64_t i = 0; i < shape.planes() / planes_per_value; ++i) {
    upstream.push_back(static_cast<T>(i + 1));
  }
  ScaleRequest request;
  request.shape = shape;
  request.dtype = dtype;
  request.unit.data = unit.data();
  request.unit.stride_batch = 3 * 5 * 7;
  request.unit.stride_channel = channels_last ? 1 : 5 * 7;
  request.unit.stride_row = channels_last ? 3 * 7 : 7;
  request.unit.stride_column = channels_last ? 3 : 1;
  request.out.data = in_place ? unit.data() : out.data();
  request.out.stride_batch = request.unit.stride_batch;
  request.out.stride_channel = request.unit.stride_channel;
  request.out.stride_row = request.unit.stride_row;
  request.out.stride_column = request.unit.stride_column;
  request.upstream = upstream.data();
  request.planes_per_value = planes_per_value;
  request.factor = 0.5;
  scale_rows(request, 0, 13);  // any split of the rows
  scale_rows(request, 13, shape.planes() * shape.height);
  const std::vector<Element>& result = in_place ? unit : out;
  for (int64_t i = 0; i < elements; ++i) {
    const int64_t batch = i / (3 * 5 * 7);
    const int64_t channel = channels_last ? i % 3 : i / (5 * 7) % 3;
    const int64_t plane = batch * 3 + channel;
    T got;
    widen(result[static_cast<std::size_t>(i)], &got);
    const T expected = values[static_cast<std::size_t>(i)] *
                       upstream[static_cast<std::size_t>(plane / planes_per_value)] * T(0.5);
    EXPECT(got == expected, "dtype " + std::to_string(static_cast<int>(dtype)) +
                                ", planes per value " + std::to_string(planes_per_value));
  }
}

}  // namespace

int main() {
  for (const int64_t planes_per_value : {1, 3, 6}) {
    for (const bool channels_last : {false, true}) {
      for (const bool in_place : {false, true}) {
        compare<float, float>(DType::kFloat32, planes_per_value, channels_last, in_place);
        compare<double, double>(DType::kFloat64, planes_per_value, channels_last, in_place);
        compare<Float16, float>(DType::kFloat16, planes_per_value, channels_last, in_place);
        compare<BFloat16, float>(DType::kBFloat16, planes_per_value, channels_last, in_place);
      }
    }
  }
  return check::report();
}
