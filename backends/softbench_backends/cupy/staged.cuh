// Rows that fit in shared memory: each row is read once, by a block. The same two reductions as `resident`, with shared
// memory in place of registers; every thread touches only what it brought there itself.
#pragma once

#include "sums.cuh"

static constexpr int PACKS = 4;  // packs of V elements a thread has in flight

// Arguments as of `resident`. Dynamic shared memory: a row.
template <class T, int OP, int V>
__global__ void __launch_bounds__(256, 1)
staged(const T* x, T* out, void* rows, i64 n_rows, i64 n_classes, int whole, const i64* labels,
       const double* sample_weight, const double* class_weight, double smoothing, const typename Compute<T>::type* q,
       const double* divisor_at, double divisor) {
    typedef typename Compute<T>::type C;
    typedef Stats<C, OP == SMOOTH || OP == SOFT> S;
    constexpr int E = PACKS * V;
    // Exponentials replace the elements where they have the same size; otherwise they are taken twice.
    constexpr bool keeps = sizeof(T) == sizeof(C) && OP != LOG_SOFTMAX && OP != LOGSUMEXP;
    extern __shared__ __align__(16) unsigned char dynamic_shared[];
    T* const here = reinterpret_cast<T*>(dynamic_shared);
    static __shared__ C maxima[32];
    static __shared__ S sums[32];
    const Targets<C> targets = {labels, sample_weight, class_weight, smoothing, q, divisor_at, divisor};
    const int K = (int)n_classes, lanes = blockDim.x, step = E * lanes;

    for (i64 row = blockIdx.x; row < n_rows; row += gridDim.x) {
        Row<C> r = row_of<OP>(targets, row, n_classes);
        const bool read = r.has_label();
        const T* from = x + row * n_classes;
        const auto weights = weights_of<OP>(targets, row, n_classes);
        if ((OP == INDEX || OP == SMOOTH) && read) r.xy = widen(from[r.label]);

        C m = -infinity<C>();
        for (int base = (int)threadIdx.x * V; read && base < K; base += step) {
            C v[E];
#pragma unroll
            for (int p = 0; p < PACKS; ++p) {
                if (base + p * lanes * V < K) load<V>(from + base + p * lanes * V, whole, v + p * V);
                else fill<V>(v + p * V, -infinity<C>());
            }
#pragma unroll
            for (int p = 0; p < PACKS; ++p) {
                if (base + p * lanes * V < K) store<V>(v + p * V, true, here + base + p * lanes * V);
#pragma unroll
                for (int j = 0; j < V; ++j) m = maximum(m, v[p * V + j]);
            }
        }
        m = over_lanes(m, lanes, maxima, Largest());

        S stats;
        for (int base = (int)threadIdx.x * V; read && base < K; base += step) {
            C v[E], e[E];
#pragma unroll
            for (int p = 0; p < PACKS; ++p) {
                const int k = base + p * lanes * V;
                if (k < K) load<V>(here + k, true, v + p * V);
                else fill<V>(v + p * V, -infinity<C>());
#pragma unroll
                for (int j = 0; j < V; ++j) {
                    if (k < K) add_weighted(stats, weights, k + j, v[p * V + j], m);
                    e[p * V + j] = shifted_exp(v[p * V + j], m);
                }
                if constexpr (keeps)
                    if (k < K) store<V>(e + p * V, true, here + k);
            }
            add_exponentials<E>(stats, v, e, m);
        }
        stats = over_lanes(stats, lanes, sums, Added());
        RowResult<C> result = finish_stats<OP>(r, m, stats, weights, n_classes, others_of<C>(stats.ties, stats.rest.v));

        if constexpr (OP >= INDEX) {
            if (read && lacks_terms(m, stats)) {  // all threads of the block agree
                S other;
                for (int base = (int)threadIdx.x * V; base < K; base += lanes * V)
                    for (int j = 0; j < V; ++j) add_tiny(other, widen(from[base + j]), m);
                other = over_lanes(other, lanes, sums, Added());
                result = finish_stats<OP>(r, m, stats, weights, n_classes, Others<Wide<C>>{other.rest.v, -TINY_UNIT});
            }
        }
        if (threadIdx.x == 0 && rows) {
            if (OP == LOGSUMEXP) static_cast<T*>(rows)[row] = rounded<T>(result.number);
            else static_cast<double*>(rows)[row] = result.number;
        }
        if (OP == LOGSUMEXP || !out) continue;
        T* to = out + row * n_classes;
        for (int k = (int)threadIdx.x * V; k < K; k += lanes * V) {
            if constexpr (OP >= INDEX) {
                if (!result.g.fast) {
                    write_anyway<OP, V>(result, weights, from, k, to);
                    continue;
                }
            }
            C v[V];
            load<V>(here + k, true, v);
#pragma unroll
            for (int j = 0; j < V; ++j) {
                if constexpr (OP == LOG_SOFTMAX) v[j] = log_entry(result, v[j]);
                else {
                    const C e = keeps ? v[j] : shifted_exp(v[j], m);
                    v[j] = with_care<OP>(result, entry<OP>(result, e, weights[k + j]), from + k + j);
                }
            }
            store<V>(v, whole, to + k);
        }
        // The thread that wrote the label's entry overwrites it.
        if ((OP == INDEX || OP == SMOOTH) && !result.undefined && (int)(r.label / V % lanes) == (int)threadIdx.x)
            to[r.label] = rounded<T>(result.label_gradient);
    }
}
