// The normalised MLP, forward and backward, for float32 on the CPU:
//   h_0 = norm(x), h_l = norm(relu(W_l h_(l-1) + b_l)), l = 1..L,
// and, if it has a head, of the last h and of a skill z: y = W h + b + V[:, z].
//
// A block of rows goes through all layers while it stays in the cache. Only the input, each layer's
// pre-activation and each LayerNorm's moments are kept for backward, which makes the rest again.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <tuple>
#include <vector>

#include "blocks.h"
#include "normalize.h"

namespace hmasd {
namespace {

using at::Tensor;
using Floats = std::vector<float>;

// A vector with zeros up to a panel.
Floats pad(const Tensor& source) {
  Floats padded(round_up(source.numel(), kPanel));
  std::memcpy(padded.data(), source.const_data_ptr<float>(), source.numel() * sizeof(float));
  return padded;
}

struct Layer {
  int64_t inputs, units, in, out;  // in and out: padded to a panel
  int64_t skills = 0;              // columns of V; only of a head
  Floats packed, bias;             // the weight, packed for the direction that is wanted
  Floats scale, shift;             // of the LayerNorm; a head has none

  Layer(const Tensor& weight, const Tensor& bias, int64_t inputs, bool backward)
      : inputs(inputs), units(weight.size(0)), in(round_up(inputs, kPanel)),
        out(round_up(units, kPanel)), packed(backward ? units * in : inputs * out),
        bias(pad(bias)) {
    const Matrix matrix{weight.const_data_ptr<float>(), units, inputs, weight.size(1)};
    if (backward)
      pack_rows(matrix, units, 0, packed.data());
    else
      pack_transposed(matrix, packed.data());
  }
};

// parameters: weight and bias of the first LayerNorm; of each linear layer and its LayerNorm; and,
// if there is a head, [W, V] and b.
struct Network {
  int64_t rows, inputs;
  float eps;
  Floats scale, shift;  // of the first LayerNorm
  std::vector<Layer> layers;
  std::vector<Layer> head;  // one or none
  Floats of_skill;          // V transposed, in panels: [out of the head / panel][skills][panel]

  Network(const Tensor& x, at::TensorList parameters, double eps, bool backward)
      : rows(x.size(0)), inputs(x.size(1)), eps(static_cast<float>(eps)),
        scale(pad(parameters[0])), shift(pad(parameters[1])) {
    size_t i = 2;
    for (; i + 4 <= parameters.size(); i += 4) {
      layers.emplace_back(parameters[i], parameters[i + 1], width(), backward);
      layers.back().scale = pad(parameters[i + 2]);
      layers.back().shift = pad(parameters[i + 3]);
    }
    if (i < parameters.size()) add_head(parameters[i], parameters[i + 1], backward);
  }

  void add_head(const Tensor& weight, const Tensor& bias, bool backward) {
    head.emplace_back(weight, bias, width(), backward);
    Layer& layer = head.front();
    layer.skills = weight.size(1) - layer.inputs;
    of_skill.resize(layer.skills * layer.out);
    if (layer.skills)
      pack_transposed({weight.const_data_ptr<float>() + layer.inputs, layer.units, layer.skills,
                       weight.size(1)},
                      of_skill.data());
  }

  int64_t width() const { return layers.empty() ? inputs : layers.back().units; }
  const Layer& last() const { return head.empty() ? layers.back() : head.front(); }

  int64_t widest() const {
    int64_t width = std::max(round_up(inputs, kPanel), last().out);
    for (const Layer& layer : layers) width = std::max(width, layer.out);
    return width;
  }

  // Floats kept of one block: the first moments, then pre-activations and moments by layer.
  int64_t kept() const {
    int64_t width = 2;
    for (const Layer& layer : layers) width += layer.out + 2;
    return width * kBlock;
  }
};

struct ForwardRows {
  const float* x;
  const int64_t* skill;  // null without skills
  float* out;
};

void multiply(const Layer& layer, const Block& block, const float* hidden, float* out) {
  for (int64_t column = 0; column < layer.out; column += kPanel)
    multiply_panel<false>({hidden, layer.in, layer.packed.data() + column * layer.inputs, kPanel,
                           layer.bias.data() + column, 0, out + column, layer.out},
                          block.padded, layer.inputs);
}

// `scratch` takes the block's outputs at full width.
void head_forward(const Network& net, const Block& block, const ForwardRows& rows,
                  const float* hidden, float* scratch) {
  const Layer& head = net.head.front();
  multiply(head, block, hidden, scratch);
  for (int64_t row = 0; row < block.count; ++row) {
    float* values = scratch + row * head.out;
    for (int64_t j = 0; head.skills && j < head.out; j += kWidth) {
      const float* of_skill = net.of_skill.data() + j / kPanel * kPanel * head.skills +
                              rows.skill[block.first + row] * kPanel + j % kPanel;
      store(values + j, load(values + j) + load(of_skill));
    }
    std::memcpy(rows.out + (block.first + row) * head.units, values, head.units * sizeof(float));
  }
}

template <int64_t kUnits>
void forward_block(const Network& net, const Block& block, const ForwardRows& rows, float* kept,
                   float* hidden, float* scratch) {
  const int64_t stride = round_up(net.inputs, kPanel);
  for (int64_t row = 0; row < block.count; ++row)
    normalize_row<false, 0>(rows.x + (block.first + row) * net.inputs, net.scale.data(),
                            net.shift.data(), net.eps, net.inputs, kept + 2 * row,
                            hidden + row * stride);
  kept += 2 * kBlock;
  for (const Layer& layer : net.layers) {
    multiply(layer, block, hidden, kept);
    float* moments = kept + kBlock * layer.out;
    for (int64_t row = 0; row < block.count; ++row)
      normalize_row<true, kUnits>(kept + row * layer.out, layer.scale.data(), layer.shift.data(),
                                  net.eps, layer.units, moments + 2 * row,
                                  hidden + row * layer.out);
    kept = moments + 2 * kBlock;
  }
  if (!net.head.empty()) return head_forward(net, block, rows, hidden, scratch);
  const Layer& last = net.layers.back();
  for (int64_t row = 0; row < block.count; ++row)
    std::memcpy(rows.out + (block.first + row) * last.units, hidden + row * last.out,
                last.units * sizeof(float));
}

bool all_common(const Network& net) {
  return std::all_of(net.layers.begin(), net.layers.end(),
                     [](const Layer& layer) { return layer.units == kCommonUnits; });
}

// The skills' numbers, or null without a head that wants them.
const int64_t* checked_skill(const Network& net, const Tensor& skill) {
  if (net.head.empty() || !net.head.front().skills) return nullptr;
  const int64_t* data = skill.const_data_ptr<int64_t>();
  TORCH_CHECK(skill.numel() == net.rows, "skill must have one number for each of ", net.rows,
              " rows, got ", skill.numel());
  for (int64_t row = 0; row < net.rows; ++row)
    TORCH_CHECK(data[row] >= 0 && data[row] < net.head.front().skills, "skill ", data[row],
                " is not in 0..", net.head.front().skills - 1);
  return data;
}

// Returns the output [rows, units] and, if `save`, what backward needs.
std::tuple<Tensor, Tensor> mlp_forward(const Tensor& x, const Tensor& skill,
                                       at::TensorList parameters, double eps, bool save) {
  const Network net(x, parameters, eps, false);
  Tensor out = at::empty({net.rows, net.last().units}, x.options());
  Tensor saved = at::empty({save ? count_blocks(net.rows) * net.kept() : 0}, x.options());
  const ForwardRows rows{x.const_data_ptr<float>(), checked_skill(net, skill),
                         out.data_ptr<float>()};
  const auto block_forward = all_common(net) ? forward_block<kCommonUnits> : forward_block<0>;
  for_each_group(net.rows, [&](int64_t, int64_t begin, int64_t end) {
    Floats hidden(kBlock * net.widest()), scratch(kBlock * net.widest());
    Floats unsaved(save ? 0 : net.kept());
    for (int64_t index = begin; index < end; ++index)
      block_forward(net, Block(index, net.rows), rows,
                    save ? saved.data_ptr<float>() + index * net.kept() : unsaved.data(),
                    hidden.data(), scratch.data());
  });
  return {out, saved};
}

// What one group of blocks sums up of a layer: the weight transposed, [inputs up to a tile, out].
struct LayerGrads {
  Floats weight, bias, scale, shift, of_skill;

  explicit LayerGrads(const Layer& layer)
      : weight(round_up(layer.inputs, kTileRows) * layer.out), bias(layer.out),
        scale(layer.out), shift(layer.out), of_skill(layer.skills * layer.out) {}
};

struct NetworkGrads {
  Floats scale, shift;
  std::vector<LayerGrads> layers, head;

  explicit NetworkGrads(const Network& net)
      : scale(net.scale.size()), shift(net.shift.size()),
        layers(net.layers.begin(), net.layers.end()), head(net.head.begin(), net.head.end()) {}
};

struct BackwardRows {
  const float *grad_out, *x;
  const int64_t* skill;
  float* grad_x;  // null if not wanted
};

struct Scratch {
  Floats grad, hidden, zeros;

  explicit Scratch(const Network& net)
      : grad(kBlock * net.widest() + kTileRows),  // the last row is read up to a tile
        hidden(grad), zeros(kPanel) {}
};

// `b.hidden` <- what the layer after `depth` layers read, made again from `kept` of the one before.
template <int64_t kUnits>
void remake_input(const Network& net, const Block& block, const BackwardRows& rows, size_t depth,
                  const float* kept, Scratch& b) {
  const int64_t stride = round_up(net.inputs, kPanel);
  if (depth == 0) {
    for (int64_t row = 0; row < block.count; ++row)
      scale_row<false, 0>(rows.x + (block.first + row) * net.inputs, net.scale.data(),
                          net.shift.data(), kept + 2 * row, net.inputs,
                          b.hidden.data() + row * stride);
    return;
  }
  const Layer& before = net.layers[depth - 1];
  const float* moments = kept + kBlock * before.out;
  for (int64_t row = 0; row < block.count; ++row)
    scale_row<true, kUnits>(kept + row * before.out, before.scale.data(), before.shift.data(),
                            moments + 2 * row, before.units, b.hidden.data() + row * before.out);
}

// Through W and b: `b.grad` becomes the gradient of `b.hidden`, which the layer had read.
void linear_backward(const Layer& layer, const Block& block, Scratch& b, LayerGrads& sums) {
  for (int64_t row = 0; row < block.count; ++row)
    for (int64_t j = 0; j < layer.out; j += kWidth)
      store(sums.bias.data() + j,
            load(sums.bias.data() + j) + load(b.grad.data() + row * layer.out + j));
  for (int64_t column = 0; column < layer.out; column += kPanel) {
    float* grad_weight = sums.weight.data() + column;
    multiply_panel<true>({b.hidden.data(), layer.in, b.grad.data() + column, layer.out,
                          grad_weight, layer.out, grad_weight, layer.out},
                         round_up(layer.inputs, kTileRows), block.count);
  }
  // What was read is not needed any more: its place takes the gradient.
  for (int64_t column = 0; column < layer.in; column += kPanel)
    multiply_panel<false>({b.grad.data(), layer.out, layer.packed.data() + column * layer.units,
                           kPanel, b.zeros.data(), 0, b.hidden.data() + column, layer.in},
                          block.padded, layer.units);
  std::swap(b.grad, b.hidden);
}

void head_backward(const Layer& head, const Block& block, const BackwardRows& rows, Scratch& b,
                   LayerGrads& sums) {
  for (int64_t row = 0; head.skills && row < block.count; ++row)
    for (int64_t j = 0; j < head.out; j += kWidth) {
      float* of_skill = sums.of_skill.data() + j / kPanel * kPanel * head.skills +
                        rows.skill[block.first + row] * kPanel + j % kPanel;
      store(of_skill, load(of_skill) + load(b.grad.data() + row * head.out + j));
    }
  linear_backward(head, block, b, sums);
}

template <int64_t kUnits>
void backward_block(const Network& net, const Block& block, const BackwardRows& rows,
                    const float* kept, Scratch& b, NetworkGrads& sums) {
  const int64_t units = net.last().units, out = net.last().out;
  for (int64_t row = 0; row < block.count; ++row)
    std::memcpy(b.grad.data() + row * out, rows.grad_out + (block.first + row) * units,
                units * sizeof(float));
  const auto of_layer = [&](size_t depth) {  // what is kept of the layer number `depth`, from 1
    const float* place = kept;
    for (size_t i = 0; i < depth; ++i)
      place += kBlock * (i ? net.layers[i - 1].out + 2 : 2);
    return place;
  };
  const size_t depth = net.layers.size();
  if (!net.head.empty()) {
    remake_input<kUnits>(net, block, rows, depth, of_layer(depth), b);
    head_backward(net.head.front(), block, rows, b, sums.head.front());
  }
  for (size_t index = depth; index-- > 0;) {
    const Layer& layer = net.layers[index];
    LayerGrads& layer_sums = sums.layers[index];
    const float *active = of_layer(index + 1), *moments = active + kBlock * layer.out;
    for (int64_t row = 0; row < block.count; ++row) {
      float* grad = b.grad.data() + row * layer.out;
      normalize_row_backward<true, kUnits>(grad, active + row * layer.out, layer.scale.data(),
                                           moments + 2 * row, layer.units,
                                           layer_sums.scale.data(), layer_sums.shift.data());
    }
    remake_input<kUnits>(net, block, rows, index, of_layer(index), b);
    linear_backward(layer, block, b, layer_sums);
  }
  const int64_t stride = round_up(net.inputs, kPanel);
  for (int64_t row = 0; row < block.count; ++row) {
    float* grad = b.grad.data() + row * stride;
    normalize_row_backward<false, 0>(grad, rows.x + (block.first + row) * net.inputs,
                                     net.scale.data(), kept + 2 * row, net.inputs,
                                     sums.scale.data(), sums.shift.data());
    if (rows.grad_x)
      std::memcpy(rows.grad_x + (block.first + row) * net.inputs, grad,
                  net.inputs * sizeof(float));
  }
}

// Sums over the groups in order, as tensors of the parameters' shapes.
class Collector {
 public:
  explicit Collector(const std::vector<NetworkGrads>& groups) : groups_(groups) {}

  template <class Member>  // member(group): Floats of the shape of `like`
  Tensor vector(const Member& member, const Tensor& like) const {
    Tensor result = at::zeros_like(like);
    float* target = result.data_ptr<float>();
    for (const NetworkGrads& group : groups_)
      for (int64_t j = 0; j < like.numel(); ++j) target[j] += member(group)[j];
    return result;
  }

  template <class Member>  // member(group): LayerGrads; `like` is [W, V], V of a head only
  Tensor weight(const Member& member, const Layer& layer, const Tensor& like) const {
    Tensor result = at::zeros_like(like);
    for (const NetworkGrads& group : groups_) {
      const LayerGrads& sums = member(group);
      for (int64_t unit = 0; unit < layer.units; ++unit) {
        float* target = result.data_ptr<float>() + unit * like.size(1);
        const float* of_skill = sums.of_skill.data() +
                                unit / kPanel * kPanel * layer.skills + unit % kPanel;
        for (int64_t k = 0; k < layer.inputs; ++k)
          target[k] += sums.weight[k * layer.out + unit];
        for (int64_t z = 0; z < layer.skills; ++z)
          target[layer.inputs + z] += of_skill[z * kPanel];
      }
    }
    return result;
  }

 private:
  const std::vector<NetworkGrads>& groups_;
};

std::vector<Tensor> collect(const Network& net, const std::vector<NetworkGrads>& groups,
                            at::TensorList parameters) {
  const Collector sum(groups);
  std::vector<Tensor> grads{
      sum.vector([](const auto& g) -> auto& { return g.scale; }, parameters[0]),
      sum.vector([](const auto& g) -> auto& { return g.shift; }, parameters[1])};
  const auto add_linear = [&](const auto& of, const Layer& layer) {
    grads.push_back(sum.weight(of, layer, parameters[grads.size()]));
    grads.push_back(
        sum.vector([&](const auto& g) -> auto& { return of(g).bias; }, parameters[grads.size()]));
  };
  for (size_t i = 0; i < net.layers.size(); ++i) {
    const auto of = [&](const NetworkGrads& g) -> const LayerGrads& { return g.layers[i]; };
    add_linear(of, net.layers[i]);
    grads.push_back(
        sum.vector([&](const auto& g) -> auto& { return of(g).scale; }, parameters[grads.size()]));
    grads.push_back(
        sum.vector([&](const auto& g) -> auto& { return of(g).shift; }, parameters[grads.size()]));
  }
  if (!net.head.empty())
    add_linear([](const NetworkGrads& g) -> const LayerGrads& { return g.head.front(); },
               net.head.front());
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
                     saved.const_data_ptr<float>() + index * net.kept(), scratch, sums[group]);
  });
  std::vector<Tensor> grads = collect(net, sums, parameters);
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
