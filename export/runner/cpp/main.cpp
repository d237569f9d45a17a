// Run an ONNX file by onnxruntime's C API, and print its inputs, outputs and time.
//
//   runner MODEL.onnx [INPUT.bin] [RUNS]
//
// INPUT.bin holds raw float32 numbers, one input after the other in the file's order; without it, or as "-", all inputs are zero.
// Axes that take any length get length 1. Inputs of other types are zero. Exit codes: 0 done, 2 usage, or a file that can't be read
// or run.

#include <onnxruntime_c_api.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

static const OrtApi* api = nullptr;

[[noreturn]] static void stop(const std::string& sentence) {
  std::fprintf(stderr, "error: %s\n", sentence.c_str());
  std::exit(2);
}

static void check(OrtStatus* status) {
  if (status != nullptr) stop(api->GetErrorMessage(status));
}

static size_t bytes_of(ONNXTensorElementDataType type) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32: return 4;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE: return 8;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16: return 2;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL: return 1;
    default: stop("an input has a type that this example doesn't make.");
  }
}

struct Input {
  std::vector<int64_t> shape;
  std::vector<char> data;
  ONNXTensorElementDataType type;
};

// An input of zeros, in the shape that the file declares.
static Input zeros(const OrtSession* session, size_t index) {
  OrtTypeInfo* info = nullptr;
  const OrtTensorTypeAndShapeInfo* tensor = nullptr;
  check(api->SessionGetInputTypeInfo(session, index, &info));
  check(api->CastTypeInfoToTensorInfo(info, &tensor));
  if (tensor == nullptr) stop("an input is no tensor.");
  Input input;
  size_t axes = 0, count = 1;
  check(api->GetTensorElementType(tensor, &input.type));
  check(api->GetDimensionsCount(tensor, &axes));
  input.shape.resize(axes);
  check(api->GetDimensions(tensor, input.shape.data(), axes));
  for (int64_t& length : input.shape) {
    if (length < 1) length = 1;
    count *= static_cast<size_t>(length);
  }
  input.data.assign(count * bytes_of(input.type), 0);
  api->ReleaseTypeInfo(info);
  return input;
}

static void print(const char* what, const char* name, const std::vector<int64_t>& shape) {
  std::printf("%s %s [", what, name);
  for (size_t axis = 0; axis < shape.size(); ++axis) std::printf(axis ? ", %lld" : "%lld", static_cast<long long>(shape[axis]));
  std::printf("]");
}

static void print_output(const char* name, const OrtValue* value) {
  OrtTensorTypeAndShapeInfo* info = nullptr;
  ONNXTensorElementDataType type;
  size_t axes = 0, count = 0;
  check(api->GetTensorTypeAndShape(value, &info));
  check(api->GetTensorElementType(info, &type));
  check(api->GetDimensionsCount(info, &axes));
  check(api->GetTensorShapeElementCount(info, &count));
  std::vector<int64_t> shape(axes);
  check(api->GetDimensions(info, shape.data(), axes));
  api->ReleaseTensorTypeAndShapeInfo(info);
  print("output", name, shape);
  void* data = nullptr;
  check(api->GetTensorMutableData(const_cast<OrtValue*>(value), &data));
  for (size_t i = 0; type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT && i < std::min<size_t>(count, 16); ++i)
    std::printf(" %.9g", static_cast<const float*>(data)[i]);
  std::printf("\n");
}

int main(int argc, char** argv) {
  if (argc < 2 || argc > 4) stop("usage: runner MODEL.onnx [INPUT.bin] [RUNS]");
  const int runs = argc > 3 ? std::atoi(argv[3]) : 20;
  if (runs < 1) stop(std::string("RUNS is '") + argv[3] + "'; give a number of at least 1.");
  api = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (api == nullptr) stop("this onnxruntime is older than the header that the program was compiled with.");

  OrtEnv* environment = nullptr;
  OrtSessionOptions* options = nullptr;
  OrtSession* session = nullptr;
  OrtAllocator* allocator = nullptr;
  OrtMemoryInfo* memory = nullptr;
  check(api->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "runner", &environment));
  check(api->CreateSessionOptions(&options));
  check(api->SetIntraOpNumThreads(options, 1));
  // For a target with [session] options, add each of them: api->AddSessionConfigEntry(options, key, value)
  const std::string path(argv[1]);
  check(api->CreateSession(environment, std::basic_string<ORTCHAR_T>(path.begin(), path.end()).c_str(), options, &session));
  check(api->GetAllocatorWithDefaultOptions(&allocator));
  check(api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));

  size_t inputs = 0, outputs = 0;
  check(api->SessionGetInputCount(session, &inputs));
  check(api->SessionGetOutputCount(session, &outputs));
  std::ifstream file;
  if (argc > 2 && std::string(argv[2]) != "-") {
    file.open(argv[2], std::ios::binary);
    if (!file) stop(std::string(argv[2]) + " can't be read.");
  }
  std::vector<char*> input_names(inputs), output_names(outputs);
  std::vector<Input> given;
  std::vector<OrtValue*> values(inputs), results(outputs);
  given.reserve(inputs);
  for (size_t i = 0; i < inputs; ++i) {
    check(api->SessionGetInputName(session, i, allocator, &input_names[i]));
    given.push_back(zeros(session, i));
    Input& input = given.back();
    if (file.is_open() && input.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT &&
        !file.read(input.data.data(), static_cast<std::streamsize>(input.data.size())))
      stop(std::string(argv[2]) + " holds too few numbers for input " + input_names[i] + ".");
    print("input", input_names[i], input.shape);
    std::printf("\n");
    check(api->CreateTensorWithDataAsOrtValue(memory, input.data.data(), input.data.size(), input.shape.data(), input.shape.size(),
                                              input.type, &values[i]));
  }
  if (file.is_open() && file.peek() != std::ifstream::traits_type::eof())
    stop(std::string(argv[2]) + " holds more numbers than the inputs have.");
  for (size_t i = 0; i < outputs; ++i) check(api->SessionGetOutputName(session, i, allocator, &output_names[i]));

  std::vector<double> milliseconds;
  for (int run = 0; run < runs; ++run) {
    for (OrtValue*& result : results) {
      if (result != nullptr) api->ReleaseValue(result);
      result = nullptr;
    }
    const auto start = std::chrono::steady_clock::now();
    check(api->Run(session, nullptr, input_names.data(), values.data(), inputs, output_names.data(), outputs, results.data()));
    milliseconds.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
  }
  for (size_t i = 0; i < outputs; ++i) print_output(output_names[i], results[i]);
  std::sort(milliseconds.begin(), milliseconds.end());
  std::printf("median of %d runs: %.3f ms\n", runs, milliseconds[milliseconds.size() / 2]);

  for (OrtValue* value : values) api->ReleaseValue(value);
  for (OrtValue* result : results) api->ReleaseValue(result);
  for (char* name : input_names) check(api->AllocatorFree(allocator, name));
  for (char* name : output_names) check(api->AllocatorFree(allocator, name));
  api->ReleaseMemoryInfo(memory);
  api->ReleaseSession(session);
  api->ReleaseSessionOptions(options);
  api->ReleaseEnv(environment);
  return 0;
}
