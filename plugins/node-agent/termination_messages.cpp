#include "plugins/node-agent/termination_messages.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "sdk/support/files/files.hpp"

namespace pintle::agent {

namespace {

constexpr size_t kMostMessage = 4096, kMostOfLog = 2048, kMostLines = 80;
constexpr off_t kReadOfLog = 64 << 10;

/// The last so many bytes of a regular file, or the first; the container may have put anything there.
std::string read_part(const std::string& path, off_t most, bool from_end) {
  Result<files::Descriptor> file = files::open_at(AT_FDCWD, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
  if (!file) return {};
  struct stat info {};
  if (fstat(file->get(), &info) != 0 || !S_ISREG(info.st_mode)) return {};
  const off_t begin = from_end ? std::max<off_t>(0, info.st_size - most) : 0;
  std::string text(static_cast<size_t>(std::min(info.st_size, most)), '\0');
  const ssize_t got = pread(file->get(), text.data(), text.size(), begin);
  text.resize(got < 0 ? 0 : static_cast<size_t>(got));
  if (begin > 0) text.erase(0, text.find('\n') + 1);
  return text;
}

}  // namespace

std::string termination_message_path(const std::string& state_folder, const std::string& uid,
                                     const std::string& container, uint32_t attempt) {
  return state_folder + "/pods/" + uid + "/containers/" + container + "/" + std::to_string(attempt) + ".message";
}

Result<std::string> make_termination_message(const std::string& path) {
  if (Status made = files::make_folders(path.substr(0, path.rfind('/')), 0700); !made) return made;
  Result<files::Descriptor> file = files::open_at(AT_FDCWD, path, O_CREAT | O_TRUNC | O_WRONLY | O_NOFOLLOW, 0666);
  if (!file) return file.status().with_context("make the file of the termination message");
  // Any user of the container may write there; umask must not take it away.
  if (fchmod(file->get(), 0666) != 0) return status_from_errno(errno, "chmod " + path);
  return path;
}

std::string end_of_log(std::string_view log) {
  std::string text;
  std::vector<size_t> lines;  // where each begins
  bool continues = false;
  while (!log.empty()) {
    const size_t end = std::min(log.find('\n'), log.size());
    std::string_view line = log.substr(0, end);
    log.remove_prefix(std::min(end + 1, log.size()));
    std::string_view tag;
    for (int field = 0; field < 3 && !line.empty(); ++field) {
      const size_t space = std::min(line.find(' '), line.size());
      tag = line.substr(0, space);
      line.remove_prefix(std::min(space + 1, line.size()));
    }
    if (!continues) lines.push_back(text.size());
    text += line;
    continues = tag == "P";
    if (!continues) text += '\n';
  }
  if (lines.size() > kMostLines) text.erase(0, lines[lines.size() - kMostLines]);
  if (text.size() > kMostOfLog) text.erase(0, text.size() - kMostOfLog);
  return text;
}

std::string read_termination_message(const TerminationMessage& wanted) {
  std::string message = read_part(wanted.path, kMostMessage, false);
  if (message.empty() && !wanted.log.empty()) message = end_of_log(read_part(wanted.log, kReadOfLog, true));
  if (message.size() > wanted.most) message.resize(wanted.most);
  // The message becomes JSON and Protobuf text: what is no UTF-8 is told as a question mark.
  for (size_t i = 0; i < message.size();) {
    const auto byte = static_cast<unsigned char>(message[i]);
    const size_t length = byte < 0x80 ? 1 : byte >= 0xf0 && byte < 0xf5 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc2 ? 2 : 0;
    bool right = length > 0 && byte < 0xf5 && i + length <= message.size();
    for (size_t k = 1; right && k < length; ++k) right = (static_cast<unsigned char>(message[i + k]) & 0xc0) == 0x80;
    if (!right) message[i] = '?';
    i += right ? length : 1;
  }
  return message;
}

}  // namespace pintle::agent
