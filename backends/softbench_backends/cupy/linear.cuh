// What linear logits need besides products of matrices: sums of products of few rows, and Hessians of rows.
#pragma once

#include "groups.cuh"
#include "rows.cuh"

// Adds `count` arrays of `size` elements, in their order, to sums in double; what these round away is in `rest`.
template <class C> __global__ void add_parts(const C* parts, i64 count, i64 size, double* total, double* rest) {
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < size; i += (i64)gridDim.x * blockDim.x) {
        Sum<double> sum;
        sum.v = {total[i], rest[i]};
        for (i64 part = 0; part < count; ++part) sum.add_term(parts[part * size + i]);
        const double rounded = value(sum.v);
        total[i] = rounded;
        rest[i] = is_finite(rounded) ? (sum.v.hi - rounded) + sum.v.lo : 0.0;
    }
}

// u becomes m p (u - sum p u), row by row; m is the mass of the row's target over the divisor, 1 over it without one.
template <class C>
__global__ void __launch_bounds__(MOST_LANES)
curvature(const C* p, C* u, i64 n_rows, i64 n_classes, int lanes, const i64* labels, const double* sample_weight,
          const double* class_weight, double smoothing, const C* q, const double* divisor_at, double divisor) {
    static __shared__ Sum<double> slots[32];
    const Pair by = divisor_of(divisor_at, divisor);
    const int lane = threadIdx.x & (lanes - 1), rows_per_block = blockDim.x / lanes;
    for (i64 first = (i64)blockIdx.x * rows_per_block; first < n_rows; first += (i64)gridDim.x * rows_per_block) {
        const i64 row = first + threadIdx.x / lanes, begin = row * n_classes;
        Sum<double> along, weight;  // sum of p u; of q, or of the weights of classes
        if (row < n_rows) {
            for (i64 k = lane; k < n_classes; k += lanes) {
                along.add_product(p[begin + k], u[begin + k]);
                if (q) weight.add_term(q[begin + k]);
                else if (class_weight) weight.add_term(class_weight[k]);
            }
        }
        along = over_lanes(along, lanes, slots, Added());
        weight = over_lanes(weight, lanes, slots, Added());
        if (row >= n_rows) continue;
        const i64 label = labels ? labels[row] : 0;
        double mass = q ? value(weight.v) : 1.0;
        if (labels && class_weight && label >= 0)
            mass = (1.0 - smoothing) * class_weight[label] + smoothing / (double)n_classes * value(weight.v);
        if (sample_weight && !q) mass *= sample_weight[row];
        mass = label == INVALID ? not_a_number() : mass / value(by);
        const double center = value(along.v);
        for (i64 k = lane; k < n_classes; k += lanes) {
            const double r = (double)p[begin + k] * ((double)u[begin + k] - center) * mass;
            u[begin + k] = label == IGNORED ? C(0) : (C)r;
        }
    }
}
