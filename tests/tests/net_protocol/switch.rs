//! A switch: two of DPDK's drivers.
