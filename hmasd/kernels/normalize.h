// Standardizing rows, alone or after a ReLU, forward and backward: LayerNorm without its weights,
// which the callers join to the linear layer that reads the rows.
//
// As many rows as a vector has lanes go together, so that their sums, square roots and divisions are
// made side by side. kUnits is the number of columns if the compiler knows it, else 0.
#pragma once

#include <algorithm>
#include <cmath>

#include "simd.h"

namespace hmasd {

constexpr int64_t kCommonUnits = 64;  // the number of columns that is compiled for

// Standardized rows: hat = (y - mean y) rstd, y = x or max(x, 0). Rows go on up to a vector, with
// anything.
struct Hats {
  float* data;
  int64_t units, stride;
  float *floor, *rstd;  // of each row: hat of a y that is 0, and 1 / standard deviation
};

// NaN stays NaN, as in torch.
template <bool kRelu>
inline Vec rectify(Vec x) {
  return kRelu ? (splat(0.0f) > x ? splat(0.0f) : x) : x;
}

inline Vec over_root(Vec x) {
  float lanes[kWidth];
  store(lanes, x);
  for (float& lane : lanes) lane = 1.0f / std::sqrt(lane);
  return load(lanes);
}

// Rows first, first + 1, ... of the `rows`, at most a vector of them.
inline int64_t together(int64_t first, int64_t rows) { return std::min(kWidth, rows - first); }

// x: rows of hats.units columns, `stride` apart; they may be the hats' own.
template <bool kRelu, int64_t kUnits>
void standardize(const float* x, int64_t stride, int64_t rows, float eps, const Hats& hats) {
  const int64_t units = kUnits ? kUnits : hats.units;
  const Vec share = splat(1.0f / static_cast<float>(units));
  for (int64_t first = 0; first < rows; first += kWidth) {
    const int64_t count = together(first, rows);
    const float* source = x + first * stride;
    Vec sums[kWidth] = {}, squares[kWidth] = {};
    for (int64_t row = 0; row < count; ++row)
      for_each_vector(units, [&](int64_t j, int64_t part) {
        sums[row] += rectify<kRelu>(load_part(source + row * stride + j, part));
      });
    const Vec means = sum_each(sums) * share;
    for (int64_t row = 0; row < count; ++row)
      for_each_vector(units, [&](int64_t j, int64_t part) {
        const Vec y = rectify<kRelu>(load_part(source + row * stride + j, part));
        const Vec centered = first_lanes(y - splat(means[row]), part);
        squares[row] += centered * centered;
      });
    const Vec rstd = over_root(sum_each(squares) * share + splat(eps));
    for (int64_t row = 0; row < count; ++row)
      for_each_vector(units, [&](int64_t j, int64_t part) {
        const Vec y = rectify<kRelu>(load_part(source + row * stride + j, part));
        store(hats.data + (first + row) * hats.stride + j, (y - splat(means[row])) * splat(rstd[row]));
      });
    store(hats.floor + first, (splat(0.0f) - means) * rstd);
    store(hats.rstd + first, rstd);
  }
}

// `grad`, rows as those of the hats, becomes the gradient of x, whose sum over rows is added to
// `sum_grad`.
template <bool kRelu, int64_t kUnits>
void standardize_backward(float* grad, int64_t rows, const Hats& hats, float* sum_grad) {
  const int64_t units = kUnits ? kUnits : hats.units;
  const Vec share = splat(1.0f / static_cast<float>(units));
  for (int64_t first = 0; first < rows; first += kWidth) {
    const int64_t count = together(first, rows);
    float* up = grad + first * hats.stride;
    const float* hat = hats.data + first * hats.stride;
    Vec sums[kWidth] = {}, along[kWidth] = {};
    for (int64_t row = 0; row < count; ++row)
      for_each_vector(units, [&](int64_t j, int64_t part) {
        const Vec value = first_lanes(load(up + row * hats.stride + j), part);
        sums[row] += value;
        along[row] += value * first_lanes(load(hat + row * hats.stride + j), part);
      });
    const Vec mean_up = sum_each(sums) * share, mean_along = sum_each(along) * share;
    for_each_vector(units, [&](int64_t j, int64_t) {
      Vec sum = load(sum_grad + j);
      for (int64_t row = 0; row < count; ++row) {
        const int64_t place = row * hats.stride + j;
        const Vec value = load(hat + place), rstd = splat(hats.rstd[first + row]);
        const Vec free =
            rstd * (load(up + place) - splat(mean_up[row]) - value * splat(mean_along[row]));
        const Vec floor = splat(hats.floor[first + row]);
        const Vec down = kRelu ? (value <= floor ? splat(0.0f) : free) : free;
        store(up + place, down);
        sum += down;
      }
      store(sum_grad + j, sum);
    });
  }
}

}  // namespace hmasd
