#include "linear.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>

#include "isa.h"
#include "linear_kernels.h"
#include "linear_pack.h"
#include "ort_api.h"
#include "packed_memory.h"

namespace fathom {

namespace {

// Rows that one thread prepares while the others wait: waking them costs more than a few rows do.
constexpr int64_t kRowsPreparedAlone = 3;
constexpr int64_t kTaskBytes = 192 * 1024;  // of weights, where there are plenty of panels
constexpr int64_t kMostPieces = 48;
constexpr int64_t kLargestK = 65536;  // 255 * 127 * K fits 31 bits

int64_t round_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

const LinearKernels& kernels_of(Isa isa) {
    switch (isa) {
#if defined(__x86_64__)
        case Isa::avx512vnni:
            return avx512vnni::kLinearKernels;
        case Isa::avxvnni:
            return avxvnni::kLinearKernels;
        case Isa::avx2:
            return avx2::kLinearKernels;
#endif
        default:
            return generic::kLinearKernels;
    }
}

// A thread's own memory, kept from call to call: one model's steps ask for the same sizes again and again.
class Scratch {
   public:
    ~Scratch() { std::free(memory_); }
    uint8_t* reserve(size_t size) {
        if (size > size_) {
            std::free(memory_);
            size_ = (size + 4095) / 4096 * 4096;
            memory_ = static_cast<uint8_t*>(std::aligned_alloc(64, size_));
            if (memory_ == nullptr) {
                size_ = 0;
                throw std::bad_alloc();
            }
        }
        return memory_;
    }

   private:
    uint8_t* memory_ = nullptr;
    size_t size_ = 0;
};

thread_local Scratch rows_scratch;
thread_local Scratch values_scratch;

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
        : kernels_(kernels_of(chosen_isa())), shape_(read_shape(node)), epsilon_(node.real("epsilon", 1e-5f)) {
        activation_ = read_activation(node.text("activation", "none"));
        weight_ = read_matrix(node, kWeight, kScale, kZeroPoints);
        if (node.connected(kUpWeight)) up_ = read_matrix(node, kUpWeight, kUpScale, kUpZeroPoints);
        for (size_t index : {kUpScale, kUpZeroPoints, kUpBias}) {
            if (!up_.memory && node.connected(index)) {
                throw Failure(std::string(inputs[index].label) + " is given without up_weight; give both or neither");
            }
        }
        for (size_t index = 0; index < std::size(inputs); ++index) connected_[index] = node.connected(index);
    }

    void compute(const KernelContext& context) const {
        const Tensor x = context.input(kX);
        if (x.shape().size() != 2 || x.shape()[1] != shape_.K) {
            throw Failure("x has shape " + x.shape_text() + "; it must be [T, K] with K = " + std::to_string(shape_.K));
        }
        const int64_t rows = x.shape()[0];
        PrepareTask prepare{};
        prepare.shape = &shape_;
        prepare.x = x.data<float>();
        prepare.delta = optional(context, kDelta, rows);
        prepare.norm_weight = optional(context, kNormWeight, 0, shape_.K);
        prepare.epsilon = epsilon_;
        ProductTask product{};
        product.shape = &shape_;
        product.weight = weight_.packed;
        product.up = up_.packed;
        product.bias = optional(context, kBias, 0, shape_.N);
        product.up_bias = optional(context, kUpBias, 0, shape_.N);
        product.activation = activation_;
        product.y = context.output<float>(0, {rows, shape_.N});
        prepare.residual = context.output<float>(1, {rows, shape_.K});
        if (rows == 0) return;

        const Tiling tiling(rows, shape_.whole_columns ? kernels_.column_tile_rows : kernels_.block_tile_rows);
        prepare.tiling = product.tiling = &tiling;
        prepare.rows = product.rows = room_for(rows);
        prepare_rows(context, prepare, rows);
        multiply(context, product);
    }

   private:
    enum Input : size_t {
        kX,
        kDelta,
        kNormWeight,
        kWeight,
        kScale,
        kZeroPoints,
        kBias,
        kUpWeight,
        kUpScale,
        kUpZeroPoints,
        kUpBias
    };

    static LinearShape read_shape(const KernelInfo& node) {
        LinearShape shape{};
        shape.K = node.integer("K");
        shape.N = node.integer("N");
        shape.bits = node.integer("bits", 8);
        const int64_t block_size = node.integer("block_size", 0);
        if (shape.K < 1 || shape.N < 1) {
            throw Failure("K is " + std::to_string(shape.K) + " and N is " + std::to_string(shape.N) +
                          "; both must be positive");
        }
        if (shape.bits != 8 && shape.bits != 4) {
            throw Failure("bits is " + std::to_string(shape.bits) + "; it must be 8 or 4");
        }
        shape.whole_columns = block_size == 0;
        if (shape.whole_columns) {
            if (shape.bits != 8) throw Failure("bits is 4 with block_size 0; one scale a column takes bits 8");
            if (shape.K > kLargestK) {
                throw Failure("K is " + std::to_string(shape.K) + "; one scale a column takes at most " +
                              std::to_string(kLargestK) + ", so use blocks");
            }
        } else if (block_size < 16 || block_size > kLargestK || (block_size & (block_size - 1)) != 0) {
            throw Failure("block_size is " + std::to_string(block_size) + "; it must be 0 or a power of two from 16 to " +
                          std::to_string(kLargestK));
        }
        shape.block = shape.whole_columns ? round_up(shape.K, 4) : block_size;
        shape.blocks = shape.whole_columns ? 1 : (shape.K + block_size - 1) / block_size;
        shape.stride = round_up(shape.block * shape.blocks, 64);
        shape.panels = (shape.N + kPanelColumns - 1) / kPanelColumns;
        return shape;
    }

    static Activation read_activation(const std::string& text) {
        if (text == "none") return Activation::none;
        if (text == "silu") return Activation::silu;
        if (text == "gelu") return Activation::gelu;
        if (text == "gelu_tanh") return Activation::gelu_tanh;
        throw Failure("activation is '" + text + "'; it must be none, silu, gelu or gelu_tanh");
    }

    static Tensor constant(const KernelInfo& node, Input index, ElementType type, const char* type_name, int64_t count) {
        const Tensor tensor = node.constant(index);
        const std::string label = inputs[index].label;
        if (!tensor) throw Failure(label + " must be an initializer of the graph, since it is packed once");
        if (tensor.type() != type) throw Failure(label + " must be " + type_name + ", which its other tensors and bits say");
        if (tensor.count() != count) {
            throw Failure(label + " has shape " + tensor.shape_text() + "; K, N, bits and block_size make it " +
                          std::to_string(count) + " elements");
        }
        return tensor;
    }

    OwnedMatrix read_matrix(const KernelInfo& node, Input weight_at, Input scale_at, Input zeros_at) const {
        const LinearShape& s = shape_;
        const int64_t count = s.whole_columns ? s.K * s.N : s.N * s.blocks * s.block * s.bits / 8;
        const Tensor weight = constant(node, weight_at, s.whole_columns ? kInt8 : kUint8,
                                       s.whole_columns ? "int8 [K, N]" : "uint8 [N, blocks, bytes]", count);
        if (s.whole_columns && weight.shape() != std::vector<int64_t>{s.K, s.N}) {
            throw Failure(std::string(inputs[weight_at].label) + " has shape " + weight.shape_text() +
                          "; with block_size 0 it must be [K, N] = [" + std::to_string(s.K) + ", " + std::to_string(s.N) +
                          "]");
        }
        const Tensor scale = constant(node, scale_at, kFloat32, "float32", s.N * s.blocks);
        Tensor zeros;
        if (node.connected(zeros_at)) {
            if (s.whole_columns) {
                throw Failure(std::string(inputs[zeros_at].label) + " is given with block_size 0, whose weights have none");
            }
            zeros = constant(node, zeros_at, kUint8, "uint8", s.N * ((s.blocks * s.bits + 7) / 8));
        }
        const SourceMatrix source = {weight.data<void>(), scale.data<float>(), zeros ? zeros.data<uint8_t>() : nullptr};
        OwnedMatrix made = pack(s, source);
        let_go(weight.data<void>(), static_cast<size_t>(count));
        let_go(scale.data<void>(), static_cast<size_t>(s.N * s.blocks) * sizeof(float));
        return made;
    }

    // An optional input [length], or [rows, K] where length is 0; null where it is absent.
    const float* optional(const KernelContext& context, Input index, int64_t rows, int64_t length = 0) const {
        if (!connected_[index]) return nullptr;
        const Tensor tensor = context.input(index);
        if (!tensor) return nullptr;
        const bool fits = length ? tensor.shape().size() == 1 && tensor.shape()[0] == length
                                 : tensor.shape().size() == 2 && tensor.shape()[0] == rows && tensor.shape()[1] == shape_.K;
        if (!fits) {
            throw Failure(std::string(inputs[index].label) + " has shape " + tensor.shape_text() + "; it must be " +
                          (length ? "[" + std::to_string(length) + "]"
                                  : "[" + std::to_string(rows) + ", " + std::to_string(shape_.K) + "], as x is"));
        }
        return tensor.data<float>();
    }

    QuantizedRows room_for(int64_t rows) const {
        const size_t codes = static_cast<size_t>(rows * shape_.stride);
        const size_t numbers = static_cast<size_t>(round_up(rows * shape_.blocks, 16)) * 4;
        uint8_t* memory = rows_scratch.reserve(codes + 2 * numbers);
        return {reinterpret_cast<int8_t*>(memory), reinterpret_cast<float*>(memory + codes),
                reinterpret_cast<int32_t*>(memory + codes + numbers)};
    }

    void prepare_rows(const KernelContext& context, const PrepareTask& task, int64_t rows) const {
        const size_t bytes = static_cast<size_t>(shape_.stride) * sizeof(float);
        const int64_t piece = rows <= kRowsPreparedAlone ? rows : rows <= 32 ? 2 : 16;
        context.parallel_for(static_cast<size_t>((rows + piece - 1) / piece), [&](size_t index) {
            const int64_t begin = static_cast<int64_t>(index) * piece;
            float* values = reinterpret_cast<float*>(values_scratch.reserve(bytes));
            kernels_.prepare(task, begin, std::min(rows, begin + piece), values);
        });
    }

    // Pieces are a few panels in a band of rows, all panels of the first band before the next one: rows stay in the
    // second-level cache while the weights pass.
    void multiply(const KernelContext& context, const ProductTask& task) const {
        const int64_t tiles = task.tiling->tiles;
        const int64_t most = shape_.whole_columns ? kernels_.column_tile_rows : kernels_.block_tile_rows;
        const int64_t bands = (tiles * most + kBandRows - 1) / kBandRows;
        const int64_t matrices = up_.memory ? 2 : 1;
        const int64_t by_size = kTaskBytes / (weight_.packed.panel_bytes * matrices);
        const int64_t group = std::max<int64_t>(1, std::min(by_size, shape_.panels / kMostPieces));
        const int64_t groups = (shape_.panels + group - 1) / group;
        context.parallel_for(static_cast<size_t>(groups * bands), [&](size_t index) {
            const int64_t band = static_cast<int64_t>(index) / groups, first = static_cast<int64_t>(index) % groups * group;
            kernels_.product(task, first, std::min(shape_.panels, first + group), band * tiles / bands,
                             (band + 1) * tiles / bands);
        });
    }

    const LinearKernels& kernels_;
    LinearShape shape_;
    float epsilon_;
    Activation activation_ = Activation::none;
    OwnedMatrix weight_, up_;
    bool connected_[std::size(inputs)] = {};
};

}  // namespace

const OrtCustomOp* linear_op() { return custom_op<Linear>(); }

}  // namespace fathom
