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
    int ranges = 0;
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

int64_t cost_of(const AttentionShape& shape, const AttentionStep& step, const AttentionTile& tile) {
    const int base = step.past_lengths[tile.row] + tile.first;
    const int first = std::max(shape.first_seen(base) / kGranuleTokens, tile.first_part * kPartGranules);
    const int end = std::min((base + tile.tokens - 1) / kGranuleTokens + 1,
                             (tile.first_part + tile.parts) * kPartGranules);
    return (end - first) * tile.kv_heads * (kLoadCost + static_cast<int64_t>(tile.tokens) * shape.group);
}

struct Plan {
    std::vector<AttentionTile> writes;  // before all items
    std::vector<Item> items;
    std::vector<SharedTile> shared;
    size_t states = 0;  // floats
};

// The tile of tokens first ... of a row, all kv heads, all keys.
AttentionTile tile_of(const AttentionShape& shape, const AttentionStep& step, int64_t row, int first, int tokens) {
    AttentionTile tile;
    tile.row = row;
    tile.kv_heads = shape.kv_heads;
    tile.first = first;
    tile.tokens = tokens;
    const int base = step.past_lengths[row] + first;
    tile.first_part = shape.first_seen(base) / kPartTokens;
    tile.parts = (base + tokens - 1) / kPartTokens - tile.first_part + 1;
    return tile;
}

// Adds a tile to the plan, in ranges of keys where it alone would keep the others waiting.
void add(const AttentionShape& shape, const AttentionStep& step, const AttentionTile& whole, int64_t limit, Plan& plan) {
    const int64_t cost = cost_of(shape, step, whole);
    const int64_t ranges = std::min<int64_t>(whole.parts, cost / std::max<int64_t>(limit, 1) + 1);
    if (ranges == 1) {
        plan.items.push_back({whole, cost, -1});
        return;
    }
    const int shared = static_cast<int>(plan.shared.size());
    plan.shared.push_back({whole, plan.states, static_cast<int>(ranges)});
    plan.states += whole.parts * state_floats(shape, whole.query_heads(shape));
    AttentionTile range = whole;
    for (int64_t index = 0; index < ranges; ++index) {
        const int end = whole.first_part + static_cast<int>(whole.parts * (index + 1) / ranges);
        range.parts = end - range.first_part;
        // The last range stores the new keys, if no other reads them.
        const bool last = index + 1 == ranges;
        range.writes = whole.writes && last && (step.past_lengths[whole.row] + whole.first) / kPartTokens >= range.first_part;
        if (whole.writes && last && !range.writes) plan.writes.push_back(whole);
        plan.items.push_back({range, cost_of(shape, step, range), shared});
        range.first_part = end;
    }
}

Plan plan_of(const AttentionShape& shape, const AttentionStep& step) {
    Plan plan;
    const int largest = std::max(1, kTileQueries / shape.group);
    std::vector<AttentionTile> tiles;
    int64_t total = 0;
    for (int64_t row = 0; row < step.rows; ++row) {
        const int count = step.row_starts[row + 1] - step.row_starts[row];
        for (int first = 0; first < count; first += largest) {
            tiles.push_back(tile_of(shape, step, row, first, std::min(largest, count - first)));
            total += cost_of(shape, step, tiles.back());
        }
        for (int first = 0; count > largest && first < count; first += kWriteTokens) {
            plan.writes.push_back(tile_of(shape, step, row, first, std::min(kWriteTokens, count - first)));
        }
        if (count > 0 && count <= largest) tiles.back().writes = true;
    }
    // A few tokens read all kv heads of a block in one sweep, which memory likes best; many share each one's loads.
    static const int64_t pieces = 8 * std::max<int64_t>(2, std::thread::hardware_concurrency());
    const int64_t limit = total / pieces;
    for (const AttentionTile& whole : tiles) {
        const int64_t cuts = cost_of(shape, step, whole) / std::max<int64_t>(limit, 1) + 1;
        const int by_cost = static_cast<int>((shape.kv_heads + cuts - 1) / cuts);
        const int heads = std::max(1, std::min(by_cost, kTileQueries / (whole.tokens * shape.group)));
        for (int head = 0; head < shape.kv_heads; head += heads) {
            AttentionTile tile = whole;
            tile.kv_head = head;
            tile.kv_heads = std::min(heads, shape.kv_heads - head);
            add(shape, step, tile, limit, plan);
        }
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
            kernels.write(shape, step, plan.writes[index]);
        });
    }
    const std::unique_ptr<float[]> states(plan.states ? new float[plan.states] : nullptr);
    std::vector<std::atomic<int>> left(plan.shared.size());
    for (size_t index = 0; index < left.size(); ++index) left[index] = plan.shared[index].ranges;
    share_out(plan.items.size(), parallel_for, [&](size_t index) {
        static thread_local ThreadScratch scratch;
        const Item& item = plan.items[index];
        AttentionTile tile = item.tile;
        const int queries = tile.query_heads(shape);
        void* memory = scratch.of(kernels.scratch_bytes(shape, queries));
        if (item.shared < 0) {
            kernels.attend(shape, step, tile, memory);
            return;
        }
        const SharedTile& shared = plan.shared[item.shared];
        AttentionTile whole = shared.whole;
        whole.states = states.get() + shared.states_at;
        tile.states = whole.states + (tile.first_part - whole.first_part) * state_floats(shape, queries);
        kernels.attend(shape, step, tile, memory);
        if (left[item.shared].fetch_sub(1, std::memory_order_acq_rel) == 1) kernels.merge(shape, step, whole, memory);
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
