// The library's one door: ONNX Runtime calls RegisterCustomOps and finds the operators of the domain "fathom".
#include "attention.h"
#include "linear.h"
#include "ort_api.h"

namespace fathom {
const OrtApi* ort = nullptr;
}

#ifndef FATHOM_SOURCE_DIGEST
#define FATHOM_SOURCE_DIGEST "unknown"
#endif

// Read from the file by native/build.py: which sources this library was made of.
extern "C" __attribute__((visibility("default"))) const char fathom_source_digest[] =
    "fathom-ops-sources:" FATHOM_SOURCE_DIGEST;

extern "C" __attribute__((visibility("default"))) OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options,
                                                                                            const OrtApiBase* base) {
    const OrtApi* api = base->GetApi(ORT_API_VERSION);
    if (api == nullptr) return nullptr;  // too old to speak to; it finds no operators and says so
    fathom::ort = api;
    OrtCustomOpDomain* domain = nullptr;
    OrtStatus* status = api->CreateCustomOpDomain("fathom", &domain);
    if (status != nullptr) return status;
    const OrtCustomOp* const ops[] = {
        fathom::linear_op(),
        fathom::attention_op(),
    };
    for (const OrtCustomOp* op : ops) {
        status = api->CustomOpDomain_Add(domain, op);
        if (status != nullptr) return status;
    }
    // The domain lives as long as the process: sessions may outlive these options.
    return api->AddCustomOpDomain(options, domain);
}
