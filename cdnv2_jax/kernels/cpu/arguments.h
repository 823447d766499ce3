// Checks what a custom call is given, and turns exceptions into its errors.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "map.h"
#include "xla/ffi/api/ffi.h"

namespace cdnv2 {

namespace ffi = xla::ffi;

// f with errors in place of exceptions: XLA is compiled without them, so one that reached it would end the process.
template <typename... T>
auto guarded(ffi::Error (*f)(T...)) {
  return [f](T... arguments) {
    try {
      return f(std::move(arguments)...);
    } catch (const std::bad_alloc&) {
      return ffi::Error(ffi::ErrorCode::kResourceExhausted, "out of memory");
    } catch (const std::exception& error) {
      return ffi::Error::InvalidArgument(error.what());
    }
  };
}

// Longest axis and side of a map: products of two of them do not overflow.
constexpr int64_t kLongest = int64_t{1} << 31;

// The map of these sides, which a caller may give any value, if its channels have so many positions.
inline FlatMap map_of(int64_t height, int64_t width, int64_t positions) {
  const bool sides = 1 <= height && height < kLongest && 1 <= width && width < kLongest;
  if (!sides || FlatMap::positions_of(height, width) != positions)
    throw std::invalid_argument("shapes do not fit together: height and width are not those of the maps");
  return FlatMap(height, width);
}

template <typename First, typename Second>
bool same_shape(const First& first, const Second& second) {
  const auto a = first.dimensions(), b = second.dimensions();
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}

template <typename T>
struct Tensor {
  const T* data = nullptr;
  std::vector<int64_t> shape;

  int64_t operator[](int axis) const { return shape[axis]; }
  int64_t size() const {
    int64_t product = 1;
    for (int64_t n : shape) product *= n;
    return product;
  }
};

// After the first invalid argument all data is null and all sides are 1: check failed() before using any of it.
class Arguments {
 public:
  explicit Arguments(const ffi::RemainingArgs& arguments) : arguments_(arguments) {}

  // float32 with `rank` axes, none of them empty or longer than kLongest.
  Tensor<float> floats(int rank) { return next<float, ffi::F32>(rank); }

  // float32 [n].
  const float* vector(int64_t n) {
    const Tensor<float> found = floats(1);
    require(found[0] == n, "a vector has the wrong length");
    return found.data;
  }

  // int32 [groups, kept], every entry in [0, below).
  Tensor<int32_t> index(int64_t below) {
    Tensor<int32_t> found = next<int32_t, ffi::S32>(2);
    if (!failed_)
      for (int64_t i = 0; i < found.size(); ++i)
        require(found.data[i] >= 0 && found.data[i] < below, "an index is out of range");
    return found;
  }

  void require(bool condition, const char* otherwise) {
    if (!condition) fail(otherwise);
  }
  bool failed() const { return failed_; }
  bool at_end() const { return at_ == arguments_.size(); }
  ffi::Error error() const { return ffi::Error::InvalidArgument(what_); }

 private:
  template <typename T, ffi::DataType dtype>
  Tensor<T> next(int rank) {
    const Tensor<T> nothing{nullptr, std::vector<int64_t>(rank, 1)};
    auto buffer = arguments_.get<ffi::Buffer<dtype>>(at_++);
    if (!buffer.has_value()) return fail("an argument is missing or has the wrong dtype"), nothing;
    const auto shape = buffer->dimensions();
    if (static_cast<int>(shape.size()) != rank) return fail("has the wrong number of axes"), nothing;
    for (int64_t n : shape)
      if (n < 1 || n > kLongest) return fail(n < 1 ? "is empty" : "is too large"), nothing;
    if (failed_) return nothing;
    return {buffer->typed_data(), {shape.begin(), shape.end()}};
  }

  void fail(const std::string& what) {
    if (!failed_) what_ = "argument " + std::to_string(at_) + ": " + what;
    failed_ = true;
  }

  const ffi::RemainingArgs& arguments_;
  size_t at_ = 0;
  bool failed_ = false;
  std::string what_;
};

}  // namespace cdnv2
