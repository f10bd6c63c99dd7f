// A case: what is asked of the kernels, run and compared with the reference.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "cuda/ssim_cuda.h"
#include "images.h"
#include "reference.h"

namespace harness {

// What a request asks for, in words; "weighted" are gradients of a weighted map.
struct Kind {
  std::string words;
  double l1, l2;
  bool value = has("value"), map = has("map"), grad1 = has("grad1"), grad2 = has("grad2");
  bool weighted = has("weighted"), mse = has("mse");

  Kind(const char* w, double l1_weight = 0, double l2_weight = 0)
      : words(w), l1(l1_weight), l2(l2_weight) {}
  bool has(const char* word) const { return words.find(word) != std::string::npos; }
};
const Kind kValue = "value";
const Kind kGradient = "value grad1";
const Kind kBoth = "value grad1 grad2";
const Kind kL1 = {"value grad1", 0.8};
const Kind kWeighted = "weighted grad1";
const Kind kMap = "map";
const Kind kMse = "value mse";
const std::vector<Kind> kKinds = {kValue,
                                  kGradient,
                                  kMap,
                                  kBoth,
                                  kL1,
                                  kWeighted,
                                  kMse,
                                  {"value grad2"},
                                  {"value map"},
                                  {"weighted grad2"},
                                  {"weighted grad1 grad2"},
                                  {"value", 0.7},
                                  {"value grad2", 0.25},
                                  {"value map grad1 grad2", 0.3},
                                  {"weighted grad1", 0.5},
                                  {"mse"},
                                  {"value map mse"},
                                  {"value grad1 grad2 mse", 0.6},
                                  {"value grad1 grad2", 0, 0.4},
                                  {"weighted grad1", 0.3, 0.5}};

struct Types {
  int32_t img1 = kFloat32, img2 = kFloat32;
};
const std::vector<Types> kTypes = {
    {kFloat32, kFloat32},  {kFloat16, kFloat16}, {kBFloat16, kBFloat16}, {kFloat64, kFloat64},
    {kUInt8, kUInt8},      {kFloat32, kUInt8},   {kUInt8, kFloat32},     {kFloat16, kUInt8},
    {kUInt8, kBFloat16},   {kFloat64, kUInt8},   {kUInt8, kFloat64},     {kFloat32, kFloat16},
    {kBFloat16, kFloat32}, {kFloat16, kBFloat16}};
struct Layouts {
  Layout img1 = Layout::kContiguous, img2 = Layout::kContiguous;
};

// Masks: of each plane its own, of all channels one, of all images one, and one of them without a
// pixel where there are several. Bytes are not only 0 and 1.
enum class Sharing { kNone, kChannels, kAll };
struct Mask {
  bool exists = false;
  int32_t dtype = kUInt8;
  Sharing sharing = Sharing::kAll;
  bool some_empty = false;
  bool normalized = false;

  double number(int64_t i, unsigned seed) const {
    const double r = random_number(i, seed);
    return r < 0.3 ? 0.0 : dtype == kUInt8 ? std::ceil(5 * r) : r;
  }
};
const std::vector<Mask> kMasks = {
    {true},
    {true, kUInt8, Sharing::kNone},
    {true, kUInt8, Sharing::kChannels, true},
    {true, kFloat32, Sharing::kAll},
    {true, kFloat32, Sharing::kNone, true},
    {true, kFloat16, Sharing::kNone},
    {true, kBFloat16, Sharing::kChannels},
    {true, kFloat64, Sharing::kNone},
    {true, kUInt8, Sharing::kAll, false, true},
    {true, kUInt8, Sharing::kChannels, true, true},
    {true, kFloat32, Sharing::kNone, true, true},
    {true, kFloat16, Sharing::kNone, false, true},
    {true, kBFloat16, Sharing::kAll, false, true},
    {true, kFloat64, Sharing::kChannels, false, true},
};

struct Case {
  Shape shape;
  Kind kind = kValue;
  Types types;
  Layouts layouts;
  Window window = kStandard;
  Content content = Content::kNoise;
  int32_t padding = FUSED_SSIM_SAME;
  int32_t reduction = FUSED_SSIM_MEAN;
  int32_t statistic = FUSED_SSIM_STATISTIC_SSIM;
  int32_t divisor = 255;  // of bytes
  Layout output_layout = Layout::kContiguous;
  bool gradient_of_sum = false;
  Mask mask;
  bool own_stabilizers = false;  // C1 and C2 of each image
  bool volume = false;           // timed alone: the channels are the depth

  bool has(int32_t dtype) const { return types.img1 == dtype || types.img2 == dtype; }
  double range() const { return has(kUInt8) && divisor == 1 ? 255.0 : 1.0; }
  int32_t accumulator() const { return has(kFloat64) ? kFloat64 : kFloat32; }
  int64_t crop(const Taps& taps) const {
    return padding == FUSED_SSIM_VALID ? static_cast<int64_t>(taps.size() / 2) : 0;
  }
  Shape map_shape() const {
    Shape s = shape;
    s.height -= 2 * crop(window.rows), s.width -= 2 * crop(window.columns);
    return s;
  }
  // The taps live as long as the case.
  fs::Problem problem(const fs::Image& img1, const fs::Image& img2) const {
    const Shape& s = shape;
    fs::Problem p = fused_ssim_problem(s.batch, s.channels, s.height, s.width, img1, img2);
    p.windows[fs::kDepth] = {kOneTap, 1};
    p.windows[fs::kHeight] = {window.rows.data(), static_cast<int32_t>(window.rows.size())};
    p.windows[fs::kWidth] = {window.columns.data(), static_cast<int32_t>(window.columns.size())};
    p.c1 *= range() * range(), p.c2 *= range() * range();
    p.padding = padding;
    p.statistic = statistic;
    p.uint8_divisor = divisor;
    return p;
  }
  fs::Request request() const {
    fs::Request r = fused_ssim_request();
    r.reduction = reduction;
    r.statistic_weight = kind.l1 != 0 ? -0.2 : 1.0;
    r.l1_weight = kind.l1;
    r.l2_weight = kind.l2;
    r.offset = kind.l1 != 0 ? 0.2 : 0.0;
    // The mean's gradient is below the smallest float16 numbers.
    r.gradient_of_sum = gradient_of_sum || has(kFloat16);
    return r;
  }
  static constexpr double kOneTap[] = {1.0};
};

int failures = 0;
int cases_run = 0;
std::map<std::string, int> refused;  // cases by the reason why the kernels do not serve them

// NaN fails. Beyond `limit` and up to `ceiling`, the kernels may be as far off as plain float32
// code, whose error is yardstick().
void report(const Case& c, bool strips, const char* what, double error, double limit,
            double ceiling = 0, const std::function<double()>& yardstick = nullptr) {
  if (error <= limit) return;
  if (yardstick && error <= ceiling) {
    limit = std::min(ceiling, std::max(limit, yardstick()));
    if (error <= limit) return;
  }
  if (++failures > 40) return;
  const char* paddings[] = {"same", "valid"};
  const char* statistics[] = {"ssim", "contrast", "luminance"};
  std::printf(
      "FAIL %s: %.3g > %.3g  [%s l1 %g l2 %g, window %s, %s %s, %s %s/%d, %s %s -> %s, %s, %s, "
      "r%d%s%s, mask %s/%d%s%s%s]\n",
      what, error, limit, c.kind.words.c_str(), c.kind.l1, c.kind.l2, c.window.name.c_str(),
      text_of(c.shape).c_str(), paddings[c.padding], name_of_dtype(c.types.img1),
      name_of_dtype(c.types.img2), c.divisor, name_of(c.layouts.img1), name_of(c.layouts.img2),
      name_of(c.output_layout), name_of(c.content), statistics[c.statistic], c.reduction,
      c.gradient_of_sum ? " of sum" : "", strips ? " strips" : "",
      c.mask.exists ? name_of_dtype(c.mask.dtype) : "none", static_cast<int>(c.mask.sharing),
      c.mask.some_empty ? " some empty" : "", c.mask.normalized ? " normalized" : "",
      c.own_stabilizers ? ", own stabilizers" : "");
}
void expect(bool right, const std::string& what) {
  ++cases_run;
  if (right) return;
  ++failures;
  std::printf("FAIL %s\n", what.c_str());
}

struct Errors {
  double map = 0, mean = 0, grad = 0;
};

double worst_difference(const std::vector<double>& out, const std::vector<double>& ref) {
  double worst = 0;
  for (size_t i = 0; i < ref.size(); ++i) {
    const double error = std::fabs(out[i] - ref[i]);
    if (!(error <= worst)) worst = error;
  }
  return worst;
}
double relative_norm(const std::vector<double>& out, const std::vector<double>& ref) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < ref.size(); ++i) {
    difference += (out[i] - ref[i]) * (out[i] - ref[i]);
    norm += ref[i] * ref[i];
  }
  if (norm == 0) return difference == 0 ? 0 : std::sqrt(difference) * 1e3;
  return std::sqrt(difference / norm);
}

// A mask on the device, and in `numbers` what it says of each pixel.
struct DeviceMask {
  DeviceImage memory;
  fs::Image image;

  DeviceMask(const Case& c, unsigned seed, std::vector<double>* numbers)
      : memory(shape_of(c), c.mask.dtype,
               c.mask.sharing == Sharing::kNone ? c.layouts.img1 : Layout::kContiguous) {
    if (!c.mask.exists) return;
    const Shape &s = c.shape, &of = memory.shape;
    std::vector<double> stored(of.pixels());
    const int64_t pixels = s.height * s.width;
    for (int64_t i = 0; i < of.pixels(); ++i) {
      const bool empty = c.mask.some_empty && i < pixels;
      stored[i] = empty ? 0.0 : c.mask.number(i, seed);
    }
    memory.upload(stored, 1, true);
    image = memory.image();
    if (of.batch != s.batch) image.strides[FUSED_SSIM_AXIS_BATCH] = 0;
    if (of.channels != s.channels) image.strides[FUSED_SSIM_AXIS_CHANNEL] = 0;
    numbers->resize(s.pixels());
    for (int64_t i = 0; i < s.pixels(); ++i) {
      const int64_t plane = i / pixels, batch = plane / s.channels % of.batch;
      const int64_t from = batch * of.channels + plane % s.channels % of.channels;
      const double number = stored[from * pixels + i % pixels];
      (*numbers)[i] = c.mask.dtype != kUInt8 ? number : number != 0 ? 1.0 : 0.0;
    }
  }

 private:
  static Shape shape_of(const Case& c) {
    Shape s = c.mask.exists ? c.shape : Shape{1, 1, 1, 1};
    if (c.mask.sharing != Sharing::kNone) s.channels = 1;
    if (c.mask.sharing == Sharing::kAll) s.batch = 1;
    return s;
  }
};

// By both schedules, where the kernels have two for the case: whatever it asks for, compared.
Errors run_case(Case c) {
  static unsigned seed = 0;
  ++seed;
  // Gradients are those of floating point alone.
  const bool had_gradient = c.kind.grad1 || c.kind.grad2;
  c.kind.grad1 = c.kind.grad1 && c.types.img1 != kUInt8;
  c.kind.grad2 = c.kind.grad2 && c.types.img2 != kUInt8;
  if (had_gradient && !c.kind.grad1 && !c.kind.grad2) c.kind = c.kind.weighted ? kMap : kValue;
  const Kind& kind = c.kind;
  if (c.map_shape().height < 1 || c.map_shape().width < 1) c.padding = FUSED_SSIM_SAME;
  const Shape &s = c.shape, m = c.map_shape();
  const bool in_double = c.has(kFloat64);
  const int32_t accumulator = c.accumulator();

  std::vector<double> a, b, weights;
  fill(c.content, s, seed, &a, &b);
  for (auto* image : {&a, &b}) {
    for (double& v : *image) v *= c.range();
  }
  DeviceImage img1(s, c.types.img1, c.layouts.img1), img2(s, c.types.img2, c.layouts.img2);
  img1.upload(a, c.divisor, in_double);
  img2.upload(b, c.divisor, in_double);
  fs::Problem problem = c.problem(img1.image(), img2.image());
  std::vector<double> mask_numbers, stabilizers(2 * s.batch);
  const DeviceMask mask(c, seed + 2, &mask_numbers);
  if (c.mask.exists) problem.mask = mask.image;
  problem.mask_mode = c.mask.normalized ? FUSED_SSIM_MASK_NORMALIZED : FUSED_SSIM_MASK_WEIGHTED;
  DeviceImage stabilizer_image({1, 1, 1, 2 * s.batch}, accumulator);
  for (int64_t i = 0; i < 2 * s.batch; ++i) {
    stabilizers[i] = (1 + 3 * random_number(i, seed + 3)) * (i % 2 == 0 ? problem.c1 : problem.c2);
  }
  stabilizer_image.upload(stabilizers);
  if (c.own_stabilizers) problem.stabilizers = stabilizer_image.first();
  fs::Request request = c.request();
  const int64_t values = fs::value_count(c.reduction, problem.sizes);
  DeviceImage value({1, 1, 1, values}, accumulator), mse({1, 1, 1, values}, accumulator);
  DeviceImage map(m, accumulator);
  DeviceImage grad1(s, c.types.img1, c.output_layout), grad2(s, c.types.img2, c.output_layout);
  DeviceImage weight_image(kind.weighted ? m : Shape{1, 1, 1, 1}, accumulator, c.layouts.img1);
  if (kind.value) request.value = value.first();
  if (kind.mse) request.mse = mse.first();
  if (kind.map) request.map = map.first();
  if (kind.grad1) request.grad1 = grad1.image();
  if (kind.grad2) request.grad2 = grad2.image();
  if (kind.weighted) {
    weights.resize(m.pixels());
    for (int64_t i = 0; i < m.pixels(); ++i) weights[i] = 2 * random_number(i, seed + 1) - 1;
    weight_image.upload(weights);
    request.map_gradient = weight_image.image();
  }

  Errors errors;
  ++cases_run;
  if (const char* reason = fs::cuda::not_served(problem, request)) {
    ++failures;
    ++refused[reason];
    return errors;
  }
  const Definition definition = {&c.window,
                                 c.padding,
                                 c.statistic,
                                 problem.c1,
                                 problem.c2,
                                 request.statistic_weight,
                                 kind.l1,
                                 kind.l2,
                                 c.mask.exists ? &mask_numbers : nullptr,
                                 c.own_stabilizers ? &stabilizers : nullptr,
                                 c.mask.normalized};
  const auto refer = [&](auto zero) {
    return reference<decltype(zero)>(definition, a, b, s, kind.weighted ? &weights : nullptr,
                                     kind.grad1 || kind.grad2);
  };
  const Reference ref = refer(0.0);
  std::unique_ptr<Reference> plain;  // the same in float32
  const auto in_float = [&]() -> const Reference& {
    if (!plain) plain = std::make_unique<Reference>(refer(0.0f));
    return *plain;
  };
  const int64_t per_value = fs::planes_per_value(c.reduction, problem.sizes);
  // What sums are divided by. Over nothing a mean is that of equal images.
  std::vector<double> divisors(values, 1.0), over_nothing(values, 0.0);
  for (int64_t v = 0; v < values && c.reduction != FUSED_SSIM_SUM; ++v) {
    double sum = 0;
    for (int64_t p = v * per_value; p < (v + 1) * per_value; ++p) sum += ref.weights[p];
    if (sum > 0) divisors[v] = sum;
    if (sum == 0) over_nothing[v] = request.statistic_weight;
  }
  const double divisor_scale =
      c.reduction == FUSED_SSIM_SUM ? static_cast<double>(m.pixels()) : 1.0;
  const double value_scale = divisor_scale * c.range() * (kind.l2 != 0 ? c.range() : 1.0);
  // Of few taps some variances are the small difference of two large squares: contrast shows it.
  const size_t taps = c.window.rows.size() * c.window.columns.size();
  // Gradients that vanish up to rounding have no relative error to speak of.
  const bool vanishing = c.content == Content::kIdentical ||
                         (kind.l1 == 0 && kind.l2 == 0 &&
                          (c.content == Content::kFlat ||
                           (taps == 1 && c.statistic == FUSED_SSIM_STATISTIC_CONTRAST)));
  // SSIM keeps its bounds whatever the window.
  const double loosen = c.statistic != FUSED_SSIM_STATISTIC_SSIM && taps <= 25 ? 4 : 1;

  const size_t longest = std::max(c.window.rows.size(), c.window.columns.size());
  for (const bool strips : {false, true}) {
    // These have one schedule.
    if (strips && (in_double || longest > 11 || c.mask.normalized)) continue;
    for (DeviceImage* output : {&value, &mse, &map, &grad1, &grad2}) output->poison();
    run(problem, request, strips);
    bool clean = true;
    const std::vector<double> out = value.download(&clean), squares = mse.download(&clean);
    for (int64_t v = 0; v < values; ++v) {
      double sum = 0, sum_of_squares = 0;
      for (int64_t p = v * per_value; p < (v + 1) * per_value; ++p) {
        sum += request.statistic_weight * ref.statistic[p] + kind.l1 * ref.absolute[p] +
               kind.l2 * ref.squares[p];
        sum_of_squares += ref.squares[p];
      }
      const double expected = request.offset + over_nothing[v] + sum / divisors[v];
      const double error = std::fabs(out[v] - expected) / value_scale;
      if (kind.value) {
        if (!(error <= errors.mean)) errors.mean = error;
        report(c, strips, "value", error, in_double ? 1e-11 : loosen * 1e-6);
      }
      if (kind.mse) {
        report(c, strips, "mse",
               std::fabs(squares[v] - sum_of_squares / divisors[v]) /
                   (divisor_scale * c.range() * c.range()),
               in_double ? 1e-11 : 1e-6);
      }
      if (kind.value && c.content == Content::kIdentical && kind.l1 == 0 && kind.l2 == 0 &&
          c.reduction != FUSED_SSIM_SUM) {
        report(c, strips, "identical is 1", std::fabs(out[v] - 1.0), 0.0);
      }
    }
    if (kind.map) {
      // Strips are forced here; maps of bytes are left to tiles, which are more exact (policy.h).
      const bool of_bytes = c.types.img1 == kUInt8 && c.types.img2 == kUInt8;
      errors.map = worst_difference(map.download(&clean), ref.map);
      report(c, strips, "map", errors.map,
             in_double             ? 1e-11
             : is_photo(c.content) ? std::min(loosen, 2.0) * (strips && of_bytes ? 1.5e-4 : 1e-4)
                                   : loosen * 5e-6);
    }
    for (int i = 0; i < 2; ++i) {
      if (!(i == 0 ? kind.grad1 : kind.grad2)) continue;
      const int32_t dtype = i == 0 ? c.types.img1 : c.types.img2;
      std::vector<double> gradient = (i == 0 ? grad1 : grad2).download(&clean);
      for (size_t k = 0; k < gradient.size() && !fs::gradient_is_of_sum(request); ++k) {
        gradient[k] *= divisors[static_cast<int64_t>(k) / (s.height * s.width) / per_value];
      }
      const char* name = i == 0 ? "grad1" : "grad2";
      if (vanishing) {
        const double error = worst_difference(gradient, ref.grads[i]);
        if (!(error <= errors.grad)) errors.grad = error;
        report(c, strips, name, error, in_double ? 1e-9 : dtype == kFloat32 ? 1e-3 : 1.0);
        continue;
      }
      const double error = relative_norm(gradient, ref.grads[i]);
      if (!(error <= errors.grad)) errors.grad = error;
      const double rounding = dtype == kFloat16 ? 2e-3 : dtype == kBFloat16 ? 1e-2 : 0.0;
      if (in_double) {
        report(c, strips, name, error, 1e-9);
      } else if (rounding > 0) {
        report(c, strips, name, error, rounding);
      } else {
        report(c, strips, name, error, 1e-5, 1e-4,
               [&] { return relative_norm(in_float().grads[i], ref.grads[i]); });
      }
    }
    report(c, strips, "wrote outside the output", clean ? 0 : 1, 0);
  }
  return errors;
}

// Lists of what cases may be, of which every pair is in at least `rounds` cases.
struct Choices {
  std::vector<Window> windows = {kStandard};
  std::vector<Kind> kinds = kKinds;
  std::vector<Types> types = kTypes;
  std::vector<Layouts> layouts;
  std::vector<Layout> outputs = {Layout::kContiguous, Layout::kChannelsLast, Layout::kPadded,
                                 Layout::kTransposed, Layout::kShifted,      Layout::kFlipped};
  std::vector<int64_t> heights = {23, 64, 131}, widths, channels = {1, 2, 3};
  std::vector<int32_t> paddings = {FUSED_SSIM_SAME, FUSED_SSIM_VALID};
  std::vector<int32_t> reductions = {FUSED_SSIM_MEAN, FUSED_SSIM_SUM, FUSED_SSIM_IMAGE,
                                     FUSED_SSIM_CHANNEL};
  std::vector<int32_t> statistics = {FUSED_SSIM_STATISTIC_SSIM};
  std::vector<int32_t> divisors = {255, 1};
  std::vector<Content> contents = {Content::kNoise, Content::kPhoto, Content::kPhotos};
  std::vector<Mask>
      masks;  // drawn for each case, as is whether images have stabilizers of their own

  Choices() {
    for (int i = 0; i < static_cast<int>(Layout::kCount); ++i) {
      layouts.push_back({static_cast<Layout>(i), static_cast<Layout>(i)});
    }
    for (const Layout other : {Layout::kChannelsLast, Layout::kShifted, Layout::kExpanded}) {
      layouts.push_back({Layout::kContiguous, other});
      layouts.push_back({other, Layout::kContiguous});
    }
  }

  void run(int rounds) const {
    const std::vector<size_t> counts = {
        windows.size(),    kinds.size(),    types.size(),    layouts.size(),  outputs.size(),
        heights.size(),    widths.size(),   channels.size(), paddings.size(), reductions.size(),
        statistics.size(), divisors.size(), contents.size()};
    std::mt19937 generator(1);
    for (int round = 0; round < rounds; ++round) {
      std::set<std::tuple<size_t, size_t, size_t, size_t>> covered;
      for (size_t i = 0; i < counts.size(); ++i) {
        for (size_t j = 0; j < i; ++j) {
          for (size_t k = 0; k < counts[i] * counts[j]; ++k) {
            std::vector<size_t> of(counts.size());
            for (size_t l = 0; l < of.size(); ++l) of[l] = generator() % counts[l];
            of[i] = k % counts[i], of[j] = k / counts[i];
            if (covered.count({i, of[i], j, of[j]})) continue;
            for (size_t l = 0; l < of.size(); ++l) {
              for (size_t n = 0; n < l; ++n) covered.insert({l, of[l], n, of[n]});
            }
            Case c;
            c.window = windows[of[0]], c.kind = kinds[of[1]], c.types = types[of[2]];
            c.layouts = layouts[of[3]], c.output_layout = outputs[of[4]];
            c.shape = {1 + static_cast<int64_t>(generator() % 2), channels[of[7]], heights[of[5]],
                       widths[of[6]]};
            c.padding = paddings[of[8]], c.reduction = reductions[of[9]];
            c.statistic = statistics[of[10]], c.divisor = divisors[of[11]];
            c.content = contents[of[12]], c.gradient_of_sum = generator() % 2;
            if (!masks.empty()) {
              c.mask = masks[generator() % masks.size()];
              c.own_stabilizers = generator() % 3 == 0;
            }
            run_case(c);
          }
        }
      }
    }
  }
};

}  // namespace harness
