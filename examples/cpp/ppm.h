// Reads and writes binary PPM files (P6, 8 bits): the simplest pictures that most programs can
// make, for example `magick photo.jpg photo.ppm`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

namespace ppm {

struct Picture {
  int64_t height = 0;
  int64_t width = 0;
  std::vector<uint8_t> pixels;  // [height, width, 3]
};

inline int64_t read_number(std::istream& file, const std::string& path) {
  while ((file >> std::ws).peek() == '#') {
    file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  int64_t number = 0;
  if (!(file >> number) || number < 1 || number > 1'000'000) {
    throw std::runtime_error(path + ": expected a number from 1 to 1000000 in the header");
  }
  return number;
}

inline Picture read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    throw std::runtime_error(path + ": can't be opened");
  }
  char magic[2] = {};
  file.read(magic, 2);
  if (magic[0] != 'P' || magic[1] != '6') {
    throw std::runtime_error(path + ": expected a binary PPM file, which starts with P6");
  }
  Picture picture;
  picture.width = read_number(file, path);
  picture.height = read_number(file, path);
  if (read_number(file, path) != 255) {
    throw std::runtime_error(path + ": expected 8 bits a channel (a maximum of 255)");
  }
  file.get();  // the one white space before the pixels
  picture.pixels.resize(static_cast<std::size_t>(picture.height * picture.width * 3));
  file.read(reinterpret_cast<char*>(picture.pixels.data()),
            static_cast<std::streamsize>(picture.pixels.size()));
  if (!file) {
    throw std::runtime_error(path + ": ends before its last pixel");
  }
  return picture;
}

inline void write(const std::string& path, const Picture& picture) {
  std::ofstream file(path, std::ios::binary);
  file << "P6\n" << picture.width << " " << picture.height << "\n255\n";
  file.write(reinterpret_cast<const char*>(picture.pixels.data()),
             static_cast<std::streamsize>(picture.pixels.size()));
  if (!file) {
    throw std::runtime_error(path + ": can't be written");
  }
}

}  // namespace ppm
