// How a step of Attention is shared between threads. Nothing here touches a number: tiles, ranges of keys and their
// order decide who computes what, and the kernels' results do not depend on it.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>
#include <thread>
#include <vector>

#include "attention_step.h"

namespace fathom {

namespace {

constexpr int kTileQueries = 96;  // query heads of a tile: its queries and sums fit the first caches
constexpr int kWriteTokens = 64;  // of one piece of work
constexpr int64_t kLoadCost = 8;  // of a granule's keys and values, in queries
constexpr size_t kLargestCrew = 256;

struct Item {
    AttentionTile tile;
    int64_t cost = 0;
    int shared = -1;  // index of the tile that several items compute together
};

// A tile of which several threads compute ranges of keys; whoever finishes last merges them.
struct SharedTile {
    AttentionTile whole;
    size_t states_at = 0;
    std::atomic<int> left{0};
};

// Memory of a thread, kept for the next step.
class ThreadScratch {
   public:
    ThreadScratch() = default;
    ThreadScratch(const ThreadScratch&) = delete;
    ThreadScratch& operator=(const ThreadScratch&) = delete;
    ~ThreadScratch() { std::free(memory_); }

    void* of(size_t bytes) {
        if (bytes > size_) {
            std::free(memory_);
            size_ = 0;
            memory_ = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
            if (memory_ == nullptr) throw std::bad_alloc();
            size_ = bytes;
        }
        return memory_;
    }

   private:
    void* memory_ = nullptr;
    size_t size_ = 0;
};

int tile_tokens(const AttentionShape& shape) { return std::max(1, kTileQueries / shape.group); }

int64_t cost_of(const AttentionShape& shape, const AttentionStep& step, const AttentionTile& tile) {
    const int base = step.past_lengths[tile.row] + tile.first;
    const int first = std::max(shape.first_seen(base) / kGranuleTokens, tile.first_part * kPartGranules);
    const int end = std::min((base + tile.tokens - 1) / kGranuleTokens + 1,
                             (tile.first_part + tile.parts) * kPartGranules);
    return (end - first) * (kLoadCost + static_cast<int64_t>(tile.tokens) * shape.group);
}

struct Plan {
    std::vector<AttentionTile> writes;  // before all items
    std::vector<Item> items;
    std::vector<SharedTile> shared;
    size_t states = 0;  // floats
};

Plan plan_of(const AttentionShape& shape, const AttentionStep& step) {
    Plan plan;
    const int largest = tile_tokens(shape);
    int64_t total = 0;
    for (int64_t row = 0; row < step.rows; ++row) {
        const int past = step.past_lengths[row], count = step.row_starts[row + 1] - step.row_starts[row];
        for (int head = 0; head < shape.kv_heads && count > 0; ++head) {
            for (int first = 0; count > largest && first < count; first += kWriteTokens) {
                plan.writes.push_back({row, head, first, std::min(kWriteTokens, count - first)});
            }
            for (int first = 0; first < count; first += largest) {
                Item item;
                item.tile = {row, head, first, std::min(largest, count - first)};
                const int last = past + first + item.tile.tokens - 1;
                item.tile.first_part = shape.first_seen(past + first) / kPartTokens;
                item.tile.parts = last / kPartTokens - item.tile.first_part + 1;
                item.tile.writes = count <= largest;
                item.cost = cost_of(shape, step, item.tile);
                total += item.cost;
                plan.items.push_back(item);
            }
        }
    }
    // A long sequence is shared where it would keep the others waiting.
    static const int64_t pieces = std::max<int64_t>(8, 2 * static_cast<int64_t>(std::thread::hardware_concurrency()));
    const int64_t limit = total / pieces;
    std::vector<size_t> heavy;
    for (size_t at = 0; at < plan.items.size(); ++at) {
        if (plan.items[at].cost > limit && plan.items[at].tile.parts > 1) heavy.push_back(at);
    }
    plan.shared = std::vector<SharedTile>(heavy.size());
    for (size_t index = 0; index < heavy.size(); ++index) {
        const AttentionTile whole = plan.items[heavy[index]].tile;
        SharedTile& shared = plan.shared[index];
        shared.whole = whole;
        shared.states_at = plan.states;
        plan.states += whole.parts * state_floats(shape, whole.tokens * shape.group);
        const int past = step.past_lengths[whole.row];
        const int64_t ranges = std::min<int64_t>(whole.parts, plan.items[heavy[index]].cost / std::max<int64_t>(limit, 1) + 1);
        int first = whole.first_part;
        for (int64_t range = 0; range < ranges; ++range) {
            Item item = plan.items[heavy[index]];
            const int end = whole.first_part + static_cast<int>(whole.parts * (range + 1) / ranges);
            item.tile.first_part = first;
            item.tile.parts = end - first;
            // The last range stores the new keys, if no other reads them.
            item.tile.writes = whole.writes && range + 1 == ranges && (past + whole.first) / kPartTokens >= first;
            if (whole.writes && range + 1 == ranges && !item.tile.writes) plan.writes.push_back(whole);
            item.shared = static_cast<int>(index);
            item.cost = cost_of(shape, step, item.tile);
            first = end;
            if (range == 0) {
                plan.items[heavy[index]] = item;
            } else {
                plan.items.push_back(item);
            }
        }
        shared.left = static_cast<int>(ranges);
    }
    std::stable_sort(plan.items.begin(), plan.items.end(),
                     [](const Item& a, const Item& b) { return a.cost > b.cost; });
    return plan;
}

// Calls work(index) below `total` on the threads; each takes the next index as it becomes free.
template <typename Work>
void share_out(size_t total, const ParallelFor& parallel_for, Work&& work) {
    std::atomic<size_t> next{0};
    parallel_for(std::min(total, kLargestCrew), [&](size_t) {
        for (size_t index = next++; index < total; index = next++) work(index);
    });
}

}  // namespace

void run_attention(const AttentionShape& shape, const AttentionStep& step, const AttentionKernels& kernels,
                   const ParallelFor& parallel_for) {
    Plan plan = plan_of(shape, step);
    if (!plan.writes.empty()) {
        share_out(plan.writes.size(), parallel_for, [&](size_t index) {
            const AttentionTile& tile = plan.writes[index];
            kernels.write(shape, step, tile.row, tile.kv_head, tile.first, tile.tokens);
        });
    }
    const std::unique_ptr<float[]> states(plan.states ? new float[plan.states] : nullptr);
    share_out(plan.items.size(), parallel_for, [&](size_t index) {
        static thread_local ThreadScratch scratch;
        const Item& item = plan.items[index];
        AttentionTile tile = item.tile;
        const int queries = tile.tokens * shape.group;
        void* memory = scratch.of(kernels.scratch_bytes(shape, queries));
        if (item.shared < 0) {
            kernels.attend(shape, step, tile, memory);
            return;
        }
        SharedTile& shared = plan.shared[item.shared];
        AttentionTile whole = shared.whole;
        whole.states = states.get() + shared.states_at;
        tile.states = whole.states + (tile.first_part - whole.first_part) * state_floats(shape, queries);
        kernels.attend(shape, step, tile, memory);
        if (shared.left.fetch_sub(1, std::memory_order_acq_rel) == 1) kernels.merge(shape, step, whole, memory);
    });
}

const AttentionKernels& attention_kernels(Isa isa) {
#if defined(__x86_64__)
    switch (isa) {
        case Isa::avx512vnni: return attention_avx512vnni;
        case Isa::avxvnni: return attention_avxvnni;
        case Isa::avx2: return attention_avx2;
        case Isa::generic: break;
    }
#endif
    return attention_generic;
}

}  // namespace fathom
