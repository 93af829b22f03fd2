// A kernel that does nothing but need the largest cluster: whether it can be launched decides if clusters are used.
#if __CUDA_ARCH__ < 900
#error "compiled for a device without clusters"
#endif

extern "C" __global__ void __cluster_dims__(8, 1, 1) __launch_bounds__(256) probe_clusters() {}
