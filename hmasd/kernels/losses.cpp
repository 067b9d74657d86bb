// The elementwise chains of the losses, each with its gradient as one operation: float32, CPU.
//
// Where the result is a scalar, the gradient of the first input is made in the forward pass and kept.
// Sums run over the rows in order, in double.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>
#include <vector>

#include "operations.h"
#include "simd.h"

namespace hmasd {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// How much each of `count` entries counts, and all of them together; no tensor: all once.
struct Weights {
  const float* data;
  double total;

  Weights(const std::optional<Tensor>& weight, int64_t count)
      : data(weight ? weight->const_data_ptr<float>() : nullptr),
        total(static_cast<double>(count)) {
    if (!data) return;
    total = 0.0;
    for (int64_t i = 0; i < count; ++i) total += data[i];
  }

  float operator[](int64_t i) const { return data ? data[i] : 1.0f; }
};

Tensor scalar(double value, const Tensor& like) {
  return at::full({}, static_cast<float>(value), like.options());
}

void refuse_second_derivative() {
  TORCH_CHECK(!at::GradMode::is_enabled(),
              "The compiled losses are once differentiable; for create_graph=True switch the "
              "kernels off (HMASD_KERNELS=0)");
}

Tensor kept_gradient(AutogradContext* ctx, const variable_list& grads) {
  refuse_second_derivative();
  return ctx->get_saved_variables()[0] * grads[0];
}

// logp, old, advantage: one shape. Returns the loss, KL, clip fraction and the largest |ratio - 1|.
class PolicyLoss : public torch::autograd::Function<PolicyLoss> {
 public:
  static variable_list forward(AutogradContext* ctx, const Tensor& logp, const Tensor& old,
                               const Tensor& advantage, double clip,
                               const std::optional<Tensor>& weight) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const int64_t count = logp.numel();
    const Weights weights(weight, count);
    Tensor grad = at::empty_like(logp);
    const float *now = logp.const_data_ptr<float>(), *before = old.const_data_ptr<float>(),
                *gain = advantage.const_data_ptr<float>();
    float* down = grad.data_ptr<float>();
    const float low = 1.0f - static_cast<float>(clip), high = 1.0f + static_cast<float>(clip);
    double sum = 0.0, kl = 0.0, clipped_sum = 0.0;
    float largest = 0.0f;
    bool nan = false;
    for (int64_t i = 0; i < count; ++i) {
      const float log_ratio = now[i] - before[i], ratio = std::exp(log_ratio), w = weights[i];
      const float plain = ratio * gain[i];
      const float clipped = std::min(std::max(ratio, low), high) * gain[i];
      const float error = std::abs(ratio - 1.0f);
      const bool inside = ratio >= low && ratio <= high;
      sum += w * static_cast<double>(clipped < plain ? clipped : plain);
      kl += w * static_cast<double>(ratio - 1.0f - log_ratio);
      clipped_sum += error > static_cast<float>(clip) ? w : 0.0f;
      largest = std::max(largest, error * w);
      nan = nan || std::isnan(error);
      // Where the clipped branch is the smaller one nothing changes with logp.
      down[i] = inside || !(clipped < plain)
                    ? -w * plain / static_cast<float>(weights.total)
                    : 0.0f;
    }
    if (nan) largest = std::numeric_limits<float>::quiet_NaN();
    ctx->save_for_backward({grad});
    variable_list results{scalar(-sum / weights.total, logp), scalar(kl / weights.total, logp),
                          scalar(clipped_sum / weights.total, logp), scalar(largest, logp)};
    ctx->mark_non_differentiable({results[1], results[2], results[3]});
    return results;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    return {kept_gradient(ctx, grads), Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

float huber(float error, float delta) {
  const float size = std::abs(error);
  return size <= delta ? 0.5f * error * error : delta * (size - 0.5f * delta);
}

// value and old: [rows, 1] or as target; target: [rows, columns].
class ValueLoss : public torch::autograd::Function<ValueLoss> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& value, const Tensor& old,
                        const Tensor& target, double clip, double delta,
                        const std::optional<Tensor>& weight) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const int64_t count = target.numel(), each = count / value.numel();
    const Weights weights(weight, count);
    Tensor grad = at::zeros_like(value);
    const float *now = value.const_data_ptr<float>(), *before = old.const_data_ptr<float>(),
                *goal = target.const_data_ptr<float>();
    float* down = grad.data_ptr<float>();
    const float most = static_cast<float>(clip), edge = static_cast<float>(delta);
    double sum = 0.0;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t j = i / each;
      const float change = now[j] - before[j];
      const float error = now[j] - goal[i];
      const float held = before[j] + std::min(std::max(change, -most), most) - goal[i];
      const float plain = huber(error, edge), clipped = huber(held, edge);
      const float slope = std::min(std::max(error, -edge), edge);
      const bool inside = std::abs(change) <= most;
      // The clipped value does not change with the value; of two equal ones each counts half.
      const float share = inside || plain > clipped ? 1.0f : plain == clipped ? 0.5f : 0.0f;
      sum += weights[i] * static_cast<double>(clipped > plain ? clipped : plain);
      down[j] += weights[i] * share * slope / static_cast<float>(weights.total);
    }
    ctx->save_for_backward({grad});
    return scalar(sum / weights.total, value);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    return {kept_gradient(ctx, grads), Tensor(), Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

constexpr float kSmallest = -87.0f;  // e^x is 0 below: a forbidden choice has no probability at all

inline Vec probability(Vec logp) { return logp < splat(kSmallest) ? splat(0.0f) : exp(logp); }

inline int64_t checked(int64_t choice, int64_t choices) {
  TORCH_CHECK(choice >= 0 && choice < choices, "choice ", choice, " is not in 0..", choices - 1);
  return choice;
}

inline Vec largest_of(Vec a, Vec b) { return a > b ? a : b; }

// Log-probabilities of one row of logits; what pads it has no probability.
struct LogSoftmax {
  int64_t choices, padded;
  std::vector<float> logp;  // [padded]
  float entropy = 0.0f;

  explicit LogSoftmax(int64_t choices)
      : choices(choices), padded(round_up(choices, kWidth)), logp(padded) {}

  void operator()(const float* logits) {
    if (padded == kWidth) return in_registers(logits);
    Vec top = read(logits, 0), sum = {}, undecided = {};
    for (int64_t j = kWidth; j < padded; j += kWidth) top = largest_of(top, read(logits, j));
    top = largest_lane(top);
    for (int64_t j = 0; j < padded; j += kWidth) sum += probability(read(logits, j) - top);
    const Vec shift = top + splat(std::log(sum_lanes(sum)[0]));
    for (int64_t j = 0; j < padded; j += kWidth) {
      const Vec value = read(logits, j) - shift;
      store(logp.data() + j, value);
      undecided -= probability(value) * value;
    }
    entropy = sum_lanes(undecided)[0];
  }

 private:
  Vec read(const float* logits, int64_t j) const {
    const int64_t count = std::min(kWidth, choices - j);
    const Vec value = load_part(logits + j, count);
    return lanes() < static_cast<int32_t>(count) ? value : splat(-1e30f);
  }

  static Vec largest_lane(Vec value) {
    for (int32_t step = kWidth / 2; step > 0; step /= 2)
      value = largest_of(value, swap_lanes(value, step));
    return value;
  }

  void in_registers(const float* logits) {
    const Vec shifted = read(logits, 0) - largest_lane(read(logits, 0)), p = probability(shifted);
    const Vec sum = sum_lanes(p), value = shifted - splat(std::log(sum[0]));
    store(logp.data(), value);
    entropy = -(sum_lanes(p * value)[0] / sum[0]);
  }
};

// logits: [..., n]; choice: [...]. Returns log-probability of the choice and entropy, both [...].
class ScoreCategorical : public torch::autograd::Function<ScoreCategorical> {
 public:
  static variable_list forward(AutogradContext* ctx, const Tensor& logits, const Tensor& choice) {
    at::AutoDispatchBelowADInplaceOrView guard;
    LogSoftmax softmax(logits.size(-1));
    const int64_t choices = softmax.choices, rows = choice.numel();
    Tensor logp = at::empty(choice.sizes(), logits.options()), entropy = at::empty_like(logp);
    Tensor kept = at::empty({rows, softmax.padded}, logits.options());
    const float* source = logits.const_data_ptr<float>();
    float *of_choice = logp.data_ptr<float>(), *undecided = entropy.data_ptr<float>(),
          *all = kept.data_ptr<float>();
    for (int64_t row = 0; row < rows; ++row) {
      softmax(source + row * choices);
      of_choice[row] = softmax.logp[checked(choice.const_data_ptr<int64_t>()[row], choices)];
      undecided[row] = softmax.entropy;
      std::memcpy(all + row * softmax.padded, softmax.logp.data(), softmax.padded * sizeof(float));
    }
    ctx->save_for_backward({kept, choice, entropy});
    ctx->saved_data["choices"] = choices;
    ctx->set_materialize_grads(false);
    return {logp, entropy};
  }

  // With p the probabilities: d logp / d logit_j = [j chosen] - p_j, d H / d logit_j =
  // -p_j (log p_j + H).
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    refuse_second_derivative();
    const auto saved = ctx->get_saved_variables();
    const Tensor &kept = saved[0], &choice = saved[1];
    const int64_t choices = ctx->saved_data["choices"].toInt(), rows = choice.numel();
    const int64_t padded = kept.size(1);
    const Tensor of_logp = grads[0].defined() ? grads[0].contiguous() : Tensor();
    const Tensor of_entropy = grads[1].defined() ? grads[1].contiguous() : Tensor();
    std::vector<int64_t> shape = choice.sizes().vec();
    shape.push_back(choices);
    Tensor result = at::empty(shape, kept.options());
    const float *values = kept.const_data_ptr<float>(), *all = saved[2].const_data_ptr<float>();
    const float* ups = of_logp.defined() ? of_logp.const_data_ptr<float>() : nullptr;
    const float* more = of_entropy.defined() ? of_entropy.const_data_ptr<float>() : nullptr;
    const int64_t* chosen = choice.const_data_ptr<int64_t>();
    float* down = result.data_ptr<float>();
    for (int64_t row = 0; row < rows; ++row, values += padded, down += choices) {
      const float up = ups ? ups[row] : 0.0f, up_entropy = more ? more[row] : 0.0f;
      for (int64_t j = 0; j < padded; j += kWidth) {
        const Vec logp = load(values + j), p = probability(logp);
        store_part(down + j, -p * (up + up_entropy * (logp + all[row])),
                   std::min(kWidth, choices - j));
      }
      down[chosen[row]] += up;
    }
    return {result, Tensor()};
  }
};

// logits: [..., n]; skill: [...]. Returns the mean cross-entropy and the share of right guesses.
class SkillLoss : public torch::autograd::Function<SkillLoss> {
 public:
  static variable_list forward(AutogradContext* ctx, const Tensor& logits, const Tensor& skill,
                               const std::optional<Tensor>& weight) {
    at::AutoDispatchBelowADInplaceOrView guard;
    LogSoftmax softmax(logits.size(-1));
    const int64_t choices = softmax.choices, rows = skill.numel();
    const Weights weights(weight, rows);
    Tensor grad = at::empty_like(logits);
    const float* source = logits.const_data_ptr<float>();
    float* down = grad.data_ptr<float>();
    double sum = 0.0, right = 0.0;
    for (int64_t row = 0; row < rows; ++row, source += choices, down += choices) {
      const int64_t wanted = checked(skill.const_data_ptr<int64_t>()[row], choices);
      const float w = weights[row], share = w / static_cast<float>(weights.total);
      softmax(source);
      for (int64_t j = 0; j < softmax.padded; j += kWidth)
        store_part(down + j, share * probability(load(softmax.logp.data() + j)),
                   std::min(kWidth, choices - j));
      down[wanted] -= share;
      sum -= w * static_cast<double>(softmax.logp[wanted]);
      right += std::max_element(source, source + choices) - source == wanted ? w : 0.0f;
    }
    ctx->save_for_backward({grad});
    variable_list results{scalar(sum / weights.total, logits),
                          scalar(right / weights.total, logits)};
    ctx->mark_non_differentiable({results[1]});
    return results;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    return {kept_gradient(ctx, grads), Tensor(), Tensor()};
  }
};

// both: [2, ..., n], before and after a step. Returns the mean of max(0, |change|^2 / limit^2 - 1).
class SmoothnessPenalty : public torch::autograd::Function<SmoothnessPenalty> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& both, double limit,
                        const std::optional<Tensor>& weight) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const int64_t size = both.size(-1), half = both.numel() / 2, rows = half / size;
    const Weights weights(weight, rows);
    Tensor grad = at::empty_like(both);
    const float *before = both.const_data_ptr<float>(), *after = before + half;
    float *down = grad.data_ptr<float>(), *down_after = down + half;
    const float scale = static_cast<float>(1.0 / (limit * limit));
    double sum = 0.0;
    for (int64_t row = 0; row < rows; ++row) {
      float squared = 0.0f;
      for (int64_t j = row * size; j < (row + 1) * size; ++j)
        squared += (after[j] - before[j]) * (after[j] - before[j]);
      const float excess = squared * scale - 1.0f;
      const float slope =
          excess < 0.0f ? 0.0f : 2.0f * scale * weights[row] / static_cast<float>(weights.total);
      sum += weights[row] * static_cast<double>(excess < 0.0f ? 0.0f : excess);
      for (int64_t j = row * size; j < (row + 1) * size; ++j) {
        down_after[j] = slope * (after[j] - before[j]);
        down[j] = -down_after[j];
      }
    }
    ctx->save_for_backward({grad});
    return scalar(sum / weights.total, both);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    return {kept_gradient(ctx, grads), Tensor(), Tensor()};
  }
};

}  // namespace

// The first choice whose cumulated probability is above the draw, and its log-probability. Scaled by
// the last sum, a draw is always below it: rounding can never choose past the last allowed choice.
std::tuple<Tensor, Tensor> draw_categorical(const Tensor& logits, const Tensor& uniform) {
  LogSoftmax softmax(logits.size(-1));
  Tensor choice = at::empty(uniform.sizes(), uniform.options().dtype(at::kLong));
  Tensor logp = at::empty_like(uniform);
  std::vector<float> cumulated(softmax.padded);
  for (int64_t row = 0; row < uniform.numel(); ++row) {
    softmax(logits.const_data_ptr<float>() + row * softmax.choices);
    for (int64_t j = 0; j < softmax.padded; j += kWidth)
      store(cumulated.data() + j, probability(load(softmax.logp.data() + j)));
    float sum = 0.0f;
    for (int64_t j = 0; j < softmax.choices; ++j) cumulated[j] = sum += cumulated[j];
    const float draw = uniform.const_data_ptr<float>()[row] * sum;
    int64_t chosen = 0;
    while (chosen < softmax.choices - 1 && cumulated[chosen] <= draw) ++chosen;
    choice.data_ptr<int64_t>()[row] = chosen;
    logp.data_ptr<float>()[row] = softmax.logp[chosen];
  }
  return {choice, logp};
}

namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor> policy_loss(const Tensor& logp, const Tensor& old,
                                                       const Tensor& advantage, double clip,
                                                       const std::optional<Tensor>& weight) {
  const auto results = PolicyLoss::apply(logp, old, advantage, clip, weight);
  return {results[0], results[1], results[2], results[3]};
}

Tensor value_loss(const Tensor& value, const Tensor& old, const Tensor& target, double clip,
                  double delta, const std::optional<Tensor>& weight) {
  return ValueLoss::apply(value, old, target, clip, delta, weight);
}

std::tuple<Tensor, Tensor> skill_loss(const Tensor& logits, const Tensor& skill,
                                      const std::optional<Tensor>& weight) {
  const auto results = SkillLoss::apply(logits, skill, weight);
  return {results[0], results[1]};
}

Tensor smoothness_penalty(const Tensor& both, double limit, const std::optional<Tensor>& weight) {
  return SmoothnessPenalty::apply(both, limit, weight);
}

std::tuple<Tensor, Tensor> score_categorical(const Tensor& logits, const Tensor& choice) {
  const auto results = ScoreCategorical::apply(logits, choice);
  return {results[0], results[1]};
}

}  // namespace
}  // namespace hmasd

TORCH_LIBRARY_FRAGMENT(hmasd_kernels, library) {
  library.def(
      "policy_loss(Tensor logp, Tensor old, Tensor advantage, float clip, Tensor? weight=None) -> "
      "(Tensor, Tensor, Tensor, Tensor)");
  library.def(
      "value_loss(Tensor value, Tensor old, Tensor target, float clip, float delta, "
      "Tensor? weight=None) -> Tensor");
  library.def("skill_loss(Tensor logits, Tensor skill, Tensor? weight=None) -> (Tensor, Tensor)");
  library.def("smoothness_penalty(Tensor both, float limit, Tensor? weight=None) -> Tensor");
  library.def("score_categorical(Tensor logits, Tensor choice) -> (Tensor, Tensor)");
  library.def("draw_categorical(Tensor logits, Tensor uniform) -> (Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(hmasd_kernels, CPU, library) {
  library.impl("draw_categorical", &hmasd::draw_categorical);
}

TORCH_LIBRARY_IMPL(hmasd_kernels, AutogradCPU, library) {
  library.impl("policy_loss", &hmasd::policy_loss);
  library.impl("value_loss", &hmasd::value_loss);
  library.impl("skill_loss", &hmasd::skill_loss);
  library.impl("smoothness_penalty", &hmasd::smoothness_penalty);
  library.impl("score_categorical", &hmasd::score_categorical);
}
