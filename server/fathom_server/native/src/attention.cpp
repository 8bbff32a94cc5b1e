#include "attention.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "attention_step.h"

namespace fathom {

namespace {

enum Input { kQkv, kKvCache, kRowStarts, kPastLengths, kBlockTables, kCosines, kSines, kQNorm, kKNorm };

std::string text(int64_t value) { return std::to_string(value); }

// cache_layout.py says the same in Python.
void lay_out(AttentionShape& shape) {
    const size_t numbers = 2 * static_cast<size_t>(kGranuleTokens) * static_cast<size_t>(shape.head_dim);
    switch (shape.kv_type) {
        case KvType::int8: shape.granule_bytes = numbers + 2 * kGranuleTokens * sizeof(float); break;
        case KvType::float16: shape.granule_bytes = numbers * 2; break;
        case KvType::float32: shape.granule_bytes = numbers * 4; break;
    }
    shape.head_bytes = shape.granule_bytes * static_cast<size_t>(shape.block_tokens / kGranuleTokens);
    shape.block_bytes = shape.head_bytes * static_cast<size_t>(shape.kv_heads);
}

int positive(const KernelInfo& node, const char* name, int64_t fallback) {
    const int64_t value = fallback ? node.integer(name, fallback) : node.integer(name);
    if (value < 1 || value > (1 << 20)) {
        throw Failure(std::string("attribute ") + name + " is " + text(value) + "; it must be from 1 to 1048576");
    }
    return static_cast<int>(value);
}

class Attention {
   public:
    static constexpr const char* name = "Attention";
    static constexpr Port inputs[] = {
        {"qkv", kFloat32},         {"kv_cache", kUint8},      {"row_starts", kInt32},
        {"past_lengths", kInt32},  {"block_tables", kInt32},  {"cosines", kFloat32, true},
        {"sines", kFloat32, true}, {"q_norm", kFloat32, true}, {"k_norm", kFloat32, true},
    };
    static constexpr Port outputs[] = {{"context", kFloat32}};

    explicit Attention(const KernelInfo& node) : layer_(node.integer("layer")), kernels_(attention_kernels(chosen_isa())) {
        shape_.heads = positive(node, "heads", 0);
        shape_.kv_heads = positive(node, "kv_heads", 0);
        shape_.head_dim = positive(node, "head_dim", 0);
        shape_.block_tokens = positive(node, "block_tokens", 32);
        const int64_t window = node.integer("window", 0);
        shape_.scale = node.real("scale", 1.0f);
        shape_.softcap = node.real("softcap", 0.0f);
        shape_.epsilon = node.real("epsilon", 1e-6f);
        const std::string kv_dtype = node.text("kv_dtype", "int8");
        if (layer_ < 0) throw Failure("attribute layer is " + text(layer_) + "; it must be 0 or more");
        if (shape_.heads % shape_.kv_heads != 0) {
            throw Failure("attribute heads is " + text(shape_.heads) + ", no multiple of kv_heads, " + text(shape_.kv_heads));
        }
        if (shape_.head_dim % 16 != 0 || shape_.head_dim > kLargestHeadDim) {
            throw Failure("attribute head_dim is " + text(shape_.head_dim) + "; it must be a multiple of 16 up to " +
                          text(kLargestHeadDim));
        }
        if (shape_.block_tokens % kGranuleTokens != 0) {
            throw Failure("attribute block_tokens is " + text(shape_.block_tokens) + "; it must be a multiple of " +
                          text(kGranuleTokens));
        }
        if (window < 0 || window > INT32_MAX) throw Failure("attribute window is " + text(window) + "; it must be 0 (none) or more");
        shape_.window = static_cast<int>(window);
        if (!std::isfinite(shape_.scale)) throw Failure("attribute scale is not finite");
        if (!std::isfinite(shape_.softcap) || shape_.softcap < 0) throw Failure("attribute softcap must be 0 (none) or more");
        if (!std::isfinite(shape_.epsilon) || shape_.epsilon < 0) throw Failure("attribute epsilon must be 0 or more");
        if (kv_dtype == "int8") {
            shape_.kv_type = KvType::int8;
        } else if (kv_dtype == "float16") {
            shape_.kv_type = KvType::float16;
        } else if (kv_dtype == "float32") {
            shape_.kv_type = KvType::float32;
        } else {
            throw Failure("attribute kv_dtype is \"" + kv_dtype + "\"; it must be int8, float16 or float32");
        }
        shape_.group = shape_.heads / shape_.kv_heads;
        lay_out(shape_);
    }

    void compute(const KernelContext& context) const {
        const Tensor qkv = context.input(kQkv), cache = context.input(kKvCache), starts = context.input(kRowStarts);
        const Tensor past = context.input(kPastLengths), tables = context.input(kBlockTables);
        const Tensor cosines = context.input(kCosines), sines = context.input(kSines);
        const Tensor q_norm = context.input(kQNorm), k_norm = context.input(kKNorm);

        expect(qkv, "qkv", {-1, shape_.qkv_width()});
        const int64_t tokens = qkv.shape()[0];
        expect(cache, "kv_cache", {-1, -1, static_cast<int64_t>(shape_.block_bytes)});
        if (layer_ >= cache.shape()[0]) {
            throw Failure("kv_cache has shape " + cache.shape_text() + ", but this node's layer is " + text(layer_));
        }
        expect(past, "past_lengths", {-1});
        const int64_t rows = past.shape()[0];
        expect(starts, "row_starts", {rows + 1});
        expect(tables, "block_tables", {rows, -1});
        if (static_cast<bool>(cosines) != static_cast<bool>(sines)) {
            throw Failure("cosines and sines must be given together or not at all");
        }
        AttentionStep step;
        if (cosines) {
            expect(cosines, "cosines", {-1, -1});
            expect(sines, "sines", {cosines.shape()[0], cosines.shape()[1]});
            if (2 * cosines.shape()[1] > shape_.head_dim) {
                throw Failure("cosines has shape " + cosines.shape_text() + ", more than half of head_dim " +
                              text(shape_.head_dim) + " a position");
            }
            step.cosines = cosines.data<float>();
            step.sines = sines.data<float>();
            step.rotary_half = static_cast<int>(cosines.shape()[1]);
        }
        if (q_norm) expect(q_norm, "q_norm", {shape_.head_dim});
        if (k_norm) expect(k_norm, "k_norm", {shape_.head_dim});

        step.qkv = qkv.data<float>();
        step.cache = cache.writable<uint8_t>() + static_cast<size_t>(layer_) * static_cast<size_t>(cache.shape()[1]) * shape_.block_bytes;
        step.row_starts = starts.data<int32_t>();
        step.past_lengths = past.data<int32_t>();
        step.block_tables = tables.data<int32_t>();
        step.rows = rows;
        step.table_width = tables.shape()[1];
        step.q_norm = q_norm ? q_norm.data<float>() : nullptr;
        step.k_norm = k_norm ? k_norm.data<float>() : nullptr;
        check_rows(step, tokens, cache.shape()[1], cosines ? cosines.shape()[0] : INT32_MAX);
        step.context = context.output<float>(0, {tokens, int64_t{shape_.heads} * shape_.head_dim});
        if (tokens == 0) return;
        run_attention(shape_, step, kernels_, [&](size_t total, const std::function<void(size_t)>& work) {
            context.parallel_for(total, [&work](size_t index) { work(index); });
        });
    }

   private:
    // -1: any size.
    static void expect(const Tensor& tensor, const char* label, std::initializer_list<int64_t> sizes) {
        bool good = tensor.shape().size() == sizes.size();
        std::string wanted;
        size_t axis = 0;
        for (int64_t size : sizes) {
            good = good && (size < 0 || tensor.shape()[axis] == size);
            wanted += (axis++ ? ", " : "") + (size < 0 ? std::string("?") : text(size));
        }
        if (!good) throw Failure(std::string(label) + " has shape " + tensor.shape_text() + "; it must be [" + wanted + "]");
    }

    // Everything that a kernel would read or write beyond what it was given.
    void check_rows(const AttentionStep& step, int64_t tokens, int64_t blocks, int64_t positions) const {
        if (step.row_starts[0] != 0 || step.row_starts[step.rows] != tokens) {
            throw Failure("row_starts must begin with 0 and end with the " + text(tokens) + " rows of qkv; it begins with " +
                          text(step.row_starts[0]) + " and ends with " + text(step.row_starts[step.rows]));
        }
        for (int64_t row = 0; row < step.rows; ++row) {
            const int64_t count = int64_t{step.row_starts[row + 1]} - step.row_starts[row], past = step.past_lengths[row];
            const std::string where = " of row " + text(row);
            if (count < 0) throw Failure("row_starts decreases at the end" + where);
            if (past < 0) throw Failure("past_lengths" + where + " is " + text(past) + "; it must be 0 or more");
            if (count == 0) continue;
            if (past + count > step.table_width * shape_.block_tokens) {
                throw Failure("past_lengths" + where + " is " + text(past) + " and it has " + text(count) +
                              " new tokens, but its block table holds " + text(step.table_width * shape_.block_tokens));
            }
            if (past + count > positions) {
                throw Failure("past_lengths" + where + " is " + text(past) + " and it has " + text(count) +
                              " new tokens, but cosines end after " + text(positions) + " positions");
            }
            const int64_t first = shape_.first_seen(static_cast<int>(past)) / shape_.block_tokens;
            for (int64_t at = first; at <= (past + count - 1) / shape_.block_tokens; ++at) {
                const int64_t block = step.block_tables[row * step.table_width + at];
                if (block < 0 || block >= blocks) {
                    throw Failure("block_tables" + where + " has block " + text(block) + " at " + text(at) +
                                  "; the cache has blocks 0 to " + text(blocks - 1));
                }
            }
        }
    }

    int64_t layer_;
    AttentionShape shape_;
    const AttentionKernels& kernels_;
};

}  // namespace

const OrtCustomOp* attention_op() { return custom_op<Attention>(); }

}  // namespace fathom
