// Vectors, their exp / sigmoid / tanh, and the register-tiled product that the kernels share.
//
// GCC vector extensions keep one source for every width: the compiler flags pick it. No -ffast-math
// anywhere, so NaN and infinity behave as in torch.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace hmasd {

#if defined(__AVX512F__)
constexpr int64_t kWidth = 16;     // floats in a vector
constexpr int64_t kTileRows = 12;  // 12 x 2 accumulators of 32 registers
constexpr int64_t kRowStep = 4;    // a smaller tile takes the rows that are left
#elif defined(__AVX__)
constexpr int64_t kWidth = 8;
constexpr int64_t kTileRows = 6;  // 6 x 2 accumulators of 16 registers
constexpr int64_t kRowStep = 2;
#else
constexpr int64_t kWidth = 4;
constexpr int64_t kTileRows = 6;
constexpr int64_t kRowStep = 2;
#endif
constexpr int64_t kPanel = 2 * kWidth;  // columns of a tile

typedef float Vec __attribute__((vector_size(kWidth * 4)));
typedef int32_t IntVec __attribute__((vector_size(kWidth * 4)));

inline Vec load(const float* source) {
  Vec value;
  std::memcpy(&value, source, sizeof(Vec));
  return value;
}

inline void store(float* target, Vec value) { std::memcpy(target, &value, sizeof(Vec)); }

inline Vec splat(float value) { return value - Vec{}; }

inline int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

// e^x, relative error below 2e-7 for |x| <= 87; saturates outside, NaN stays NaN.
inline Vec exp(Vec x) {
  x = x > splat(87.0f) ? splat(87.0f) : x;
  x = x < splat(-87.0f) ? splat(-87.0f) : x;
  const Vec shifter = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Vec shifted = x * 1.44269504088896341f + shifter;
  const Vec count = shifted - shifter;
  Vec rest = x - count * 0.693359375f;  // ln 2 in two parts, the first exact
  rest = rest + count * 2.12194440e-4f;
  Vec sum = rest * 1.9875691500e-4f + 1.3981999507e-3f;
  sum = sum * rest + 8.3334519073e-3f;
  sum = sum * rest + 4.1665795894e-2f;
  sum = sum * rest + 1.6666665459e-1f;
  sum = sum * rest + 5.0000001201e-1f;
  sum = sum * (rest * rest) + rest + 1.0f;
  const IntVec exponent = ((IntVec)shifted + 127) << 23;  // low bits of `shifted` are the integer
  return sum * (Vec)exponent;
}

// 1 / x of a normal x whose inverse is normal; a division takes longer than all of exp.
inline Vec inverse(Vec x) {
#if defined(__AVX512F__)
  const Vec guess = (Vec)_mm512_rcp14_ps((__m512)x);
  return guess * (2.0f - x * guess);  // Newton's step: relative error below 2e-7
#else
  return 1.0f / x;
#endif
}

inline Vec sigmoid(Vec x) { return inverse(1.0f + exp(-x)); }

// tanh as 1 - 2 / (e^2x + 1): absolute error below 3e-7.
inline Vec tanh(Vec x) { return 1.0f - 2.0f * inverse(exp(x + x) + 1.0f); }

constexpr int32_t kLanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

inline IntVec lanes() {
  IntVec value;
  std::memcpy(&value, kLanes, sizeof(IntVec));
  return value;
}

// Lane i of the result is lane i ^ step.
inline Vec swap_lanes(Vec value, int32_t step) {
#if defined(__clang__)
  Vec swapped;
  for (int64_t i = 0; i < kWidth; ++i) swapped[i] = value[i ^ step];
  return swapped;
#else
  return __builtin_shuffle(value, lanes() ^ step);
#endif
}

// Every lane of the result is the sum of the lanes.
inline Vec sum_lanes(Vec value) {
#pragma GCC unroll 4
  for (int32_t step = kWidth / 2; step > 0; step /= 2) value += swap_lanes(value, step);
  return value;
}

// Lane i of the result is of `a` where bit `step` of i is 0, else of `b`: lane i, or where `a` (`b`) is
// swapped lane i ^ step.
inline Vec interleave(Vec a, Vec b, int32_t step, bool swap_a, bool swap_b) {
#if defined(__clang__)
  Vec mixed;
  for (int64_t i = 0; i < kWidth; ++i)
    mixed[i] = i & step ? b[swap_b ? i ^ step : i] : a[swap_a ? i ^ step : i];
  return mixed;
#else
  const IntVec zero = {}, swapped = lanes() ^ step;
  const IntVec of_a = swap_a ? swapped : lanes(), of_b = swap_b ? swapped : lanes();
  // The lanes of the second vector are numbered on.
  return __builtin_shuffle(
      a, b, (lanes() & step) != zero ? of_b + static_cast<int32_t>(kWidth) : of_a);
#endif
}

// Lane i of the result is the sum of the lanes of values[i], which are overwritten.
inline Vec sum_each(Vec (&values)[kWidth]) {
#pragma GCC unroll 4
  for (int32_t step = 1; step < kWidth; step *= 2)
#pragma GCC unroll 8
    for (int64_t i = 0; i < kWidth; i += 2 * step)
      values[i] = interleave(values[i], values[i + step], step, false, false) +
                  interleave(values[i], values[i + step], step, true, true);
  return values[0];
}

// Lane j of values[i] and lane i of values[j] change places.
inline void transpose(Vec (&values)[kWidth]) {
#pragma GCC unroll 4
  for (int32_t step = 1; step < kWidth; step *= 2)
#pragma GCC unroll 16
    for (int64_t i = 0; i < kWidth; ++i) {
      if (i & step) continue;
      const Vec a = values[i], b = values[i + step];
      values[i] = interleave(a, b, step, false, true);
      values[i + step] = interleave(a, b, step, true, false);
    }
}

// The first `count` lanes; the others become 0.
inline Vec first_lanes(Vec value, int64_t count) {
  if (count == kWidth) return value;
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

// body(column, count) for each vector of a row, the last with count < kWidth if there is a rest.
template <class Body>
inline __attribute__((always_inline)) void for_each_vector(int64_t units, const Body& body) {
  const int64_t whole = units / kWidth * kWidth;
#pragma GCC unroll 8
  for (int64_t j = 0; j < whole; j += kWidth) body(j, kWidth);
  if (whole < units) body(whole, units - whole);
}

// One product C = init + A B of `rows` x `depth` x one panel.
struct Product {
  const float* left;   // A: rows x depth, or depth x rows when transposed
  int64_t left_stride;
  const float* right;  // B: depth x panel
  int64_t right_stride;
  const float* init;   // the start value; stride 0 repeats one row
  int64_t init_stride;
  float* out;
  int64_t out_stride;
};

// Rows `first` to `last` - 1 in tiles of kRows x kVectors. Not inlined: within a larger function GCC
// runs out of registers and spills the sums, which costs half of the speed.
template <bool kTransposed, int64_t kRows, int64_t kVectors>
__attribute__((noinline)) void multiply_tiles(const Product p, const int64_t first,
                                              const int64_t last, const int64_t depth) {
  const int64_t step = kTransposed ? 1 : p.left_stride;  // from a row of A to the next
  const int64_t jump = kTransposed ? p.left_stride : 1;  // from a column of A to the next
  for (int64_t row = first; row < last; row += kRows) {
    Vec sum[kRows][kVectors];
#pragma GCC unroll 16
    for (int64_t i = 0; i < kRows; ++i)
#pragma GCC unroll 2
      for (int64_t v = 0; v < kVectors; ++v)
        sum[i][v] = load(p.init + (row + i) * p.init_stride + v * kWidth);
    const float *left = p.left + row * step, *right = p.right;
    for (int64_t k = depth; k > 0; --k) {
      Vec factor[kVectors];
#pragma GCC unroll 2
      for (int64_t v = 0; v < kVectors; ++v) factor[v] = load(right + v * kWidth);
#pragma GCC unroll 16
      for (int64_t i = 0; i < kRows; ++i) {
        const Vec value = splat(left[i * step]);
#pragma GCC unroll 2
        for (int64_t v = 0; v < kVectors; ++v) sum[i][v] += value * factor[v];
      }
      left += jump;
      right += p.right_stride;
    }
#pragma GCC unroll 16
    for (int64_t i = 0; i < kRows; ++i)
#pragma GCC unroll 2
      for (int64_t v = 0; v < kVectors; ++v)
        store(p.out + (row + i) * p.out_stride + v * kWidth, sum[i][v]);
  }
}

// `rows` is a multiple of kRowStep; callers pad. Of a panel whose `columns` fit one vector only that
// vector is read and written.
template <bool kTransposed>
inline void multiply_panel(const Product& p, int64_t rows, int64_t depth,
                           int64_t columns = kPanel) {
  const int64_t tiled = rows / kTileRows * kTileRows;
  if (columns > kWidth) {
    multiply_tiles<kTransposed, kTileRows, 2>(p, 0, tiled, depth);
    multiply_tiles<kTransposed, kRowStep, 2>(p, tiled, rows, depth);
  } else {
    multiply_tiles<kTransposed, kTileRows, 1>(p, 0, tiled, depth);
    multiply_tiles<kTransposed, kRowStep, 1>(p, tiled, rows, depth);
  }
}

}  // namespace hmasd
