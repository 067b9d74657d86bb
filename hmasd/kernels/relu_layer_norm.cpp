// LayerNorm over the last axis, with or without a ReLU before it, for float32 on the CPU.
//
// Each row is read once from memory per direction; only x and two numbers per row are kept for
// backward, which computes the rest again. Gradients of weight and bias are summed per group of
// rows and then over groups in order. The groups do not depend on the threads, so the result does
// not either.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <vector>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "simd.h"

namespace hmasd {
namespace {

constexpr int64_t kGroups = 8;
constexpr int64_t kGrain = 32768;  // elements that are worth a thread or a group
constexpr int64_t kCommon = 64;    // the number of columns that is compiled for

using at::Tensor;
using Grads = std::tuple<Tensor, Tensor, Tensor>;  // of x, weight and bias

struct Sizes {
  int64_t rows, units, padded;  // padded: units rounded up to a vector

  explicit Sizes(const Tensor& x)
      : rows(x.numel() / x.size(-1)), units(x.size(-1)), padded(round_up(units, kWidth)) {}

  int64_t rows_per_grain() const { return std::max<int64_t>(1, kGrain / units); }
  int64_t groups() const { return std::clamp<int64_t>(rows / rows_per_grain(), 1, kGroups); }
};

constexpr int32_t kLanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

inline IntVec lanes() {
  IntVec value;
  std::memcpy(&value, kLanes, sizeof(IntVec));
  return value;
}

// Every lane of the result is the sum of the lanes.
inline Vec sum_lanes(Vec value) {
#if defined(__clang__)
  float sum = 0.0f;
  for (int64_t i = 0; i < kWidth; ++i) sum += value[i];
  return splat(sum);
#else
#pragma GCC unroll 4
  for (int32_t step = kWidth / 2; step > 0; step /= 2)
    value += __builtin_shuffle(value, lanes() ^ step);
  return value;
#endif
}

// The first `count` lanes; the others become 0.
inline Vec first_lanes(Vec value, int64_t count) {
  return (Vec)((IntVec)value & (lanes() < static_cast<int32_t>(count)));
}

inline Vec load_part(const float* source, int64_t count) {
  if (count == kWidth) return load(source);
#if defined(__AVX512F__)
  return (Vec)_mm512_maskz_loadu_ps((1 << count) - 1, source);
#elif defined(__AVX2__)
  return (Vec)_mm256_maskload_ps(source, (__m256i)(lanes() < static_cast<int32_t>(count)));
#else
  Vec value = {};
  for (int64_t i = 0; i < count; ++i) value[i] = source[i];
  return value;
#endif
}

inline void store_part(float* target, Vec value, int64_t count) {
  if (count == kWidth) return store(target, value);
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(target, (1 << count) - 1, (__m512)value);
#elif defined(__AVX2__)
  _mm256_maskstore_ps(target, (__m256i)(lanes() < static_cast<int32_t>(count)), (__m256)value);
#else
  for (int64_t i = 0; i < count; ++i) target[i] = value[i];
#endif
}

// NaN stays NaN, as in torch.
template <bool kRelu>
inline Vec activate(Vec x) {
  return kRelu ? (splat(0.0f) > x ? splat(0.0f) : x) : x;
}

// body(column, count) for each vector of a row, the last with count < kWidth if there is a rest.
template <class Body>
inline __attribute__((always_inline)) void for_each_vector(int64_t units, const Body& body) {
  const int64_t whole = units / kWidth * kWidth;
  for (int64_t j = 0; j < whole; j += kWidth) body(j, kWidth);
  if (whole < units) body(whole, units - whole);
}

// weight or bias with zeros up to a vector.
std::vector<float> pad(const Tensor& source, const Sizes& s) {
  std::vector<float> padded(s.padded, 0.0f);
  std::memcpy(padded.data(), source.const_data_ptr<float>(), s.units * sizeof(float));
  return padded;
}

struct ForwardArguments {
  Sizes sizes;
  const float *x, *weight, *bias;
  float eps;
  float *out, *mean, *rstd;
};

// kUnits: the number of columns if known to the compiler, else 0.
template <bool kRelu, int64_t kUnits>
void forward_rows(const ForwardArguments& a, int64_t begin, int64_t end) {
  const int64_t units = kUnits ? kUnits : a.sizes.units;
  const Vec share = splat(1.0f / static_cast<float>(units));
  const float *weight = a.weight, *bias = a.bias;
  for (int64_t row = begin; row < end; ++row) {
    const float* x = a.x + row * units;
    float* out = a.out + row * units;
    Vec sum = {}, squares = {};
    for_each_vector(units, [&](int64_t j, int64_t count) {
      sum += activate<kRelu>(load_part(x + j, count));
    });
    const Vec mean = sum_lanes(sum) * share;
    for_each_vector(units, [&](int64_t j, int64_t count) {
      const Vec centered = activate<kRelu>(load_part(x + j, count)) - mean;
      const Vec inside = count == kWidth ? centered : first_lanes(centered, count);
      squares += inside * inside;
    });
    const float variance = (sum_lanes(squares) * share)[0];
    const float rstd = 1.0f / std::sqrt(variance + a.eps);
    const Vec scale = splat(rstd);
    for_each_vector(units, [&](int64_t j, int64_t count) {
      const Vec hat = (activate<kRelu>(load_part(x + j, count)) - mean) * scale;
      store_part(out + j, hat * load(weight + j) + load(bias + j), count);
    });
    a.mean[row] = mean[0];
    a.rstd[row] = rstd;
  }
}

struct BackwardArguments {
  Sizes sizes;
  const float *grad_out, *x, *weight, *mean, *rstd;
  float* grad_x;  // null if not wanted
};

// `sums`: gradients of weight [padded] and bias [padded], added to.
template <bool kRelu, int64_t kUnits>
void backward_rows(const BackwardArguments& a, int64_t begin, int64_t end, float* sums) {
  const int64_t units = kUnits ? kUnits : a.sizes.units;
  const Vec share = splat(1.0f / static_cast<float>(units));
  const float* weight = a.weight;
  float *grad_weight = sums, *grad_bias = sums + a.sizes.padded;
  for (int64_t row = begin; row < end; ++row) {
    const float *x = a.x + row * units, *grad = a.grad_out + row * units;
    const Vec mean = splat(a.mean[row]), rstd = splat(a.rstd[row]);
    Vec sum = {}, along = {};
    for_each_vector(units, [&](int64_t j, int64_t count) {
      const Vec up = load_part(grad + j, count), weighted = up * load(weight + j);
      const Vec hat = (activate<kRelu>(load_part(x + j, count)) - mean) * rstd;
      sum += weighted;
      along += weighted * hat;
      store(grad_weight + j, load(grad_weight + j) + up * hat);
      store(grad_bias + j, load(grad_bias + j) + up);
    });
    if (!a.grad_x) continue;
    sum = sum_lanes(sum) * share;
    along = sum_lanes(along) * share;
    float* grad_x = a.grad_x + row * units;
    for_each_vector(units, [&](int64_t j, int64_t count) {
      const Vec value = load_part(x + j, count), zero = splat(0.0f);
      const Vec hat = (activate<kRelu>(value) - mean) * rstd;
      const Vec down = rstd * (load_part(grad + j, count) * load(weight + j) - sum - hat * along);
      store_part(grad_x + j, kRelu ? (value <= zero ? zero : down) : down, count);
    });
  }
}

// Returns the output and, [2, rows], each row's mean and 1 / standard deviation.
std::tuple<Tensor, Tensor> forward(const Tensor& x, const Tensor& weight, const Tensor& bias,
                                   double eps, bool relu) {
  const Sizes s(x);
  Tensor out = at::empty(x.sizes(), x.options()), moments = at::empty({2, s.rows}, x.options());
  const std::vector<float> padded_weight = pad(weight, s), padded_bias = pad(bias, s);
  const ForwardArguments a{s,
                           x.const_data_ptr<float>(),
                           padded_weight.data(),
                           padded_bias.data(),
                           static_cast<float>(eps),
                           out.data_ptr<float>(),
                           moments.data_ptr<float>(),
                           moments.data_ptr<float>() + s.rows};
  const auto rows = s.units == kCommon
                        ? (relu ? forward_rows<true, kCommon> : forward_rows<false, kCommon>)
                        : (relu ? forward_rows<true, 0> : forward_rows<false, 0>);
  at::parallel_for(0, s.rows, s.rows_per_grain(),
                   [&](int64_t begin, int64_t end) { rows(a, begin, end); });
  return {out, moments};
}

Grads backward(const Tensor& grad_out, const Tensor& x, const Tensor& weight,
               const Tensor& moments, bool relu, bool want_x) {
  const Sizes s(x);
  const int64_t groups = s.groups();
  Tensor grad_x = want_x ? at::empty(x.sizes(), x.options()) : Tensor();
  Tensor grads = at::zeros({2, s.units}, x.options());
  const std::vector<float> padded_weight = pad(weight, s);
  std::vector<float> sums(groups * 2 * s.padded, 0.0f);
  const BackwardArguments a{s,
                            grad_out.const_data_ptr<float>(),
                            x.const_data_ptr<float>(),
                            padded_weight.data(),
                            moments.const_data_ptr<float>(),
                            moments.const_data_ptr<float>() + s.rows,
                            want_x ? grad_x.data_ptr<float>() : nullptr};
  const auto rows = s.units == kCommon
                        ? (relu ? backward_rows<true, kCommon> : backward_rows<false, kCommon>)
                        : (relu ? backward_rows<true, 0> : backward_rows<false, 0>);
  at::parallel_for(0, groups, 1, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group)
      rows(a, group * s.rows / groups, (group + 1) * s.rows / groups,
           sums.data() + group * 2 * s.padded);
  });
  float* total = grads.data_ptr<float>();
  for (int64_t part = 0; part < 2 * groups; ++part)
    for (int64_t j = 0; j < s.units; ++j)
      total[(part % 2) * s.units + j] += sums[part * s.padded + j];
  return {grad_x, grads[0], grads[1]};
}

class ReluLayerNorm : public torch::autograd::Function<ReluLayerNorm> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& x,
                        const Tensor& weight, const Tensor& bias, double eps, bool relu) {
    at::AutoDispatchBelowADInplaceOrView guard;
    auto [out, moments] = hmasd::forward(x, weight, bias, eps, relu);
    ctx->save_for_backward({x, weight, moments});
    ctx->saved_data["relu"] = relu;
    return out;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list grads) {
    TORCH_CHECK(!at::GradMode::is_enabled(),
                "The compiled LayerNorm is once differentiable; for create_graph=True switch the "
                "kernels off (HMASD_KERNELS=0)");
    const auto saved = ctx->get_saved_variables();
    auto [grad_x, grad_weight, grad_bias] =
        hmasd::backward(grads[0].contiguous(), saved[0], saved[1], saved[2],
                        ctx->saved_data["relu"].toBool(), ctx->needs_input_grad(0));
    return {grad_x, grad_weight, grad_bias, Tensor(), Tensor()};
  }
};

Tensor relu_layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps,
                       bool relu) {
  return std::get<0>(
      forward(x.contiguous(), weight.contiguous(), bias.contiguous(), eps, relu));
}

Tensor relu_layer_norm_autograd(const Tensor& x, const Tensor& weight, const Tensor& bias,
                                double eps, bool relu) {
  if (at::GradMode::is_enabled() &&
      (x.requires_grad() || weight.requires_grad() || bias.requires_grad()))
    return ReluLayerNorm::apply(x.contiguous(), weight.contiguous(), bias.contiguous(), eps, relu);
  at::AutoDispatchBelowADInplaceOrView guard;
  return relu_layer_norm(x, weight, bias, eps, relu);
}

}  // namespace
}  // namespace hmasd

TORCH_LIBRARY_FRAGMENT(hmasd_kernels, library) {
  library.def(
      "relu_layer_norm(Tensor x, Tensor weight, Tensor bias, float eps, bool relu) -> Tensor");
}

TORCH_LIBRARY_IMPL(hmasd_kernels, CPU, library) {
  library.impl("relu_layer_norm", &hmasd::relu_layer_norm);
}

TORCH_LIBRARY_IMPL(hmasd_kernels, AutogradCPU, library) {
  library.impl("relu_layer_norm", &hmasd::relu_layer_norm_autograd);
}
