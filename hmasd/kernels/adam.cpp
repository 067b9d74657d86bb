// One clipped step of Adam (Kingma and Ba, 2015) on one flat tensor of parameters: float32, CPU.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>

#include "simd.h"

namespace hmasd {
namespace {

using at::Tensor;

// Scales `grad` to at most `max_norm`, counts `steps` on and moves `flat`. Returns the norm before;
// if it is not finite nothing else has been changed.
Tensor clipped_adam(Tensor flat, Tensor grad, Tensor mean, Tensor square, Tensor steps,
                    double max_norm, double learning_rate, double beta1, double beta2,
                    double eps) {
  const int64_t size = flat.numel();
  float *parameter = flat.data_ptr<float>(), *slope = grad.data_ptr<float>(),
        *first = mean.data_ptr<float>(), *second = square.data_ptr<float>();
  double sum = 0.0;
  for (int64_t begin = 0; begin < size; begin += 4096) {
    Vec part[4] = {};
    const int64_t end = std::min(size, begin + 4096);
    int64_t i = begin;
    for (; i + 4 * kWidth <= end; i += 4 * kWidth)
      for (int64_t k = 0; k < 4; ++k) {
        const Vec value = load(slope + i + k * kWidth);
        part[k] += value * value;
      }
    sum += sum_lanes((part[0] + part[1]) + (part[2] + part[3]))[0];
    for (; i < end; ++i) sum += static_cast<double>(slope[i]) * slope[i];
  }
  const float norm = static_cast<float>(std::sqrt(sum));
  Tensor result = at::full({}, norm, flat.options());
  if (!std::isfinite(norm)) return result;

  const double count = steps.data_ptr<float>()[0] += 1.0f;
  const float scale = std::min(1.0f, static_cast<float>(max_norm) / (norm + 1e-6f));
  const float stride = static_cast<float>(learning_rate / (1.0 - std::pow(beta1, count)));
  const float root = static_cast<float>(std::sqrt(1.0 - std::pow(beta2, count)));
  const float keep1 = static_cast<float>(beta1), keep2 = static_cast<float>(beta2);
  const float take1 = static_cast<float>(1.0 - beta1), take2 = static_cast<float>(1.0 - beta2);
  const float small = static_cast<float>(eps);
  for (int64_t i = 0; i < size; ++i) {
    const float g = slope[i] *= scale;
    first[i] = keep1 * first[i] + take1 * g;
    second[i] = keep2 * second[i] + take2 * g * g;
    parameter[i] -= stride * first[i] / (std::sqrt(second[i]) / root + small);
  }
  return result;
}

}  // namespace
}  // namespace hmasd

TORCH_LIBRARY_FRAGMENT(hmasd_kernels, library) {
  library.def(
      "clipped_adam(Tensor(a!) flat, Tensor(b!) grad, Tensor(c!) mean, Tensor(d!) square, "
      "Tensor(e!) steps, float max_norm, float learning_rate, float beta1, float beta2, "
      "float eps) -> Tensor");
}

TORCH_LIBRARY_IMPL(hmasd_kernels, CPU, library) {
  library.impl("clipped_adam", &hmasd::clipped_adam);
}
