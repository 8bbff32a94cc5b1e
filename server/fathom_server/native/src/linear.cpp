#include "linear.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "ort_api.h"

namespace fathom {

namespace {

constexpr float kSmallestMagnitude = 1e-30f;

enum Input { kX, kDelta, kNormWeight, kWeight, kScale, kZeroPoints, kBias, kUpWeight, kUpScale, kUpZeroPoints, kUpBias };

// One quantised matrix as codes [N, K padded], scales and zero points by block.
struct Codes {
    std::vector<int16_t> code;  // weight minus zero point
    std::vector<float> scale;   // [N, blocks]
};

class Linear {
   public:
    static constexpr const char* name = "Linear";
    static constexpr Port inputs[] = {
        {"x", kFloat32},
        {"delta", kFloat32, true},
        {"norm_weight", kFloat32, true},
        {"weight", kAnyType},
        {"scale", kFloat32},
        {"zero_points", kUint8, true},
        {"bias", kFloat32, true},
        {"up_weight", kAnyType, true},
        {"up_scale", kFloat32, true},
        {"up_zero_points", kUint8, true},
        {"up_bias", kFloat32, true},
    };
    static constexpr Port outputs[] = {{"y", kFloat32}, {"residual", kFloat32, true}};

    explicit Linear(const KernelInfo& node)
        : epsilon_(node.real("epsilon", 1e-5f)),
          bits_(node.integer("bits", 8)),
          block_(node.integer("block_size", 0)),
          K_(node.integer("K")),
          N_(node.integer("N")),
          activation_(node.text("activation", "none")) {
        blocks_ = block_ ? (K_ + block_ - 1) / block_ : 1;
        padded_ = block_ ? blocks_ * block_ : K_;
        weight_ = read(node, kWeight, kScale, kZeroPoints);
        if (node.connected(kUpWeight)) up_ = read(node, kUpWeight, kUpScale, kUpZeroPoints);
    }

    void compute(const KernelContext& context) const {
        const Tensor x = context.input(kX), delta = context.input(kDelta), norm = context.input(kNormWeight);
        const Tensor bias = context.input(kBias), up_bias = context.input(kUpBias);
        const int64_t rows = x.shape().at(0);
        float* y = context.output<float>(0, {rows, N_});
        float* residual = context.output<float>(1, {rows, K_});
        std::vector<float> sums(rows * padded_), scales(rows * blocks_);
        std::vector<int8_t> q(rows * padded_);
        for (int64_t row = 0; row < rows; ++row) {
            float* sum = &sums[row * padded_];
            for (int64_t k = 0; k < K_; ++k) {
                sum[k] = x.data<float>()[row * K_ + k] + (delta ? delta.data<float>()[row * K_ + k] : 0.0f);
            }
            if (residual) std::copy(sum, sum + K_, residual + row * K_);
            if (norm) {
                float squares = 0;
                for (int64_t k = 0; k < K_; ++k) squares += sum[k] * sum[k];
                const float inverse = 1.0f / std::sqrt(squares / static_cast<float>(K_) + epsilon_);
                for (int64_t k = 0; k < K_; ++k) sum[k] = sum[k] * inverse * norm.data<float>()[k];
            }
            const int64_t run = padded_ / blocks_;
            for (int64_t block = 0; block < blocks_; ++block) {
                float largest = kSmallestMagnitude;
                bool finite = true;
                for (int64_t k = block * run; k < (block + 1) * run; ++k) {
                    largest = std::max(largest, std::fabs(sum[k]));
                    finite = finite && std::isfinite(sum[k]);
                }
                const float scale = largest * (1.0f / 127.0f);
                scales[row * blocks_ + block] = finite ? scale : NAN;
                for (int64_t k = block * run; k < (block + 1) * run; ++k) {
                    q[row * padded_ + k] = finite ? static_cast<int8_t>(std::nearbyint(sum[k] / scale)) : 0;
                }
            }
        }
        context.parallel_for((N_ + 63) / 64, [&](size_t piece) {
            const int64_t end = std::min<int64_t>(N_, (piece + 1) * 64);
            for (int64_t n = piece * 64; n < end; ++n) {
                for (int64_t row = 0; row < rows; ++row) {
                    float value = product(weight_, &q[row * padded_], &scales[row * blocks_], n);
                    if (bias) value += bias.data<float>()[n];
                    value = activate(value);
                    if (!up_.code.empty()) {
                        float gate = product(up_, &q[row * padded_], &scales[row * blocks_], n);
                        if (up_bias) gate += up_bias.data<float>()[n];
                        value *= gate;
                    }
                    y[row * N_ + n] = value;
                }
            }
        });
    }

   private:
    float product(const Codes& codes, const int8_t* q, const float* scales, int64_t n) const {
        float value = 0;
        const int64_t run = padded_ / blocks_;
        for (int64_t block = 0; block < blocks_; ++block) {
            int32_t sum = 0;
            const int16_t* code = &codes.code[n * padded_ + block * run];
            for (int64_t k = 0; k < run; ++k) sum += static_cast<int32_t>(code[k]) * q[block * run + k];
            value = std::fma(static_cast<float>(sum), scales[block] * codes.scale[n * blocks_ + block], value);
        }
        return value;
    }

    float activate(float value) const {
        if (activation_ == "silu") return value / (1.0f + std::exp(-value));
        if (activation_ == "gelu") return 0.5f * value * (1.0f + std::erf(value * 0.70710678f));
        if (activation_ == "gelu_tanh") {
            return 0.5f * value * (1.0f + std::tanh(0.79788456f * (value + 0.044715f * value * value * value)));
        }
        return value;
    }

    Codes read(const KernelInfo& node, Input weight_at, Input scale_at, Input zeros_at) const {
        const Tensor weight = node.constant(weight_at), scale = node.constant(scale_at), zeros = node.constant(zeros_at);
        if (!weight || !scale) throw Failure(std::string(inputs[weight_at].label) + " must be an initializer");
        Codes codes;
        codes.code.resize(N_ * padded_);
        codes.scale.assign(scale.data<float>(), scale.data<float>() + N_ * blocks_);
        for (int64_t n = 0; n < N_; ++n) {
            for (int64_t k = 0; k < padded_; ++k) {
                int16_t& code = codes.code[n * padded_ + k];
                const int64_t index = n * padded_ + k;
                if (block_ == 0) {
                    code = weight.data<int8_t>()[k * N_ + n];
                } else if (bits_ == 8) {
                    const int zero = zeros ? zeros.data<uint8_t>()[n * blocks_ + k / block_] : 128;
                    code = static_cast<int16_t>(weight.data<uint8_t>()[index] - zero);
                } else {
                    const int64_t block = k / block_;
                    const int zero =
                        zeros ? (zeros.data<uint8_t>()[n * ((blocks_ + 1) / 2) + block / 2] >> (block % 2 * 4)) & 15 : 8;
                    code = static_cast<int16_t>(((weight.data<uint8_t>()[index / 2] >> (index % 2 * 4)) & 15) - zero);
                }
            }
        }
        return codes;
    }

    float epsilon_;
    int64_t bits_, block_, K_, N_, blocks_ = 1, padded_ = 0;
    std::string activation_;
    Codes weight_, up_;
};

}  // namespace

const OrtCustomOp* linear_op() { return custom_op<Linear>(); }

}  // namespace fathom
