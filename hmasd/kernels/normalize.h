// LayerNorm of one row, alone or of a ReLU, forward and backward.
//
// Backward needs the input, the mean and 1 / standard deviation ("moments"): the rest is computed
// again. kUnits is the number of columns if the compiler knows it, else 0. All rows but x go on up to
// a vector: weight and bias with zeros, the others with anything.
#pragma once

#include <cmath>

#include "simd.h"

namespace hmasd {

constexpr int64_t kCommonUnits = 64;  // the number of columns that is compiled for

// A sum over a row. Where the compiler knows the row's length it keeps four parts in registers, so
// that no addition waits for the one before.
template <int64_t kUnits>
struct RowSum {
  static constexpr int64_t kParts = kUnits ? 4 : 1;
  Vec parts[kParts] = {};

  void add(int64_t column, Vec value) { parts[column / kWidth % kParts] += value; }

  Vec total() const {
    Vec sum = parts[0];
    for (int64_t i = 1; i < kParts; ++i) sum += parts[i];
    return sum_lanes(sum);
  }
};

// NaN stays NaN, as in torch.
template <bool kRelu>
inline Vec activate(Vec x) {
  return kRelu ? (splat(0.0f) > x ? splat(0.0f) : x) : x;
}

// out = weight (y - mean y) rstd + bias, y = x or max(x, 0), with known moments.
template <bool kRelu, int64_t kUnits>
inline void scale_row(const float* x, const float* weight, const float* bias, const float* moments,
                      int64_t count, float* out) {
  const int64_t units = kUnits ? kUnits : count;
  const Vec mean = splat(moments[0]), rstd = splat(moments[1]);
  for_each_vector(units, [&](int64_t j, int64_t part) {
    const Vec hat = (activate<kRelu>(load_part(x + j, part)) - mean) * rstd;
    store(out + j, hat * load(weight + j) + load(bias + j));
  });
}

template <bool kRelu, int64_t kUnits>
inline void normalize_row(const float* x, const float* weight, const float* bias, float eps,
                          int64_t count, float* moments, float* out) {
  const int64_t units = kUnits ? kUnits : count;
  const Vec share = splat(1.0f / static_cast<float>(units));
  RowSum<kUnits> sum, squares;
  for_each_vector(units, [&](int64_t j, int64_t part) {
    sum.add(j, activate<kRelu>(load_part(x + j, part)));
  });
  const Vec mean = sum.total() * share;
  for_each_vector(units, [&](int64_t j, int64_t part) {
    const Vec centered = activate<kRelu>(load_part(x + j, part)) - mean;
    const Vec inside = part == kWidth ? centered : first_lanes(centered, part);
    squares.add(j, inside * inside);
  });
  moments[0] = mean[0];
  moments[1] = 1.0f / std::sqrt((squares.total() * share)[0] + eps);
  scale_row<kRelu, kUnits>(x, weight, bias, moments, count, out);
}

// Adds to the gradients of weight and bias; `grad` becomes the gradient of x.
template <bool kRelu, int64_t kUnits>
inline void normalize_row_backward(float* grad, const float* x, const float* weight,
                                   const float* moments, int64_t count, float* grad_weight,
                                   float* grad_bias) {
  const int64_t units = kUnits ? kUnits : count;
  const Vec share = splat(1.0f / static_cast<float>(units));
  const Vec mean = splat(moments[0]), rstd = splat(moments[1]);
  RowSum<kUnits> sum, along;
  for_each_vector(units, [&](int64_t j, int64_t part) {
    const Vec read = load(grad + j), up = part == kWidth ? read : first_lanes(read, part);
    const Vec hat = (activate<kRelu>(load_part(x + j, part)) - mean) * rstd;
    const Vec weighted = up * load(weight + j);
    sum.add(j, weighted);
    along.add(j, weighted * hat);
    store(grad_weight + j, load(grad_weight + j) + up * hat);
    store(grad_bias + j, load(grad_bias + j) + up);
  });
  const Vec mean_up = sum.total() * share, mean_along = along.total() * share;
  for_each_vector(units, [&](int64_t j, int64_t part) {
    const Vec value = load_part(x + j, part), zero = splat(0.0f);
    const Vec hat = (activate<kRelu>(value) - mean) * rstd;
    const Vec down = rstd * (load(grad + j) * load(weight + j) - mean_up - hat * mean_along);
    store(grad + j, kRelu ? (value <= zero ? zero : down) : down);
  });
}

}  // namespace hmasd
