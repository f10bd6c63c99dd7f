// fused_ssim.h on libtorch: values, gradients and errors equal Python's on the same tensors; finite
// differences; what autograd may and may not do; layouts; a TorchScript program that calls the
// operators.
//
//   test_api PART FILE [DEVICE]    one part of main()'s list; FILE is what make_reference.py wrote,
//                                  on the same DEVICE: cpu, cuda
#include <fused_ssim/fused_ssim.h>
#include <torch/autograd.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/script.h>
#include <torch/serialize.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "../cpp/check.h"

namespace {

using fused_ssim::MSSSIMOptions;
using fused_ssim::SSIMOptions;
using Pair = std::pair<at::Tensor, at::Tensor>;
using Function = std::function<at::Tensor(const at::Tensor&, const at::Tensor&)>;

// ---- the reference ------------------------------------------------------------------------------

class Reference {
 public:
  Reference(const std::string& path, const at::Device& device) : path_(path), device_(device) {
    std::ifstream file(path, std::ios::binary);
    const std::vector<char> bytes((std::istreambuf_iterator<char>(file)),
                                  std::istreambuf_iterator<char>());
    for (const auto& item : torch::pickle_load(bytes).toGenericDict()) {
      if (item.value().isTensor()) {
        // Moving to a GPU keeps strides.
        tensors_[item.key().toStringRef()] = item.value().toTensor().to(device);
      } else {
        messages_[item.key().toStringRef()] = item.value().toStringRef();
      }
    }
  }
  at::Tensor tensor(const std::string& name) const { return tensors_.at(name); }
  const std::map<std::string, std::string>& messages() const { return messages_; }
  const std::string& path() const { return path_; }
  const at::Device& device() const { return device_; }
  bool has(const std::string& name) const { return tensors_.count(name) != 0; }
  std::size_t cases() const {
    return static_cast<std::size_t>(std::count_if(
        tensors_.begin(), tensors_.end(),
        [](const auto& item) { return item.first.find("/value") != std::string::npos; }));
  }

 private:
  std::string path_;
  at::Device device_;
  std::map<std::string, at::Tensor> tensors_;
  std::map<std::string, std::string> messages_;
};

at::Tensor leaf(const at::Tensor& image) {
  return image.detach().clone().requires_grad_(image.is_floating_point());
}

SSIMOptions with(const std::function<void(SSIMOptions&)>& change) {
  SSIMOptions options;
  change(options);
  return options;
}

// ---- values -------------------------------------------------------------------------------------

Function ssim_with(const std::function<void(SSIMOptions&)>& change) {
  return [options = with(change)](const at::Tensor& x, const at::Tensor& y) {
    return fused_ssim::ssim(x, y, options);
  };
}

void test_values(const Reference& reference) {
  namespace fs = fused_ssim;
  const Function mean = [](auto& x, auto& y) { return fs::fused_ssim(x, y); };
  std::map<std::string, Function> cases = {
      {"fused_ssim", mean},
      {"fused_ssim valid", [](auto& x, auto& y) { return fs::fused_ssim(x, y, "valid"); }},
      {"float16", mean},
      {"bfloat16", mean},
      {"float64", mean},
      {"channels_last", mean},
      {"defaults", [](auto& x, auto& y) { return fs::ssim(x, y); }},
      {"sum", ssim_with([](auto& o) { o.reduction = "sum"; })},
      {"image", ssim_with([](auto& o) { o.reduction = "image"; })},
      {"channel", ssim_with([](auto& o) {
         o.reduction = "channel";
         o.padding = "valid";
       })},
      {"none",
       [](auto& x, auto& y) {
         return fs::ssim_map(x, y, with([](auto& o) { o.padding = "valid"; }));
       }},
      {"options", ssim_with([](auto& o) {
         o.data_range = 2.0;
         o.window_size = 7;
         o.sigma = 1.1;
         o.k1 = 0.02;
         o.k2 = 0.05;
       })},
      {"ms_ssim", [](auto& x, auto& y) { return fs::ms_ssim(x, y); }},
      {"ms_ssim options",
       [](auto& x, auto& y) {
         MSSSIMOptions options;
         options.window_size = 5;
         options.sigma = 1.1;
         options.weights = {0.2, 0.3, 0.5};
         options.padding = "same";
         options.reduction = "channel";
         options.negative = "smooth";
         options.odd_sizes = "crop";
         return fs::ms_ssim(x, y, options);
       }},
      {"unbiased", ssim_with([](auto& o) { o.unbiased = true; })},
      {"uniform", ssim_with([](auto& o) {
         o.window = "uniform";
         o.window_size = 7;
       })},
      {"l1_ssim_loss", [](auto& x, auto& y) { return fs::l1_ssim_loss(x, y); }},
      {"l1_ssim_loss 0.7 valid",
       [](auto& x, auto& y) { return fs::fused_l1_ssim_loss(x, y, 0.7, "valid"); }},
      {"FusedSSIMMap",
       [](auto& x, auto& y) { return fs::FusedSSIMMap::apply(1e-4, 9e-4, x, y, "valid"); }},
      {"contrast", ssim_with([](auto& o) { o.component = "contrast"; })},
      {"luminance", ssim_with([](auto& o) {
         o.component = "luminance";
         o.reduction = "none";
       })},
      {"taps", ssim_with([](auto& o) {
         o.taps = {0.5, 0.3, 0.2};
         o.padding = "valid";
       })},
      {"signals", ssim_with([](auto& o) {
         o.padding = "valid";
         o.reduction = "none";
         o.layout = "BCW";
       })},
      {"signals, loss",
       [](auto& x, auto& y) { return fs::l1_ssim_loss(x, y, 0.2, "same", true, "BCW"); }},
      {"volumes", [](auto& x, auto& y) { return fs::fused_ssim3d(x, y); }},
      {"volumes, valid", [](auto& x, auto& y) { return fs::fused_ssim3d(x, y, "valid"); }},
      {"volumes, options", ssim_with([](auto& o) {
         o.window = "uniform";
         o.window_size = 5;
         o.unbiased = true;
         o.reduction = "image";
         o.layout = "BCDHW";
       })},
      {"volumes, map",
       [](auto& x, auto& y) { return fs::FusedSSIMMap::apply(1e-4, 9e-4, x, y, "same", true, 3); }},
      {"volumes, loss",
       [](auto& x, auto& y) { return fs::l1_ssim_loss(x, y, 0.3, "same", true, "BCDHW"); }},
      {"volumes, mask",
       [](auto& x, auto& y) {
         return fs::ssim(x, y, with([&](auto& o) {
                           o.mask = y.detach()[0][0] > 0.4;
                           o.mask_mode = "normalized";
                           o.layout = "BCDHW";
                         }));
       }},
      {"volumes, ms_ssim",
       [](auto& x, auto& y) {
         MSSSIMOptions options;
         options.window_size = 3;
         options.weights = {0.4, 0.6};
         options.layout = "BCDHW";
         return fs::ms_ssim(x, y, options);
       }},
      {"long window", ssim_with([](auto& o) {
         o.window_size = 35;
         o.sigma = 4.0;
       })},
      {"float16 and float32", mean},
      {"uint8 target", [](auto& x, auto& y) { return fs::l1_ssim_loss(x, y); }},
      {"uint8 and float64", ssim_with([](auto& o) { o.reduction = "none"; })},
      {"two of uint8", mean},
      {"mask",
       [](auto& x, auto& y) {
         return fs::ssim(x, y, with([&](auto& o) { o.mask = y.detach()[0][0] > 0.4; }));
       }},
      {"mask normalized",
       [](auto& x, auto& y) {
         return fs::ssim(x, y, with([&](auto& o) {
                           o.mask = y.detach();
                           o.mask_mode = "normalized";
                           o.padding = "valid";
                           o.reduction = "image";
                         }));
       }},
      {"mask and float16",
       [](auto& x, auto& y) {
         return fs::ssim(x, y, with([&](auto& o) {
                           o.mask = y.detach().narrow(1, 0, 1) > 0.4;
                           o.padding = "valid";
                           o.reduction = "channel";
                         }));
       }},
      {"mask normalized of a loss",
       [](auto& x, auto& y) {
         return fs::l1_ssim_loss(x, y, 0.2, "same", true, "BCHW", y.detach() > 0.4, "normalized");
       }},
      {"two of uint8, 255", ssim_with([](auto& o) { o.data_range = 255; })},
      {"ssim_and_mse",
       [](auto& x, auto& y) {
         const auto [value, mse] =
             fs::ssim_and_mse(x.detach(), y.detach(), with([](auto& o) { o.padding = "valid"; }));
         return at::stack({value, mse});
       }},
  };
  EXPECT(cases.size() == reference.cases(), "the cases of make_reference.py");
  for (const auto& [name, function] : cases) {
    const auto x = leaf(reference.tensor(name + "/img1"));
    const auto y = leaf(reference.tensor(name + "/img2"));
    const auto value = function(x, y);
    EXPECT(at::equal(value, reference.tensor(name + "/value")), name);
    EXPECT(value.dtype() == reference.tensor(name + "/value").dtype(), name);
    EXPECT(value.requires_grad() == reference.has(name + "/weight"), name);
    if (value.requires_grad()) {
      value.backward(reference.tensor(name + "/weight"));
    }
    const auto expect_gradient = [&](const at::Tensor& gradient, const std::string& key) {
      EXPECT(gradient.defined() == reference.has(key), key);
      EXPECT(!gradient.defined() || at::equal(gradient, reference.tensor(key)), key);
    };
    expect_gradient(x.grad(), name + "/grad1");
    expect_gradient(y.grad(), name + "/grad2");
    const at::NoGradGuard no_grad;
    EXPECT(at::equal(function(x, y), reference.tensor(name + "/value")), name + " without grad");
  }
  EXPECT(fused_ssim::build_facts().version == std::string(FUSED_SSIM_VERSION), "the version");
}

// ---- errors -------------------------------------------------------------------------------------

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const c10::NotImplementedError& error) {
    return "NotImplementedError: " + error.msg();
  } catch (const c10::ValueError& error) {
    return "ValueError: " + error.msg();
  } catch (const c10::TypeError& error) {
    return "TypeError: " + error.msg();
  } catch (const c10::Error& error) {
    return "RuntimeError: " + error.msg();
  }
  return "no error";
}

void second_derivative(const Function& function, const at::Tensor& image, const at::Tensor& other) {
  const auto x = leaf(image);
  const auto gradient = torch::autograd::grad({function(x, other)}, {x}, {}, /*retain_graph=*/true,
                                              /*create_graph=*/true)[0];
  gradient.square().sum().backward();
}

void test_errors(const Reference& reference) {
  namespace fs = fused_ssim;
  const auto x = reference.tensor("defaults/img1");
  const auto y = reference.tensor("defaults/img2");
  const auto changed = [&](const std::function<void(SSIMOptions&)>& change) {
    return [&x, &y, change] { fs::ssim(x, y, with(change)); };
  };
  using at::indexing::Ellipsis;
  using at::indexing::None;
  using at::indexing::Slice;
  const std::map<std::string, std::function<void()>> calls = {
      {"rank", [&] { fs::ssim(x[0], y); }},
      {"rank of the second", [&] { fs::ssim(x, y[0]); }},
      {"shapes", [&] { fs::ssim(x, y.index({Ellipsis, Slice(1, None)})); }},
      {"dtypes", [&] { fs::ssim(x, y.to(at::kDouble)); }},
      {"integers", [&] { fs::ssim(x.to(at::kInt), y); }},
      {"integers of 16 bits", [&] { fs::ssim(x.to(at::kShort), y); }},
      {"uint8 and data_range",
       [&] { fs::ssim((255 * x).to(at::kByte), y, with([](auto& o) { o.data_range = 2.0; })); }},
      {"uint8 and FusedSSIMMap",
       [&] { fs::FusedSSIMMap::apply(1e-4, 9e-4, x, (255 * y).to(at::kByte)); }},
      {"complex", [&] { fs::ssim(x.to(at::kComplexFloat), y); }},
      {"empty", [&] { fs::ssim(x.index({Slice(None, 0)}), y.index({Slice(None, 0)})); }},
      {"sparse", [&] { fs::ssim(x.to_sparse(), y); }},
      {"padding", [&] { fs::fused_ssim(x, y, "full"); }},
      {"padding of ssim", changed([](auto& o) { o.padding = ""; })},
      {"reduction", changed([](auto& o) { o.reduction = "median"; })},
      {"window of 12", changed([](auto& o) { o.window_size = 12; })},
      {"window of 1025", changed([](auto& o) { o.window_size = 1025; })},
      {"component", changed([](auto& o) { o.component = "structure"; })},
      {"unbiased", changed([](auto& o) {
         o.window_size = 1;
         o.unbiased = true;
       })},
      {"small image",
       [&] {
         const auto narrow = [](const at::Tensor& image) {
           return image.index({Ellipsis, Slice(None, 10)});
         };
         fs::ssim(narrow(x), narrow(y), with([](auto& o) { o.padding = "valid"; }));
       }},
      {"small volume", [&] { fs::fused_ssim3d(x.unsqueeze(2), y.unsqueeze(2), "valid"); }},
      {"small for three scales",
       [&] {
         MSSSIMOptions options;
         options.weights = {0.5, 0.5, 0.5};
         fs::ms_ssim(x, y, options);
       }},
      {"sigma", changed([](auto& o) { o.sigma = 0.0; })},
      {"data_range", changed([](auto& o) { o.data_range = -1.0; })},
      {"data_range nan", changed([](auto& o) { o.data_range = std::nan(""); })},
      {"k1", changed([](auto& o) { o.k1 = INFINITY; })},
      {"k2", changed([](auto& o) { o.k2 = -0.03; })},
      {"stabilizer", changed([](auto& o) { o.data_range = 1e-17; })},
      {"large stabilizer", changed([](auto& o) { o.data_range = 123456789.0e16; })},
      {"mask of three axes", changed([&](auto& o) { o.mask = x[0] > 0.4; })},
      {"mask of integers", changed([&](auto& o) { o.mask = (255 * x).round().to(at::kByte); })},
      {"mask_mode", changed([&](auto& o) {
         o.mask = x > 0.4;
         o.mask_mode = "plain";
       })},
      {"weight", [&] { fs::l1_ssim_loss(x, y, 1.5); }},
      {"names of the loss", [&] { fs::l1_ssim_loss(x, y[0]); }},
      {"C1", [&] { fs::FusedSSIMMap::apply(0.0, 9e-4, x, y); }},
      {"C2", [&] { fs::FusedSSIMMap::apply(1e-4, 1e38, x, y); }},
      {"spatial_dims 4", [&] { fs::FusedSSIMMap::apply(1e-4, 9e-4, x, y, "same", true, 4); }},
      {"without gradient", [&] { fs::fused_ssim(leaf(x), y, "same", false).backward(); }},
      {"map without gradient",
       [&] { fs::FusedSSIMMap::apply(1e-4, 9e-4, leaf(x), y, "same", false).sum().backward(); }},
  };
  EXPECT(calls.size() == reference.messages().size(), "the errors of make_reference.py");
  for (const auto& [name, call] : calls) {
    const std::string said = message_of(call);
    const std::string& expected = reference.messages().at("error: " + name);
    EXPECT(said == expected, name + "\n  C++:    " + said + "\n  Python: " + expected);
  }
  // Where Python computes, has no equivalent, or names another way out.
  const auto expect_said = [](const std::function<void()>& call, const std::string& kind,
                              const std::string& words) {
    const std::string said = message_of(call);
    EXPECT(said.rfind(kind, 0) == 0 && said.find(words) != std::string::npos, said);
  };
  expect_said([&] { fs::ssim(at::Tensor(), y); }, "TypeError", "undefined");
  expect_said([&] { fs::ssim(x.to(at::kMeta), y.to(at::kMeta)); }, "NotImplementedError",
              "expected a tensor on cpu or cuda, got device meta");
  expect_said([&] { fs::ssim(x.unsqueeze(0), y.unsqueeze(0)); }, "ValueError", "volumes");
  expect_said([&] { fs::fused_ssim(x, y, "reflect"); }, "ValueError", "padding: expected");
  for (const char* padding : {"reflect", "replicate"}) {
    expect_said(changed([&](auto& o) { o.padding = padding; }), "NotImplementedError",
                "Python's fused_ssim computes it");
  }
  expect_said(
      [&] { second_derivative([](auto& a, auto& b) { return fs::fused_ssim(a, b); }, x, y); },
      "RuntimeError", "expected a first derivative only");
  expect_said(
      [&] { second_derivative([](auto& a, auto& b) { return fs::ssim_map(a, b).mean(); }, x, y); },
      "RuntimeError", "expected a first derivative only");
  expect_said(changed([](auto& o) { o.window = "hann"; }), "ValueError", "window: expected");
  expect_said(changed([](auto& o) { o.taps = {0.5, 0.5}; }), "ValueError", "an odd number of taps");
  expect_said(changed([](auto& o) { o.taps = {0.5, 0.4, 0.2}; }), "ValueError", "a sum of 1.1");
  for (const double bad : {-0.5, std::nan(""), double{INFINITY}}) {
    expect_said(changed([&](auto& o) { o.taps = {0.75, 0.75, bad}; }), "ValueError",
                "not negative, got " + fs::detail::number(bad));
  }
  expect_said(changed([](auto& o) { o.layout = "CWH"; }), "ValueError", "layout: expected");
  expect_said(changed([](auto& o) { o.layout = "HWC"; }), "ValueError", "expected 3 dimensions");
  expect_said([&] { std::get<0>(fs::ssim_and_mse(leaf(x), y)).sum().backward(); }, "RuntimeError",
              "computed without a gradient");
  if (reference.device().is_cuda()) {
    expect_said(changed([](auto& o) { o.window_size = 1023; }), "RuntimeError",
                "this GPU's shared memory");
  }
  expect_said([&] { fs::detail::find_operator<void()>("fused_ssim::missing"); },
              "NotImplementedError", "--no-as-needed");
}

// ---- gradients ----------------------------------------------------------------------------------

void test_gradients(const Reference& reference) {
  at::manual_seed(5);
  const auto doubles = at::TensorOptions(at::kDouble).device(reference.device());
  const auto x = at::rand({1, 2, 15, 13}, doubles);
  const auto y = at::rand({1, 2, 15, 13}, doubles);
  const std::map<std::string, Function> functions = {
      {"fused_ssim", [](auto& a, auto& b) { return fused_ssim::fused_ssim(a, b); }},
      {"fused_ssim valid", [](auto& a, auto& b) { return fused_ssim::fused_ssim(a, b, "valid"); }},
      {"map", [](auto& a, auto& b) { return fused_ssim::ssim_map(a, b).square().sum(); }},
      {"images",
       [](auto& a, auto& b) {
         return fused_ssim::ssim(a, b, with([](auto& o) { o.reduction = "image"; })).sum();
       }},
      {"l1_ssim_loss", [](auto& a, auto& b) { return fused_ssim::l1_ssim_loss(a, b, 0.4); }},
  };
  for (const auto& [name, function] : functions) {
    const auto a = leaf(x);
    const auto b = leaf(y);
    function(a, b).backward();
    for (int trial = 0; trial < 4; ++trial) {
      const double step = 1e-6;
      const auto direction = at::randn_like(x);
      const double along1 =
          (function(x + step * direction, y) - function(x - step * direction, y)).item<double>() /
          (2 * step);
      const double along2 =
          (function(x, y + step * direction) - function(x, y - step * direction)).item<double>() /
          (2 * step);
      const double expected1 = (a.grad() * direction).sum().item<double>();
      const double expected2 = (b.grad() * direction).sum().item<double>();
      EXPECT(std::abs(along1 - expected1) < 1e-6 * (1 + std::abs(expected1)),
             name + ": " + std::to_string(along1) + " " + std::to_string(expected1));
      EXPECT(std::abs(along2 - expected2) < 1e-6 * (1 + std::abs(expected2)),
             name + ": " + std::to_string(along2) + " " + std::to_string(expected2));
    }
  }
}

// ---- autograd -----------------------------------------------------------------------------------

void test_autograd(const Reference& reference) {
  const auto x = reference.tensor("defaults/img1");
  const auto y = reference.tensor("defaults/img2");
  const auto truth = [&] {
    const auto a = leaf(x);
    fused_ssim::fused_ssim(a, y).backward();
    return a.grad();
  }();

  {  // a second pass through the same graph gets the same gradient, not an overwritten one
    const auto a = leaf(x);
    const auto value = fused_ssim::fused_ssim(a, y);
    value.backward({}, /*retain_graph=*/true);
    EXPECT(at::equal(a.grad(), truth), "the first pass");
    value.backward({}, /*retain_graph=*/true);
    value.backward();
    EXPECT(at::allclose(a.grad(), 3 * truth), "three passes");
  }
  {  // one image alone, either of them
    const auto b = leaf(y);
    fused_ssim::fused_ssim(x, b).backward();
    EXPECT(b.grad().defined() && !x.grad().defined(), "the second image alone");
    const auto exchanged = leaf(y);
    fused_ssim::fused_ssim(exchanged, x).backward();
    EXPECT(at::equal(exchanged.grad(), b.grad()), "SSIM is symmetric");
  }
  {  // gradients made with create_graph are right, as long as nobody differentiates them
    const auto a = leaf(x);
    const auto gradient =
        torch::autograd::grad({fused_ssim::fused_ssim(a, y)}, {a}, {}, true, true)[0];
    EXPECT(at::equal(gradient, truth) && gradient.requires_grad(), "create_graph");
  }
  {  // images of two dtypes: each gradient in its image's
    const auto a = leaf(x.to(at::kHalf));
    const auto b = leaf(y);
    fused_ssim::fused_ssim(a, b).backward();
    const auto wide = leaf(a.to(at::kFloat));
    fused_ssim::fused_ssim(wide, y).backward();
    EXPECT(a.grad().scalar_type() == at::kHalf && b.grad().scalar_type() == at::kFloat, "dtypes");
    EXPECT(at::allclose(a.grad().to(at::kFloat), wide.grad(), 1e-2, 1e-7), "mixed dtypes");
  }
  {  // what a mask does not count is not in what float16 gradients are divided by, either
    const auto gradient = [&](double of_top) {
      const auto a = leaf(x.to(at::kHalf));
      const auto mask = y.detach()[0][0].clone();
      mask.narrow(0, 0, 8).fill_(of_top);
      fused_ssim::ssim(a, y.detach().to(at::kHalf), with([&](auto& o) { o.mask = mask; }))
          .backward();
      return a.grad();
    };
    const auto expected = gradient(0.0);
    EXPECT(expected.abs().max().item<double>() > 0, "a gradient under a mask");
    EXPECT(at::equal(gradient(std::numeric_limits<double>::quiet_NaN()), expected),
           "NaN in a mask");
    EXPECT(at::equal(gradient(-1.0), expected), "negative numbers in a mask");
  }
  {  // nothing to differentiate
    EXPECT(!fused_ssim::fused_ssim(x, y).requires_grad(), "constant images");
    const auto a = leaf(x);
    const at::NoGradGuard no_grad;
    EXPECT(!fused_ssim::fused_ssim(a, y).requires_grad(), "at::NoGradGuard");
    EXPECT(!fused_ssim::ssim_map(a, y).requires_grad(), "at::NoGradGuard");
  }
  {  // a render loop
    const c10::InferenceMode inference;
    EXPECT(fused_ssim::fused_ssim(x * 1.0, y).is_inference(), "c10::InferenceMode");
    EXPECT(at::equal(fused_ssim::fused_ssim(x * 1.0, y), fused_ssim::fused_ssim(x, y)),
           "c10::InferenceMode, the value");
  }
  {  // torch's own error where memory is lacking, which trainers catch; the next call works
    const auto one = leaf(x).slice(0, 0, 1).slice(1, 0, 1).slice(2, 0, 1).slice(3, 0, 1);
    const auto images = one.expand({1000, 1000, 1000, 1200});
    for (const auto& call : {+[](const at::Tensor& a) { fused_ssim::fused_ssim(a, a.detach()); },
                             +[](const at::Tensor& a) { fused_ssim::ssim_map(a, a); }}) {
      bool out_of_memory = false;
      std::string message;
      try {
        call(images);
      } catch (const c10::OutOfMemoryError& error) {
        out_of_memory = true;
        message = error.msg();
      } catch (const c10::Error& error) {
        message = error.msg();
      }
      EXPECT(message.find("allocate") != std::string::npos, message);
      EXPECT(out_of_memory == x.is_cuda(), message);
    }
    EXPECT(fused_ssim::fused_ssim(x, y).item<double>() < 1, "the call after it");
  }
  {  // part of a larger graph, both images from one leaf
    const auto a = leaf(x);
    const auto loss = 1 - fused_ssim::fused_ssim(a * 0.9, (a * a).permute({0, 1, 2, 3}));
    loss.backward();
    EXPECT(a.grad().abs().sum().item<float>() > 0, "one leaf in both images");
  }
  {  // an unused value of the graph
    const auto a = leaf(x);
    const auto per_image = fused_ssim::ssim(a, y, with([](auto& o) { o.reduction = "image"; }));
    per_image[0].backward();
    EXPECT(a.grad()[0].abs().sum().item<float>() > 0, "the image that counts");
    EXPECT(a.grad()[1].abs().sum().item<float>() == 0, "the image that does not");
  }
}

// ---- layouts ------------------------------------------------------------------------------------

void test_layouts(const Reference& reference) {
  const auto x = reference.tensor("defaults/img1").index({at::indexing::Slice(0, 1)});
  const auto y = reference.tensor("defaults/img2").index({at::indexing::Slice(0, 1)});
  const auto value = fused_ssim::fused_ssim(x, y);
  const auto map = fused_ssim::ssim_map(x, y);
  const auto gradient = [&] {
    const auto a = leaf(x);
    fused_ssim::fused_ssim(a, y).backward();
    return a.grad();
  }();
  const auto to = [](const at::Tensor& image, const std::string& layout) {
    const auto changed = layout == "BHWC"  ? image.permute({0, 2, 3, 1})
                         : layout == "HWC" ? image[0].permute({1, 2, 0})
                         : layout == "CHW" ? image[0]
                                           : image;
    return changed.contiguous();
  };
  const auto rows = [](const at::Tensor& image) { return image.flatten(2); };
  const auto signal = fused_ssim::fused_ssim(rows(x), rows(y), "same", true, "BCW");
  const auto last = [](const at::Tensor& image) { return image.movedim(1, -1); };
  EXPECT(at::allclose(fused_ssim::fused_ssim(last(rows(x)), last(rows(y)), "same", true, "BWC"),
                      signal),
         "BWC");
  const auto volume1 = reference.tensor("volumes/img1");
  const auto volume2 = reference.tensor("volumes/img2");
  const auto of_last =
      fused_ssim::ssim_map(last(volume1), last(volume2), with([](auto& o) { o.layout = "BDHWC"; }));
  const auto of_first =
      fused_ssim::ssim_map(volume1, volume2, with([](auto& o) { o.layout = "BCDHW"; }));
  EXPECT(at::allclose(of_last, last(of_first)), "BDHWC");
  for (const std::string layout : {"BCHW", "BHWC", "CHW", "HWC"}) {
    const auto a = leaf(to(x, layout));
    const auto b = to(y, layout);
    const auto options = with([&](auto& o) { o.layout = layout; });
    const auto other = fused_ssim::fused_ssim(a, b, "same", true, layout);
    EXPECT(at::allclose(other, value, 0, 1e-6), layout);
    EXPECT(at::equal(fused_ssim::ssim(a, b, options), other), layout);
    other.backward();
    EXPECT(at::allclose(a.grad(), to(gradient, layout), 1e-4, 1e-9), layout);
    EXPECT(at::allclose(fused_ssim::ssim_map(a, b, options), to(map, layout), 0, 1e-5), layout);
    const auto loss = fused_ssim::l1_ssim_loss(a, b, 1.0, "same", true, layout);
    EXPECT(at::allclose(loss, 1 - value, 0, 1e-6), layout);
    const auto planes = fused_ssim::ssim(a, b, with([&](auto& o) {
                                           o.layout = layout;
                                           o.reduction = "channel";
                                         }));
    EXPECT(planes.dim() == (layout.size() == 4 ? 2 : 1) && planes.numel() == 3, layout);
    const auto [of_planes, errors] = fused_ssim::ssim_and_mse(a, b, options);
    EXPECT(at::allclose(of_planes, planes, 0, 1e-6) && errors.sizes() == planes.sizes(), layout);
  }
}

// ---- TorchScript --------------------------------------------------------------------------------

void test_script(const Reference& reference) {
  auto program = torch::jit::load(reference.path() + ".script");
  const auto value =
      program.forward({reference.tensor("defaults/img1"), reference.tensor("defaults/img2")});
  EXPECT(at::equal(value.toTensor(), reference.tensor("defaults/value")), "a loaded program");
}

// ---- AOTInductor --------------------------------------------------------------------------------

void test_package(const Reference& reference) {
  torch::inductor::AOTIModelPackageLoader program(reference.path() + ".pt2");
  const std::vector<at::Tensor> values =
      program.run({reference.tensor("defaults/img1"), reference.tensor("defaults/img2")});
  EXPECT(values.size() == 1 && at::allclose(values[0], reference.tensor("defaults/value"), 1e-6),
         "a program compiled ahead of time");
}

}  // namespace

int main(int argc, char** argv) {
  const std::map<std::string, void (*)(const Reference&)> parts = {
      {"values", test_values},     {"errors", test_errors},   {"gradients", test_gradients},
      {"autograd", test_autograd}, {"layouts", test_layouts}, {"script", test_script},
      {"package", test_package},
  };
  if (argc < 3 || argc > 4 || parts.count(argv[1]) == 0) {
    std::printf("usage: test_api PART FILE [DEVICE]\n");
    return 2;
  }
  parts.at(argv[1])(Reference(argv[2], at::Device(argc > 3 ? argv[3] : "cpu")));
  return check::report();
}
