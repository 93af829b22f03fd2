// Rows that fit in the shared memory of a block, or of a cluster of blocks that hold a segment each: read once.
//
// The same two reductions as `resident`, with shared memory in place of registers. What a thread computes with are packs
// of V elements dealt out in turn, whatever the alignment of the row: where that forbids 16-byte accesses, elements are
// copied between global and shared memory one by one, neighbours by neighbouring threads, and the rest is the same. So the
// bits depend on K alone.
#pragma once

#include "clusters.cuh"
#include "sums.cuh"

static constexpr int STAGED_WARPS = STAGED_BLOCK / 32;

// Where threads, and blocks, meet.
template <class C, class S> struct StagedSlots {
    S sums[STAGED_WARPS], total;  // the latter is read by other blocks, and so are `tiny`, `exactly` and `maximum`
    S exactly;
    Sum<C> tiny_slots[STAGED_WARPS], tiny;
    C maxima[STAGED_WARPS], maximum;
    RowResult<C> result;
};

// Bring `count` elements to shared memory, and -inf up to the end of the last pack. Every thread may then read its packs.
template <int V, class T> DEVICE void bring(const T* from, int count, bool whole, T* here) {
    if (whole) {
        for (int k = (int)threadIdx.x * V; k < count; k += (int)blockDim.x * V) copy_pack<V>(from + k, here + k);
        copied();
        return;
    }
    const T nothing = rounded<T>(-infinity<typename Compute<T>::type>());
#pragma unroll 4
    for (int k = threadIdx.x; k < (count + V - 1) / V * V; k += blockDim.x) here[k] = k < count ? from[k] : nothing;
    __syncthreads();
}

// The reverse, for results that every thread left in its packs.
template <int V, class T> DEVICE void take(const T* here, int count, bool whole, T* to) {
    if (whole) {
        for (int k = (int)threadIdx.x * V; k < count; k += (int)blockDim.x * V)
            *reinterpret_cast<Pack<T, V>*>(to + k) = *reinterpret_cast<const Pack<T, V>*>(here + k);
        return;
    }
    __syncthreads();
#pragma unroll 4
    for (int k = threadIdx.x; k < count; k += blockDim.x) to[k] = here[k];
}

// V elements, a pack, into shared memory.
template <int V, class T, class C> DEVICE void keep(const C* from, T* here) {
    *reinterpret_cast<Pack<T, V>*>(here) = packed<V, T>(from);
}

template <class T, int OP, int BLOCKS> DEVICE void staged_row(const Call<T>& call) {
    typedef typename Compute<T>::type C;
    typedef Stats<C, kind_of<OP>> S;
    typedef StagedSlots<C, S> Slots;
    static_assert(sizeof(Slots) <= STAGED_SLOTS, "STAGED_SLOTS is too small");
    constexpr int PACKS = sizeof(T) == 2 ? STAGED_PACKS_OF_HALVES : STAGED_PACKS;  // worked on at once
    constexpr int V = 16 / sizeof(T), E = PACKS * V;
    // Exponentials replace the elements where they have the same size; otherwise they are taken twice.
    constexpr bool keeps = sizeof(T) == sizeof(C) && OP != LOG_SOFTMAX && OP != LOGSUMEXP;
    Slots& slots = *reinterpret_cast<Slots*>(block_memory());
    T* const here = reinterpret_cast<T*>(block_memory() + STAGED_SLOTS);
    const Rows<T>& rows = call.rows;
    const i64 n_classes = rows.k, length = call.sharing.length;
    const bool whole = call.sharing.whole;
    const int lanes = blockDim.x, step = E * lanes;
    const i64 row = blockIdx.x / BLOCKS, begin = blockIdx.x % BLOCKS * length;
    const i64 rest = n_classes - begin;
    const int count = (int)(rest < length ? rest > 0 ? rest : 0 : length);
    const Row<C> r = [&] {
        Row<C> known = row_of<OP>(call.targets, row, n_classes);
        // Before the first barrier: afterwards another block may overwrite x.
        if ((OP == INDEX || OP == SMOOTH) && known.has_label()) known.xy = widen(rows.x[row * n_classes + known.label]);
        return known;
    }();
    const bool read = r.has_label();
    const T* from = rows.x + row * n_classes + begin;
    const auto weights = weights_of<OP>(call.targets, row, n_classes);

    if (read) bring<V>(from, count, whole, here);
    C own = -infinity<C>();
    for (int base = (int)threadIdx.x * V; read && base < count; base += lanes * V) {
        C v[V];
        load<V>(here + base, true, v);
#pragma unroll
        for (int j = 0; j < V; ++j) own = maximum(own, v[j]);
    }
    C m = over_lanes(own, lanes, slots.maxima, Largest());
    m = over_blocks<BLOCKS>(m, &slots.maximum, Largest());
    const bool holds = __any_sync(FULL, own == m);
    // Every element of this thread: e(x), and what is summed of it.
    const auto add_all = [&](const auto& exponential, S& to, auto kept) {
        for (int base = (int)threadIdx.x * V; read && base < count; base += step) {
            C v[E], e[E];
#pragma unroll
            for (int p = 0; p < PACKS; ++p) {
                const int k = base + p * lanes * V;
                if (k < count) load<V>(here + k, true, v + p * V);
                else fill<V>(v + p * V, -infinity<C>());
#pragma unroll
                for (int j = 0; j < V; ++j) {
                    if (k + j < count) add_weighted(to, weights, begin + k + j, v[p * V + j], m);
                    e[p * V + j] = exponential(v[p * V + j]);
                }
                if constexpr (keeps)
                    if (k < count) keep<V>(e + p * V, here + k);
            }
            add_exponentials<decltype(kept), E>(to, v, e, m, holds);
        }
        return to;
    };

    const RowExp<T> exponential(m);
    S stats;
    stats = over_lanes(add_all(exponential, stats, T()), lanes, slots.sums, Added());
    stats = over_blocks<BLOCKS>(stats, &slots.total, Added());
    bool again = false;
    Sum<C> tiny;
    if constexpr (OP >= INDEX) {
        again = read && lacks_terms(m, stats);
        if (again) {  // all threads of the row agree
            for (int base = (int)threadIdx.x * V; base < count; base += lanes * V)
                for (int k = base; k < base + V && k < count; ++k) add_tiny(tiny, widen(from[k]), m);
            tiny = over_lanes(tiny, lanes, slots.tiny_slots, Added());
            tiny = over_blocks<BLOCKS>(tiny, &slots.tiny, Added());
        }
    }
    const auto finished = [&](auto stored, const S& found) {
        if (threadIdx.x < 32) {  // for all of them
            const RowResult<C> result = finish_stats<OP, decltype(stored)>(r, m, found, again, tiny, weights, n_classes);
            if (threadIdx.x == 0) slots.result = result;
        }
        __syncthreads();
        return slots.result;
    };
    RowResult<C> result = finished(T(), stats);
    if constexpr (looks_twice<OP, T>) {
        if (cancels(result)) {
            S exactly;
            exactly = over_lanes(add_all(ExactExp<C>(m), exactly, C()), lanes, slots.sums, Added());
            result = finished(C(), over_blocks<BLOCKS>(exactly, &slots.exactly, Added()));
        }
    }
    leave_blocks<BLOCKS>();
    if (threadIdx.x == 0 && begin == 0 && rows.numbers) set_row<OP, T>(rows.numbers, row, result);
    if (OP != LOGSUMEXP && rows.out) {
        for (int base = (int)threadIdx.x * V; base < count; base += lanes * V) {
            C v[V];
            load<V>(here + base, true, v);
#pragma unroll
            for (int j = 0; j < V; ++j) {
                const int k = base + j < count ? base + j : count - 1;  // what comes after the row stays here
                if constexpr (OP == LOG_SOFTMAX) v[j] = log_entry<T>(result, v[j]);
                else v[j] = entry<OP>(result, keeps ? v[j] : exponential(v[j]), weights[begin + k]);
            }
            if constexpr (OP != LOG_SOFTMAX) {
                if (needs_care<OP, T, V>(result, v)) {
                    const int some = count - base < V ? count - base : V;
                    write_slowly<OP>(result, exponential, weights, from + base, begin + base, some, here + base);
                    continue;
                }
            }
            keep<V>(v, here + base);
        }
        // The thread that wrote the label's entry overwrites it.
        if (OP == INDEX || OP == SMOOTH) {
            const i64 k = r.label - begin;
            if (!result.undefined && k >= 0 && k < count && ((int)k / V & (lanes - 1)) == (int)threadIdx.x)
                here[k] = rounded<T>(result.label_gradient);
        }
        take<V>(here, count, whole, rows.out + row * n_classes + begin);
    }
    left_blocks<BLOCKS>();
}

// A row per block.
template <class T, int OP>
__global__ void __launch_bounds__(STAGED_BLOCK, OP >= SMOOTH ? 2 : 3) staged(const Call<T> call) {
    staged_row<T, OP, 1>(call);
}

// A row per cluster of BLOCKS blocks, for devices of compute capability 9.0 and above.
template <class T, int OP, int BLOCKS>
__global__ void CLUSTER_OF(BLOCKS) __launch_bounds__(STAGED_BLOCK, OP >= SMOOTH ? 2 : 3) clustered(const Call<T> call) {
    staged_row<T, OP, BLOCKS>(call);
}
