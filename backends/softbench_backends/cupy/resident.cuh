// Rows that stay in registers: each row is read once, by a power of two of lanes that hold E elements each.
//
// Two reductions, first of the maximum, then of everything that depends on it; the exponentials of the second are kept
// and scaled for the result. Layout: tiles of V consecutive elements, dealt to the lanes in turn, so that the
// assignment of elements to lanes, and with it every bit of the result, depends on K alone. An unaligned array only
// loses the 16-byte accesses.
//
// A row of losses needs a second look in two rare cases, both decided by the row alone: s is so small that terms of it
// were lost below Exp<C>::lowest, or a factor so large or small that products with it would lose digits.
#pragma once

#include "sums.cuh"

// Where all threads of a block share a row, its warp 0 finishes it for them.

template <class T, int OP, int V, int E>
__global__ void __launch_bounds__(E >= 8 ? RESIDENT_BLOCK : WARPED_BLOCK, OP >= SMOOTH ? 1 : 2)
resident(const Call<T> call) {
    typedef typename Compute<T>::type C;
    typedef Stats<C, kind_of<OP>> S;
    static __shared__ C maxima[32];
    static __shared__ S sums[32];
    static __shared__ Sum<C> tiny_slots[32];
    static __shared__ RowResult<C> shared;
    const Rows<T>& rows = call.rows;
    const i64 n_classes = rows.k;
    int lanes = call.sharing.lanes;
    const bool whole = call.sharing.whole;
    const int K = (int)n_classes, lane = threadIdx.x & (lanes - 1), shift = shift_of(lanes);
    const bool by_block = lanes > 32;
    const int begin = lane * V, step = V << shift;
    const auto class_of = [&](int i) { return begin + i / V * step + i % V; };

    const i64 row = ((i64)blockIdx.x * blockDim.x + threadIdx.x) >> shift;
    const bool inside = row < rows.n;
    Row<C> r = {IGNORED};
    if (inside) r = row_of<OP>(call.targets, row, n_classes);
    const bool read = inside && r.has_label();
    const T* from = rows.x + row * n_classes;
    const auto weights = weights_of<OP>(call.targets, row, n_classes);
    if ((OP == INDEX || OP == SMOOTH) && read) r.xy = widen(from[r.label]);

    const T* mine = from + begin;
    const int known = read ? K : 0;
    C v[E];
#pragma unroll
    for (int i = 0; i < E; i += V) {
        fill<V>(v + i, -infinity<C>());
        if (class_of(i) < known) load<V>(mine + i / V * step, whole, v + i);
    }
    C own = v[0];
#pragma unroll
    for (int i = 1; i < E; ++i) own = maximum(own, v[i]);
    const C m = over_lanes(own, lanes, maxima, Largest());
    const bool holds = __any_sync(FULL, own == m);

    S stats;
#pragma unroll
    for (int i = 0; i < E; ++i)
        if (class_of(i) < known) add_weighted(stats, weights, class_of(i), v[i], m);
    const RowExp<T> exponential(m);
    C e[E];
#pragma unroll
    for (int i = 0; i < E; ++i) e[i] = exponential(v[i]);
    add_exponentials<T, E>(stats, v, e, m, holds);
    if (OP != LOG_SOFTMAX && OP != LOGSUMEXP) {
#pragma unroll
        for (int i = 0; i < E; ++i) v[i] = e[i];
    }
    stats = over_lanes_to_warp_0(stats, lanes, sums, Added());
    bool again = false;
    Sum<C> tiny;
    if constexpr (OP >= INDEX) {
        // All lanes that exchange look again together, as they must; each row keeps what is its own.
        again = read && (!by_block || threadIdx.x < 32) && lacks_terms(m, stats);
        if (by_block) again = __syncthreads_or(again);
        if (__any_sync(FULL, again)) {
            for (int i = 0; i < E; ++i)
                if (again && class_of(i) < K) add_tiny(tiny, widen(from[class_of(i)]), m);
            tiny = over_lanes(tiny, lanes, tiny_slots, Added());
        }
    }
    RowResult<C> result;
    if (!by_block || threadIdx.x < 32) result = finish_stats<OP, T>(r, m, stats, again, tiny, weights, n_classes);
    if constexpr (looks_twice<OP, T>) {
        bool close = (!by_block || threadIdx.x < 32) && cancels(result);
        if (by_block) close = __syncthreads_or(close);
        if (__any_sync(FULL, close)) {
            const ExactExp<C> exact(m);
#pragma unroll
            for (int i = 0; i < E; ++i) e[i] = exact(v[i]);
            S exactly;
            add_exponentials<C, E>(exactly, v, e, m, true);
            exactly = over_lanes(exactly, lanes, sums, Added());
            if (close) result = finish_stats<OP, C>(r, m, exactly, false, tiny, weights, n_classes);
        }
    }
    if (!by_block || threadIdx.x < 32) {
        if (inside && lane == 0) {
            if (rows.numbers) set_row<OP, T>(rows.numbers, row, result);
            if (by_block) shared = result;
        }
    }
    if (OP == LOGSUMEXP || !rows.out) return;
    if (by_block) {
        __syncthreads();
        result = shared;
    }
    if (!inside) return;
    T* to = rows.out + row * n_classes + begin;
#pragma unroll
    for (int i = 0; i < E; i += V) {
        if (class_of(i) >= K) continue;
        C w[V];
#pragma unroll
        for (int j = 0; j < V; ++j) {
            if constexpr (OP == LOG_SOFTMAX) w[j] = log_entry<T>(result, v[i + j]);
            else w[j] = entry<OP>(result, v[i + j], weights[class_of(i + j)]);
        }
        if constexpr (OP != LOG_SOFTMAX) {
            if (needs_care<OP, T, V>(result, w)) {
                write_slowly<OP>(result, exponential, weights, mine + i / V * step, class_of(i), V, to + i / V * step);
                continue;
            }
        }
        store<V>(w, whole, to + i / V * step);
    }
    // The lane that wrote the label's entry overwrites it.
    if ((OP == INDEX || OP == SMOOTH) && !result.undefined && lane == ((int)r.label / V & (lanes - 1)))
        to[r.label - begin] = rounded<T>(result.label_gradient);
}
