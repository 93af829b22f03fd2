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

// rows: T per row for LOGSUMEXP, double per row (or null) for losses. out: (N, K), or null if only losses are wanted.
template <class T, int OP, int V, int E>
__global__ void __launch_bounds__(E >= 8 ? 256 : 128, 1)
resident(const T* x, T* out, void* rows, i64 n_rows, i64 n_classes, int lanes, int whole, const i64* labels,
         const double* sample_weight, const double* class_weight, double smoothing,
         const typename Compute<T>::type* q, const double* divisor_at, double divisor) {
    typedef typename Compute<T>::type C;
    typedef Stats<C, OP == SMOOTH || OP == SOFT> S;
    static __shared__ C maxima[32];
    static __shared__ S sums[32];
    const Targets<C> targets = {labels, sample_weight, class_weight, smoothing, q, divisor_at, divisor};
    const int K = (int)n_classes, lane = threadIdx.x & (lanes - 1), rows_per_block = blockDim.x / lanes;
    const auto class_of = [&](int i) { return (i / V * lanes + lane) * V + i % V; };

    for (i64 first = (i64)blockIdx.x * rows_per_block; first < n_rows; first += (i64)gridDim.x * rows_per_block) {
        const i64 row = first + threadIdx.x / lanes;
        const bool inside = row < n_rows;
        Row<C> r = {IGNORED};
        if (inside) r = row_of<OP>(targets, row, n_classes);
        const bool read = inside && r.has_label();
        const T* from = x + row * n_classes;
        const auto weights = weights_of<OP>(targets, row, n_classes);
        if ((OP == INDEX || OP == SMOOTH) && read) r.xy = widen(from[r.label]);

        C v[E];
#pragma unroll
        for (int i = 0; i < E; i += V) {
            if (read && class_of(i) < K) load<V>(from + class_of(i), whole, v + i);
            else fill<V>(v + i, -infinity<C>());
        }
        C m = v[0];
#pragma unroll
        for (int i = 1; i < E; ++i) m = maximum(m, v[i]);
        m = over_lanes(m, lanes, maxima, Largest());

        S stats;
#pragma unroll
        for (int i = 0; i < E; ++i)
            if (read && class_of(i) < K) add_weighted(stats, weights, class_of(i), v[i], m);
        C e[E];
#pragma unroll
        for (int i = 0; i < E; ++i) e[i] = OP == LOGSUMEXP ? shifted_exp(v[i], m) : row_exp<T>(v[i], m);
        add_exponentials<E>(stats, v, e, m);
        if (OP != LOG_SOFTMAX) {
#pragma unroll
            for (int i = 0; i < E; ++i) v[i] = e[i];
        }
        stats = over_lanes(stats, lanes, sums, Added());
        Others<Wide<C>> s = others_of<C>(stats.ties, stats.rest.v);
        if constexpr (OP >= INDEX) {
            // All threads of the block look again together, as they must to exchange; each row keeps what is its own.
            const bool again = read && lacks_terms(m, stats);
            if (__syncthreads_or(again)) {
                S other;
                for (int i = 0; i < E; ++i)
                    if (again && class_of(i) < K) add_tiny(other, widen(from[class_of(i)]), m);
                other = over_lanes(other, lanes, sums, Added());
                if (again) s = {other.rest.v, -TINY_UNIT};
            }
        }
        const RowResult<C> result = finish_stats<OP>(r, m, s, stats, weights, n_classes);
        if (inside && lane == 0 && rows) {
            if (OP == LOGSUMEXP) static_cast<T*>(rows)[row] = rounded<T>(result.number);
            else static_cast<double*>(rows)[row] = result.number;
        }
        if (OP == LOGSUMEXP || !inside || !out) continue;
        T* to = out + row * n_classes;
#pragma unroll
        for (int i = 0; i < E; i += V) {
            if (class_of(i) >= K) continue;
            if constexpr (OP >= INDEX) {
                if (!result.g.fast) {
                    for (int k = class_of(i); k < class_of(i) + V; ++k) to[k] = entry_anyway<OP>(result, weights, from + k, k);
                    continue;
                }
            }
            C w[V];
#pragma unroll
            for (int j = 0; j < V; ++j) {
                if constexpr (OP == LOG_SOFTMAX) w[j] = log_entry<T>(result, v[i + j]);
                else w[j] = with_care<OP>(result, entry<OP>(result, v[i + j], weights[class_of(i + j)]), from + class_of(i + j));
            }
            store<V>(w, whole, to + class_of(i));
        }
        // The lane that wrote the label's entry overwrites it.
        if ((OP == INDEX || OP == SMOOTH) && !result.undefined && lane == (int)(r.label / V % lanes))
            to[r.label] = rounded<T>(result.label_gradient);
    }
}
