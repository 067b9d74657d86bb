// One step of the actor for all agents, from what they see to what they do, as one operation.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <optional>
#include <tuple>

#include "operations.h"

namespace hmasd {
namespace {

using at::Tensor;

constexpr double kEps = 1e-5;      // EPS of mlp.py
constexpr double kMasked = -1e10;  // MASKED of distributions.py

// inputs: [B, I]; skill: [B] int64; hidden: [B, H]; keep, uniform: [B]; mask: [B, A] bool. Returns
// choices, log-probabilities and states.
std::tuple<Tensor, Tensor, Tensor> act_categorical(
    const Tensor& inputs, const std::optional<Tensor>& skill, const Tensor& hidden,
    const Tensor& keep, const std::optional<Tensor>& mask, const Tensor& uniform,
    at::TensorList mlp, at::TensorList gru, at::TensorList head) {
  const Tensor none = at::empty({0}, inputs.options().dtype(at::kLong));
  const Tensor features = std::get<0>(mlp_forward(inputs, none, mlp, kEps, false)).unsqueeze(0);
  const Tensor state =
      std::get<0>(gru_forward(features, hidden, keep, gru[0], gru[1], gru[2], gru[3], false))
          .squeeze(0);
  Tensor logits = std::get<0>(mlp_forward(state, skill.value_or(none), head, kEps, false));
  if (mask) logits.masked_fill_(mask->logical_not(), kMasked);
  const auto [choice, logp] = draw_categorical(logits, uniform);
  return {choice, logp, state};
}

}  // namespace
}  // namespace hmasd

TORCH_LIBRARY_FRAGMENT(hmasd_kernels, library) {
  library.def(
      "act_categorical(Tensor inputs, Tensor? skill, Tensor hidden, Tensor keep, Tensor? mask, "
      "Tensor uniform, Tensor[] mlp, Tensor[] gru, Tensor[] head) -> (Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(hmasd_kernels, CPU, library) {
  library.impl("act_categorical", &hmasd::act_categorical);
}
