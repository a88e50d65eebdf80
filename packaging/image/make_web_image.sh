#!/bin/sh
# make_web_image.sh OUTPUT.tar: the example image pintle.local/web:latest as an OCI archive, made of this machine's busybox.
#
# It serves a page on port 8080 unless it is told another command, and has a shell and the usual small tools. Nothing is taken
# from a network, and the same busybox gives the same bytes: names are sorted, times and owners fixed.
set -eu
umask 022
LC_ALL=C
export LC_ALL

output=$1
busybox=$(command -v busybox) || { echo "make_web_image.sh: busybox is missing; install it (apt install busybox)" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
layout=$work/layout
mkdir -p "$root/bin" "$root/etc" "$root/www" "$root/home/web" "$root/tmp" "$root/var/log" "$root/proc" "$root/sys" "$root/dev" "$layout/blobs/sha256"
chmod 1777 "$root/tmp"

cp "$busybox" "$root/bin/busybox"
chmod 755 "$root/bin/busybox"
# A static busybox needs nothing more; a dynamic one its loader and libraries, where it looks for them.
for library in $(ldd "$busybox" 2>/dev/null | tr ' \t' '\n\n' | grep '^/' | sort -u); do
  mkdir -p "$root$(dirname "$library")"
  cp -L "$library" "$root$library"
  chmod 755 "$root$library"
done
for applet in $(busybox --list); do
  [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
done

printf 'root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000:web:/home/web:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' > "$root/etc/passwd"
printf 'root:x:0:\nweb:x:1000:\nnogroup:x:65534:\n' > "$root/etc/group"
cat > "$root/www/index.html" <<'PAGE'
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Pintle</title></head>
<body><h1>It hangs on a pintle.</h1><p>This page comes from a pod of the image pintle.local/web.</p></body></html>
PAGE

# The kernel keeps TERM from a first process that has no handler for it, and httpd has none: the shell has, so a pod ends at once.
cat > "$root/bin/serve" <<'SERVE'
#!/bin/sh
trap 'kill $server' TERM
httpd -f -p 8080 -h /www &
server=$!
wait $server
SERVE
chmod 755 "$root/bin/serve"

# A tar of the folder $1 that depends on nothing but names, modes and bytes.
pack() {
  tar --create --directory "$1" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --format=ustar .
}
digest() { sha256sum "$1" | cut -d ' ' -f 1; }
size() { stat --format %s "$1"; }
# Moves the file $1 among the blobs and prints its digest.
keep() {
  sum=$(digest "$1")
  mv "$1" "$layout/blobs/sha256/$sum"
  echo "$sum"
}

case $(uname -m) in
  x86_64) architecture=amd64 ;;
  aarch64) architecture=arm64 ;;
  *) architecture=$(uname -m) ;;
esac

pack "$root" > "$work/layer.tar"
diff_id=$(digest "$work/layer.tar")
gzip --no-name --best < "$work/layer.tar" > "$work/layer.tar.gz"
layer_size=$(size "$work/layer.tar.gz")
layer=$(keep "$work/layer.tar.gz")

cat > "$work/config.json" <<JSON
{"created":"1970-01-01T00:00:00Z","architecture":"$architecture","os":"linux","config":{"User":"1000:1000","ExposedPorts":{"8080/tcp":{}},"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Cmd":["/bin/serve"],"WorkingDir":"/home/web","StopSignal":"SIGTERM","Labels":{"org.opencontainers.image.title":"pintle.local/web","org.opencontainers.image.description":"a page on port 8080, and busybox"}},"rootfs":{"type":"layers","diff_ids":["sha256:$diff_id"]},"history":[{"created":"1970-01-01T00:00:00Z","created_by":"packaging/image/make_web_image.sh"}]}
JSON
config_size=$(size "$work/config.json")
config=$(keep "$work/config.json")

cat > "$work/manifest.json" <<JSON
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:$config","size":$config_size},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:$layer","size":$layer_size}]}
JSON
manifest_size=$(size "$work/manifest.json")
manifest=$(keep "$work/manifest.json")

printf '{"imageLayoutVersion":"1.0.0"}\n' > "$layout/oci-layout"
cat > "$layout/index.json" <<JSON
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:$manifest","size":$manifest_size,"platform":{"architecture":"$architecture","os":"linux"},"annotations":{"io.containerd.image.name":"pintle.local/web:latest","org.opencontainers.image.ref.name":"pintle.local/web:latest"}}]}
JSON
mkdir -p "$(dirname "$output")"
pack "$layout" > "$output.new"
mv "$output.new" "$output"
