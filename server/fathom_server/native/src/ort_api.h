// What an operator needs of ONNX Runtime's C interface: its attributes, its tensors, its thread pool, its errors.
//
// An operator is a class with
//   static constexpr const char* name;
//   static constexpr Port inputs[], outputs[];
//   explicit Operator(const KernelInfo&);              made once a node, when the session is
//   void compute(const KernelContext&) const;          once a run; several runs may be under way at once
// Both may throw std::exception; the session's caller gets its text. `custom_op<Operator>()` is what ONNX Runtime takes.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <initializer_list>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "../vendor/onnxruntime_c_api.h"

namespace fathom {

// Set once, by RegisterCustomOps.
extern const OrtApi* ort;

// A refusal or a failure; its text reaches whoever made or ran the session.
class Failure : public std::runtime_error {
   public:
    using std::runtime_error::runtime_error;
};

inline void check(OrtStatus* status) {
    if (status != nullptr) {
        std::string message = ort->GetErrorMessage(status);
        ort->ReleaseStatus(status);
        throw Failure(message);
    }
}

using ElementType = ONNXTensorElementDataType;
constexpr ElementType kAnyType = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
constexpr ElementType kFloat32 = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
constexpr ElementType kInt32 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
constexpr ElementType kInt8 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
constexpr ElementType kUint8 = ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;

// An input or output of an operator. `label` is the name that errors use.
struct Port {
    const char* label;
    ElementType type;
    bool optional = false;
};

// A view of a tensor that ONNX Runtime owns; false where an optional one is absent.
class Tensor {
   public:
    Tensor() = default;

    explicit Tensor(const OrtValue* value) : value_(value) {
        if (value_ == nullptr) return;
        OrtTensorTypeAndShapeInfo* info = nullptr;
        check(ort->GetTensorTypeAndShape(value_, &info));
        size_t rank = 0;
        OrtStatus* status = ort->GetTensorElementType(info, &type_);
        if (status == nullptr) status = ort->GetDimensionsCount(info, &rank);
        if (status == nullptr) {
            shape_.resize(rank);
            status = ort->GetDimensions(info, shape_.data(), rank);
        }
        ort->ReleaseTensorTypeAndShapeInfo(info);
        check(status);
        void* data = nullptr;
        check(ort->GetTensorMutableData(const_cast<OrtValue*>(value_), &data));
        data_ = data;
    }

    explicit operator bool() const { return value_ != nullptr; }
    ElementType type() const { return type_; }
    const std::vector<int64_t>& shape() const { return shape_; }

    int64_t count() const {
        int64_t product = 1;
        for (int64_t size : shape_) product *= size;
        return product;
    }

    template <typename T>
    const T* data() const {
        return static_cast<const T*>(data_);
    }

    // For an operator that writes into an input on purpose (a cache bound in place).
    template <typename T>
    T* writable() const {
        return static_cast<T*>(data_);
    }

    std::string shape_text() const {
        std::string text = "[";
        for (size_t axis = 0; axis < shape_.size(); ++axis) {
            text += (axis ? ", " : "") + std::to_string(shape_[axis]);
        }
        return text + "]";
    }

   private:
    const OrtValue* value_ = nullptr;
    ElementType type_ = kAnyType;
    std::vector<int64_t> shape_;
    void* data_ = nullptr;
};

// A node, as its operator is made: attributes and constant inputs.
class KernelInfo {
   public:
    explicit KernelInfo(const OrtKernelInfo* info) : info_(info) {}

    int64_t integer(const char* name) const {
        int64_t value = 0;
        require(ort->KernelInfoGetAttribute_int64(info_, name, &value), name);
        return value;
    }

    int64_t integer(const char* name, int64_t fallback) const {
        int64_t value = 0;
        return given(ort->KernelInfoGetAttribute_int64(info_, name, &value)) ? value : fallback;
    }

    float real(const char* name, float fallback) const {
        float value = 0;
        return given(ort->KernelInfoGetAttribute_float(info_, name, &value)) ? value : fallback;
    }

    std::string text(const char* name, const char* fallback) const {
        size_t size = 0;
        if (!given(ort->KernelInfoGetAttribute_string(info_, name, nullptr, &size))) return fallback;
        std::string value(size, '\0');
        check(ort->KernelInfoGetAttribute_string(info_, name, value.data(), &size));
        value.resize(size ? size - 1 : 0);  // the terminating zero counts
        return value;
    }

    // The initializer behind an input; absent where there is none or it is computed.
    Tensor constant(size_t index) const {
        size_t inputs = 0;
        check(ort->KernelInfo_GetInputCount(info_, &inputs));
        if (index >= inputs) return {};
        int is_constant = 0;
        const OrtValue* value = nullptr;
        check(ort->KernelInfoGetConstantInput_tensor(info_, index, &is_constant, &value));
        return is_constant ? Tensor(value) : Tensor();
    }

    // Whether an input is connected, by its name in the graph.
    bool connected(size_t index) const {
        size_t inputs = 0;
        check(ort->KernelInfo_GetInputCount(info_, &inputs));
        if (index >= inputs) return false;
        size_t size = 0;
        check(ort->KernelInfo_GetInputName(info_, index, nullptr, &size));
        return size > 1;
    }

    // The node's name, for errors.
    std::string node() const {
        size_t size = 0;
        if (!given(ort->KernelInfo_GetNodeName(info_, nullptr, &size)) || size == 0) return "";
        std::string name(size, '\0');
        check(ort->KernelInfo_GetNodeName(info_, name.data(), &size));
        name.resize(size - 1);
        return name;
    }

   private:
    static bool given(OrtStatus* status) {
        if (status == nullptr) return true;
        ort->ReleaseStatus(status);
        return false;
    }

    static void require(OrtStatus* status, const char* name) {
        if (!given(status)) throw Failure(std::string("attribute ") + name + " is missing; the graph must give it");
    }

    const OrtKernelInfo* info_;
};

// One run of an operator.
class KernelContext {
   public:
    explicit KernelContext(OrtKernelContext* context) : context_(context) {}

    Tensor input(size_t index) const {
        const OrtValue* value = nullptr;
        check(ort->KernelContext_GetInput(context_, index, &value));
        return Tensor(value);
    }

    // The memory of an output of this shape; null where nobody reads the output.
    template <typename T>
    T* output(size_t index, std::initializer_list<int64_t> shape) const {
        OrtValue* value = nullptr;
        check(ort->KernelContext_GetOutput(context_, index, shape.begin(), shape.size(), &value));
        if (value == nullptr) return nullptr;
        void* data = nullptr;
        check(ort->GetTensorMutableData(value, &data));
        return static_cast<T*>(data);
    }

    // Calls work(index) for 0 ... total-1 on the session's threads, each index once, and waits for all. Threads take the
    // next index as they become free, so pieces may be unequal. Where one throws, the others still run, and this throws.
    template <typename Work>
    void parallel_for(size_t total, Work&& work) const {
        if (total == 1) return work(size_t{0});
        if (total == 0) return;
        struct Call {
            std::remove_reference_t<Work>& work;
            std::atomic<bool> failed;
        } call{work, {false}};
        const auto run = [](void* data, size_t index) {
            Call& each = *static_cast<Call*>(data);
            try {
                each.work(index);
            } catch (...) {  // nothing may leave a thread of the pool
                each.failed = true;
            }
        };
        check(ort->KernelContext_ParallelFor(context_, run, total, 0, &call));
        if (call.failed) throw Failure("a thread could not do its part; the machine may be out of memory");
    }

   private:
    OrtKernelContext* context_;
};

template <typename Operator>
const OrtCustomOp* custom_op() {
    static const OrtCustomOp op = [] {
        OrtCustomOp made{};
        made.version = ORT_API_VERSION;
        made.GetName = [](const OrtCustomOp*) { return Operator::name; };
        made.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; };
        made.GetInputTypeCount = [](const OrtCustomOp*) { return std::size(Operator::inputs); };
        made.GetOutputTypeCount = [](const OrtCustomOp*) { return std::size(Operator::outputs); };
        made.GetInputType = [](const OrtCustomOp*, size_t index) { return Operator::inputs[index].type; };
        made.GetOutputType = [](const OrtCustomOp*, size_t index) { return Operator::outputs[index].type; };
        made.GetInputCharacteristic = [](const OrtCustomOp*, size_t index) {
            return Operator::inputs[index].optional ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
        };
        made.GetOutputCharacteristic = [](const OrtCustomOp*, size_t index) {
            return Operator::outputs[index].optional ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
        };
        made.GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
        made.GetVariadicInputMinArity = [](const OrtCustomOp*) { return 1; };
        made.GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 1; };
        made.GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 1; };
        made.GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 1; };
        made.GetStartVersion = [](const OrtCustomOp*) { return 1; };
        made.GetEndVersion = [](const OrtCustomOp*) { return std::numeric_limits<int>::max(); };
        made.CreateKernelV2 = [](const OrtCustomOp*, const OrtApi*, const OrtKernelInfo* info,
                                 void** kernel) -> OrtStatus* {
            const KernelInfo node(info);
            try {
                *kernel = new Operator(node);
                return nullptr;
            } catch (const std::exception& error) {
                const std::string message = "fathom." + std::string(Operator::name) + ": " + error.what();
                return ort->CreateStatus(ORT_INVALID_ARGUMENT, message.c_str());
            }
        };
        made.KernelComputeV2 = [](void* kernel, OrtKernelContext* context) -> OrtStatus* {
            try {
                static_cast<const Operator*>(kernel)->compute(KernelContext(context));
                return nullptr;
            } catch (const std::exception& error) {
                const std::string message = "fathom." + std::string(Operator::name) + ": " + error.what();
                return ort->CreateStatus(ORT_INVALID_ARGUMENT, message.c_str());
            }
        };
        made.KernelDestroy = [](void* kernel) { delete static_cast<Operator*>(kernel); };
        return made;
    }();
    return &op;
}

}  // namespace fathom
