// GRU over a sequence, forward and backward, for float32 on the CPU.
//
// A block of rows goes through all L steps while its gates stay in the cache. Within a block a row
// of gates has four parts of `hidden` (H padded to a panel) columns: n, r, z, m with
//   r = sigmoid(.), z = sigmoid(.), m = W_hn h + b_hn, n = tanh(W_in x + b_in + r m),
//   h' = (1 - z) n + z h.
// The order makes both products contiguous: x gives (n, r, z), h gives (r, z, m). When gradients
// are wanted the gates are written straight into the saved tensor, else into scratch.
//
#include <ATen/ATen.h>
#include <torch/library.h>

#include <array>
#include <tuple>
#include <vector>

#include "blocks.h"
#include "operations.h"

namespace hmasd {
namespace {

constexpr int64_t kSkew = 16;  // floats between rows, so that a column does not fall on one cache set

struct Sizes {
  int64_t steps, rows, inputs, units;  // L, B, I, H
  int64_t input, hidden;               // I and H padded to a panel

  Sizes(const at::Tensor& x, const at::Tensor& h0)
      : steps(x.size(0)), rows(x.size(1)), inputs(x.size(2)), units(h0.size(1)),
        input(round_up(inputs, kPanel)), hidden(round_up(units, kPanel)) {}

  int64_t gates_stride() const { return 4 * hidden + kSkew; }
};

// Part `part` of the gates (n, r, z = 0, 1, 2) is row block 2, 0, 1 of torch's (r, z, n).
inline int64_t torch_part_x(int64_t part) { return (part + 2) % 3; }

// weight [3H, depth] -> panels [3 hidden / panel][depth][panel] of its transpose.
Floats pack_forward(const at::Tensor& weight, const Sizes& s, bool x_order) {
  const int64_t depth = weight.size(1);
  Floats packed(3 * s.hidden * depth);
  for (int64_t part = 0; part < 3; ++part) {
    const int64_t row = (x_order ? torch_part_x(part) : part) * s.units;
    pack_transposed({weight.const_data_ptr<float>() + row * depth, s.units, depth, depth},
                    packed.data() + part * s.hidden * depth);
  }
  return packed;
}

// weight [3H, width] -> panels [padded width / panel][3 hidden][panel].
Floats pack_backward(const at::Tensor& weight, const Sizes& s, bool x_order) {
  const int64_t width = weight.size(1);
  Floats packed(3 * s.hidden * round_up(width, kPanel), 0.0f);
  for (int64_t part = 0; part < 3; ++part) {
    const int64_t row = (x_order ? torch_part_x(part) : part) * s.units;
    pack_rows({weight.const_data_ptr<float>() + row * width, s.units, width, width}, 3 * s.hidden,
              part * s.hidden, packed.data());
  }
  return packed;
}

// Biases of (n, r, z, m): b_in, b_ir + b_hr, b_iz + b_hz, b_hn.
Floats pack_bias(const at::Tensor& b_ih, const at::Tensor& b_hh, const Sizes& s) {
  Floats bias(4 * s.hidden, 0.0f);
  const float *x = b_ih.const_data_ptr<float>(), *h = b_hh.const_data_ptr<float>();
  for (int64_t unit = 0; unit < s.units; ++unit) {
    bias[unit] = x[2 * s.units + unit];
    bias[s.hidden + unit] = x[unit] + h[unit];
    bias[2 * s.hidden + unit] = x[s.units + unit] + h[s.units + unit];
    bias[3 * s.hidden + unit] = h[2 * s.units + unit];
  }
  return bias;
}

// Copy `block.count` rows into scratch of `stride` columns; the padding of the scratch stays zero.
void read_rows(const float* source, int64_t width, float* target, int64_t stride, int64_t count) {
  for (int64_t row = 0; row < count; ++row)
    std::memcpy(target + row * stride, source + row * width, width * sizeof(float));
}

void scale_rows(float* rows, int64_t stride, const float* factor, int64_t count) {
  for (int64_t row = 0; row < count; ++row) {
    const Vec scale = splat(factor[row]);
    if (factor[row] == 1.0f) continue;
    for (int64_t j = 0; j < stride; j += kWidth)
      store(rows + row * stride + j, load(rows + row * stride + j) * scale);
  }
}

struct ForwardWeights {
  Floats x, h, bias;
};

// gates <- pre-activations of (n, r, z, m).
void project(const Sizes& s, const Block& block, const ForwardWeights& w, const float* x,
             const float* h, float* gates) {
  const int64_t stride = s.gates_stride();
  for (int64_t column = 0; column < 3 * s.hidden; column += kPanel)
    multiply_panel<false>({x, s.input, w.x.data() + column * s.inputs, kPanel,
                           w.bias.data() + column, 0, gates + column, stride},
                          block.padded, s.inputs);
  for (int64_t column = 0; column < 3 * s.hidden; column += kPanel) {
    float* out = gates + s.hidden + column;
    const bool is_m = column >= 2 * s.hidden;  // r and z continue the sum over x
    multiply_panel<false>({h, s.hidden, w.h.data() + column * s.units, kPanel,
                           is_m ? w.bias.data() + s.hidden + column : out, is_m ? 0 : stride, out,
                           stride},
                          block.padded, s.units);
  }
}

// gates <- (n, r, z, m), h <- the state after the step.
void activate(const Sizes& s, const Block& block, float* gates, float* h) {
  for (int64_t row = 0; row < block.padded; ++row) {
    float *n = gates + row * s.gates_stride(), *r = n + s.hidden, *z = r + s.hidden,
          *m = z + s.hidden, *state = h + row * s.hidden;
    for (int64_t j = 0; j < s.hidden; j += kWidth) {
      const Vec reset = sigmoid(load(r + j)), update = sigmoid(load(z + j));
      const Vec candidate = tanh(load(n + j) + reset * load(m + j));
      store(r + j, reset);
      store(z + j, update);
      store(n + j, candidate);
      store(state + j, candidate + update * (load(state + j) - candidate));
    }
  }
}

void forward_block(const Sizes& s, const Block& block, const ForwardWeights& w, const float* x,
                   const float* h0, const float* keep, float* out, float* saved) {
  Floats x_rows(block.padded * s.input), h_rows(block.padded * s.hidden);
  Buffer scratch(saved ? 0 : block.padded * s.gates_stride());
  read_rows(h0 + block.first * s.units, s.units, h_rows.data(), s.hidden, block.count);
  for (int64_t t = 0; t < s.steps; ++t) {
    const int64_t row = t * s.rows + block.first;
    float* gates = saved ? saved + (block.index * s.steps + t) * kBlock * s.gates_stride()
                         : scratch.data();
    read_rows(x + row * s.inputs, s.inputs, x_rows.data(), s.input, block.count);
    scale_rows(h_rows.data(), s.hidden, keep + row, block.count);
    project(s, block, w, x_rows.data(), h_rows.data(), gates);
    activate(s, block, gates, h_rows.data());
    for (int64_t i = 0; i < block.count; ++i)
      std::memcpy(out + (row + i) * s.units, h_rows.data() + i * s.hidden,
                  s.units * sizeof(float));
  }
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> gru_forward(
    const at::Tensor& x, const at::Tensor& h0, const at::Tensor& keep, const at::Tensor& w_ih,
    const at::Tensor& w_hh, const at::Tensor& b_ih, const at::Tensor& b_hh, bool save) {
  const Sizes s(x, h0);
  at::Tensor out = at::empty({s.steps, s.rows, s.units}, x.options());
  at::Tensor saved = at::empty(
      {save ? count_blocks(s.rows) * s.steps * kBlock * s.gates_stride() : 0}, x.options());
  const ForwardWeights w{pack_forward(w_ih, s, true), pack_forward(w_hh, s, false),
                         pack_bias(b_ih, b_hh, s)};
  for_each_group(s.rows, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index)
      forward_block(s, Block(index, s.rows), w, x.const_data_ptr<float>(), h0.const_data_ptr<float>(),
                    keep.const_data_ptr<float>(), out.data_ptr<float>(),
                    save ? saved.data_ptr<float>() : nullptr);
  });
  return {out, saved};
}

namespace {

// What one group of blocks sums up.
struct WeightGrads {
  Floats x, h, bias;  // [3 hidden, input], [3 hidden, hidden], [4 hidden]

  explicit WeightGrads(const Sizes& s)
      : x(3 * s.hidden * s.input, 0.0f), h(3 * s.hidden * s.hidden, 0.0f),
        bias(4 * s.hidden, 0.0f) {}
};

struct BackwardInputs {
  const float *grad_out, *x, *h0, *keep, *out, *saved;
  Floats w_x, w_h;
  float *grad_x, *grad_h0;
};

struct BackwardScratch {
  Floats x, h, grad_h, grad_x, grad_gates, zeros;

  explicit BackwardScratch(const Sizes& s)
      : x(kBlock * s.input), h(kBlock * s.hidden), grad_h(kBlock * s.hidden),
        grad_x(kBlock * s.input), grad_gates(kBlock * s.gates_stride()),
        zeros(kPanel, 0.0f) {}

  void clear() {
    for (auto* rows : {&x, &h, &grad_h}) std::fill(rows->begin(), rows->end(), 0.0f);
  }
};

// grad_gates <- gradients of the pre-activations; grad_h <- its part that goes past the gates.
void activate_backward(const Sizes& s, int64_t rows, const float* gates, BackwardScratch& b,
                       float* grad_bias) {
  for (int64_t j = 0; j < s.hidden; j += kWidth) {
    Vec sum_n = {}, sum_r = {}, sum_z = {}, sum_m = {};
    for (int64_t row = 0; row < rows; ++row) {
      const float* saved = gates + row * s.gates_stride() + j;
      float* grad = b.grad_gates.data() + row * s.gates_stride() + j;
      float* grad_h = b.grad_h.data() + row * s.hidden + j;
      const Vec n = load(saved), r = load(saved + s.hidden), z = load(saved + 2 * s.hidden),
                m = load(saved + 3 * s.hidden);
      const Vec h = load(b.h.data() + row * s.hidden + j), up = load(grad_h);
      const Vec grad_n = up * (1.0f - z) * (1.0f - n * n);
      const Vec grad_z = up * (h - n) * z * (1.0f - z);
      const Vec grad_m = grad_n * r;
      const Vec grad_r = grad_n * m * r * (1.0f - r);
      store(grad, grad_n);
      store(grad + s.hidden, grad_r);
      store(grad + 2 * s.hidden, grad_z);
      store(grad + 3 * s.hidden, grad_m);
      store(grad_h, up * z);
      sum_n += grad_n, sum_r += grad_r, sum_z += grad_z, sum_m += grad_m;
    }
    const Vec sums[4] = {sum_n, sum_r, sum_z, sum_m};
    for (int64_t part = 0; part < 4; ++part) {
      float* target = grad_bias + part * s.hidden + j;
      store(target, load(target) + sums[part]);
    }
  }
}

// The four products: gradients of the state, of x and of both weights.
void project_backward(const Sizes& s, const Block& block, const BackwardInputs& in,
                      BackwardScratch& b, WeightGrads& sums) {
  const int64_t stride = s.gates_stride(), depth = 3 * s.hidden;
  const float *of_x = b.grad_gates.data(), *of_h = of_x + s.hidden;
  for (int64_t column = 0; column < s.hidden; column += kPanel) {
    float *grad_h = b.grad_h.data() + column, *grad_w = sums.h.data() + column;
    multiply_panel<true>({of_h, stride, b.h.data() + column, s.hidden, grad_w, s.hidden, grad_w,
                          s.hidden},
                         depth, block.count);
    multiply_panel<false>({of_h, stride, in.w_h.data() + column * depth, kPanel, grad_h, s.hidden,
                           grad_h, s.hidden},
                          block.padded, depth);
  }
  for (int64_t column = 0; column < s.input; column += kPanel) {
    float* grad_w = sums.x.data() + column;
    multiply_panel<true>({of_x, stride, b.x.data() + column, s.input, grad_w, s.input, grad_w,
                          s.input},
                         depth, block.count);
    if (in.grad_x)
      multiply_panel<false>({of_x, stride, in.w_x.data() + column * depth, kPanel, b.zeros.data(),
                             0, b.grad_x.data() + column, s.input},
                            block.padded, depth);
  }
}

void backward_block(const Sizes& s, const Block& block, const BackwardInputs& in,
                    BackwardScratch& b, WeightGrads& sums) {
  b.clear();
  for (int64_t t = s.steps - 1; t >= 0; --t) {
    const int64_t row = t * s.rows + block.first;
    const float* before = t ? in.out + (row - s.rows) * s.units : in.h0 + block.first * s.units;
    read_rows(in.x + row * s.inputs, s.inputs, b.x.data(), s.input, block.count);
    read_rows(before, s.units, b.h.data(), s.hidden, block.count);
    scale_rows(b.h.data(), s.hidden, in.keep + row, block.count);
    for (int64_t i = 0; i < block.count; ++i) {
      const float* grad = in.grad_out + (row + i) * s.units;
      float* grad_h = b.grad_h.data() + i * s.hidden;
      for (int64_t j = 0; j < s.units; ++j) grad_h[j] += grad[j];
    }
    activate_backward(s, block.padded,
                      in.saved + (block.index * s.steps + t) * kBlock * s.gates_stride(), b,
                      sums.bias.data());
    project_backward(s, block, in, b, sums);
    scale_rows(b.grad_h.data(), s.hidden, in.keep + row, block.count);
    for (int64_t i = 0; in.grad_x && i < block.count; ++i)
      std::memcpy(in.grad_x + (row + i) * s.inputs, b.grad_x.data() + i * s.input,
                  s.inputs * sizeof(float));
  }
  for (int64_t i = 0; i < block.count; ++i)
    std::memcpy(in.grad_h0 + (block.first + i) * s.units, b.grad_h.data() + i * s.hidden,
                s.units * sizeof(float));
}

// Sum over groups in order, and back to torch's (r, z, n) without padding: rows of `padded` columns
// become rows of `like`. `parts` names which of the stored parts are r, z and n.
at::Tensor collect(const std::vector<WeightGrads>& sums, Floats WeightGrads::*member,
                   int64_t padded, const Sizes& s, std::array<int64_t, 3> parts,
                   const at::Tensor& like) {
  at::Tensor result = at::zeros_like(like);
  const int64_t width = like.dim() == 1 ? 1 : like.size(1);
  float* target = result.data_ptr<float>();
  for (const WeightGrads& group : sums)
    for (int64_t part = 0; part < 3; ++part)
      for (int64_t unit = 0; unit < s.units; ++unit) {
        const float* row = (group.*member).data() + (parts[part] * s.hidden + unit) * padded;
        float* sum = target + (part * s.units + unit) * width;
        for (int64_t j = 0; j < width; ++j) sum[j] += row[j];
      }
  return result;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> gru_backward(
    const at::Tensor& grad_out, const at::Tensor& x, const at::Tensor& h0, const at::Tensor& keep,
    const at::Tensor& w_ih, const at::Tensor& w_hh, const at::Tensor& b_ih,
    const at::Tensor& b_hh, const at::Tensor& out, const at::Tensor& saved, bool want_x) {
  const Sizes s(x, h0);
  at::Tensor grad_x = want_x ? at::empty_like(x) : at::empty({0}, x.options());
  at::Tensor grad_h0 = at::empty_like(h0);
  const BackwardInputs in{
      grad_out.const_data_ptr<float>(), x.const_data_ptr<float>(), h0.const_data_ptr<float>(),
      keep.const_data_ptr<float>(), out.const_data_ptr<float>(), saved.const_data_ptr<float>(),
      want_x ? pack_backward(w_ih, s, true) : Floats(), pack_backward(w_hh, s, false),
      want_x ? grad_x.data_ptr<float>() : nullptr, grad_h0.data_ptr<float>()};
  std::vector<WeightGrads> sums(count_groups(s.rows), WeightGrads(s));
  for_each_group(s.rows, [&](int64_t group, int64_t begin, int64_t end) {
    BackwardScratch scratch(s);
    for (int64_t index = begin; index < end; ++index)
      backward_block(s, Block(index, s.rows), in, scratch, sums[group]);
  });
  return {grad_x,
          grad_h0,
          collect(sums, &WeightGrads::x, s.input, s, {1, 2, 0}, w_ih),
          collect(sums, &WeightGrads::h, s.hidden, s, {0, 1, 2}, w_hh),
          collect(sums, &WeightGrads::bias, 1, s, {1, 2, 0}, b_ih),
          collect(sums, &WeightGrads::bias, 1, s, {1, 2, 3}, b_hh)};
}

}  // namespace
}  // namespace hmasd

TORCH_LIBRARY(hmasd_kernels, library) {
  library.def(
      "gru_forward(Tensor x, Tensor h0, Tensor keep, Tensor w_ih, Tensor w_hh, Tensor b_ih, "
      "Tensor b_hh, bool save) -> (Tensor, Tensor)");
  library.def(
      "gru_backward(Tensor grad_out, Tensor x, Tensor h0, Tensor keep, Tensor w_ih, Tensor w_hh, "
      "Tensor b_ih, Tensor b_hh, Tensor out, Tensor saved, bool want_x) -> "
      "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(hmasd_kernels, CPU, library) {
  library.impl("gru_forward", &hmasd::gru_forward);
  library.impl("gru_backward", &hmasd::gru_backward);
}
