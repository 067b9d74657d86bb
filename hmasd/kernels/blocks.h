// Blocks of rows that travel together through a kernel, and weights packed for `multiply_panel`.
//
// Sums over rows (gradients of weights) are made per group of blocks and then over groups in order.
// The number of groups does not depend on the threads, so the result does not either.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <new>
#include <vector>

#include "simd.h"

namespace hmasd {

// Memory that begins with a cache line: no vector of a row lies across two.
template <class T>
struct Aligned {
  using value_type = T;
  static constexpr std::align_val_t kLine{64};

  T* allocate(size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), kLine)); }
  void deallocate(T* place, size_t) { ::operator delete(place, kLine); }
  bool operator==(const Aligned&) const { return true; }
  bool operator!=(const Aligned&) const { return false; }
};

using Floats = std::vector<float, Aligned<float>>;

// Floats that are not cleared.
class Buffer {
 public:
  explicit Buffer(int64_t size) : size_(size), data_(Aligned<float>().allocate(size)) {}
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { Aligned<float>().deallocate(data_, size_); }
  float* data() { return data_; }

 private:
  int64_t size_;
  float* data_;
};

constexpr int64_t kBlock = 96;  // rows at most; a multiple of kTileRows
constexpr int64_t kGroups = 8;

inline int64_t divide_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

// Few blocks are of one size and even in number, so that two threads have the same to do.
inline int64_t block_size(int64_t rows) {
  const int64_t blocks = divide_up(rows, kBlock);
  return round_up(divide_up(rows, blocks > 1 ? round_up(blocks, 2) : 1), kRowStep);
}

inline int64_t count_blocks(int64_t rows) { return divide_up(rows, block_size(rows)); }
inline int64_t count_groups(int64_t rows) { return std::min(kGroups, count_blocks(rows)); }

// One block of rows; `padded` is what the products work on.
struct Block {
  int64_t index, first, count, padded;

  Block(int64_t index, int64_t rows)
      : index(index), first(index * block_size(rows)),
        count(std::min(block_size(rows), rows - first)), padded(round_up(count, kRowStep)) {}
};

// body(group, first block, last block + 1), groups side by side on torch's threads.
template <class Body>
void for_each_group(int64_t rows, const Body& body) {
  const int64_t blocks = count_blocks(rows), groups = count_groups(rows);
  at::parallel_for(0, groups, 1, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group)
      body(group, group * blocks / groups, (group + 1) * blocks / groups);
  });
}

// A matrix of `rows` x `columns`, its rows `stride` floats apart.
struct Matrix {
  const float* data;
  int64_t rows, columns, stride;
};

// weight -> panels [rows / panel][columns][panel] of its transpose, for products x weight^T. What
// pads the last vector of rows becomes 0, a further one is left as it is.
inline void pack_transposed(const Matrix& weight, float* packed) {
  for (int64_t row = 0; row < weight.rows; row += kWidth)
    for (int64_t column = 0; column < weight.columns; column += kWidth) {
      const int64_t rows = std::min(kWidth, weight.rows - row);
      const int64_t columns = std::min(kWidth, weight.columns - column);
      Vec tile[kWidth] = {};
      for (int64_t i = 0; i < rows; ++i)
        tile[i] = load_part(weight.data + (row + i) * weight.stride + column, columns);
      transpose(tile);
      float* target = packed + (row / kPanel * weight.columns + column) * kPanel + row % kPanel;
      for (int64_t k = 0; k < columns; ++k) store(target + k * kPanel, tile[k]);
    }
}

// weight -> panels [columns / panel][depth][panel], its rows from `first` on, for products
// gradient weight.
inline void pack_rows(const Matrix& weight, int64_t depth, int64_t first, float* packed) {
  for (int64_t row = 0; row < weight.rows; ++row)
    for (int64_t column = 0; column < weight.columns; column += kPanel)
      std::memcpy(packed + column * depth + (first + row) * kPanel,
                  weight.data + row * weight.stride + column,
                  std::min(kPanel, weight.columns - column) * sizeof(float));
}

}  // namespace hmasd
