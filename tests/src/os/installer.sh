#!/bin/sh
# The installer: fetches its configuration, writes the system onto a disk with
# boot loader and configuration, reports, restarts. Kernel arguments:
#   stoker.config=URL  stoker.report=URL   as control sets them
#   stoker.disk=/dev/X    not the first disk
#   stoker.image=URL      a raw image (.xz, .gz or as it is), not the one in here
#   stoker.pause=SECONDS  stays that long with half an installation
who=stoker-installer
. /lib.sh

report_url=$(argument stoker.report)
fail() {
    say "FAILED: $1"
    [ -n "$report_url" ] && report "$report_url" install_failed "$1"
    while :; do sleep 3600; done
}

say "started, $(uname -r)"
network || fail "no address by DHCP"
config_url=$(argument stoker.config)
if [ -n "$config_url" ]; then
    tries=0
    until timeout 20 wget -q -O /config "$config_url"; do
        tries=$((tries + 1))
        [ $tries -lt 20 ] || fail "no configuration"
        sleep 3
    done
    say "configuration of $(wc -c </config) bytes, sha256 $(sha256sum /config | cut -d ' ' -f 1)"
fi

disk=$(argument stoker.disk)
disk=${disk:-/dev/$(disks | head -n 1)}
[ -b "$disk" ] || fail "there is no disk $disk"
image=$(argument stoker.image)
say "writing ${image:-the system} to $disk"
case $image in
    "") dd if=/disk.raw of="$disk" bs=1M conv=fsync 2>/dev/null ;;
    *.xz) wget -q -O - "$image" | xzcat | dd of="$disk" bs=1M conv=fsync 2>/dev/null ;;
    *.gz) wget -q -O - "$image" | zcat | dd of="$disk" bs=1M conv=fsync 2>/dev/null ;;
    *) wget -q -O - "$image" | dd of="$disk" bs=1M conv=fsync 2>/dev/null ;;
esac || fail "$disk cannot be written"
pause=$(argument stoker.pause)
if [ -n "$pause" ]; then
    say "pausing for $pause s"
    sleep "$pause"
fi

blockdev --rereadpt "$disk" 2>/dev/null
esp=${disk}2
case $disk in *[0-9]) esp=${disk}p2 ;; esac
tries=0
while [ ! -b "$esp" ] && [ $tries -lt 50 ]; do
    tries=$((tries + 1))
    sleep 0.1
done
mkdir -p /mnt
mount -t vfat "$esp" /mnt || fail "$esp cannot be mounted"
[ -e /config ] && cp /config /mnt/config
echo "set stoker_args=\"stoker.report=$report_url\"" >/mnt/grub/args.cfg
umount /mnt || fail "$esp cannot be unmounted"
sync

if [ -n "$report_url" ]; then
    report "$report_url" installed || fail "control does not know that the system is installed"
fi
say "installed; restarting"
reboot -f
