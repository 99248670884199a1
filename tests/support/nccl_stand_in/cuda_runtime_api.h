/* The few calls of CUDA's runtime that NcclCommunicator makes, for a test without CUDA. */
#pragma once

enum cudaError { cudaSuccess = 0, cudaErrorUnknown = 999, cudaErrorNotReady = 600 };
using cudaError_t = cudaError;
using cudaStream_t = struct CUstream_st*;

cudaError_t cudaStreamQuery(cudaStream_t stream);
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaDeviceGetPCIBusId(char* bus, int length, int device);
