// The normalised MLP, forward and backward, for float32 on the CPU:
//   h_0 = norm(x), h_l = norm(relu(W_l h_(l-1) + b_l)), l = 1..L,
// and, if it has a head, of the last h and of a skill z: y = W h + b + V[:, z].
//
// A norm is a standardized row ("hat") times a scale plus a shift, and the linear layer that reads it
// takes these two into its own weights: W h + b = (W S) hat + (b + W t). So rows are only ever
// standardized, and the gradients of scale and shift come from that of the weights, without rows:
//   G = sum over rows of grad hat^T, dW = G S + db t^T, ds = diag(W^T G), dt = W^T db.
// A block of rows goes through all layers while it stays in the cache; all hats are kept for backward.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <tuple>
#include <vector>

#include "blocks.h"
#include "normalize.h"
#include "operations.h"

namespace hmasd {
namespace {

using at::Tensor;

// A vector with zeros up to a vector's width.
Floats pad(const Tensor& source) {
  Floats padded(round_up(source.numel(), kWidth));
  std::memcpy(padded.data(), source.const_data_ptr<float>(), source.numel() * sizeof(float));
  return padded;
}

// Scale and shift of a norm.
struct Norm {
  int64_t units, padded;
  Floats scale, shift;

  Norm(const Tensor& scale, const Tensor& shift)
      : units(scale.numel()), padded(round_up(units, kWidth)), scale(pad(scale)),
        shift(pad(shift)) {}
};

// A linear layer that reads a standardized row; `skills` columns of V only in a head.
struct Layer {
  int64_t inputs, units, skills;
  int64_t in, out;  // inputs and units padded to a vector
  Floats packed;    // W S, packed for the direction that is wanted
  Floats bias;      // b + W t

  Layer(const Tensor& weight, const Tensor& bias_, const Norm& norm, bool backward)
      : inputs(norm.units), units(weight.size(0)), skills(weight.size(1) - inputs),
        in(norm.padded), out(round_up(units, kWidth)),
        packed(backward ? units * round_up(inputs, kPanel) : inputs * round_up(units, kPanel)),
        bias(pad(bias_)) {
    Buffer scaled(units * in);
    for (int64_t unit = 0; unit < units; ++unit) {
      const float* row = weight.const_data_ptr<float>() + unit * weight.size(1);
      Vec sum = {};
      for_each_vector(inputs, [&](int64_t k, int64_t part) {
        const Vec w = load_part(row + k, part);
        store(scaled.data() + unit * in + k, w * load(norm.scale.data() + k));
        sum += w * load(norm.shift.data() + k);
      });
      bias[unit] += sum_lanes(sum)[0];
    }
    const Matrix matrix{scaled.data(), units, inputs, in};
    if (backward)
      pack_rows(matrix, units, 0, packed.data());
    else
      pack_transposed(matrix, packed.data());
  }
};

// parameters: scale and shift of the first norm; of each layer W, b and its norm's scale and shift;
// and, if there is a head, [W, V] and b.
struct Network {
  int64_t rows;
  float eps;
  std::vector<Norm> norms;    // of x and of what each layer but a head gives
  std::vector<Layer> layers;  // the head is the last one
  Floats of_skill;            // V transposed: [skills][out of the head]

  Network(const Tensor& x, at::TensorList parameters, double eps, bool backward)
      : rows(x.size(0)), eps(static_cast<float>(eps)) {
    norms.emplace_back(parameters[0], parameters[1]);
    for (size_t i = 2; i < parameters.size(); i += 4) {
      layers.emplace_back(parameters[i], parameters[i + 1], norms.back(), backward);
      if (i + 4 <= parameters.size()) norms.emplace_back(parameters[i + 2], parameters[i + 3]);
    }
    if (has_head()) read_skills(parameters[parameters.size() - 2]);
  }

  bool has_head() const { return layers.size() == norms.size(); }
  const Layer& last() const { return layers.back(); }

  void read_skills(const Tensor& weight) {
    const Layer& head = layers.back();
    of_skill.resize(head.skills * head.out);
    for (int64_t unit = 0; unit < head.units; ++unit)
      for (int64_t z = 0; z < head.skills; ++z)
        of_skill[z * head.out + unit] =
            weight.const_data_ptr<float>()[unit * weight.size(1) + head.inputs + z];
  }

  int64_t widest() const {
    int64_t width = norms.front().padded;
    for (const Layer& layer : layers) width = std::max(width, layer.out);
    return width;
  }

  // Floats kept of one block: for each norm its rows, then their moments.
  int64_t kept() const {
    int64_t width = 0;
    for (const Norm& norm : norms) width += norm.padded + 2;
    return width * kBlock;
  }
};

// What is kept of norm number `index` of a block; `kept`: of the whole block.
Hats hats_of(const Network& net, size_t index, float* kept) {
  for (size_t i = 0; i < index; ++i) kept += kBlock * (net.norms[i].padded + 2);
  const Norm& norm = net.norms[index];
  float* moments = kept + kBlock * norm.padded;
  return {kept, norm.units, norm.padded, moments, moments + kBlock};
}

struct ForwardRows {
  const float* x;
  const int64_t* skill;  // null without skills
  float* out;
};

void multiply(const Layer& layer, const Block& block, const float* hat, float* out) {
  for (int64_t column = 0; column < layer.out; column += kPanel)
    multiply_panel<false>({hat, layer.in, layer.packed.data() + column * layer.inputs, kPanel,
                           layer.bias.data() + column, 0, out + column, layer.out},
                          block.padded, layer.inputs, layer.out - column);
}

// `scratch` takes the block's outputs at full width.
void head_forward(const Network& net, const Block& block, const ForwardRows& rows,
                  const float* hat, float* scratch) {
  const Layer& head = net.last();
  multiply(head, block, hat, scratch);
  for (int64_t row = 0; row < block.count; ++row) {
    float* values = scratch + row * head.out;
    for (int64_t j = 0; head.skills && j < head.out; j += kWidth) {
      const float* of_skill = net.of_skill.data() + rows.skill[block.first + row] * head.out + j;
      store(values + j, load(values + j) + load(of_skill));
    }
    std::memcpy(rows.out + (block.first + row) * head.units, values, head.units * sizeof(float));
  }
}

template <int64_t kUnits>
void forward_block(const Network& net, const Block& block, const ForwardRows& rows, float* kept,
                   float* scratch) {
  Hats now = hats_of(net, 0, kept);
  standardize<false, 0>(rows.x + block.first * now.units, now.units, block.count, net.eps, now);
  for (size_t index = 1; index < net.norms.size(); ++index) {
    const Hats next = hats_of(net, index, kept);
    multiply(net.layers[index - 1], block, now.data, next.data);
    standardize<true, kUnits>(next.data, next.stride, block.count, net.eps, next);
    now = next;
  }
  if (net.has_head()) return head_forward(net, block, rows, now.data, scratch);
  const Norm& last = net.norms.back();
  for (int64_t row = 0; row < block.count; ++row)
    for_each_vector(last.units, [&](int64_t j, int64_t part) {
      const Vec hat = load(now.data + row * last.padded + j);
      store_part(rows.out + (block.first + row) * last.units + j,
                 hat * load(last.scale.data() + j) + load(last.shift.data() + j), part);
    });
}

bool all_common(const Network& net) {
  return std::all_of(net.norms.begin() + 1, net.norms.end(),
                     [](const Norm& norm) { return norm.units == kCommonUnits; });
}

// The skills' numbers, or null without a head that wants them.
const int64_t* checked_skill(const Network& net, const Tensor& skill) {
  if (!net.last().skills) return nullptr;
  const int64_t* data = skill.const_data_ptr<int64_t>();
  TORCH_CHECK(skill.numel() == net.rows, "skill must have one number for each of ", net.rows,
              " rows, got ", skill.numel());
  for (int64_t row = 0; row < net.rows; ++row)
    TORCH_CHECK(data[row] >= 0 && data[row] < net.last().skills, "skill ", data[row],
                " is not in 0..", net.last().skills - 1);
  return data;
}

}  // namespace

std::tuple<Tensor, Tensor> mlp_forward(const Tensor& x, const Tensor& skill,
                                       at::TensorList parameters, double eps, bool save) {
  const Network net(x, parameters, eps, false);
  Tensor out = at::empty({net.rows, net.last().units}, x.options());
  Tensor saved = at::empty({save ? count_blocks(net.rows) * net.kept() : 0}, x.options());
  const ForwardRows rows{x.const_data_ptr<float>(), checked_skill(net, skill),
                         out.data_ptr<float>()};
  const auto block_forward = all_common(net) ? forward_block<kCommonUnits> : forward_block<0>;
  for_each_group(net.rows, [&](int64_t, int64_t begin, int64_t end) {
    Buffer scratch(net.has_head() ? kBlock * net.last().out : 0), unsaved(save ? 0 : net.kept());
    for (int64_t index = begin; index < end; ++index)
      block_forward(net, Block(index, net.rows), rows,
                    save ? saved.data_ptr<float>() + index * net.kept() : unsaved.data(),
                    scratch.data());
  });
  return {out, saved};
}

namespace {

// What one group of blocks sums up of a layer: G transposed, [inputs up to a tile, out].
struct LayerGrads {
  Floats weight, bias, of_skill;

  explicit LayerGrads(const Layer& layer)
      : weight(round_up(layer.inputs, kRowStep) * layer.out), bias(layer.out),
        of_skill(layer.skills * layer.out) {}
};

struct NetworkGrads {
  std::vector<LayerGrads> layers;
  Floats scale, shift;  // of a last norm that no layer reads

  explicit NetworkGrads(const Network& net)
      : layers(net.layers.begin(), net.layers.end()), scale(net.norms.back().padded),
        shift(net.norms.back().padded) {}
};

struct BackwardRows {
  const float *grad_out, *x;
  const int64_t* skill;
  float* grad_x;  // null if not wanted
};

struct Scratch {
  Floats grad, next, zeros, ignored;

  explicit Scratch(const Network& net)
      : grad(kBlock * net.widest()), next(grad), zeros(kPanel),
        ignored(net.norms.front().padded) {}
};

void read_head_grad(const Layer& head, const Block& block, const BackwardRows& rows, Scratch& b,
                    LayerGrads& sums) {
  for (int64_t row = 0; row < block.count; ++row)
    for_each_vector(head.units, [&](int64_t j, int64_t part) {
      const Vec up = load_part(rows.grad_out + (block.first + row) * head.units + j, part);
      store(b.grad.data() + row * head.out + j, up);
      store(sums.bias.data() + j, load(sums.bias.data() + j) + up);
      if (!head.skills) return;
      float* of_skill = sums.of_skill.data() + rows.skill[block.first + row] * head.out + j;
      store(of_skill, load(of_skill) + up);
    });
}

void read_norm_grad(const Norm& norm, const Block& block, const BackwardRows& rows,
                    const float* hat, Scratch& b, NetworkGrads& sums) {
  for (int64_t row = 0; row < block.count; ++row)
    for_each_vector(norm.units, [&](int64_t j, int64_t part) {
      const Vec up = load_part(rows.grad_out + (block.first + row) * norm.units + j, part);
      float *scale = sums.scale.data() + j, *shift = sums.shift.data() + j;
      store(scale, load(scale) + up * load(hat + row * norm.padded + j));
      store(shift, load(shift) + up);
      store(b.grad.data() + row * norm.padded + j, up * load(norm.scale.data() + j));
    });
}

// Adds to G; if `further`, `b.grad` becomes the gradient of the hat that the layer had read.
void linear_backward(const Layer& layer, const Block& block, const float* hat, bool further,
                     Scratch& b, LayerGrads& sums) {
  for (int64_t column = 0; column < layer.out; column += kPanel) {
    float* grad_weight = sums.weight.data() + column;
    multiply_panel<true>({hat, layer.in, b.grad.data() + column, layer.out, grad_weight,
                          layer.out, grad_weight, layer.out},
                         round_up(layer.inputs, kRowStep), block.count, layer.out - column);
  }
  if (!further) return;
  for (int64_t column = 0; column < layer.in; column += kPanel)
    multiply_panel<false>({b.grad.data(), layer.out, layer.packed.data() + column * layer.units,
                           kPanel, b.zeros.data(), 0, b.next.data() + column, layer.in},
                          block.padded, layer.units, layer.in - column);
  std::swap(b.grad, b.next);
}

template <int64_t kUnits>
void backward_block(const Network& net, const Block& block, const BackwardRows& rows, float* kept,
                    Scratch& b, NetworkGrads& sums) {
  if (net.has_head())
    read_head_grad(net.last(), block, rows, b, sums.layers.back());
  else
    read_norm_grad(net.norms.back(), block, rows, hats_of(net, net.norms.size() - 1, kept).data,
                   b, sums);
  for (size_t index = net.layers.size(); index-- > 0;) {
    const Layer& layer = net.layers[index];
    LayerGrads& of_layer = sums.layers[index];
    if (index + 1 < net.norms.size())
      standardize_backward<true, kUnits>(b.grad.data(), block.count,
                                         hats_of(net, index + 1, kept), of_layer.bias.data());
    linear_backward(layer, block, hats_of(net, index, kept).data, index > 0 || rows.grad_x, b,
                    of_layer);
  }
  if (!rows.grad_x) return;
  const Hats of_x = hats_of(net, 0, kept);
  standardize_backward<false, 0>(b.grad.data(), block.count, of_x, b.ignored.data());
  for (int64_t row = 0; row < block.count; ++row)
    std::memcpy(rows.grad_x + (block.first + row) * of_x.units, b.grad.data() + row * of_x.stride,
                of_x.units * sizeof(float));
}

// Adds the groups up, in order, in the first one.
void join(std::vector<NetworkGrads>& groups) {
  const auto add = [](Floats& sum, const Floats& part) {
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += part[i];
  };
  for (size_t group = 1; group < groups.size(); ++group) {
    for (size_t i = 0; i < groups[0].layers.size(); ++i) {
      LayerGrads &sum = groups[0].layers[i], &part = groups[group].layers[i];
      add(sum.weight, part.weight);
      add(sum.bias, part.bias);
      add(sum.of_skill, part.of_skill);
    }
    add(groups[0].scale, groups[group].scale);
    add(groups[0].shift, groups[group].shift);
  }
}

// Gradients of [W, V] and of b, and of the scale and the shift of the norm that the layer reads.
void linear_grads(const Layer& layer, const Norm& norm, const LayerGrads& sums,
                  const Tensor& weight, Tensor* grads) {
  const int64_t columns = weight.size(1);
  const float* w = weight.const_data_ptr<float>();
  float *of_weight = grads[0].data_ptr<float>(), *of_bias = grads[1].data_ptr<float>(),
        *of_scale = grads[2].data_ptr<float>(), *of_shift = grads[3].data_ptr<float>();
  for (int64_t unit = 0; unit < layer.units; ++unit) {
    const float of_unit = of_bias[unit] = sums.bias[unit];
    for (int64_t k = 0; k < layer.inputs; ++k) {
      const float g = sums.weight[k * layer.out + unit], here = w[unit * columns + k];
      of_weight[unit * columns + k] = norm.scale[k] * g + norm.shift[k] * of_unit;
      of_scale[k] += here * g;
      of_shift[k] += here * of_unit;
    }
    for (int64_t z = 0; z < layer.skills; ++z)
      of_weight[unit * columns + layer.inputs + z] = sums.of_skill[z * layer.out + unit];
  }
}

// The gradients of all parameters, in their order.
std::vector<Tensor> collect(const Network& net, const NetworkGrads& sums,
                            at::TensorList parameters) {
  std::vector<Tensor> grads;
  for (const Tensor& parameter : parameters) grads.push_back(at::zeros_like(parameter));
  for (size_t i = 0; i < net.layers.size(); ++i) {
    const size_t norm = 4 * i, weight = norm + 2;
    Tensor of_layer[] = {grads[weight], grads[weight + 1], grads[norm], grads[norm + 1]};
    linear_grads(net.layers[i], net.norms[i], sums.layers[i], parameters[weight], of_layer);
  }
  if (net.has_head()) return grads;
  const size_t bytes = net.norms.back().units * sizeof(float);
  std::memcpy(grads[grads.size() - 2].data_ptr<float>(), sums.scale.data(), bytes);
  std::memcpy(grads[grads.size() - 1].data_ptr<float>(), sums.shift.data(), bytes);
  return grads;
}

// Returns the gradients of the parameters, then of x (empty if not wanted).
std::vector<Tensor> mlp_backward(const Tensor& grad_out, const Tensor& x, const Tensor& skill,
                                 at::TensorList parameters, const Tensor& saved, double eps,
                                 bool want_x) {
  const Network net(x, parameters, eps, true);
  Tensor grad_x = want_x ? at::empty_like(x) : at::empty({0}, x.options());
  const BackwardRows rows{grad_out.const_data_ptr<float>(), x.const_data_ptr<float>(),
                          checked_skill(net, skill),
                          want_x ? grad_x.data_ptr<float>() : nullptr};
  std::vector<NetworkGrads> sums(count_groups(net.rows), NetworkGrads(net));
  const auto block_backward = all_common(net) ? backward_block<kCommonUnits> : backward_block<0>;
  for_each_group(net.rows, [&](int64_t group, int64_t begin, int64_t end) {
    Scratch scratch(net);
    for (int64_t index = begin; index < end; ++index)
      block_backward(net, Block(index, net.rows), rows,
                     saved.data_ptr<float>() + index * net.kept(), scratch, sums[group]);
  });
  join(sums);
  std::vector<Tensor> grads = collect(net, sums.front(), parameters);
  grads.push_back(grad_x);
  return grads;
}

}  // namespace
}  // namespace hmasd

TORCH_LIBRARY_FRAGMENT(hmasd_kernels, library) {
  library.def(
      "mlp_forward(Tensor x, Tensor skill, Tensor[] parameters, float eps, bool save) -> "
      "(Tensor, Tensor)");
  library.def(
      "mlp_backward(Tensor grad_out, Tensor x, Tensor skill, Tensor[] parameters, Tensor saved, "
      "float eps, bool want_x) -> Tensor[]");
}

TORCH_LIBRARY_IMPL(hmasd_kernels, CPU, library) {
  library.impl("mlp_forward", &hmasd::mlp_forward);
  library.impl("mlp_backward", &hmasd::mlp_backward);
}
