// Which devices a cgroup may use: a list on v1, a BPF program on v2.
#include <fcntl.h>
#include <linux/bpf.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "sdk/support/cgroup/cgroup.hpp"
#include "sdk/support/files/files.hpp"

namespace pintle::cgroup {
namespace {

uint64_t instruction(uint8_t code, uint8_t target, uint8_t source, int16_t offset, int32_t immediate) {
  bpf_insn one{};
  one.code = code;
  one.dst_reg = target & 15;
  one.src_reg = source & 15;
  one.off = offset;
  one.imm = immediate;
  uint64_t bits = 0;
  static_assert(sizeof one == sizeof bits);
  std::memcpy(&bits, &one, sizeof bits);
  return bits;
}

int32_t access_bits(const std::string& access) {
  int32_t bits = 0;
  for (const char c : access) {
    if (c == 'm') bits |= BPF_DEVCG_ACC_MKNOD;
    if (c == 'r') bits |= BPF_DEVCG_ACC_READ;
    if (c == 'w') bits |= BPF_DEVCG_ACC_WRITE;
  }
  return bits;
}

std::string number_or_star(const std::optional<uint32_t>& number) { return number ? std::to_string(*number) : "*"; }

Status attach(const std::string& folder, const std::vector<DeviceRule>& rules) {
  const std::vector<uint64_t> program = device_program(rules);
  static constexpr char kLicense[] = "Apache-2.0";
  bpf_attr load{};
  load.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
  load.insns = reinterpret_cast<uint64_t>(program.data());
  load.insn_cnt = static_cast<uint32_t>(program.size());
  load.license = reinterpret_cast<uint64_t>(kLicense);
  files::Descriptor loaded(static_cast<int>(syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof load)));
  if (!loaded.valid()) {
    const int error = errno;
    return status_from_errno(error, "load the device program of " + folder);
  }
  auto target = files::open_folder(folder);
  if (!target) return target.status();
  bpf_attr attached{};
  attached.target_fd = static_cast<uint32_t>(target->get());
  attached.attach_bpf_fd = static_cast<uint32_t>(loaded.get());
  attached.attach_type = BPF_CGROUP_DEVICE;
  attached.attach_flags = BPF_F_ALLOW_MULTI;
  if (syscall(SYS_bpf, BPF_PROG_ATTACH, &attached, sizeof attached) != 0) {
    const int error = errno;
    return status_from_errno(error, "attach the device program to " + folder);
  }
  return {};
}

}  // namespace

std::vector<uint64_t> device_program(const std::vector<DeviceRule>& rules) {
  // r2: kind, r3: access asked for, r4: major, r5: minor (struct bpf_cgroup_dev_ctx).
  std::vector<uint64_t> code = {
      instruction(BPF_LDX | BPF_W | BPF_MEM, 2, 1, 0, 0),        instruction(BPF_ALU64 | BPF_MOV | BPF_X, 3, 2, 0, 0),
      instruction(BPF_ALU64 | BPF_AND | BPF_K, 2, 0, 0, 0xffff), instruction(BPF_ALU64 | BPF_RSH | BPF_K, 3, 0, 0, 16),
      instruction(BPF_LDX | BPF_W | BPF_MEM, 4, 1, 4, 0),        instruction(BPF_LDX | BPF_W | BPF_MEM, 5, 1, 8, 0),
  };
  for (const DeviceRule& rule : rules) {
    std::vector<uint64_t> tests;
    const auto skip_unless = [&](uint8_t reg, int32_t value) {
      tests.push_back(instruction(BPF_JMP | BPF_JNE | BPF_K, reg, 0, 0, value));
    };
    if (rule.kind == 'c') skip_unless(2, BPF_DEVCG_DEV_CHAR);
    if (rule.kind == 'b') skip_unless(2, BPF_DEVCG_DEV_BLOCK);
    const int32_t allowed = access_bits(rule.access);
    if (allowed != (BPF_DEVCG_ACC_MKNOD | BPF_DEVCG_ACC_READ | BPF_DEVCG_ACC_WRITE)) {
      tests.push_back(instruction(BPF_ALU64 | BPF_MOV | BPF_X, 1, 3, 0, 0));
      tests.push_back(instruction(BPF_ALU64 | BPF_AND | BPF_K, 1, 0, 0, ~allowed));
      skip_unless(1, 0);
    }
    if (rule.major) skip_unless(4, static_cast<int32_t>(*rule.major));
    if (rule.minor) skip_unless(5, static_cast<int32_t>(*rule.minor));
    // Jumps go past the rule's own "allow": what is left of the tests and two instructions.
    for (size_t i = 0; i < tests.size(); ++i) {
      bpf_insn one{};
      std::memcpy(&one, &tests[i], sizeof one);
      if (one.code == (BPF_JMP | BPF_JNE | BPF_K)) one.off = static_cast<int16_t>(tests.size() - i - 1 + 2);
      std::memcpy(&tests[i], &one, sizeof one);
    }
    code.insert(code.end(), tests.begin(), tests.end());
    code.push_back(instruction(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 1));
    code.push_back(instruction(BPF_JMP | BPF_EXIT, 0, 0, 0, 0));
  }
  code.push_back(instruction(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0));
  code.push_back(instruction(BPF_JMP | BPF_EXIT, 0, 0, 0, 0));
  return code;
}

Status Layout::allow_devices(std::string_view path, const std::vector<DeviceRule>& rules) const {
  const Hierarchy* devices = of("devices");
  if (!devices) {
    const std::string folder = unified_folder(path);
    if (folder.empty())
      return failed_precondition("this host has no cgroup controller 'devices'; containers could use every device");
    return attach(folder, rules);
  }
  const std::string folder = devices->mount + std::string(path);
  const auto write_to = [&](const char* file, const std::string& value) -> Status {
    auto opened = files::open_at(AT_FDCWD, folder + file, O_WRONLY);
    if (!opened) return opened.status();
    if (write(opened->get(), value.data(), value.size()) < 0) {
      const int error = errno;
      return status_from_errno(error, "write '" + value + "' into " + folder + file);
    }
    return {};
  };
  if (Status status = write_to("/devices.deny", "a"); !status) return status;
  for (const DeviceRule& rule : rules) {
    const std::string kinds = rule.kind == 'a' ? "cb" : std::string(1, rule.kind);
    for (const char kind : kinds) {
      const std::string value = std::string(1, kind) + " " + number_or_star(rule.major) + ":" +
                                number_or_star(rule.minor) + " " + rule.access;
      if (Status status = write_to("/devices.allow", value); !status) return status;
    }
  }
  return {};
}

}  // namespace pintle::cgroup
