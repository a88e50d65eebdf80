#!/usr/bin/env bash
# dependencies.sh build|run|test|long...   installs the Debian 12 packages that are named below and missing. Sourced or run; needs root.
set -euo pipefail

# To build. Everything the product links is from Debian.
build_packages=(
  g++ cmake ninja-build ccache lld pkg-config git ca-certificates
  libboost1.81-dev libboost-filesystem1.81-dev libboost-json1.81-dev libboost-system1.81-dev
  libgrpc++-dev libprotobuf-dev libprotoc-dev protobuf-compiler protobuf-compiler-grpc
  libspdlog-dev libcli11-dev libssl-dev libyaml-dev libre2-dev libmnl-dev libnftnl-dev libarchive-dev libzstd-dev zlib1g-dev
  libseccomp-dev libcap-dev libsystemd-dev libelf-dev libsqlite3-dev libcurl4-openssl-dev libnghttp2-dev
  libgtest-dev libgmock-dev libbenchmark-dev
  busybox-static # the example image is made of it
)
# To run a node of the standalone profile.
run_packages=(curl python3 crun runc conmon iproute2 procps)
# To test: other runtimes, peers and tools that tests look through.
test_packages=(nftables iptables umoci skopeo jq curl file strace psmisc conntrack containerd containernetworking-plugins podman clang-14
  libclang-rt-14-dev clang-format-14 python3 python3-yaml docker-registry apache2-utils openssl socat zsh fish bash-completion)

# For the long run (tests/run.sh --all): the runtime that benchmarks compare with, and a virtual machine.
long_packages=(containerd containernetworking-plugins iptables gcc libc6-dev mmdebstrap qemu-system-x86 qemu-utils e2fsprogs)

install_packages() {
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  echo "Installing ${#missing[@]} Debian packages: ${missing[*]}"
  local log; log=$(mktemp)
  if ! { DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}" ||
         { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; }; } >"$log" 2>&1; then
    tail -20 "$log" >&2
    echo "error: apt-get could not install what is needed; see above" >&2
    return 1
  fi
  rm -f "$log"
}

for group in "$@"; do
  case $group in
    build) install_packages "${build_packages[@]}" ;;
    run) install_packages "${run_packages[@]}" ;;
    test) install_packages "${test_packages[@]}" ;;
    long) install_packages "${long_packages[@]}" ;;
    *) echo "usage: dependencies.sh build|run|test|long..." >&2; exit 2 ;;
  esac
done
