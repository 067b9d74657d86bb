// Operations that others are made of; float32, CPU. See the Python functions for what they mean.
#pragma once

#include <ATen/ATen.h>

#include <tuple>

namespace hmasd {

// x: [rows, inputs]. Returns the output [rows, units] and, if `save`, what backward needs.
std::tuple<at::Tensor, at::Tensor> mlp_forward(const at::Tensor& x, const at::Tensor& skill,
                                               at::TensorList parameters, double eps, bool save);

// x: [steps, rows, inputs]. Returns the states [steps, rows, units] and, if `save`, the gates.
std::tuple<at::Tensor, at::Tensor> gru_forward(const at::Tensor& x, const at::Tensor& h0,
                                               const at::Tensor& keep, const at::Tensor& w_ih,
                                               const at::Tensor& w_hh, const at::Tensor& b_ih,
                                               const at::Tensor& b_hh, bool save);

// logits: [..., n], uniform: [...]. Returns choices and their log-probabilities.
std::tuple<at::Tensor, at::Tensor> draw_categorical(const at::Tensor& logits,
                                                    const at::Tensor& uniform);

}  // namespace hmasd
