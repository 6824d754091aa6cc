// Frames in, maps out: an exported network on ONNX Runtime's C++ interface, without hrrsi.
//
//     ./stream landcover.onnx frames/ maps/ [THREADS]
//
// Frames are binary PPM files (P6, 8 bits a colour), maps too, in the colours of their classes.
// README.md beside it says how to build it, and what it does with frames.

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace fs = std::filesystem;

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Picture {
  int64_t height = 0, width = 0;
  std::vector<uint8_t> values;  // row by row, three a pixel
};

struct Span {
  int64_t start;        // of the window
  int64_t first, last;  // pixels that are taken from it, the last one not included
};

// Where windows start along an axis; the last one ends at the edge, and neighbours share pixels up
// to the middle of what both see.
std::vector<Span> spans(int64_t length, int64_t window, int64_t overlap) {
  std::vector<Span> found;
  for (int64_t start = 0; start < length - window; start += window - overlap)
    found.push_back({start, 0, length});
  found.push_back({length - window, 0, length});
  for (size_t i = 0; i + 1 < found.size(); ++i)
    found[i].last = found[i + 1].first = (found[i].start + window + found[i + 1].start) / 2;
  return found;
}

// The number after blanks and comments of a PPM header.
int64_t header_number(std::istream& file) {
  int next = file.get();
  while (next == '#' || std::isspace(next)) {
    while (next == '#' && (next = file.get()) != '\n' && next != EOF) next = '#';
    next = file.get();
  }
  int64_t number = -1;
  for (; std::isdigit(next) && number < 1000000; next = file.get())
    number = std::max<int64_t>(number, 0) * 10 + (next - '0');
  return std::isspace(next) ? number : -1;
}

Picture read_ppm(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Error(path.string() + ": can't be read");
  char magic[2] = {};
  file.read(magic, 2);
  if (magic[0] != 'P' || magic[1] != '6') throw Error(path.string() + ": is not a binary PPM (P6)");
  Picture picture;
  picture.width = header_number(file);
  picture.height = header_number(file);
  const int64_t most = header_number(file);
  if (picture.width < 1 || picture.height < 1 || picture.width > 65535 || picture.height > 65535)
    throw Error(path.string() + ": its header names no size");
  if (most != 255) throw Error(path.string() + ": holds other values than 0 to 255");
  picture.values.resize(3 * picture.width * picture.height);
  if (!file.read(reinterpret_cast<char*>(picture.values.data()), picture.values.size()))
    throw Error(path.string() + ": ends before its last pixel");
  return picture;
}

// A file appears under its name whole or not at all.
void write_ppm(const Picture& picture, const fs::path& path) {
  const fs::path part = path.parent_path() / ("." + path.filename().string() + ".part");
  std::ofstream file(part, std::ios::binary);
  file << "P6\n" << picture.width << ' ' << picture.height << "\n255\n";
  file.write(reinterpret_cast<const char*>(picture.values.data()), picture.values.size());
  file.close();
  if (!file) {
    fs::remove(part);
    throw Error(path.string() + ": can't be written");
  }
  fs::rename(part, path);
}

// The text that stands under a key of a JSON object of texts, without its escapes.
std::string value_of(const std::string& json, const std::string& key) {
  const size_t at = json.find('"' + key + "\": \"");
  if (at == std::string::npos) throw Error("is not a file of hrrsi export (it names no " + key + ")");
  std::string value;
  for (size_t i = at + key.size() + 5; i < json.size() && json[i] != '"'; ++i) {
    if (json[i] == '\\' && i + 1 < json.size()) ++i;
    if (json[i] != 'u' || json[i - 1] != '\\' || i + 4 >= json.size()) {
      value += json[i];
      continue;
    }
    const int code = std::stoi(json.substr(i + 1, 4), nullptr, 16);  // as UTF-8
    if (code >= 0x800) value += static_cast<char>(0xe0 | code >> 12);
    if (code >= 0x80)
      value += static_cast<char>(code >= 0x800 ? 0x80 | (code >> 6 & 0x3f) : 0xc0 | code >> 6);
    value += static_cast<char>(code >= 0x80 ? 0x80 | (code & 0x3f) : code);
    i += 4;
  }
  return value;
}

std::vector<int64_t> numbers_of(const std::string& json) {
  std::vector<int64_t> numbers;
  bool goes_on = false;
  for (const char c : json) {
    if (std::isdigit(static_cast<unsigned char>(c))) {
      if (!goes_on) numbers.push_back(0);
      numbers.back() = std::min<int64_t>(numbers.back() * 10 + (c - '0'), 1000000);
    }
    goes_on = std::isdigit(static_cast<unsigned char>(c));
  }
  return numbers;
}

class Network {
 public:
  Network(const fs::path& path, int threads) : environment_(ORT_LOGGING_LEVEL_ERROR, "stream") {
    if (!fs::is_regular_file(path)) throw Error(path.string() + ": no such file");
    try {
      Ort::SessionOptions options;
      options.SetIntraOpNumThreads(threads);
      session_ = Ort::Session(environment_, path.c_str(), options);
    } catch (const Ort::Exception& error) {
      const std::string reason = error.what();
      throw Error(path.string() + ": ONNX Runtime can't read it (" +
                  reason.substr(0, reason.find('\n')) + ")");
    }
    try {
      read_description();
    } catch (const Error& error) {
      throw Error(path.string() + ": " + error.what());
    }
    labels({window_, window_, std::vector<uint8_t>(3 * window_ * window_)});  // a warm-up
  }

  const std::vector<std::array<uint8_t, 3>>& colours() const { return colours_; }
  const std::vector<std::string>& classes() const { return classes_; }

  // The class of each pixel, row by row.
  std::vector<uint8_t> labels(const Picture& frame) {
    const int64_t height = std::max(frame.height, window_), width = std::max(frame.width, window_);
    std::vector<uint8_t> found(frame.height * frame.width);
    for (const Span& rows : spans(height, window_, overlap_))
      for (const Span& columns : spans(width, window_, overlap_)) {
        fill(frame, rows.start, columns.start);
        const float* scores = run();
        const int64_t bottom = std::min(rows.last, frame.height);
        const int64_t right = std::min(columns.last, frame.width);
        for (int64_t row = rows.first; row < bottom; ++row)
          for (int64_t column = columns.first; column < right; ++column) {
            const float* score = scores + (row - rows.start) * window_ + column - columns.start;
            size_t best = 0;
            for (size_t i = 1; i < colours_.size(); ++i)
              if (score[i * window_ * window_] > score[best * window_ * window_]) best = i;
            found[row * frame.width + column] = static_cast<uint8_t>(best);
          }
      }
    return found;
  }

 private:
  void read_description() {
    Ort::AllocatorWithDefaultOptions allocator;
    if (session_.GetInputCount() != 1 || session_.GetOutputCount() != 1)
      throw Error("has several inputs or outputs");
    input_ = session_.GetInputNameAllocated(0, allocator).get();
    output_ = session_.GetOutputNameAllocated(0, allocator).get();
    const auto shape = session_.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape();
    const auto scores = session_.GetOutputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape();
    if (shape.size() != 4 || shape[2] < 1 || shape[2] != shape[3] || scores.size() != 4)
      throw Error("takes no square windows");
    window_ = shape[3];
    pixels_.resize(3 * window_ * window_);
    const Ort::ModelMetadata metadata = session_.GetModelMetadata();
    const auto about = metadata.LookupCustomMetadataMapAllocated("hrrsi", allocator);
    const auto names = metadata.LookupCustomMetadataMapAllocated("class_names", allocator);
    const auto overlap = metadata.LookupCustomMetadataMapAllocated("tiles_overlap", allocator);
    if (!about || !names || !overlap) throw Error("is not a file of hrrsi export");
    overlap_ = std::lround(std::stod(overlap.get()) / 100 * window_);
    if (overlap_ < 0 || overlap_ >= window_) throw Error("names an overlap that is no share");
    const auto bands = numbers_of(value_of(about.get(), "bands"));
    const std::string dtype = value_of(about.get(), "dtype");
    auto in_order = bands;
    std::sort(in_order.begin(), in_order.end());
    if (shape[1] != 3 || in_order != std::vector<int64_t>{1, 2, 3} || dtype != "\"uint8\"")
      throw Error("its network sees other bands than pictures have");
    for (size_t i = 0; i < 3; ++i) bands_[i] = bands[i] - 1;
    const auto values = numbers_of(value_of(about.get(), "colours"));
    if (values.empty() || static_cast<int64_t>(values.size()) != 3 * scores[1])
      throw Error("names no colour for each class");
    for (size_t i = 0; i < values.size(); i += 3)
      colours_.push_back({static_cast<uint8_t>(values[i]), static_cast<uint8_t>(values[i + 1]),
                          static_cast<uint8_t>(values[i + 2])});
    for (size_t i = 0; i < colours_.size(); ++i)
      classes_.push_back(value_of(names.get(), std::to_string(i)));
  }

  // What the network sees of a frame; beyond its edges lie mirror images, over and over.
  void fill(const Picture& frame, int64_t first_row, int64_t first_column) {
    const auto mirrored = [](int64_t at, int64_t length) {
      at %= 2 * length;
      return at < length ? at : 2 * length - 1 - at;
    };
    for (int64_t row = 0; row < window_; ++row) {
      const int64_t from_row = mirrored(first_row + row, frame.height) * frame.width;
      for (int64_t column = 0; column < window_; ++column) {
        const int64_t from = 3 * (from_row + mirrored(first_column + column, frame.width));
        for (int64_t band = 0; band < 3; ++band)
          pixels_[(band * window_ + row) * window_ + column] =
              static_cast<float>(frame.values[from + bands_[band]]) / 255.0f;
      }
    }
  }

  const float* run() {
    const std::array<int64_t, 4> shape{1, 3, window_, window_};
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const auto pixels = Ort::Value::CreateTensor<float>(memory, pixels_.data(), pixels_.size(),
                                                        shape.data(), shape.size());
    const char* input = input_.c_str();
    const char* output = output_.c_str();
    outputs_ = session_.Run(Ort::RunOptions{nullptr}, &input, &pixels, 1, &output, 1);
    return outputs_[0].GetTensorData<float>();
  }

  Ort::Env environment_;
  Ort::Session session_{nullptr};
  std::string input_, output_;
  int64_t window_ = 0, overlap_ = 0;
  std::array<int64_t, 3> bands_{};
  std::vector<std::array<uint8_t, 3>> colours_;
  std::vector<std::string> classes_;
  std::vector<float> pixels_;
  std::vector<Ort::Value> outputs_;
};

// As numpy's: between the two nearest.
double percentile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  const double at = share * (values.size() - 1);
  const size_t below = static_cast<size_t>(at);
  const size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (at - below) * (values[above] - values[below]);
}

void map_frames(const fs::path& network_path, const fs::path& frames, const fs::path& maps,
                int threads) {
  using Clock = std::chrono::steady_clock;
  const auto seconds_since = [](Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  if (!fs::is_directory(frames)) throw Error(frames.string() + ": no such folder");
  std::vector<fs::path> paths;
  for (const auto& entry : fs::directory_iterator(frames))
    if (entry.path().extension() == ".ppm") paths.push_back(entry.path());
  if (paths.empty()) throw Error(frames.string() + ": holds no .ppm");
  std::sort(paths.begin(), paths.end());
  for (const fs::path& path : paths)
    if (fs::exists(maps / path.filename()))
      throw Error((maps / path.filename()).string() + ": exists; give another folder");
  Network network(network_path, threads);
  fs::create_directories(maps);
  std::vector<double> seconds;
  std::vector<int64_t> counts(network.classes().size());
  const auto began = Clock::now();
  for (const fs::path& path : paths) {
    const Picture frame = read_ppm(path);
    const auto started = Clock::now();
    const std::vector<uint8_t> labels = network.labels(frame);
    seconds.push_back(seconds_since(started));
    Picture map{frame.height, frame.width, {}};
    for (const uint8_t label : labels) {
      const auto& colour = network.colours()[label];
      map.values.insert(map.values.end(), colour.begin(), colour.end());
      ++counts[label];
    }
    write_ppm(map, maps / path.filename());
  }
  std::printf("%zu frames, %.2f frames/s with reading and writing\n", paths.size(),
              paths.size() / seconds_since(began));
  std::printf("pixels to map: p50 %.1f ms, p99 %.1f ms\n", 1e3 * percentile(seconds, 0.5),
              1e3 * percentile(seconds, 0.99));
  int64_t pixels = 0;
  for (const int64_t count : counts) pixels += count;
  for (size_t i = 0; i < counts.size(); ++i)
    std::printf("%s: %.2f%%\n", network.classes()[i].c_str(), 100.0 * counts[i] / pixels);
}

int main(int count, char** arguments) {
  if (count < 4 || count > 5) {
    std::fprintf(stderr, "usage: stream NETWORK.onnx FRAMES MAPS [THREADS]\n");
    return 2;
  }
  try {
    const std::string given = count == 5 ? arguments[4] : "0";  // 0: all of them
    const bool is_number = std::all_of(given.begin(), given.end(), [](unsigned char c) {
      return std::isdigit(c);
    });
    if (given.empty() || given.size() > 4 || !is_number) throw Error(given + ": no number of threads");
    map_frames(arguments[1], arguments[2], arguments[3], std::stoi(given));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
  return 0;
}
