// The two halves of a transformer block, each with its gradient as one operation: float32, CPU.
//   attend: norm(x + O softmax(Q K^T / sqrt(h)) V), Q of x, K and V of the memory
//   feed:   norm(x + W_2 gelu(W_1 x + b_1) + b_2)
// The products are torch's. There are few tokens, so scores and mixing are plain loops over them.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <tuple>
#include <vector>

#include "simd.h"

namespace hmasd {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr double kEps = 1e-5;  // that of torch.nn.LayerNorm

float dot(const float* a, const float* b, int64_t count) {
  Vec sum = {};
  for_each_vector(count, [&](int64_t j, int64_t part) {
    sum += load_part(a + j, part) * load_part(b + j, part);
  });
  return sum_lanes(sum)[0];
}

void add_scaled(float* sum, float factor, const float* x, int64_t count) {
  for_each_vector(count, [&](int64_t j, int64_t part) {
    store_part(sum + j, load_part(sum + j, part) + splat(factor) * load_part(x + j, part), part);
  });
}

// B sequences of L tokens, each of `heads` parts of `width` columns.
struct Shape {
  int64_t batch, tokens, heads, width;
  bool causal;

  Shape(const Tensor& x, int64_t heads, bool causal)
      : batch(x.size(0)), tokens(x.size(1)), heads(heads), width(x.size(2) / heads),
        causal(causal) {}

  int64_t columns() const { return heads * width; }
  int64_t seen(int64_t token) const { return causal ? token + 1 : tokens; }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(width)); }

  // body(a sequence's first token, a head's first column, offset of its scores), side by side
  template <class Body>
  void for_each_head(const Body& body) const {
    at::parallel_for(0, batch * heads, 64, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        body(i / heads * tokens, i % heads * width, i * tokens * tokens);
    });
  }
};

// Queries, keys and values: columns of one tensor [B, L, 3 d] where x is the memory, else of two,
// [B, L, d] and [B, L, 2 d], so that each is one product.
struct Parts {
  Tensor of_x, of_memory;  // one tensor twice where x is the memory
  int64_t columns;

  bool joined() const { return of_x.is_same(of_memory); }
  int64_t stride_q() const { return of_x.size(-1); }
  int64_t stride_kv() const { return of_memory.size(-1); }
  float* q() const { return of_x.data_ptr<float>(); }
  float* k() const { return of_memory.data_ptr<float>() + (joined() ? columns : 0); }
  float* v() const { return k() + columns; }

  Parts zeros() const {
    const Tensor first = at::zeros_like(of_x);
    return {first, joined() ? first : at::zeros_like(of_memory), columns};
  }
};

Parts project(const Tensor& x, const Tensor& memory, at::TensorList weights,
              at::TensorList biases) {
  if (x.is_same(memory)) {
    const Tensor all = at::linear(x, at::cat(weights), at::cat(biases));
    return {all, all, x.size(-1)};
  }
  return {at::linear(x, weights[0], biases[0]),
          at::linear(memory, at::cat(weights.slice(1)), at::cat(biases.slice(1))), x.size(-1)};
}

// Returns the mixed values [B, L, d] and the weights [B, heads, L, L].
std::tuple<Tensor, Tensor> mix(const Shape& s, const Parts& parts) {
  Tensor mixed = at::zeros({s.batch, s.tokens, s.columns()}, parts.of_x.options());
  Tensor weights = at::zeros({s.batch, s.heads, s.tokens, s.tokens}, parts.of_x.options());
  float *out = mixed.data_ptr<float>(), *all = weights.data_ptr<float>();
  const int64_t stride = parts.stride_kv();
  s.for_each_head([&](int64_t first, int64_t column, int64_t scores) {
    const float *q = parts.q() + column, *k = parts.k() + first * stride + column,
                *v = parts.v() + first * stride + column;
    for (int64_t i = 0; i < s.tokens; ++i) {
      const int64_t seen = s.seen(i);
      float *p = all + scores + i * s.tokens, sum = 0.0f;
      for (int64_t j = 0; j < seen; ++j)
        p[j] = s.scale() * dot(q + (first + i) * parts.stride_q(), k + j * stride, s.width);
      const float top = *std::max_element(p, p + seen);
      for (int64_t j = 0; j < seen; ++j) sum += p[j] = std::exp(p[j] - top);
      for (int64_t j = 0; j < seen; ++j) {
        p[j] /= sum;
        add_scaled(out + (first + i) * s.columns() + column, p[j], v + j * stride, s.width);
      }
    }
  });
  return {mixed, weights};
}

// Gradients of the parts; grad: [B L, d].
Parts mix_backward(const Shape& s, const Tensor& grad, const Parts& parts, const Tensor& weights) {
  const Parts down = parts.zeros();
  const float *up = grad.const_data_ptr<float>(), *all = weights.const_data_ptr<float>();
  s.for_each_head([&](int64_t first, int64_t column, int64_t scores) {
    std::vector<float> of_p(s.tokens);
    for (int64_t i = 0; i < s.tokens; ++i) {
      const int64_t here = (first + i) * parts.stride_q() + column, seen = s.seen(i);
      const float *p = all + scores + i * s.tokens,
                  *of_mixed = up + (first + i) * s.columns() + column;
      const auto there = [&](int64_t j) { return (first + j) * parts.stride_kv() + column; };
      float mean = 0.0f;
      for (int64_t j = 0; j < seen; ++j) {
        of_p[j] = dot(of_mixed, parts.v() + there(j), s.width);
        mean += p[j] * of_p[j];
      }
      for (int64_t j = 0; j < seen; ++j) {
        const float of_score = s.scale() * p[j] * (of_p[j] - mean);
        add_scaled(down.q() + here, of_score, parts.k() + there(j), s.width);
        add_scaled(down.k() + there(j), of_score, parts.q() + here, s.width);
        add_scaled(down.v() + there(j), p[j], of_mixed, s.width);
      }
    }
  });
  return down;
}

Tensor flat(const Tensor& x) { return x.reshape({-1, x.size(-1)}); }

// Gradients of x, W and b of x W^T + b; all rows flat.
std::array<Tensor, 3> linear_backward(const Tensor& grad, const Tensor& x, const Tensor& weight) {
  return {grad.mm(weight), grad.t().mm(x), grad.sum(0)};
}

// LayerNorm of `sum` as the last step of both halves; what it leaves to backward goes to `saved`.
Tensor norm(const Tensor& sum, const Tensor& scale, const Tensor& shift, variable_list& saved) {
  const auto [out, mean, rstd] = at::native_layer_norm(sum, {sum.size(-1)}, scale, shift, kEps);
  for (const Tensor& x : {sum, mean, rstd, scale, shift}) saved.push_back(x);
  return out;
}

// `saved` begins with what `norm` left. Gradients of the sum (rows flat), of scale and of shift.
std::array<Tensor, 3> norm_backward(const Tensor& grad, const variable_list& saved) {
  const auto [down, scale, shift] =
      at::native_layer_norm_backward(grad.contiguous(), saved[0], {grad.size(-1)}, saved[1],
                                     saved[2], saved[3], saved[4], {true, true, true});
  return {flat(down), scale, shift};
}

void refuse_second_derivative() {
  TORCH_CHECK(!at::GradMode::is_enabled(),
              "The compiled blocks are once differentiable; for create_graph=True switch the "
              "kernels off (HMASD_KERNELS=0)");
}

class Attend : public torch::autograd::Function<Attend> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& memory,
                        int64_t heads, bool causal, const Tensor& q_w, const Tensor& q_b,
                        const Tensor& k_w, const Tensor& k_b, const Tensor& v_w,
                        const Tensor& v_b, const Tensor& o_w, const Tensor& o_b,
                        const Tensor& scale, const Tensor& shift) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const Parts parts = project(x, memory, {q_w, k_w, v_w}, {q_b, k_b, v_b});
    const auto [mixed, weights] = mix(Shape(x, heads, causal), parts);
    variable_list saved;
    const Tensor out = norm(at::linear(mixed, o_w, o_b).add_(x), scale, shift, saved);
    for (const Tensor& y :
         {x, memory, parts.of_x, parts.of_memory, weights, mixed, q_w, k_w, v_w, o_w})
      saved.push_back(y);
    ctx->save_for_backward(saved);
    ctx->saved_data["heads"] = heads;
    ctx->saved_data["causal"] = causal;
    ctx->saved_data["joined"] = parts.joined();
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    refuse_second_derivative();
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[5], &memory = saved[6], &mixed = saved[10];
    const auto [of_sum, of_scale, of_shift] = norm_backward(grads[0], saved);
    const auto [of_mixed, o_w, o_b] = linear_backward(of_sum, flat(mixed), saved[14]);
    const Shape shape(x, ctx->saved_data["heads"].toInt(), ctx->saved_data["causal"].toBool());
    const bool joined = ctx->saved_data["joined"].toBool();
    const Parts parts{saved[7], joined ? saved[7] : saved[8], shape.columns()};
    const Parts down = mix_backward(shape, of_mixed, parts, saved[9]);
    const at::TensorList weights = at::TensorList(saved).slice(11, 3);
    if (joined) {
      const auto [of_x, w, b] = linear_backward(flat(down.of_x), flat(x), at::cat(weights));
      const auto ws = w.chunk(3), bs = b.chunk(3);
      return {(of_sum + of_x).view_as(x), Tensor(), Tensor(), Tensor(), ws[0], bs[0], ws[1], bs[1],
              ws[2], bs[2], o_w, o_b, of_scale, of_shift};
    }
    const auto [of_x, w, b] = linear_backward(flat(down.of_x), flat(x), weights[0]);
    const auto [of_memory, w_2, b_2] =
        linear_backward(flat(down.of_memory), flat(memory), at::cat(weights.slice(1)));
    const auto ws = w_2.chunk(2), bs = b_2.chunk(2);
    return {(of_sum + of_x).view_as(x), of_memory.view_as(memory), Tensor(), Tensor(), w, b,
            ws[0], bs[0], ws[1], bs[1], o_w, o_b, of_scale, of_shift};
  }
};

class Feed : public torch::autograd::Function<Feed> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& w_1,
                        const Tensor& b_1, const Tensor& w_2, const Tensor& b_2,
                        const Tensor& scale, const Tensor& shift) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const Tensor before = at::linear(x, w_1, b_1), active = at::gelu(before);
    variable_list saved;
    const Tensor out = norm(at::linear(active, w_2, b_2).add_(x), scale, shift, saved);
    for (const Tensor& y : {x, before, active, w_1, w_2}) saved.push_back(y);
    ctx->save_for_backward(saved);
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    refuse_second_derivative();
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[5], &before = saved[6], &active = saved[7];
    const auto [of_sum, of_scale, of_shift] = norm_backward(grads[0], saved);
    const auto [of_active, w_2, b_2] = linear_backward(of_sum, flat(active), saved[9]);
    const Tensor of_before = at::gelu_backward(of_active, flat(before));
    const auto [of_x, w_1, b_1] = linear_backward(of_before, flat(x), saved[8]);
    return {(of_sum + of_x).view_as(x), w_1, b_1, w_2, b_2, of_scale, of_shift};
  }
};

Tensor attend(const Tensor& x, const Tensor& memory, int64_t heads, bool causal,
              const Tensor& q_w, const Tensor& q_b, const Tensor& k_w, const Tensor& k_b,
              const Tensor& v_w, const Tensor& v_b, const Tensor& o_w, const Tensor& o_b,
              const Tensor& scale, const Tensor& shift) {
  return Attend::apply(x, memory, heads, causal, q_w, q_b, k_w, k_b, v_w, v_b, o_w, o_b, scale,
                       shift);
}

Tensor feed(const Tensor& x, const Tensor& w_1, const Tensor& b_1, const Tensor& w_2,
            const Tensor& b_2, const Tensor& scale, const Tensor& shift) {
  return Feed::apply(x, w_1, b_1, w_2, b_2, scale, shift);
}

}  // namespace
}  // namespace hmasd

TORCH_LIBRARY_FRAGMENT(hmasd_kernels, library) {
  library.def(
      "attend(Tensor x, Tensor memory, int heads, bool causal, Tensor q_w, Tensor q_b, "
      "Tensor k_w, Tensor k_b, Tensor v_w, Tensor v_b, Tensor o_w, Tensor o_b, Tensor scale, "
      "Tensor shift) -> Tensor");
  library.def(
      "feed(Tensor x, Tensor w_1, Tensor b_1, Tensor w_2, Tensor b_2, Tensor scale, "
      "Tensor shift) -> Tensor");
}

TORCH_LIBRARY_IMPL(hmasd_kernels, AutogradCPU, library) {
  library.impl("attend", &hmasd::attend);
  library.impl("feed", &hmasd::feed);
}
